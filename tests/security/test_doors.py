"""The seven doors of a running controller, and what strangers can do there: nothing."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import zmq

import ipclusterz as ipp
from ipclusterz.core import message as m
from ipclusterz.core.config import CHANNEL_NAMES
from ipclusterz.net import sockets
from tests.running import children, eventually

DOORS = CHANNEL_NAMES[1:]


class Target:
    """A controller with one engine, and its files."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.cluster = ipp.Cluster(n=1, notice=self.events.append)
        self.client = self.cluster.start_and_connect_sync()
        self.files = {
            role: json.loads(Path(getattr(self.cluster, f"{role}_file")).read_text())
            for role in ("client", "engine")
        }

    def address(self, name: str, kind: str = "tcp") -> str:
        listed = self.files["client"]["addresses"][name]
        return str(next(a for a in listed if a.startswith(kind)))

    def log(self, part: str) -> str:
        name = f"ipcontroller-{self.cluster.cluster_id}-{part}.log"
        return (Path(self.cluster.profile.log) / name).read_text()

    def works(self) -> bool:
        return bool(self.client[:].apply_async(os.getpid).get(timeout=10))


@pytest.fixture(scope="module")
def target(shared_ipython_dir: Path) -> Iterator[Target]:
    made = Target()
    yield made
    made.client.close()
    made.cluster.stop_cluster_sync()


@pytest.fixture
def context() -> Iterator[Any]:
    made = sockets.context()
    yield made
    made.destroy(0)


def outcome(socket: Any, address: str) -> int:
    """Connect and return the handshake's event."""
    monitor = sockets.monitored(socket)
    socket.connect(address)
    assert monitor.poll(10_000), "nothing happened"
    return sockets.event_of(monitor.recv_multipart())


def plain(context: Any, name: bytes, password: bytes) -> Any:
    made = sockets.dealer(context)
    made.setsockopt(zmq.PLAIN_USERNAME, name)
    made.setsockopt(zmq.PLAIN_PASSWORD, password)
    return made


def curve(context: Any, secret: bytes, server_key: str) -> Any:
    made = sockets.dealer(context)
    made.setsockopt(zmq.CURVE_SERVERKEY, server_key.encode())
    made.setsockopt(zmq.CURVE_SECRETKEY, secret)
    made.setsockopt(zmq.CURVE_PUBLICKEY, zmq.curve_public(secret))
    return made


def registered(target: Target, context: Any, role: str, message: m.Register) -> Any:
    """Register by hand with a role's file; return the hub's answer and the socket."""
    document = target.files[role]
    made = curve(context, document["exec_key"].encode(), document["server_key"])
    made.connect(target.address("registration"))
    made.send(m.encode(message))
    assert made.poll(10_000), "the hub does not answer"
    return msgspec.msgpack.decode(made.recv(), type=m.ToRegistration), made


def register(role: m.Role) -> m.Register:
    return m.Register(int(role), m.PROTOCOL, "0", "here", "", os.getpid())


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
@pytest.mark.parametrize("name", DOORS)
def test_gates_refuse_no_wrong_and_other_mechanisms(
    target: Target, context: Any, name: str, kind: str
) -> None:
    address = target.address(name, kind)
    assert outcome(sockets.dealer(context), address) in sockets.FAILURES
    peer = os.urandom(16).hex().encode()
    wrong = outcome(plain(context, peer, b"wrong"), address)
    assert wrong == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    document = target.files["client"]
    mixed = curve(context, document["exec_key"].encode(), document["server_key"])
    assert outcome(mixed, address) in sockets.FAILURES
    assert target.works()


def test_registration_refuses_wrong_keys_and_mechanisms(target: Target, context: Any) -> None:
    address = target.address("registration")
    server_key = target.files["client"]["server_key"]
    _, stranger = zmq.curve_keypair()
    wrong = outcome(curve(context, stranger, server_key), address)
    assert wrong == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    public, _ = zmq.curve_keypair()
    known = target.files["client"]["exec_key"].encode()
    assert outcome(curve(context, known, public.decode()), address) in sockets.FAILURES
    assert outcome(sockets.dealer(context), address) in sockets.FAILURES
    assert outcome(plain(context, b"a", b"b"), address) in sockets.FAILURES
    eventually(lambda: "with a wrong key" in target.log("hub"))


def test_an_engines_key_makes_no_client(target: Target, context: Any) -> None:
    answer, _ = registered(target, context, "engine", register(m.Role.CLIENT))
    assert isinstance(answer, m.Refused) and "ipcontroller-engine.json" in answer.text
    answer, _ = registered(target, context, "client", register(m.Role.ENGINE))
    assert isinstance(answer, m.Refused)


def test_a_password_opens_its_own_name_only(target: Target, context: Any) -> None:
    one, _ = registered(target, context, "client", register(m.Role.CLIENT))
    two, _ = registered(target, context, "engine", register(m.Role.ENGINE))
    assert isinstance(one, m.Registered) and isinstance(two, m.Registered)
    address = target.address("task")
    mixed = plain(context, one.peer.hex().encode(), two.password)
    assert outcome(mixed, address) == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    right = plain(context, one.peer.hex().encode(), one.password)
    assert outcome(right, address) == zmq.EVENT_HANDSHAKE_SUCCEEDED


def test_an_engine_can_submit_no_work(target: Target, context: Any) -> None:
    """Its key, its password, its session: all true; the message is not for its role."""
    from ipclusterz.net import door
    from ipclusterz.net.seal import GREETING, TO_SERVER, Sealer, connection_key

    answer, _keep = registered(target, context, "engine", register(m.Role.ENGINE))
    channel = m.Channel.TASK
    socket = plain(context, answer.peer.hex().encode(), answer.password)
    socket.connect(target.address("task"))
    ours = os.urandom(16)
    head = door.HELLO + answer.peer + ours
    key = connection_key(answer.session, channel, GREETING, ours)
    greeting = msgspec.msgpack.encode(door.Greeting(b"", 0))
    socket.send(head + Sealer(key).seal(greeting, head))
    assert socket.poll(10_000)
    welcome = socket.recv()
    assert welcome[:1] == door.WELCOME
    sealer = Sealer(connection_key(answer.session, channel, TO_SERVER, ours, welcome[1:17]))
    work = m.Submit(1 << 40 | 1, int(m.Op.EXECUTE), b"", b"never run")
    packet = (1).to_bytes(8, "little") + bytes(8) + msgspec.msgpack.encode([work])
    socket.send(door.DATA + sealer.seal(packet, door.DATA))
    eventually(lambda: "does not belong here" in target.log("task"))
    assert target.works()


@pytest.mark.parametrize("name", CHANNEL_NAMES)
def test_noise_and_half_handshakes_hinder_nobody(target: Target, name: str) -> None:
    host, _, port = target.address(name)[6:].rpartition(":")
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00PLAIN".ljust(24, b"\0") + bytes(32)
    texts = [b"", b"\xff", greeting[:11], greeting, b"GET / HTTP/1.0\r\n\r\n", b"\0" * 5000]
    texts += [os.urandom(n) for n in (1, 64, 100_000)]
    texts += [greeting + b"\x04\xff" + os.urandom(255), greeting + b"\x06" + b"\xff" * 8]
    held = []
    for text in texts:
        made = socket.create_connection((host, int(port)), timeout=5)
        try:
            made.sendall(text)
        except OSError:
            pass  # it has been shown the door already
        held.append(made)
    try:
        assert target.works(), "while they hang on"
    finally:
        for made in held:
            made.close()
    assert target.works()
    assert target.client.queue_status() is not None


def test_a_flood_of_noise_takes_no_memory(target: Target) -> None:
    parts = next(e["parts"] for e in target.events if e["event"] == "ready")
    before = {p: psutil.Process(p).memory_info().rss for p in parts.values()}
    host, _, port = target.address("task")[6:].rpartition(":")
    stop = time.monotonic() + 1.5

    def flood() -> None:
        while time.monotonic() < stop:
            try:
                with socket.create_connection((host, int(port)), timeout=5) as made:
                    made.sendall(b"\xff" + bytes(8) + b"\x7f" + os.urandom(200_000))
            except OSError:
                pass

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert target.works()
    for thread in threads:
        thread.join()
    for pid, size in before.items():
        assert psutil.Process(pid).memory_info().rss < size + 30_000_000
    assert target.works()


def test_nothing_of_this_ended_a_process(target: Target) -> None:
    assert [e for e in target.events if e["event"] in ("restarted", "error")] == []
    assert len(children(os.getpid())) >= 8
