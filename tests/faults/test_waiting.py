"""Short tasks do not wait behind a long one, whatever their function took before."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ipclusterz as ipp
from tests.faults.watch import until


@pytest.fixture
def rc() -> Iterator[ipp.Client]:
    with ipp.Cluster(n=2) as client:
        yield client


def work(release: str) -> int:
    """Do nothing, or, given a path, wait until it exists."""
    while release and not os.path.exists(release):
        time.sleep(0.001)
    return os.getpid()


def test_others_do_not_wait_for_the_slow_one(rc: ipp.Client, tmp_path: Path) -> None:
    """The function was quick a thousand times, so its tasks go in large batches."""
    view = rc.load_balanced_view()
    for result in [view.apply_async(work, "") for _ in range(1000)]:
        result.get(timeout=20)
    release = tmp_path / "release"
    slow = 37
    results = [view.apply_async(work, str(release) if i == slow else "") for i in range(500)]
    quick = [result for i, result in enumerate(results) if i != slow]
    for result in quick:
        result.get(timeout=20)
    assert not results[slow].done()
    release.touch()
    assert results[slow].get(timeout=5) in {result.get() for result in quick}


def test_one_slow_item_on_every_engine(rc: ipp.Client, tmp_path: Path) -> None:
    """With all engines busy the rest waits, and goes on as soon as one of them is free."""
    view = rc.load_balanced_view()
    for result in [view.apply_async(work, "") for _ in range(1000)]:
        result.get(timeout=20)
    first, second = tmp_path / "first", tmp_path / "second"
    slow = [view.apply_async(work, str(path)) for path in (first, second)]
    rest = [view.apply_async(work, "") for _ in range(200)]
    first.touch()
    pid = slow[0].get(timeout=5)
    assert {result.get(timeout=5) for result in rest} == {pid}
    assert not slow[1].done()
    second.touch()
    assert slow[1].get(timeout=5) != pid


def test_each_ran_once(rc: ipp.Client, tmp_path: Path) -> None:
    """What was taken back from one engine runs on another, and nowhere else."""

    def note(number: int, seconds: float, log: str) -> None:
        with open(log, "a") as file:
            file.write(f"{number}\n")
        time.sleep(seconds)

    view = rc.load_balanced_view()
    log = tmp_path / "log"
    for result in [view.apply_async(note, -1, 0.0, str(log)) for _ in range(300)]:
        result.get(timeout=20)
    results = [view.apply_async(note, i, 0.1 * (i % 50 == 7), str(log)) for i in range(400)]
    for result in results:
        result.get(timeout=20)
    until(lambda: len(log.read_text().splitlines()) >= 700, "all notes")
    ran = [int(line) for line in log.read_text().splitlines()]
    assert sorted(number for number in ran if number >= 0) == list(range(400))
