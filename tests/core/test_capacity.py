"""The numbers of one engine: load, pace, credit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipclusterz.core.capacity import AHEAD, LONGEST, MAX_CREDIT, Engine, smoothed
from ipclusterz.core.tasks import Agent


def engine(hwm: int = 0) -> Engine:
    return Engine(0, Agent(b"agent"), hwm)


def test_an_engine_nobody_knows_may_hold_one_task() -> None:
    new = engine()
    assert (new.credit, new.load, new.has_room) == (1, 0, True)
    new.load = 1
    assert not new.has_room


def test_one_whose_agent_is_absent_has_no_room() -> None:
    new = engine()
    new.agent.absent = True
    assert not new.has_room


@pytest.mark.parametrize("seconds", [0.0, 1e-6, AHEAD / MAX_CREDIT, 0.001, 0.02, AHEAD, 1.0])
def test_credit_grows_to_what_is_done_in_the_time_ahead(seconds: float) -> None:
    new = engine()
    for _ in range(2 * MAX_CREDIT):
        new.learn(seconds)
    most = max(1, int(AHEAD / seconds)) if seconds else MAX_CREDIT
    assert new.credit == min(most, MAX_CREDIT)
    new.distrust()
    assert new.credit == 1


def test_a_credit_that_was_set_stays() -> None:
    new = engine(hwm=3)
    new.learn_all([9.0] * 5)
    assert new.credit == 3
    new.distrust()
    assert new.credit == 3


def test_a_pace_rises_at_once_and_falls_slowly() -> None:
    assert smoothed(-1.0, 2.0) == 2.0
    assert smoothed(1.0, 3.0) == 2.0
    assert smoothed(1.0, 0.0) == 1.0 - 1 / 8


@given(st.lists(st.floats(allow_nan=False), min_size=1), st.floats(0.0, LONGEST))
def test_clocks_that_lie_leave_a_pace_that_can_be(times: list[float], pace: float) -> None:
    new = engine()
    new.pace = pace
    new.learn_all(times)
    assert 0.0 <= new.pace <= LONGEST
    assert 1 <= new.credit <= MAX_CREDIT


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30))
def test_the_mean_of_what_is_quick_says_as_much_as_each(times: list[float]) -> None:
    """Each weighs an eighth of what is left: whoever learns them one by one ends close by."""
    together, alone = engine(), engine()
    together.pace = alone.pace = 1.0
    together.learn_all(times)
    for each in times:
        alone.pace += (each - alone.pace) / 8
    assert min(*times, 1.0) - 1e-9 <= together.pace <= 1.0
    assert abs(together.pace - alone.pace) <= max(times) - min(times) + 1e-9
