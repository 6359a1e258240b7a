"""Parts that hang are told from those that are slow: counted looks, and real processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ipclusterz.net.beats import EARLY, LOOKS, Beats, Facts, Verdict, Watch, facts_of
from ipclusterz.net.loop import Loop, serve
from tests.running import eventually

LIMIT = 30.0


class Seen:
    """A watch over one imagined part, ``task``, with process id 7."""

    def __init__(self) -> None:
        self.beats = Beats(("hub", "task"), LIMIT)
        self.facts: Facts = ("S", 0.0)
        self.watch = Watch(self.beats, LIMIT, lambda pid: self.facts)
        self.now = 100.0
        self.pid = 7
        self.looks(1)

    def looks(self, n: int, state: str = "S", cpu: float = 0.0) -> list[Verdict]:
        """Look ``n`` times, the part using ``cpu`` seconds meanwhile."""
        found: list[Verdict] = []
        for _ in range(n):
            self.now += LIMIT / LOOKS
            self.facts = state, self.facts[1] + cpu / n
            found += self.watch.look(self.now, {self.pid: "task"})
        return found

    def beat(self) -> None:
        loop = Loop()
        self.beats.keep("task", loop)
        loop.process([])
        loop.close()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.mark.parametrize(
    ("state", "what"), [("S", "waits for something"), ("T", "is stopped (SIGSTOP)")]
)
def test_one_that_waits_or_is_stopped_is_told_of_and_then_hangs(
    seen: Seen, state: str, what: str
) -> None:
    assert seen.looks(EARLY - 1, state) == []
    [early] = seen.looks(1, state)
    assert not early.hangs and what in early.text
    assert early.text.startswith("the task process (pid 7) has done nothing for 10 s: ")
    assert seen.looks(LOOKS - EARLY - 1, state) == []
    [found] = seen.looks(1, state)
    assert (found.hangs, found.part, found.pid) == (True, "task", 7)
    assert found.text.startswith("it did nothing for 30 s: ") and what in found.text


def test_what_is_found_of_one_while_it_ends_is_not_its_cause(seen: Seen) -> None:
    assert [found.hangs for found in seen.looks(LOOKS, "T")] == [False, True]
    for state in "RXZT?":
        assert seen.looks(LOOKS, state) == []


def test_one_that_beats_now_and_then_does_not_hang(seen: Seen) -> None:
    for _ in range(20):
        assert seen.looks(EARLY - 1) == []
        seen.beat()
    seen.looks(LOOKS - 1)
    seen.beat()
    [found] = seen.looks(1)
    assert not found.hangs and found.text == "the task process (pid 7) goes on"
    assert all(not found.hangs for found in seen.looks(LOOKS - 1))


@pytest.mark.parametrize("state", ["R", "D", "t", "?"])
def test_one_that_gets_no_processor_or_waits_for_a_disk_is_only_told_of(
    seen: Seen, state: str
) -> None:
    found = seen.looks(100 * LOOKS, state, cpu=LIMIT / 2)
    assert [verdict.hangs for verdict in found] == [False]


def test_one_that_computes_without_end_is_judged_by_its_own_time(seen: Seen) -> None:
    found = seen.looks(LOOKS // 2, "R", cpu=LIMIT * 0.9)
    assert all(not verdict.hangs for verdict in found)
    [found_at_last] = seen.looks(1, "R", cpu=LIMIT * 0.2)
    assert found_at_last.hangs and "33 s of processor time" in found_at_last.text


def test_a_long_sleep_of_the_machine_is_one_look(seen: Seen) -> None:
    for _ in range(EARLY - 1):
        seen.now += 100_000
        assert seen.looks(1, "S") == []


def test_looks_in_quick_succession_are_one(seen: Seen) -> None:
    for _ in range(10 * LOOKS):
        seen.now += 0.01
        assert seen.watch.look(seen.now, {7: "task"}) == []
        seen.now -= 0.01
    assert seen.watch.timeout(seen.now) == pytest.approx(LIMIT / LOOKS * 1000)


def test_another_process_of_the_same_part_begins_anew(seen: Seen) -> None:
    seen.looks(LOOKS - 1)
    seen.pid = 8
    assert seen.looks(EARLY) == []  # the first look at it takes its measure


def test_no_limit_is_no_watch() -> None:
    watch = Watch(Beats(("hub",), 0.0), 0.0, lambda pid: ("T", 0.0))
    assert watch.timeout(5.0) is None
    assert all(watch.look(100.0 * i, {7: "hub"}) == [] for i in range(100))


# -- real processes ------------------------------------------------------------------------


@contextmanager
def process(body: Callable[[], None]) -> Iterator[int]:
    """A child that runs ``body``."""
    pid = os.fork()
    if pid == 0:
        try:
            body()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def verdict_on(body: Callable[[Beats], None], limit: float, looks: int) -> list[Verdict]:
    """What a watch finds of a child in so many looks, or until it hangs."""
    beats = Beats(("task",), limit)
    watch = Watch(beats, limit)
    found: list[Verdict] = []
    with process(lambda: body(beats)) as pid:
        for _ in range(looks):
            time.sleep(beats.interval)
            found += watch.look(time.monotonic(), {pid: "task"})
            if any(verdict.hangs for verdict in found):
                break
    return found


def looping(beats: Beats) -> None:
    loop = Loop()
    beats.keep("task", loop)
    serve(loop)


def test_an_idle_loop_beats() -> None:
    assert verdict_on(looping, 0.75, 3 * LOOKS) == []


def blocked(beats: Beats) -> None:
    read, _ = os.pipe()
    os.read(read, 1)


def endless(beats: Beats) -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("body", "what"),
    [(blocked, "it waits for something"), (endless, "of processor time led nowhere")],
)
def test_a_blocked_and_an_endless_one_are_found(
    body: Callable[[Beats], None], what: str
) -> None:
    *_, found = verdict_on(body, 0.75, 40 * LOOKS)
    assert found.hangs and what in found.text


def test_a_process_that_was_stopped_looks_so() -> None:
    with process(lambda: time.sleep(60)) as pid:
        eventually(lambda: facts_of(pid)[0] == "S")
        os.kill(pid, signal.SIGSTOP)
        eventually(lambda: facts_of(pid)[0] == "T")
    assert facts_of(pid) == ("?", 0.0)
