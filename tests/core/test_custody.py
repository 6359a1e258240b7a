"""The agent's custody: what each engine gets, and what happens to it whatever happens."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ipclusterz.core import actions as do
from ipclusterz.core import custody, feeding
from ipclusterz.core import message as m
from ipclusterz.core.custody import Custody
from ipclusterz.core.feeding import BATCH_TASKS, LEAST_SECONDS, MANY, RECLAIM_AFTER
from ipclusterz.core.functions import Functions
from ipclusterz.core.message import Channel, Op, Status
from tests.core.bench import failure, key

TASK, DIRECT, CONTROL = Channel.TASK, Channel.DIRECT, Channel.CONTROL


class Agent:
    """A custody whose engines do as they are told, when they are told."""

    def __init__(self, *engines: int, lease: float = 600.0) -> None:
        self.custody = Custody(lease)
        self.now = 50.0
        self.batches: list[tuple[int, list[int]]] = []
        self.out: list[do.Action] = []
        for engine in engines:
            self.custody.engine_up(engine, self.now)

    def collect(self) -> list[do.Action]:
        out, self.custody.out = self.custody.out, []
        self.batches += [(a[1], [w.key for w in a[3]]) for a in out if a[0] == do.BATCH]
        self.out += out
        return out

    def fed(self) -> list[tuple[int, list[int]]]:
        """Return the batches since last asked: (engine, counters)."""
        self.collect()
        batches, self.batches = self.batches, []
        return [(e, [k - key(0) for k in keys]) for e, keys in batches]

    def took(self, kind: int) -> list[do.Action]:
        """Return actions of one kind since last asked."""
        self.collect()
        mine = [a for a in self.out if a[0] == kind]
        self.out = [a for a in self.out if a[0] != kind]
        return mine

    def sent(self, *kinds: type[Any]) -> list[Any]:
        return [a[2] for a in self.took(do.SEND) if not kinds or isinstance(a[2], kinds)]

    def assign(self, *counters: int, engine: int = 0, fixed: bool = False, **w: Any) -> None:
        self.custody.handle(
            TASK, [self.task(i, engine, fixed, **w) for i in counters], self.now
        )

    def task(
        self,
        counter: int,
        engine: int = 0,
        fixed: bool = False,
        fn: bytes = b"",
        data: bytes = b"data",
        body: m.Body | None = None,
    ) -> m.Assign:
        return m.Assign(key(counter), 1, engine, fixed, int(Op.APPLY), fn, data, body)

    def direct(self, counter: int, *engines: int, fn: bytes = b"") -> None:
        keys = [key(counter + i) for i in range(len(engines))]
        fan = m.Fan(keys, 1, list(engines), int(Op.APPLY), fn, b"data")
        self.custody.handle(DIRECT, [fan], self.now)

    def control(self, op: Op, *engines: int, argument: Any = None, counter: int = 900) -> Any:
        keys = [key(counter + i) for i in range(len(engines))]
        data = b"" if argument is None else msgspec.msgpack.encode(argument)
        fan = m.Fan(keys, 1, list(engines), int(op), b"", data)
        self.custody.handle(CONTROL, [fan], self.now)

    def done(self, engine: int, *counters: int, seconds: float = 1e-5) -> None:
        outcomes = [
            m.Outcome(key(i), int(Status.OK), b"v", None, 1.0, 1.0 + seconds) for i in counters
        ]
        self.custody.outcomes(engine, outcomes, self.now)
        self.custody.settle(self.now)

    def learn(self, seconds: float, engine: int = 0) -> None:
        """Teach the pace of tasks without a function."""
        self.custody._pace[b"APPLY"] = seconds

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.custody.tick(self.now)

    def died(self, engine: int, running: int = 0, reason: str = "killed by signal 9") -> None:
        self.custody.died(engine, reason, key(running) if running else 0, self.now)

    def held(self) -> list[int]:
        return sorted(k - key(0) for k in self.custody.items)


def answer(result: m.Result) -> Any:
    return msgspec.msgpack.decode(result.data)


# -- batches -------------------------------------------------------------------------------


def test_a_task_of_unknown_length_goes_alone() -> None:
    agent = Agent(0)
    agent.assign(1, 2, 3)
    assert agent.fed() == [(0, [1])]
    agent.done(0, 1, seconds=1.0)
    assert agent.fed() == [(0, [2])]


def test_short_tasks_go_by_the_batch_and_one_more_batch_waits() -> None:
    agent = Agent(0)
    agent.learn(1e-5)
    agent.assign(*range(1, 1000))
    batches = agent.fed()
    assert [(e, len(keys)) for e, keys in batches] == [(0, BATCH_TASKS), (0, BATCH_TASKS)]
    agent.done(0, *batches[0][1])
    assert [len(keys) for _, keys in agent.fed()] == [BATCH_TASKS]


def test_a_batch_lasts_a_few_milliseconds_by_the_measured_pace() -> None:
    agent = Agent(0)
    agent.learn(0.001)
    agent.assign(*range(1, 50))
    assert agent.fed() == [(0, [1, 2, 3, 4, 5]), (0, [6, 7, 8, 9, 10])]


def test_nothing_waits_behind_a_long_task() -> None:
    agent = Agent(0)
    agent.learn(0.5)
    agent.assign(1, 2, 3)
    assert agent.fed() == [(0, [1])]


def test_the_pace_is_of_the_function() -> None:
    agent = Agent(0)
    functions = [m.Function(b"short", b"s"), m.Function(b"long", b"l")]
    agent.custody.handle(TASK, functions, agent.now)
    for counter, fn, seconds in ((1, b"short", 1e-5), (2, b"long", 1.0)):
        agent.assign(counter, fn=fn)
        agent.done(0, counter, seconds=seconds)
    agent.fed()
    agent.assign(10, 11, 12, fn=b"short")
    agent.done(0, 10, 11, 12)
    agent.fed()
    agent.custody.handle(
        TASK,
        [agent.task(20, fn=b"short"), agent.task(21, fn=b"short"), agent.task(22, fn=b"long")],
        agent.now,
    )
    assert [22] not in [keys[-1:] for _, keys in agent.fed()[:1]]


def test_one_long_run_makes_a_function_long_at_once_and_short_runs_wear_it_off() -> None:
    agent = Agent(0)
    agent.learn(1e-5)
    agent.assign(1)
    agent.done(0, 1, seconds=1.0)
    agent.fed()
    agent.assign(2, 3)
    assert agent.fed() == [(0, [2])]
    agent.done(0, 2)
    for counter in range(4, 80):
        agent.assign(counter)
        agent.done(0, counter - 1)
    agent.done(0, 79)
    agent.fed()
    agent.assign(100, 101, 102)
    assert len(agent.fed()[0][1]) >= 1
    assert agent.custody._pace[b"APPLY"] < 0.01


def test_the_paces_of_many_functions_do_not_fill_the_memory() -> None:
    agent = Agent(0)
    agent.custody._pace = {b"%d" % i: 1.0 for i in range(10_001)}
    agent.assign(1)
    agent.done(0, 1)
    assert list(agent.custody._pace) == [b"APPLY"]


def test_large_data_is_not_batched_beyond_a_datagram() -> None:
    agent = Agent(0)
    agent.learn(1e-6)
    agent.assign(*range(1, 10), data=b"x" * 25_000)
    assert [keys for _, keys in agent.fed()] == [[1, 2], [3, 4]]


def test_a_function_goes_to_each_engine_once_in_the_datagram_that_needs_it() -> None:
    agent = Agent(0, 1)
    agent.custody.handle(TASK, [m.Function(b"f", b"code")], agent.now)
    agent.assign(1, 2, fn=b"f")
    first = agent.took(do.BATCH)
    assert [a[2] for a in first] == [[(b"f", b"code")]] * 2
    agent.done(0, 1)
    agent.assign(3, fn=b"f")
    assert [a[2] for a in agent.took(do.BATCH)] == [[]]


def test_a_large_function_does_not_ride_with_tasks_before_it() -> None:
    agent = Agent(0)
    agent.learn(1e-6)
    agent.custody._pace[b"f"] = 1e-6
    agent.custody.handle(TASK, [m.Function(b"f", b"x" * 100_000)], agent.now)
    agent.custody.handle(TASK, [agent.task(1), agent.task(2, fn=b"f")], agent.now)
    assert agent.fed() == [(0, [1]), (0, [2])]


def test_a_function_that_is_not_here_is_asked_for_once() -> None:
    agent = Agent(0)
    agent.assign(1, 2, fn=b"f")
    assert agent.sent() == [m.NeedFunction(b"f")]
    assert agent.fed() == []
    agent.custody.handle(TASK, [m.Function(b"f", b"code")], agent.now)
    assert agent.fed() == [(0, [1])]


def test_a_function_that_was_evicted_is_asked_for_again() -> None:
    agent = Agent(0)
    agent.custody.handle(TASK, [m.Function(b"f", b"code")], agent.now)
    agent.assign(1)
    agent.assign(2, fn=b"f")
    agent.direct(3, 0, fn=b"f")
    agent.custody.functions = Functions()
    agent.done(0, 1)
    assert m.NeedFunction(b"f") in agent.sent()
    agent.custody.handle(TASK, [m.Function(b"f", b"code")], agent.now)
    assert agent.fed()[-1] == (0, [3])
    agent.done(0, 3)
    assert agent.fed() == [(0, [2])]


@pytest.mark.parametrize("channel", [TASK, DIRECT])
def test_a_new_scheduler_is_asked_for_functions_that_are_lacking(channel: Channel) -> None:
    """The question went to the old one, which did not live to answer."""
    agent = Agent(0)
    if channel == TASK:
        agent.assign(1, 2, fn=b"f")
    else:
        agent.direct(1, 0, fn=b"f")
    agent.sent()
    agent.custody.renewed(channel)
    roll, *asked = agent.sent()
    assert isinstance(roll, m.RollCall)
    assert asked == [m.NeedFunction(b"f")]
    other = DIRECT if channel == TASK else TASK
    agent.custody.renewed(other)
    assert agent.sent(m.NeedFunction) == []


# -- the pool and named engines ------------------------------------------------------------


def test_pooled_work_goes_to_whichever_engine_is_free() -> None:
    agent = Agent(0, 1, 2)
    agent.assign(1, 2, 3, 4, engine=0)
    assert sorted(agent.fed()) == [(0, [1]), (1, [2]), (2, [3])]
    agent.done(2, 3)
    assert agent.fed() == [(2, [4])]


def test_few_short_tasks_are_shared_by_idle_engines() -> None:
    agent = Agent(0, 1)
    agent.learn(1e-5)
    agent.custody.handle(TASK, [agent.task(i, engine=9) for i in range(1, 11)], agent.now)
    batches = agent.fed()
    for engine in (0, 1):
        assert 4 <= sum(len(keys) for e, keys in batches if e == engine) <= 6


@pytest.mark.parametrize(
    ("pace", "enough", "wanted"),
    [(1e-5, 4, 4), (1e-5, 50, 50), (1e-4, 4, 8), (1.9e-4, 4, MANY)],
)
def test_short_tasks_wait_for_engines_at_work_where_these_are_enough(
    pace: float, enough: int, wanted: int
) -> None:
    """Enough for this host's cores, or for as many tasks as a scheduler gives out."""
    agent = Agent(*range(100))
    agent.custody.enough = enough
    agent.learn(pace)
    agent.assign(*range(40_000))
    awake = {engine for engine, _ in agent.fed()}
    assert len(awake) == wanted
    while agent.held():
        for number in awake:
            flight = agent.custody.engines[number].flight
            agent.done(number, *[k - key(0) for k in flight], seconds=pace)
        assert {engine for engine, _ in agent.fed()} <= awake


@pytest.mark.parametrize("pace", [-1.0, LEAST_SECONDS, 0.5])
def test_tasks_that_are_long_or_unknown_go_to_all_engines(pace: float) -> None:
    agent = Agent(*range(100))
    if pace >= 0:
        agent.learn(pace)
    agent.custody.handle(TASK, [agent.task(i, i % 100) for i in range(10_000)], agent.now)
    assert len({engine for engine, _ in agent.fed()}) == 100


def test_the_last_engines_to_be_idle_are_those_to_be_woken() -> None:
    agent = Agent(*range(100))
    agent.learn(1e-5)
    for _ in range(3):
        agent.custody.handle(TASK, [agent.task(i, 999) for i in range(20)], agent.now)
        assert {engine for engine, _ in agent.fed()} == {99}
        agent.done(99, *range(20))


@pytest.mark.parametrize("data", [b"", b"x" * 40_000])
def test_tasks_that_turn_out_to_be_long_get_all_engines_soon(data: bytes) -> None:
    """Each engine stays in its first task; 40 kB of data leave no room for another there."""
    agent = Agent(*range(200))
    agent.learn(1e-5)
    agent.assign(*range(300), data=data)
    begun: dict[int, int] = {}
    for _ in range(7):  # twice as many work after each look
        while taken := agent.took(do.BATCH):
            for _, engine, _, works in taken:
                begun.setdefault(engine, works[0].key)
            back = agent.took(do.RECLAIM) + agent.took(do.REVOKE)
            assert not back
        if len(begun) == 200:
            break
        agent.tick(RECLAIM_AFTER)
        for _, number, _ in agent.took(do.RECLAIM):
            engine = agent.custody.engines[number]
            unread = list(engine.flight)[engine.batches[0] :]
            agent.custody.reclaimed(number, unread, [], agent.now)
        for _, number, _ in agent.took(do.REVOKE):
            agent.custody.revoked(number, begun[number], agent.now)
    assert len(begun) == 200


def test_engines_that_are_stuck_make_room_for_some_that_sleep_at_once() -> None:
    agent = Agent(*range(100))
    agent.learn(1e-5)
    agent.assign(*range(20_000))
    awake = {engine for engine, _ in agent.fed()}
    agent.tick(RECLAIM_AFTER)
    assert len({engine for engine, _ in agent.fed()} - awake) == len(awake)


def test_engines_that_are_slow_with_work_of_their_own_are_not_waited_for() -> None:
    """They may even wait for the task that would wait for them."""
    agent = Agent(*range(100))
    agent.learn(1e-5)
    for number in range(MANY):
        agent.direct(100 + number, number)
        agent.direct(200 + number, number)
    agent.fed()
    agent.assign(1, engine=50)
    assert agent.fed() == []
    agent.tick(RECLAIM_AFTER)
    assert [counters for _, counters in agent.fed()] == [[1]]


def test_nothing_is_given_ahead_to_an_engine_whose_task_turned_out_to_be_long() -> None:
    agent = Agent(0)
    agent.learn(1e-5)
    agent.assign(1)
    agent.tick(RECLAIM_AFTER)
    agent.assign(2)
    assert agent.fed() == [(0, [1])]
    agent.done(0, 1)
    assert agent.fed() == [(0, [2])]


def test_one_of_many_short_tasks_that_is_held_up_makes_them_no_longer() -> None:
    """Whoever has few cores loses one of them to others now and then."""
    agent = Agent(*range(100))
    agent.custody.handle(TASK, [m.Function(b"f", b"f")], agent.now)
    agent.custody._pace[b"f"] = 1e-5
    agent.assign(*range(40), fn=b"f", engine=999)
    number, counters = agent.fed()[0]
    seconds = [1e-5] * (len(counters) - 1) + [0.003]
    outcomes = [
        m.Outcome(key(i), int(Status.OK), b"v", None, 1.0, 1.0 + each)
        for i, each in zip(counters, seconds, strict=True)
    ]
    agent.custody.outcomes(number, outcomes, agent.now)
    assert agent.custody._pace[b"f"] < LEAST_SECONDS


def test_an_engine_at_work_that_dies_makes_room_for_one_that_sleeps() -> None:
    agent = Agent(*range(100))
    agent.learn(1e-5)
    agent.assign(*range(20_000))
    awake = {engine for engine, _ in agent.fed()}
    for number in sorted(awake):
        agent.died(number)
        fresh = {engine for engine, _ in agent.fed()} - awake
        assert len(fresh) == 1
        awake |= fresh


def test_fixed_work_keeps_its_order_and_its_engine() -> None:
    agent = Agent(0, 1)
    agent.learn(0.001)
    for counter in range(1, 20):
        agent.direct(counter, 0)
    order: list[int] = []
    while batches := agent.fed():
        for engine, counters in batches:
            assert engine == 0
            order += counters
        agent.done(0, *[k for _, counters in batches for k in counters], seconds=0.001)
    assert order == list(range(1, 20))


def test_fixed_work_goes_before_pooled_work() -> None:
    agent = Agent(0)
    agent.assign(1, 2)
    agent.direct(3, 0)
    agent.fed()
    agent.done(0, 1, seconds=1.0)
    assert agent.fed() == [(0, [3])]


def test_a_result_tells_which_engine_really_ran_it() -> None:
    agent = Agent(0, 1)
    agent.direct(1, 0)
    agent.assign(2, engine=0)
    agent.done(1, 2)
    (result,) = agent.sent()
    assert (result.key, result.engine, result.attempt) == (key(2), 1, 1)


def test_work_for_an_engine_that_is_not_here_comes_back() -> None:
    agent = Agent(0)
    agent.direct(1, 7)
    assert agent.sent() == [
        m.Down(7, "it has ended"),
        m.Returned([(key(1), 1)], 7, "engine 7 ended before this task began"),
    ]
    assert agent.held() == []


def test_pooled_work_comes_back_only_when_there_is_no_engine_at_all() -> None:
    agent = Agent()
    agent.assign(1, engine=7)
    assert [type(x) for x in agent.sent()] == [m.Down, m.Returned]
    agent.custody.engine_up(8, agent.now)
    agent.assign(2, engine=7)
    assert agent.fed() == [(8, [2])]


# -- results -------------------------------------------------------------------------------


def test_results_are_kept_until_they_were_received() -> None:
    agent = Agent(0)
    body = m.Body(b"i" * 16, [1], "/dev/shm", b"")
    agent.assign(1, 2)
    agent.custody.outcomes(0, [m.Outcome(key(1), 0, b"", body, 1.0, 2.0)], agent.now)
    assert list(agent.custody.finished) == [key(1)]
    agent.custody.handle(TASK, [m.Received([key(1), key(77)])], agent.now)
    assert agent.took(do.DROP) == [(do.DROP, body, None)]
    assert not agent.custody.finished


def test_output_is_counted_in_the_result() -> None:
    agent = Agent(0)
    agent.assign(1)
    agent.custody.printed[key(1)] = 42
    agent.done(0, 1)
    assert [r.out for r in agent.sent()] == [42]
    assert not agent.custody.printed


def test_an_outcome_that_was_told_before_counts_once() -> None:
    agent = Agent(0)
    agent.assign(1)
    agent.done(0, 1)
    agent.done(0, 1)
    agent.done(5, 1)
    assert len(agent.sent(m.Result)) == 1


# -- death ---------------------------------------------------------------------------------


def test_the_task_that_ran_died_and_the_rest_comes_back() -> None:
    agent = Agent(0)
    agent.learn(1e-5)
    agent.assign(1, 2, 3)
    agent.direct(4, 0)
    agent.fed()
    agent.died(0, running=1)
    died, *back = agent.sent()
    assert (died.key, died.status, died.engine) == (key(1), Status.DIED, 0)
    assert failure(died).text == "engine 0 died while it ran this task: killed by signal 9"
    returned = [x for x in back if isinstance(x, m.Returned)]
    assert sorted(k for x in returned for k, _ in x.tasks) == [key(2), key(3), key(4)]
    text = "engine 0 ended before this task began: killed by signal 9"
    assert {(x.engine, x.reason) for x in returned} == {(0, text)}
    assert [x for x in back if isinstance(x, m.Down)] == [m.Down(0, "killed by signal 9")] * 3
    assert agent.held() == []
    assert agent.custody.ended == [0]


def test_down_is_said_after_everything_else_about_an_engine() -> None:
    agent = Agent(0, 1)
    agent.direct(1, 0)
    agent.direct(2, 0)
    agent.died(0, running=1)
    kinds = [type(a[2]) for a in agent.took(do.SEND) if a[1] == DIRECT]
    assert kinds == [m.Result, m.Returned, m.Down]


def test_what_was_committed_before_the_death_stands() -> None:
    agent = Agent(0)
    agent.learn(1e-5)
    agent.assign(1, 2)
    agent.done(0, 1)
    agent.died(0, running=2)
    assert [(r.key, r.status) for r in agent.sent(m.Result)] == [
        (key(1), Status.OK),
        (key(2), Status.DIED),
    ]


def test_an_engine_that_died_between_tasks_ran_none() -> None:
    agent = Agent(0)
    agent.assign(1)
    agent.died(0)
    assert agent.sent(m.Result) == []
    agent.died(0)
    assert [r.tasks for r in agent.sent(m.Returned)] == []


def test_pooled_work_of_a_dead_engine_is_not_kept_by_an_agent_with_others() -> None:
    agent = Agent(0, 1)
    agent.assign(1, 2, 3)
    agent.fed()
    agent.died(0, running=1)
    agent.done(1, 2)
    assert agent.fed() == [(1, [3])]


def test_lacking_work_of_a_dead_engine_comes_back_when_its_function_is_here() -> None:
    agent = Agent(0, 1)
    agent.direct(1, 0, fn=b"f")
    agent.died(0)
    assert [r.tasks for r in agent.sent(m.Returned)] == [[(key(1), 1)]]
    agent.custody.handle(DIRECT, [m.Function(b"f", b"code")], agent.now)
    assert agent.fed() == []


# -- taking back ---------------------------------------------------------------------------


def behind_a_long_task() -> Agent:
    """Engine 0 runs task 1 of a batch, another batch waits unread, engine 1 idles."""
    agent = Agent(0)
    agent.learn(0.001)
    agent.assign(*range(1, 11))
    assert [k for _, k in agent.fed()] == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    agent.custody.engine_up(1, agent.now)
    return agent


def test_work_behind_a_long_task_is_taken_back_for_an_idle_engine() -> None:
    agent = behind_a_long_task()
    agent.tick(RECLAIM_AFTER * 0.9)
    assert agent.took(do.RECLAIM) == []
    agent.tick(RECLAIM_AFTER * 0.2)
    assert agent.took(do.RECLAIM) == [(do.RECLAIM, 0, None)]
    assert agent.took(do.REVOKE) == [(do.REVOKE, 0, None)]
    agent.custody.reclaimed(0, [key(i) for i in range(6, 11)], [], agent.now)
    assert agent.fed() == [(1, [6, 7, 8, 9, 10])]
    agent.custody.revoked(0, key(1), agent.now)
    agent.done(1, 6, 7, 8, 9, 10)
    rest = []
    while batches := agent.fed():
        for engine, counters in batches:
            assert engine == 1  # the other one runs its long task
            rest += counters
            agent.done(engine, *counters)
    assert rest == [2, 3, 4, 5]


def test_functions_that_were_taken_back_unread_go_again() -> None:
    agent = Agent(0)
    agent.learn(0.001)
    agent.custody._pace[b"f"] = 0.001
    agent.custody.handle(TASK, [m.Function(b"f", b"code")], agent.now)
    agent.assign(1)
    agent.custody._pace[b"APPLY"] = 0.001
    agent.assign(2, fn=b"f")
    assert agent.fed() == [(0, [1]), (0, [2])]
    agent.custody.engine_up(1, agent.now)
    agent.tick(1.0)
    agent.custody.reclaimed(0, [key(2)], [b"f"], agent.now)
    agent.took(do.BATCH)
    agent.done(0, 1)
    agent.done(1, 2)
    agent.direct(3, 0, fn=b"f")
    assert [a[2] for a in agent.took(do.BATCH)] == [[(b"f", b"code")]]


def test_an_engine_that_ended_its_batch_before_it_saw_the_order_works_on() -> None:
    agent = behind_a_long_task()
    agent.tick(1.0)
    agent.took(do.REVOKE)
    agent.custody.reclaimed(0, [], [], agent.now)
    agent.done(0, *range(1, 11))
    agent.custody.revoked(0, key(10), agent.now)
    agent.assign(20, engine=0)
    assert agent.fed()[-1] == (0, [20])


def test_an_engine_that_gives_its_batch_back_itself_works_on() -> None:
    agent = behind_a_long_task()
    agent.tick(1.0)
    agent.custody.reclaimed(0, [key(i) for i in range(6, 11)], [], agent.now)
    agent.fed()
    agent.done(0, 1)
    agent.custody.undone(0, [], [key(i) for i in (2, 3, 4, 5)], agent.now)
    assert 0 in [engine for engine, _ in agent.fed()]
    agent.custody.undone(9, [], [key(1)], agent.now)


def test_what_an_engine_names_late_is_not_taken_from_it_a_second_time() -> None:
    """It tells of the task it ran first, and then, once it saw the order, of those after it.

    Was it given one of these anew in between, that would be taken for not begun, and run
    here and elsewhere.
    """
    agent = behind_a_long_task()
    agent.tick(1.0)
    agent.custody.reclaimed(0, [key(i) for i in range(6, 11)], [], agent.now)
    agent.custody.revoked(0, key(1), agent.now)
    ran = [k for engine, keys in agent.fed() if engine == 1 for k in keys]
    agent.done(0, 1)
    assert agent.fed() == [], "nothing for who has yet to answer"
    agent.custody.undone(0, [], [key(i) for i in range(2, 6)], agent.now)
    given = [1]
    while batches := agent.fed():
        for engine, keys in batches:
            given += keys
            agent.done(engine, *keys)
    agent.done(1, *ran)
    while batches := agent.fed():
        for engine, keys in batches:
            given += keys
            agent.done(engine, *keys)
    assert sorted(given + ran) == list(range(1, 11)), "each once"


def test_fixed_work_that_is_taken_back_keeps_its_order() -> None:
    agent = Agent(0, 1)
    agent.learn(0.001)
    fans = [m.Fan([key(i)], 1, [0], int(Op.APPLY), b"", b"data") for i in range(1, 9)]
    agent.custody.handle(DIRECT, fans, agent.now)
    assert agent.fed() == [(0, [1, 2, 3, 4, 5]), (0, [6, 7, 8])]
    agent.custody.handle(TASK, [m.Withdraw([key(8)])], agent.now)
    agent.custody.reclaimed(0, [key(i) for i in (6, 7, 8)], [], agent.now)
    agent.custody.revoked(0, key(1), agent.now)
    assert [r.status for r in agent.sent(m.Result)] == [Status.ABORTED]
    assert agent.fed() == []
    agent.done(0, 1, seconds=0.001)
    assert agent.fed() == [], "it has yet to see the order"
    agent.custody.undone(0, [], [key(i) for i in (2, 3, 4, 5)], agent.now)
    order = []
    while batches := [k for e, k in agent.fed() if e == 0]:
        order += [k for keys in batches for k in keys]
        agent.done(0, *[k for keys in batches for k in keys], seconds=0.001)
    assert [k for k in order if k < 20] == [2, 3, 4, 5, 6, 7]


def test_tasks_whose_function_an_engine_lacks_go_to_it_again_with_it() -> None:
    agent = Agent(0, 1)
    agent.custody.handle(TASK, [m.Function(b"f", b"code")], agent.now)
    agent.assign(1, fn=b"f")
    agent.took(do.BATCH)
    agent.custody.undone(0, [b"f"], [key(1)], agent.now)
    ((_, engine, functions, works),) = agent.took(do.BATCH)
    assert (engine, functions, [w.key for w in works]) == (0, [(b"f", b"code")], [key(1)])


def test_nothing_is_taken_back_while_no_engine_idles_or_all_is_fixed() -> None:
    agent = Agent(0)
    agent.learn(0.001)
    agent.assign(*range(1, 11))
    agent.tick(1.0)
    assert agent.took(do.RECLAIM) == []
    fixed = Agent(0, 1)
    fixed.learn(0.001)
    for counter in range(1, 11):
        fixed.direct(counter, 0)
    fixed.tick(1.0)
    assert fixed.took(do.RECLAIM) == []


# -- recalls -------------------------------------------------------------------------------


def test_pooled_work_is_given_back_when_recalled_the_last_first() -> None:
    agent = Agent(0)
    agent.assign(1, 2, 3, 4)
    agent.custody.handle(TASK, [m.Recall(2, [])], agent.now)
    assert agent.sent() == [m.Returned([(key(3), 1), (key(4), 1)], -1, "given back as asked")]
    assert agent.held() == [1, 2]


def test_a_recall_with_nothing_to_give_is_answered_too() -> None:
    agent = Agent(0)
    agent.assign(1)
    agent.custody.handle(TASK, [m.Recall(5, [])], agent.now)
    assert agent.sent() == [m.Returned([], -1, "given back as asked")]


def test_a_recall_takes_back_what_is_unread() -> None:
    agent = Agent(0)
    agent.learn(0.001)
    agent.assign(*range(1, 11))
    agent.fed()
    agent.custody.handle(TASK, [m.Recall(3, [])], agent.now)
    assert agent.took(do.RECLAIM)
    agent.custody.reclaimed(0, [key(i) for i in range(6, 11)], [], agent.now)
    (returned,) = agent.sent()
    assert [k for k, _ in returned.tasks] == [key(8), key(9), key(10)]


@pytest.mark.parametrize("how", ["undone", "ended", "died", "never"])
def test_a_recall_is_answered_however_the_engine_reacts(how: str) -> None:
    """One batch is out and cannot be taken back unread: the engine is told to give it back."""
    agent = Agent(0)
    agent.learn(0.001)
    agent.assign(*range(1, 6))
    agent.fed()
    agent.custody.engine_up(1, agent.now)
    agent.custody.handle(TASK, [m.Recall(3, [])], agent.now)
    assert agent.took(do.REVOKE) and not agent.took(do.RECLAIM)
    if how == "undone":
        agent.done(0, 1)
        agent.custody.undone(0, [], [key(i) for i in range(2, 6)], agent.now)
    elif how == "ended":
        agent.done(0, *range(1, 6))
    elif how == "died":
        agent.died(0, running=1)
    for _ in range(20):
        agent.tick(0.02)
    answers = [r for r in agent.sent(m.Returned) if r.reason == "given back as asked"]
    assert len(answers) == 1


def test_a_recall_does_not_touch_the_work_of_other_channels() -> None:
    agent = Agent(0)
    agent.assign(1, 2)
    agent.custody.handle(DIRECT, [m.Recall(5, [])], agent.now)
    assert agent.sent(m.Returned) == [m.Returned([], -1, "given back as asked")]
    assert agent.held() == [1, 2]


# -- withdrawing ---------------------------------------------------------------------------


def aborted(agent: Agent) -> list[int]:
    return [r.key - key(0) for r in agent.sent(m.Result) if r.status == Status.ABORTED]


def withdraw(agent: Agent, *counters: int) -> None:
    agent.custody.handle(TASK, [m.Withdraw([key(i) for i in counters])], agent.now)


def test_what_waits_is_aborted_at_once_wherever_it_waits() -> None:
    agent = Agent(0)
    agent.assign(1, 2)
    agent.direct(3, 0)
    agent.assign(4, fn=b"f")
    agent.direct(5, 0, fn=b"f")
    agent.fed()
    withdraw(agent, 2, 3, 4, 5, 99)
    assert aborted(agent) == [2, 3, 4, 5]
    assert agent.held() == [1]
    agent.custody.handle(TASK, [m.Function(b"f", b"code")], agent.now)
    agent.done(0, 1)
    assert agent.fed() == []


def test_what_runs_is_not_aborted() -> None:
    agent = Agent(0)
    agent.assign(1)
    withdraw(agent, 1)
    assert aborted(agent) == []
    agent.done(0, 1)
    assert [r.status for r in agent.sent(m.Result)] == [Status.OK]
    assert not agent.custody._withdrawn


def test_what_is_unread_is_aborted_when_it_was_taken_back() -> None:
    agent = behind_a_long_task()
    withdraw(agent, 4, 8)
    assert agent.took(do.RECLAIM) and agent.took(do.REVOKE)
    agent.custody.reclaimed(0, [key(i) for i in range(6, 11)], [], agent.now)
    agent.custody.revoked(0, key(1), agent.now)
    assert aborted(agent) == [8, 4]


def test_what_an_engine_read_meanwhile_runs() -> None:
    agent = behind_a_long_task()
    withdraw(agent, 8)
    agent.custody.reclaimed(0, [], [], agent.now)
    agent.done(0, *range(1, 11))
    assert {r.status for r in agent.sent(m.Result)} == {Status.OK}


def test_a_withdrawn_task_of_a_dead_engine_is_aborted_not_returned() -> None:
    agent = behind_a_long_task()
    withdraw(agent, 8)
    agent.died(0, running=1)
    assert aborted(agent) == [8]


# -- control -------------------------------------------------------------------------------


def test_an_interrupt_names_the_running_task_or_whatever_runs() -> None:
    agent = Agent(0)
    agent.assign(1)
    agent.control(Op.INTERRUPT, 0)
    assert agent.took(do.INTERRUPT) == [(do.INTERRUPT, 0, 0)]
    agent.control(Op.INTERRUPT, 0, argument=[key(1)])
    assert agent.took(do.INTERRUPT) == [(do.INTERRUPT, 0, key(1))]
    agent.control(Op.INTERRUPT, 0, argument=[key(2)])
    assert agent.took(do.INTERRUPT) == []
    assert [answer(r) for r in agent.sent()] == [True, True, False]


def test_abort_gives_up_all_that_has_not_begun() -> None:
    agent = Agent(0)
    for counter in (1, 2, 3):
        agent.direct(counter, 0)
    agent.control(Op.ABORT, 0)
    assert aborted(agent) == [2, 3]
    agent.direct(4, 0)
    agent.direct(5, 0)
    agent.control(Op.ABORT, 0, argument=[key(5)])
    assert aborted(agent) == [5]


def test_a_signal_is_passed_on() -> None:
    agent = Agent(0)
    agent.control(Op.SIGNAL, 0, argument=15)
    assert agent.took(do.SIGNAL) == [(do.SIGNAL, 0, 15)]
    assert [(r.status, answer(r)) for r in agent.sent()] == [(Status.OK, None)]


@pytest.mark.parametrize("number", [-1, 65, 999, 1 << 40])
def test_what_is_no_signal_is_refused(number: int) -> None:
    agent = Agent(0)
    agent.control(Op.SIGNAL, 0, argument=number)
    assert agent.took(do.SIGNAL) == []
    (result,) = agent.sent()
    assert result.status == Status.REFUSED and "no signal" in failure(result).text


def test_inspect_shows_what_an_engine_does() -> None:
    agent = Agent(0)
    agent.direct(1, 0)
    agent.direct(2, 0)
    agent.control(Op.INSPECT, 0)
    (result,) = agent.sent()
    assert answer(result) == {
        "queue": 1,
        "tasks": 1,
        "running": key(1),
        "seconds": 0.0,
        "op": "apply",
        "function": "",
    }


def test_stop_ends_an_idle_engine_at_once() -> None:
    agent = Agent(0, 1)
    agent.control(Op.STOP, 0)
    assert agent.took(do.STOP) == [(do.STOP, 0, None)]
    agent.assign(1, engine=0)
    assert agent.fed() == [(1, [1])]


def test_stop_waits_for_what_runs_and_gives_the_rest_back() -> None:
    agent = Agent(0, 1)
    agent.direct(1, 0)
    agent.direct(2, 0)
    agent.control(Op.STOP, 0)
    assert agent.took(do.STOP) == []
    (returned,) = agent.sent(m.Returned)
    assert returned.tasks == [(key(2), 1)]
    assert returned.reason == ("engine 0 ended before this task began: it was asked to stop")
    agent.direct(3, 0)
    assert [r.tasks for r in agent.sent(m.Returned)] == [[(key(3), 1)]]
    agent.done(0, 1)
    assert agent.took(do.STOP) == [(do.STOP, 0, None)]


def test_control_of_an_engine_that_is_not_here_is_refused() -> None:
    agent = Agent(0)
    agent.control(Op.STOP, 5)
    (result,) = agent.sent()
    assert (result.status, failure(result).text) == (
        Status.REFUSED,
        "engine 5 is not here (any more)",
    )


def test_an_unknown_control_request_is_refused() -> None:
    agent = Agent(0)
    agent.control(99, 0)  # type: ignore[arg-type]
    (result,) = agent.sent()
    assert (result.status, failure(result).name) == (Status.REFUSED, "KernelError")


@pytest.mark.parametrize("op", [Op.INTERRUPT, Op.ABORT, Op.SIGNAL], ids=lambda op: op.name)
@pytest.mark.parametrize("data", [b"\xc1", b"\x91", b"\xa1x", b"\x81\x01\x02"], ids=repr)
def test_control_data_that_makes_no_sense_does_not_end_the_agent(op: Op, data: bytes) -> None:
    agent = Agent(0)
    fan = m.Fan([key(1)], 1, [0], int(op), b"", data)
    agent.custody.handle(CONTROL, [fan], agent.now)
    (result,) = agent.sent()
    assert result.status == Status.REFUSED


# -- links and the lease -------------------------------------------------------------------


def test_the_roll_call_names_what_is_held_and_comes_after_what_is_finished() -> None:
    agent = Agent(0, 1)
    agent.assign(1, 2)
    agent.direct(3, 1)
    agent.done(0, 1)
    agent.died(1, running=2)
    agent.sent()
    agent.custody.renewed(TASK)
    *results, roll = agent.sent()
    assert [r.key for r in results] == [key(1), key(2)]
    assert roll == m.RollCall([0], [1], [])
    agent.assign(4, 5)
    agent.sent()
    agent.custody.renewed(TASK)
    roll = agent.sent()[-1]
    assert sorted(roll.held) == [(key(4), 1, 0), (key(5), 1, 0)]


def test_a_long_roll_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custody, "ROLL_PART", 10)
    agent = Agent(0)
    agent.assign(*range(1, 26))
    agent.custody.renewed(TASK)
    rolls = agent.sent(m.RollCall)
    assert [(len(r.held), r.more) for r in rolls] == [(10, True), (10, True), (5, False)]


def test_the_lease_ends_when_the_controller_is_away_for_long() -> None:
    agent = Agent(0, lease=60.0)
    agent.custody.alone(agent.now)
    agent.tick(59.0)
    agent.custody.alone(agent.now)  # still: the time goes on
    assert agent.took(do.END) == []
    agent.tick(1.0)
    assert agent.took(do.END) == [
        (do.END, "the controller has been gone for 60 s (the lease)", None)
    ]


def test_the_lease_begins_anew_when_the_controller_was_there() -> None:
    agent = Agent(0, lease=60.0)
    agent.custody.alone(agent.now)
    agent.tick(59.0)
    agent.custody.together()
    agent.tick(100.0)
    assert agent.took(do.END) == []


# -- bodies of other hosts -----------------------------------------------------------------


def far(agent: Agent) -> m.Body:
    agent.custody.is_here = lambda body: body.folder == "/here"
    return m.Body(b"i" * 16, [10], "/far", b"")


HERE = m.Body(b"i" * 16, [10], "/here", b"")


def test_a_body_of_another_host_is_brought_once_for_all_its_tasks() -> None:
    agent = Agent(0, 1)
    body = far(agent)
    agent.assign(1, 2, body=body)
    assert agent.took(do.FETCH) == [(do.FETCH, TASK, key(1), body)]
    assert agent.fed() == []
    agent.custody.fetched(body.id, HERE, "", agent.now)
    works = [w for a in agent.took(do.BATCH) for w in a[3]]
    assert [(w.key, w.body) for w in works] == [(key(1), HERE), (key(2), HERE)]
    agent.done(0, 1)
    assert agent.took(do.DROP) == []
    agent.done(1, 2)
    assert agent.took(do.DROP) == [(do.DROP, HERE, None)]


def test_a_body_that_cannot_be_had_fails_its_tasks() -> None:
    agent = Agent(0)
    body = far(agent)
    agent.assign(1, body=body)
    agent.direct(2, 0)
    agent.custody.fetched(body.id, None, "its owner is gone", agent.now)
    (result,) = agent.sent(m.Result)
    assert (result.key, result.status) == (key(1), Status.ERROR)
    assert failure(result).text == "its arguments could not be fetched: its owner is gone"


def test_a_body_is_not_fetched_twice_when_its_first_task_was_withdrawn_meanwhile() -> None:
    agent = Agent(0)
    body = far(agent)
    agent.assign(1, body=body)
    withdraw(agent, 1)
    agent.assign(2, body=body)
    assert len(agent.took(do.FETCH)) == 1
    agent.custody.fetched(body.id, HERE, "", agent.now)
    assert agent.fed() == [(0, [2])]


def test_a_body_nobody_needs_any_more_is_dropped_when_it_comes() -> None:
    agent = Agent(0)
    body = far(agent)
    agent.assign(1, body=body)
    withdraw(agent, 1)
    agent.custody.fetched(body.id, HERE, "", agent.now)
    assert agent.took(do.DROP) == [(do.DROP, HERE, None)]


def test_fixed_work_waits_in_its_place_for_its_body() -> None:
    agent = Agent(0)
    body = far(agent)
    agent.assign(1, fixed=True, body=body)
    agent.direct(2, 0)
    assert agent.fed() == []
    agent.custody.fetched(body.id, HERE, "", agent.now)
    assert agent.fed() == [(0, [1])]


def test_pieces_are_passed_on_to_whoever_carries_them() -> None:
    agent = Agent(0)
    fetch = m.Fetch(key(1), b"i" * 16, 0, 10, 1, b"s" * 32)
    load = m.Load(m.Chunk(key(1), b"i" * 16, 0, 1), b"sealed")
    agent.custody.handle(TASK, [fetch, load], agent.now)
    assert agent.took(do.PIECE) == [(do.PIECE, TASK, fetch), (do.PIECE, TASK, load)]


def test_a_draining_agent_gives_back_all_that_has_not_begun_and_takes_no_more() -> None:
    agent = Agent(0, 1)
    agent.assign(1, engine=0)
    agent.assign(2, engine=1)
    agent.assign(3, 4, engine=0)
    agent.assign(5, engine=1, fixed=True)
    assert agent.fed() == [(0, [1]), (1, [2])]
    agent.custody.drain(agent.now)
    returned = [k - key(0) for r in agent.sent(m.Returned) for k, _ in r.tasks]
    assert sorted(returned) == [3, 4, 5]
    assert agent.took(do.STOP) == [], "both run something"
    agent.assign(6, engine=0)
    assert [k - key(0) for r in agent.sent(m.Returned) for k, _ in r.tasks] == [6]
    agent.done(0, 1)
    assert agent.took(do.STOP) == [(do.STOP, 0, None)]
    assert [key(1)] == [r.key for r in agent.sent(m.Result)]


def test_an_engine_that_comes_while_the_agent_drains_is_stopped() -> None:
    agent = Agent(0)
    agent.custody.drain(agent.now)
    agent.took(do.STOP)
    agent.custody.engine_up(1, agent.now)
    assert agent.took(do.STOP) == [(do.STOP, 1, None)]


def test_a_stopping_engine_that_gives_its_batch_back_is_stopped() -> None:
    """It was told to begin nothing more, and to stop before it has seen that."""
    agent = Agent(0, 1)
    agent.learn(1e-4)
    agent.assign(*range(1, 9), engine=0)
    agent.fed()
    agent.done(1, *[k - key(0) for k in agent.custody.engines[1].flight], seconds=1e-4)
    agent.tick(RECLAIM_AFTER)
    assert agent.took(do.REVOKE) == [(do.REVOKE, 0, None)]
    agent.control(Op.STOP, 0)
    first, *rest = agent.custody.engines[0].flight
    agent.done(0, first - key(0))
    assert agent.took(do.STOP) == []
    agent.custody.undone(0, [], rest, agent.now)
    assert agent.took(do.STOP) == [(do.STOP, 0, None)]


def test_a_stopping_engine_that_lacks_its_function_is_stopped_and_its_tasks_go_back() -> None:
    agent = Agent(0)
    agent.custody.handle(DIRECT, [m.Function(b"f", b"f")], agent.now)
    agent.direct(1, 0, fn=b"f")
    agent.fed()
    agent.control(Op.STOP, 0)
    agent.custody.undone(0, [b"f"], [key(1)], agent.now)
    assert agent.took(do.STOP) == [(do.STOP, 0, None)]
    (returned,) = agent.sent(m.Returned)
    assert returned.tasks == [(key(1), 1)] and agent.held() == []


def test_a_task_whose_function_was_evicted_runs_once() -> None:
    agent = Agent(0, 1)
    agent.custody.functions = Functions(limit=100)
    f, g = m.Function(b"f", b"f" * 80), m.Function(b"g", b"g" * 90)
    agent.custody.handle(TASK, [f, agent.task(1, fn=b"f"), g], agent.now)  # g drives f out
    assert agent.fed() == [] and agent.sent(m.NeedFunction) == [m.NeedFunction(b"f")]
    agent.custody.handle(TASK, [f], agent.now)
    agent.direct(2, 0)
    for _ in range(3):
        for number, counters in agent.fed():
            agent.done(number, *counters)
    assert sorted(result.key for result in agent.sent(m.Result)) == [key(1), key(2)]
    assert agent.held() == []


def test_nothing_is_remembered_of_tasks_that_went_back() -> None:
    agent = Agent(0, 1)
    agent.learn(1e-5)
    agent.assign(*range(1, 8), engine=0)
    for number in (0, 1):
        agent.control(Op.CANCEL, number, argument=[[key(i) for i in range(1, 8)], True])
        agent.died(number)
    assert agent.held() == []
    assert not agent.custody._unwanted and not agent.custody._withdrawn


# -- very many engines ---------------------------------------------------------------------


@pytest.mark.parametrize("engines", [feeding.MANY, 4 * feeding.MANY])
def test_of_very_many_engines_no_more_are_woken_than_short_tasks_are_worth(
    engines: int,
) -> None:
    """To wake one takes longer than a few of them; where there are few, all get some."""
    custody = Custody()
    custody.is_here = lambda body: True
    custody.enough = engines  # as on a host with many cores
    for number in range(engines):
        custody.engine_up(number, 0.0)
    custody.handle(Channel.TASK, [m.Function(b"f", b"code")], 0.0)
    custody._pace[b"f"] = 1e-5
    custody.out.clear()
    tasks = [
        m.Assign(key(i), 1, i % engines, False, int(Op.APPLY), b"f", b"data")
        for i in range(4 * engines)
    ]
    custody.pool.extend(_pooled(custody, tasks))
    custody.settle(0.0)
    batches = [(action[1], len(action[3])) for action in custody.out if action[0] == do.BATCH]
    assert sum(n for _, n in batches) == len(tasks)
    if engines > feeding.MANY:
        assert batches[0][1] == round(feeding.LEAST_SECONDS / 1e-5)
    else:
        assert {engine for engine, _ in batches} == set(range(engines))


def _pooled(custody: Custody, tasks: list[m.Assign]) -> list[feeding.Item]:
    """Tasks as they wait in an agent whose engines were all busy when they came."""
    items = []
    for a in tasks:
        work = m.Work(a.key, a.op, a.fn, a.data)
        items.append(feeding.Item(a.key, a.attempt, int(Channel.TASK), a.engine, False, work))
    custody.items.update((item.key, item) for item in items)
    return items


def test_the_feeder_leaves_functions_to_custody() -> None:
    with pytest.raises(NotImplementedError):
        feeding.Feeder()._lack(None)  # type: ignore[arg-type]
