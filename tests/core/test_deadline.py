"""A task that has a time to be begun in ends when it is over, wherever it waits."""

from __future__ import annotations

import pytest

from ipclusterz.core import deadline
from ipclusterz.core import message as m
from ipclusterz.core.balance import Balancer
from ipclusterz.core.deadline import Deadlines
from ipclusterz.core.message import Status
from tests.core.bench import Bench, failure, key, result, submit


@pytest.fixture
def cluster() -> Bench:
    """One client, one engine of one agent, that may hold four tasks."""
    bench = Bench(Balancer(hwm=4))
    bench.client()
    bench.agent(b"agent", 0)
    return bench


def with_the_agent(cluster: Bench, *tasks: m.Submit) -> list[m.Assign]:
    """Have an agent hold tasks, the first of which runs; return them when time is over."""
    cluster.say(b"client", *tasks)
    given = cluster.assigned()
    assert len(given) == len(tasks), "handed over ahead of their turn"
    cluster.tick(10.0)
    return given


def ends(cluster: Bench) -> dict[int, str]:
    return {r.key: failure(r).name if r.status else "" for r in cluster.results()}


def gone(cluster: Bench) -> bool:
    core = cluster.core
    return not core.tasks and not any(agent.held for agent in core.agents.values())


def aborted(given: m.Assign) -> m.Result:
    data = m.encode(m.Failure("TaskAborted", "cancelled before it began"))
    return result(given, Status.ABORTED, data=data)


def test_its_agent_is_asked_to_end_what_no_engine_has_begun(cluster: Bench) -> None:
    runs, waits = with_the_agent(cluster, submit(1, timeout=9.0), submit(2, timeout=9.0))
    assert cluster.to(b"agent", m.Withdraw) == [m.Withdraw([key(1), key(2)])]
    assert cluster.results() == []
    cluster.say(b"agent", aborted(waits))
    assert ends(cluster) == {key(2): "TaskTimeout"}
    cluster.say(b"agent", result(runs))
    assert ends(cluster) == {key(1): ""} and gone(cluster)


def test_it_is_not_tried_again(cluster: Bench) -> None:
    [waits] = with_the_agent(cluster, submit(1, timeout=9.0, retries=3))
    cluster.say(b"agent", aborted(waits))
    assert ends(cluster) == {key(1): "TaskTimeout"} and gone(cluster)


def test_one_given_back_unbegun_does_not_wait_on(cluster: Bench) -> None:
    [waits] = with_the_agent(cluster, submit(1, timeout=9.0))
    cluster.say(b"agent", m.Returned([(waits.key, waits.attempt)], 0, "recalled"))
    assert ends(cluster) == {key(1): "TaskTimeout"} and gone(cluster)


def test_one_whose_function_does_not_want_this_engine_does_not_wait_on(cluster: Bench) -> None:
    [waits] = with_the_agent(cluster, submit(1, timeout=9.0))
    unmet = m.encode(m.Failure("UnmetDependency", "no such library"))
    cluster.say(b"agent", result(waits, Status.UNMET, data=unmet))
    assert ends(cluster) == {key(1): "TaskTimeout"} and gone(cluster)


def test_one_that_had_begun_is_tried_again_for_as_long_as_it_takes(cluster: Bench) -> None:
    [first] = with_the_agent(cluster, submit(1, timeout=9.0, retries=1))
    cluster.to(b"agent")
    cluster.say(b"agent", result(first, Status.DIED, data=m.encode(m.Failure("X", ""))))
    [again] = cluster.assigned()
    cluster.tick(100.0)
    cluster.say(b"agent", m.Returned([(again.key, again.attempt)], 0, "recalled"))
    [again] = cluster.assigned()
    cluster.say(b"agent", result(again))
    assert ends(cluster) == {key(1): ""} and gone(cluster)


def test_one_that_its_client_cancelled_is_aborted(cluster: Bench) -> None:
    [waits] = with_the_agent(cluster, submit(1, timeout=9.0))
    cluster.say(b"client", m.Cancel([key(1)]))
    cluster.say(b"agent", aborted(waits))
    assert ends(cluster) == {key(1): "TaskAborted"} and gone(cluster)


def test_many_that_had_begun_are_not_kept_in_mind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "FEW", 4)
    deadlines = Deadlines()
    under_way = set(range(1000))
    for one in range(1000):
        deadlines.ask(one)
        under_way.discard(one - 3)
        deadlines.trim(under_way)
        assert len(deadlines.overdue) <= 64 + 1
    assert {997, 998, 999} <= deadlines.overdue


def test_times_are_told_in_their_order_and_once() -> None:
    deadlines = Deadlines()
    assert not deadlines
    for one, seconds in ((1, 5.0), (2, 0.0), (3, 1.0), (4, 3.0)):
        deadlines.set(one, seconds, 100.0)
    assert list(deadlines.due(100.5)) == []
    assert list(deadlines.due(103.0)) == [3, 4]
    assert list(deadlines.due(200.0)) == [1] and not deadlines
