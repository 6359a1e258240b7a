"""Tasks that wait for tasks: what may go, where to, and what never can."""

from __future__ import annotations

import itertools

import pytest

from ipclusterz.core import message as m
from ipclusterz.core.balance import Balancer
from ipclusterz.core.dependency import BAD, GOOD, OPEN, Dependencies, Ends, met, places
from ipclusterz.core.message import Status
from tests.core.bench import Bench, failure, key, result, submit


def on(*counters: int, **how: bool) -> m.Depend:
    return m.Depend([key(n) for n in counters], **how)


def bench(*engines: int) -> Bench:
    made = Bench(Balancer())
    made.client()
    made.agent(b"agent", *engines)
    return made


def run(cluster: Bench, *status: Status) -> list[int]:
    """Let the agent end what it was given, with these statuses; return which tasks."""
    given = cluster.assigned()
    ends = itertools.chain(status, itertools.repeat(Status.OK))
    cluster.say(b"agent", *[result(a, end) for a, end in zip(given, ends, strict=False)])
    return [a.key & 0xFFFF for a in given]


# -- the rules -----------------------------------------------------------------------------


@pytest.mark.parametrize("ends", list(itertools.product([None, True, False], repeat=3)))
@pytest.mark.parametrize("all_", [True, False])
@pytest.mark.parametrize(("success", "failure"), [(True, False), (False, True), (True, True)])
def test_every_combination(
    ends: tuple[bool | None, ...], all_: bool, success: bool, failure: bool
) -> None:
    depend = m.Depend([1, 2, 3], all_, success, failure)
    told = {k: (e, 0) for k, e in zip((1, 2, 3), ends, strict=True) if e is not None}
    good = [success if e else failure for e in ends if e is not None]
    if all_:
        expected = BAD if not all(good) else GOOD if len(good) == 3 else OPEN
    else:
        expected = GOOD if any(good) else BAD if len(good) == 3 else OPEN
    assert met(depend, told) == expected


def test_where_a_task_follows_to() -> None:
    ends = {1: (True, 4), 2: (True, 4), 3: (True, 7), 5: (False, 9), 6: (True, -1)}
    assert places(m.Depend([1, 2]), ends) == [4]
    assert places(m.Depend([1, 3]), ends) == []
    assert places(m.Depend([1, 3], all=False), ends) == [4, 7]
    assert places(m.Depend([1, 5], all=False), ends) == [4]  # a failure does not count
    assert places(m.Depend([1, 5], all=False, failure=True), ends) == [4, 9]
    assert places(m.Depend([6]), ends) == []


def test_the_memory_of_ends_is_bounded() -> None:
    ends = Ends(kept=10)
    for n in range(100):
        ends.note(n, n % 2 == 0, n % 5 - 1)
    assert ends.get(99) == (False, 3) and ends.get(90) == (True, -1)
    assert ends.get(0) is None
    assert sum(ends.get(n) is not None for n in range(100)) <= 20


def test_what_waits_is_forgotten_when_it_is_dropped() -> None:
    class Task:
        key = 5

    waiting = Dependencies(Ends())
    assert waiting.enter(Task(), m.Options(after=m.Depend([1, 2])), {1, 2}) is None
    assert len(waiting) == 1 and waiting.drop(5) and not waiting.drop(5)
    assert waiting.ended(1, True, 0) == [] and not waiting


# -- in the scheduler ----------------------------------------------------------------------


def test_after_waits_for_the_end() -> None:
    cluster = bench(0, 1)
    cluster.say(b"client", submit(1), submit(2, after=on(1)))
    assert run(cluster) == [1]
    assert run(cluster) == [2]


def test_what_has_ended_before_need_not_be_waited_for() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1))
    run(cluster)
    cluster.say(b"client", m.Received([key(1)]), submit(2, after=on(1)))
    assert run(cluster) == [2]


def test_the_client_may_know_what_the_scheduler_does_not() -> None:
    cluster = bench(0)
    depend = on(7)
    depend.known = [(key(7), True, 0)]
    cluster.say(b"client", submit(8, after=depend))
    assert run(cluster) == [8]


def test_a_task_nobody_knows_can_not_be_waited_for() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(8, after=on(7)))
    [end] = cluster.results()
    assert end.status == Status.REFUSED
    assert failure(end).name == "ImpossibleDependency" and "nothing is known" in (
        failure(end).text
    )


def test_failures_make_impossible_what_needs_success_and_all_that_waits_for_it() -> None:
    cluster = bench(0)
    n = 3000  # far more than Python's stack has room for
    cluster.say(b"client", submit(1), *[submit(i, after=on(i - 1)) for i in range(2, n)])
    cluster.say(b"agent", *[result(a, Status.ERROR) for a in cluster.assigned()])
    ends = cluster.results()
    assert [end.key for end in ends] == [key(i) for i in range(1, n)]
    assert {failure(end).name for end in ends[1:]} == {"ImpossibleDependency"}
    assert core_is_empty(cluster)


def test_a_failure_can_be_what_is_waited_for() -> None:
    cluster = bench(0)
    depend = on(1, success=False, failure=True)
    cluster.say(b"client", submit(1), submit(2, after=depend), submit(3, after=on(2)))
    assert run(cluster, Status.ERROR) == [1]
    assert run(cluster) == [2] and run(cluster) == [3]


def test_a_retry_is_no_end() -> None:
    cluster = bench(0, 1)
    cluster.say(b"client", submit(1, retries=1), submit(2, after=on(1)))
    assert run(cluster, Status.ERROR) == [1]
    assert run(cluster) == [1]
    assert run(cluster) == [2]


def test_follow_goes_to_the_engine() -> None:
    cluster = bench(0, 1, 2)
    cluster.say(b"client", submit(1), submit(2), submit(3))
    where = {a.key: a.engine for a in cluster.assigned()}
    for k, engine in where.items():
        cluster.say(b"agent", m.Result(k, 1, engine, 0, b"", None, 1.0, 2.0, 0))
    for n in range(10, 20):
        cluster.say(b"client", submit(n, follow=on(n % 3 + 1)))
        [given] = cluster.assigned()
        assert given.engine == where[key(n % 3 + 1)] and given.fixed
        cluster.say(b"agent", result(given))
    cluster.say(b"client", submit(30, follow=on(1, 2)))
    [end] = [r for r in cluster.results() if r.key == key(30)]
    assert "different engines" in failure(end).text


def test_following_to_an_engine_that_is_gone_is_impossible() -> None:
    cluster = bench(0, 1)
    cluster.say(b"client", submit(1))
    [given] = cluster.assigned()
    cluster.say(b"agent", result(given), m.Down(given.engine, "killed"))
    cluster.say(b"client", submit(2, follow=on(1)))
    end = cluster.results()[-1]
    assert failure(end).name == "ImpossibleDependency"


def test_waiting_too_long() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1), submit(2, after=on(1), timeout=5.0))
    cluster.say(b"client", *[submit(n, timeout=2.0) for n in (3, 4)], submit(5, timeout=60.0))
    cluster.tick(3.0)
    ends = {r.key: failure(r).name for r in cluster.results()}
    assert ends == {key(3): "TaskTimeout", key(4): "TaskTimeout"}
    cluster.tick(3.0)
    assert [failure(r).name for r in cluster.results()] == ["DependencyTimeout"]
    assert run(cluster) == [1] and run(cluster) == [5]
    cluster.tick(60.0)
    assert core_is_empty(cluster)


def test_a_task_that_waits_can_be_cancelled() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1), submit(2, after=on(1)), submit(3, after=on(2)))
    cluster.say(b"client", m.Cancel([key(2)]))
    two, three = cluster.results()
    assert two.status == Status.ABORTED and failure(three).name == "ImpossibleDependency"
    assert run(cluster) == [1] and core_is_empty(cluster)


# -- functions that choose their engine ----------------------------------------------------


def unmet() -> bytes:
    return m.encode(m.Failure("UnmetDependency", "no such library"))


def test_an_engine_that_does_not_suit_is_not_asked_again() -> None:
    cluster = bench(0, 1, 2)
    cluster.say(b"client", submit(1))
    asked = []
    for _ in range(2):
        [given] = cluster.assigned()
        asked.append(given.engine)
        cluster.say(b"agent", result(given, Status.UNMET, data=unmet()))
    [given] = cluster.assigned()
    assert sorted([*asked, given.engine]) == [0, 1, 2]
    cluster.say(b"agent", result(given))
    [end] = cluster.results()
    assert end.status == Status.OK and core_is_empty(cluster)


def test_with_no_engine_left_it_is_impossible_and_says_why() -> None:
    cluster = bench(0, 1)
    cluster.say(b"client", submit(1, retries=5), submit(2, after=on(1)))
    for _ in range(2):
        [given] = cluster.assigned()
        cluster.say(b"agent", result(given, Status.UNMET, data=unmet()))
    one, two = cluster.results()
    assert "no such library" in failure(one).text and "0, 1" in failure(one).text
    assert {failure(one).name, failure(two).name} == {"ImpossibleDependency"}
    assert core_is_empty(cluster)


def test_an_engine_that_comes_later_is_asked() -> None:
    cluster = bench(0)
    cluster.agent(b"busy", 1)
    cluster.say(b"client", submit(1), submit(2))
    [first] = cluster.assigned()
    cluster.assigned(b"busy")
    cluster.say(b"agent", result(first, Status.UNMET, data=unmet()))
    cluster.agent(b"third", 2)
    [given] = cluster.assigned(b"third")
    assert given.key == first.key


# -- what kills engines --------------------------------------------------------------------


def test_a_task_that_kills_three_engines_is_not_tried_again() -> None:
    cluster = bench(0, 1, 2, 3)
    cluster.say(b"client", submit(1, retries=10))
    for engine_count in range(3):
        assert cluster.results() == [], engine_count
        [given] = cluster.assigned()
        died = m.encode(m.Failure("EngineError", "SIGSEGV", engine=given.engine))
        end = result(given, Status.DIED, data=died)
        cluster.say(b"agent", end, m.Down(given.engine, "SIGSEGV"))
    [last] = cluster.results()
    assert last.status == Status.DIED and cluster.assigned() == []


def core_is_empty(cluster: Bench) -> bool:
    core = cluster.core
    assert isinstance(core, Balancer)
    return not core.tasks and not core.queued and not core._depending and not core._apart.groups
