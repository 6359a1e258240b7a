"""How ZeroMQ sockets are made here, and why each option is set.

Reconnection is ours (see :mod:`ipclusterz.net.dial`): after one refused handshake, or a
foreign program on the port for a moment, a libzmq socket never reconnects, and a connection
cut in mid-stream loses messages and tells no one.
"""

from __future__ import annotations

import os
import socket as socketlib
import struct
from typing import Any

import zmq

DOMAIN = b"ipclusterz"
"""ZAP domain: must be set, because libzmq aborts the process when it enforces none."""

MAX_FRAME = 8 * 1024 * 1024
RECEIVE_MESSAGES = 20_000
"""Above any honest credit; without a bound strangers' garbage filled memory."""

SOCKETS = 4096
"""Of one context.  Any number of peers come to one listening socket; who connects has seven,
besides those that are being closed."""

HANDSHAKE_MS = 5_000
BACKLOG = 4096
HEARTBEAT_MS = 15_000
HEARTBEAT_TIMEOUT_MS = 60_000
"""A busy loop must not look dead to libzmq; liveness is judged by the hub."""

_EVENT = struct.Struct("=Hi")

MONITORED = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CLOSED
)

FAILURES: dict[int, str] = {
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "the handshake failed",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "something else listens there",
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "the key or password was refused",
    int(zmq.EVENT_DISCONNECTED): "the connection was closed",
    int(zmq.EVENT_CLOSED): "the connection was refused",
}


def context() -> zmq.Context[zmq.Socket[bytes]]:
    """Make a context; its first socket costs :data:`SOCKETS` times 12 bytes."""
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made.set(zmq.MAX_SOCKETS, SOCKETS)
    made.set(zmq.IPV6, 0)
    return made


def _common(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, RECEIVE_MESSAGES)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 60)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)


def router(made: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    """Make a listening socket that says when a peer cannot be reached."""
    socket = made.socket(zmq.ROUTER)
    _common(socket)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.BACKLOG, BACKLOG)
    socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    return socket


def gated(socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
    """Put the password gate in front of a listening socket."""
    socket.setsockopt(zmq.PLAIN_SERVER, 1)
    return socket


def curved(socket: zmq.Socket[bytes], secret: bytes) -> zmq.Socket[bytes]:
    """Make a listening socket speak CURVE with this secret."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
    return socket


def bind(socket: zmq.Socket[bytes], fd: int, address: str) -> None:
    """Listen on a descriptor that listens already.

    The supervisor makes and keeps the listening descriptors, so that a scheduler that was
    restarted has the same port, and connections made meanwhile wait in the backlog.
    """
    socket.setsockopt(zmq.USE_FD, fd)
    socket.setsockopt(zmq.IPV6, "[" in address)
    socket.bind(address)


def dealer(made: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    """Make a connecting socket that never reconnects by itself."""
    socket = made.socket(zmq.DEALER)
    _common(socket)
    socket.setsockopt(zmq.RECONNECT_IVL, -1)
    return socket


def connect(socket: zmq.Socket[bytes], address: str) -> None:
    """Connect to an address; names lead to IPv4, only a literal to IPv6."""
    if "[" in address:
        socket.setsockopt(zmq.IPV6, 1)
    socket.connect(address)


def ends_of(frame: Any) -> tuple[str, str]:
    """Return where a message comes from and the address of ours it came to; '' over ipc.

    ``frame`` was received with ``copy=False``.
    """
    try:
        there = str(frame.get("Peer-Address"))
        with socketlib.socket(fileno=os.dup(frame.get(zmq.SRCFD))) as connection:
            if connection.family not in (socketlib.AF_INET, socketlib.AF_INET6):
                return "", ""
            return there.partition("%")[0], str(connection.getsockname()[0]).partition("%")[0]
    except (OSError, zmq.ZMQError):
        return "?", ""  # it has gone, or no descriptor is left: not to be trusted


def monitored(socket: zmq.Socket[bytes]) -> zmq.Socket[Any]:
    """Return the socket on which events of ``socket`` arrive."""
    return socket.get_monitor_socket(MONITORED)


def event_of(frames: list[bytes]) -> int:
    """Return the kind of a monitor's event."""
    return int(_EVENT.unpack(frames[0])[0])
