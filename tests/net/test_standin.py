"""Schedulers answer for owners on their own host, and for nobody else."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ipclusterz as ipp
from ipclusterz.core import message as m
from ipclusterz.engine import bodies
from ipclusterz.net.loop import Loop
from ipclusterz.net.seal import PieceOpener
from ipclusterz.net.standin import StandIn
from tests.faults.watch import agent_of

SECRET = b"s" * 32


class Bench:
    """A stand-in and what it said."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.said: list[tuple[bytes, Any]] = []
        self.stand_in = StandIn(
            self.loop, lambda peer, answer: self.said.append((peer, answer))
        )

    def turn(self) -> None:
        self.loop.process(self.loop.wait(self.loop.timeout(0)))


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.loop.close()


def fetch(body: m.Body, number: int = 1, offset: int = 0, size: int = 64) -> m.Fetch:
    return m.Fetch(7, body.id, offset, size, number, SECRET, body.folder, body.proof)


def test_it_answers_with_the_piece_one_a_turn(bench: Bench, place: bodies.Place) -> None:
    content = os.urandom(192)
    body = bodies.write(*place, [content])
    for number, offset in ((1, 0), (2, 64), (3, 128)):
        assert bench.stand_in.takes(b"peer", b"owner", fetch(body, number, offset))
    for turn in range(3):
        assert len(bench.said) == turn
        bench.turn()
    assert bench.loop.timeout(None) < 0, "nothing more to do"
    opener, got = PieceOpener(SECRET, body.id), bytearray(64)
    for (peer, load), offset in zip(bench.said, (0, 64, 128), strict=True):
        assert peer == b"peer" and (load.chunk.key, load.chunk.offset) == (7, offset)
        opener.open(load.chunk.number, offset, load.data, memoryview(got))
        assert got == content[offset : offset + 64]


def test_a_body_that_is_gone_is_said_to_be(bench: Bench, place: bodies.Place) -> None:
    body = bodies.write(*place, [b"x" * 64])
    bodies.remove(body)
    assert bench.stand_in.takes(b"peer", b"owner", fetch(body))
    bench.turn()
    [(_, chunk)] = bench.said
    assert isinstance(chunk, m.Chunk) and "let go" in chunk.problem


def test_who_does_not_know_the_folders_proof_gets_nothing(
    bench: Bench, place: bodies.Place
) -> None:
    body = bodies.write(*place, [b"x" * 64])
    for proof in (b"", b"y" * 16, body.proof + b"z"):
        body.proof = proof
        assert not bench.stand_in.takes(b"peer", b"owner", fetch(body))
    bench.turn()
    assert bench.said == []


def test_it_looks_only_where_bodies_lie(
    bench: Bench, place: bodies.Place, tmp_path: Path
) -> None:
    """A path that somebody names may be on a file system that does not answer."""
    elsewhere = bodies.folder_in(str(tmp_path))
    try:
        assert bodies.here(bodies.write(*elsewhere, [b"x" * 64]))
        assert not bench.stand_in.takes(
            b"peer", b"owner", fetch(bodies.write(*elsewhere, [b"x" * 64]))
        )
    finally:
        bodies.remove_folder(elsewhere[0])
    base = os.path.dirname(place[0])
    for folder in ("", "/", base, f"{base}/else", f"{place[0]}/..", f"{base}/ipclusterz-\0"):
        body = m.Body(b"i" * 16, [64], folder, place[1])
        assert not bench.stand_in.takes(b"peer", b"owner", fetch(body)), folder


def test_it_follows_no_link_to_a_folder(bench: Bench, place: bodies.Place) -> None:
    link = os.path.join(os.path.dirname(place[0]), f"ipclusterz-link-{os.getpid()}")
    os.symlink(place[0], link)
    try:
        assert bodies.here(bodies.write(*place, [b"x"]))
        assert not bench.stand_in.takes(
            b"peer", b"owner", fetch(m.Body(b"i" * 16, [64], link, place[1]))
        )
    finally:
        os.unlink(link)


def test_what_never_ends_is_not_waited_for(bench: Bench, place: bodies.Place) -> None:
    proof = os.path.join(place[0], bodies.PROOF)
    os.unlink(proof)
    os.mkfifo(proof)
    assert not bench.stand_in.takes(b"peer", b"owner", fetch(m.Body(b"i" * 16, [64], *place)))


def test_many_folders_are_not_remembered_for_ever(
    place: bodies.Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "_REMEMBERED", 3)
    monkeypatch.setattr(bodies, "_trusted", set())
    others = [bodies.make_folder() for _ in range(5)]
    try:
        assert all(bodies.beside(*other) for other in others)
        assert len(bodies._trusted) <= 3
        assert all(bodies.beside(*other) for other in others), "and known again"
    finally:
        for folder, _ in others:
            bodies.remove_folder(folder)


def test_a_client_elsewhere_need_not_wait_for_the_agent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The result's file is beside the scheduler: the agent that wrote it may stand still."""
    with ipp.Cluster(n=1) as rc:
        agent = agent_of(rc)
        rc[0].execute("import numpy; big = numpy.arange(3_000_000)", block=True)
        carrier = rc.session.connection._payloads._carrier
        bring, stopped = carrier.bring, []

        def alone(channel: int, key: int, body: m.Body) -> None:
            os.kill(agent, signal.SIGSTOP)
            stopped.append(agent)
            bring(channel, key, body)

        monkeypatch.setattr(carrier, "bring", alone)
        monkeypatch.setattr(bodies, "here", lambda body: False)
        try:
            got = rc[0].pull("big", block=False).get(20)
        finally:
            os.kill(agent, signal.SIGCONT)
        assert stopped and np.array_equal(got, np.arange(3_000_000))
