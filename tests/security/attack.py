"""What attackers need: a cluster to attack, sockets that speak as they like, and a recorder."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import msgspec
import psutil
import zmq

import ipclusterz as ipp
from ipclusterz.core import message as m
from ipclusterz.net import sockets


class Target:
    """A cluster with its events and files."""

    def __init__(self, n: int = 1) -> None:
        self.events: list[dict[str, Any]] = []
        self.cluster = ipp.Cluster(n=n, notice=self.events.append)
        self.client = self.cluster.start_and_connect_sync()
        self.files = {
            role: json.loads(Path(getattr(self.cluster, f"{role}_file")).read_text())
            for role in ("client", "engine")
        }

    def port(self, name: str) -> int:
        listed = self.files["client"]["addresses"][name]
        return int(next(a for a in listed if a.startswith("tcp")).rpartition(":")[2])

    def parts(self) -> dict[str, int]:
        return dict(next(e["parts"] for e in self.events if e["event"] == "ready"))

    def memory(self) -> dict[str, int]:
        return {name: psutil.Process(p).memory_info().rss for name, p in self.parts().items()}

    def log(self, part: str) -> str:
        name = f"ipcontroller-{self.cluster.cluster_id}-{part}.log"
        return (Path(self.cluster.profile.log) / name).read_text()

    def works(self) -> bool:
        return bool(self.client[:].apply_async(pow, 2, 5).get(timeout=20)[0] == 32)

    def newcomer_works(self) -> bool:
        with ipp.Client(self.cluster.client_file) as rc:
            return bool(rc[:].apply_async(pow, 2, 5).get(timeout=20)[0] == 32)

    def close(self) -> None:
        self.client.close()
        self.cluster.stop_cluster_sync()


def register(target: Target, context: Any, role: str, **fields: Any) -> tuple[Any, Any]:
    """Register by hand over TCP; return the hub's answer and the socket."""
    document = target.files[role]
    secret = document["exec_key"].encode()
    made = sockets.dealer(context)
    made.setsockopt(zmq.CURVE_SERVERKEY, document["server_key"].encode())
    made.setsockopt(zmq.CURVE_SECRETKEY, secret)
    made.setsockopt(zmq.CURVE_PUBLICKEY, zmq.curve_public(secret))
    made.connect(f"tcp://127.0.0.1:{target.port('registration')}")
    return ask(made, role, **fields), made


def ask(made: Any, role: str, **fields: Any) -> Any:
    """Say Register on a socket; return the answer."""
    number = int(m.Role.CLIENT if role == "client" else m.Role.ENGINE)
    pid = psutil.Process().pid
    made.send(m.encode(m.Register(number, m.PROTOCOL, "0", "here", "", pid, **fields)))
    assert made.poll(10_000), "the hub does not answer"
    return msgspec.msgpack.decode(made.recv(), type=m.ToRegistration)


class Tap:
    """A port that leads to another one and keeps what passes, by connection and direction."""

    def __init__(self, port: int) -> None:
        self._to = ("127.0.0.1", port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.recorded: list[tuple[bytearray, bytearray]] = []  # to the server, to the peer
        self._held: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._server.accept()
            except OSError:
                return
            try:
                there = socket.create_connection(self._to)
            except OSError:  # who listens there is away
                here.close()
                continue
            pair = bytearray(), bytearray()
            self.recorded.append(pair)
            self._held += [here, there]
            for source, sink, kept in ((here, there, pair[0]), (there, here, pair[1])):
                threading.Thread(
                    target=self._carry, args=(source, sink, kept), daemon=True
                ).start()

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        try:
            while data := source.recv(1 << 16):
                kept += data
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        for end in (self._server, *self._held):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()


def tapped(target: Target, copy: Path) -> dict[str, Tap]:
    """Write a client's file that leads through taps."""
    document = json.loads(json.dumps(target.files["client"]))
    taps = {name: Tap(target.port(name)) for name in document["addresses"]}
    for name, tap in taps.items():
        document["addresses"][name] = [f"tcp://127.0.0.1:{tap.port}"]
    document["url"] = document["addresses"]["registration"][0]
    document |= {"hostid": "another-boot", "location": "another-host"}
    copy.touch(0o600)
    copy.write_text(json.dumps(document))
    return taps


def captured(taps: dict[str, Tap], name: str = "task") -> tuple[bytes, bytes]:
    """Return the name and the gate password that went through a tap in the clear."""
    for sent, _ in taps[name].recorded:
        if b"\x05HELLO" in sent:
            size, rest = sent.split(b"\x05HELLO", 1)[1][0], sent.split(b"\x05HELLO", 1)[1][1:]
            user, rest = bytes(rest[:size]), rest[size:]
            return user, bytes(rest[1 : 1 + rest[0]])
    raise AssertionError(f"no handshake went through the tap at {name}")


def greeting(mechanism: bytes) -> bytes:
    """What a ZMTP 3 connection says first: a signature, the version, the mechanism."""
    said = b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.ljust(20, b"\0")
    return said.ljust(64, b"\0")


def command(name: bytes, body: bytes) -> bytes:
    """A ZMTP command that fits one byte of length."""
    said = bytes((len(name),)) + name + body
    return bytes((4, len(said))) + said


def plain_hello(user: bytes, password: bytes) -> bytes:
    """The first command of the PLAIN handshake."""
    return command(b"HELLO", bytes((len(user),)) + user + bytes((len(password),)) + password)


READY = command(b"INITIATE", b"\x0bSocket-Type\0\0\0\x06DEALER")
"""The second one; what is said after it reaches the door."""


def shout(port: int, data: bytes, wait: float = 0.3) -> bytes:
    """Connect, say ``data`` whatever is answered, and return the answer."""
    return replay(port, [data], wait)


def paced(data: bytes) -> list[bytes]:
    """Cut a recorded connection where its peer waited: greeting, two commands, the rest."""
    pieces, at = [data[:64]], 64
    for _ in range(2):
        if at + 9 > len(data):
            break
        long = data[at] & 2
        size = int.from_bytes(data[at + 1 : at + 9], "big") + 9 if long else data[at + 1] + 2
        pieces.append(data[at : at + size])
        at += size
    return [piece for piece in (*pieces, data[at:]) if piece]


def replay(port: int, pieces: list[bytes], wait: float) -> bytes:
    """Say the pieces, each when the one before was answered or ``wait`` is over.

    Then wait for the other side's end: who closes with something unread resets the connection,
    and what was not read on the other side is lost.
    """
    heard = b""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as made:
        made.settimeout(wait)
        try:
            for piece in pieces:
                made.sendall(piece)
                try:
                    heard += made.recv(1 << 16)
                except TimeoutError:
                    pass
            made.shutdown(socket.SHUT_WR)
            while more := made.recv(1 << 16):
                heard += more
        except OSError:
            pass
    return heard
