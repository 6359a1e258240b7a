"""The floor of a round trip: three processes and nothing but ZeroMQ in Python.

    client  DEALER ──> ROUTER  broker  ROUTER <── DEALER  worker

The same number of hops as a task's way to an engine, one small message at a time, neither
sealed nor packed nor looked into.  The client drives the other two, which are this same
program with other arguments.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile

import zmq

from benchmarks.peers.loops import time_trips
from benchmarks.protocol import serve

PAYLOAD = b"x" * 100
"""About what a packed no-op task takes."""

LOOK_ROUND = 1000
"""Milliseconds after which broker and worker look whether the client still lives."""


class Echo:
    """The client's end.  ``transport`` is ``ipc`` or ``tcp``."""

    def __init__(self, transport: str) -> None:
        self._transport = transport
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._children: list[subprocess.Popen[bytes]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="bench-echo-")

    def start(self, n: int) -> None:
        """Start broker and worker; one worker whatever ``n`` says: one task is under way."""
        front, back = (self._free_address(name) for name in ("front", "back"))
        for role in ("broker", "worker"):
            argv = [sys.executable, "-m", "benchmarks.peers.echo", role, front, back]
            self._children.append(subprocess.Popen(argv))
        self._socket.linger = 0
        self._socket.rcvtimeo = 20_000
        self._socket.connect(front)
        self._trip()

    def direct(self, seconds: float) -> list[float]:
        return time_trips(self._trip, seconds)

    # The floor is the same for all three; measured anew for each, next to the peers'.
    balanced = apply = direct

    def versions(self) -> dict[str, str]:
        return {
            "pyzmq": zmq.pyzmq_version(),
            "libzmq": zmq.zmq_version(),
            "python": platform.python_version(),
        }

    def stop(self) -> None:
        for child in self._children:
            child.terminate()
        for child in self._children:
            child.wait()
        self._children.clear()
        self._context.destroy(linger=0)
        self._folder.cleanup()

    def _trip(self) -> None:
        self._socket.send(PAYLOAD)
        self._socket.recv()

    def _free_address(self, name: str) -> str:
        if self._transport == "ipc":
            return f"ipc://{self._folder.name}/{name}"
        probe = self._context.socket(zmq.ROUTER)
        port = probe.bind_to_random_port("tcp://127.0.0.1")
        probe.close(linger=0)
        return f"tcp://127.0.0.1:{port}"


def broker(front_address: str, back_address: str) -> None:
    """Pass each message of a client to the worker, and each answer back, while one lives."""
    context = zmq.Context()
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
    front.bind(front_address)
    back.bind(back_address)
    parent = os.getppid()
    back.rcvtimeo = 20_000
    worker, _hello = back.recv_multipart()
    poller = zmq.Poller()
    poller.register(front, zmq.POLLIN)
    poller.register(back, zmq.POLLIN)
    while os.getppid() == parent:
        for socket, _ in poller.poll(LOOK_ROUND):
            if socket is front:
                back.send_multipart([worker, *front.recv_multipart()])
            else:
                front.send_multipart(back.recv_multipart()[1:])
    context.destroy(linger=0)


def worker(_front_address: str, back_address: str) -> None:
    """Say hello to the broker, then send back whatever comes, while the client lives."""
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.rcvtimeo = LOOK_ROUND
    socket.connect(back_address)
    socket.send(b"hello")
    parent = os.getppid()
    while os.getppid() == parent:
        try:
            socket.send_multipart(socket.recv_multipart())
        except zmq.Again:
            continue
    context.destroy(linger=0)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["broker", front, back]:
            broker(front, back)
        case ["worker", front, back]:
            worker(front, back)
        case [("ipc" | "tcp") as transport]:
            serve(Echo(transport))
        case _:
            sys.exit("usage: python -m benchmarks.peers.echo ipc|tcp")
