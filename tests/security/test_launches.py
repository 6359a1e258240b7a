"""No key leaves a trace, however controller and engines were started.

By SSH it is looked for on each host of the lab in ``tests/launchers/test_ssh.py``; what the
parts on this machine hold in ``test_secrets.py``.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import ipclusterz as ipp
from ipclusterz.paths import profile_dir
from tests.batch.conftest import START
from tests.lab.slurm import Slurm, processes_of
from tests.running import eventually, run
from tests.security.traces import (
    Trace,
    hits,
    lying,
    memory,
    processes,
    secrets,
    seen_from_outside,
)

AS_ROOT = " --mpi-args=--allow-run-as-root" if os.geteuid() == 0 else ""


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    yield
    run("ipclusterz stop")


def failing() -> None:
    raise LookupError("so that there is a traceback")


def search(start: str, *more: str | Path) -> tuple[list[bytes], list[Trace]]:
    """Start a cluster, work, fail, and look everywhere; the keys, and what was looked at."""
    done = run(start)
    assert done.returncode == 0, done.stderr
    profile = profile_dir()
    traces = [("what the launcher said", (done.stdout + done.stderr).encode())]
    with ipp.Client() as rc:
        rc.wait_for_engines(2, timeout=60)
        keys = secrets((profile.connector("client"), profile.connector("engine")), rc)
        keyless = {*rc[:].apply_sync(os.getpid), *zygotes()}
        with pytest.raises(ipp.error.CompositeError) as caught:
            rc[:].apply_sync(failing)
        traces.append(("the error", str(caught.value).encode()))
        traces += seen_from_outside(processes())
        for pid in keyless:
            traces += memory(pid)
        shared = [path for path in Path("/dev/shm").glob("ipclusterz*") if path.is_dir()]
        # The hub opens it a moment after its start.
        eventually(Path(profile.path, "tasks.db").exists, what="there is no task database")
        places = [profile.path, tempfile.gettempdir(), os.environ["XDG_RUNTIME_DIR"]]
        traces += lying(*places, *shared, *more)
    return keys, traces


def zygotes() -> Iterator[int]:
    for process in processes():
        try:
            if process.name() == "ipzygote":
                yield process.pid
        except psutil.Error:
            continue  # it has just ended


def looked_at(traces: list[Trace], *words: str) -> None:
    """Each of these is among the places: a search that looks nowhere finds nothing."""
    for word in words:
        assert any(word in where for where, _ in traces), word


def handed_over(found: list[str], name: str) -> None:
    """A job has no pipe to its launcher: one file, for its owner only, while the job runs.

    No key is anywhere else.
    """
    (file,) = [Path(where) for where in found]
    assert (file.name, file.parent.parent.name) == (name, "jobs")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)] == [0o600, 0o700]
    assert run("ipclusterz stop").returncode == 0
    assert not file.exists()


PLACES = ("tasks.db", "/log/", "cmdline", "environ", "[heap]")


def test_the_search_finds_a_key_where_there_is_one(tmp_path: Path) -> None:
    made = b"sixteen bytes or more"
    (tmp_path / "log").write_bytes(b"... " + made.hex().encode())
    key = [made.hex().encode()]
    assert hits(key, lying(tmp_path)) == (1, [str(tmp_path / "log")])


@pytest.mark.timeout(120)
def test_engines_on_this_machine() -> None:
    keys, traces = search("ipclusterz start -n 2 --daemon")
    looked_at(traces, *PLACES, *(f"memory of {pid}:" for pid in zygotes()))
    assert hits(keys, traces)[1] == []
    with ipp.Client() as rc:
        agents = set(rc[:].apply_sync(os.getppid))
    assert len(list(zygotes())) == len(agents) == 1
    assert all(hits(keys, memory(pid))[1] for pid in agents), "who must have it"


@pytest.mark.timeout(120)
def test_ranks_of_an_mpi_job() -> None:
    if shutil.which("mpiexec") is None:
        assert os.environ.get("IPCLUSTERZ_LAB") != "required" and not os.environ.get("CI")
        pytest.skip("there is no MPI here")
    keys, traces = search(f"ipclusterz start -n 2 --engines=mpi --daemon{AS_ROOT}")
    looked_at(traces, *PLACES)
    assert any(b"mpiexec" in content for where, content in traces if "cmdline" in where)
    handed_over(hits(keys, traces)[1], "input")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("controller", ["here", "in a job"])
def test_jobs_of_slurm(controller: str, slurm: Slurm) -> None:
    """The scripts in the profile, Slurm's spool, logs and records, and its daemons too."""
    where = "" if controller == "here" else " --controller=slurm"
    keys, traces = search(f"{START} -n 2 --engines=slurm --wait=2{where}", slurm.folder)
    traces += seen_from_outside(processes_of(slurm.folder))
    jobs = list(slurm.queue())
    assert len(jobs) >= (1 if controller == "here" else 2)
    for job in jobs:
        traces.append(
            (f"record of {job}", slurm.run("scontrol", "show", "job", "-d", job).encode())
        )
        script = slurm.run("scontrol", "write", "batch_script", job, "-")
        assert script.startswith("#!")
        traces.append((f"script of {job}", script.encode()))
    looked_at(traces, *PLACES, "/jobs/", "slurmctld", "job_")
    handed_over(hits(keys, traces)[1], "handover.json")
    slurm.until(lambda: not slurm.queue(), "an empty queue")
