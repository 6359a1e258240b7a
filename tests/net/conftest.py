"""One loop and one context for both ends, so that a test decides when anything happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from ipclusterz.core import message as m
from ipclusterz.core.message import Channel
from ipclusterz.net import sockets
from ipclusterz.net.dial import Dial, Identity
from ipclusterz.net.door import Door
from ipclusterz.net.gate import Gate
from ipclusterz.net.loop import Loop

CHANNEL = Channel.TASK
PEER = Identity(b"p" * 16, b"s" * 32, b"password")
OTHER = Identity(b"q" * 16, b"z" * 32, b"another's")


class Bench:
    """A gate and a door on one side, dials on the other."""

    def __init__(self, folder: str) -> None:
        self.loop = Loop()
        self.context = sockets.context()
        self.gate = Gate(self.loop, self.context)
        self.address = f"ipc://{folder}/door"
        self.heard: list[tuple[bytes, Any]] = []
        self.renewed: list[bytes] = []
        self.log: list[str] = []
        self.states: list[str] = []
        self.answers: list[Any] = []
        self.news: list[str] = []
        self._close: list[Callable[[], None]] = []
        self.door = self.open()

    def open(self) -> Door:
        socket = sockets.gated(sockets.router(self.context))
        socket.bind(self.address)
        return Door(
            self.loop,
            CHANNEL,
            socket,
            lambda peer, messages: self.heard.extend((peer, x) for x in messages),
            self.renewed.append,
            log=self.log.append,
        )

    def admit(self, identity: Identity, accepts: Any = m.Beat) -> None:
        self.gate.admit(identity.peer, identity.password)
        self.door.admit(identity.peer, identity.session, accepts)

    def dial(self, identity: Identity = PEER, accepts: Any = m.Beat) -> Dial:
        made = Dial(
            self.loop,
            self.context,
            CHANNEL,
            accepts,
            self.answers.extend,
            on_state=self.states.append,
            on_renewed=lambda: self.news.append("renewed"),
            on_unknown=lambda: self.news.append("unknown"),
        )
        self._close.append(lambda: made.close(0))
        made.identify(identity, [self.address])
        return made

    def raw(self, identity: Identity) -> zmq.Socket[bytes]:
        """A connection that passes the gate and then says whatever the test likes."""
        socket = sockets.dealer(self.context)
        socket.setsockopt(zmq.PLAIN_USERNAME, identity.peer.hex().encode())
        socket.setsockopt(zmq.PLAIN_PASSWORD, identity.password)
        socket.connect(self.address)
        self._close.append(lambda: socket.close(0))
        return socket

    def turn(self) -> None:
        self.loop.process(self.loop.wait(self.loop.timeout(0.01)))

    def until(self, condition: Callable[[], object], timeout: float = 10) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            self.turn()

    def receive(self, socket: zmq.Socket[bytes]) -> bytes:
        self.until(lambda: socket.poll(0))
        return socket.recv()

    def close(self) -> None:
        for each in self._close:
            each()
        self.door.close()
        self.gate.close()
        self.context.destroy(0)  # a test that failed left some open
        self.loop.close()


@pytest.fixture
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ipcz-") as folder:  # short: it is a socket's
        made = Bench(folder)
        yield made
        made.close()
