"""Whoever has the engine's file only: it can be an engine, and not another one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipclusterz.core import message as m
from ipclusterz.core.relay import Relay
from ipclusterz.net import sockets
from tests.core.bench import Bench, key, outcome, request
from tests.security.attack import Target, ask, register


@pytest.fixture(scope="module")
def target(shared_ipython_dir: Path) -> Iterator[Target]:
    made = Target()
    yield made
    made.close()


@pytest.fixture
def context() -> Iterator[Any]:
    made = sockets.context()
    yield made
    made.destroy(0)


def test_it_cannot_return_as_another_whose_id_it_saw(target: Target, context: Any) -> None:
    status = target.client.session.connection.query("status")
    ids = [bytes.fromhex(agent["peer"]) for agent in status["agents"]]
    assert len(ids) == 1
    for session in (b"", b"guessed", bytes(32)):
        answer, _ = register(
            target, context, "engine", peer=ids[0], session=session, engines=[0]
        )
        assert isinstance(answer, m.Refused) and "which it is not" in answer.text
    assert target.works()


def test_who_was_here_returns_with_its_session_key(target: Target, context: Any) -> None:
    first, _keep = register(target, context, "engine")
    again, _also = register(target, context, "engine", peer=first.peer, session=first.session)
    assert isinstance(again, m.Registered)
    assert (again.peer, again.session) == (first.peer, first.session)


def test_it_cannot_register_twice_over_one_connection(target: Target, context: Any) -> None:
    answer, made = register(target, context, "engine")
    assert isinstance(answer, m.Registered)
    second = ask(made, "engine")
    assert isinstance(second, m.Refused) and "already" in second.text
    assert isinstance(ask(made, "client"), m.Refused)


@pytest.mark.parametrize("said", ["text that is none", "nesting without end"])
def test_it_cannot_end_the_hub_by_what_does_not_decode(
    target: Target, context: Any, said: str
) -> None:
    answer, made = register(target, context, "engine")
    assert isinstance(answer, m.Registered)
    good = m.encode(m.Register(int(m.Role.ENGINE), m.PROTOCOL, "0", "here", "", 1))
    made.send(good.replace(b"here", b"h\xc0re") if "text" in said else b"\x91" * 100_000)
    assert isinstance(ask(made, "engine"), m.Refused), "the hub has read it, and lives"
    assert [e for e in target.events if e["event"] in ("restarted", "error")] == []
    assert "that makes no sense" in target.log("hub")


def test_it_cannot_say_that_anothers_engine_came_or_went(target: Target, context: Any) -> None:
    answer, made = register(target, context, "engine", n=1)
    (pid,) = [
        e["pid"] for e in target.client.session.connection.query("status")["engines"].values()
    ]
    made.send(m.encode(m.EngineDown(0, "says a stranger")))
    made.send(m.encode(m.EnginesUp([m.EngineInfo(0, "elsewhere", 66, answer.peer)])))
    made.send(m.encode(m.Allocate(1)))
    assert made.poll(10_000), "all before was acted upon"
    told = target.client.session.connection.query("status")["engines"]
    assert [(int(n), e["pid"]) for n, e in told.items()] == [(0, pid)]
    assert target.works()


def two(core: Relay) -> Bench:
    """A client, an honest agent with engine 0, and a hostile one with engine 1."""
    cluster = Bench(core)
    cluster.client()
    cluster.agent(b"honest", 0)
    cluster.agent(b"hostile", 1)
    cluster.out()
    return cluster


def test_a_roll_call_takes_no_engine_from_another() -> None:
    cluster = two(Relay())
    cluster.say(b"hostile", m.RollCall([0, 1], [0], []))
    cluster.say(b"client", request(1, [0]))
    (task,) = cluster.to(b"honest", m.Fan, m.Assign)
    assert task.engines == [0]
    assert cluster.to(b"hostile", m.Fan, m.Assign) == []


def test_an_engine_does_not_answer_for_another() -> None:
    cluster = two(Relay())
    cluster.say(b"client", request(1, [0]))
    (task,) = cluster.to(b"honest", m.Fan, m.Assign)
    assert task.keys == [key(1)]
    cluster.out()
    cluster.say(b"hostile", outcome(key(1), task.attempt, 0, data=b"forged"))
    cluster.say(b"hostile", m.Down(0, ""), m.Returned([(key(1), task.attempt)], 0, ""))
    assert cluster.results() == []
    cluster.say(b"honest", outcome(key(1), task.attempt, 0, data=b"true"))
    assert [r.data for r in cluster.results()] == [b"true"]
