"""The client against real engines: what the engines in memory cannot show."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

import ipclusterz as ipp
from benchmarks.work import wait_for
from ipclusterz.core import message as m
from ipclusterz.engine import serialize
from tests.running import eventually


@pytest.fixture(scope="module")
def rc(shared_ipython_dir: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=3) as client:
        yield client


def test_engines_are_processes_of_their_own(rc: ipp.Client) -> None:
    pids = rc[:].apply_sync(os.getpid)
    assert len({os.getpid(), *pids}) == 4
    assert rc.load_balanced_view().apply_sync(os.getpid) in pids


def test_tasks_that_only_wait_are_counted(rc: ipp.Client, tmp_path: Path) -> None:
    """Also those that come when all engines are busy, so that nothing is said about them."""
    view, gate = rc.load_balanced_view(), tmp_path / "gate"
    busy = rc[:].apply_async(wait_for, str(gate))
    eventually(lambda: len(list(tmp_path.iterdir())) == len(rc), what="engines are busy")

    def known() -> int:
        told = rc.queue_status()
        return int(told["unassigned"]) + sum(told[number]["tasks"] for number in rc.ids)

    try:
        waiting: list[ipp.AsyncResult] = []
        for count in (5000, 5001, 5007):
            waiting += [view.apply_async(abs, -i) for i in range(count - len(waiting))]
            eventually(lambda count=count: known() == count, what=f"{count} are known")
    finally:
        gate.touch()
    assert [result.get() for result in waiting[:3]] == [0, 1, 2]
    busy.get()


def test_a_forked_child_is_told_that_its_client_is_the_parents(
    rc: ipp.Client, tmp_path: Path
) -> None:
    view = rc.load_balanced_view()
    pending = view.apply_async(wait_for, str(tmp_path / "gate"))
    told = tmp_path / "told"
    child = os.fork()
    if child == 0:
        try:
            for act in (lambda: view.apply_async(abs, -7).get(10), lambda: pending.get(10)):
                try:
                    act()
                except ipp.error.ControllerLost as error:
                    with told.open("a") as file:
                        print(error, file=file)
            rc.close()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    first, second = told.read_text().splitlines()
    assert f"belongs to process {os.getpid()}, of which this one is a fork" in first
    assert "make a new Client() here" in second
    (tmp_path / "gate").touch()
    pending.get(20)
    assert view.map_sync(abs, range(-50, 0)) == list(range(50, 0, -1))


def test_a_forked_child_that_leaves_the_block_leaves_the_cluster(
    ipython_dir: Path,
) -> None:
    code = """
import os, sys
import ipclusterz as ipp
with ipp.Cluster(n=1) as rc:
    child = os.fork()
    if child == 0:
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    print(rc[0].apply_sync(abs, -3), len(rc))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "3 1\n", done.stderr
    assert done.returncode == 0 and not done.stderr


def test_a_signals_handler_may_use_the_client_while_its_thread_waits(tmp_path: Path) -> None:
    with ipp.Cluster(n=2) as rc:
        view = rc.load_balanced_view()
        waited = view.apply_async(wait_for, str(tmp_path / "gate"))
        seen: list[object] = []

        def use(number: int, frame: object) -> None:
            seen.append(view.apply_sync(abs, -3))
            seen.append(rc.queue_status()["unassigned"])
            (tmp_path / "gate").touch()

        def close(number: int, frame: object) -> None:
            rc.close()

        def signals(number: int) -> threading.Timer:
            timer = threading.Timer(0.3, os.kill, (os.getpid(), number))
            timer.start()
            return timer

        before = signal.signal(signal.SIGUSR1, use), signal.signal(signal.SIGUSR2, close)
        try:
            timer = signals(signal.SIGUSR1)
            waited.get(30)
            timer.join()
            assert seen == [3, 0]
            lasting = rc[:].apply_async(time.sleep, 600)
            timer = signals(signal.SIGUSR2)
            with pytest.raises(ipp.RemoteError, match="this client was closed"):
                lasting.get(30)
            timer.join()
        finally:
            signal.signal(signal.SIGUSR1, before[0])
            signal.signal(signal.SIGUSR2, before[1])
        late = view.apply_async(abs, -1)
        with pytest.raises(ipp.error.ControllerLost, match="closed"):
            late.get(5)


class Alarm(Exception):
    """Raised by a handler, wherever it comes."""


@pytest.mark.alarms
def test_a_time_limit_by_alarm_loses_nothing(rc: ipp.Client, tmp_path: Path) -> None:
    view = rc.load_balanced_view()
    gate = tmp_path / "gate"
    lasting = view.apply_async(wait_for, str(gate))

    def expire(number: int, frame: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, expire)
    interrupted = 0
    asked: list[tuple[int, ipp.AsyncResult]] = []
    try:
        for round in range(150):
            try:
                # From "at once" to after the answer: in the middle of all that a call does.
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + round % 50 * 0.00004)
                for number in range(20):
                    asked.append((number, view.apply_async(abs, -number)))
                    assert asked[-1][1].get(20) == number
                    assert rc[:].apply_sync(abs, -number) == [number] * len(rc)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Alarm:
                interrupted += 1
        with pytest.raises(Alarm):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            lasting.get(20)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 75
    for number, result in asked:
        assert result.get(20) == number
    gate.touch()
    lasting.get(20)
    assert view.map_sync(abs, range(-50, 0)) == list(range(50, 0, -1))


class Slow:
    """Takes its time to be unpickled, once."""

    rounds = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _slowly, ()


def _slowly() -> int:
    Slow.rounds += 1
    if Slow.rounds == 1:
        time.sleep(20)
    return 7


@pytest.mark.alarms
def test_what_interrupts_unpickling_is_not_its_outcome(rc: ipp.Client) -> None:
    view = rc.load_balanced_view()

    def expire(number: int, frame: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, expire)
    try:
        for result in (view.apply_async(Slow), rc[:].apply_async(Slow)):
            result.wait(20)
            Slow.rounds = 0
            with pytest.raises(Alarm):
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                result.get(20)
            value = result.get(20)
            assert value == 7 or value == [7] * len(rc)
        Slow.rounds = 0
        lazily = view.imap(lambda _: Slow(), range(3))
        with pytest.raises(Alarm):
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            next(lazily)
        assert list(lazily) == [7, 7, 7]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupted_input_does_not_pass_for_its_end(rc: ipp.Client) -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise KeyboardInterrupt

    lazily = rc.load_balanced_view().imap(abs, items(), max_outstanding=2)
    assert next(lazily) == 0
    with pytest.raises(KeyboardInterrupt):
        next(lazily)
    assert [next(lazily), next(lazily)] == [1, 2]
    with pytest.raises(RuntimeError, match="interrupted .KeyboardInterrupt. while it took"):
        next(lazily)


def test_a_destructor_that_waits_in_the_clients_own_work_is_an_error(
    rc: ipp.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[BaseException] = []

    class Sink:
        def deliver(self, key: int, result: object) -> None:
            try:
                rc.session.connection.wait(lambda: False, 20)
            except RuntimeError as error:
                said.append(error)

    connection = rc.session.connection
    connection.request(m.Op.CLEAR, None, serialize.pack(None), Sink(), [0])
    assert rc[0].apply_sync(abs, -1) == 1
    assert "would be for ever" in str(said[0])


class Name(str):
    """Nearly a str."""


def test_questions_with_values_of_other_types(rc: ipp.Client) -> None:
    rc[0].apply_sync(abs, -1)
    names = rc.history
    assert len(rc.db_query({"msg_id": {"$in": names[-1:]}}, keys=["msg_id"])) == 1
    assert rc.db_query({"engine_id": numpy.int64(77)}) == []
    with pytest.raises(TypeError, match="db_query cannot be asked with this: .*Pattern"):
        rc.db_query({"label": re.compile("a")})
    view = rc.load_balanced_view()
    with view.temp_flags(label=Name("a")), pytest.raises(ipp.RemoteError, match="be sent"):
        view.apply_sync(abs, -1)
    assert view.apply_sync(abs, -1) == 1


def test_namespaces_and_code(rc: ipp.Client) -> None:
    rc.push({"a": 1, "b": 2}, block=True)
    rc.execute("c = a + b", targets=[0, 2], block=True)
    assert rc.pull("c", targets=[0, 2], block=True) == [3, 3]
    with pytest.raises(NameError):
        rc[1]["c"]
    with pytest.raises(SyntaxError):
        rc[0].execute("def f(:", block=True)


def test_output_of_python_and_of_child_processes(rc: ipp.Client) -> None:
    code = (
        "import subprocess, sys\n"
        "print('from python')\n"
        "print('to stderr', file=sys.stderr)\n"
        "subprocess.run(['echo', 'from a child'])"
    )
    result = rc[0].execute(code, block=True)
    assert "from python\n" in result.stdout and "from a child\n" in result.stdout
    assert result.stderr == "to stderr\n"


def test_arrays_go_and_come_back(rc: ipp.Client) -> None:
    array = numpy.arange(300_000, dtype="f8")
    rc[:].scatter("x", array, block=True)
    rc[:].execute("x *= 2", block=True)  # what an engine got is writable
    back = rc[:].gather("x", block=True)
    assert (back == 2 * array).all()
    back[0] = 7  # and so is what comes back
    doubled = rc.load_balanced_view().apply_sync(lambda y: y + y, array)
    assert (doubled == 2 * array).all()


def test_maps(rc: ipp.Client) -> None:
    view = rc.load_balanced_view()
    assert view.map_sync(lambda x: x * x, range(1000)) == [x * x for x in range(1000)]
    assert view.map_sync(abs, range(1000), chunksize=50) == list(range(1000))
    assert list(view.imap(abs, iter(range(3000)))) == list(range(3000))
    assert sorted(view.imap(abs, range(300), ordered=False)) == list(range(300))


def test_futures_of_every_kind(rc: ipp.Client) -> None:
    view = rc.load_balanced_view()
    futures = [view.apply_async(abs, -i) for i in range(50)]
    found = {future.result() for future in concurrent.futures.as_completed(futures, 20)}
    assert found == set(range(50))

    async def work() -> list[int]:
        return await asyncio.gather(*[view.apply_async(abs, -i) for i in range(20)])

    assert asyncio.run(work()) == list(range(20))


def test_ctrl_c_ends_the_wait_and_nothing_else(rc: ipp.Client) -> None:
    result = rc.load_balanced_view().apply_async(time.sleep, 1.0)
    timer = threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        result.get()
    timer.join()
    assert result.get(timeout=20) is None and result.serial_time >= 1.0


def test_cancelling_what_has_not_begun(rc: ipp.Client) -> None:
    view = rc.load_balanced_view(targets=[0])
    running = view.apply_async(time.sleep, 1.0)
    waiting = view.apply_async(time.sleep, 1.0)
    assert waiting.cancel()
    with pytest.raises(ipp.TaskAborted):
        waiting.get()
    assert running.get(timeout=20) is None


def test_an_engine_that_dies(rc: ipp.Client) -> None:
    result = rc[2].apply_async(os._exit, 3)
    with pytest.raises(ipp.EngineError, match="code 3"):
        result.get(timeout=20)
    assert rc.session.wait(lambda: rc.ids == [0, 1], 20)
    with pytest.raises(ipp.EngineError, match="engine 2 ended"):
        rc[2]
    assert rc.direct_view().apply_sync(abs, -1) == [1, 1]


def _wait_if(folder: str, number: int) -> int:
    """Return at once without a folder, else when somebody has put ``gate`` there."""
    if folder:
        with open(os.path.join(folder, f"{number}"), "x"):
            pass
        while not os.path.exists(os.path.join(folder, "gate")):
            time.sleep(0.01)
    return os.getpid()


def test_a_function_that_turns_long_gets_all_of_many_engines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """While it was short, most of them were left asleep."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    folder = tmp_path / "begun"
    folder.mkdir()
    with ipp.Cluster(n=24) as rc:
        view = rc.load_balanced_view()
        short = [view.apply_async(_wait_if, "", number) for number in range(3000)]
        assert len({result.get(timeout=60) for result in short}) >= 1
        long = [view.apply_async(_wait_if, str(folder), number) for number in range(100)]
        try:
            eventually(lambda: len(list(folder.iterdir())) == 24, what="each engine has one")
        finally:
            (folder / "gate").touch()
        assert len({result.get(timeout=60) for result in long}) == 24
