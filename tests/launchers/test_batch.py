"""Scripts of batch jobs: what is in them for each shape, and what templates must hold."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from ipclusterz.core.template import TemplateError
from ipclusterz.error import LaunchError
from ipclusterz.launchers import asker as asking
from ipclusterz.launchers import batchjob, sge
from ipclusterz.launchers.asker import Asker
from ipclusterz.launchers.base import BUILT_IN, LaunchSpec, get_launcher
from ipclusterz.launchers.batch import BatchLauncher, BatchOptions
from ipclusterz.launchers.batchjob import BatchJob, check_reachable
from ipclusterz.launchers.htcondor import HTCondorLauncher
from ipclusterz.launchers.lsf import LSFLauncher
from ipclusterz.launchers.pbs import OPENPBS, TORQUE, WRAPPERS, PBSLauncher
from ipclusterz.launchers.sge import SGELauncher
from ipclusterz.launchers.slurm import SYSTEM, SlurmLauncher
from ipclusterz.launchers.systems import (
    ENDED,
    PENDING,
    RUNNING,
    Answer,
    News,
    Silent,
    System,
)
from tests.running import eventually

BATCH = ["pbs", "slurm", "sge", "lsf", "htcondor"]


def spec(n: int = 4, folder: str = "/home/me/profile/jobs/e1") -> LaunchSpec:
    return LaunchSpec(
        argv=("python", "agent"),
        name="the engines",
        cwd="/home/me/my work",
        stdin='{"config": {}}\n',
        n=n,
        folder=folder,
        label="ipenginez-e1",
        profile_dir="/home/me/profile",
        cluster_id="night",
        log_dir="/home/me/log",
    )


def slurm(**options: Any) -> SlurmLauncher:
    return SlurmLauncher(BatchOptions(**options))


def scripts(launcher: BatchLauncher, n: int = 4) -> list[str]:
    planned = launcher.plan(spec(n), launcher.SYSTEM)
    return [text for made in planned for path, text in made.files if path.endswith(".sh")]


def test_the_script_that_nobody_needs_to_write() -> None:
    (text,) = scripts(
        slurm(queue="debug", setup=["module load gcc", "umask 077"], directive=["--mem=8G"])
    )
    lines = text.splitlines()
    assert lines[0] == "#!/bin/sh"
    assert {"#SBATCH --partition=debug", "#SBATCH --mem=8G"} < set(lines)
    assert lines[-4:-1] == ["module load gcc", "umask 077", "cd '/home/me/my work' || exit 1"]
    assert lines[-1].startswith(f"exec {sys.executable} -P /")
    assert lines[-1].endswith(
        "engine --from=/home/me/profile/jobs/e1 >>/home/me/log/ipenginez-e1.out 2>&1"
    )
    program = lines[-1].split()[3]
    assert os.path.isfile(program) and os.path.isabs(program)


def test_a_mark_that_a_user_wrote_is_not_doubled() -> None:
    (text,) = scripts(slurm(directive=["#SBATCH --mem=8G"]))
    assert text.count("#SBATCH --mem=8G\n") == 1 and "#SBATCH #SBATCH" not in text


@pytest.mark.parametrize(
    ("options", "n", "ends"),
    [
        ({}, 4, ["e1 >>"]),
        ({"engines_per_node": 8}, 4, ["e1 >>"]),
        ({"engines_per_node": 2}, 4, ["--part=$SLURM_ARRAY_TASK_ID --first=0"]),
        ({"engines_per_node": 2, "shape": "per-node"}, 5, ["part=0", "part=1", "part=2"]),
        ({"engines_per_node": 2, "shape": "one"}, 4, ["--part=$SLURM_NODEID'"]),
        ({"shape": "array"}, 4, ["e1 >>"]),
    ],
)
def test_shapes(options: dict[str, Any], n: int, ends: list[str]) -> None:
    made = scripts(slurm(**options), n)
    assert [end in text for text, end in zip(made, ends, strict=True)] == [True] * len(ends)


def test_the_numbers_in_a_template(tmp_path: Path) -> None:
    template = tmp_path / "t"
    template.write_text(
        "${n} ${nodes} ${engines_per_node} ${slots} $cluster_id $profile_dir $x"
    )
    launcher = slurm(
        batch_template=str(template), engines_per_node=4, shape="one", define={"x": "mine"}
    )
    assert scripts(launcher, 8) == ["#!/bin/sh\n8 2 4 4 night /home/me/profile mine"]


@pytest.mark.parametrize(
    ("template", "options", "message"),
    [
        ("sleep 1", {"queue": "q"}, r"has no \$\{queue\}, so --queue would have no effect"),
        ("sleep 1", {"walltime": "1h"}, r"has no \$\{walltime\}"),
        ("sleep 1", {"setup": ["x"]}, r"has no \$\{setup\}"),
        ("${queue}", {"queue": "q", "directive": ["x"]}, r"has no \$\{directives\}"),
        ("sleep 1", {"define": {"mine": "1"}}, r"has no \$\{mine\}"),
        ("sleep 1", {"engines_per_node": 2}, r"makes a job an array: .*--shape=per-node"),
        ("${queue}", {}, r"t, line 1: \$\{queue\} has no value: give --queue"),
        ("a\n${qeue}", {}, r"t, line 2: there is no name 'qeue'"),
    ],
)
def test_a_template_that_leaves_out_what_was_asked_for(
    template: str, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "t"
    path.write_text(template)
    with pytest.raises(TemplateError, match=message):
        scripts(slurm(batch_template=str(path), **options))


def test_only_a_script_that_becomes_the_agent_is_warned_by_a_signal(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("${directives}\nsrun ${engine_command}")
    own = scripts(slurm(walltime="1h", batch_template=str(tmp_path / "t")))
    assert ["--signal" in text for text in own] == [False]
    assert [
        "#SBATCH --signal=B:USR1@60\n" in text for text in scripts(slurm(walltime="1h"))
    ] == [True]


@pytest.mark.parametrize(
    ("launcher", "first"),
    [(SlurmLauncher, "#!/bin/sh\n"), (HTCondorLauncher, "#!/bin/sh\n"), (LSFLauncher, "")],
)
def test_a_template_gets_the_first_line_that_its_system_insists_on(
    launcher: type[BatchLauncher], first: str, tmp_path: Path
) -> None:
    """The original document's has none, and PBS wants none."""
    template = tmp_path / "t"
    template.write_text("#PBS -N x\nsleep $n\n")
    options = BatchOptions(batch_template=str(template))
    assert scripts(launcher(options)) == [f"{first}#PBS -N x\nsleep 4\n"]
    assert (OPENPBS.first_line, TORQUE.first_line) == ("", "")
    assert WRAPPERS.first_line == "#!/bin/sh"
    template.write_text("#!/bin/bash\nsleep $n\n")
    assert scripts(launcher(options)) == ["#!/bin/bash\nsleep 4\n"]


@pytest.mark.parametrize("late", ["${directives}", "#SBATCH --partition=$queue"])
@pytest.mark.parametrize("command", ["set -e", "  module load gcc", "${setup}"])
def test_directives_below_a_command_are_refused(
    late: str, command: str, tmp_path: Path
) -> None:
    """Nobody would notice that the job has neither queue nor walltime."""
    path = tmp_path / "t"
    path.write_text(f"#!/bin/sh\n# a comment\n\n{command}\n{late}\n$engine_command\n")
    options = BatchOptions(batch_template=str(path), queue="long", setup=["set -u"] * 2)
    if "setup" not in command:
        options.setup = []
    with pytest.raises(TemplateError, match=r"t, line 5: Slurm reads no .* in line 4, so"):
        scripts(SlurmLauncher(options))
    found = scripts(SGELauncher(options))
    assert len(found) == 1, "its qsub looks at all lines"
    path.write_text(f"#!/bin/sh\n# a comment\n\n{late}\n{command}\n$engine_command\n")
    assert "#SBATCH --partition=long" in scripts(SlurmLauncher(options))[0]


def test_what_an_editor_puts_before_a_template_is_left_out(tmp_path: Path) -> None:
    """Slurm would take the line for a command, and what follows for no directives."""
    path = tmp_path / "t"
    path.write_bytes("\ufeff#!/bin/bash\r\n${directives}\r\n$engine_command\r\n".encode())
    text = scripts(slurm(batch_template=str(path)))[0]
    assert text.startswith("#!/bin/bash\n#SBATCH ") and "\r" not in text


def test_a_template_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(b"\xff\xfe")
    with pytest.raises(TemplateError, match="it is no UTF-8 text"):
        scripts(slurm(batch_template=str(tmp_path / "t")))
    with pytest.raises(TemplateError, match="No such file"):
        scripts(slurm(batch_template=str(tmp_path / "none")))


def test_lsf_gets_the_script_on_its_standard_input() -> None:
    (made,) = LSFLauncher(BatchOptions()).plan(spec(), LSFLauncher.SYSTEM)
    assert made.words == ("bsub",)
    assert made.stdin == "/home/me/profile/jobs/e1/job.sh"
    assert made.shown() == "bsub < /home/me/profile/jobs/e1/job.sh"


def test_htcondor_gets_a_description_beside_the_script() -> None:
    launcher = HTCondorLauncher(
        BatchOptions(engines_per_node=2, directive=["request_memory = 8GB"])
    )
    (made,) = launcher.plan(spec(6), HTCondorLauncher.SYSTEM)
    assert made.words[-1] == "/home/me/profile/jobs/e1/job.sub"
    (_, description), (_, script) = made.files
    lines = description.splitlines()
    assert {
        "executable = /home/me/profile/jobs/e1/job.sh",
        'environment = "IPCLUSTERZ_JOB=$(Cluster).$(Process)"',
        "arguments = $(Process)",
        "request_memory = 8GB",
        "request_cpus = 2",
        "queue 3",
    } < set(lines)
    assert "--part=$1 --first=0" in script and "request_memory" not in script


@pytest.mark.parametrize("mode", BATCH)
def test_every_batch_launcher_can_be_previewed(mode: str) -> None:
    launcher = get_launcher(mode, {"engines_per_node": 2, "walltime": "1h", "queue": "long"})
    shown = launcher.preview(spec())  # type: ignore[attr-defined]
    assert "exec " in shown and "\n$ " in shown
    assert mode in BUILT_IN


@pytest.mark.parametrize(
    "options", [{"queue": "a b"}, {"account": "a\tb"}, {"job_name": "x y"}]
)
def test_no_spaces_get_into_directives(options: dict[str, str]) -> None:
    with pytest.raises(LaunchError, match="no spaces may be in it"):
        slurm(**options)


@pytest.mark.parametrize(
    ("connector", "reachable"),
    [
        ('{"url": "tcp://10.0.0.5:1234"}', True),
        ('{"url": "tcp://127.0.0.1:1234", "ssh": "me@gate"}', True),
        ('{"url": "tcp://127.0.0.1:1234"}', False),
        ('{"url": "ipc:///run/x"}', False),
    ],
)
def test_only_a_controller_that_can_be_reached_gets_engines_in_jobs(
    connector: str, reachable: bool
) -> None:
    if reachable:
        check_reachable(connector)
        return
    with pytest.raises(LaunchError, match=r"no other host reaches.*--ip=ADDRESS"):
        check_reachable(connector)


class Quiet(Asker):
    """Asks nobody, so that tests say what the system answers."""

    def add(self, job: BatchJob) -> None:
        pass


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> BatchJob:
    quiet = Quiet(SYSTEM)
    monkeypatch.setattr(batchjob, "asker", lambda system: quiet)
    made = slurm().start(spec())
    made.ids = ["7"]
    return made


def told(job: BatchJob) -> list[tuple[str, str]]:
    return [(event["job"], event["state"]) for event in job.events()]


def test_a_new_job_may_be_unknown_for_a_moment(job: BatchJob) -> None:
    job.take({})
    job.take({})
    assert not job.poll().ended
    job.take({"7": News(PENDING, "Priority")})
    assert told(job) == [("7", "pending")]
    job.take({"7": News(PENDING, "Priority"), "8": News(RUNNING)})
    assert told(job) == [], "nothing new, and another's job"


def test_a_job_that_was_never_known_is_gone(
    job: BatchJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batchjob, "command", lambda words: Answer(1, "", "Invalid job id"))
    for _ in range(3):
        job.take({})
    assert job.poll().code == 1, "no engine ever came"
    assert "does not know it any more" in job.poll().text


def test_a_job_that_is_no_longer_known_tells_its_end_by_another_command(
    job: BatchJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def command(words: list[str]) -> Answer:
        asked.append(words)
        return Answer(0, "JobId=7 JobState=TIMEOUT Reason=TimeLimit ExitCode=0:1 NodeList=n1\n")

    monkeypatch.setattr(batchjob, "command", command)
    job.take({"7": News(RUNNING, nodes="n1")})
    job.take({})
    assert asked == [["scontrol", "show", "job", "7"]]
    assert told(job) == [("7", "running"), ("7", "ended")]
    assert "Slurm job 7 has ended: it reached its time limit (TIMEOUT)" in job.poll().text


def test_that_another_job_has_ended_already_is_no_refusal(
    job: BatchJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it take time from the one that is ending."""
    waited: list[float] = []
    answer = Answer(255, "Job <8> is being terminated", "Job <7>: Job has already finished")
    monkeypatch.setattr(batchjob, "command", lambda words: answer)
    monkeypatch.setattr(job, "wait", lambda seconds: waited.append(seconds))
    job.ids = ["7", "8"]
    assert (job.stop(10.0).code, waited) == (0, [10.0])


def test_how_the_parts_of_a_pbs_array_ended_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The array as a whole ends with 0, whatever became of its parts."""
    asked: list[list[str]] = []

    def command(words: list[str]) -> Answer:
        asked.append(words)
        records = [("12[].pbs1", 0), ("12[0].pbs1", 0), ("12[1].pbs1", -29)]
        told = [
            f"Job Id: {id}\n    job_state = X\n    Exit_status = {n}\n" for id, n in records
        ]
        return Answer(0, "\n".join(told))

    monkeypatch.setattr(batchjob, "command", command)
    monkeypatch.setattr(batchjob, "asker", lambda system: Quiet(OPENPBS))
    made = BatchJob(OPENPBS, spec(), BatchOptions(), 0, [])
    made.ids = ["12[].pbs1"]
    made.take({"12[0].pbs1": News(RUNNING), "12[1].pbs1": News(RUNNING)})
    made.take({})
    assert asked == [["qstat", "-x", "-f", "-t", "12[].pbs1"]]
    assert told(made)[2:] == [("12[0].pbs1", "ended"), ("12[1].pbs1", "ended")]
    assert "12[1].pbs1 has ended: it reached its walltime" in made.poll().text
    assert OPENPBS.questions("5.pbs1") == ["qstat", "-x", "-f", "5.pbs1"]


def test_the_exit_code_of_what_ended_is_asked_for_once(
    job: BatchJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def command(words: list[str]) -> Answer:
        asked.append(words)
        return Answer(0, "JobId=7 JobState=FAILED Reason=NonZeroExitCode ExitCode=3:0\n")

    monkeypatch.setattr(batchjob, "command", command)
    job.take({"7": News(ENDED, "FAILED")})
    job.take({"7": News(ENDED, "FAILED")})
    assert asked == [["scontrol", "show", "job", "7"]]
    assert job.poll().text == "Slurm job 7 has ended: FAILED, exit code 3"
    assert job.poll().code == 3


def test_a_folder_with_a_space_is_no_end_of_a_directive() -> None:
    launcher = slurm()
    (made,) = launcher.plan(replace(spec(), log_dir="/home/a b/50%"), SYSTEM)
    assert '#SBATCH --output="/home/a b/50%%/ipenginez-e1.job"\n' in made.files[0][1]


SPACED = replace(spec(folder="/home/a b/jobs/e1"), log_dir="/home/a b/log")
OUTPUT = "/home/a b/log/ipenginez-e1.job"


@pytest.mark.parametrize(
    ("launcher", "system", "line"),
    [
        (PBSLauncher, OPENPBS, f'#PBS -o "{OUTPUT}"'),
        (SGELauncher, SGELauncher.SYSTEM, f'#$ -o "{OUTPUT}"'),
        (LSFLauncher, LSFLauncher.SYSTEM, f'#BSUB -o "{OUTPUT}"'),
        (SlurmLauncher, SYSTEM, f'#SBATCH --output="{OUTPUT}"'),
    ],
)
def test_paths_with_spaces_are_quoted_in_directives(
    launcher: type[BatchLauncher], system: System, line: str
) -> None:
    (made,) = launcher().plan(SPACED, system)
    assert line in made.files[0][1].splitlines()
    (made,) = launcher().plan(spec(), system)
    plain = line.replace('"', "").replace("/home/a b/log", "/home/me/log")
    assert plain in made.files[0][1].splitlines()


def test_a_description_has_paths_as_they_are() -> None:
    (made,) = HTCondorLauncher().plan(SPACED, HTCondorLauncher.SYSTEM)
    (_, description), (_, script) = made.files
    assert {
        "executable = /home/a b/jobs/e1/job.sh",
        f"output = {OUTPUT}",
        f"error = {OUTPUT}",
        f"log = {OUTPUT}.events",
    } < set(description.splitlines())
    assert ">>'/home/a b/log/ipenginez-e1.out'" in script
    odd = replace(SPACED, log_dir="/home/$(HOME)")
    (made,) = HTCondorLauncher().plan(odd, HTCondorLauncher.SYSTEM)
    assert "output = /home/$(DOLLAR)(HOME)/ipenginez-e1.job\n" in made.files[0][1]


@pytest.mark.parametrize(
    ("launcher", "system", "folder", "no"),
    [
        (PBSLauncher, TORQUE, "/home/a b", "space"),
        (PBSLauncher, OPENPBS, '/home/"a', "'\"'"),
        (SGELauncher, SGELauncher.SYSTEM, "/home/ada's", '"\'"'),
        (LSFLauncher, LSFLauncher.SYSTEM, '/home/"a', "'\"'"),
        (SlurmLauncher, SYSTEM, "/home/a\nb", r"'\\n'"),
        (HTCondorLauncher, HTCondorLauncher.SYSTEM, "/home/a\nb", r"'\\n'"),
    ],
)
def test_a_path_that_a_system_cannot_take_is_named(
    launcher: type[BatchLauncher], system: System, folder: str, no: str
) -> None:
    odd = replace(spec(), log_dir=folder)
    with pytest.raises(
        LaunchError, match=f"(?s){system.name} cannot .* it takes no {no} in"
    ) as got:
        launcher().plan(odd, system)
    assert f"{folder}/ipenginez-e1.job" in str(got.value)


def test_slurms_own_qsub_is_told_no_path() -> None:
    (made,) = PBSLauncher().plan(replace(spec(), log_dir='/home/"a b"'), WRAPPERS)
    assert not [x for x in made.files[0][1].splitlines() if x.startswith("#PBS -o")]


def test_a_part_that_is_no_longer_told_of_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Grid Engine and HTCondor leave it out while others run."""
    asked: list[list[str]] = []

    def command(words: list[str]) -> Answer:
        asked.append(words)
        return Answer(0, f"{'=' * 9}\njobnumber    6\ntaskid       1\nexit_status  3\n")

    monkeypatch.setattr(batchjob, "command", command)
    monkeypatch.setattr(batchjob, "asker", lambda system: Quiet(sge.SYSTEM))
    made = BatchJob(sge.SYSTEM, spec(), BatchOptions(), 0, [])
    made.ids = ["6"]
    made.take({"6.1": News(RUNNING), "6.2": News(RUNNING), "6.3": News(PENDING)})
    told(made)
    made.take({"6.2": News(RUNNING)})
    made.take({"6.1": News(RUNNING), "6.2": News(RUNNING)})
    assert told(made) == [] and asked == [], "it may have been overlooked"
    for _ in range(3):
        made.take({"6.2": News(RUNNING)})
    made.take({"6.2": News(RUNNING)})
    assert told(made) == [("6.3", "ended"), ("6.1", "ended")]
    assert asked == [["qacct", "-j", "6"]] * 2, "once for each time that some have gone"
    assert made.news["6.1"] == News(ENDED, "exit code 3", code=3)
    assert "how it ended was not kept" in made.news["6.3"].text
    assert not made.poll().ended


def test_an_array_has_ended_when_all_its_parts_have(job: BatchJob) -> None:
    job.take({"7_0": News(RUNNING), "7_1": News(PENDING, "Resources")})
    job.take({"7_0": News(ENDED, "COMPLETED", code=0), "7_1": News(RUNNING)})
    assert not job.poll().ended
    job.take({"7_0": News(ENDED, "COMPLETED", code=0), "7_1": News(ENDED, "FAILED", code=3)})
    assert job.poll().code == 3


def test_an_agent_that_begins_is_proof_that_its_job_runs(job: BatchJob) -> None:
    job.take({"7": News(PENDING, "Priority")})
    job._begun("8", "n1")
    assert told(job) == [("7", "pending")], "another's"
    job._begun("7", "n1")
    assert job.news == {"7": News(RUNNING, nodes="n1")}
    job.take({"7": News(RUNNING, nodes="n1")})
    assert told(job) == [("7", "running")]
    job.take({"7": News(ENDED, "COMPLETED", code=0)})
    job._begun("7", "n1")
    assert job.poll().ended


def test_silence_is_told_but_ends_nothing(
    job: BatchJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(batchjob.time, "monotonic", lambda: now[0])
    for _ in range(8):
        job.silent("Unable to contact slurm controller")
        now[0] += 10
    assert [event["event"] for event in job.events()] == ["waiting", "waiting"]
    assert not job.poll().ended


def test_one_question_is_for_all_jobs_and_comes_ever_more_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asker = Asker(OPENPBS)
    asked: list[list[str]] = []

    def command(words: list[str]) -> Answer:
        asked.append(words)
        return Answer(
            0, "Job Id: 5.pbs1\n    job_state = Q\nJob Id: 6.pbs1\n    job_state = R\n"
        )

    monkeypatch.setattr(asking, "command", command)
    jobs = [slurm().start(spec()) for _ in range(2)]
    jobs[0].ids, jobs[1].ids = ["5.pbs1"], ["6.pbs1"]
    assert asker._ask(jobs) is True
    assert asked == [["qstat", "-f", "5.pbs1", "6.pbs1"]]
    assert asker._ask(jobs) is False, "nothing has changed"
    assert [job.calm for job in jobs] == [batchjob.PENDING_SECONDS, batchjob.RUNNING_SECONDS]

    def silent(words: list[str]) -> Answer:
        raise Silent("no answer")

    monkeypatch.setattr(asking, "command", silent)
    assert asker._ask(jobs) is False
    assert not any(job.poll().ended for job in jobs)


def test_a_question_that_could_not_be_asked_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanting = [OSError(errno.EMFILE, "Too many open files"), ValueError("no such answer")]
    heard: list[str] = []

    def command(words: list[str]) -> Answer:
        if wanting:
            raise wanting.pop(0)
        return Answer(0, "Job Id: 5.pbs1\n    job_state = R\n")

    monkeypatch.setattr(asking, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(asking, "command", command)
    monkeypatch.setattr(BatchJob, "silent", lambda job, text: heard.append(text))
    job = slurm().start(spec())
    job.ids = ["5.pbs1"]
    asker = Asker(OPENPBS)
    asker.add(job)
    try:
        eventually(lambda: job.news, what=f"asked no more, after {heard}")
    finally:
        asker.remove(job)
    assert job.news == {"5.pbs1": News(RUNNING)}
    assert heard == ["[Errno 24] Too many open files", "ValueError: no such answer"]


def test_news_that_raise_another_question_which_cannot_be_asked_are_no_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def take(job: BatchJob, news: dict[str, News]) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(asking, "command", lambda words: Answer(0, ""))
    monkeypatch.setattr(BatchJob, "take", take)
    assert Asker(OPENPBS)._ask([slurm().start(spec())]) is False
