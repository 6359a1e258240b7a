"""The task scheduler: credit, shares, confined tasks, retries, recalls, and no engines."""

from __future__ import annotations

from itertools import pairwise

import pytest

from ipclusterz.core import message as m
from ipclusterz.core.balance import LOOK_AFTER, NO_ENGINE_AFTER, RECALL_AFTER, Balancer
from ipclusterz.core.capacity import AHEAD, MAX_CREDIT
from ipclusterz.core.message import Status
from ipclusterz.core.policy import SCHEMES
from tests.core.bench import Bench, failure, key, outcome, result, submit


def bench(*engines: int, hwm: int = 0, scheme: str = "leastload") -> Bench:
    made = Bench(Balancer(scheme=scheme, hwm=hwm))
    made.client()
    if engines:
        made.agent(b"agent", *engines)
    return made


def core(cluster: Bench) -> Balancer:
    assert isinstance(cluster.core, Balancer)
    return cluster.core


def credit(cluster: Bench, engine: int) -> int:
    return int(core(cluster).hint()[engine][1])


def load(cluster: Bench, engine: int) -> int:
    return int(core(cluster).hint()[engine][0])


# -- credit --------------------------------------------------------------------------------


def test_an_unknown_engine_gets_one_task_at_first() -> None:
    cluster = bench(0, 1)
    cluster.say(b"client", *[submit(i) for i in range(1, 11)])
    assert sorted(a.engine for a in cluster.assigned()) == [0, 1]
    assert core(cluster).queued == 8


def test_credit_doubles_each_round_while_tasks_are_short() -> None:
    cluster = bench(0)
    cluster.say(b"client", *[submit(i) for i in range(1, 200)])
    rounds = []
    while len(rounds) < 6:
        given = cluster.assigned()
        rounds.append(len(given))
        cluster.say(b"agent", *[result(a, seconds=1e-5) for a in given])
    assert rounds[0] == 1
    assert credit(cluster, 0) == sum(rounds) + 1
    assert rounds[5] >= 4 * rounds[2]


def test_credit_does_not_grow_beyond_what_is_done_in_the_time_ahead() -> None:
    cluster = bench(0)
    cluster.say(b"client", *[submit(i) for i in range(1, 300)])
    cluster.work(seconds=0.010, rounds=20)
    assert credit(cluster, 0) == int(AHEAD / 0.010)


def test_long_tasks_go_one_at_a_time() -> None:
    cluster = bench(0)
    cluster.say(b"client", *[submit(i) for i in range(1, 50)])
    for _ in range(10):
        given = cluster.assigned()
        assert len(given) == 1
        cluster.say(b"agent", result(given[0], seconds=1.0))


def test_one_long_task_shrinks_the_credit_of_an_engine_at_once() -> None:
    cluster = bench(0)
    cluster.say(b"client", *[submit(i) for i in range(1, 100)])
    cluster.work(seconds=1e-5)
    assert credit(cluster, 0) > 50
    cluster.say(b"client", submit(200))
    cluster.work(seconds=2.0)
    assert credit(cluster, 0) == 1


def test_credit_grows_back_when_tasks_are_short_again() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1))
    cluster.work(seconds=1.0)
    cluster.say(b"client", *[submit(i) for i in range(2, 200)])
    cluster.work(seconds=1e-5)
    assert credit(cluster, 0) > 20


def test_credit_has_an_end_however_short_tasks_are() -> None:
    cluster = bench(0)
    cluster.say(b"client", *[submit(i) for i in range(1, 3000)])
    cluster.work(seconds=0.0)
    assert credit(cluster, 0) == MAX_CREDIT


@pytest.mark.parametrize("seconds", [-5.0, float("inf"), 1e12])
def test_clocks_that_lie_do_no_harm(seconds: float) -> None:
    cluster = bench(0)
    cluster.say(b"client", *[submit(i) for i in range(1, 20)])
    cluster.work(seconds=seconds)
    assert 1 <= credit(cluster, 0) <= 20
    assert len(cluster.results()) == 19


@pytest.mark.parametrize("seconds", [1e-5, 10.0])
def test_hwm_fixes_the_credit(seconds: float) -> None:
    cluster = bench(0, hwm=3)
    cluster.say(b"client", *[submit(i) for i in range(1, 30)])
    # Shares first, then what is left: the last tasks are spread, not heaped.
    cluster.work(seconds=seconds, rounds=5)
    assert credit(cluster, 0) == 3
    assert load(cluster, 0) <= 3


def test_the_result_of_another_engine_of_the_agent_counts_for_that_one() -> None:
    cluster = bench(0, 1)
    cluster.say(b"client", submit(1))
    (assign,) = cluster.assigned()
    other = 1 - assign.engine
    cluster.say(b"agent", outcome(assign.key, assign.attempt, other, seconds=1e-5))
    assert credit(cluster, other) == 2
    assert credit(cluster, assign.engine) == 1
    assert load(cluster, 0) == load(cluster, 1) == 0


# -- shares --------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_uses_all_engines_and_finishes(scheme: str) -> None:
    cluster = bench(*range(4), scheme=scheme)
    used = set()
    cluster.say(b"client", *[submit(i) for i in range(1, 201)])
    while given := cluster.assigned():
        used.update(a.engine for a in given)
        cluster.say(b"agent", *[result(a) for a in given])
    assert used == {0, 1, 2, 3}
    assert len(cluster.results()) == 200


def test_few_tasks_are_spread_over_engines_that_could_hold_many() -> None:
    cluster = bench()
    agents = [cluster.agent(b"agent %d" % i, i) for i in range(4)]
    cluster.say(b"client", *[submit(i) for i in range(1, 400)])
    while any(cluster.work(agent, seconds=1e-5) for agent in agents):
        pass
    cluster.say(b"client", *[submit(1000 + i) for i in range(8)])
    given = [a.engine for agent in agents for a in cluster.assigned(agent)]
    assert sorted(given) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_what_is_too_little_to_divide_goes_to_an_agent_at_once() -> None:
    cluster = bench(*range(100))
    cluster.agent(b"other", *range(100, 200))
    cluster.say(b"client", *[submit(i) for i in range(1, 4000)])
    while cluster.work(seconds=1e-5) + cluster.work(b"other", seconds=1e-5):
        pass
    cluster.say(b"client", *[submit(5000 + i) for i in range(200)])
    here = [a.engine for a in cluster.assigned()]
    there = [a.engine for a in cluster.assigned(b"other")]
    assert len(here) + len(there) == 200
    for given in (here, there):
        assert all(given.count(engine) <= 20 for engine in given)  # 0.2 ms of them
    assert len({*here, *there}) < 40


def test_many_tasks_are_given_out_in_runs() -> None:
    cluster = bench(*range(4))
    cluster.say(b"client", *[submit(i) for i in range(1, 2000)])
    cluster.work(seconds=1e-5)
    cluster.say(b"client", *[submit(5000 + i) for i in range(800)])
    given = [a.engine for a in cluster.assigned()]
    changes = sum(a != b for a, b in pairwise(given))
    assert len(given) == 800
    assert changes < 60
    assert max(given.count(e) for e in range(4)) < 350


def test_tasks_go_out_in_the_order_they_came() -> None:
    cluster = bench(0)
    cluster.say(b"client", *[submit(i) for i in range(1, 50)])
    order = []
    while given := cluster.assigned():
        order.extend(a.key for a in given)
        cluster.say(b"agent", *[result(a) for a in given])
    assert order == [key(i) for i in range(1, 50)]


def test_tasks_that_come_back_unbegun_go_first_and_keep_their_order() -> None:
    cluster = bench(0)
    cluster.say(b"client", *[submit(i) for i in range(1, 20)])
    cluster.work(rounds=2, seconds=1e-5)
    given = cluster.assigned()
    assert len(given) > 2
    first = given[0]
    back = [(a.key, a.attempt) for a in given[1:]]
    cluster.say(b"agent", m.Returned(back, 0, "as asked"))
    again = cluster.assigned()
    assert [a.key for a in again] == [a.key for a in given[1:]][: len(again)]
    assert all(a.attempt > first.attempt for a in again)


def test_what_comes_back_of_another_attempt_or_agent_is_not_ours() -> None:
    cluster = bench(0)
    cluster.agent(b"other", 9)
    cluster.say(b"client", submit(1))
    ((peer, assign),) = cluster.out(m.Assign)
    stranger = b"other" if peer == b"agent" else b"agent"
    cluster.say(stranger, m.Returned([(assign.key, assign.attempt)], 0, ""))
    cluster.say(peer, m.Returned([(assign.key, assign.attempt + 1), (key(55), 1)], 0, ""))
    assert cluster.out() == []


# -- confined tasks ------------------------------------------------------------------------


def test_a_task_runs_only_where_it_may() -> None:
    cluster = bench(0, 1, 2)
    cluster.say(b"client", *[submit(i, engines=[2]) for i in range(1, 4)])
    (assign,) = cluster.assigned()
    assert (assign.engine, assign.fixed) == (2, True)
    cluster.say(b"agent", result(assign, seconds=9.0))
    assert [a.engine for a in cluster.assigned()] == [2]


def test_a_task_that_may_run_on_some_goes_to_the_least_loaded_of_them() -> None:
    cluster = bench(0, 1, 2)
    cluster.say(b"client", submit(1, engines=[1]), submit(2, engines=[1, 2]))
    assert [a.engine for a in cluster.assigned()] == [1, 2]


def test_confined_and_free_tasks_do_not_wait_for_each_other() -> None:
    cluster = bench(0, 1)
    cluster.say(b"client", *[submit(i, engines=[0]) for i in range(1, 5)], submit(9))
    assert {a.key: a.engine for a in cluster.assigned()} == {key(1): 0, key(9): 1}


def test_a_task_without_any_engine_it_may_run_on_is_refused() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1, engines=[5, 6]), submit(2, engines=[]))
    refused = cluster.results()
    assert [r.status for r in refused] == [Status.REFUSED] * 2
    assert failure(refused[0]).name == "NoEnginesRegistered"
    assert failure(refused[0]).text == (
        "none of the engines this task may run on is there: [5, 6]"
    )


def test_a_confined_task_moves_on_when_an_engine_of_its_goes_and_ends_with_the_last() -> None:
    cluster = bench(0, 1, 2)
    cluster.say(b"client", *[submit(i, engines=[0, 1]) for i in (1, 2, 3)])
    given = {a.engine: a for a in cluster.assigned()}
    assert set(given) == {0, 1}
    cluster.say(b"agent", m.Down(0, "killed"))
    assert cluster.results() == []
    cluster.say(b"agent", m.Down(1, "killed"))
    assert [r.key for r in cluster.results()] == [key(3)]


def test_a_confined_task_is_cancelled_where_it_waits() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1, engines=[0]), submit(2, engines=[0]), m.Cancel([key(2)]))
    assert [(r.key, r.status) for r in cluster.results()] == [(key(2), Status.ABORTED)]
    cluster.say(b"agent", *[result(a) for a in cluster.assigned()])
    assert cluster.assigned() == []


def test_a_confined_task_that_comes_back_waits_for_its_engines_again() -> None:
    cluster = bench(0, 1)
    cluster.say(b"client", submit(1, engines=[0]))
    (assign,) = cluster.assigned()
    cluster.say(b"agent", m.Returned([(assign.key, assign.attempt)], 0, ""))
    assert [a.engine for a in cluster.assigned()] == [0]


# -- retries -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [Status.ERROR, Status.DIED, Status.LOST, Status.REFUSED])
def test_a_task_is_tried_again_elsewhere(status: Status) -> None:
    cluster = bench(0, 1)
    cluster.say(b"client", submit(1, retries=1))
    (first,) = cluster.assigned()
    cluster.say(b"agent", result(first, status))
    out = cluster.out()
    assert (b"agent", m.Received([key(1)])) in out
    (second,) = [x for _, x in out if isinstance(x, m.Assign)]
    assert second.engine != first.engine
    assert second.attempt > first.attempt
    cluster.say(b"agent", result(second, status))
    assert [r.status for r in cluster.results()] == [status]


def test_an_aborted_task_is_not_tried_again() -> None:
    cluster = bench(0, 1)
    cluster.say(b"client", submit(1, retries=5))
    cluster.say(b"agent", *[result(a, Status.ABORTED) for a in cluster.assigned()])
    assert cluster.assigned() == []
    assert [r.status for r in cluster.results()] == [Status.ABORTED]


def test_an_engine_that_failed_it_is_better_than_none() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1, retries=2))
    for _ in range(3):
        (assign,) = cluster.assigned()
        assert assign.engine == 0
        cluster.say(b"agent", result(assign, Status.ERROR))
    assert [r.status for r in cluster.results()] == [Status.ERROR]


def test_a_retry_stays_where_the_task_is_confined_to() -> None:
    cluster = bench(0, 1, 2)
    cluster.say(b"client", submit(1, retries=2, engines=[0, 1]))
    seen = []
    for _ in range(3):
        (assign,) = cluster.assigned()
        seen.append(assign.engine)
        cluster.say(b"agent", result(assign, Status.DIED))
    assert set(seen[:2]) == {0, 1}
    assert seen[2] in (0, 1)


def test_a_task_of_an_agent_that_is_gone_is_tried_again() -> None:
    cluster = bench(0)
    cluster.agent(b"other", 1)
    cluster.say(b"client", submit(1, retries=1))
    ((peer, first),) = cluster.out(m.Assign)
    cluster.expel(peer)
    ((_, second),) = cluster.out(m.Assign)
    assert second.key == first.key and second.engine != first.engine


def test_a_retry_waits_for_an_engine_when_there_is_none() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1, retries=1))
    cluster.out()
    cluster.expel(b"agent")
    assert cluster.results() == []
    cluster.agent(b"next", 1)
    assert [a.key for a in cluster.assigned(b"next")] == [key(1)]


def test_a_retry_may_go_to_an_engine_that_came_since() -> None:
    cluster = bench(0, 1)
    cluster.say(b"client", submit(1, engines=[1]), submit(2, retries=1, engines=None))
    given = {a.engine: a for a in cluster.assigned()}
    cluster.say(b"agent", result(given[0], Status.ERROR))  # engine 1 is busy
    assert cluster.assigned() == []
    cluster.agent(b"late", 7)
    assert [a.key for a in cluster.assigned(b"late")] == [given[0].key]


def test_tasks_that_failed_wait_for_another_engine_and_let_others_pass() -> None:
    cluster = bench(0, 1)
    cluster.say(b"client", submit(1, engines=[1]))
    assert [a.engine for a in cluster.assigned()] == [1]
    cluster.say(b"client", submit(2, retries=1))
    (first,) = cluster.assigned()
    cluster.say(b"client", submit(3))
    cluster.say(b"agent", result(first, Status.ERROR))
    (other,) = cluster.assigned()
    assert (other.key, other.engine) == (key(3), 0), "engine 1 is busy, and 0 failed the second"
    cluster.expel(b"agent")
    cluster.agent(b"next", 7)
    assert key(2) in [a.key for _, a in cluster.out(m.Assign)]


def test_one_that_waits_for_another_engine_can_be_cancelled() -> None:
    cluster = bench(0, 1)
    cluster.say(b"client", submit(1, engines=[1]), submit(2, retries=1))
    failed = next(a for a in cluster.assigned() if a.engine == 0)
    cluster.say(b"agent", result(failed, Status.ERROR))
    cluster.say(b"client", m.Cancel([key(2)]))
    assert [r.status for r in cluster.results()] == [Status.ABORTED]


def test_a_retry_looks_at_few_engines_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = bench(*range(1000))
    cluster.say(b"client", submit(1, retries=3))
    policy = core(cluster)._policy
    picks = 0
    pick = policy.pick

    def counted() -> int | None:
        nonlocal picks
        picks += 1
        return pick()

    monkeypatch.setattr(policy, "pick", counted)
    seen = set()
    for _ in range(4):
        (assign,) = cluster.assigned()
        seen.add(assign.engine)
        cluster.say(b"agent", result(assign, Status.ERROR))
    assert len(seen) == 4 and picks <= 12
    assert [r.status for r in cluster.results()] == [Status.ERROR]


# -- absence -------------------------------------------------------------------------------


def test_an_absent_agent_gets_nothing_new_and_keeps_what_it_has() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1))
    (held,) = cluster.assigned()
    cluster.core.absent(b"agent", True, cluster.now)
    cluster.say(b"client", submit(2), submit(3, engines=[0]))
    assert cluster.out() == []
    cluster.say(b"agent", result(held))
    assert cluster.assigned() == []
    cluster.core.absent(b"agent", False, cluster.now)
    assert sorted(a.key for a in cluster.assigned()) == [key(2), key(3)]


def test_what_waits_goes_to_agents_that_answer() -> None:
    cluster = bench(0)
    cluster.agent(b"other", 1)
    cluster.core.absent(b"agent", True, cluster.now)
    cluster.say(b"client", *[submit(i) for i in range(1, 4)])
    assert {peer for peer, _ in cluster.out(m.Assign)} == {b"other"}


def test_an_engine_that_joins_an_absent_agent_waits_with_it() -> None:
    cluster = bench(0)
    cluster.core.absent(b"agent", True, cluster.now)
    cluster.core.join(b"agent", [5], cluster.now)
    cluster.say(b"client", submit(1))
    assert cluster.assigned() == []
    cluster.core.absent(b"agent", False, cluster.now)
    assert len(cluster.assigned()) == 1


# -- no engine -----------------------------------------------------------------------------


def test_clients_hear_that_no_engine_answers_and_nothing_of_it_ends() -> None:
    cluster = bench(0, 1)
    cluster.say(b"client", submit(1))
    cluster.out()
    cluster.core.absent(b"agent", True, cluster.now)
    cluster.tick(1)
    [waiting] = cluster.out(m.Waiting)
    assert waiting[0] == b"client" and "none of the engines takes work" in waiting[1].reason
    cluster.say(b"client", submit(2))
    cluster.tick(100)
    assert cluster.out(m.Waiting) == [] and cluster.results() == []
    cluster.core.absent(b"agent", False, cluster.now)
    cluster.tick(1)
    assert cluster.out(m.Waiting) == [(b"client", m.Waiting(""))]


def test_clients_hear_that_there_is_no_engine_and_that_there_is_one_again() -> None:
    cluster = bench()
    cluster.say(b"client", submit(1))
    cluster.tick()
    assert cluster.out() == [(b"client", m.Waiting("no engine is connected"))]
    cluster.tick(1.0)
    assert cluster.out() == []
    cluster.agent(b"agent", 0)
    cluster.tick(1.0)
    assert cluster.to(b"client") == [m.Waiting("")]


def test_a_client_that_comes_meanwhile_hears_it_too() -> None:
    cluster = bench()
    cluster.say(b"client", submit(1))
    cluster.tick()
    cluster.out()
    cluster.client(b"other", 2)
    cluster.say(b"other", submit(1, client=2))
    cluster.tick()
    assert cluster.out() == [(b"other", m.Waiting("no engine is connected"))]
    cluster.agent(b"agent", 0, 1)
    cluster.tick()
    assert sorted(cluster.out(m.Waiting)) == [
        (b"client", m.Waiting("")),
        (b"other", m.Waiting("")),
    ]


@pytest.mark.parametrize("by", ["down", "expel"])
def test_the_notice_names_how_the_last_engine_ended(by: str) -> None:
    cluster = bench(0)
    if by == "down":
        cluster.say(b"agent", m.Down(0, "killed by signal 9"))
    else:
        cluster.expel(b"agent", "killed by signal 9")
    cluster.say(b"client", submit(1))
    cluster.tick()
    assert cluster.out() == [
        (
            b"client",
            m.Waiting("no engine is connected; the last one ended: killed by signal 9"),
        )
    ]


def test_tasks_that_wait_too_long_for_any_engine_end_and_say_why() -> None:
    cluster = bench()
    cluster.say(b"client", submit(1), submit(2))
    cluster.tick()
    cluster.tick(NO_ENGINE_AFTER - 1)
    assert cluster.results() == []
    cluster.tick(1)
    ended = cluster.results()
    assert [r.status for r in ended] == [Status.REFUSED] * 2
    assert failure(ended[0]).name == "NoEnginesRegistered"
    assert failure(ended[0]).text == "no engine for 60 s, this task never began"
    assert not cluster.core.tasks
    cluster.tick()


def test_the_time_without_engines_begins_anew_each_time() -> None:
    cluster = bench()
    cluster.say(b"client", *[submit(i) for i in range(1, 5)])
    cluster.tick()
    cluster.tick(50.0)
    cluster.agent(b"agent", 0)
    cluster.tick()
    cluster.expel(b"agent")
    cluster.out()
    cluster.tick()
    cluster.tick(50.0)
    assert cluster.results() == []


# -- recalls -------------------------------------------------------------------------------


def heaped(seconds: float = 1e-5) -> Bench:
    """One agent holds many tasks that it does not get on with; another comes and idles."""
    cluster = bench(0)
    cluster.say(b"client", *[submit(i) for i in range(1, 60)])
    cluster.work(rounds=5, seconds=seconds)
    cluster.out()
    assert not core(cluster).queued
    assert load(cluster, 0) > 5
    cluster.agent(b"idle", 1)
    cluster.tick(LOOK_AFTER)
    assert cluster.out() == [], "it may be done with it before it has been asked"
    return cluster


def test_work_is_recalled_from_an_agent_that_is_slow_while_another_idles() -> None:
    cluster = heaped()
    held = load(cluster, 0)
    cluster.tick(LOOK_AFTER / 2)
    assert cluster.out() == []
    cluster.tick(RECALL_AFTER)
    assert cluster.out() == [(b"agent", m.Recall(held - 1, []))]
    assert credit(cluster, 0) == 1


def test_half_is_recalled_from_an_agent_that_goes_on_working_while_another_idles() -> None:
    """Much of the rest it will have done before anybody else could."""
    cluster = heaped()
    before = credit(cluster, 0)
    cluster.now += LOOK_AFTER
    held = next(iter(cluster.core.agents[b"agent"].held.values()))
    cluster.say(b"agent", outcome(held.key, held.attempt, 0, seconds=1e-5))
    surplus = load(cluster, 0) - 1
    assert cluster.out(m.Recall) == [(b"agent", m.Recall(-(-surplus // 2), []))]
    assert credit(cluster, 0) >= before, "it is as quick as it was"


def test_agents_whose_engines_all_have_work_take_nothing_from_each_other() -> None:
    cluster = heaped()
    cluster.say(b"client", submit(500, engines=[1]))
    cluster.out()
    for _ in range(3):
        cluster.tick(LOOK_AFTER * 2)
    assert cluster.out(m.Recall) == [] and not core(cluster).uneasy


def test_an_agent_is_asked_once_until_it_answers() -> None:
    cluster = heaped()
    cluster.tick(1.0)
    assert len(cluster.out(m.Recall)) == 1
    cluster.tick(1.0)
    assert cluster.out() == []
    cluster.say(b"agent", m.Returned([], -1, "given back as asked"))
    cluster.tick(LOOK_AFTER)
    cluster.tick(LOOK_AFTER)
    assert len(cluster.out(m.Recall)) == 1


def test_what_was_recalled_goes_to_the_idle_engine() -> None:
    cluster = heaped()
    cluster.tick(1.0)
    cluster.out()
    held = cluster.core.agents[b"agent"].held
    back = [(t.key, t.attempt) for t in list(held.values())[1:]]
    cluster.say(b"agent", m.Returned(back, -1, "given back as asked"))
    given = cluster.out(m.Assign)
    assert {peer for peer, _ in given} == {b"idle"}
    cluster.say(b"idle", *[result(a) for _, a in given])
    assert {a.key for a in cluster.assigned(b"idle")} <= {k for k, _ in back}


@pytest.mark.parametrize("reason", ["busy", "absent", "waiting"])
def test_nothing_is_recalled_without_need(reason: str) -> None:
    cluster = heaped()
    if reason == "busy":
        cluster.say(b"client", submit(500, engines=[1]))
    elif reason == "absent":
        cluster.core.absent(b"agent", True, cluster.now)
    else:
        for i in range(500, 700):
            cluster.say(b"client", submit(i))
    cluster.out()
    cluster.tick(1.0)
    assert cluster.out(m.Recall) == []


def test_an_agent_that_leaves_while_it_is_asked_is_forgotten() -> None:
    cluster = heaped()
    cluster.tick(1.0)
    cluster.expel(b"agent")
    cluster.out()
    cluster.tick(1.0)
    assert cluster.out(m.Recall) == []


# -- adopted tasks -------------------------------------------------------------------------


def test_tasks_told_by_a_roll_fill_an_engine() -> None:
    cluster = Bench(Balancer(1))
    cluster.client()
    cluster.agent(b"agent", 0, called=False)
    cluster.core.roster([b"agent"], cluster.now)
    cluster.say(b"agent", m.RollCall([0], [], [(key(1), 1, 0), (key(2), 1, 0)]))
    assert load(cluster, 0) == 2
    cluster.say(b"client", submit(3))
    assert cluster.assigned() == []
    cluster.say(b"agent", outcome(key(1), 1, 0), outcome(key(2), 1, 0))
    assert [a.key for a in cluster.assigned()] == [key(3)]
    assert load(cluster, 0) == 1


def test_tasks_told_before_their_engine_fill_it_when_it_joins() -> None:
    cluster = Bench(Balancer(1))
    cluster.client()
    cluster.core.admit(b"agent", m.Role.ENGINE, 0)
    cluster.say(b"agent", m.RollCall([4], [], [(key(1), 1, 4)]))
    assert load(cluster, 4) == 1


def test_an_engine_that_joins_twice_keeps_its_load() -> None:
    cluster = bench(0)
    cluster.say(b"client", submit(1))
    cluster.core.join(b"agent", [0], cluster.now)
    assert load(cluster, 0) == 1


def test_results_after_their_engine_ended_are_taken() -> None:
    cluster = bench(0, 1)
    cluster.say(b"client", submit(1))
    (assign,) = cluster.assigned()
    cluster.say(b"agent", m.Down(assign.engine, "killed"), result(assign, Status.DIED))
    assert [r.status for r in cluster.results()] == [Status.DIED]
