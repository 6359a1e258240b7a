"""One loop and one context for both ends, so that a test decides when anything happens."""

from __future__ import annotations

import os
import select
import socket as socketlib
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from ipclusterz.core import message as m
from ipclusterz.core.message import Channel
from ipclusterz.engine import bodies
from ipclusterz.net import lines, sockets
from ipclusterz.net.dial import Dial, Identity
from ipclusterz.net.door import Door
from ipclusterz.net.gate import Gate
from ipclusterz.net.loop import Loop

CHANNEL = Channel.TASK
PEER = Identity(b"p" * 16, b"s" * 32, b"password")
OTHER = Identity(b"q" * 16, b"z" * 32, b"another's")


@pytest.fixture
def place() -> Iterator[bodies.Place]:
    """A folder for bodies, and its proof; gone afterwards."""
    made = bodies.make_folder()
    yield made
    bodies.remove_folder(made[0])
    assert not os.path.exists(made[0])


class RawLine:
    """The client's end of a line, spoken by hand."""

    def __init__(self, address: str) -> None:
        self.socket = socketlib.socket(socketlib.AF_UNIX, socketlib.SOCK_STREAM)
        self.socket.connect(address.removeprefix(lines.SCHEME))
        self.socket.settimeout(10)
        self._read = b""
        self.ended = False

    def send(self, frame: bytes) -> None:
        self.send_multipart([frame])

    def send_multipart(self, frames: list[bytes]) -> None:
        last = len(frames) - 1
        for place, frame in enumerate(frames):
            more = 1 << 31 if place < last else 0
            self.socket.sendall(struct.pack("<I", len(frame) | more) + frame)

    def poll(self, timeout: int) -> bool:
        """Whether a whole frame has come."""
        if not self.ended and select.select([self.socket], [], [], 0)[0]:
            try:
                received = self.socket.recv(1 << 20)
            except OSError:
                received = b""
            self.ended = not received
            self._read += received
        return len(self._read) >= 4 and len(self._read) >= 4 + self._size()

    def _size(self) -> int:
        return int(struct.unpack_from("<I", self._read)[0])

    def recv(self) -> bytes:
        size = self._size()
        frame, self._read = self._read[4 : 4 + size], self._read[4 + size :]
        return frame


class Bench:
    """A gate and a door on one side, dials on the other."""

    def __init__(self, folder: str, over: str) -> None:
        self.over = over
        self.loop = Loop()
        self.context = sockets.context()
        self.gate = Gate(self.loop, self.context)
        self.address = f"ipc://{folder}/door"
        self._listening: socketlib.socket | None = None
        if over == "lines":
            self.address = f"{lines.SCHEME}{folder}/line"
            self._listening = socketlib.socket(socketlib.AF_UNIX, socketlib.SOCK_STREAM)
            self._listening.bind(f"{folder}/line")
            self._listening.listen(100)
        self._ipc = f"ipc://{folder}/door"
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
        socket.bind(self._ipc)
        return Door(
            self.loop,
            CHANNEL,
            socket,
            lambda peer, messages: self.heard.extend((peer, x) for x in messages),
            self.renewed.append,
            log=self.log.append,
            lines=self._listening.fileno() if self._listening else -1,
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

    def raw(self, identity: Identity) -> Any:
        """A connection that passes the gate and then says whatever the test likes."""
        if self._listening:
            line = RawLine(self.address)
            self._close.append(line.socket.close)
            return line
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

    def receive(self, socket: Any) -> bytes:
        self.until(lambda: socket.poll(0))
        return bytes(socket.recv())

    def close(self) -> None:
        for each in self._close:
            each()
        self.door.close()
        self.gate.close()
        self.context.destroy(0)  # a test that failed left some open
        if self._listening:
            self._listening.close()
        self.loop.close()


@pytest.fixture(params=["zeromq", "lines"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Once for each way in which a peer may come to a door."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ipcz-") as folder:  # short: it is a socket's
        made = Bench(folder, request.param)
        yield made
        made.close()


over_zeromq = pytest.mark.parametrize("bench", ["zeromq"], indirect=True)
"""For what only ZeroMQ's doors have: passwords, and a handshake of their own."""

over_lines = pytest.mark.parametrize("bench", ["lines"], indirect=True)
