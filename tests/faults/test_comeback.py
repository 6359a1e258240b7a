"""Whole controllers that are killed under load and started again with -r: engines come back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import ipclusterz as ipp
from tests.faults.history import History, judge, read
from tests.faults.seeds import chance
from tests.running import Running, alive

Start = Callable[[str], Running]


def kill_controllers(start: Start, rounds: int) -> list[float]:
    """Kill and start again; how long each time until all engines were back, with all.

    An engine that comes late is waited for: seconds are returned, not judged here.
    """
    random = chance("kill_controllers")
    controller = start("ipcontrollerz -r")
    controller.until("^start engines:")
    engines = start("ipenginez -n 3")
    for _ in range(3):
        engines.until("is ready")
    took: list[float] = []
    with ipp.Client() as rc:
        rc.wait_for_engines(3, timeout=20)
        pids = rc[:].apply_async(os.getpid).get_dict(timeout=20)
        rc[:].scatter("kept", range(3)).get(timeout=20)
    for _ in range(rounds):
        with ipp.Client(timeout=20) as rc:
            view = rc.load_balanced_view()
            for _ in range(100):
                view.apply_async(time.sleep, 0.002)
            time.sleep(random.random() * 0.2)
            controller.process.kill()
            controller.wait()
        controller = start("ipcontrollerz -r")
        controller.until("^start engines:")
        began = time.monotonic()
        with ipp.Client(timeout=30) as rc:
            rc.wait_for_engines(3, timeout=30)
            took.append(time.monotonic() - began)
            assert rc[:].apply_async(os.getpid).get_dict(timeout=20) == pids
            for number in rc.ids:
                assert list(rc[number].pull("kept").get(timeout=20)) == [number]
    assert all(alive(pid) for pid in pids.values())
    assert controller.end() == 0
    assert engines.wait(20) == 0
    return sorted(took)


@pytest.mark.timeout(150)
def test_engines_come_back_to_a_controller_that_was_killed(start: Start) -> None:
    took = kill_controllers(start, 5)
    assert took[len(took) // 2] < 5, took


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_engines_come_back_100_times(start: Start) -> None:
    took = kill_controllers(start, 100)
    print(f"engines back after: median {took[50]:.2f} s, worst {took[-1]:.2f} s")
    assert took[-2] < 5, took


def through_kills(start: Start, history: History, rounds: int) -> None:
    """One client goes on working while its controller is killed and started again."""
    random = chance("through_kills")
    controller = start("ipcontrollerz -r")
    controller.until("^start engines:")
    engines = start("ipenginez -n 3")
    for _ in range(3):
        engines.until("is ready")
    with ipp.Client() as rc:
        rc.wait_for_engines(3, timeout=20)
        number = rc.session.connection.facts["number"]
        balanced, direct = rc.load_balanced_view(), rc[:]
        for _ in range(rounds):
            for index in range(60):
                history.submit(balanced, random.random() * 0.02, retries=index % 2)
            values = direct.apply_async(slow_pid, random.random() * 0.3)
            big = balanced.apply_async(bytes, 300_000)
            time.sleep(random.random() * 0.4)
            history.fault("controller", controller.process.pid)
            controller.process.kill()
            controller.wait()
            time.sleep(random.random() * 0.5)
            controller = start("ipcontrollerz -r")
            controller.until("^start engines:")
            history.receive_all()
            assert len(set(values.get(timeout=30))) == 3
            assert big.get(timeout=30) == bytes(300_000)
        assert rc.session.connection.facts["number"] == number
        assert balanced.map_sync(abs, range(-50, 0)) == list(range(50, 0, -1))
    assert judge(read(history.path), ()) == []
    assert controller.end() == 0
    assert engines.wait(20) == 0


def slow_pid(seconds: float) -> int:
    import os
    import time

    time.sleep(seconds)
    return os.getpid()


@pytest.mark.timeout(150)
def test_a_client_that_lives_gets_all_its_results(start: Start, tmp_path: Path) -> None:
    with closing(History(tmp_path / "history")) as history:
        through_kills(start, history, 5)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_client_lives_through_100_kills(start: Start, tmp_path: Path) -> None:
    with closing(History(tmp_path / "history")) as history:
        through_kills(start, history, 100)


def test_an_agent_that_does_not_come_back_took_its_answers_with_it(start: Start) -> None:
    """What may have run is lost, or tried again; what no agent had is run."""
    controller = start("ipcontrollerz -r")
    controller.until("^start engines:")
    first, second = start("ipenginez"), start("ipenginez")
    first.until("is ready")
    second.until("is ready")
    with ipp.Client() as rc:
        rc.wait_for_engines(2, timeout=20)
        pids = set(rc[:].apply_async(os.getpid).get(timeout=20))
        view = rc.load_balanced_view()
        once = [view.apply_async(slow_pid, 0.05) for _ in range(20)]
        view.retries = 2
        again = [view.apply_async(slow_pid, 0.05) for _ in range(20)]
        controller.process.kill()
        first.process.kill()
        controller.wait()
        first.wait()
        controller = start("ipcontrollerz -r")
        controller.until("^start engines:")
        assert {result.get(timeout=40) for result in again} <= pids
        for result in once:
            error = result.exception(20)
            assert error is None or (
                isinstance(error, ipp.TaskLost) and "may have" in str(error)
            )
        assert len(rc.ids) == 1
    assert controller.end() == 0


def test_a_journal_is_owner_only_and_gone_after_a_clean_end(
    start: Start, ipython_dir: Path
) -> None:
    controller = start("ipcontrollerz -r")
    controller.until("^start engines:")
    path = ipython_dir / "cluster_default" / "security" / "ipcontroller.members"
    with ipp.Client():
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.stat().st_size > 0
    assert controller.end() == 0
    assert not path.exists()


def test_engines_that_come_late_keep_their_ids_and_new_ones_get_others(
    start: Start, ipython_dir: Path
) -> None:
    """Ids begin anew with a controller; those that old engines bring are not given twice."""
    controller = start("ipcontrollerz -r")
    controller.until("^start engines:")
    old = start("ipenginez -n 2")
    for _ in range(2):
        old.until("is ready")
    with ipp.Client() as rc:
        rc.wait_for_engines(2, timeout=20)
        pids = rc[:].apply_async(os.getpid).get_dict(timeout=20)
    controller.process.kill()
    controller.wait()
    again = start("ipcontrollerz -r")
    again.until("^start engines:")
    with ipp.Client(timeout=30) as rc:
        rc.wait_for_engines(2, timeout=30)
        new = start("ipenginez")
        new.until("is ready")
        rc.wait_for_engines(3, timeout=20)
        known = rc[:].apply_async(os.getpid).get_dict(timeout=20)
        assert {n: pid for n, pid in known.items() if n in pids} == pids
        assert len(known) == 3
    assert again.end() == 0
