"""What both schedulers do: peers, functions, the way of results, cancelling, roll calls.

The balancer stands for both where the place of a task does not matter.
"""

from __future__ import annotations

import pytest

from ipclusterz.core import balance
from ipclusterz.core import message as m
from ipclusterz.core.balance import Balancer
from ipclusterz.core.broker import Broker
from ipclusterz.core.functions import Functions
from ipclusterz.core.message import Channel, Status
from ipclusterz.core.relay import Relay
from ipclusterz.core.tasks import Task
from tests.core.bench import Bench, failure, key, outcome, request, result, submit


def bench(*engines: int, generation: int = 0) -> Bench:
    made = Bench(Balancer(generation))
    made.client()
    if engines:
        made.agent(b"agent", *engines)
    made.out()
    return made


def restarted(*agents: bytes) -> Bench:
    """A scheduler that was restarted, whose agents have not called the roll."""
    made = Bench(Balancer(1))
    made.client()
    for index, agent in enumerate(agents):
        made.agent(agent, index, called=False)
    made.core.roster(agents, made.now)
    return made


# -- functions -----------------------------------------------------------------------------


def function(name: bytes, size: int = 10) -> m.Function:
    return m.Function(name, name * size)


def test_a_function_is_sent_to_each_agent_once_and_before_its_task() -> None:
    cluster = bench(0, 1)
    cluster.say(b"client", function(b"f"), submit(1, fn=b"f"), submit(2, fn=b"f"))
    kinds = [type(x) for x in cluster.to(b"agent")]
    assert kinds == [m.Function, m.Assign, m.Assign]


def test_a_task_waits_for_its_function_and_the_client_is_asked_once() -> None:
    cluster = bench(0, 1)
    cluster.say(b"client", submit(1, fn=b"f"), submit(2, fn=b"f"))
    assert cluster.out() == [(b"client", m.NeedFunction(b"f"))]
    cluster.say(b"client", function(b"f"))
    assert len(cluster.assigned()) == 2


def test_each_client_is_asked_for_the_functions_of_its_own_tasks() -> None:
    """One that is asked for all may be gone, or may not have it any more."""
    cluster = bench(0, 1)
    cluster.client(b"other", 2)
    cluster.say(b"client", submit(1, fn=b"f"))
    cluster.say(b"other", submit(1, client=2, fn=b"f"))
    assert cluster.out() == [
        (b"client", m.NeedFunction(b"f")),
        (b"other", m.NeedFunction(b"f")),
    ]
    cluster.expel(b"client")
    cluster.say(b"other", function(b"f"))
    assert [a.key for a in cluster.assigned()] == [key(1, 2)]


def test_tasks_of_a_client_that_left_do_not_wait_for_what_only_it_has() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1, fn=b"f"))
    cluster.expel(b"client")
    assert not cluster.core.tasks
    assert cluster.core.tally(4).unassigned == 0


def test_an_agent_that_lost_a_function_gets_it_again() -> None:
    cluster = bench(0)
    cluster.say(b"client", function(b"f"), submit(1, fn=b"f"))
    cluster.out()
    cluster.say(b"agent", m.NeedFunction(b"f"))
    assert cluster.out() == [(b"agent", function(b"f"))]


def test_a_function_lost_by_agent_and_scheduler_is_asked_of_the_client() -> None:
    cluster = bench(0)
    cluster.say(b"client", function(b"f"), submit(1, fn=b"f"))
    cluster.core.functions = Functions()
    cluster.out()
    cluster.say(b"agent", m.NeedFunction(b"f"))
    assert cluster.out() == [(b"client", m.NeedFunction(b"f"))]
    cluster.say(b"client", function(b"f"))
    assert cluster.out() == [(b"agent", function(b"f"))]


def test_an_agent_that_asks_before_the_client_is_back_gets_its_function_later() -> None:
    cluster = restarted(b"agent")
    cluster.say(b"agent", m.RollCall([0], [], [(key(1), 1, 0)]), m.NeedFunction(b"f"))
    cluster.out()
    cluster.say(b"client", m.Resumed(1), function(b"f"), submit(1, fn=b"f"))
    assert cluster.to(b"agent", m.Function) == [function(b"f")]


def test_a_function_nobody_has_a_task_for_is_nobodys() -> None:
    cluster = bench(0)
    cluster.say(b"agent", m.NeedFunction(b"f"))
    cluster.core.handle(b"agent", [m.NeedFunction(b"g")], 0.0)
    assert cluster.out() == []


def test_an_agent_with_a_new_link_is_sent_functions_anew() -> None:
    cluster = bench(0)
    cluster.say(b"client", function(b"f"), submit(1, fn=b"f"))
    cluster.work()
    cluster.core.renewed(b"agent")
    cluster.core.renewed(b"nobody")
    cluster.out()
    cluster.say(b"client", submit(2, fn=b"f"))
    assert [type(x) for x in cluster.to(b"agent")] == [m.Function, m.Assign]


# -- results -------------------------------------------------------------------------------


def test_a_result_goes_to_its_client_and_the_agent_keeps_it_until_it_arrived() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1))
    (assign,) = cluster.assigned()
    cluster.say(b"agent", result(assign))
    assert cluster.out() == [(b"client", result(assign))]
    cluster.say(b"client", m.Received([key(1), key(99)]))
    assert cluster.out() == [(b"agent", m.Received([key(1)]))]
    cluster.say(b"client", m.Received([key(1)]))
    assert cluster.out() == []


def test_acknowledgements_go_to_each_agent_together() -> None:
    cluster = bench()
    cluster.agent(b"one", 0, 1)
    cluster.agent(b"two", 2, 3)
    cluster.say(b"client", *[submit(i) for i in range(1, 5)])
    given = {agent: cluster.assigned(agent) for agent in (b"one", b"two")}
    for agent, assigns in given.items():
        cluster.say(agent, *[result(a) for a in assigns])
    cluster.out()
    cluster.say(b"client", m.Received([key(i) for i in range(1, 5)]))
    told = dict(cluster.out())
    assert {agent: sorted(x.keys) for agent, x in told.items()} == {
        agent: sorted(a.key for a in assigns) for agent, assigns in given.items()
    }


def test_a_second_copy_of_a_result_is_not_forwarded() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1))
    (assign,) = cluster.assigned()
    cluster.say(b"agent", result(assign), result(assign))
    assert len(cluster.results()) == 1


def test_a_result_of_an_attempt_that_is_over_is_dropped_and_acknowledged() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1))
    (assign,) = cluster.assigned()
    cluster.say(b"agent", outcome(assign.key, assign.attempt - 1, 0))
    assert cluster.out() == [(b"agent", m.Received([key(1)]))]
    cluster.say(b"agent", result(assign))
    assert cluster.results() == [result(assign)]


def test_a_result_for_a_client_that_left_is_acknowledged_for_it() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1))
    cluster.work()
    cluster.out()
    cluster.expel(b"client")
    assert (b"agent", m.Received([key(1)])) in cluster.out()


def test_tasks_of_a_client_that_left_run_but_their_results_go_nowhere() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1))
    (assign,) = cluster.assigned()
    cluster.expel(b"client")
    cluster.say(b"agent", result(assign))
    assert cluster.out() == [(b"agent", m.Received([key(1)]))]
    assert not cluster.core.tasks


def test_a_result_nobody_asked_for_goes_to_the_client_that_its_key_names() -> None:
    cluster = bench(0)
    cluster.say(b"agent", outcome(key(7), 3, 0))
    assert cluster.out() == [(b"client", outcome(key(7), 3, 0))]
    cluster.say(b"agent", outcome(key(7, client=9), 3, 0))
    assert cluster.out() == [(b"agent", m.Received([key(7, client=9)]))]


def test_of_two_agents_with_a_result_for_one_task_both_may_let_go_of_it() -> None:
    cluster = bench(0)
    cluster.agent(b"other", 5)
    cluster.say(b"agent", outcome(key(7), 3, 0))
    cluster.say(b"other", outcome(key(7), 4, 5))
    assert cluster.results() == [outcome(key(7), 3, 0)]
    cluster.say(b"client", m.Received([key(7)]))
    assert sorted(cluster.out()) == [
        (b"agent", m.Received([key(7)])),
        (b"other", m.Received([key(7)])),
    ]


def test_a_task_sent_twice_is_one_task() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1), submit(1))
    (assign,) = cluster.assigned()
    cluster.say(b"client", submit(1))
    cluster.say(b"agent", result(assign))
    cluster.say(b"client", submit(1))  # its result is on the way
    assert len(cluster.results()) == 1
    assert not cluster.core.tasks


def test_a_client_cannot_speak_for_another() -> None:
    cluster = bench(0)
    cluster.client(b"other", 2)
    cluster.say(b"other", submit(1))
    assert cluster.out() == []
    cluster.say(b"client", submit(1))
    cluster.out()
    cluster.say(b"other", m.Cancel([key(1)]))
    assert cluster.out() == []


def test_an_agent_that_is_gone_loses_what_it_may_have_run() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1), submit(2))
    (assign,) = cluster.assigned()
    cluster.expel(b"agent", "its process has ended")
    (lost,) = cluster.results()
    assert (lost.key, lost.status) == (assign.key, Status.LOST)
    assert failure(lost).name == "TaskLost"
    assert failure(lost).text == (
        "engine 0 is gone and this task may have run there: its process has ended"
    )
    assert failure(lost).engine == 0
    cluster.agent(b"next", 1)
    assert [a.key for a in cluster.assigned(b"next")] == [key(2)]


def test_results_of_an_agent_that_is_gone_need_no_acknowledgement() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1))
    cluster.work()
    cluster.expel(b"agent")
    cluster.out()
    cluster.say(b"client", m.Received([key(1)]))
    assert cluster.out() == []


def test_messages_of_agents_that_are_gone_change_nothing() -> None:
    cluster = bench(0)
    cluster.expel(b"agent")
    cluster.say(
        b"agent",
        m.Down(0, ""),
        m.RollCall([0], [], [(key(1), 1, 0)]),
        m.NeedFunction(b"f"),
        m.Returned([(key(1), 1)], 0, ""),
    )
    cluster.core.join(b"agent", [0], 0.0)
    cluster.core.absent(b"agent", True, 0.0)
    assert cluster.out() == []
    assert not cluster.core.tasks and not cluster.core.engine_agent


# -- cancelling ----------------------------------------------------------------------------


def test_a_waiting_task_is_cancelled_here() -> None:
    cluster = bench()
    cluster.say(b"client", submit(1), m.Cancel([key(1), key(2)]))
    (aborted,) = cluster.results()
    assert (aborted.key, aborted.status) == (key(1), Status.ABORTED)
    assert failure(aborted).text == "cancelled before it began"
    assert not cluster.core.tasks


def test_a_task_that_waits_for_its_function_is_cancelled_here() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1, fn=b"f"), m.Cancel([key(1)]))
    assert [r.status for r in cluster.results()] == [Status.ABORTED]
    cluster.say(b"client", function(b"f"))
    assert cluster.assigned() == []


def test_agents_are_asked_about_the_tasks_they_hold() -> None:
    cluster = bench(0)
    cluster.agent(b"other", 1)
    cluster.say(b"client", submit(1), submit(2))
    cluster.out()
    cluster.say(b"client", m.Cancel([key(1), key(2)]))
    told = dict(cluster.out())
    assert set(told) == {b"agent", b"other"}
    assert sorted(k for x in told.values() for k in x.keys) == [key(1), key(2)]


def test_a_task_given_back_when_it_was_already_cancelled_does_not_go_out_again() -> None:
    """The agent gave it back before the cancel arrived there."""
    cluster = bench(0)
    cluster.say(b"client", submit(1))
    (assign,) = cluster.assigned()
    cluster.say(b"client", m.Cancel([key(1)]))
    cluster.say(b"agent", m.Returned([(assign.key, assign.attempt)], -1, "as asked"))
    assert cluster.assigned() == []
    assert [r.status for r in cluster.results()] == [Status.ABORTED]
    assert not cluster.core.tasks


def test_a_cancelled_task_that_ran_and_failed_is_not_tried_again() -> None:
    cluster = bench(0, 1)
    cluster.say(b"client", submit(1, retries=3))
    (assign,) = cluster.assigned()
    cluster.say(b"client", m.Cancel([key(1)]))
    cluster.out()
    cluster.say(b"agent", result(assign, Status.DIED))
    assert cluster.assigned() == []
    assert [r.status for r in cluster.results()] == [Status.DIED]


def test_a_cancelled_task_is_not_tried_again_when_its_agent_is_gone() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1, retries=3))
    cluster.say(b"client", m.Cancel([key(1)]))
    cluster.expel(b"agent")
    assert [r.status for r in cluster.results()] == [Status.LOST]
    cluster.agent(b"next", 1)
    assert cluster.assigned(b"next") == []


@pytest.mark.parametrize("options", [{}, {"engines": [0]}])
def test_many_cancels_do_not_walk_the_queue_for_each(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, list[int]]
) -> None:
    """The last one is cancelled first, as users do."""
    compared = 0

    class Counted(Task):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return self is other

        __hash__ = Task.__hash__

    monkeypatch.setattr(balance, "Task", Counted)
    cluster = bench(*options.get("engines", []))
    n = 2000
    cluster.say(b"client", *[submit(i, **options) for i in range(1, n + 1)])
    cluster.say(b"client", m.Cancel([key(i) for i in range(n, n // 2 - 1, -1)]))
    assert len(cluster.results()) == n - n // 2 + 1
    assert compared <= n


# -- after a restart -----------------------------------------------------------------------


def test_attempts_of_a_restarted_scheduler_have_numbers_of_their_own() -> None:
    numbers = []
    for generation in range(3):
        cluster = bench(0, generation=generation)
        cluster.core.roster([], 0.0)
        cluster.say(b"client", submit(1))
        numbers.append(cluster.assigned()[0].attempt)
    assert len(set(numbers)) == 3
    assert numbers[1] - numbers[0] > 1000


def test_what_is_sent_again_waits_until_every_agent_has_called_the_roll() -> None:
    cluster = restarted(b"one", b"two")
    cluster.say(b"client", m.Resumed(2), submit(1), submit(2))
    assert cluster.out(m.Assign) == []
    cluster.say(b"one", m.RollCall([0], [], [(key(1), 1, 0)]))
    assert cluster.out(m.Assign) == []
    cluster.say(b"two", m.RollCall([1], [], []))
    assert [a.key for _, a in cluster.out(m.Assign)] == [key(2)]
    cluster.say(b"one", outcome(key(1), 1, 0))
    assert [r.key for r in cluster.results()] == [key(1)]


def test_new_tasks_do_not_wait_for_the_roll() -> None:
    cluster = restarted(b"one")
    cluster.say(b"client", m.Resumed(5), submit(6))
    assert [a.key for _, a in cluster.out(m.Assign)] == [key(6)]


def test_a_roll_in_parts_counts_when_its_last_part_has_come() -> None:
    cluster = restarted(b"one")
    cluster.say(b"client", m.Resumed(3), submit(1), submit(2), submit(3))
    cluster.say(b"one", m.RollCall([], [], [(key(1), 1, 0)], True))
    assert cluster.out(m.Assign) == []
    cluster.say(b"one", m.RollCall([0], [], [(key(2), 1, 0)]))
    assert not cluster.out(m.Assign)
    assert sorted(cluster.core.agents[b"one"].held) == [key(1), key(2)]


def test_a_finished_task_is_not_run_again_after_a_restart() -> None:
    cluster = restarted(b"one")
    cluster.say(b"client", m.Resumed(1), submit(1))
    cluster.say(b"one", outcome(key(1), 1, 0), m.RollCall([0], [], []))
    assert cluster.out(m.Assign) == []
    assert not cluster.core.tasks


def test_a_task_of_which_only_the_roll_tells_is_known_when_its_client_comes() -> None:
    cluster = restarted(b"one")
    cluster.say(b"one", m.RollCall([0], [], [(key(1), 1, 0)]))
    cluster.say(b"client", m.Resumed(1), submit(1, retries=2))
    assert cluster.out(m.Assign) == []
    task = cluster.core.tasks[key(1)]
    assert task.retries == 2 and task.work is not None


def test_a_task_of_which_only_the_roll_told_is_forgotten_when_it_comes_back() -> None:
    cluster = restarted(b"one")
    cluster.say(b"one", m.RollCall([0], [], [(key(1), 1, 0)]))
    cluster.say(b"one", m.Returned([(key(1), 1)], 0, "its engine died"))
    assert not cluster.core.tasks
    cluster.say(b"client", m.Resumed(1), submit(1))
    assert [a.key for _, a in cluster.out(m.Assign)] == [key(1)]


@pytest.mark.parametrize("rolled", [True, False])
def test_a_result_that_comes_before_its_client_is_let_in_is_kept_for_it(rolled: bool) -> None:
    """After a restart the hub tells of agents first, and their results may be quick."""
    cluster = Bench(Balancer(1))
    cluster.agent(b"one", 0, called=False)
    held = [(key(1), 1, 0)] if rolled else []
    cluster.say(b"one", m.RollCall([0], [], held), outcome(key(1), 1, 0))
    assert cluster.to(b"one", m.Received) == [], "the agent must not drop it"
    cluster.client()
    cluster.core.roster([b"one"], cluster.now)
    assert [r.key for r in cluster.results()] == [key(1)]
    cluster.say(b"client", m.Resumed(1), submit(1))
    assert cluster.out(m.Assign) == []
    cluster.say(b"client", m.Received([key(1)]))
    assert cluster.to(b"one", m.Received) == [m.Received([key(1)])]


def test_a_result_whose_client_is_not_there_after_all_is_not_kept() -> None:
    cluster = Bench(Balancer(1))
    cluster.agent(b"one", 0, called=False)
    cluster.say(b"one", m.RollCall([0], [], []), outcome(key(1), 1, 0))
    cluster.core.roster([b"one"], cluster.now)
    assert cluster.to(b"one", m.Received) == [m.Received([key(1)])]


def test_a_client_that_is_let_in_after_the_roll_gets_what_was_held() -> None:
    cluster = Bench(Balancer(1))
    cluster.agent(b"one", 0, called=False)
    cluster.say(b"one", m.RollCall([0], [], [(key(1), 1, 0)]))
    cluster.client()
    cluster.say(b"client", m.Resumed(1), submit(1))
    cluster.say(b"one", outcome(key(1), 1, 0))
    assert [r.key for r in cluster.results()] == [key(1)]


def test_cancels_wait_for_the_roll() -> None:
    cluster = restarted(b"one")
    cluster.say(b"client", m.Resumed(2), submit(1), submit(2), m.Cancel([key(1), key(2)]))
    assert cluster.results() == []
    cluster.say(b"one", m.RollCall([0], [], [(key(1), 1, 0)]))
    assert [r.key for r in cluster.results()] == [key(2)]
    assert cluster.to(b"one", m.Withdraw) == [m.Withdraw([key(1)])]


def test_an_agent_that_is_gone_without_a_roll_may_have_run_what_was_sent_again() -> None:
    cluster = restarted(b"one", b"two")
    cluster.say(b"client", m.Resumed(2), submit(1), submit(2, retries=1))
    cluster.say(b"two", m.RollCall([1], [], []))
    cluster.expel(b"one", "its host is gone")
    lost = {r.key: r for r in cluster.results() if r.status == Status.LOST}[key(1)]
    assert (
        "a scheduler was restarted, and an agent with it: its host is gone"
        in failure(lost).text
    )
    assert [a.key for a in cluster.assigned(b"two")] == [key(2)]


def test_without_agents_there_is_no_roll_to_wait_for() -> None:
    cluster = restarted()
    cluster.say(b"client", m.Resumed(1), submit(1))
    cluster.agent(b"new", 7)
    assert [a.key for a in cluster.assigned(b"new")] == [key(1)]


def test_engines_that_ended_unheard_are_told_by_the_roll() -> None:
    cluster = bench(0, 1)
    cluster.say(b"agent", m.RollCall([1], [0], []))
    assert list(cluster.core.engine_agent) == [1]


def test_a_roll_that_is_called_again_changes_nothing() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1), submit(2))
    (assign,) = cluster.assigned()
    cluster.say(b"agent", m.RollCall([0], [], [(assign.key, assign.attempt, 0)]))
    assert cluster.out() == []
    cluster.say(b"agent", result(assign))
    assert [r.key for r in cluster.results()] == [key(1)]
    assert [a.key for a in cluster.assigned()] == [key(2)]


def test_a_stale_attempt_in_a_roll_does_not_take_a_task_away() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1))
    (assign,) = cluster.assigned()
    cluster.agent(b"other", 9, called=False)
    cluster.say(b"other", m.RollCall([9], [], [(assign.key, assign.attempt - 1, 9)]))
    cluster.say(b"agent", result(assign))
    assert len(cluster.results()) == 1


def test_a_waiting_task_that_a_roll_names_is_not_given_out() -> None:
    cluster = bench()
    cluster.say(b"client", submit(1))
    cluster.core.admit(b"late", m.Role.ENGINE, 0)
    cluster.say(b"late", m.RollCall([0], [], [(key(1), 5, 0)]))
    assert cluster.out(m.Assign) == []
    cluster.say(b"late", outcome(key(1), 5, 0))
    assert len(cluster.results()) == 1


# -- bodies --------------------------------------------------------------------------------


def test_pieces_of_a_tasks_body_go_between_its_client_and_its_agent() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1))
    cluster.out()
    fetch = m.Fetch(key(1), b"i" * 16, 0, 10, 1, b"s" * 32)
    load = m.Load(m.Chunk(key(1), b"i" * 16, 0, 1), b"0123456789")
    cluster.say(b"agent", fetch)
    assert cluster.core.fetches == [(b"agent", b"client", fetch)]
    assert cluster.out() == [], "the shell may answer it"
    cluster.say(b"client", load)
    assert cluster.out() == [], "pieces do not queue with messages"
    assert cluster.core.loads == [(b"agent", load)]
    problem = m.Chunk(key(1), b"i" * 16, 0, 1, "it is gone", written=True)
    cluster.say(b"client", problem)
    assert cluster.out() == [(b"agent", problem)]
    assert not problem.written, "only schedulers say so"


def test_pieces_of_a_results_body_come_from_the_agent_that_keeps_it() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1))
    cluster.work()
    cluster.out()
    fetch = m.Fetch(key(1), b"i" * 16, 0, 10, 1, b"s" * 32)
    cluster.say(b"client", fetch)
    assert cluster.core.fetches == [(b"client", b"agent", fetch)] and cluster.out() == []
    load = m.Load(m.Chunk(key(1), b"i" * 16, 0, 1, written=True), b"")
    cluster.say(b"agent", load)
    assert cluster.core.loads == [(b"client", load)]
    assert not load.chunk.written, "only schedulers say so"


def test_who_asks_for_a_piece_of_somebody_gone_is_told_so() -> None:
    cluster = bench(0)
    fetch = m.Fetch(key(1), b"i" * 16, 64, 10, 9, b"s" * 32)
    cluster.say(b"client", fetch)
    ((peer, chunk),) = cluster.out()
    assert (peer, chunk.key, chunk.id, chunk.offset, chunk.number) == (
        b"client",
        key(1),
        b"i" * 16,
        64,
        9,
    )
    assert chunk.problem == "whoever kept it is gone"
    cluster.expel(b"client")
    cluster.say(b"agent", fetch)
    ((peer, chunk),) = cluster.out()
    assert (peer, chunk.problem) == (b"agent", "the client that sent it is gone")
    cluster.say(b"agent", m.Load(m.Chunk(key(1), b"i" * 16, 0, 1), b"data"))
    assert cluster.out() == [] and cluster.core.loads == [] and cluster.core.fetches == []


# -- counts --------------------------------------------------------------------------------


def test_the_tally_counts_per_engine_and_what_waits() -> None:
    cluster = bench(0)
    cluster.say(b"client", *[submit(i) for i in range(1, 6)])
    (assign,) = cluster.assigned()
    cluster.say(b"agent", result(assign, Status.ERROR))
    tally = cluster.core.tally(int(Channel.TASK))
    assert tally.channel == Channel.TASK
    assert tally.engines == [(0, 2, 0, 1)]
    assert tally.unassigned == 2


def test_what_waits_for_the_roll_counts_as_waiting() -> None:
    cluster = restarted(b"one")
    cluster.say(b"client", m.Resumed(2), submit(1), submit(2))
    assert cluster.core.tally(4).unassigned == 2


def test_the_base_leaves_places_to_its_subclasses() -> None:
    broker = Broker()
    for call in (
        lambda: broker._engine_came(0, None),  # type: ignore[arg-type]
        lambda: broker._engine_went(0),
        lambda: broker._place(None),  # type: ignore[arg-type]
        lambda: broker._drop(None),  # type: ignore[arg-type]
    ):
        with pytest.raises(NotImplementedError):
            call()


def test_the_direct_scheduler_follows_the_same_rules_after_a_restart() -> None:
    cluster = Bench(Relay(1))
    cluster.client()
    cluster.agent(b"one", 0, 1, called=False)
    cluster.core.roster([b"one"], 0.0)
    cluster.say(b"client", m.Resumed(2), request(1, [0, 1]))
    assert cluster.out(m.Fan) == []
    cluster.say(b"one", m.RollCall([0, 1], [], [(key(1), 1, 0)]))
    ((_, fan),) = cluster.out(m.Fan)
    assert (fan.keys, fan.engines) == ([key(2)], [1])


# -- holes that the simulation found ---------------------------------------------------------


def test_a_lost_task_that_its_client_sends_again_meanwhile_is_not_run_again() -> None:
    """The agent called the roll and ended before the client came: its word crosses ours."""
    cluster = restarted(b"one")
    cluster.say(b"one", m.RollCall([0], [], [(key(1), 1, 0)]))
    cluster.expel(b"one", "killed")
    assert [r.status for r in cluster.results()] == [Status.LOST]
    cluster.agent(b"next", 7)
    cluster.say(b"client", m.Resumed(1), submit(1))
    assert cluster.out(m.Assign) == []
    cluster.say(b"client", m.Received([key(1)]))
    assert cluster.out() == []


def test_a_result_whose_agent_ended_before_it_arrived_is_not_sought_again() -> None:
    cluster = restarted(b"one")
    cluster.say(b"one", outcome(key(1), 1, 0), m.RollCall([0], [], []))
    cluster.expel(b"one", "killed")
    cluster.agent(b"next", 7)
    cluster.out()
    cluster.say(b"client", m.Resumed(1), submit(1))
    assert cluster.out(m.Assign) == []
