"""Controllers in batch jobs (``--controller=slurm``), with a batch system made for tests."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ipclusterz as ipp
from ipclusterz.cluster import ControllerSettings, queued
from ipclusterz.cluster.deployment import Plan
from ipclusterz.error import ClusterError, ControllerLost, LaunchError
from ipclusterz.paths import ProfileDir
from tests.batch.conftest import START, cancelled, profile, submitted
from tests.running import ROOT, Running, alive, eventually, kill, run

BOTH = "--controller=slurm --engines=slurm"
WAITS = "Slurm job 1 (the controller) waits (Resources)"
OPTIONS = {"allow_loopback": True}


def job_of_engine() -> str:
    return os.environ["SLURM_JOB_ID"]


def state(ipython_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (profile(ipython_dir) / "pid" / "cluster-.json").read_text()
    )
    return found


def release(batch: Path, *numbers: int) -> None:
    """Let jobs that wait in the queue run, and those that come from now on."""
    (batch / "hold").unlink(missing_ok=True)
    command = [sys.executable, str(ROOT / "tests" / "launchers" / "fakebatch.py")]
    for number in numbers:
        with (batch / f"{number}.out").open("ab") as out:
            subprocess.Popen(
                [*command, "run", str(number)], stdout=out, stderr=out, start_new_session=True
            )
        eventually((batch / f"{number}.pid").exists)


class Waiting:
    """A client in a process of its own, which prints its engines' answers."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "client.txt"
        code = (
            "import os, ipclusterz as ipp; rc = ipp.Client(); rc.wait_for_engines(1);"
            "print(rc[0].apply_sync(lambda: os.environ['SLURM_JOB_ID']))"
        )
        with self.out.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], stdout=file, stderr=file, cwd=ROOT
            )

    @property
    def text(self) -> str:
        return self.out.read_text()

    def until(self, text: str) -> None:
        eventually(lambda: text in self.text, what=f"no {text!r} in {self.out}")

    def end(self) -> int:
        return self.process.wait(30)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Any]:
    """Starts clients in processes; they do not outlive the test."""
    made: list[Waiting] = []

    def start() -> Waiting:
        made.append(Waiting(tmp_path))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.wait()


@pytest.fixture
def waiting(batch: Path, client: Any) -> Waiting:
    """A client that waits for a controller whose job, number 1, waits in the queue."""
    (batch / "hold").touch()
    assert run(f"{START} {BOTH} -n 1").returncode == 0
    made: Waiting = client()
    made.until(WAITS)
    return made


def left(ipython_dir: Path) -> list[str]:
    """What a cluster left in the profile, logs and database apart."""
    folders = [profile(ipython_dir) / name for name in ("jobs", "pid", "security")]
    return [str(path) for folder in folders for path in folder.glob("*")]


def stopping_cancels_only_ours(batch: Path, ipython_dir: Path) -> None:
    """Stop a cluster of one job, with another user's beside it; nothing of ours stays."""
    (batch / "7.job").write_text('{"script": "another user\'s"}')
    assert run("ipclusterz stop").returncode == 0
    assert cancelled(batch) == ["1"], "ours, and no other"
    assert left(ipython_dir) == []


def test_from_submission_to_results_and_back(batch: Path, ipython_dir: Path) -> None:
    started = run(f"{START} {BOTH} -n 2 --wait=2")
    assert started.returncode == 0, started.stderr
    said = started.stdout
    assert "Slurm job 1 (the controller) was submitted" in said
    assert "controller up: tcp://127." in said
    assert said.index("controller up") < said.index("Slurm job 2 was submitted")
    with ipp.Client() as rc:
        assert rc.ids == [0, 1]
        assert rc[:].apply_sync(job_of_engine) == ["2", "2"]
        assert rc.load_balanced_view().map_sync(lambda x: x * x, range(9)) == [
            x * x for x in range(9)
        ]
    assert "Slurm job 1 (the controller) runs on node1" in run("ipclusterz status").stdout
    (row,) = json.loads(run("ipclusterz list -o json").stdout)
    assert (row["running"], row["engines"], row["controller_job"]) == (True, 2, "1")
    assert run(f"{START} {BOTH} -n 2").returncode == 10, "it runs already"
    added = run("ipclusterz engines -n 1 --wait=1")
    assert added.returncode == 0, added.stderr
    (batch / "9.job").write_text('{"script": "another user\'s"}')
    stopped = run("ipclusterz stop")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert submitted(batch) == ["1", "2", "3"]
    assert set(cancelled(batch)) <= {"1", "2", "3"}
    assert all((batch / f"{job}.end").exists() for job in (1, 2, 3))
    assert left(ipython_dir) == []


def test_a_client_waits_and_says_what_for(batch: Path, client: Any) -> None:
    (batch / "hold").touch()
    started = run(f"{START} {BOTH} -n 1")
    assert started.returncode == 0, started.stderr
    assert WAITS in started.stdout and "Slurm job 2" not in started.stdout
    shown = run("ipclusterz status")
    assert (shown.returncode, shown.stdout) == (
        0,
        f"the cluster of profile 'default' waits for its controller: {WAITS}\n",
    )
    told = json.loads(run("ipclusterz status -o json").stdout)
    assert (told["waits"], told["jobs"]) == (True, [{"id": "1", "text": WAITS}])
    assert "waits" in run("ipclusterz list").stdout
    early = run("ipclusterz engines -n 1")
    assert early.returncode == 1
    assert f"the controller does not run yet: {WAITS}" in early.stderr
    waiting = client()
    waiting.until(f"waiting for the controller: {WAITS}\n")
    release(batch, 1)
    assert waiting.end() == 0, waiting.text
    assert waiting.text.count(WAITS) == 1, "once, and not again and again"
    assert waiting.text.endswith("2\n"), "the answer of the engine, from its job"


def test_stopped_while_it_waits(batch: Path, ipython_dir: Path, waiting: Waiting) -> None:
    stopping_cancels_only_ours(batch, ipython_dir)
    assert waiting.end() == 1
    assert "was stopped while its controller's job waited" in waiting.text


def test_cancelled_from_outside_while_it_waits(
    batch: Path, ipython_dir: Path, waiting: Waiting
) -> None:
    subprocess.run(["scancel", "1"], check=True)
    said = "it has ended: Slurm job 1 (the controller) has ended: it was cancelled"
    assert waiting.end() == 1
    assert said in waiting.text and "ConnectorError" in waiting.text
    shown = run("ipclusterz status")
    assert shown.returncode == 12 and said in shown.stderr
    assert not (profile(ipython_dir) / "security" / "ipcontroller-client.json").exists()
    with pytest.raises(ipp.error.ConnectorError, match="it was cancelled"):
        ipp.Client()
    (batch / "hold").unlink()
    again = run(f"{START} {BOTH} -n 1 --wait=1")
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("told_to_end", "said_why", "ending"),
    [
        (True, "its batch job 1 was ended", "it was cancelled"),
        (False, None, "FAILED"),
    ],
    ids=["cancelled", "without a word"],
)
def test_a_controllers_job_that_ends_takes_the_engines_along(
    told_to_end: bool, said_why: str | None, ending: str, batch: Path, ipython_dir: Path
) -> None:
    assert run(f"{START} {BOTH} -n 1 --wait=1").returncode == 0
    with ipp.Client() as rc:
        running = rc[0].apply_async(__import__("time").sleep, 600)
        eventually(lambda: rc.queue_status()[0]["queue"])
        if told_to_end:
            subprocess.run(["scancel", "1"], check=True)
        else:
            kill(int((batch / "1.pid").read_text()))
        with pytest.raises(ControllerLost, match=said_why):
            running.get(timeout=30)
        with pytest.raises(ControllerLost):
            rc.wait_for_engines(2, timeout=30)
    eventually(lambda: (batch / "2.end").exists(), timeout=30)
    said = f"Slurm job 1 (the controller) has ended: {ending}"
    eventually(lambda: said in run("ipclusterz status").stderr, timeout=30)
    assert said in run("ipclusterz logs launcher").stdout
    stopped = run("ipclusterz stop")
    assert stopped.returncode == 11 and said in stopped.stderr
    assert left(ipython_dir) == []


def test_a_controller_ends_in_order_before_its_walltime(batch: Path, ipython_dir: Path) -> None:
    """Nothing warns it here but the clock; some systems kill at the limit."""
    line = f"{START} {BOTH} -n 1 --wait=1 --controller-walltime=12s"
    assert run(line).returncode == 0
    eventually(lambda: (batch / "1.end").exists(), timeout=30)
    assert (batch / "1.end").read_text() == "0"
    eventually(
        lambda: (
            "Slurm job 1 (the controller) has ended: COMPLETED"
            in run("ipclusterz status").stderr
        ),
        timeout=30,
    )
    run("ipclusterz stop")
    assert left(ipython_dir) == []


def test_a_launcher_that_was_killed_while_the_job_waits(
    batch: Path, ipython_dir: Path, waiting: Waiting
) -> None:
    launcher = state(ipython_dir)["launcher"]["pid"]
    kill(launcher)
    eventually(lambda: not alive(launcher))
    assert waiting.end() == 1
    assert "the process that watched its job was ended" in waiting.text
    shown = run("ipclusterz status").stdout
    assert WAITS in shown and "cancel it with: ipclusterz stop" in shown
    assert run(f"{START} {BOTH} -n 1").returncode == 10, "its job may start at any time"
    assert str(profile(ipython_dir)) not in run("ipclusterz clean").stdout
    stopping_cancels_only_ours(batch, ipython_dir)


def test_a_launcher_that_was_killed_while_all_run(batch: Path, ipython_dir: Path) -> None:
    assert run(f"{START} {BOTH} -n 1 --wait=1").returncode == 0
    launcher = state(ipython_dir)["launcher"]["pid"]
    kill(launcher)
    eventually(lambda: not alive(launcher))
    assert str(profile(ipython_dir)) not in run("ipclusterz clean").stdout
    (row,) = json.loads(run("ipclusterz list -o json").stdout)
    assert row["running"] is True
    with ipp.Client() as rc:
        assert rc[0].apply_sync(int, "7") == 7
    assert run("ipclusterz stop").returncode == 0
    assert sorted(cancelled(batch)) == ["1", "2"]
    eventually(lambda: all((batch / f"{job}.end").exists() for job in (1, 2)))
    assert left(ipython_dir) == []


def test_clean_removes_what_is_left_when_launcher_and_job_are_gone(
    batch: Path, ipython_dir: Path
) -> None:
    (batch / "hold").touch()
    assert run(f"{START} {BOTH} -n 1").returncode == 0
    kill(state(ipython_dir)["launcher"]["pid"])
    subprocess.run(["scancel", "1"], check=True)
    cleaned = run("ipclusterz clean")
    assert cleaned.returncode == 0, cleaned.stderr
    assert left(ipython_dir) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--controller=slurm", "the batch system of the engines as well"),
        ("--controller=slurm --engines=pbs", "controller is 'slurm' and engines is 'pbs'"),
        ("--controller=moon", "controller is 'moon' and engines is 'local': it must be local"),
        ("--controller=mpi --engines=mpi", "'mpi', which is no batch system"),
        (f"{BOTH} -r", "-r does not go with --controller=slurm"),
        (f"{BOTH} --controller-walltime=90", "walltime is '90'"),
        (
            "--engines=slurm --controller-queue=long",
            "--controller-queue is for a controller in",
        ),
    ],
)
def test_wrong_combinations(line: str, said: str, batch: Path, ipython_dir: Path) -> None:
    done = run(f"{START} -n 2 {line}".replace(" --allow-loopback", "", 1))
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert submitted(batch) == []
    assert not (profile(ipython_dir) / "pid" / "cluster-.json").exists()


def test_wrong_combinations_in_python(batch: Path) -> None:
    with pytest.raises(ClusterError, match="controller_launcher is 'slurm' and engines is"):
        ipp.Cluster(1, controller_launcher="slurm", engines="pbs")
    settings = ControllerSettings(reuse_files=True)
    cluster = ipp.Cluster(
        1,
        controller_launcher="slurm",
        engines="slurm",
        controller=settings,
        options=OPTIONS,
    )
    with pytest.raises(ClusterError, match="-r does not go with"):
        cluster.start_cluster_sync()
    assert submitted(batch) == [] and not cluster.running


@pytest.mark.parametrize("more", ["", " --transport=ipc", " --ip=localhost"])
def test_loopback_is_refused_before_anything_is_queued(
    more: str, batch: Path, ipython_dir: Path
) -> None:
    started = run(f"ipclusterz start -n 1 {BOTH}{more}")
    assert started.returncode == 1
    assert "which no other host reaches" in started.stderr
    assert "nothing was submitted" in started.stderr
    assert submitted(batch) == [] and left(ipython_dir) == []


def test_addresses_are_those_of_the_node_and_clients_are_let_in(ipython_dir: Path) -> None:
    """An interface that this host has not is none of its business."""
    told: list[str] = []

    def configured(**settings: Any) -> tuple[str, str]:
        told.clear()
        plan = Plan(ProfileDir(str(ipython_dir)), "", ControllerSettings(**settings))
        config = queued.configure(plan, False, told.append)
        return config.ip, config.client_ip

    assert configured(ip="auto") == ("auto", "auto")
    assert "--client-ip=auto" in told[0]
    assert configured(ip="nosuch7") == ("nosuch7", "nosuch7")
    assert configured(ip="auto", client_ip="10.1.2.3") == ("auto", "10.1.2.3")
    assert told == []
    with pytest.raises(LaunchError, match="on 127.0.0.1 only"):
        configured()


def test_nothing_secret_is_in_what_the_batch_system_gets(
    batch: Path, ipython_dir: Path, tmp_path: Path
) -> None:
    own = tmp_path / "key"
    own.write_text("a key of my own, long enough")
    own.chmod(0o600)
    assert run(f"{START} {BOTH} -n 1 --wait=1 --execkey={own}").returncode == 0
    security = profile(ipython_dir) / "security"
    keys = [
        json.loads((security / f"ipcontroller-{role}.json").read_text())["exec_key"]
        for role in ("client", "engine")
    ]
    (folder,) = (profile(ipython_dir) / "jobs").glob("controller-*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    handover = folder / "handover.json"
    assert stat.S_IMODE(handover.stat().st_mode) == 0o600
    keys.append(json.loads(handover.read_text())["config"]["exec_key"])
    events = (folder / "events.0").read_text()
    assert '"ready"' in events
    renewed = run("ipclusterz revoke --role=engine")
    assert renewed.returncode == 0, renewed.stderr
    eventually(lambda: '"renewed"' in (folder / "events.0").read_text())
    keys.append(json.loads((security / "ipcontroller-engine.json").read_text())["exec_key"])
    assert len(set(keys)) == 4
    pid = int((batch / "1.pid").read_text())
    texts = [
        (folder / "events.0").read_text(),
        (folder / "job.sh").read_text(),
        (batch / "1.job").read_text(),
        (batch / "submitted").read_text(),
        Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace"),
        Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"),
        *(path.read_text() for path in (profile(ipython_dir) / "log").glob("*")),
    ]
    assert not [(key, text) for key in keys for text in texts if key in text]
    added = run("ipclusterz engines -n 1 --wait=1")
    assert added.returncode == 0, "new engines get the new key, from its file"
    with ipp.Client() as rc:
        assert rc.ids == [0, 1]


def test_the_controllers_script(batch: Path, ipython_dir: Path) -> None:
    more = "--queue=big --walltime=2h --controller-queue=long --controller-walltime=2-00:00:00"
    lines = run(f"{START} {BOTH} -n 4 {more} --directive=--mem=9G --dry-run").stdout
    controller, _, engines = lines.partition("$ sbatch")
    assert " controller --from=" in controller and " engine --from=" in engines
    wanted = ("--partition=long", "--time=48:00:00", "--mem=9G", "--cpus-per-task=1")
    for line in (*wanted, "--no-requeue"):
        assert f"#SBATCH {line}\n" in controller
        assert line in wanted or line not in engines
    assert "--signal" not in controller, "only agents know what it means"
    for line in ("--partition=big", "--time=02:00:00", "--mem=9G", "--cpus-per-task=4"):
        assert f"#SBATCH {line}\n" in engines
    assert submitted(batch) == []
    lines = run(f"{START} {BOTH} -n 4 {more} --controller-directive=--mem=1G --dry-run").stdout
    assert "--mem=1G" in lines.partition("$ sbatch")[0] and "9G" not in lines


def test_the_controllers_script_is_never_the_users_template(
    batch: Path, tmp_path: Path
) -> None:
    template = tmp_path / "mine"
    template.write_text("#!/bin/sh\n${directives}\necho mine\nexec ${engine_command}\n")
    lines = run(f"{START} {BOTH} -n 2 --batch-template={template} --dry-run").stdout
    controller, _, engines = lines.partition("$ sbatch")
    assert "echo mine" not in controller and "echo mine" in engines


def test_a_job_that_is_not_accepted(batch: Path, ipython_dir: Path) -> None:
    (batch / "reject").touch()
    started = run(f"{START} {BOTH} -n 1")
    assert started.returncode == 1
    assert "Invalid partition name specified" in started.stderr
    assert left(ipython_dir) == []


def test_a_controller_that_cannot_listen_says_so(batch: Path, ipython_dir: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        started = run(f"{START} {BOTH} -n 1 --regport={port} --wait=1")
    assert started.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in started.stderr
    assert "Slurm job 1 (the controller) has ended: FAILED" in started.stderr
    assert submitted(batch) == ["1"], "no engines without a controller"


def test_waiting_for_engines_at_the_start(batch: Path) -> None:
    (batch / "hold").touch()
    start = Running(f"{START} {BOTH} -n 1 --wait=1")
    start.until(r"waiting for the controller; Slurm job 1 .* waits \(Resources\)", 30)
    release(batch, 1)
    start.until("1/1 engines", 30)
    assert start.wait() == 0
    with ipp.Client() as rc:
        assert rc.ids == [0]


def test_engines_that_are_not_accepted_end_the_cluster_with_the_reason(
    batch: Path, client: Any
) -> None:
    (batch / "hold").touch()
    assert run(f"{START} {BOTH} -n 1").returncode == 0
    (batch / "reject").touch()
    release(batch, 1)
    eventually(
        lambda: "Invalid partition name specified" in run("ipclusterz status").stderr,
        timeout=30,
    )
    assert (batch / "1.end").exists()


def test_from_python(batch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {**OPTIONS, "wait": 2}
    with ipp.Cluster(2, engines="slurm", controller_launcher="slurm", options=options) as rc:
        assert rc[:].apply_sync(job_of_engine) == ["2", "2"]
    said = capsys.readouterr().err
    assert "ipclusterz: Slurm job 1 (the controller) was submitted" in said
    assert (batch / "1.end").exists() and (batch / "2.end").exists()


def test_the_profile_may_say_it(batch: Path, ipython_dir: Path) -> None:
    folder = profile(ipython_dir)
    folder.mkdir(mode=0o700)
    (folder / "ipclusterz_config.py").write_text(
        "c = get_config()\nc.StartApp.engines = 'slurm'\nc.StartApp.controller = 'slurm'\n"
        "c.SlurmLauncher.allow_loopback = True\nc.SlurmLauncher.controller_queue = 'long'\n"
    )
    assert "--partition=long" in run("ipclusterz start -n 1 --dry-run").stdout
    assert run("ipclusterz start -n 1 --wait=1").returncode == 0
    assert submitted(batch) == ["1", "2"]
    with ipp.Cluster(1, options={"wait": 1}, profile="default") as rc:
        assert rc[0].apply_sync(job_of_engine) == "4"
