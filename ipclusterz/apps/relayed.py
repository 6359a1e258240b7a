"""A keeper's end of the socket that relays connect to, and what it asks of processes.

See :mod:`ipclusterz.apps.keeper`.  Imports little, like it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from typing import Any

_LINE_LIMIT = 1 << 22
_SEND_SECONDS = 5.0


class Client:
    """A relay at the keeper's socket."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.fd = channel.fileno()
        channel.settimeout(_SEND_SECONDS)
        self._rest = b""

    def lines(self) -> list[bytes] | None:
        """Return the lines that have come; None at the end."""
        try:
            data = self.channel.recv(65536)
        except OSError:
            return None
        if not data or len(self._rest) > _LINE_LIMIT:
            return None
        *found, self._rest = (self._rest + data).split(b"\n")
        return found

    def say(self, event: dict[str, Any]) -> None:
        """Tell it something that is not kept."""
        self.send(json.dumps(event).encode() + b"\n")

    def send(self, data: bytes) -> None:
        """Send a line; one who is gone, or does not read, is told again when it is back."""
        try:
            self.channel.sendall(data)
        except OSError:
            try:
                self.channel.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self) -> None:
        """End the SSH server's process behind it, which may not know yet that nobody is there.

        It holds the sockets of the old connection open, and whoever uses them would wait.
        """
        import struct

        if not hasattr(socket, "SO_PEERCRED"):
            return
        facts = self.channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        relay_pid = struct.unpack("3i", facts)[0]
        parent = parent_of(relay_pid)
        try:
            with open(f"/proc/{parent}/comm") as file:
                if file.read().startswith("sshd"):
                    os.kill(parent, signal.SIGTERM)
        except OSError:
            pass


def start_of(pid: int) -> int:
    """Return when a process started, as the system counts; 0 if it is not there."""
    return int(_stat(pid)[19]) if _stat(pid) else 0


def parent_of(pid: int) -> int:
    """Return the parent of a process, or -1."""
    return int(_stat(pid)[1]) if _stat(pid) else -1


def _stat(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []
