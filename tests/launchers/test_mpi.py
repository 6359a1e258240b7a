"""Engines that are the ranks of one MPI job, on a real Open MPI, with four ranks."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ipclusterz.client.client import Client
from ipclusterz.cluster import Cluster
from ipclusterz.core.ranks import Rank, rank_here
from ipclusterz.error import CompositeError, EngineError, LaunchError
from ipclusterz.launchers.base import LaunchSpec, get_launcher
from ipclusterz.launchers.mpi import MPIJob, MPILauncher, MPIOptions
from tests.lab.slurm import Slurm
from tests.promises.test_guide import run_page
from tests.running import ROOT, Running, alive, eventually, run

LACKING = [name for name in ("mpiexec", "mpirun") if shutil.which(name) is None]
LACKING += [] if find_spec("mpi4py") else ["mpi4py"]
REQUIRED = os.environ.get("IPCLUSTERZ_LAB") == "required" or bool(os.environ.get("CI"))
INSIST = ["--allow-run-as-root"] if os.geteuid() == 0 else []
N = 4


@pytest.fixture(scope="module")
def mpi() -> None:
    """There is an MPI here; where it is required there must be."""
    if LACKING:
        text = f"no {', '.join(LACKING)} here: apt-get install openmpi-bin, pip install mpi4py"
        if REQUIRED:
            pytest.fail(text)
        pytest.skip(text)


def options(*args: str) -> dict[str, Any]:
    return {"mpi_args": [*INSIST, *args]}


@pytest.fixture(scope="module")
def cluster(mpi: None, shared_ipython_dir: Path) -> Iterator[Cluster]:
    made = Cluster(n=N, engines="mpi", options=options())
    with made:
        yield made


@pytest.fixture
def rc(cluster: Cluster) -> Iterator[Client]:
    with cluster.connect_client_sync() as made:
        made.wait_for_engines(N, timeout=20)
        yield made


# Functions of modules are sent without their module's names: each imports what it needs.


def rank_and_size() -> tuple[int, int]:
    from mpi4py import MPI

    return MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()


def ones() -> int:
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.allreduce(1))


def total() -> int:
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.rank))


def ranks_of_all() -> list[int]:
    from mpi4py import MPI

    return list(MPI.COMM_WORLD.allgather(MPI.COMM_WORLD.rank))


# -- what MPI users do ---------------------------------------------------------------------


def test_an_engines_number_is_its_rank(rc: Client) -> None:
    assert rc.ids == list(range(N))
    seen = rc[:].apply_sync(rank_and_size)
    assert seen == [(rank, N) for rank in range(N)]
    assert rc[:].apply_sync(is_initialized) == [True] * N


def is_initialized() -> bool:
    from mpi4py import MPI

    return MPI.Is_initialized() and not MPI.Is_finalized()


def test_collectives_across_engines(rc: Client) -> None:
    view = rc[:]
    view.scatter("x", range(N), flatten=True, block=True)
    view.execute("t = comm.allreduce(x)").get(30)
    assert view.pull("t", block=True) == [6] * N
    view.execute("from mpi4py import MPI; u = MPI.COMM_WORLD.allgather(x * x)").get(30)
    assert view.pull("u", block=True) == [[0, 1, 4, 9]] * N


def test_a_dot_product_of_distributed_vectors(rc: Client) -> None:
    numpy = pytest.importorskip("numpy")
    view = rc[:]
    a, b = numpy.arange(1000.0), numpy.linspace(0, 1, 1000)
    view.scatter("a", a, block=True)
    view.scatter("b", b, block=True)
    view.execute("import numpy; dot = comm.allreduce(float(numpy.dot(a, b)))").get(30)
    found = view.pull("dot", block=True)
    assert found == [found[0]] * N
    assert found[0] == pytest.approx(float(numpy.dot(a, b)))


def smooth(steps: int) -> Any:
    """Jacobi steps on a line cut into parts; neighbours exchange their edges."""
    import numpy
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    left = comm.rank - 1 if comm.rank > 0 else MPI.PROC_NULL
    right = comm.rank + 1 if comm.rank < comm.size - 1 else MPI.PROC_NULL
    part = numpy.zeros(10)
    halo = numpy.zeros(12)
    halo[0], halo[-1] = (comm.rank == 0) * 1.0, (comm.rank == comm.size - 1) * 5.0
    for _ in range(steps):
        halo[1:-1] = part
        comm.Sendrecv(part[:1].copy(), left, recvbuf=halo[-1:], source=right)
        comm.Sendrecv(part[-1:].copy(), right, recvbuf=halo[:1], source=left)
        part = (halo[:-2] + halo[2:]) / 2
    return part


def test_a_halo_exchange(rc: Client) -> None:
    numpy = pytest.importorskip("numpy")
    line = numpy.zeros(10 * N + 2)
    line[0], line[-1] = 1.0, 5.0
    for _ in range(300):
        line[1:-1] = (line[:-2] + line[2:]) / 2
    parts = rc[:].apply_async(smooth, 300).get(30)
    assert numpy.concatenate(parts) == pytest.approx(line[1:-1])


def test_a_second_job_has_the_next_numbers(cluster: Cluster, rc: Client) -> None:
    name = cluster.start_engines_sync(2)
    try:
        rc.wait_for_engines(N + 2, timeout=20)
        assert rc.ids == list(range(N + 2))
        seen = rc[[N, N + 1]].apply_sync(ranks_of_all)
        assert seen == [[0, 1]] * 2
    finally:
        cluster.stop_engines_sync(name)
    eventually(lambda: rc.ids == list(range(N)), what=f"engines are {rc.ids}")
    assert rc[:].apply_sync(ones) == [N] * N


# -- how it begins and ends ----------------------------------------------------------------


def test_a_rank_that_dies_is_reported_with_its_cause(mpi: None) -> None:
    told: list[dict[str, Any]] = []
    cluster = Cluster(n=N, engines="mpi", options=options(), notice=told.append)
    with cluster as rc:
        pids = rc[:].apply_sync(os.getpid)
        others = rc[[0, 1, 3]].apply_async(wait_in_mpi)
        eventually(lambda: all(rc.queue_status()[i]["queue"] for i in (0, 1, 3)))
        os.kill(pids[2], signal.SIGKILL)
        with pytest.raises(CompositeError) as caught:
            others.get(30)
        # On a machine that is busy, mpiexec may kill an agent before it can tell.
        reason = r"as mpiexec does when a rank has died|its process \d+ has ended"
        assert len(re.findall(reason, str(caught.value))) == 3, caught.value
        eventually(lambda: rc.ids == [], what=f"engines are {rc.ids}")
        with pytest.raises(EngineError, match="engine 2 .*killed by signal SIGKILL"):
            rc[2].apply_sync(os.getpid)
        eventually(lambda: not any(alive(pid) for pid in pids))
        eventually(lambda: any(event["event"] == "ended" for event in told))
        (end,) = [event for event in told if event["event"] == "ended"]
        assert end["code"] != 0
        assert "mpiexec" in end["text"]
        name = cluster.start_engines_sync(2)
        rc.wait_for_engines(2, timeout=20)
        assert rc[:].apply_sync(total) == [1, 1]
        cluster.stop_engines_sync(name)


def wait_in_mpi() -> None:
    from mpi4py import MPI

    MPI.COMM_WORLD.Barrier()


def test_an_engine_that_is_stopped_ends_its_job(mpi: None) -> None:
    with Cluster(n=2, engines="mpi", options=options()) as rc:
        rc.shutdown([1])
        eventually(lambda: rc.ids == [], timeout=30)


def test_preload_is_done_by_each_rank(mpi: None) -> None:
    with Cluster(n=2, engines="mpi", options=options(), preload=["colorsys"]) as rc:
        assert rc[:].apply_sync(is_loaded, "colorsys") == [True, True]
    with pytest.raises(LaunchError, match="cannot preload 'no_such': ModuleNotFoundError"):
        Cluster(n=2, engines="mpi", options=options(), preload=["no_such"]).start_cluster_sync()


def is_loaded(name: str) -> bool:
    import sys

    return name in sys.modules


def test_nothing_is_left_and_no_key_is_shown(mpi: None, ipython_dir: Path) -> None:
    cluster = Cluster(n=2, engines="mpi", options=options())
    with cluster as rc:
        pids = rc[:].apply_sync(os.getpid)
        folder = ipython_dir / "cluster_default"
        (handed,) = folder.glob("jobs/*/input")
        assert handed.stat().st_mode & 0o777 == 0o600
        assert handed.parent.stat().st_mode & 0o777 == 0o700
        key = re.search(r'"exec_key": "(.+?)"', Path(cluster.engine_file).read_text())
        assert key is not None
        for process in Path("/proc").glob("[0-9]*"):
            try:
                seen = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            except OSError:
                continue
            assert key[1].encode() not in seen
    assert not any(alive(pid) for pid in pids)
    assert list(folder.glob("jobs/*")) == []


def test_ipclusterz_start(mpi: None) -> None:
    more = " ".join(f"--mpi-args={arg}" for arg in INSIST)
    started = Running(f"ipclusterz start -n {N} --engines=mpi {more}")
    started.until("connect:")
    with Client() as rc:
        assert rc[:].apply_async(total).get(20) == [6] * N
        pids = rc[:].apply_sync(os.getpid)
    assert started.end() == 0, started.text
    assert f"{N}/{N} engines" in started.text
    assert not any(alive(pid) for pid in pids)


def test_a_killed_launcher_leaves_nothing(mpi: None, ipython_dir: Path) -> None:
    more = " ".join(f"--mpi-args={arg}" for arg in INSIST)
    first = Running("ipclusterz start -n 1")
    first.until("connect:")
    started = Running(f"ipclusterz engines -n 2 --engines=mpi {more}")
    started.until("ready in")
    with Client() as rc:
        pids = rc[[1, 2]].apply_sync(os.getpid)
        started.end(signal.SIGKILL)
        eventually(lambda: rc.ids == [0], timeout=30)
        eventually(lambda: not any(alive(pid) for pid in pids))
    assert list((ipython_dir / "cluster_default").glob("jobs/*/*")) == []
    assert first.end() == 0


def test_by_hand(mpi: None) -> None:
    first = Running("ipcontrollerz")
    first.until("controller up")
    words = ["mpiexec", *INSIST, "--oversubscribe", "-n", str(N)]
    words += [sys.executable, "-m", "ipclusterz.apps.engine", "--mpi"]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as ranks:
        with Client() as rc:
            rc.wait_for_engines(N, timeout=30)
            assert rc.ids == list(range(N))
            assert rc[:].apply_sync(ranks_of_all) == [[0, 1, 2, 3]] * N
        first.end()
        assert ranks.wait(20) == 0


@pytest.mark.timeout(200)
def test_what_the_page_shows_works(
    mpi: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if INSIST:
        for name in ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"):
            monkeypatch.setenv(name, "1")
    assert run_page(ROOT / "docs" / "mpi.md", True, tmp_path, monkeypatch) == (1, 6)


# -- with srun, on two nodes ---------------------------------------------------------------


def test_srun_starts_ranks_on_two_nodes(mpi: None, slurm: Slurm) -> None:
    said = {"mpi_cmd": "srun", "mpi_args": ["--mpi=pmix", "-N2", "-Jranks"]}
    with Cluster(n=N, engines="mpi", options=said) as rc:
        assert rc.ids == list(range(N))
        assert rc[:].apply_async(total).get(30) == [6] * N
        assert set(rc[:].apply_sync(os.getenv, "SLURMD_NODENAME")) == {"node1", "node2"}
        others = rc[[0, 1, 3]].apply_async(wait_in_mpi)
        eventually(lambda: all(rc.queue_status()[i]["queue"] for i in (0, 1, 3)))
        os.kill(rc[2].apply_sync(os.getpid), signal.SIGKILL)
        with pytest.raises(CompositeError) as caught:
            others.get(30)
        reason = "its MPI job has lost engine 2: killed by signal SIGKILL"
        assert str(caught.value).count(reason) == 3
    slurm.until(lambda: not slurm.queue(), "the job ends")


def test_srun_without_the_plugin_says_so_in_its_own_words(
    mpi: None, slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A rank alone may be ended, because the other one failed, before Open MPI has cleaned up.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    said = {"mpi_cmd": "srun", "mpi_args": ["--mpi=none"]}
    with pytest.raises(LaunchError, match="PMI|ranks, but this one finds 1"):
        Cluster(n=2, engines="mpi", options=said).start_cluster_sync()
    slurm.until(lambda: not slurm.queue(), "the job ends")


@pytest.mark.parametrize("number", [1, 3])
def test_another_number_of_ranks_than_was_asked_for(mpi: None, number: int) -> None:
    """Also more of them: their numbers as engines would not be their ranks."""
    made = Cluster(n=2, engines="mpi", options=options(f"-np {number}"))
    with pytest.raises(LaunchError, match=f"2 ranks were .* the launcher started {number}:"):
        made.start_cluster_sync()
    assert not made.running


def test_a_rank_that_is_alone_says_so_and_leaves_nothing(mpi: None, tmp_path: Path) -> None:
    """Neither Open MPI's daemon for single processes, nor its folder."""
    code = "import os; from ipclusterz.engine.mpi import join\ntry: join(2)\nfinally: "
    code += "print(sorted(name for name in os.environ if 'singleton' in name))"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "started 2 ranks, but this one finds 1" in done.stderr
    assert done.stdout == "[]\n", "what the engine starts is not told"
    assert list(tmp_path.iterdir()) == []


def test_ranks_in_a_job_by_hand(mpi: None, slurm: Slurm, ipython_dir: Path) -> None:
    first = Running("ipcontrollerz")
    first.until("controller up")
    engines = f"cd {ROOT}; {sys.executable} -m ipclusterz.apps.engine --mpi"
    script = f"#!/bin/sh\nsrun --mpi=pmix sh -c '{engines}'\n"
    job = slurm.run("sbatch", "--parsable", "-N2", f"-n{N}", stdin=script).strip()
    with Client() as rc:
        rc.wait_for_engines(N, timeout=30)
        assert rc.ids == list(range(N))
        assert rc[:].apply_async(total).get(30) == [6] * N
    assert first.end() == 0
    slurm.until(lambda: not slurm.queue(), "the job ends with its engines")
    assert slurm.job(job)["JobState"] == "COMPLETED"


# -- what is said when it cannot be --------------------------------------------------------


def refused(words: str, **environment: str) -> str:
    done = run(
        f"ipclusterz start -n 2 --engines=mpi {words}", env={**os.environ, **environment}
    )
    assert done.returncode == 1 or done.returncode == 2
    assert "controller up" not in done.stdout
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if "mpi" in line]
    assert len(lines) == 1
    return lines[0]


def test_without_mpiexec() -> None:
    said = refused("--mpi-cmd=no-such-mpiexec")
    assert "there is no command 'no-such-mpiexec'" in said
    assert "apt-get install openmpi-bin" in said


def test_without_mpi4py(mpi: None, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path)], check=True)
    python = tmp_path / "bin/python"
    said = refused(f"--python={python} " + " ".join(f"--mpi-args={arg}" for arg in INSIST))
    assert said.endswith(f"{python} has no mpi4py: {python} -m pip install mpi4py")


@pytest.mark.skipif(os.geteuid() != 0, reason="about root")
def test_open_mpi_as_root(mpi: None) -> None:
    assert "--mpi-args=--allow-run-as-root" in refused("")


def test_ranks_are_not_replaced(mpi: None) -> None:
    insist = " ".join(f"--mpi-args={arg}" for arg in INSIST)
    said = refused(f"--restart-engines=1 {insist}")
    assert "that has died cannot be replaced, since no process can join MPI" in said


def test_ipenginez_without_a_launcher() -> None:
    done = run("ipenginez --mpi")
    assert done.returncode == 2
    assert "mpiexec -n 4 ipenginez --mpi" in done.stderr


def test_options_are_checked() -> None:
    with pytest.raises(LaunchError, match="mpi_args is"):
        MPILauncher(MPIOptions(mpi_args=["'"]))
    with pytest.raises(LaunchError, match="mpi_cmd is empty"):
        MPILauncher(MPIOptions(mpi_cmd=" "))
    with pytest.raises(LaunchError, match="no option 'mpi_arg'; the nearest is mpi_args"):
        get_launcher("mpi", {"mpi_arg": []})


def test_the_command_that_is_run(tmp_path: Path) -> None:
    fake = tmp_path / "mpiexec"
    fake.write_text(
        '#!/bin/sh\nprintf "%s " "$@" >&2; echo >&2\nenv | grep -c oversubscribe >&2\n'
    )
    fake.chmod(0o755)
    spec = LaunchSpec(argv=("agent", "engine"), name="ranks", n=3, log=str(tmp_path / "log"))

    def shown(*args: str) -> list[str]:
        (tmp_path / "log").unlink(missing_ok=True)
        job = MPILauncher(MPIOptions(str(fake), list(args))).start(spec)
        assert isinstance(job, MPIJob)
        assert job.wait(10)
        lines = (tmp_path / "log").read_text().splitlines()
        job.stop()
        return lines

    first, more = shown("--bind-to none", "-x A")
    assert re.fullmatch(r"-n 3 --bind-to none -x A agent engine --rank=\S+ ", first)
    assert more == "2"  # alone on this host, more ranks than cores are no mistake
    assert shown("--hostfile=h")[1] == "0"


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}, Rank(2, 4)),
        ({"PMI_RANK": "0", "PMI_SIZE": "1", "PMIX_NAMESPACE": "a"}, Rank(0, 1, "a")),
        (
            {
                "SLURM_PROCID": "1",
                "SLURM_NTASKS": "2",
                "SLURM_JOB_ID": "7",
                "SLURM_STEP_ID": "0",
            },
            Rank(1, 2, "7.0"),
        ),
        ({"PMI_RANK": "4", "PMI_SIZE": "4"}, None),
        ({"SLURM_PROCID": "0"}, None),
        ({}, None),
    ],
)
def test_the_rank_is_read_from_the_environment(
    environment: dict[str, str], rank: Rank | None
) -> None:
    assert rank_here(environment) == rank
