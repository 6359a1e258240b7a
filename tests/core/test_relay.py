"""The direct scheduler and the output relay: everything goes where its name says."""

from __future__ import annotations

import pytest

from ipclusterz.core import message as m
from ipclusterz.core.message import Role, Status
from ipclusterz.core.relay import Relay, StreamRelay
from tests.core.bench import Bench, failure, key, outcome, request


def bench(**agents: tuple[int, ...]) -> Bench:
    made = Bench(Relay())
    made.client()
    for name, engines in agents.items():
        made.agent(name.encode(), *engines)
    made.out()
    return made


def test_a_broadcast_is_one_message_for_each_agent() -> None:
    cluster = bench(a=(0, 2), b=(1,))
    cluster.say(b"client", request(10, [0, 1, 2]))
    fans = dict(cluster.out())
    assert (fans[b"a"].keys, fans[b"a"].engines) == ([key(10), key(12)], [0, 2])
    assert (fans[b"b"].keys, fans[b"b"].engines) == ([key(11)], [1])
    assert fans[b"a"].data == b"data"


def test_requests_are_not_mixed_and_keep_their_order() -> None:
    cluster = bench(a=(0, 1))
    cluster.say(b"client", request(1, [0, 1]), request(3, [1]), request(4, [0]))
    fans = cluster.to(b"a")
    assert [f.keys for f in fans] == [[key(1), key(2)], [key(3)], [key(4)]]


def test_a_target_may_be_named_twice() -> None:
    cluster = bench(a=(0,))
    cluster.say(b"client", request(1, [0, 0]))
    ((_, fan),) = cluster.out()
    assert (fan.keys, fan.engines) == ([key(1), key(2)], [0, 0])


def test_a_function_goes_once_before_the_first_fan() -> None:
    cluster = bench(a=(0,), b=(1,))
    function = m.Function(b"f", b"code")
    cluster.say(b"client", function, request(1, [0, 1], fn=b"f"), request(3, [0, 1], fn=b"f"))
    for agent in (b"a", b"b"):
        assert [type(x) for x in cluster.to(agent)] == [m.Function, m.Fan, m.Fan]


def test_every_target_answers_for_itself() -> None:
    cluster = bench(a=(0, 1))
    cluster.say(b"client", request(1, [0, 1]))
    ((_, fan),) = cluster.out()
    cluster.say(b"a", outcome(key(2), fan.attempt, 1, Status.ERROR))
    assert [(r.key, r.status) for r in cluster.results()] == [(key(2), Status.ERROR)]
    cluster.say(b"a", outcome(key(1), fan.attempt, 0))
    assert [(r.key, r.status) for r in cluster.results()] == [(key(1), Status.OK)]
    assert not cluster.core.tasks


def refused(cluster: Bench) -> str:
    (answer,) = cluster.results()
    assert answer.status == Status.REFUSED
    assert failure(answer).name == "EngineError"
    return failure(answer).text


def test_an_engine_that_never_was_is_named_and_so_are_those_that_are() -> None:
    cluster = bench(a=(3, 1))
    cluster.say(b"client", request(1, [99]))
    assert refused(cluster) == "there is no engine 99; there are: 1, 3"


def test_without_engines_there_are_none() -> None:
    cluster = bench()
    cluster.say(b"client", request(1, [0]))
    assert refused(cluster) == "there is no engine 0; there are: none"


def test_not_all_engines_of_a_large_cluster_are_named() -> None:
    cluster = bench(a=tuple(range(100)))
    cluster.say(b"client", request(1, [100]))
    listed = ", ".join(map(str, range(20)))
    assert refused(cluster) == f"there is no engine 100; there are: {listed}, ..."


@pytest.mark.parametrize("how", ["down", "expel", "roll"])
def test_an_engine_that_ended_is_refused_with_its_reason(how: str) -> None:
    cluster = bench(a=(0, 1))
    why = "killed by signal 9"
    if how == "down":
        cluster.say(b"a", m.Down(0, why))
    elif how == "expel":
        cluster.expel(b"a", why)
    else:
        cluster.say(b"a", m.RollCall([1], [0], []))
        why = "it is no longer registered"
    cluster.say(b"client", request(1, [0]))
    assert refused(cluster) == f"engine 0 has ended: {why}"


def test_the_other_targets_of_a_request_are_not_refused() -> None:
    cluster = bench(a=(0, 1))
    cluster.say(b"client", request(1, [0, 7, 1]))
    ((_, fan),) = cluster.out(m.Fan)
    assert fan.keys == [key(1), key(3)]


def test_an_engine_that_comes_back_by_its_id_is_there() -> None:
    cluster = bench(a=(0,))
    cluster.say(b"a", m.Down(0, "ended"))
    cluster.core.join(b"a", [0], cluster.now)
    cluster.say(b"client", request(1, [0]))
    assert len(cluster.out(m.Fan)) == 1


def test_what_an_agent_held_is_lost_with_it() -> None:
    cluster = bench(a=(0,), b=(1,))
    cluster.say(b"client", request(1, [0, 1]))
    cluster.out()
    cluster.expel(b"a", "its host is gone")
    (lost,) = cluster.results()
    assert (lost.key, lost.status) == (key(1), Status.LOST)
    assert failure(lost).engine == 0


def test_what_comes_back_unbegun_died_with_its_engine() -> None:
    cluster = bench(a=(0,))
    cluster.say(b"client", request(1, [0]), request(2, [0]))
    fans = cluster.to(b"a")
    back = [(f.keys[0], f.attempt) for f in fans]
    cluster.say(b"a", m.Returned(back, 0, "engine 0 ended before this task began: oom"))
    answers = cluster.results()
    assert [r.status for r in answers] == [Status.DIED, Status.DIED]
    assert {failure(r).text for r in answers} == {"engine 0 ended before this task began: oom"}
    assert not cluster.core.tasks


def test_a_request_that_reaches_into_other_clients_keys_is_ignored() -> None:
    cluster = bench(a=(0,))
    last = (1 << m.COUNTER_BITS) - 1
    cluster.say(b"client", request(last, [0, 0]), request(1, [0], client=2))
    assert cluster.out() == []
    cluster.say(b"client", request(last, [0]), request(5, []))
    assert len(cluster.out()) == 1


def test_a_request_that_waits_for_its_function_can_be_cancelled() -> None:
    cluster = bench(a=(0, 1))
    cluster.say(b"client", request(1, [0, 1], fn=b"f"))
    cluster.say(b"client", m.Cancel([key(2)]))
    assert [(r.key, r.status) for r in cluster.results()] == [(key(2), Status.ABORTED)]
    cluster.say(b"client", m.Function(b"f", b"code"))
    ((_, fan),) = cluster.out(m.Fan)
    assert fan.keys == [key(1)]


def test_a_request_that_was_not_sent_yet_can_be_taken_over_by_a_roll() -> None:
    cluster = bench(a=(0,))
    cluster.core.handle(b"client", [], 0.0)
    relay = cluster.core
    relay._handlers[m.Request](b"client", request(1, [0]), 0.0)
    relay._roll_call(b"a", m.RollCall([0], [], [(key(1), 4, 0)]), 0.0)
    relay.settle(0.0)
    assert cluster.out() == []
    assert list(relay.agents[b"a"].held) == [key(1)]


def test_attempts_of_targets_that_go_together_are_equal() -> None:
    cluster = Bench(Relay(1))
    cluster.client()
    cluster.agent(b"a", 0, 1, called=False)
    cluster.core.roster([b"a"], 0.0)
    cluster.say(b"client", m.Resumed(2), request(1, [0, 1]))
    cluster.say(b"a", m.RollCall([0, 1], [], []))
    ((_, fan),) = cluster.out(m.Fan)
    for index, engine in enumerate(fan.engines):
        cluster.say(b"a", outcome(fan.keys[index], fan.attempt, engine))
    assert len(cluster.results()) == 2


# -- output --------------------------------------------------------------------------------


def stream(client: int, text: str = "text") -> m.Stream:
    return m.Stream(key(1, client), 0, 1, text)


def test_output_goes_to_the_client_whose_task_wrote_it() -> None:
    relay = StreamRelay()
    relay.admit(b"one", Role.CLIENT, 1)
    relay.admit(b"two", Role.CLIENT, 2)
    relay.admit(b"agent", Role.ENGINE, 0)
    texts = [stream(2, "a"), stream(1, "b"), stream(2, "c"), stream(3, "nobody"), stream(0)]
    relay.handle(b"agent", texts, 0.0)
    assert relay.out == {b"two": [texts[0], texts[2]], b"one": [texts[1]]}


def test_output_for_clients_that_left_goes_nowhere() -> None:
    relay = StreamRelay()
    relay.admit(b"one", Role.CLIENT, 1)
    relay.expel(b"one", "left", 0.0)
    relay.expel(b"one", "left", 0.0)
    relay.expel(b"agent", "left", 0.0)
    relay.handle(b"agent", [stream(1)], 0.0)
    assert not relay.out
