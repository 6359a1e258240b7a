"""How the scheduler's cores grow, and how close to the best schedule they come.

Nothing here looks at a clock of this machine: time is simulated, and cost is counted in lines
of Python that the core ran.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from benchmarks.simulated import Decider, Schedule, greedy, mixtures, schedule
from ipclusterz.core.policy import SCHEMES

ENGINES = 64
LONG, SHORT = 640, 6400


# -- long and short tasks --------------------------------------------------------------------


@pytest.fixture(scope="module", params=["shuffled", "long ones first", "long ones last"])
def done(request: pytest.FixtureRequest) -> Schedule:
    """10 s among 1 ms on 64 engines that had short tasks only before."""
    lengths = mixtures(LONG, SHORT)[request.param]
    return schedule(lengths, ENGINES, warm=2000)


def test_the_makespan_is_near_the_best_there_can_be(done: Schedule) -> None:
    assert done.bound == pytest.approx((LONG * 10 + SHORT * 0.001) / ENGINES)
    assert done.bound <= done.makespan <= 1.1 * done.bound


def test_no_task_waits_for_long_while_an_engine_idles(done: Schedule) -> None:
    """Neither in the queue nor behind a long one; work is taken back in fractions of 1 s."""
    assert done.idle < 1.0
    assert done.wasted < 0.02


def test_one_long_task_holds_up_nothing() -> None:
    """64 engines, one task of 10 s in the middle of short ones: those end without it."""
    lengths = [0.001] * 2000 + [10.0] + [0.001] * 2000
    done = schedule(lengths, ENGINES, warm=2000)
    assert done.makespan < 10.0 + 0.5
    assert done.idle < 0.5


def test_a_greedy_schedule_is_what_it_says() -> None:
    assert greedy([3.0, 1.0, 1.0, 1.0], 2) == 3.0
    assert greedy([1.0, 1.0, 1.0, 3.0], 2) == 4.0


# -- what a decision costs -------------------------------------------------------------------


class Counted(Decider):
    """Counts the lines of Python that the core runs, its generators' included."""

    def __init__(self, engines: int, scheme: str = "leastload") -> None:
        super().__init__(engines, scheme)
        self.lines = 0
        self.counting = False

    def _handle(self, peer: bytes, messages: list[Any]) -> float:
        if not self.counting:
            return super()._handle(peer, messages)
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            self.core.handle(peer, messages, self.now)
        finally:
            sys.settrace(before)
        return 0.0

    def _trace(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
        self.lines += 1
        return self._trace

    def cost(self, tasks: int) -> float:
        """Lines a task, when credits have grown."""
        for _ in range(3):
            self.wave(tasks)
        self.counting, self.lines = True, 0
        self.wave(tasks)
        self.counting = False
        return self.lines / tasks


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_decision_costs_no_more_among_many_engines(scheme: str) -> None:
    few, many = (Counted(n, scheme).cost(2 * n) for n in (100, 2000))
    assert 20 < few < 1000
    assert many < 1.3 * few


def test_a_decision_costs_no_more_with_a_long_queue() -> None:
    short, long = (Counted(10).cost(n) for n in (100, 5000))
    assert long < 1.3 * short


def test_the_counting_sees_a_cost_that_grows() -> None:
    """Or the tests above could not fail."""

    def slow(decider: Counted) -> Counted:
        settle = decider.core.settle

        def look_at_each(now: float) -> None:
            assert sum(1 for e in decider.core.engines.values() if e.load >= 0) > 0
            settle(now)

        decider.core.settle = look_at_each  # type: ignore[method-assign]
        return decider

    few, many = (slow(Counted(n)).cost(200) for n in (100, 2000))
    assert many > 1.3 * few
