"""Engines, agents and clients that stop for a while, or hold the interpreter: none is dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ipclusterz as ipp
from tests.faults.history import History, judge, read
from tests.faults.watch import agent_of, pids, until
from tests.running import ROOT, Running, eventually, run

Start = Callable[[str], Running]


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP, and SIGCONT whatever happens."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def states() -> dict[int, str]:
    """What `ipclusterz status` says of each engine."""
    told = json.loads(run("ipclusterz status -o json").stdout)
    return {engine["id"]: engine["state"] for engine in told["engines"]}


# -- engines -------------------------------------------------------------------------------


def freeze_engine(tmp_path: Path, seconds: float) -> None:
    history = History(tmp_path / "history")
    with ipp.Cluster(n=2, cluster_id="") as rc:
        known = pids(rc)
        rc[:].push({"kept": 5}, block=True)
        slow = rc[0].apply_async(time.sleep, 0.5)
        with stopped(known[0]):
            began = time.monotonic()
            eventually(lambda: states()[0] == "not responding", 10)
            assert states()[1] == "idle"
            history.fault("stopped", known[0])
            view = rc.load_balanced_view()
            for _ in range(50):
                history.submit(view)
            held = history.submit(rc[0])
            # The other engine does all the rest meanwhile, and no one is taken for dead.
            for key in list(history.open):
                if key != held:
                    history.receive(key, 20)
            while time.monotonic() - began < seconds:
                assert rc.ids == [0, 1]
                time.sleep(0.05)
        slow.get(timeout=20)
        history.receive(held, 20)
        assert pids(rc) == known and rc[:]["kept"] == [5, 5]
        eventually(lambda: states()[0] == "idle", 10)
    history.close()
    assert judge(read(history.path)) == []


def test_a_stopped_engine_is_seen_and_comes_back(tmp_path: Path) -> None:
    freeze_engine(tmp_path, 0)


@pytest.mark.long
@pytest.mark.timeout(200)
@pytest.mark.parametrize("seconds", [5, 15, 60])
def test_an_engine_stopped_for_long(tmp_path: Path, seconds: float) -> None:
    freeze_engine(tmp_path, seconds)


def hold(seconds: float) -> float:
    """Hold the interpreter's lock: C code that never lets go of it."""
    import ctypes

    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return seconds


def hold_interpreter(seconds: float) -> None:
    with ipp.Cluster(n=2, cluster_id="") as rc:
        rc[:].push({"kept": 5}, block=True)
        held = rc[0].apply_async(hold, seconds)
        until(lambda: states()[0] == "running", "the task to run")
        while not held.done():
            assert rc.ids == [0, 1]
            assert states() == {0: "running", 1: "idle"} or held.done()
            assert rc[1].apply_sync(abs, -1) == 1
        assert held.get() == seconds
        assert rc[:]["kept"] == [5, 5]


def test_an_engine_that_holds_the_interpreter_is_not_taken_for_dead() -> None:
    hold_interpreter(15.0)  # far more than the six heartbeats after which a peer is silent


@pytest.mark.long
@pytest.mark.timeout(300)
def test_an_engine_that_holds_the_interpreter_for_long() -> None:
    hold_interpreter(120.0)


# -- agents ----------------------------------------------------------------------------------


def test_a_stopped_agent_is_not_responding_within_ten_seconds(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    cluster = ipp.Cluster(n=1, cluster_id="")
    with cluster as rc:
        cluster.start_engines_sync(1)
        rc.wait_for_engines(2, timeout=20)
        known = pids(rc)
        rc[:].push({"kept": 5}, block=True)
        with stopped(agent_of(rc)):
            history.fault("stopped", "agent")
            view = rc.load_balanced_view()
            for _ in range(50):
                history.submit(view)
            eventually(lambda: states()[rc.ids[0]] == "not responding", 10 + 10)
            assert rc.ids == [0, 1]
        history.receive_all()
        assert pids(rc) == known and rc[:]["kept"] == [5, 5]
        eventually(lambda: "not responding" not in states().values(), 10)
    history.close()
    assert judge(read(history.path)) == []


# -- clients ---------------------------------------------------------------------------------

CLIENT = """
import sys, time
import ipclusterz as ipp
from tests.faults.history import History
from pathlib import Path
rc = ipp.Client()
history = History(Path(sys.argv[1]), "b")
view = rc.load_balanced_view(label="of b")
for _ in range(20):
    history.submit(view, 0.05)
print(*[result.msg_ids[0] for result in history.open.values()], flush=True)
sys.stdin.readline()
history.receive_all()
print("received", flush=True)
sys.stdin.readline()
"""


@contextmanager
def another_client(history: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A client in a process of its own, and the names of its tasks."""
    command = [sys.executable, "-c", CLIENT, str(history)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        names = process.stdout.readline().split()
        assert len(names) == 20
        yield process, names
    finally:
        process.kill()
        process.wait(10)
        for end in (process.stdin, process.stdout):
            assert end is not None
            end.close()


def fetch(rc: ipp.Client, history: History, names: list[str]) -> None:
    """Another client fetches what it finds by the tasks' names, and logs it."""
    for number, name in enumerate(names, 1):
        value, token = rc.get_result(name, block=False).get(timeout=20)
        history.note("fetched", key=f"b{number}", value=value, run=token)


def found(rc: ipp.Client, names: list[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = rc.db_query(
        {"msg_id": {"$in": names}}, keys=["msg_id", "completed"]
    )
    return rows


def ended(rc: ipp.Client, names: list[str]) -> bool:
    rows = found(rc, names)
    return len(rows) == len(names) and all(row["completed"] for row in rows)


def test_what_a_killed_client_asked_for_is_fetched_by_another(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    with (
        ipp.Cluster(n=2, cluster_id="") as rc,
        another_client(history.path) as (process, names),
    ):
        until(lambda: len(found(rc, names)) == 20, "its tasks to be sent")
        process.kill()
        history.note("left", keys=[f"b{n}" for n in range(1, 21)])
        until(lambda: ended(rc, names), "the tasks of the dead client to end")
        by_label = rc.db_query({"label": "of b"}, keys=["msg_id"])
        assert sorted(row["msg_id"] for row in by_label) == sorted(names)
        fetch(rc, history, names)
    history.close()
    assert judge(read(history.path)) == []


def freeze_client(tmp_path: Path, seconds: float) -> None:
    history = History(tmp_path / "history")
    with (
        ipp.Cluster(n=2, cluster_id="") as rc,
        another_client(history.path) as (process, names),
    ):
        assert process.stdin is not None and process.stdout is not None
        until(lambda: len(found(rc, names)) == 20, "its tasks to be sent")
        with stopped(process.pid):
            began = time.monotonic()
            until(lambda: ended(rc, names), "its tasks to end")
            fetch(rc, history, names)
            until(lambda: silent(rc), "the hub to see its silence")
            assert rc[:].apply_sync(abs, -1) == [1, 1]
            while time.monotonic() - began < seconds:
                time.sleep(0.1)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "received\n"
    history.close()
    assert judge(read(history.path)) == []


def silent(rc: ipp.Client) -> list[Any]:
    clients = rc.session.connection.query("status")["clients"]
    return [client for client in clients if not client["responding"]]


def test_a_stopped_client_gets_its_results_when_it_goes_on(tmp_path: Path) -> None:
    freeze_client(tmp_path, 20)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_client_stopped_for_long(tmp_path: Path) -> None:
    """A minute less than the lease, after which a client is forgotten."""
    freeze_client(tmp_path, 540)
