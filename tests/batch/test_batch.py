"""Engines in batch jobs, from the command line, with a batch system made for tests."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ipclusterz as ipp
from ipclusterz.error import EngineError, LaunchError
from tests.batch.conftest import START, cancelled, profile, submitted
from tests.running import ROOT, Running, alive, eventually, kill, run

WAITS = "Slurm job 1 waits (Resources)"


def job_of_engine() -> str:
    return os.environ.get("SLURM_JOB_ID") or os.environ.get("PBS_JOBID", "")


@pytest.mark.parametrize(
    ("system", "jobs"),
    [("slurm", ["1", "1", "1", "1"]), ("pbs", ["1.pbs1", "1.pbs1", "1.pbs1", "1.pbs1"])],
)
def test_from_submission_to_results_and_back(
    system: str, jobs: list[str], batch: Path, ipython_dir: Path
) -> None:
    started = run(f"{START} -n 4 --engines={system} --queue=debug --walltime=10m")
    assert started.returncode == 0, started.stderr
    title = {"slurm": "Slurm", "pbs": "OpenPBS"}[system]
    assert f"{title} job {jobs[0]} was submitted" in started.stdout
    with ipp.Client() as rc:
        rc.wait_for_engines(4, timeout=30)
        assert rc.ids == [0, 1, 2, 3]
        assert rc[:].apply_sync(job_of_engine) == jobs
        assert rc.load_balanced_view().map_sync(lambda x: x * x, range(20)) == [
            x * x for x in range(20)
        ]
    text = f"{title} job {jobs[0]} runs on node1"  # its agent said so first, of its own host
    eventually(lambda: text in run("ipclusterz status").stdout)
    seen = json.loads(run("ipclusterz status -o json").stdout)
    assert seen["jobs"] == [{"id": jobs[0], "state": "running", "text": text}]
    assert [agent["job"] for agent in seen["agents"]] == [jobs[0]]
    stopped = run("ipclusterz stop")
    assert stopped.returncode == 0, stopped.stderr
    assert submitted(batch) == ["1"]
    assert list((profile(ipython_dir) / "jobs").iterdir()) == []


def test_an_engine_in_a_job_is_replaced(batch: Path) -> None:
    assert run(f"{START} -n 2 --wait=2 --engines=slurm --restart-engines=1").returncode == 0
    with ipp.Client() as rc:
        rc.wait_for_engines(2, timeout=20)
        os.kill(rc[0].apply_sync(os.getpid), signal.SIGKILL)
        assert rc.session.wait(lambda: rc.ids == [1, 2], 20)
        assert rc[2].apply_sync(job_of_engine) == "1"
    seen = json.loads(run("ipclusterz status -o json").stdout)
    assert "engine 2 replaces engine 0, which was lost" in seen["engines"][1]["origin"]
    assert run("ipclusterz stop").returncode == 0


def code(batch: Path, job: int) -> str:
    """The exit code of a job, '' while it has none."""
    path = batch / f"{job}.end"
    return path.read_text() if path.exists() else ""


def test_nothing_secret_is_in_what_the_batch_system_gets(
    batch: Path, ipython_dir: Path
) -> None:
    (batch / "hold").touch()
    assert run(f"{START} -n 2 --engines=slurm").returncode == 0
    key = json.loads(
        (profile(ipython_dir) / "security" / "ipcontroller-engine.json").read_text()
    )["exec_key"]
    (folder,) = (profile(ipython_dir) / "jobs").iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    handover = folder / "handover.json"
    assert key in handover.read_text()
    assert stat.S_IMODE(handover.stat().st_mode) == 0o600
    assert key not in (folder / "job.sh").read_text()
    assert key not in (batch / "1.job").read_text()
    assert not [text for text in (batch / "submitted").read_text().split() if key in text]


def test_a_job_that_waits_is_told_of_and_cancelled(batch: Path) -> None:
    (batch / "hold").touch()
    started = run(f"{START} -n 2 --engines=slurm")
    assert started.returncode == 0, started.stderr
    assert WAITS in started.stdout
    said = rf"after 3 s: 0 are\. {re.escape(WAITS)}$"
    with ipp.Client() as rc, pytest.raises(ipp.TimeoutError, match=said):
        rc.wait_for_engines(2, timeout=3)
    shown = run("ipclusterz status").stdout
    assert WAITS in shown and "no engines yet\n" in shown
    (batch / "2.job").write_text('{"script": "another user\'s"}')
    assert run("ipclusterz stop").returncode == 0
    assert cancelled(batch) == ["1"], "ours, and no other"


def test_waiting_for_engines_at_the_start(batch: Path) -> None:
    (batch / "hold").touch()
    start = Running(f"{START} -n 2 --engines=slurm --wait=2")
    start.until(r"waiting for engines, 0/2 are ready; Slurm job 1 waits \(Resources\)", 30)
    start.end(signal.SIGINT)
    assert cancelled(batch) == ["1"]
    (batch / "hold").unlink()
    started = run(f"{START} -n 2 --engines=slurm --wait=2")
    assert started.returncode == 0
    assert "2/2 engines" in started.stdout
    with ipp.Client() as rc:
        assert rc.ids == [0, 1]


@pytest.mark.parametrize(
    ("shape", "jobs"), [("array", 1), ("per-node", 2)], ids=["array", "per-node"]
)
def test_shapes(shape: str, jobs: int, batch: Path) -> None:
    """Three engines, two on a node: the last one gets what is left."""
    line = f"{START} -n 3 --engines=slurm --engines-per-node=2 --shape={shape} --wait=3"
    started = run(line)
    assert started.returncode == 0, started.stderr
    assert len(submitted(batch)) == jobs
    with ipp.Client() as rc:
        parents = rc[:].apply_sync(os.getppid)
    assert sorted(parents.count(parent) for parent in set(parents)) == [1, 2]


def test_engines_are_added_by_another_job_and_stopped_with_the_cluster(batch: Path) -> None:
    assert run(f"{START} -n 2 --engines=slurm --wait=2").returncode == 0
    added = run("ipclusterz engines -n 1 --wait=1")
    assert added.returncode == 0, added.stderr
    assert "Slurm job 2 was submitted" in added.stdout
    (batch / "hold").touch()
    assert run("ipclusterz engines -n 1").returncode == 0
    with ipp.Client() as rc:
        assert rc.ids == [0, 1, 2]
    assert run("ipclusterz stop").returncode == 0
    assert "3" in cancelled(batch), "the one that waits"
    eventually(lambda: (batch / "2.end").exists())


def test_a_job_that_is_cancelled_from_outside_takes_its_engines_along(batch: Path) -> None:
    (batch / "hold").touch()
    assert run(f"{START} -n 1 --engines=slurm").returncode == 0
    (batch / "hold").unlink()
    assert run("ipclusterz engines -n 1 --wait=1").returncode == 0
    with ipp.Client() as rc:
        rc.wait_for_engines(1, timeout=30)
        view = rc[0]
        running = view.apply_async(__import__("time").sleep, 600)
        eventually(lambda: rc.queue_status()[0]["queue"])
        subprocess.run(["scancel", "2"], check=True)
        with pytest.raises(EngineError, match="job 2 was ended by signal SIGTERM"):
            running.get(timeout=30)
        eventually(lambda: rc.ids == [])
    eventually(
        lambda: "Slurm job 2 has ended: it was" in run("ipclusterz status").stdout, timeout=30
    )


def test_a_signal_to_all_processes_of_a_job_is_its_end(batch: Path) -> None:
    """Engines die of it at once, and the agent hears of that before its own comes."""
    assert run(f"{START} -n 1 --engines=slurm --wait=1").returncode == 0
    with ipp.Client() as rc:
        engine = rc[0].apply_sync(os.getpid)
        running = rc[0].apply_async(__import__("time").sleep, 600)
        eventually(lambda: rc.queue_status()[0]["queue"])
        for pid in (engine, int((batch / "1.pid").read_text())):
            os.kill(pid, signal.SIGTERM)
        said = r"job 1 was ended by signal SIGTERM \(killed by signal SIGTERM\)"
        with pytest.raises(EngineError, match=said):
            running.get(timeout=30)


def test_a_job_that_dies_without_a_word_takes_its_engines_along(batch: Path) -> None:
    assert run(f"{START} -n 1 --engines=slurm --wait=1").returncode == 0
    with ipp.Client() as rc:
        kill(int((batch / "1.pid").read_text()))
        eventually(lambda: rc.ids == [], timeout=30)
    log = lambda: run("ipclusterz status").stdout  # noqa: E731
    eventually(lambda: "Slurm job 1 has ended: FAILED" in log(), timeout=30)


def test_a_warned_job_gives_back_what_it_has_not_begun(batch: Path) -> None:
    assert run(f"{START} -n 1 --engines=slurm --wait=1").returncode == 0
    with ipp.Client() as rc:
        view = rc.load_balanced_view()
        slow = view.apply_async(__import__("time").sleep, 1.5)
        eventually(lambda: rc.queue_status()[0]["tasks"])
        others = [view.apply_async(job_of_engine) for _ in range(5)]
        os.kill(int((batch / "1.pid").read_text()), signal.SIGUSR1)
        assert run("ipclusterz engines -n 1 --wait=1").returncode == 0
        assert slow.get(timeout=30) is None, "what runs is finished"
        assert [one.get(timeout=30) for one in others] == ["2"] * 5
        eventually(lambda: rc.ids == [1])
    eventually(lambda: code(batch, 1) == "0")


@pytest.fixture
def refused(batch: Path) -> Iterator[str]:
    """What a stop said whose batch system cancelled nothing; job 1 is in the queue still."""
    (batch / "hold").touch()
    assert run(f"{START} -n 2 --engines=slurm").returncode == 0
    (batch / "deaf").touch()
    (batch / "silent").touch()
    stopped = run("ipclusterz stop")
    assert stopped.returncode == 0
    yield stopped.stderr
    answers(batch)


def answers(batch: Path) -> None:
    for name in ("deaf", "silent"):
        (batch / name).unlink(missing_ok=True)


def test_jobs_that_cannot_be_cancelled_are_told_of(
    batch: Path, ipython_dir: Path, refused: str
) -> None:
    """With the command that does it later; what needs no batch system is gone."""
    assert "Slurm jobs 1 may go on: scancel: error: Unable to contact" in refused
    assert "cancel them when it answers: 'ipclusterz stop' again, or scancel 1" in refused
    log = (profile(ipython_dir) / "log" / "ipclusterz.log").read_text()
    assert "jobs 1 may go on: scancel 1: scancel: error: Unable to contact" in log
    assert list((profile(ipython_dir) / "jobs").iterdir()) == []


def test_jobs_that_were_not_cancelled_are_cancelled_by_the_next_stop(
    batch: Path, ipython_dir: Path, refused: str
) -> None:
    again = run("ipclusterz stop")
    assert again.returncode == 1 and "jobs 1 may go on" in again.stderr
    answers(batch)
    done = run("ipclusterz stop")
    assert done.returncode == 11 and "cancelled Slurm jobs 1" in done.stdout
    assert cancelled(batch) == ["1"]
    assert not (profile(ipython_dir) / "pid" / "cluster-.json").exists()


def test_the_next_cluster_takes_over_jobs_that_were_not_cancelled(
    batch: Path, ipython_dir: Path, refused: str
) -> None:
    started = run("ipclusterz start -n 1 --daemon")
    assert started.returncode == 0 and "jobs 1 may go on" in started.stderr
    answers(batch)
    assert run("ipclusterz stop").returncode == 0
    assert cancelled(batch) == ["1"]
    assert not (profile(ipython_dir) / "pid" / "cluster-.json").exists()


def test_clean_cancels_what_a_stop_could_not(
    batch: Path, ipython_dir: Path, refused: str
) -> None:
    assert run("ipclusterz clean").returncode != 0
    answers(batch)
    assert run("ipclusterz clean").returncode == 0
    assert cancelled(batch) == ["1"]
    assert not (profile(ipython_dir) / "pid" / "cluster-.json").exists()


def test_a_system_that_does_not_answer_for_a_while_ends_nothing(batch: Path) -> None:
    assert run(f"{START} -n 1 --engines=slurm --wait=1").returncode == 0
    (batch / "silent").touch()
    with ipp.Client() as rc:
        assert rc[0].apply_sync(job_of_engine) == "1"
    (batch / "silent").unlink()
    assert run("ipclusterz stop").returncode == 0
    assert (batch / "1.end").exists()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("reject", "Invalid partition name specified"),
        ("mute", "it printed no job id"),
    ],
)
def test_a_submission_that_fails_is_told_in_the_systems_words(
    fault: str, said: str, batch: Path, ipython_dir: Path
) -> None:
    (batch / fault).touch()
    started = run(f"{START} -n 2 --engines=slurm")
    assert started.returncode == 1
    assert said in started.stderr
    assert "by: sbatch --parsable /" in started.stderr
    assert not (profile(ipython_dir) / "pid" / "cluster-.json").exists()
    assert list((profile(ipython_dir) / "jobs").iterdir()) == []


def test_a_second_job_that_is_not_accepted_takes_the_first_back(
    batch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ipclusterz.launchers import batchjob

    submit = batchjob.BatchJob._submit

    def only_one(self: batchjob.BatchJob, made: batchjob.Submission) -> str:
        if self.ids:
            raise LaunchError("no more jobs for you")
        return submit(self, made)

    monkeypatch.setattr(batchjob.BatchJob, "_submit", only_one)
    (batch / "hold").touch()
    options = {"engines_per_node": 1, "shape": "per-node", "allow_loopback": True}
    with pytest.raises(LaunchError, match="no more jobs for you"):
        ipp.Cluster(2, engines="slurm", options=options).start_cluster_sync()
    assert (submitted(batch), cancelled(batch)) == (["1"], ["1"])


def test_a_first_job_that_cannot_be_taken_back_is_not_forgotten(
    batch: Path, ipython_dir: Path
) -> None:
    for name in ("hold", "full", "deaf"):
        (batch / name).touch()
    words = "--engines=slurm --engines-per-node=1 --shape=per-node"
    started = run(f"{START} -n 2 {words}")
    assert started.returncode == 1
    assert "Invalid partition name" in started.stderr and "jobs 1 may go on" in started.stderr
    (batch / "deaf").unlink()
    run("ipclusterz stop")
    assert cancelled(batch) == ["1"]


def test_a_submission_that_fails_although_it_names_a_job(batch: Path) -> None:
    for name in ("hold", "complains"):
        (batch / name).touch()
    started = run(f"{START} -n 2 --engines=slurm")
    assert started.returncode == 1
    said = "failed (exit code 3) although it named the job 1, which is cancelled"
    assert said in started.stderr
    assert "accounting could not be told" in started.stderr
    assert cancelled(batch) == ["1"]


def test_a_submission_that_hangs_is_ended(batch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ipclusterz.launchers import systems

    monkeypatch.setattr(systems, "SECONDS", 1.0)
    (batch / "hang").touch()
    cluster = ipp.Cluster(2, engines="slurm", options={"allow_loopback": True})
    with pytest.raises(LaunchError, match=r"sbatch .* does not end, it was killed after 1 s"):
        cluster.start_cluster_sync()
    assert not cluster.running


def test_a_job_whose_submission_was_killed_is_cancelled(
    batch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ipclusterz.launchers import systems

    monkeypatch.setattr(systems, "SECONDS", 1.0)
    (batch / "hold").touch()
    (batch / "lingers").touch()
    cluster = ipp.Cluster(2, engines="slurm", options={"allow_loopback": True})
    with pytest.raises(LaunchError, match="it was killed after 1 s; it said: 1"):
        cluster.start_cluster_sync()
    assert cancelled(batch) == ["1"]


def test_ctrl_c_while_a_job_is_submitted(batch: Path) -> None:
    """The job is accepted already, and its name is on the way."""
    (batch / "hold").touch()
    (batch / "late").touch()
    start = Running(f"{START} -n 2 --engines=slurm --foreground")
    eventually((batch / "1.job").exists)
    assert start.end(signal.SIGINT) == 130
    assert cancelled(batch) == ["1"]


def test_a_command_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    started = run(f"{START} -n 2 --engines=htcondor")
    assert started.returncode == 1
    assert "there is no command 'condor_submit' on this host" in started.stderr


def test_a_controller_on_loopback_is_refused_before_anything_is_queued(batch: Path) -> None:
    started = run("ipclusterz start -n 2 --engines=slurm")
    assert started.returncode == 1
    assert "which no other host reaches" in started.stderr
    assert "nothing was submitted" in started.stderr
    assert submitted(batch) == []


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("--engines=slurm", 2, "-n is missing"),
        ("-n 2 --engines=slurm --shape=round", 2, "shape is 'round': choose from one, array"),
        ("-n 2 --engines=slurm --walltime=90", 2, "walltime is '90'"),
        ("-n 2 --engines=slurm --engines-per-node=-1", 2, "must not be negative"),
        ("-n 2 --engines=slurm --batch-template=/none", 2, "cannot read the template /none"),
        ("-n 4 --engines=sge --shape=one --engines-per-node=2", 2, "use --shape=array"),
        ("-n 2 --queue=long", 2, "it goes with --engines=pbs, --engines=slurm"),
    ],
)
def test_mistakes_are_told_before_anything_starts(
    line: str, code: int, said: str, ipython_dir: Path
) -> None:
    done = run(f"ipclusterz start {line}")
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert not (profile(ipython_dir) / "security" / "ipcontroller-client.json").exists()


def test_a_killed_launchers_jobs_are_cancelled_by_stop(batch: Path, ipython_dir: Path) -> None:
    (batch / "hold").touch()
    assert run(f"{START} -n 2 --engines=slurm").returncode == 0
    state = json.loads((profile(ipython_dir) / "pid" / "cluster-.json").read_text())
    kill(state["launcher"]["pid"])
    run("ipclusterz stop")
    assert cancelled(batch) == ["1"]


def test_a_killed_controllers_jobs_find_the_next_one(batch: Path, ipython_dir: Path) -> None:
    """With ``-r`` a controller's death costs nobody a place in the queue."""
    assert run(f"{START} -r -n 1 --wait=1 --engines=slurm").returncode == 0
    state = json.loads((profile(ipython_dir) / "pid" / "cluster-.json").read_text())
    with ipp.Client() as rc:
        slow = rc.load_balanced_view().apply_async(__import__("time").sleep, 2)
        eventually(lambda: rc.queue_status()[0]["tasks"])
        kill(state["controller"]["pid"])
        eventually(lambda: not alive(state["launcher"]["pid"]))
        log = (profile(ipython_dir) / "log" / "ipclusterz.log").read_text()
        assert "was killed by SIGKILL" in log
        said = "Slurm 1 will find the next controller: ipcontrollerz -r; or cancel what is left"
        assert said in log
        (batch / "hold").touch()
        assert run(f"{START} -r -n 1 --engines=slurm").returncode == 0
        rc.wait_for_engines(1, timeout=30)
        assert slow.get(timeout=30) is None
        assert rc[:].apply_sync(job_of_engine) == ["1"]
        both = {"Slurm job 1 runs on node1", "Slurm job 2 waits (Resources)"}
        eventually(lambda: both <= set(run("ipclusterz status").stdout.splitlines()))
    assert (submitted(batch), cancelled(batch)) == (["1", "2"], [])
    assert run("ipclusterz stop").returncode == 0
    assert sorted(cancelled(batch)) == ["1", "2"]
    assert list((profile(ipython_dir) / "jobs").iterdir()) == []


def test_clean_cancels_what_a_killed_launcher_submitted(batch: Path, ipython_dir: Path) -> None:
    (batch / "hold").touch()
    assert run(f"{START} -n 2 --engines=slurm").returncode == 0
    state = json.loads((profile(ipython_dir) / "pid" / "cluster-.json").read_text())
    kill(state["launcher"]["pid"])
    eventually(lambda: not alive(state["controller"]["pid"]))
    shown = run("ipclusterz clean --dry-run")
    assert "batch jobs Slurm 1: " in shown.stdout and cancelled(batch) == []
    cleaned = run("ipclusterz clean")
    assert cleaned.returncode == 0, cleaned.stderr
    assert cancelled(batch) == ["1"]
    assert list((profile(ipython_dir) / "jobs").iterdir()) == []


def test_from_python(batch: Path) -> None:
    options = {"allow_loopback": True, "wait": 2}
    with ipp.Cluster(2, engines="slurm", options=options) as rc:
        assert rc[:].apply_sync(job_of_engine) == ["1", "1"]
    assert (batch / "1.end").exists()


def test_engines_that_never_come_are_told_of(batch: Path) -> None:
    started = run(f"{START} -n 1 --engines=slurm --wait=1 --setup='exit 3'".replace("'", ""))
    assert started.returncode == 2, "a setup of two words needs quotes"
    options = {"allow_loopback": True, "wait": 1, "setup": ["exit 3"]}
    cluster = ipp.Cluster(1, engines="slurm", options=options)
    with pytest.raises(LaunchError, match=r"Slurm job 1 has ended: FAILED, exit code 3"):
        cluster.start_cluster_sync()
    assert not cluster.running


def test_engines_know_when_their_job_ends(batch: Path) -> None:
    """Nothing warns them here but the clock."""
    line = f"{START} -n 1 --engines=slurm --wait=1 --walltime=6s --drain=4"
    assert run(line).returncode == 0
    with ipp.Client() as rc:
        slow = rc[0].apply_async(__import__("time").sleep, 3)
        eventually(lambda: rc.ids == [], timeout=30)
        assert slow.get(timeout=10) is None
        ((engine, reason),) = rc.session.connection.query("departed")
    assert engine == 0 and reason.startswith("job 1 reaches its walltime in 3 s")
    eventually(lambda: code(batch, 1) == "0")


def test_a_job_whose_cluster_was_stopped_says_so(batch: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-P", str(ROOT / "ipclusterz" / "apps" / "launched.py")]
    done = subprocess.run(
        [*command, "engine", f"--from={tmp_path}"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 1
    assert f"{tmp_path}/handover.json is not there (any more): the cluster" in done.stdout


def test_a_signal_goes_by_the_systems_command(batch: Path) -> None:
    cluster = ipp.Cluster(1, engines="slurm", options={"allow_loopback": True, "wait": 1})
    cluster.start_cluster_sync()
    try:
        (made,) = cluster.engine_sets.values()
        made.job.signal(signal.SIGUSR1)
        eventually(lambda: made.job.poll().ended, timeout=30)
        assert made.job.poll().text == "Slurm job 1 has ended: COMPLETED"
    finally:
        cluster.stop_cluster_sync()
