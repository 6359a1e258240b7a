"""The hub's decisions: who is let in, in which order everybody is told, and what is shown."""

from __future__ import annotations

from typing import Any

import pytest

from ipclusterz.core import message as m
from ipclusterz.core import registry as r
from ipclusterz.core.message import Channel, Role
from ipclusterz.core.registry import SCHEDULERS, Minted, Registry


class Hub:
    """A registry, its schedulers, and short names for what happens to them."""

    def __init__(self, *, complete: bool = True, **options: Any) -> None:
        self.registry = Registry(
            cluster_id="c", addresses=[["a"]], lease=60.0, heartbeat=1.0, version="1.0"
        )
        self.now = 0.0
        self.count = 0
        if complete:
            for channel in SCHEDULERS:
                self.hello(channel)
            self.ack()
            self.out()

    def out(self) -> list[r.Action]:
        out, self.registry.out = self.registry.out, []
        return out

    def said(self, kind: int) -> list[tuple[Any, Any]]:
        return [(where, what) for k, where, what in self.out() if k == kind]

    def hello(self, channel: int, peers: Any = (), engines: Any = ()) -> None:
        hello = m.Hello(channel, 0, list(peers), list(engines))
        self.registry.scheduler(hello, self.now)

    def ack(self, *channels: int, rev: int | None = None) -> None:
        for channel in channels or SCHEDULERS:
            at = self.registry._rev if rev is None else rev
            self.registry.ack(m.Ack(channel, at))

    def register(
        self,
        role: Role,
        connection: bytes = b"",
        *,
        n: int = 0,
        engines: Any = (),
        peer: bytes = b"",
        says: int | None = None,
        protocol: int = m.PROTOCOL,
        **more: Any,
    ) -> r.Peer | None:
        self.count += 1
        connection = connection or b"connection %d" % self.count
        if peer in self.registry.peers:
            more.setdefault("session", self.registry.peers[peer].admit.session)
        message = m.Register(
            int(role) if says is None else says,
            protocol,
            "2.0",
            f"host{self.count}",
            "boot",
            100 + self.count,
            n,
            list(engines),
            peer,
            **more,
        )
        minted = Minted(b"peer %d" % self.count, b"session", b"password")
        return self.registry.register(connection, int(role), message, minted, self.now)

    def agent(self, n: int = 2, **options: Any) -> r.Peer:
        peer = self.register(Role.ENGINE, n=n, **options)
        assert peer is not None
        self.ack()
        return peer

    def client(self, **options: Any) -> r.Peer:
        peer = self.register(Role.CLIENT, **options)
        assert peer is not None
        self.ack()
        return peer

    def up(self, peer: r.Peer, *engines: int) -> None:
        infos = [m.EngineInfo(e, "elsewhere", 1000 + e, b"") for e in engines]
        self.registry.engines_up(peer.id, infos, self.now)


def answers(hub: Hub) -> list[Any]:
    """What registration answered, but for which engines are known by now."""
    said = [what for _, what in hub.said(r.R_REGISTRATION)]
    return [what for what in said if not isinstance(what, m.Known)]


# -- letting in ----------------------------------------------------------------------------


def test_an_attempt_that_was_given_up_and_comes_late_is_passed_over() -> None:
    hub = Hub()
    agent = hub.agent(2, connection=b"first", turn=1)
    hub.up(agent, 0, 1)
    back = {"peer": agent.id, "engines": [0, 1]}
    assert hub.register(Role.ENGINE, b"third", turn=3, **back) is agent
    hub.ack()
    hub.out()
    late = {"peer": agent.id, "engines": [0]}  # engine 1 came after it was sent
    assert hub.register(Role.ENGINE, b"second", turn=2, **late) is None
    assert hub.out() == [] and list(agent.engines) == [0, 1]
    hub.registry.close("enough")
    assert hub.said(r.R_REGISTRATION) == [(b"third", m.Shutdown("enough"))]


def test_a_peer_is_answered_when_the_last_scheduler_knows_it() -> None:
    hub = Hub()
    hub.register(Role.ENGINE, b"wire", n=2)
    for channel in SCHEDULERS:
        assert not answers(hub)
        hub.ack(channel)
    hub.register(Role.ENGINE, b"wire", n=2)
    hub.out()
    hub.ack()
    ((where, answer),) = hub.said(r.R_REGISTRATION)
    assert where == b"wire"
    assert isinstance(answer, m.Registered)
    assert answer.engines == [2, 3]


def test_the_answer_has_all_that_a_peer_needs() -> None:
    hub = Hub()
    peer = hub.agent(n=1)
    (answer,) = answers(hub)
    assert answer == m.Registered(
        peer.id, 0, b"session", b"password", [0], [["a"]], "c", 60.0, 1.0
    )


def test_every_scheduler_and_the_own_doors_are_told_before_the_peer() -> None:
    hub = Hub()
    peer = hub.register(Role.CLIENT)
    assert peer is not None
    out = hub.out()
    told = {where: what for kind, where, what in out if kind == r.R_SCHEDULER}
    assert set(told) == set(SCHEDULERS)
    assert {type(what) for what in told.values()} == {m.Admit}
    assert [what for kind, _, what in out if kind == r.R_LOCAL] == [peer.admit]
    assert not [what for kind, _, what in out if kind == r.R_REGISTRATION]


def test_nobody_is_answered_before_all_schedulers_have_come() -> None:
    hub = Hub(complete=False)
    for channel in SCHEDULERS[:-1]:
        hub.hello(channel)
    hub.register(Role.CLIENT)
    hub.ack(*SCHEDULERS[:-1])
    assert not answers(hub)
    assert not hub.registry.complete
    hub.hello(SCHEDULERS[-1])
    assert not answers(hub)
    hub.ack()
    assert hub.registry.complete
    assert len(answers(hub)) == 1


def test_an_acknowledgement_that_comes_late_takes_nothing_back() -> None:
    hub = Hub()
    hub.register(Role.CLIENT)
    hub.ack(*SCHEDULERS[1:])
    hub.ack(SCHEDULERS[1], rev=0)
    hub.ack(SCHEDULERS[0])
    assert len(answers(hub)) == 1


def test_peers_are_answered_in_the_order_of_their_coming() -> None:
    hub = Hub()
    for i in range(5):
        hub.register(Role.CLIENT, b"%d" % i)
    hub.ack(rev=hub.registry._rev - 2)
    assert [where for where, _ in hub.said(r.R_REGISTRATION)] == [b"0", b"1", b"2"]
    hub.ack()
    assert [where for where, _ in hub.said(r.R_REGISTRATION)] == [b"3", b"4"]


def test_a_peer_that_left_before_its_answer_gets_none() -> None:
    hub = Hub()
    peer = hub.register(Role.ENGINE, n=1)
    assert peer is not None
    hub.registry.gone(peer.id, "left")
    hub.ack()
    assert not answers(hub)


# -- refusing ------------------------------------------------------------------------------


def refusal(hub: Hub) -> str:
    (answer,) = answers(hub)
    assert isinstance(answer, m.Refused)
    return answer.text


def test_another_protocol_is_refused_with_both_versions() -> None:
    hub = Hub()
    assert hub.register(Role.CLIENT, protocol=99) is None
    assert refusal(hub) == (
        f"the controller is ipclusterz 1.0 and speaks protocol {m.PROTOCOL}; you are 2.0 and "
        f"speak 99: install the same version on both sides"
    )


@pytest.mark.parametrize(
    ("role", "says", "article"), [(Role.CLIENT, 1, "a client"), (Role.ENGINE, 0, "an engine")]
)
def test_a_role_that_the_key_does_not_give_is_refused(
    role: Role, says: int, article: str
) -> None:
    hub = Hub()
    assert hub.register(role, says=says) is None
    assert refusal(hub) == (
        f"this key makes {article} of its holder, not role {says}: engines use "
        f"ipcontroller-engine.json, clients ipcontroller-client.json"
    )
    assert not hub.registry.peers


def test_nobody_is_let_in_when_the_controller_ends() -> None:
    hub = Hub()
    hub.registry.close("stopped")
    assert hub.register(Role.CLIENT) is None
    assert refusal(hub) == "the controller is ending: stopped"


def test_who_returns_when_the_controller_ends_hears_of_the_end() -> None:
    hub = Hub()
    agent = hub.agent()
    hub.registry.close("stopped")
    hub.out()
    assert hub.register(Role.ENGINE, b"again", peer=agent.id) is None
    assert hub.out() == [(r.R_REGISTRATION, b"again", m.Shutdown("stopped"))]


def test_one_does_not_return_as_what_one_was_not() -> None:
    hub = Hub()
    client = hub.client()
    agent = hub.agent(peer=client.id)
    assert agent.id != client.id


# -- numbers -------------------------------------------------------------------------------


def test_engine_ids_and_client_numbers_are_never_given_twice() -> None:
    hub = Hub()
    numbers: list[int] = []
    ids: list[int] = []
    for _ in range(20):
        client, agent = hub.client(), hub.agent(n=3)
        hub.registry.allocate(agent.id, 2)
        numbers.append(client.admit.number)
        for answer in answers(hub):
            if isinstance(answer, (m.Registered, m.Allocated)):
                ids.extend(answer.engines)
        hub.registry.gone(client.id, "left")
        hub.registry.gone(agent.id, "left")
    assert len(numbers) == len(set(numbers))
    assert min(numbers) > 0  # client 0 is nobody
    assert ids == list(range(100))


def test_ranks_of_an_mpi_job_get_ids_in_their_order_whoever_comes_first() -> None:
    hub = Hub()

    def came(rank: int, size: int = 3, world: str = "a") -> int:
        peer = hub.agent(1, world=world, rank=rank, size=size)
        (found,) = [engine for engine, id in hub.registry._reserved.items() if id == peer.id]
        return found

    assert [came(2), came(0)] == [2, 0]
    assert [came(1, 2, "b"), came(1)] == [4, 1]  # another job in between
    assert came(0, 1, "a") == 5  # the name again: the first job is complete
    assert [came(0, 2, ""), came(0, 2, ""), came(1, 2, "")] == [6, 8, 9]  # jobs without names
    hub.agent(2)
    assert hub.registry._next_engine == 12


@pytest.mark.parametrize(("rank", "size"), [(-1, 4), (4, 4), (0, 1 << 40)])
def test_ranks_that_cannot_be_are_refused(rank: int, size: int) -> None:
    hub = Hub()
    assert hub.register(Role.ENGINE, n=1, world="a", rank=rank, size=size) is None
    assert hub.registry._next_engine == 0


def test_what_goes_with_a_dead_rank_is_told_of_it() -> None:
    hub = Hub()
    ranks = [hub.agent(1, world="a", rank=rank, size=2) for rank in (0, 1)]
    other = hub.agent(1, world="b", rank=0, size=1)
    for number, peer in enumerate([*ranks, other]):
        info = m.EngineInfo(number, "host", 1, peer.id)
        hub.registry.engines_up(peer.id, [info], hub.now)
    hub.ack()
    hub.registry.engine_down(ranks[1].id, 1, "killed by signal SIGSEGV; its last words:\nno")
    hub.registry.gone(ranks[0].id, "its process 7 has ended")
    hub.registry.gone(other.id, "its process 8 has ended")
    reason = "as its MPI job has lost engine 1: killed by signal SIGSEGV"
    assert dict(hub.registry.departed)[0] == f"its process 7 has ended, {reason}"
    assert dict(hub.registry.departed)[2] == "its process 8 has ended"


def test_nobody_gets_ids_who_is_not_there() -> None:
    hub = Hub()
    hub.registry.allocate(b"nobody", 5)
    assert hub.out() == []


def test_a_returning_agent_keeps_its_identity_and_its_engines() -> None:
    hub = Hub()
    agent = hub.agent(n=2)
    hub.up(agent, 0, 1)
    hub.out()
    back = hub.agent(n=2, engines=[0, 1], peer=agent.id)
    assert back is agent
    (answer,) = answers(hub)
    assert (answer.peer, answer.engines) == (agent.id, [0, 1])


def test_an_agent_does_not_get_engines_that_are_of_another() -> None:
    hub = Hub()
    one = hub.agent(n=2)
    hub.up(one, 0, 1)
    hub.out()
    hub.agent(n=2, engines=[0, 1])
    (answer,) = answers(hub)
    assert answer.engines == [2, 3]


def test_ids_that_an_agent_brings_along_are_not_given_to_others() -> None:
    hub = Hub()
    hub.agent(n=2, engines=[7, 8])
    hub.agent(n=2)
    first, second = answers(hub)
    assert first.engines == [7, 8]
    assert second.engines == [9, 10]


def test_engines_that_ended_while_their_agent_was_away_are_told_of() -> None:
    hub = Hub()
    client, agent = hub.client(), hub.agent(n=2)
    hub.up(agent, 0, 1)
    hub.ack()
    hub.out()
    hub.agent(n=2, engines=[1], peer=agent.id)
    ((where, what),) = [(w, e) for w, e in hub.said(r.R_QUERY) if e.down]
    assert where == client.id
    assert what.down == [(0, "it ended while the hub was away")]


def test_an_agent_that_returns_says_why_its_engines_ended() -> None:
    hub = Hub()
    hub.client()
    agent = hub.agent(n=3)
    hub.up(agent, 0, 1, 2)
    hub.ack()
    hub.out()
    # Of engine 1 that lives it cannot say so, and of engine 9 nobody here knows.
    ended = [(0, "killed by SIGKILL"), (1, "no"), (9, "long ago")]
    hub.agent(n=3, engines=[1], peer=agent.id, ended=ended)
    told = [pair for _, e in hub.said(r.R_QUERY) for pair in e.down]
    assert sorted(told) == [
        (0, "killed by SIGKILL"),
        (2, "it ended while the hub was away"),
    ]
    assert sorted(hub.registry.departed) == sorted(told)
    assert set(hub.registry.engine_peer) == {1}


# -- engines -------------------------------------------------------------------------------


def test_clients_hear_of_engines_when_every_scheduler_knows_them() -> None:
    hub = Hub()
    client, agent = hub.client(), hub.agent(n=2)
    hub.out()
    hub.up(agent, 0, 1)
    told = hub.said(r.R_SCHEDULER)
    assert {where for where, _ in told} == set(SCHEDULERS)
    assert {(what.agent, *what.engines) for _, what in told} == {(agent.id, 0, 1)}
    hub.ack(*SCHEDULERS[1:])
    assert hub.out() == []
    hub.ack(SCHEDULERS[0])
    ((where, what),) = hub.said(r.R_QUERY)
    assert where == client.id
    assert [(e.id, e.host, e.pid, e.agent) for e in what.up] == [
        (0, agent.host, 1000, agent.id),
        (1, agent.host, 1001, agent.id),
    ]
    assert (what.down, what.full) == ([], False)


def test_a_new_client_is_told_all_engines_that_every_scheduler_knows() -> None:
    hub = Hub()
    agent = hub.agent(n=2)
    hub.up(agent, 0)
    hub.ack()
    hub.out()
    client = hub.client()
    hub.up(agent, 1)
    ((where, what),) = hub.said(r.R_QUERY)
    assert (where, [e.id for e in what.up], what.full) == (client.id, [0], True)


def test_a_client_is_not_told_of_engines_that_a_scheduler_may_not_know() -> None:
    """The engine came after the client, and before the client was answered."""
    hub = Hub()
    agent = hub.agent(n=1)
    hub.register(Role.CLIENT)
    admitted = hub.registry._rev
    hub.up(agent, 0)
    hub.out()
    hub.ack(rev=admitted)
    ((_, what),) = hub.said(r.R_QUERY)
    assert (what.up, what.full) == ([], True)
    hub.ack()
    ((_, what),) = hub.said(r.R_QUERY)
    assert ([e.id for e in what.up], what.full) == ([0], False)


def test_an_agent_hears_that_its_engines_are_known_when_newcomers_are_told_of_them() -> None:
    """What it says then to be ready is there for whoever connects after that."""
    hub = Hub()
    agent = hub.agent(n=2)
    hub.out()
    hub.up(agent, 0)
    hub.ack(*SCHEDULERS[1:])
    assert hub.said(r.R_REGISTRATION) == []
    hub.ack(SCHEDULERS[0])
    assert hub.said(r.R_REGISTRATION) == [(agent.connection, m.Known([0]))]
    hub.up(agent, 0, 1)  # as after a connection that broke: the answer may have been lost
    assert hub.said(r.R_REGISTRATION) == [(agent.connection, m.Known([0]))]
    hub.ack()
    assert hub.said(r.R_REGISTRATION) == [(agent.connection, m.Known([1]))]


def test_an_engine_is_told_of_once() -> None:
    hub = Hub()
    hub.client()
    agent = hub.agent(n=1)
    hub.out()
    for _ in range(2):
        hub.up(agent, 0)
        hub.ack()
    assert len(hub.said(r.R_QUERY)) == 1


def test_engines_of_others_and_of_nobody_are_not_taken() -> None:
    hub = Hub()
    one, two = hub.agent(n=1), hub.agent(n=1)
    hub.out()
    hub.up(two, 0, 55)
    hub.registry.engines_up(b"nobody", [m.EngineInfo(0, "", 1, b"")], 0.0)
    assert hub.out() == []
    assert not one.engines and not two.engines


def test_an_engine_that_ends_is_told_of_with_its_reason() -> None:
    hub = Hub()
    client, agent = hub.client(), hub.agent(n=2)
    hub.up(agent, 0, 1)
    hub.ack()
    hub.out()
    hub.registry.engine_down(agent.id, 0, "killed by signal 9")
    out = hub.out()
    assert (r.R_QUERY, client.id, m.Engines([], [(0, "killed by signal 9")])) in out
    assert (r.R_LOG, "info", "engine 0 has ended: killed by signal 9") in out
    assert hub.registry.answer("departed", None, 0.0) == [(0, "killed by signal 9")]
    assert list(hub.registry.engine_peer) == [1]


def test_an_engine_that_never_came_up_ends_without_a_word_to_clients() -> None:
    hub = Hub()
    hub.client()
    agent = hub.agent(n=1)
    hub.out()
    hub.registry.engine_down(agent.id, 0, "failed at its start")
    assert hub.said(r.R_QUERY) == []
    assert list(hub.registry.departed) == [(0, "failed at its start")]


def test_an_agent_cannot_end_the_engines_of_another() -> None:
    hub = Hub()
    one, two = hub.agent(n=1), hub.agent(n=1)
    hub.up(one, 0)
    hub.ack()
    hub.out()
    hub.registry.engine_down(two.id, 0, "no")
    hub.registry.engine_down(b"nobody", 0, "no")
    assert hub.out() == []
    hub.registry.engine_down(one.id, 0, "yes")
    assert list(hub.registry.departed) == [(0, "yes")]


@pytest.mark.parametrize("all_gone", [False, True])
def test_an_engine_that_ended_before_it_was_told_of_is_not_told_of_as_up(
    all_gone: bool,
) -> None:
    hub = Hub()
    hub.client()
    agent = hub.agent(n=2)
    hub.out()
    hub.up(agent, 0, 1)
    if all_gone:
        hub.registry.gone(agent.id, "gone")
    else:
        hub.registry.engine_down(agent.id, 0, "ended")
    hub.ack()
    seen: set[int] = set()
    for _, what in hub.said(r.R_QUERY):
        seen.update(e.id for e in what.up)
        seen.difference_update(e for e, _ in what.down)
    assert seen == (set() if all_gone else {1})


# -- leaving -------------------------------------------------------------------------------


def test_an_agent_that_is_gone_takes_its_engines_along() -> None:
    hub = Hub()
    client, agent = hub.client(), hub.agent(n=2)
    hub.up(agent, 0, 1)
    hub.ack()
    hub.out()
    hub.registry.gone(agent.id, "its process has ended")
    out = hub.out()
    expelled = [what for kind, _, what in out if kind == r.R_SCHEDULER]
    assert [(e.peer, e.reason) for e in expelled] == [(agent.id, "its process has ended")] * 4
    down = [(0, "its process has ended"), (1, "its process has ended")]
    assert (r.R_QUERY, client.id, m.Engines([], down)) in out
    assert [w.peer for kind, _, w in out if kind == r.R_LOCAL] == [agent.id]
    text = f"agent with 2 engines on {agent.host} (pid {agent.pid}): its process has ended"
    assert (r.R_LOG, "warning", text) in out
    assert not hub.registry.engine_peer
    hub.registry.gone(agent.id, "again")
    assert hub.out() == []


def test_a_client_that_leaves_is_no_news_to_other_clients() -> None:
    hub = Hub()
    hub.client()
    client = hub.client()
    hub.out()
    hub.registry.gone(client.id, "it closed")
    out = hub.out()
    assert not [1 for kind, _, _ in out if kind == r.R_QUERY]
    text = f"client on {client.host} (pid {client.pid}): it closed"
    assert (r.R_LOG, "info", text) in out


def test_closing_tells_everybody_where_they_listen() -> None:
    hub = Hub()
    client, agent = hub.client(), hub.agent()
    hub.out()
    hub.registry.close("stopped")
    assert hub.out() == [
        (r.R_QUERY, client.id, m.Shutdown("stopped")),
        (r.R_REGISTRATION, agent.connection, m.Shutdown("stopped")),
    ]


# -- liveness ------------------------------------------------------------------------------


def absences(hub: Hub) -> list[tuple[bytes, bool]]:
    told = [what for _, what in hub.said(r.R_SCHEDULER) if isinstance(what, m.Absent)]
    return [(what.agent, what.absent) for what in told[::4]]


def test_a_silent_agent_gets_nothing_new_until_it_answers() -> None:
    hub = Hub()
    agent = hub.agent()
    hub.out()
    hub.registry.tick(5.0)
    assert absences(hub) == []
    hub.registry.tick(7.0)
    text = f"engine on {agent.host} (pid {agent.pid}) is not responding"
    out = hub.out()
    assert (r.R_LOG, "warning", text) in out
    assert sum(isinstance(what, m.Absent) for _, _, what in out) == 4
    hub.registry.tick(8.0)
    assert hub.out() == []
    hub.registry.beat(agent.id, 9.0)
    text = f"engine on {agent.host} (pid {agent.pid}) answers again"
    assert (r.R_LOG, "warning", text) in hub.registry.out
    assert absences(hub) == [(agent.id, False)]


def test_a_silent_client_concerns_no_scheduler() -> None:
    hub = Hub()
    hub.client()
    hub.out()
    hub.registry.tick(7.0)
    assert [kind for kind, _, _ in hub.out()] == [r.R_LOG]


def test_the_lease_of_a_silent_peer_ends() -> None:
    hub = Hub()
    agent = hub.agent(n=1)
    hub.up(agent, 0)
    hub.registry.tick(60.0)
    assert agent.id not in hub.registry.peers
    assert list(hub.registry.departed) == [(0, "it has not answered for 60 s (the lease)")]


def test_a_silent_agent_that_registers_again_is_present_again() -> None:
    hub = Hub()
    agent = hub.agent(n=1)
    hub.registry.tick(7.0)
    hub.out()
    hub.now = 8.0
    hub.register(Role.ENGINE, n=1, engines=[0], peer=agent.id)
    assert absences(hub) == [(agent.id, False)]


def test_a_new_scheduler_is_told_who_does_not_answer() -> None:
    hub = Hub()
    agent, _ = hub.agent(n=1), hub.client()
    hub.registry.tick(7.0)
    hub.out()
    hub.hello(Channel.TASK)
    told = [what for _, what in hub.said(r.R_SCHEDULER)]
    assert m.Absent(hub.registry._rev, agent.id, True) in told


# -- schedulers and hubs that come back ----------------------------------------------------


def test_a_scheduler_that_comes_is_told_everything_and_then_who_will_call_the_roll() -> None:
    hub = Hub()
    client, agent, idle = hub.client(), hub.agent(n=2), hub.agent(n=1)
    hub.up(agent, 0, 1)
    hub.ack()
    hub.out()
    hub.hello(Channel.TASK)
    told = hub.said(r.R_SCHEDULER)
    assert {where for where, _ in told} == {Channel.TASK}
    messages = [what for _, what in told]
    rev = hub.registry._rev
    assert {what.rev for what in messages} == {rev}
    assert messages[-1] == m.Roster(rev, [agent.id, idle.id])
    assert {w.peer for w in messages if isinstance(w, m.Admit)} == {
        client.id,
        agent.id,
        idle.id,
    }
    assert m.Join(rev, agent.id, [0, 1]) in messages


def test_a_scheduler_knows_all_engines_before_a_client_could_ask_it_for_one() -> None:
    hub = Hub()
    client, agent = hub.client(), hub.agent(n=1)
    hub.up(agent, 0)
    hub.out()
    hub.hello(Channel.DIRECT)
    messages = [what for _, what in hub.said(r.R_SCHEDULER)]
    joined = messages.index(m.Join(hub.registry._rev, agent.id, [0]))
    admitted = [i for i, w in enumerate(messages) if getattr(w, "peer", b"") == client.id]
    assert joined < admitted[0]


def test_a_scheduler_that_comes_back_holds_up_what_it_has_not_acknowledged() -> None:
    hub = Hub()
    hub.hello(Channel.TASK)
    hub.register(Role.CLIENT)
    hub.ack(Channel.DIRECT, Channel.CONTROL, Channel.IOPUB)
    assert not answers(hub)
    hub.ack(Channel.TASK)
    assert len(answers(hub)) == 1


def restarted(*, numbers: tuple[int, ...] = (4,), engines: tuple[int, ...] = (5, 6)) -> Hub:
    """A hub that was restarted and learns everything from its schedulers."""
    hub = Hub(complete=False)
    admits = [m.Admit(9, b"client%d" % n, 0, n, b"s", b"p", "here") for n in numbers]
    admits.append(m.Admit(9, b"agent", 1, 0, b"s", b"p", "there"))
    for channel in SCHEDULERS:
        hub.hello(channel, admits, [(e, b"agent") for e in engines])
    hub.ack()
    hub.out()
    return hub


def test_a_hub_that_comes_back_learns_peers_and_engines_from_schedulers() -> None:
    hub = restarted()
    assert set(hub.registry.peers) == {b"client4", b"agent"}
    assert hub.registry.peers[b"agent"].host == "there"
    assert set(hub.registry.engine_peer) == {5, 6}
    assert hub.client().admit.number == 5
    hub.out()
    hub.agent(n=1)
    (answer,) = answers(hub)
    assert answer.engines == [7]


def test_an_agent_returns_to_a_hub_that_came_back() -> None:
    hub = restarted()
    client = hub.client(peer=b"client4")
    assert client.admit.number == 4
    hub.out()
    agent = hub.agent(n=2, engines=[5, 6], peer=b"agent")
    assert agent.id == b"agent"
    (answer,) = answers(hub)
    assert (answer.peer, answer.session, answer.engines) == (b"agent", b"s", [5, 6])
    hub.up(agent, 5, 6)
    hub.ack()
    ((_, what),) = [(w, e) for w, e in hub.said(r.R_QUERY) if w == b"client4"]
    assert [(e.id, e.pid) for e in what.up] == [(5, 1005), (6, 1006)]


def test_a_client_that_comes_to_a_restarted_hub_sees_the_engines_at_once() -> None:
    hub = restarted()
    hub.client()
    ((_, what),) = hub.said(r.R_QUERY)
    assert [e.id for e in what.up] == [5, 6]


def test_engines_that_ended_while_the_hub_was_away_are_gone() -> None:
    hub = restarted()
    hub.client()
    hub.agent(n=2, engines=[6], peer=b"agent")
    assert set(hub.registry.engine_peer) == {6}
    downs = [what.down for _, what in hub.said(r.R_QUERY) if what.down]
    assert downs[0] == [(5, "it ended while the hub was away")]


# -- questions -----------------------------------------------------------------------------


def ask(hub: Hub, what: str, arg: Any = None) -> m.Answer:
    hub.registry.query(b"asker", m.Query(7, what, arg), hub.now)
    ((where, answer),) = hub.said(r.R_QUERY)
    assert where == b"asker"
    assert isinstance(answer, m.Answer) and answer.id == 7
    return answer


def test_a_question_that_the_hub_does_not_know_is_an_error_and_no_more() -> None:
    answer = ask(Hub(), "the time")
    assert answer.value is None
    assert answer.error == "ValueError: the hub does not know the question 'the time'"


def test_queue_status_adds_up_what_schedulers_tell() -> None:
    hub = Hub()
    agent = hub.agent(n=2)
    hub.up(agent, 0, 1)
    hub.registry.tally(m.Tally(Channel.TASK, [(0, 3, 10, 1), (9, 9, 9, 9)], 5))
    hub.registry.tally(m.Tally(Channel.DIRECT, [(0, 2, 4, 0), (1, 1, 0, 2)], 1))
    hub.out()
    assert ask(hub, "queue_status").value == {
        "0": {"queue": 2, "tasks": 3, "completed": 14, "failed": 1},
        "1": {"queue": 1, "tasks": 0, "completed": 0, "failed": 2},
        "unassigned": 6,
    }
    hub.registry.tally(m.Tally(Channel.TASK, [], 0))
    assert ask(hub, "queue_status").value["unassigned"] == 1


def test_status_shows_members_and_engines_in_plain_values() -> None:
    hub = Hub()
    agent, client = hub.agent(n=1), hub.client()
    hub.up(agent, 0)
    hub.registry.tick(7.0)
    hub.registry.beat(client.id, 8.0)
    hub.now = 10.0
    hub.out()
    value = ask(hub, "status").value
    assert m.encode(value)
    assert value == {
        "cluster_id": "c",
        "version": "1.0",
        "agents": [
            {
                "peer": agent.id.hex(),
                "host": agent.host,
                "pid": agent.pid,
                "responding": False,
                "engines": [0],
                "seconds": 10.0,
                "job": "",
                "draining": False,
            }
        ],
        "clients": [
            {
                "host": client.host,
                "pid": client.pid,
                "seconds": 10.0,
                "number": client.admit.number,
                "uuid": client.uuid,
                "responding": True,
            }
        ],
        "engines": {0: {"host": agent.host, "pid": 1000, "responding": False}},
        "schedulers": ["control", "direct", "iopub", "task"],
        "restarts": {"direct": 0, "task": 0, "control": 0, "iopub": 0},
        "queues": {
            "0": {"queue": 0, "tasks": 0, "completed": 0, "failed": 0},
            "unassigned": 0,
        },
        "jobs": {},
    }


def test_departed_engines_are_remembered_but_not_without_end() -> None:
    hub = Hub()
    agent = hub.agent(n=1200)
    for engine in range(1200):
        hub.registry.engine_down(agent.id, engine, "ended")
    hub.out()
    departed = ask(hub, "departed").value
    assert len(departed) == 1000
    assert departed[-1] == (1199, "ended")


def test_an_agent_that_comes_back_when_its_engines_ids_are_taken_is_told_so() -> None:
    hub = Hub()
    hub.agent(n=2)
    hub.out()
    assert hub.register(Role.ENGINE, engines=[0, 1], peer=b"of the time before") is None
    ((_, refused),) = hub.said(r.R_REGISTRATION)
    assert isinstance(refused, m.Refused)
    assert "engines [0, 1] are others by now" in refused.text


def test_engines_of_an_agent_from_before_a_restart_are_taken_over() -> None:
    hub = Hub()
    peer = hub.register(Role.ENGINE, engines=[4, 5], peer=b"of the time before")
    assert peer is not None
    hub.ack()
    hub.registry.engines_up(
        peer.id, [m.EngineInfo(4, "", 44, b""), m.EngineInfo(5, "", 55, b"")], 0.0
    )
    assert sorted(hub.registry.engine_peer) == [4, 5]
    assert hub.registry._next_engine == 6


def test_a_restarted_hub_tells_schedulers_nothing_before_all_have_told_it_what_they_know() -> (
    None
):
    """A scheduler restarted with the hub would take the roll for complete without agents."""
    hub = Hub(complete=False)
    hub.hello(Channel.DIRECT)
    admit = m.Admit(9, b"agent", 1, 0, b"s", b"p", "there")
    for channel in (Channel.TASK, Channel.CONTROL):
        hub.hello(channel, [admit], [(5, b"agent")])
    assert hub.out() == []
    hub.hello(Channel.IOPUB, [admit])
    told: dict[int, list[Any]] = {}
    for where, what in hub.said(r.R_SCHEDULER):
        told.setdefault(where, []).append(what)
    assert set(told) == set(SCHEDULERS)
    for messages in told.values():
        assert [type(x) for x in messages] == [m.Admit, m.Join, m.Roster]
        assert messages[-1].agents == [b"agent"]


def test_engines_of_a_batch_job_that_has_ended_are_gone_at_once_with_its_reason() -> None:
    hub = Hub()
    ours, other, client = hub.agent(n=1), hub.agent(n=1), hub.client()
    ours.job, other.job = "12[3].pbs1", "13.pbs1"
    hub.up(ours, 0)
    hub.up(other, 1)
    hub.out()
    hub.registry.query(client.id, m.Query(1, "note_jobs", [("12[].pbs1", "running", "x")]), 1.0)
    assert set(hub.registry.engine_peer) == {0, 1}
    ended = [("12[3].pbs1", "ended", "PBS job 12[3].pbs1 has ended: it reached its walltime")]
    hub.registry.query(client.id, m.Query(2, "note_jobs", ended), 2.0)
    assert set(hub.registry.engine_peer) == {1}
    assert list(hub.registry.departed) == [(0, ended[0][2])]
    hub.out()
    assert ask(hub, "jobs").value == {
        "12[3].pbs1": ["ended", ended[0][2]],
    }


def test_engines_whose_agent_died_elsewhere_are_gone_when_its_launcher_says_so() -> None:
    hub = Hub()
    ours, other, client = hub.agent(n=2), hub.agent(n=1), hub.client()
    for number, peer in ((0, ours), (1, ours), (2, other)):
        hub.up(peer, number)
    hub.out()
    lost = [(0, "killed by signal 9"), (1, "killed by signal 9"), (7, "never there")]
    hub.registry.query(client.id, m.Query(1, "note_lost", lost), 1.0)
    assert set(hub.registry.engine_peer) == {2}
    assert list(hub.registry.departed) == [(0, "killed by signal 9"), (1, "killed by signal 9")]
    hub.out()
    hub.registry.query(client.id, m.Query(2, "note_lost", [("x", "y")]), 2.0)
    assert set(hub.registry.engine_peer) == {2}


def test_an_agent_that_drains_gets_nothing_more_even_after_a_silence() -> None:
    hub = Hub()
    agent = hub.agent(n=1)
    hub.up(agent, 0)
    hub.out()
    hub.registry.draining(agent.id, "its job ends")
    hub.registry.draining(agent.id, "its job ends")
    absent = [
        (what.agent, what.absent) for _, _, what in hub.out() if isinstance(what, m.Absent)
    ]
    assert absent == [(agent.id, True)] * 4  # once for each scheduler
    hub.registry.tick(7.0)
    hub.registry.beat(agent.id, 8.0)
    assert not [what for _, _, what in hub.out() if isinstance(what, m.Absent)]


def test_a_scheduler_that_is_started_again_is_told_which_agents_drain() -> None:
    hub = Hub()
    agent = hub.agent(n=1)
    hub.up(agent, 0)
    hub.registry.draining(agent.id, "its job ends")
    hub.ack()
    hub.out()
    hub.hello(Channel.TASK)
    told = [(where, what) for _, where, what in hub.out() if isinstance(what, m.Absent)]
    assert [(where, what.agent, what.absent) for where, what in told] == [
        (Channel.TASK, agent.id, True)
    ]


def test_a_new_hub_passes_on_why_an_agent_went_before_it() -> None:
    """All at once: a scheduler, an agent and the hub are gone, and tasks may have run."""
    hub = Hub(complete=False)
    for channel in SCHEDULERS:
        hello = m.Hello(channel, 0, [], [])
        if channel != Channel.TASK:
            hello.lost = (2.0, "its host is gone")
        hub.registry.scheduler(hello, hub.now)
    rosters = dict(hub.said(r.R_SCHEDULER))
    assert rosters[Channel.TASK].lost == "its host is gone"
