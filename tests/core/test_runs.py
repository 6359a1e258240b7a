"""Runs of like tasks: how they leave the client, wait, are given out, end and are divided."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from ipclusterz.core import actions as do
from ipclusterz.core import message as m
from ipclusterz.core.balance import Balancer
from ipclusterz.core.capacity import MAX_CREDIT
from ipclusterz.core.custody import Custody
from ipclusterz.core.ledger import Ledger, task
from ipclusterz.core.link import MAX_PACKET, Link
from ipclusterz.core.message import Channel, Op, Status
from ipclusterz.core.recorder import Recorder, unfold
from ipclusterz.core.tasks import Task
from tests.core.bench import CLIENT, Bench, failure, key, outcome, submit

TASK = int(Channel.TASK)
FN = b"f" * 16
OTHER = b"g" * 16


class Packed:
    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self.data = b"code"


def columns(keys: list[int], attempt: int = 1, engine: int = 0, **other: Any) -> m.Results:
    n = len(keys)
    values = other.get("values") or [b"value of %d" % (k - key(0)) for k in keys]
    return m.Results(keys, attempt, engine, values, [10.0] * n, [10.0 + 1e-5] * n)


# -- leaving the client --------------------------------------------------------------------


class Client:
    def __init__(self) -> None:
        self.ledger = Ledger(CLIENT)
        self.got: list[tuple[int, bytes]] = []

    def deliver(self, at: int, result: m.Result) -> None:
        self.got.append((at, result.data))

    def entry(self, data: bytes = b"d", fn: bytes = FN, **other: Any) -> Any:
        at = self.ledger.reserve()
        op = int(other.get("op", Op.APPLY))
        return task(at, op, Packed(fn), data, other.get("body"), other.get("opt"), self)

    def enter(self, *entries: Any) -> list[Any]:
        self.ledger.enter(entries)
        out, self.ledger.out = self.ledger.out, defaultdict(list)
        return [x for x in out[TASK] if type(x) is not m.Function]


def test_like_tasks_leave_as_one_message() -> None:
    client = Client()
    said = client.enter(*(client.entry(b"%d" % i) for i in range(5)))
    assert said == [m.Run(key(1), int(Op.APPLY), FN, [b"0", b"1", b"2", b"3", b"4"])]
    assert client.enter(client.entry(b"alone")) == [
        m.Submit(key(6), int(Op.APPLY), FN, b"alone")
    ]


def test_long_runs_are_divided() -> None:
    client = Client()
    said = client.enter(*(client.entry() for _ in range(2 * m.RUN + 1)))
    assert [len(x.data) for x in said] == [m.RUN, m.RUN, 1]
    assert [x.key for x in said] == [key(1), key(1 + m.RUN), key(1 + 2 * m.RUN)]


def test_what_is_not_alike_ends_a_run() -> None:
    client = Client()
    body = m.Body(b"i" * 16, [1], "/dev/shm", b"")
    unlike = [
        {"fn": OTHER},
        {"op": Op.MAP},
        {"opt": m.Options(retries=1)},
        {"data": bytes(m.SMALL + 1)},
        {"body": body},
    ]
    for other in unlike:
        before = [client.entry(), client.entry()]
        said = client.enter(*before, client.entry(**other), client.entry(), client.entry())
        assert [type(x) for x in said] == [m.Run, m.Submit, m.Run], other
    one = client.entry()
    client.ledger.reserve()  # for something else
    assert [type(x) for x in client.enter(one, client.entry())] == [m.Submit, m.Submit]


def test_results_in_columns_are_delivered_once_each_and_acknowledged() -> None:
    client = Client()
    client.enter(*(client.entry() for _ in range(4)))
    keys = [key(i) for i in (2, 1, 4)]
    client.ledger.handle(TASK, [columns(keys), outcome(key(3), 1, 0), columns(keys)])
    assert client.got == [
        (key(2), b"value of 2"),
        (key(1), b"value of 1"),
        (key(4), b"value of 4"),
        (key(3), b"value"),
    ]
    assert client.ledger.received[TASK] == [*keys, key(3), *keys]


def test_a_run_is_sent_again_to_a_scheduler_that_is_new() -> None:
    client = Client()
    client.enter(*(client.entry(b"%d" % i) for i in range(4)))
    client.ledger.handle(TASK, [columns([key(2)])])
    client.ledger.renewed(TASK)
    said = [x for x in client.ledger.out[TASK] if type(x) is m.Submit]
    assert [(x.key, x.data) for x in said] == [
        (key(1), b"0"),
        (key(3), b"2"),
        (key(4), b"3"),
    ]


def test_what_a_task_waits_for_may_end_before_it_is_entered() -> None:
    client = Client()
    client.enter(client.entry(), client.entry())
    waiting = client.entry(opt=m.Options(after=m.Depend([key(1), key(2)])))
    failed = m.Result(key(2), 1, 3, int(Status.ERROR), b"", None, 0.0, 0.0, 0)
    client.ledger.handle(TASK, [columns([key(1)], engine=2), failed])
    client.enter(waiting)
    client.ledger.renewed(TASK)
    (again,) = [x for x in client.ledger.out[TASK] if type(x) is m.Submit]
    assert again.opt.after.known == [(key(1), True, 2), (key(2), False, 3)]


def test_a_packet_of_runs_fits_a_frame() -> None:
    link = Link(m.FromClientTask)
    runs = [m.Run(key(i), 0, FN, [bytes(m.SMALL)] * m.RUN) for i in range(200)]
    link.extend(runs)
    packets = link.take()
    assert len(packets) > 20 and max(map(len, packets)) <= MAX_PACKET
    other = Link(m.FromClientTask)
    assert [run for packet in packets for run in other.feed(packet)] == runs


# -- the task scheduler --------------------------------------------------------------------


def bench(*engines: int, generation: int = 0, hwm: int = 0) -> Bench:
    made = Bench(Balancer(generation, hwm=hwm))
    made.client()
    made.core.recorder = Recorder(TASK, 0.0)
    made.say(b"client", m.Function(FN, b"code"))
    if engines:
        made.agent(b"agent", *engines)
    return made


def run(first: int, n: int, *, client: int = CLIENT, fn: bytes = FN) -> m.Run:
    return m.Run(key(first, client), int(Op.APPLY), fn, [b"data %d" % i for i in range(n)])


def shares(cluster: Bench, peer: bytes = b"agent") -> list[m.Share]:
    """What an agent was given; of a single task as if it were more."""
    return [
        m.Share(x.key, x.attempt, x.engine, x.op, x.fn, [x.data]) if type(x) is m.Assign else x
        for x in cluster.to(peer, m.Share, m.Assign)
    ]


def told(cluster: Bench, peer: bytes = b"client") -> list[int]:
    """The counters of the tasks of whose results a client was told."""
    keys: list[int] = []
    for said in cluster.to(peer, m.Result, m.Results):
        keys += said.keys if type(said) is m.Results else [said.key]
    return [k & ((1 << m.COUNTER_BITS) - 1) for k in keys]


def finish(cluster: Bench, peer: bytes = b"agent") -> int:
    """Let an agent end all it is given; how many that were."""
    done = 0
    while given := shares(cluster, peer):
        for x in given:
            keys = [x.key + i for i in range(len(x.data))]
            if len(keys) == 1:
                cluster.say(peer, outcome(x.key, x.attempt, x.engine))
            else:
                cluster.say(peer, columns(keys, x.attempt, x.engine))
            done += len(keys)
    return done


def test_a_run_is_given_out_in_shares_as_engines_have_room() -> None:
    cluster = bench(0, 1)
    cluster.say(b"client", run(1, 100))
    first = shares(cluster)
    assert sorted((x.engine, len(x.data)) for x in first) == [(0, 1), (1, 1)]
    assert [x.data for x in first] == [[b"data 0"], [b"data 1"]]
    cluster.core.out[b"agent"] += first
    assert finish(cluster) == 100
    assert sorted(told(cluster)) == list(range(1, 101))
    assert not cluster.core.tasks and not cluster.core.agents[b"agent"].held
    assert {load for load, _, _ in cluster.core.hint().values()} == {0}
    cluster.say(b"client", run(101, 100))  # they are known to be quick by now
    assert max(len(x.data) for x in shares(cluster)) > 10


def test_results_of_a_run_are_passed_on_as_they_came() -> None:
    cluster = bench(0, hwm=10)
    cluster.say(b"client", run(1, 10))
    (share, *_) = shares(cluster)
    keys = [share.key + i for i in range(len(share.data))]
    said = columns(keys, share.attempt)
    cluster.say(b"agent", said)
    assert cluster.to(b"client") == [said]
    cluster.say(b"client", m.Received(keys))
    assert cluster.to(b"agent", m.Received) == [m.Received(keys)]


def test_a_run_whose_function_is_not_here_waits_for_it() -> None:
    cluster = bench(0, hwm=10)
    cluster.say(b"client", run(1, 3, fn=OTHER))
    assert cluster.to(b"client") == [m.NeedFunction(OTHER)]
    cluster.say(b"client", m.Function(OTHER, b"code"))
    assert finish(cluster) == 3


def test_one_of_a_run_can_be_cancelled() -> None:
    cluster = bench()
    cluster.say(b"client", run(1, 6))
    cluster.say(b"client", m.Cancel([key(1), key(3), key(4)]))
    ended = cluster.to(b"client", m.Result)
    assert [(x.key, x.status) for x in ended] == [(key(i), Status.ABORTED) for i in (1, 3, 4)]
    cluster.agent(b"agent", 0)
    assert finish(cluster) == 3
    assert told(cluster) == [2, 5, 6]


def test_all_of_many_runs_can_be_cancelled_and_more_be_sent() -> None:
    cluster = bench()
    for at in range(0, 2000, 100):
        cluster.say(b"client", run(1 + at, 100))
    cluster.say(b"client", m.Cancel([key(i) for i in range(1, 2001)]))
    assert len(cluster.to(b"client", m.Result)) == 2000
    cluster.say(b"client", run(3000, 2))
    cluster.agent(b"agent", 0)
    assert finish(cluster) == 2 and cluster.core.queued == 0


def test_one_that_was_given_can_be_cancelled() -> None:
    cluster = bench(0, hwm=10)
    cluster.say(b"client", run(1, 4))
    given = shares(cluster)
    cluster.say(b"client", m.Cancel([key(2)]))
    assert cluster.to(b"agent") == [m.Withdraw([key(2)])]
    for x in given:
        keys = [x.key + i for i in range(len(x.data))]
        cluster.say(b"agent", columns(keys, x.attempt))
    assert sorted(told(cluster)) == [1, 2, 3, 4]  # it had begun


def test_what_comes_back_is_given_again() -> None:
    cluster = bench(0, hwm=10)
    cluster.say(b"client", run(1, 4))
    given = [(x.key + i, x.attempt) for x in shares(cluster) for i in range(len(x.data))]
    cluster.say(b"agent", m.Returned(given, -1, "as asked"))
    assert finish(cluster) == 4 and sorted(told(cluster)) == [1, 2, 3, 4]


def test_tasks_of_a_lost_agent_may_have_run() -> None:
    cluster = bench(0, hwm=2)
    cluster.say(b"client", run(1, 4))
    assert sum(len(x.data) for x in shares(cluster)) == 2
    cluster.expel(b"agent")
    lost = cluster.to(b"client", m.Result)
    assert [(x.key, x.status) for x in lost] == [(key(i), Status.LOST) for i in (1, 2)]
    cluster.agent(b"other", 5)
    assert finish(cluster, b"other") == 2
    assert told(cluster) == [3, 4]


def test_results_of_two_clients_reach_each_its_own() -> None:
    cluster = bench(0, hwm=10)
    cluster.client(b"two", 2)
    cluster.say(b"client", run(1, 3))
    cluster.say(b"two", run(1, 3, client=2))
    keys = [key(1), key(1, 2), key(2), key(3), key(3, 2), key(2, 2)]
    cluster.say(b"agent", columns(keys))
    assert sorted(told(cluster)) == [1, 2, 3]
    assert sorted(told(cluster, b"two")) == [1, 2, 3]


def test_tasks_that_went_their_own_way_end_with_the_others() -> None:
    cluster = bench(0, hwm=20)
    cluster.say(b"client", run(1, 3), submit(4, fn=FN, retries=1), run(5, 3))
    cluster.core._task(key(6))  # as when something out of the ordinary happens to it
    cluster.say(b"agent", columns([key(i) for i in range(1, 8)]))
    assert sorted(told(cluster)) == list(range(1, 8))
    assert not cluster.core.tasks


@pytest.mark.parametrize(
    "bad",
    [
        m.Results([key(1), key(2)], 1, 0, [b"v"], [1.0], [2.0]),
        m.Results([key(1), key(1)], 1, 0, [b"v"] * 2, [1.0] * 2, [2.0] * 2),
        m.Results([], 1, 0, [], [], []),
        m.Results([key(1)], 7, 0, [b"v"], [1.0], [2.0]),
        m.Results([key(1), key(99)], 1, 0, [b"v"] * 2, [1.0] * 2, [2.0] * 2),
        m.Results([key(1)], 1, 99, [bytes(m.SMALL + 1)], [1.0], [2.0]),
    ],
)
def test_no_result_that_makes_no_sense_is_counted_twice_or_ends_anything_else(bad: Any) -> None:
    cluster = bench(0, hwm=10)
    cluster.say(b"client", run(1, 3))
    shares(cluster)
    cluster.say(b"agent", bad)
    cluster.say(b"agent", columns([key(i) for i in (1, 2, 3)]))
    counters = [i for i in told(cluster) if i != 99]
    assert sorted(counters) == [1, 2, 3]
    assert {load for load, _, _ in cluster.core.hint().values()} == {0}
    assert not cluster.core.tasks


def test_a_stranger_cannot_end_tasks_of_another_agent() -> None:
    cluster = bench(0, hwm=10)
    cluster.agent(b"stranger")
    cluster.say(b"client", run(1, 3))
    cluster.say(b"stranger", columns([key(1), key(2)]))
    assert told(cluster) == [] and len(cluster.core.tasks) == 3


def test_a_client_cannot_send_tasks_of_another() -> None:
    cluster = bench(0, hwm=10)
    end = (1 << m.COUNTER_BITS) - 1
    for bad in (run(1, 3, client=2), run(end, 3), run(1, 0)):
        cluster.say(b"client", bad)
    assert not cluster.core.tasks and cluster.core.queued == 0


def test_a_run_that_is_sent_twice_runs_once() -> None:
    cluster = bench(0, hwm=100)
    cluster.say(b"client", run(1, 6))
    cluster.say(b"client", run(3, 6))
    assert finish(cluster) == 8
    cluster.say(b"client", run(5, 2))  # of which it has not said that it has the results
    assert finish(cluster) == 0


def test_a_run_sent_again_after_a_restart_waits_for_the_roll() -> None:
    cluster = Bench(Balancer(1))
    cluster.client()
    cluster.agent(b"agent", 0, called=False)
    cluster.core.roster([b"agent"], cluster.now)
    cluster.say(b"client", m.Resumed(10), m.Function(FN, b"code"), run(1, 4))
    assert not cluster.core.tasks and len(cluster.core._limbo) == 4
    cluster.say(b"agent", m.RollCall([0], [], [(key(2), 1, 0)]))
    cluster.say(b"agent", outcome(key(2), 1, 0))
    assert finish(cluster) == 3
    assert sorted(told(cluster)) == [1, 2, 3, 4]


def test_a_run_is_held_when_its_agent_calls_the_roll() -> None:
    cluster = bench(0, hwm=10)
    cluster.say(b"client", run(1, 3))
    held = [(x.key + i, x.attempt, 0) for x in shares(cluster) for i in range(len(x.data))]
    cluster.say(b"agent", m.RollCall([0], [], held))
    assert {load for load, _, _ in cluster.core.hint().values()} == {3}
    cluster.say(b"agent", columns([key(i) for i in (1, 2, 3)], held[0][1]))
    assert sorted(told(cluster)) == [1, 2, 3]


def test_tasks_of_a_run_outlive_their_client() -> None:
    cluster = bench(0, hwm=2)
    cluster.core.uuids[CLIENT] = "who"
    cluster.say(b"client", run(1, 5))
    first = shares(cluster)
    cluster.expel(b"client")
    cluster.core.write_down()
    assert len(cluster.core.estate.keys) == 5
    cluster.core.out[b"agent"] += first
    assert finish(cluster) == 5
    assert not cluster.core.tasks and not cluster.core.estate.keys


def test_without_engines_a_run_fails_in_the_end() -> None:
    cluster = bench()
    cluster.say(b"client", run(1, 3))
    cluster.tick(1.0)
    cluster.tick(100.0)
    ended = cluster.to(b"client", m.Result)
    assert [failure(x).name for x in ended] == ["NoEnginesRegistered"] * 3
    cluster.agent(b"agent", 0)
    assert finish(cluster) == 0


def test_all_of_it_is_on_record() -> None:
    cluster = bench(0)
    cluster.say(b"client", run(1, 50), submit(51, fn=FN), run(52, 50))
    cluster.say(b"client", m.Cancel([key(60)]))
    finish(cluster)
    assert cluster.core.recorder is not None
    taken = unfold(cluster.core.recorder.take())
    begun = {x[0] for x in taken.begun} | {x[0] for x in taken.whole}
    ended = {x[0] for x in taken.ended} | {x[0] for x in taken.whole}
    assert begun == ended == {key(i) for i in range(1, 102)}


def test_very_many_quick_tasks_are_no_more_than_the_credit() -> None:
    cluster = bench(0)
    cluster.say(b"client", *(run(1 + at, 250) for at in range(0, 10_000, 250)))
    most = 0
    while given := shares(cluster):
        most = max(most, sum(len(x.data) for x in given))
        for x in given:
            cluster.say(b"agent", columns([x.key + i for i in range(len(x.data))], x.attempt))
    assert 200 < most <= MAX_CREDIT and not cluster.core.tasks


def test_equal_payloads_are_one_object() -> None:
    cluster = bench()
    data = [bytes(bytearray(b"same arguments")) for _ in range(5)]
    cluster.say(b"client", m.Run(key(1), 0, bytes(bytearray(FN)), data))
    queued = cluster.core.tasks[key(1)]
    assert len(set(map(id, queued.run.data))) == 1
    assert type(cluster.core._task(key(3))) is Task


# -- custody -------------------------------------------------------------------------------


def custody(*engines: int) -> Custody:
    made = Custody()
    for engine in engines:
        made.engine_up(engine, 1.0)
    made.handle(TASK, [m.Function(FN, b"code")], 1.0)
    made._pace[FN] = 1e-5
    return made


def share(first: int, n: int, *, client: int = CLIENT, attempt: int = 1, fn: bytes = FN) -> Any:
    data = [b"data %d" % i for i in range(n)]
    return m.Share(key(first, client), attempt, 0, int(Op.APPLY), fn, data)


def fed(made: Custody) -> list[m.Work]:
    out, made.out = made.out, []
    return [work for action in out if action[0] == do.BATCH for work in action[3]]


def end(made: Custody, works: list[m.Work], data: bytes = b"v") -> list[Any]:
    outcomes = [m.Outcome(work.key, 0, data, None, 1.0, 1.00001) for work in works]
    for engine in list(made.engines):
        own = made.engines[engine].flight
        made.outcomes(engine, [o for o in outcomes if o.key in own], 1.0)
    out, made.out = made.out, []
    return [action[2] for action in out if action[0] == do.SEND]


def test_a_share_goes_to_the_engines_that_are_idle() -> None:
    made = custody(0, 1)
    made.handle(TASK, [share(1, 40)], 1.0)
    assert {item.engine for item in made.items.values()} == {0, 1}
    works = fed(made)
    assert sorted(work.key for work in works) == [key(i) for i in range(1, 41)]
    assert all(work.data == b"data %d" % (work.key - key(1)) for work in works)


def test_a_share_without_its_function_asks_for_it() -> None:
    made = custody(0)
    made.handle(TASK, [share(1, 3, fn=OTHER)], 1.0)
    assert [a[2] for a in made.out if a[0] == do.SEND] == [m.NeedFunction(OTHER)]
    made.out = []
    made.handle(TASK, [m.Function(OTHER, b"code")], 1.0)
    assert len(fed(made)) >= 1 and len(made.items) == 3


def test_what_ends_together_is_told_together() -> None:
    made = custody(0)
    made.handle(TASK, [share(1, 5), share(9, 2)], 1.0)
    works = fed(made)
    (said,) = end(made, works)
    assert said.keys == [work.key for work in works] and type(said) is m.Results
    assert not made.items and set(made.finished) == set(said.keys)


def test_each_client_and_attempt_has_results_of_its_own() -> None:
    made = custody(0)
    made.handle(TASK, [share(1, 2), share(1, 2, client=2), share(5, 1, attempt=9)], 1.0)
    said = end(made, fed(made))
    assert [type(x) for x in said] == [m.Results, m.Results, m.Result]
    assert [m.client_of(x.keys[0]) for x in said[:2]] == [1, 2] and said[2].attempt == 9


def test_large_values_and_failures_are_told_singly() -> None:
    made = custody(0)
    made.handle(TASK, [share(1, 2)], 1.0)
    said = end(made, fed(made), bytes(m.SMALL + 1))
    assert [type(x) for x in said] == [m.Result, m.Result]


def test_a_scheduler_that_is_new_is_told_what_was_not_received() -> None:
    made = custody(0)
    made.handle(TASK, [share(1, 5)], 1.0)
    end(made, fed(made))
    made.handle(TASK, [m.Received([key(2), key(5)])], 1.0)
    made.renewed(TASK)
    said = [a[2] for a in made.out if a[0] == do.SEND]
    (results,) = [x for x in said if type(x) is m.Results]
    assert results.keys == [key(1), key(3), key(4)] and results.whole
    made.handle(TASK, [m.Received(results.keys)], 1.0)
    assert not made.finished


def test_one_of_a_share_can_be_withdrawn() -> None:
    made = custody(0)
    made._pace[FN] = 1.0  # one at a time
    made.handle(TASK, [share(1, 3)], 1.0)
    assert [work.key for work in fed(made)] == [key(1)]
    made.handle(TASK, [m.Withdraw([key(2)])], 1.0)
    (said,) = [a[2] for a in made.out if a[0] == do.SEND]
    assert (said.key, said.status) == (key(2), Status.ABORTED)


def test_of_a_task_that_ran_again_only_the_last_result_is_told() -> None:
    made = custody(0)
    made.handle(TASK, [share(1, 3)], 1.0)
    end(made, fed(made))
    made.handle(TASK, [share(2, 1, attempt=2)], 1.0)
    end(made, fed(made))
    made.renewed(TASK)
    said = [a[2] for a in made.out if a[0] == do.SEND]
    (many,) = [x for x in said if type(x) is m.Results]
    (one,) = [x for x in said if type(x) is m.Result]
    assert many.keys == [key(1), key(3)] and (one.key, one.attempt) == (key(2), 2)
