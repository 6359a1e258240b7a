"""A hostile controller on the registration port, while ours is down: it learns nothing."""

from __future__ import annotations

import json
import re
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
from tests.faults.conftest import start as start
from tests.running import Running, eventually

KEYS = (
    "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6",
    "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7",
)


class Squatter:
    """Accepts everybody, in one way or another, and keeps all it hears."""

    def __init__(self, kind: str, port: int = 0, doors: tuple[int, ...] = ()) -> None:
        """On a port of its choice or one that was ours; ``doors`` let everybody in."""
        self.heard: list[bytes] = []
        self.greeted = 0
        self._stop = threading.Event()
        self._context = sockets.context()
        gate = self._context.socket(zmq.ROUTER)
        gate.bind(ENDPOINT)
        self._sockets: list[Any] = [gate]
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        if kind == "mute":
            eventually(lambda: self._listens(port), what=f"port {port} stays taken")
            self.port = int(self._server.getsockname()[1])
            self._threads.append(threading.Thread(target=self._listen, daemon=True))
        else:
            self.port = self._bind(kind, port)
        for each in doors:
            self._bind("plain", each)
        for thread in self._threads:
            thread.start()

    def _bind(self, kind: str, port: int) -> int:
        made = self._context.socket(zmq.ROUTER)
        if kind != "null":
            made.setsockopt(zmq.ZAP_DOMAIN, b"x")
        if kind == "curve":
            sockets.curved(made, zmq.curve_keypair()[1])
        elif kind == "plain":
            made.setsockopt(zmq.PLAIN_SERVER, 1)
        eventually(lambda: self._bound(made, port), what=f"port {port} stays taken")
        self._sockets.append(made)
        return int(made.LAST_ENDPOINT.rpartition(b":")[2])

    def _listens(self, port: int) -> bool:
        try:
            self._server = socket.create_server(("127.0.0.1", port))
        except OSError:
            return False
        return True

    @staticmethod
    def _bound(made: Any, port: int) -> bool:
        try:
            made.bind(f"tcp://127.0.0.1:{port or '*'}")
        except zmq.ZMQError:
            return False  # a part of ours still ends
        return True

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
                if not made.poll(10):
                    continue
                frames = made.recv_multipart()
                self.heard += frames
                if len(frames) > 7:  # a question to the gate: let everybody in
                    head = [frames[0], b"", b"1.0", frames[3]]
                    made.send_multipart([*head, b"200", b"OK", b"client", b""])
                elif len(frames) == 2:  # a greeting: a welcome of its own making, and orders
                    self.greeted += 1
                    for said in (b"W" + bytes(60), b"D" + bytes(60), frames[1], b"B", b"U"):
                        made.send_multipart([frames[0], said])

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
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
        line = agent.until("something else listens there")
        assert str(squatter.port) in line
    finally:
        agent.end()
    heard = b"".join(squatter.heard)
    assert KEYS[0].encode() not in heard
    assert z85.decode(KEYS[0].encode()) not in heard


SECRET = "what the squatter would like to read"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["mute", "plain", "curve"])
def test_in_place_of_ours_while_it_is_down(
    kind: str, ipython_dir: Path, tmp_path: Path, start: Callable[[str], Running]
) -> None:
    """On all seven ports at once, with doors that let everybody in; then ours comes back."""
    ran = tmp_path / "ran"

    def note(word: str) -> int:
        with open(ran, "a") as file:
            file.write(f"{word}\n")
        return len(word)

    controller = start("ipcontrollerz -r")
    controller.until("^start engines:")
    agent = start("ipenginez -n 1")
    agent.until("is ready")
    (log,) = (ipython_dir / "cluster_default" / "log").glob("ipenginez-agent-*.log")
    security = ipython_dir / "cluster_default" / "security"
    document = json.loads((security / "ipcontroller-client.json").read_text())
    ports = {
        name: int(next(a for a in listed if a.startswith("tcp:")).rpartition(":")[2])
        for name, listed in document["addresses"].items()
    }
    registration, doors = ports.pop("registration"), tuple(ports.values())
    with ipp.Client() as rc:
        rc.wait_for_engines(1, timeout=20)
        assert rc[:].apply_sync(note, SECRET) == [len(SECRET)]
        identities = rc.session.connection._dials.values()
        sessions = {each._identity.session for each in identities if each._identity}
        controller.process.kill()
        controller.wait()
        squatter = Squatter(kind, registration, doors)
        try:
            expected = re.compile(rf":{registration}: something else listens there")
            eventually(lambda: expected.search(log.read_text()), 40)
            queued = rc[:].apply_async(note, "queued meanwhile")
            eventually(lambda: squatter.greeted > 5, 30, "doors are tried, with what they know")
            assert not queued.ready() and ran.read_text() == f"{SECRET}\n", "no order is obeyed"
        finally:
            squatter.close()
        heard = b"".join(squatter.heard)
        for word in (SECRET.encode(), b"queued meanwhile", b"note", *sessions):
            assert word not in heard
        for name in ("client", "engine"):
            key = json.loads((security / f"ipcontroller-{name}.json").read_text())["exec_key"]
            assert key.encode() not in heard and z85.decode(key.encode()) not in heard
        controller = start("ipcontrollerz -r")
        controller.until("^start engines:")
        assert queued.get(timeout=40) == [len("queued meanwhile")]
        assert ran.read_text() == f"{SECRET}\nqueued meanwhile\n"
        eventually(lambda: "connected to the controller again" in log.read_text(), 20)
    assert controller.end() == 0
    assert agent.wait(30) == 0
