"""Whole controllers that are killed under load and started again with -r: engines come back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import ipclusterz as ipp
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
