"""A test of the gate by the controller itself: every door must refuse a wrong key.

That doors refuse strangers rests on options of the ZeroMQ library that are easily without
effect (a missing domain, a handler that came too late).  So the hub knocks once at each of
the seven doors, with a key or password of its own making, and expects to be refused.  Runs
in the hub's loop beside everything else; costs seven handshakes.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import zmq
from zmq.utils import z85

from ipclusterz.core.config import CHANNEL_NAMES
from ipclusterz.core.message import Channel
from ipclusterz.net import sockets
from ipclusterz.net.dial import Wire
from ipclusterz.net.gate import SELF_TEST, Gate
from ipclusterz.net.loop import Loop

SECONDS = 10.0


class SelfTest:
    """Knocks at ``addresses``, one per channel; ``on_open(name)`` is told of an open door.

    ``on_done(answered)`` is called once, with the number of doors that refused, when all
    did or the time is over.
    """

    def __init__(
        self,
        loop: Loop,
        context: zmq.Context[zmq.Socket[bytes]],
        gate: Gate,
        server_key: bytes,
        addresses: list[str],
        on_open: Callable[[str], None],
        on_done: Callable[[int], None],
    ) -> None:
        self._on_open = on_open
        self._on_done = on_done
        self._refused = 0
        self._over = False
        self._wires: dict[Wire, int] = {}
        public, secret = zmq.curve_keypair()
        gate.expected.add(z85.decode(public))
        for channel, address in enumerate(addresses):
            socket = sockets.dealer(context)
            if channel == Channel.REGISTRATION:
                socket.setsockopt(zmq.CURVE_SERVERKEY, server_key)
                socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
                socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
            else:
                socket.setsockopt(zmq.PLAIN_USERNAME, SELF_TEST[channel])
                socket.setsockopt(zmq.PLAIN_PASSWORD, os.urandom(16).hex().encode())
            wire = Wire(loop, socket, address, lambda wire, frames: None, self._event)
            self._wires[wire] = channel
        loop.after(SECONDS, self.close)

    def _event(self, wire: Wire, event: int) -> None:
        channel = self._wires.get(wire)
        if channel is None:
            return
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._on_open(CHANNEL_NAMES[channel])
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._refused += 1
        del self._wires[wire]
        wire.close()
        if not self._wires:
            self.close()

    def close(self) -> None:
        """End the test, whatever has answered by now."""
        if not self._over:
            self.cancel()
            self._on_done(self._refused)

    def cancel(self) -> None:
        """Let go of all sockets and tell nothing."""
        self._over = True
        for wire in self._wires:
            wire.close()
        self._wires.clear()
