"""Engines in jobs of a real Slurm with two nodes, by its own commands and its PBS ones.

The fixture fails a test that leaves a job in the queue.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

import ipclusterz as ipp
from ipclusterz.error import ControllerLost, EngineError
from tests.batch.conftest import START
from tests.core.test_template import ORIGINAL
from tests.lab import slurm as lab
from tests.lab.fixtures import required
from tests.lab.slurm import Slurm
from tests.running import ROOT, Running, eventually, run

pytestmark = pytest.mark.timeout(120)
PBS = {"slurm": "", "pbs": "'s PBS"}


def node() -> str:
    return os.environ["SLURMD_NODENAME"]


def status() -> str:
    return run("ipclusterz status").stdout


@pytest.mark.parametrize(
    ("mode", "system"), [("slurm", "Slurm"), ("pbs", "Slurm's PBS")], ids=["slurm", "pbs"]
)
def test_start_work_add_signal_stop(mode: str, system: str, slurm: Slurm) -> None:
    other = slurm.run("sbatch", "--parsable", "--wrap", "sleep 600", user=lab.OTHER_USER)
    started = run(
        f"{START} -n 4 --engines={mode} --engines-per-node=2 --walltime=10m --wait=4"
        " --shape=per-node"
    )
    assert started.returncode == 0, started.stderr
    assert f"{system} job" in started.stdout and "4/4 engines" in started.stdout
    with ipp.Client() as rc:
        assert rc.ids == [0, 1, 2, 3]
        assert rc[:].apply_sync(lambda a, b: a + b, 2, 3) == [5] * 4
        view = rc.load_balanced_view()
        assert view.map_sync(lambda x: x**2, range(100)) == [x**2 for x in range(100)]
        added = run("ipclusterz engines -n 2 --wait=2 --shape=one --engines-per-node=2")
        assert added.returncode == 0, added.stderr
        rc.wait_for_engines(6, timeout=30)
        slow = rc[0].apply_async(time.sleep, 600)
        eventually(lambda: rc.queue_status()[0]["queue"])
        rc.send_signal(signal.SIGINT, targets=[0])
        with pytest.raises(KeyboardInterrupt):
            slow.get(timeout=30)
        assert rc[0].apply_sync(int, "7") == 7
    assert len(slurm.queue()) == 4, "three of ours, and another user's"
    stopped = run("ipclusterz stop")
    assert stopped.returncode == 0, stopped.stderr
    slurm.until(lambda: set(slurm.queue()) == {other.strip()}, "none left but the other user's")
    slurm.run("scancel", other.strip())
    slurm.until(lambda: not slurm.queue(), "an empty queue")


@pytest.mark.parametrize("mode", ["slurm", "pbs"])
def test_a_job_array(mode: str, slurm: Slurm) -> None:
    started = run(f"{START} -n 3 --engines={mode} --engines-per-node=2 --wait=3")
    assert started.returncode == 0, started.stderr
    with ipp.Client() as rc:
        parents = rc[:].apply_sync(os.getppid)
    assert sorted(parents.count(parent) for parent in set(parents)) == [1, 2]
    assert run("ipclusterz stop").returncode == 0
    slurm.until(lambda: not slurm.queue(), "an empty queue")


def test_one_job_on_two_nodes(slurm: Slurm) -> None:
    started = run(
        f"{START} -n 4 --engines=slurm --engines-per-node=2 --shape=one --wait=4 --walltime=5m"
    )
    assert started.returncode == 0, started.stderr
    with ipp.Client() as rc:
        assert sorted(rc[:].apply_sync(node)) == ["node1", "node1", "node2", "node2"]
    assert run("ipclusterz stop").returncode == 0
    slurm.until(lambda: not slurm.queue(), "an empty queue")


def test_a_job_that_is_held_in_the_queue_is_told_of(slurm: Slurm) -> None:
    with slurm.full():
        started = run(f"{START} -n 2 --engines=slurm")
        assert started.returncode == 0, started.stderr
        (job,) = slurm.queue()
        assert f"Slurm job {job} waits (" in started.stdout
        assert f"Slurm job {job} waits (" in status()
        with ipp.Client() as rc, pytest.raises(ipp.TimeoutError, match=f"job {job} waits"):
            rc.wait_for_engines(2, timeout=3)
        assert run("ipclusterz stop").returncode == 0
        assert slurm.queue() == {}


def test_a_held_job_runs_later(slurm: Slurm) -> None:
    with slurm.full():
        assert run(f"{START} -n 2 --engines=slurm").returncode == 0
    with ipp.Client() as rc:
        rc.wait_for_engines(2, timeout=60)
        assert rc[:].apply_sync(int, "3") == [3, 3]
    assert run("ipclusterz stop").returncode == 0
    slurm.until(lambda: not slurm.queue(), "an empty queue")


def test_cancelled_from_outside(slurm: Slurm) -> None:
    assert run(f"{START} -n 2 --engines=slurm --wait=2").returncode == 0
    (job,) = slurm.queue()
    with ipp.Client() as rc:
        running = rc[0].apply_async(time.sleep, 600)
        eventually(lambda: rc.queue_status()[0]["queue"])
        slurm.run("scancel", job)
        with pytest.raises(EngineError, match=f"job {job} was ended by signal SIGTERM"):
            running.get(timeout=60)
        eventually(lambda: rc.ids == [])
    said = f"Slurm job {job} has ended: it was cancelled (CANCELLED)"
    eventually(lambda: said in status(), timeout=30)
    assert run("ipclusterz stop").returncode == 0


def test_a_partition_that_is_not_there(slurm: Slurm) -> None:
    for mode in ("slurm", "pbs"):
        started = run(f"{START} -n 2 --engines={mode} --queue=nowhere")
        assert started.returncode == 1
        assert "the job was not accepted" in started.stderr
        assert "nvalid partition" in started.stderr
    assert slurm.queue() == {}


def test_a_job_over_the_nodes_memory_is_rejected(slurm: Slurm) -> None:
    started = run(f"{START} -n 1 --engines=slurm --directive=--mem=900G")
    assert started.returncode == 1
    assert "Memory specification can not be satisfied" in started.stderr
    assert slurm.queue() == {}


def hog() -> None:
    import time

    kept = bytearray(900 << 20)
    time.sleep(600 + len(kept) * 0)


def test_a_job_over_its_memory_is_ended_with_its_engines(slurm: Slurm) -> None:
    """Slurm counts what engines use, and not only what the job's first process does."""
    assert run(f"{START} -n 2 --engines=slurm --directive=--mem=300M --wait=2").returncode == 0
    (job,) = slurm.queue()
    with ipp.Client() as rc:
        with pytest.raises(EngineError, match=f"job {job}"):
            rc[0].apply_async(hog).get(timeout=60)
        eventually(lambda: rc.ids == [], timeout=30)
    eventually(lambda: f"Slurm job {job} has ended: FAILED" in status(), timeout=30)
    assert run("ipclusterz stop").returncode == 0


def test_a_slurm_that_is_down_for_a_while_ends_nothing(slurm: Slurm) -> None:
    assert run(f"{START} -n 1 --engines=slurm --wait=1").returncode == 0
    with ipp.Client() as rc:
        with slurm.without_controller():
            assert rc[0].apply_sync(int, "5") == 5
        assert rc[0].apply_sync(int, "6") == 6
    assert run("ipclusterz stop").returncode == 0
    slurm.until(lambda: not slurm.queue(), "an empty queue")


def test_a_controller_that_was_killed_comes_back_to_its_jobs(
    slurm: Slurm, ipython_dir: Path
) -> None:
    """``-r`` keeps key and ports, so that engines find the next controller by themselves."""
    controller = Running("ipcontrollerz -r")
    controller.until("start engines")
    assert (
        run("ipclusterz engines -n 2 --engines=slurm --allow-loopback --wait=2").returncode == 0
    )
    (job,) = slurm.queue()
    controller.process.kill()
    controller.wait()
    again = Running("ipcontrollerz -r")
    again.until("start engines")
    with ipp.Client() as rc:
        rc.wait_for_engines(2, timeout=60)
        assert rc[:].apply_sync(lambda: os.environ["SLURM_JOB_ID"]) == [job, job]
    again.end()
    slurm.until(lambda: not slurm.queue(), "the job ends with the controller")


@pytest.mark.long
@pytest.mark.timeout(200)
def test_a_one_minute_limit(slurm: Slurm) -> None:
    """What runs is finished before the limit, what had not begun goes to the next job."""
    line = f"{START} -n 1 --engines=slurm --queue=minute --walltime=1m --drain=30 --wait=1"
    assert run(line).returncode == 0
    (job,) = slurm.queue()
    with ipp.Client() as rc:
        view = rc.load_balanced_view()
        tasks = [view.apply_async(time.sleep, 6) for _ in range(8)]
        eventually(lambda: rc.ids == [], timeout=90)
        slurm.until(lambda: job not in slurm.queue(), "the job ends by itself")
        left = [task for task in tasks if not task.ready()]
        assert 0 < len(left) < 8
        assert run("ipclusterz engines -n 4 --wait=1 --queue=debug").returncode == 0
        assert [task.get(timeout=60) for task in tasks] == [None] * 8
    assert f"Slurm job {job} has ended: COMPLETED" in status()
    assert run("ipclusterz stop").returncode == 0
    slurm.until(lambda: not slurm.queue(), "an empty queue")


def test_the_ready_made_profile_listens_where_nodes_can_come(slurm: Slurm) -> None:
    made = run("ipclusterz create --profile=slurm")
    assert made.returncode == 0, made.stderr
    started = run("ipclusterz start --profile=slurm -n 2 --wait=2")
    assert started.returncode == 0, started.stderr
    assert "controller up: tcp://127." not in started.stdout
    with ipp.Client(profile="slurm") as rc:
        assert rc[:].apply_sync(int, "4") == [4, 4]
    assert run("ipclusterz stop --profile=slurm").returncode == 0
    slurm.until(lambda: not slurm.queue(), "an empty queue")


def test_the_original_documents_template(slurm: Slurm, tmp_path: Path) -> None:
    """By its historic command, with the interpreter of these tests and for two ranks a node."""
    if not shutil.which("mpiexec"):
        (pytest.fail if required() else pytest.skip)("no mpiexec: apt-get install openmpi-bin")
    mpiexec = "mpiexec --allow-run-as-root --oversubscribe"
    text = ORIGINAL.replace("/usr/local/bin/mpiexec", f"cd {ROOT}; {mpiexec}")
    text = text.replace("ipengine --logfile=$$PBS_O_WORKDIR/ipengine", "ipenginez")
    text = text.replace("ipenginez", f"{sys.executable} -m ipclusterz.apps.engine")
    text = text.replace("-q parallel", "-q debug").replace("n/4}:ppn=4", "n/2}:ppn=2")
    text = text.replace("$$HOME/usr/local/bin", "$$HOME/usr/local/bin:$$PATH")
    template = tmp_path / "pbs.template"
    template.write_text(text)
    started = run(f"ipclusterz pbs -n 2 --pbs-script={template} --ip=auto")
    assert started.returncode == 0, started.stderr
    (job,) = slurm.queue()
    with ipp.Client() as rc:
        rc.wait_for_engines(2, timeout=60)
        assert rc[:].apply_sync(os.getenv, "SLURM_JOB_ID") == [job, job]
    assert run("ipclusterz stop").returncode == 0
    slurm.until(lambda: not slurm.queue(), "an empty queue")


@pytest.mark.parametrize("mode", ["slurm", "pbs"])
def test_a_controller_in_a_job(mode: str, slurm: Slurm) -> None:
    """Held in the queue, then with results, then cancelled from outside."""
    line = f"{START} -n 2 --controller={mode} --engines={mode} --walltime=5m"
    with slurm.full():
        started = run(line)
        assert started.returncode == 0, started.stderr
        (job,) = slurm.queue()
        assert f"job {job} (the controller) waits" in started.stdout
        assert f"waits for its controller: Slurm{PBS[mode]} job {job} (the" in status()
    with ipp.Client() as rc:  # as soon as there is room
        rc.wait_for_engines(2, timeout=60)
        assert rc[:].apply_sync(int, "6") == [6, 6]
        assert len(slurm.queue()) == 2
        running = rc[0].apply_async(time.sleep, 600)
        eventually(lambda: rc.queue_status()[0]["queue"])
        slurm.run("scancel", job)
        with pytest.raises(ControllerLost):
            running.get(timeout=60)
    slurm.until(lambda: not slurm.queue(), "the engines' job goes with the controller's")
    said = f"job {job} (the controller) has ended: "
    eventually(lambda: said in run("ipclusterz status").stderr, timeout=30)
    run("ipclusterz stop")


def test_a_controllers_job_is_stopped_with_the_rest(slurm: Slurm) -> None:
    made = run("ipclusterz create --profile=slurm")
    assert made.returncode == 0, made.stderr
    started = run(
        "ipclusterz start --profile=slurm --controller=slurm -n 2 --wait=2"
        " --controller-queue=debug --controller-walltime=10m"
    )
    assert started.returncode == 0, started.stderr
    assert "--client-ip=auto" in started.stdout
    assert "controller up: tcp://127." not in started.stdout
    with ipp.Client(profile="slurm") as rc:
        assert rc[:].apply_sync(int, "4") == [4, 4]
    assert run("ipclusterz stop --profile=slurm").returncode == 0
    slurm.until(lambda: not slurm.queue(), "an empty queue")
