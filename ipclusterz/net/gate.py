"""The gate: who may finish a handshake at all (ZAP, ZeroMQ RFC 27).

On registration sockets a peer proves one of the two role keys (CURVE); the role travels as
the connection's user id.  On the others it shows the password minted for it (PLAIN): a gate,
not the lock, because whoever squats on a port could read that password and would gain only
a handshake with it.  The lock is the sealing of every message.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq

from ipclusterz.core.alike import alike
from ipclusterz.core.message import CHANNELS
from ipclusterz.net.loop import Loop, ZSocket
from ipclusterz.net.memory import Tidy

ENDPOINT = "inproc://zeromq.zap.01"
SELF_TEST: tuple[bytes, ...] = tuple(b"self-test %d" % channel for channel in CHANNELS)
"""The names with which the controller itself knocks once at each door, with a wrong password.

No peer has one: their names are hexadecimal.
"""


class Gate:
    """The ZAP handler of one ZeroMQ context; must exist before anything is bound."""

    def __init__(self, loop: Loop, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.passwords: dict[bytes, bytes] = {}  # peer id in hexadecimal -> password
        self.roles: dict[bytes, bytes] = {}  # CURVE public key, 32 bytes -> role's name
        self.expected = set(SELF_TEST)  # wrong names and keys that are refused once uncounted
        self.refused = 0
        self.on_refused: Callable[[str, str], None] | None = None  # address, mechanism
        socket = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(ENDPOINT)
        self._socket = ZSocket(loop, socket, self._request)
        self._tidy = Tidy(loop)  # what the refused have cost is not kept

    def admit(self, peer: bytes, password: bytes) -> None:
        """Let a peer through from now on."""
        self.passwords[peer.hex().encode()] = password

    def expel(self, peer: bytes) -> None:
        """Let a peer through no longer."""
        self.passwords.pop(peer.hex().encode(), None)

    def _request(self, frames: list[bytes]) -> None:
        # identity, empty, version, request id, domain, address, routing id, mechanism, ...
        if len(frames) < 8:
            return
        sender, request, address, mechanism = frames[0], frames[3], frames[5], frames[7]
        user = self._judge(mechanism, frames[8:])
        if user is None:
            status, text = b"400", b"not admitted"
            shown = frames[8] if len(frames) > 8 else b""
            if shown in self.expected:
                self.expected.remove(shown)
            else:
                self._count(address, mechanism)
        else:
            status, text = b"200", b"OK"
        reply = [sender, b"", b"1.0", request, status, text, user or b"", b""]
        try:
            self._socket.send(reply)
        except zmq.ZMQError:
            pass  # the asking session is gone; nobody needs the answer

    def _count(self, address: bytes, mechanism: bytes) -> None:
        self.refused += 1
        if self.on_refused is not None:
            where = address.decode("ascii", "replace")
            self.on_refused(where, mechanism.decode("ascii", "replace"))

    def _judge(self, mechanism: bytes, credentials: list[bytes]) -> bytes | None:
        """Return the user id, or None to refuse."""
        if mechanism == b"CURVE" and len(credentials) == 1:
            return self.roles.get(credentials[0])
        if mechanism == b"PLAIN" and len(credentials) == 2:
            name, shown = credentials
            known = self.passwords.get(name)
            if known is not None and alike(known, shown):
                return name
        return None

    def close(self) -> None:
        """Stop answering."""
        self._tidy.close()
        self._socket.close()
