"""A hostile controller on the registration port, while ours is down: it learns nothing."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from zmq.utils import z85

import ipclusterz as ipp
from ipclusterz.net import sockets
from ipclusterz.net.gate import ENDPOINT
from tests.running import Running

KEYS = (
    "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6",
    "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7",
)


class Squatter:
    """Accepts everybody, in one way or another, and keeps all it hears."""

    def __init__(self, kind: str) -> None:
        self.heard: list[bytes] = []
        self._stop = threading.Event()
        self._context = sockets.context()
        self._sockets: list[Any] = []
        if kind == "mute":
            self._server = socket.create_server(("127.0.0.1", 0))
            self.port = int(self._server.getsockname()[1])
            target: Callable[[], None] = self._listen
        else:
            made = self._context.socket(zmq.ROUTER)
            if kind == "curve":
                _, secret = zmq.curve_keypair()
                made.setsockopt(zmq.ZAP_DOMAIN, b"x")
                gate = self._context.socket(zmq.ROUTER)
                gate.bind(ENDPOINT)
                self._sockets.append(gate)
                sockets.curved(made, secret)
            elif kind == "plain":
                made.setsockopt(zmq.PLAIN_SERVER, 1)
            self.port = made.bind_to_random_port("tcp://127.0.0.1")
            self._sockets.append(made)
            target = self._serve
        self._thread = threading.Thread(target=target)
        self._thread.start()

    def _listen(self) -> None:
        self._server.settimeout(0.1)
        while not self._stop.is_set():
            try:
                made, _ = self._server.accept()
            except TimeoutError:
                continue
            with made:
                made.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE".ljust(54, b"\0"))
                made.settimeout(0.5)
                try:
                    while data := made.recv(65536):
                        self.heard.append(data)
                except OSError:
                    pass

    def _serve(self) -> None:
        while not self._stop.is_set():
            for made in self._sockets:
                if not made.poll(50):
                    continue
                frames = made.recv_multipart()
                self.heard += frames
                if len(frames) > 7:  # a question to the gate: let everybody in
                    head = [frames[0], b"", b"1.0", frames[3]]
                    made.send_multipart([*head, b"200", b"OK", b"client", b""])

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._context.destroy(0)
        if hasattr(self, "_server"):
            self._server.close()


@pytest.fixture(params=["mute", "null", "plain", "curve"])
def squatter(request: pytest.FixtureRequest) -> Iterator[Squatter]:
    made = Squatter(request.param)
    yield made
    made.close()


def file_of(role: str, port: int, path: Path) -> Path:
    url = f"tcp://127.0.0.1:{port}"
    document = {"exec_key": KEYS[0], "server_key": KEYS[1], "role": role, "url": url}
    path.touch(0o600)
    path.write_text(json.dumps({**document, "protocol": 1, "addresses": {}}))
    return path


def test_a_client_tells_it_nothing(squatter: Squatter, tmp_path: Path) -> None:
    file = file_of("client", squatter.port, tmp_path / "client.json")
    with pytest.raises((ipp.AuthenticationError, ipp.TimeoutError)) as caught:
        ipp.Client(str(file), timeout=4)
    assert f"tcp://127.0.0.1:{squatter.port}" in str(caught.value)
    heard = b"".join(squatter.heard)
    for word in (KEYS[0].encode(), KEYS[1].encode(), z85.decode(KEYS[0].encode())):
        assert word not in heard
    assert b"python" not in heard and b"uuid" not in heard, "and no registration"


def test_an_agent_says_that_another_listens(squatter: Squatter, tmp_path: Path) -> None:
    file = file_of("engine", squatter.port, tmp_path / "engine.json")
    agent = Running(f"ipenginez --file={file}")
    try:
        line = agent.until("does not accept this key|no connection to the controller")
        assert str(squatter.port) in line
    finally:
        agent.end()
    heard = b"".join(squatter.heard)
    assert KEYS[0].encode() not in heard
    assert z85.decode(KEYS[0].encode()) not in heard
