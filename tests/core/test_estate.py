"""What clients leave: written down, read by the next scheduler, and gone on with."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipclusterz.core import estate
from ipclusterz.core import message as m
from ipclusterz.core.balance import Balancer
from ipclusterz.core.message import Status
from ipclusterz.core.recorder import Recorder
from tests.core.bench import CLIENT, Bench, failure, key, outcome, result, submit


class Scheduler(Bench):
    """A task scheduler with engines 0 and 1, and what it has written down."""

    def __init__(self, left: bytes = b"", generation: int = 0, recorded: bool = False) -> None:
        core = Balancer(generation)
        super().__init__(core)
        self.balancer = core
        self.file = left
        if recorded:
            core.recorder = Recorder(int(m.Channel.TASK), 0.0)
        if generation:
            core.inherit(estate.read(left), self.now)

    def leaves(self, peer: bytes = b"client") -> None:
        self.expel(peer, "it said goodbye")
        self.balancer.write_down()

    def carry(self) -> bytes:
        kept = self.balancer.estate
        out, kept.out = kept.out, []
        self.file += estate.written(out)
        return self.file

    def entries(self) -> dict[int, estate.Entry]:
        return estate.read(self.carry()).tasks

    def next(self, *agents: bytes) -> Scheduler:
        """The scheduler after this one was killed; its agents have not called the roll."""
        made = Scheduler(self.carry(), self.balancer._generation + 1)
        for index, agent in enumerate(agents):
            made.agent(agent, index, called=False)
        made.core.roster(agents, made.now)
        return made


def scheduler(**options: Any) -> Scheduler:
    made = Scheduler(**options)
    made.client()
    made.agent(b"agent", 0)
    return made


def test_nothing_is_written_while_clients_are_there_or_have_nothing_left() -> None:
    one = scheduler()
    one.say(b"client", submit(1), submit(2))
    assert one.carry() == b""
    one.work()
    one.leaves()
    assert one.carry() == b"" and one.balancer.estate.over


def test_what_waits_goes_on_in_the_next_scheduler() -> None:
    one = scheduler()
    one.say(b"client", m.Function(b"f", b"code"), *[submit(i, fn=b"f") for i in range(1, 6)])
    (running,) = one.assigned()
    one.leaves()
    two = one.next(b"agent")
    assert two.out(m.Assign) == [], "an agent may hold any of them"
    two.say(b"agent", m.RollCall([0], [], [(running.key, running.attempt, 0)]))
    two.say(b"agent", result(running))
    ran = [running.key]
    while given := two.to(b"agent", m.Assign):
        ran += [a.key for a in given]
        two.say(b"agent", *map(result, given))
    assert sorted(ran) == [key(i) for i in range(1, 6)]
    assert two.balancer.estate.over and not two.balancer.functions.pinned
    assert not estate.read(two.carry()).tasks


def test_agents_get_the_functions_of_what_was_left() -> None:
    one = scheduler()
    one.say(b"client", m.Function(b"f", b"code"), submit(1), submit(2, fn=b"f"))
    one.leaves()
    two = one.next(b"new")
    two.say(b"new", m.RollCall([0], [], []))
    told: list[Any] = []
    while said := two.to(b"new", m.Assign, m.Function):
        told += said
        two.say(b"new", *[result(a) for a in said if isinstance(a, m.Assign)])
    assert m.Function(b"f", b"code") in told and not two.core.tasks


def test_what_has_ended_is_not_taken_for_waiting() -> None:
    one = scheduler()
    one.say(b"client", submit(1), submit(2), submit(3))
    one.leaves()
    (first,) = one.assigned()
    one.say(b"agent", result(first))
    assert sorted(one.entries()) == [key(2), key(3)]
    two = one.next()
    two.agent(b"other", 5)
    assert first.key not in [a.key for _, a in two.out(m.Assign)]


def test_an_end_is_written_before_the_agent_is_told_to_forget() -> None:
    one = scheduler()
    one.say(b"client", submit(1))
    one.leaves()
    (given,) = one.assigned()
    one.say(b"agent", result(given))
    assert one.balancer.estate.out == [estate.Ended([(key(1), True, 0)])] or not one.entries()
    assert one.to(b"agent", m.Received) == [m.Received([key(1)])]


def test_with_a_task_database_agents_keep_results_until_they_are_in_it() -> None:
    one = scheduler(recorded=True)
    one.say(b"client", submit(1), submit(2))
    (first,) = one.assigned()
    one.say(b"agent", result(first))  # its client was told, and did not say that it heard
    (second,) = one.assigned()
    one.leaves()
    one.say(b"agent", result(second))
    assert one.to(b"agent", m.Received) == []
    unwritten, one.core.unwritten = one.core.unwritten, []
    assert [(peer, at) for peer, at, _ in unwritten] == [
        (b"agent", first.key),
        (b"agent", second.key),
    ]
    assert unwritten[1][2] == result(second)
    one.core.written(unwritten)
    assert one.to(b"agent", m.Received) == [m.Received([first.key, second.key])]


def test_a_hub_that_is_new_is_told_again_of_results_that_were_not_written() -> None:
    one = scheduler(recorded=True)
    one.say(b"client", submit(1))
    one.leaves()
    (given,) = one.assigned()
    one.say(b"agent", result(given))
    recorder = one.core.recorder
    assert recorder is not None
    recorder.take()
    unwritten, one.core.unwritten = one.core.unwritten, []
    one.core.record_results(unwritten)
    assert [ended[0] for ended in recorder.take().ended] == [key(1)]
    assert one.core.unwritten == unwritten
    one.expel(b"agent")
    one.out()
    one.core.written(unwritten)
    assert one.out() == [], "nobody is told who is gone"


def test_what_an_agent_was_given_may_have_run_if_the_agent_is_gone() -> None:
    one = scheduler()
    one.say(b"client", submit(1), submit(2, retries=1), submit(3))
    one.leaves()
    (first,) = one.assigned()
    assert {k: e.handed for k, e in one.entries().items()} == {
        key(1): True,
        key(2): False,
        key(3): False,
    }
    two = Scheduler(one.carry(), 1, recorded=True)
    two.core.roster([], two.now, "its host is gone")
    recorder = two.core.recorder
    assert recorder is not None
    (lost,) = recorder.take().whole
    assert lost[0] == first.key and lost[9] == Status.LOST
    two.agent(b"new", 7)
    assert two.work(b"new") == 2


def test_given_out_after_its_client_left_it_counts_as_given() -> None:
    one = Scheduler()
    one.client()
    one.say(b"client", submit(1), submit(2, retries=3))
    one.leaves()
    assert not any(entry.handed for entry in one.entries().values())
    one.agent(b"agent", 0)
    one.work(rounds=1)
    one.assigned()
    assert {k: e.handed for k, e in one.entries().items()} == {key(2): True}


def test_tries_and_deaths_are_counted_on() -> None:
    one = scheduler()
    one.say(b"client", submit(1, retries=5))
    one.leaves()
    (given,) = one.assigned()
    one.say(b"agent", result(given, Status.DIED))
    entry = one.entries()[key(1)]
    assert (entry.retries, entry.deaths) == (4, 1)
    two = one.next()
    task = two.core._limbo.get(key(1)) or two.core.tasks[key(1)]
    assert (task.retries, task.deaths) == (4, 1)


def test_a_failure_told_before_the_roll_is_complete_is_tried_again_once() -> None:
    one = scheduler()
    one.agent(b"other", 1)
    one.say(b"client", submit(1, retries=1), submit(2, retries=1))
    first, second = one.assigned()[0], one.assigned(b"other")[0]
    one.leaves()
    two = one.next(b"agent", b"other")
    two.say(b"agent", outcome(first.key, first.attempt, 0, Status.ERROR, data=b""))
    two.say(b"agent", outcome(second.key, second.attempt - 1, 0, Status.ERROR, data=b""))
    two.say(b"agent", m.RollCall([0], [], []))
    assert two.out(m.Assign, m.Received) == []
    two.say(b"other", m.RollCall([1], [], [(second.key, second.attempt, 1)]))
    said = two.out(m.Assign, m.Received)
    assert [x.keys for p, x in said if isinstance(x, m.Received) and p == b"agent"] == [
        [first.key],
        [second.key],
    ]
    assert not [x for _, x in said if isinstance(x, m.Assign)], "only the other engine is left"
    two.say(b"other", result(second))
    assert [x.key for _, x in two.out(m.Assign)] == [first.key]


def test_dependencies_know_what_ended_before() -> None:
    one = scheduler()
    one.say(b"client", submit(1))
    one.work()
    depend = m.Depend([key(1), key(2)])
    one.say(b"client", submit(2), submit(3, after=depend), submit(4, follow=m.Depend([key(2)])))
    (given,) = one.assigned()
    one.leaves()
    entry = one.entries()[key(3)]
    assert entry.work.opt is not None and entry.work.opt.after is not None
    assert entry.work.opt.after.known == [(key(1), True, 0)]
    one.say(b"agent", result(given))
    two = one.next(b"agent")
    two.say(b"agent", m.RollCall([0], [], []))
    assert two.work(b"agent") == 2


def test_a_task_that_waits_no_more_for_others_is_written_without_them() -> None:
    one = Scheduler()
    one.client()
    one.agent(b"agent", 0, 1)
    one.say(b"client", submit(1), submit(2))
    one.say(b"agent", *map(result, one.assigned()))
    one.say(b"client", submit(10), submit(11), submit(3, follow=m.Depend([key(1)])))
    one.leaves()
    opt = one.entries()[key(3)].work.opt
    assert opt is not None and opt.follow is None and opt.engines == [0]


def test_clients_are_known_by_name() -> None:
    one = Scheduler()
    one.core.admit(b"client", m.Role.CLIENT, CLIENT, "abc")
    one.say(b"client", submit(1))
    one.leaves()
    left = estate.read(one.carry())
    assert left.names == {CLIENT: "abc"}
    assert one.next().balancer.estate.names == {CLIENT: "abc"}


def test_a_task_whose_function_is_nowhere_ends_with_that_reason() -> None:
    one = Scheduler()
    one.client()
    one.say(b"client", m.Function(b"f", b"code"), submit(1, fn=b"f"))
    one.core.functions.pinned.clear()
    one.leaves()
    text = one.carry().replace(b"code", b"")  # damaged: what follows is left out
    assert estate.read(text[:20]).tasks == {}
    two = Scheduler(generation=1, recorded=True)
    two.balancer.estate.keys.add(key(1))
    entry = one.entries()[key(1)]
    two.balancer.inherit(_only(entry), two.now)
    two.core.roster([], two.now)
    recorder = two.core.recorder
    assert recorder is not None
    (lost,) = recorder.take().whole
    assert lost[9] == Status.LOST and "its function is gone" in str(lost[14])


def _only(entry: estate.Entry) -> estate.Inheritance:
    left = estate.Inheritance()
    left.note(entry)
    return left


def test_very_many_tasks_are_written_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estate, "PORTION", 10)
    one = Scheduler()
    one.client()
    one.say(b"client", *[submit(i) for i in range(1, 36)])
    one.leaves()
    assert len(one.entries()) == 10 and one.balancer.estate.coming
    for _ in range(3):
        one.tick(0.1)
    assert len(one.entries()) == 35 and not one.balancer.estate.coming


def test_it_is_written_anew_when_most_of_it_is_about_what_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(estate, "SPARE", 10)
    one = scheduler()
    one.say(b"client", m.Function(b"f", b"code"), *[submit(i, fn=b"f") for i in range(1, 40)])
    one.leaves()
    while not one.balancer.estate.wasteful:
        assert one.work(rounds=1, seconds=1.0)
    before = one.entries()
    assert before
    one.balancer.rewrite()
    one.file = b""
    assert one.entries() == before and not one.balancer.estate.wasteful
    assert estate.read(one.file).codes == {b"f": b"code"}
    one.work()
    assert one.balancer.estate.over


def test_whoever_fails_for_want_of_engines_is_not_left() -> None:
    one = Scheduler()
    one.client()
    one.say(b"client", submit(1), submit(2, engines=None, retries=1))
    one.leaves()
    assert len(one.entries()) == 2
    for _ in range(3):
        one.tick(40.0)
    assert one.balancer.estate.over and not one.core.tasks


records = st.lists(
    st.one_of(
        st.builds(estate.Left, st.integers(0, 9), st.text(max_size=3)),
        st.builds(estate.Code, st.binary(max_size=3), st.binary(max_size=9)),
        st.builds(
            estate.Entry,
            st.builds(submit, st.integers(1, 9)),
            st.integers(0, 3),
            st.integers(0, 3),
            st.booleans(),
        ),
        st.builds(estate.Handed, st.lists(st.integers(0, 9).map(key), max_size=3)),
        st.builds(estate.Spent, st.integers(0, 9).map(key), st.integers(0, 3), st.just(1)),
        st.builds(
            estate.Ended,
            st.lists(
                st.tuples(st.integers(0, 9).map(key), st.booleans(), st.integers(-1, 3)),
                max_size=3,
            ),
        ),
    ),
    max_size=20,
)


@given(records, st.integers(0, 400))
def test_a_file_that_was_cut_off_tells_of_what_was_before(
    some: list[estate.Record], cut: int
) -> None:
    whole = estate.written(some)
    read = estate.read(whole[:cut])
    n = next(i for i in range(len(some), -1, -1) if len(estate.written(some[:i])) <= cut)
    expected = estate.Inheritance()
    for record in estate.read(estate.written(some[:n])).tasks.values():
        expected.note(record)
    assert read.tasks == expected.tasks


@given(st.binary(max_size=200))
def test_garbage_is_nothing(data: bytes) -> None:
    estate.read(data)


def test_failures_of_what_was_left_say_why() -> None:
    one = scheduler()
    one.say(b"client", submit(1))
    (given,) = one.assigned()
    one.say(b"agent", result(given, Status.ERROR, data=m.encode(m.Failure("E", "text"))))
    (told,) = one.results()
    assert failure(told).text == "text"
    assert msgspec.msgpack.decode(m.encode(told), type=m.Result) == told
