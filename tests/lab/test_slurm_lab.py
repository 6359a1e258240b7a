"""The Slurm of the lab does what the tests of launchers rely on, by both sets of commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import slurm as lab
from tests.lab.slurm import LabError, Slurm
from tests.running import ROOT, eventually


def written(path: Path) -> str:
    """The text of a job's file, once there is any."""
    eventually(lambda: path.is_file() and path.stat().st_size, what=f"nothing in {path}")
    return path.read_text()


def test_jobs_by_the_commands_of_slurm(slurm: Slurm) -> None:
    script = "#!/bin/sh\necho $SLURM_JOB_NUM_NODES $SLURM_CPUS_ON_NODE\nexit 3\n"
    job = slurm.run("sbatch", "--parsable", "-c", "2", stdin=script).strip()
    slurm.until(lambda: not slurm.queue(), "the job ends")
    assert written(slurm.home() / f"slurm-{job}.out") == "1 2\n"
    assert slurm.job(job)["JobState"] == "FAILED"
    assert slurm.job(job)["ExitCode"] == "3:0"

    array = slurm.run("sbatch", "--parsable", "-a", "1-3", "--wrap", "sleep 60").strip()
    slurm.until(lambda: list(slurm.queue().values()) == ["RUNNING"] * 3, "all tasks run")
    assert "node1" in slurm.run("squeue", "-h", "-j", array, "-o", "%N")
    slurm.run("scancel", array)
    slurm.until(lambda: not slurm.queue(), "the array ends")


def test_jobs_by_the_commands_of_pbs(slurm: Slurm) -> None:
    script = slurm.home() / "job.sh"
    script.write_text("#!/bin/sh\n#PBS -l nodes=2:ppn=1\necho $SLURM_JOB_NUM_NODES\nsleep 60\n")
    job = slurm.run("qsub", str(script)).strip()
    assert job.isdecimal()
    slurm.until(lambda: slurm.queue() == {job: "RUNNING"}, "the job runs")
    assert "job_state = R" in slurm.run("qstat", "-f", job)
    assert written(slurm.home() / f"job.sh.o{job}") == "2\n"
    slurm.run("qdel", job)
    slurm.until(lambda: not slurm.queue(), "the job ends")
    assert "job_state = C" in slurm.run("qstat", "-f", job)


def test_jobs_of_another_user(slurm: Slurm) -> None:
    job = slurm.run("sbatch", "--parsable", "--wrap", "id -un", user=lab.OTHER_USER).strip()
    slurm.until(lambda: not slurm.queue(), "the job ends")
    assert written(slurm.home(lab.OTHER_USER) / f"slurm-{job}.out") == f"{lab.OTHER_USER}\n"
    mine = slurm.run("sbatch", "--parsable", "--wrap", "sleep 60").strip()
    with pytest.raises(LabError, match="denied"):
        slurm.run("scancel", mine, user=lab.OTHER_USER)
    slurm.run("scancel", mine)
    slurm.until(lambda: not slurm.queue(), "the job ends")


def test_what_is_refused_and_what_must_wait(slurm: Slurm) -> None:
    with pytest.raises(LabError, match="invalid partition"):
        slurm.run("sbatch", "-p", "nowhere", "--wrap", "true")
    with pytest.raises(LabError, match="Memory specification"):
        slurm.run("sbatch", "--mem", "1T", "--wrap", "true")
    with pytest.raises(LabError, match="unrecognized option"):
        slurm.run("sbatch", "-p", "minute", "-t", "5", "--wrap", "true", "--no-such")
    with slurm.full():
        job = slurm.run("sbatch", "--parsable", "--wrap", "true").strip()
        slurm.until(lambda: slurm.job(job)["Reason"] != "None", "it says why it waits")
        assert slurm.queue() == {job: "PENDING"}
    slurm.until(lambda: not slurm.queue(), "it runs when there are nodes")
    assert slurm.job(job)["JobState"] == "COMPLETED"


def test_a_job_over_its_memory_is_killed(slurm: Slurm) -> None:
    hog = f"{sys.executable} -c 'x = bytearray(300 << 20); import time; time.sleep(60)'"
    job = slurm.run("sbatch", "--parsable", "--mem", "100", "--wrap", hog).strip()
    slurm.until(lambda: not slurm.queue(), "the job is killed")
    ended = slurm.job(job)
    # Without control groups Slurm has no state of its own for it.
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "0:9")
    assert "Exceeded job memory limit" in written(slurm.home() / f"slurm-{job}.out")


def test_jobs_outlive_the_controller(slurm: Slurm) -> None:
    job = slurm.run("sbatch", "--parsable", "--wrap", "sleep 60").strip()
    slurm.until(lambda: slurm.queue() == {job: "RUNNING"}, "the job runs")
    with slurm.without_controller(), pytest.raises(LabError, match="Unable to contact"):
        slurm.run("squeue")
    assert slurm.queue() == {job: "RUNNING"}
    slurm.run("scancel", job)
    slurm.until(lambda: not slurm.queue(), "the job ends")


_KILLED = """
from tests.lab.slurm import Slurm
with Slurm() as made:
    made.run("sbatch", "--wrap", "sleep 1000")
    made.until(lambda: "RUNNING" in made.queue().values(), "it runs")
    print(made.folder, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_run_left_is_removed(slurm: Slurm) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        os.kill(owner.pid, signal.SIGKILL)
    assert list(lab.processes_of(folder))  # daemons die with their owner, jobs do not
    lab.sweep_abandoned()
    assert not folder.exists()
    assert not list(lab.processes_of(folder))
    assert slurm.folder.exists()
    assert slurm.queue() == {}
