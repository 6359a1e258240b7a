"""Registrations harmed by somebody on the way: each byte of the handshake and the messages."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from ipclusterz.core import message as m
from ipclusterz.net import sockets
from tests.faults.conftest import start as start
from tests.running import eventually
from tests.security.attack import Target

GREETING = 64
"""Bytes of ZMTP's greeting: nothing secret, and some of them are filled as one likes."""

BATCH = 60
NEVER = 1 << 40
"""An offset that no registration reaches."""


class Flipper:
    """A port that leads to another one; of connection ``n`` it changes byte ``offsets[n]``."""

    def __init__(self, port: int, offsets: list[int], way: str) -> None:
        self._to = ("127.0.0.1", port)
        self._offsets = offsets
        self._up = way == "to the controller"
        self._server = socket.create_server(("127.0.0.1", 0), backlog=BATCH)
        self.port = int(self._server.getsockname()[1])
        self.accepted = 0
        self.flipped = 0
        self.passed = bytearray()  # what the last connection said on the way that is harmed
        self._pairs: dict[socket.socket, tuple[socket.socket, int, list[int]]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            ready, _, _ = select.select([self._server, *self._pairs], [], [], 0.05)
            for each in ready:
                if each is self._server:
                    self._accept()
                elif each in self._pairs:
                    self._carry(each)

    def _accept(self) -> None:
        here, _ = self._server.accept()
        there = socket.create_connection(self._to)
        offset = self._offsets[self.accepted]
        self._pairs[here] = (there, offset if self._up else -1, [0])
        self._pairs[there] = (here, -1 if self._up else offset, [0])
        self.accepted += 1
        self.passed.clear()

    def _carry(self, source: socket.socket) -> None:
        sink, offset, seen = self._pairs[source]
        try:
            data = bytearray(source.recv(1 << 16))
        except OSError:
            data = bytearray()
        at = offset - seen[0]
        if offset >= 0 and 0 <= at < len(data):
            data[at] ^= 1 << offset % 8
            self.flipped += 1
        seen[0] += len(data)
        if offset >= 0:
            self.passed += data
        try:
            if data:
                sink.sendall(data)
                return
        except OSError:
            pass
        for each in (source, sink):
            self._pairs.pop(each)
            each.close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for each in [self._server, *self._pairs]:
            each.close()


@pytest.fixture(scope="module")
def target(shared_ipython_dir: Path) -> Iterator[Target]:
    made = Target()
    yield made
    made.close()


def registrations(
    target: Target, offsets: list[int], way: str
) -> tuple[dict[int, Any], Flipper]:
    """Register through a flipper, one connection for each offset; the answers by offset."""
    document = target.files["client"]
    secret = document["exec_key"].encode()
    context, made = sockets.context(), []
    flipper = Flipper(target.port("registration"), offsets, way)
    try:
        for number in range(len(offsets)):
            each = sockets.dealer(context)
            each.setsockopt(zmq.CURVE_SERVERKEY, document["server_key"].encode())
            each.setsockopt(zmq.CURVE_SECRETKEY, secret)
            each.setsockopt(zmq.CURVE_PUBLICKEY, zmq.curve_public(secret))
            each.connect(f"tcp://127.0.0.1:{flipper.port}")
            eventually(lambda n=number: flipper.accepted > n)  # type: ignore[misc]
            said = m.Register(int(m.Role.CLIENT), m.PROTOCOL, "0", "here", "", os.getpid())
            try:
                each.send(m.encode(said), zmq.NOBLOCK)
            except zmq.ZMQError:
                pass  # it is refused already
            made.append(each)
        harmed = len([offset for offset in offsets if offset != NEVER])
        eventually(lambda: flipper.flipped == harmed, what="each was harmed")
        poller = zmq.Poller()
        for each in made:
            poller.register(each, zmq.POLLIN)
        answers: dict[int, Any] = {}
        while ready := [each for each, _ in poller.poll(500)]:
            for each in ready:
                answers[offsets[made.index(each)]] = each.recv()
        return answers, flipper
    finally:
        flipper.close()
        context.destroy(0)


def flags(said: bytes) -> list[int]:
    """Where ZMTP's frames begin, each with a byte that tells how long it is and what kind."""
    found, at = [], GREETING
    while at < len(said):
        found.append(at)
        long = said[at] & 2
        at += 9 + int.from_bytes(said[at + 1 : at + 9], "big") if long else 2 + said[at + 1]
    return found


def harm(target: Target, way: str, step: int) -> None:
    unharmed, flipper = registrations(target, [NEVER], way)
    assert len(unharmed) == 1
    # Besides a frame's kind there is padding in the first command: 72 bytes of nothing.
    most, heads = len(flipper.passed), flags(flipper.passed)
    assert most > 400 and len(heads) >= 3, "two parts of a handshake and a message, all sealed"
    idle = range(heads[0] + 10, heads[0] + 82) if way == "to the controller" else range(0)
    answered, known = 0, target.log("hub").count("registered client")
    offsets = [*range(GREETING, most, step)]
    for at in range(0, len(offsets), BATCH):
        answers, _ = registrations(target, offsets[at : at + BATCH], way)
        for offset, answer in answers.items():
            # Where nothing is said that counts; what is inside is whole and true.
            assert offset in (*heads, *idle), f"byte {offset}: acted upon though harmed"
            made = msgspec.msgpack.decode(answer, type=m.ToRegistration)
            assert isinstance(made, m.Registered)
        answered += len(answers)
    if way == "to the controller":
        assert target.log("hub").count("registered client") == known + answered
    assert target.works() and target.newcomer_works()
    assert [e for e in target.events if e["event"] in ("restarted", "error")] == []


@pytest.mark.parametrize("way", ["to the controller", "to the peer"])
def test_a_registration_that_was_harmed_is_none(target: Target, way: str) -> None:
    harm(target, way, 11)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ["to the controller", "to the peer"])
def test_a_registration_with_any_byte_changed_is_none(target: Target, way: str) -> None:
    harm(target, way, 1)


def test_without_harm_it_is_one(target: Target) -> None:
    """By the same way, with a bit of the greeting changed that means nothing."""
    answers, _ = registrations(target, [40, 50], "to the controller")
    assert len(answers) == 2
    for each in answers.values():
        assert isinstance(msgspec.msgpack.decode(each, type=m.ToRegistration), m.Registered)
