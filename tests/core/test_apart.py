"""Tasks that may not run just anywhere: where they may, and in which order they go."""

from __future__ import annotations

import pytest

from ipclusterz.core import message as m
from ipclusterz.core import policy
from ipclusterz.core.apart import Apart, refusal
from ipclusterz.core.capacity import Engine
from ipclusterz.core.tasks import Agent, Task
from tests.core.bench import submit


class Place:
    """Engines of one agent, what waits for them, and what they were given."""

    def __init__(self, *numbers: int) -> None:
        agent = Agent(b"agent")
        self.engines = {number: Engine(number, agent, 2) for number in numbers}
        self.apart = Apart(self.engines)
        self.policy = policy.make("leastload", 1)
        self.given: list[tuple[int, int]] = []

    def task(self, counter: int, *engines: int) -> Task:
        work = submit(counter, engines=list(engines)) if engines else submit(counter)
        return Task(counter, b"client", work)

    def keep(self, *tasks: Task) -> None:
        for task in tasks:
            allowed = self.apart.allowed(task)
            assert allowed
            self.apart.keep(task, allowed)

    def give(self, task: Task, engine: Engine) -> None:
        engine.load += 1
        self.given.append((task.key, engine.id))
        if engine.has_room:
            self.policy.offer(engine.id, engine.load)
        else:
            self.policy.withdraw(engine.id)

    def settle(self) -> list[tuple[int, int]]:
        for engine in self.engines.values():
            if engine.has_room:
                self.policy.offer(engine.id, engine.load)
        self.apart.give_confined(self.give)
        self.apart.give_shunning(self.policy, self.give)
        given, self.given = self.given, []
        return given


def test_most_tasks_may_run_anywhere() -> None:
    place = Place(0, 1)
    task = place.task(1)
    assert place.apart.allowed(task) is None and not place.apart.shuns(task)


@pytest.mark.parametrize(
    ("named", "places", "unmet", "excluded", "allowed"),
    [
        ([1, 9], None, None, None, (1,)),
        ([], [0, 9], None, None, (0,)),
        ([0, 1], [1], None, None, (1,)),
        ([0, 1], None, {0}, None, (1,)),
        ([0, 1], None, None, {1}, (0,)),
        ([1], None, None, {1}, (1,)),  # better than none
        ([1], None, {1}, None, ()),
        ([9], None, None, None, ()),
    ],
)
def test_where_a_task_may_run(
    named: list[int],
    places: list[int] | None,
    unmet: set[int] | None,
    excluded: set[int] | None,
    allowed: tuple[int, ...],
) -> None:
    place = Place(0, 1)
    task = place.task(1, *named)
    task.places, task.unmet, task.excluded = places, unmet, excluded
    assert place.apart.allowed(task) == allowed


def test_what_is_confined_goes_in_order_to_the_least_loaded() -> None:
    place = Place(0, 1, 2)
    place.engines[0].load = 1
    place.keep(*[place.task(i, 0, 1) for i in range(1, 6)])
    assert place.settle() == [(1, 1), (2, 0), (3, 1)]
    assert place.settle() == []
    place.engines[1].load -= 1
    assert place.settle() == [(4, 1)]


def test_what_shuns_engines_lets_them_to_others() -> None:
    place = Place(0, 1)
    tasks = [place.task(i) for i in (1, 2, 3)]
    for task in tasks:
        task.excluded = {0}
        assert place.apart.shuns(task)
    assert place.settle() == [(1, 1), (2, 1)]
    assert place.policy.pick() == 0, "it has its room still"


def test_who_would_shun_all_engines_shuns_none() -> None:
    place = Place(0, 1)
    task = place.task(1)
    task.excluded = {0, 1}
    assert not place.apart.shuns(task)
    assert place.apart.allowed(task) == (0, 1)


def test_any_may_leave_and_the_others_keep_their_order() -> None:
    place = Place(0, 1)
    place.keep(*[place.task(i, 0) for i in range(1, 5)])
    shunning = place.task(9)
    shunning.unmet = {0}
    assert place.apart.shuns(shunning)
    assert place.apart.drop(1) and place.apart.drop(3) and place.apart.drop(9)
    assert not place.apart.drop(1) and not place.apart.drop(77)
    assert place.settle() == [(2, 0), (4, 0)]
    assert not place.apart.groups and not place.apart.shunning


def test_a_new_engine_is_for_those_who_named_none() -> None:
    place = Place(0, 1)
    named, tried = place.task(1, 0), place.task(2)
    tried.excluded = {0, 1}
    place.keep(named, tried)
    assert place.apart.came() == [tried]
    assert place.apart.came() == []
    assert place.settle() == [(1, 0)]


def test_an_engine_that_goes_concerns_who_waits_for_it_or_shuns_all_others() -> None:
    place = Place(0, 1, 2)
    waits, other, shuns = place.task(1, 0, 1), place.task(2, 2), place.task(3)
    shuns.excluded = {1, 2}
    place.keep(waits, other)
    assert place.apart.shuns(shuns)
    del place.engines[0]
    assert place.apart.went(0) == [waits, shuns]
    assert place.settle() == [(2, 2)]


@pytest.mark.parametrize(
    ("places", "unmet", "name", "text"),
    [
        (None, None, "NoEnginesRegistered", "may run on is there: [7]"),
        ([3], None, "ImpossibleDependency", "it follows tasks that ran on [3]"),
        (None, {7}, "ImpossibleDependency", "(asked: 7): too small"),
    ],
)
def test_who_may_run_nowhere_hears_why(
    places: list[int] | None, unmet: set[int] | None, name: str, text: str
) -> None:
    task = Place().task(1, 7)
    task.places, task.unmet = places, unmet
    task.word = m.encode(m.Failure("UnmetDependency", "too small"))
    failure = refusal(task)
    assert failure.name == name and text in failure.text
