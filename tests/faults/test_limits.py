"""What runs short or is far too much: memory, a slow reader, heaps of tasks, a clock set."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import ipclusterz as ipp
from tests.faults.watch import pids, until
from tests.running import ROOT, children

GROUPS = Path("/sys/fs/cgroup/memory")
MB = 1_000_000


# -- memory --------------------------------------------------------------------------------


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A memory cgroup of 150 MB; whoever is put in there and wants more is killed."""
    if not os.access(GROUPS / "cgroup.procs", os.W_OK):
        pytest.skip("needs to be root, and memory cgroups of version 1")
    group = GROUPS / f"ipclusterz-test-{os.getpid()}"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(150 * MB))
    try:
        yield group
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), "the group to be empty")
        group.rmdir()


def take(size: int) -> int:
    """Use so many bytes of memory, really."""
    held = bytearray(size)
    held[:: resource.getpagesize()] = b"x" * len(held[:: resource.getpagesize()])
    return len(held)


def test_an_engine_that_the_kernel_kills_for_want_of_memory(small_group: Path) -> None:
    with ipp.Cluster(n=2) as rc:
        (small_group / "cgroup.procs").write_text(str(pids(rc)[0]))
        assert rc[0].apply_sync(take, 20 * MB) == 20 * MB
        with pytest.raises(ipp.EngineError, match=r"SIGKILL.*for want of memory"):
            rc[0].apply_async(take, 1000 * MB).get(timeout=30)
        assert rc.session.wait(lambda: rc.ids == [1], 20)
        assert rc[1].apply_sync(take, 20 * MB) == 20 * MB


def test_memory_that_a_limit_refuses_is_an_error_and_no_death() -> None:
    def limited(size: int) -> int:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000, resource.RLIM_INFINITY))
        try:
            return len(bytearray(size))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)

    with ipp.Cluster(n=1) as rc:
        with pytest.raises(ipp.error.RemoteError, match="MemoryError"):
            rc[0].apply_async(limited, 1000 * MB).get(timeout=20)
        assert rc[0].apply_async(limited, 10 * MB).get(timeout=20) == 10 * MB


# -- too much ------------------------------------------------------------------------------


def memory_of(pid: int) -> int:
    """Bytes of its own that a process has."""
    return int(psutil.Process(pid).memory_full_info().uss)


def controller_memory(cluster: ipp.Cluster) -> int:
    """The most that hub or any scheduler has."""
    return max(memory_of(pid) for pid in children(int(cluster.controller.pid)))


READER = """
import os, sys, time
import ipclusterz as ipp
rc = ipp.Client(sys.argv[1])
view = rc.load_balanced_view()
results = [view.apply_async(os.urandom, 1000000) for _ in range(int(sys.argv[2]))]
print("sent", flush=True)
for word in sys.stdin:
    print(len(results.pop().get(timeout=60)), flush=True)
"""


def counts(rc: ipp.Client) -> list[int]:
    told = rc.queue_status()
    return [row["completed"] for engine, row in told.items() if engine != "unassigned"]


def read_slowly(results: int, reads: int, pause: float) -> None:
    """One client takes its results of 1 MB one by one while others work as always."""
    cluster = ipp.Cluster(n=2)
    with cluster as rc:
        rc[:].apply_sync(abs, 1)
        before = controller_memory(cluster)
        command = [sys.executable, "-c", READER, rc.connection_file, str(results)]
        pipe = subprocess.PIPE
        reader = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)
        try:
            assert reader.stdin is not None and reader.stdout is not None
            assert reader.stdout.readline() == "sent\n"
            until(lambda: results <= sum(counts(rc)), "all results to be there", 300)
            for _ in range(reads):
                began = time.monotonic()
                assert rc.queue_status() is not None
                assert rc[:].apply_async(abs, -1).get(timeout=30) is not None
                answered = time.monotonic() - began
                assert answered < 10, "others do not wait for the slow one"
                reader.stdin.write("next\n")
                reader.stdin.flush()
                assert reader.stdout.readline() == "1000000\n"
                time.sleep(pause)
                assert controller_memory(cluster) < before + 100 * MB
        finally:
            reader.kill()
            reader.wait(10)
            for end in (reader.stdin, reader.stdout):
                assert end is not None
                end.close()
        assert rc[:].apply_sync(abs, -2) == [2, 2]


def test_a_client_that_reads_slowly_costs_the_controller_no_memory() -> None:
    read_slowly(300, 10, 0.0)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_client_that_reads_one_result_a_second_for_long() -> None:
    read_slowly(3000, 60, 1.0)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_million_queued_tasks() -> None:
    """All are queued before the first may end; control answers meanwhile."""
    cluster = ipp.Cluster(n=2)
    with cluster as rc:
        view = rc.load_balanced_view()
        rc[:].apply_sync(abs, 1)
        before = controller_memory(cluster)
        blocked = [rc[n].apply_async(time.sleep, 60) for n in rc.ids]
        result = view.map_async(abs, range(-1_000_000, 0), chunksize=1)
        worst = 0.0
        while not all(each.done() for each in blocked):
            began = time.monotonic()
            assert rc.queue_status() is not None
            worst = max(worst, time.monotonic() - began)
            rc.wait(blocked, timeout=0.5)
        grown = controller_memory(cluster) - before
        began = time.monotonic()
        assert list(result.get(timeout=1200)) == list(range(1_000_000, 0, -1))
        seconds = time.monotonic() - began
        print(
            f"queued: {grown / MB:.0f} MB more; slowest answer {worst:.2f} s; {seconds:.0f} s"
        )
        assert grown < 3000 * MB


@pytest.mark.long
@pytest.mark.timeout(600)
def test_one_message_of_a_gigabyte() -> None:
    size = 1 << 30
    cluster = ipp.Cluster(n=2)
    with cluster as rc:
        rc[:].apply_sync(abs, 1)
        before = controller_memory(cluster)
        data = bytearray(os.urandom(1 << 20) * 1024)
        sent = rc[0].apply_async(lambda x: (len(x), x[-1]), data)
        worst = 0.0
        while not sent.done():
            began = time.monotonic()
            assert rc[1].apply_async(abs, -1).get(timeout=60) == 1
            worst = max(worst, time.monotonic() - began)
            assert controller_memory(cluster) < before + 200 * MB
        assert sent.get(timeout=60) == (size, data[-1])
        back = rc[0].apply_async(bytes, size).get(timeout=120)
        assert len(back) == size
        print(f"slowest answer meanwhile {worst:.2f} s")


# -- the clock -----------------------------------------------------------------------------

CLOCK = """
import os, time
_path, _real, _real_ns = os.environ["TEST_CLOCK"], time.time, time.time_ns
def _offset():
    try:
        with open(_path) as file:
            return int(file.read() or 0)
    except OSError:
        return 0
time.time = lambda: _real() + _offset()
time.time_ns = lambda: _real_ns() + _offset() * 10**9
"""


@pytest.mark.parametrize("days", [1, -1])
def test_a_clock_that_is_set_while_all_runs(
    days: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wall clock as Python asks it, in every process of the cluster; not the machine's."""
    clock = tmp_path / "offset"
    clock.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    monkeypatch.setenv("TEST_CLOCK", str(clock))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), str(ROOT))))
    with ipp.Cluster(n=2) as rc:
        assert abs(rc[0].apply_sync(time.time) - time.time()) < 1000
        known = pids(rc)
        view = rc.load_balanced_view()
        before = [view.apply_async(time.sleep, 0.01) for _ in range(50)]
        clock.write_text(str(days * 86400))
        assert abs(rc[0].apply_sync(time.time) - time.time() - days * 86400) < 1000
        assert [each.get(timeout=20) for each in before] == [None] * 50
        assert view.map_sync(abs, range(-50, 0)) == list(range(50, 0, -1))
        status = rc.session.connection.query("status")
        assert all(engine["responding"] for engine in status["engines"].values())
        assert pids(rc) == known
        assert len(rc.hub_history()) >= 100
