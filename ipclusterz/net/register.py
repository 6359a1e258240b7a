"""Registration from the peer's side: a CURVE connection to the hub, kept for as long as it
takes.

The hub's public key and the role's secret come from the connector file.  Whoever answers
must own the hub's secret key, and admits only holders of a role's; the answer brings the
session key, the gate password and the doors.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgspec
import zmq

from ipclusterz.core import message as m
from ipclusterz.core.connector import Connector
from ipclusterz.net import sockets
from ipclusterz.net.dial import (
    ATTEMPT_SECONDS,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    Wire,
    jitter,
    patience,
)
from ipclusterz.net.loop import Loop, Timer, monotonic
from ipclusterz.net.route import DENIED, DOWN, REFUSED

_decode = msgspec.msgpack.Decoder(m.ToRegistration).decode

FOREIGN = 3
"""Handshakes in a row that failed quickly and without a word: not our controller.

That is what a server with another key looks like; one might be a controller that ends.
"""

QUICK_SECONDS = 2.0
"""Later than that a handshake may have failed because the controller was too busy for it."""

_ELSE = "something else listens there, which has not the controller's key"

_WORDLESS = (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)


class Registrar:
    """Registers a peer and stays registered.

    ``make()`` returns the Register message of the moment; ``on_message`` gets the hub's
    answers; ``on_state(kind, text)`` is told '' when connected and one of ``DOWN``,
    ``REFUSED`` and ``DENIED`` (see :mod:`ipclusterz.net.route`) when not.
    """

    def __init__(
        self,
        loop: Loop,
        context: zmq.Context[zmq.Socket[bytes]],
        connector: Connector,
        addresses: list[str],
        make: Callable[[], m.Register],
        on_message: Callable[[Any], None],
        on_state: Callable[[str, str], None],
    ) -> None:
        self._loop = loop
        self._context = context
        self._connector = connector
        self._addresses = addresses
        self._make = make
        self._on_message = on_message
        self._on_state = on_state
        self._public = zmq.curve_public(connector.exec_key.encode())
        self._turn = 0
        self._attempts = 0
        self._refusals = 0
        self._foreign = 0
        self._began = 0.0
        self._patience = ATTEMPT_SECONDS
        self._problems: dict[str, str] = {}  # address -> why it failed last
        self._pause = FIRST_PAUSE
        self._wire: Wire | None = None
        self._retry: Timer | None = None
        self._closed = False
        self.address = ""
        self.up = False

    @property
    def all_tried(self) -> bool:
        """Whether the last address of a round has just failed."""
        return self._turn % len(self._addresses) == 0

    def start(self) -> None:
        """Connect (again)."""
        self._hang_up()
        if self._closed:
            return
        self.address = self._addresses[self._turn % len(self._addresses)]
        self._began = monotonic()
        if self.address.startswith("ipc://") and not os.path.exists(self.address[6:]):
            self._failed("the socket does not exist", int(zmq.EVENT_CLOSED))
            return
        socket = sockets.dealer(self._context)
        socket.setsockopt(zmq.CURVE_SERVERKEY, self._connector.server_key.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._connector.exec_key.encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._public)
        try:
            self._wire = Wire(self._loop, socket, self.address, self._frames, self._event)
        except zmq.ZMQError as error:
            socket.close(0)
            self._failed(str(error), 0)
            return
        self._patience = patience(self._turn, self._addresses)
        self._wire.timer = self._loop.after(self._patience, self._too_long)
        self._attempts += 1
        message = self._make()
        message.turn = self._attempts
        self._wire.begin(m.encode(message))

    @property
    def foreign(self) -> bool:
        """Whether what listens there is not our controller, as far as can be told."""
        return self._foreign >= FOREIGN

    @property
    def tried(self) -> str:
        """The addresses that failed, each with its cause."""
        told = dict(self._problems)
        if not self.up and self.address:
            told.setdefault(self.address, "no answer yet")
        return "; ".join(f"{address}: {problem}" for address, problem in told.items())

    def rekey(self, secret: bytes) -> None:
        """Register with another secret from now on: the role's key was renewed."""
        self._connector = msgspec.structs.replace(self._connector, exec_key=secret.decode())
        self._public = zmq.curve_public(secret)

    def heartbeat(self, messages: list[Any]) -> None:
        """Hear what the hub says on the heartbeat's link, which outlives connections."""
        for message in messages:
            if isinstance(message, m.Rekey):
                self.rekey(message.secret)
            elif isinstance(message, m.Shutdown):
                self._on_message(message)

    def hurry(self) -> None:
        """End a pause between attempts: the controller has been seen."""
        if self._retry is not None:
            self._pause = FIRST_PAUSE
            self.start()

    def renew(self) -> None:
        """Register again, because a door did not know us; once, however many doors say so."""
        if self.up:
            self.up = False
            self.start()

    def _too_long(self) -> None:
        if not self.up:
            self._failed(f"no answer within {self._patience:.0f} s", 0)

    def _event(self, wire: Wire, event: int) -> None:
        if wire is not self._wire:
            return
        failure = sockets.FAILURES.get(event)
        if failure is not None:
            self._failed(failure, event)

    def _failed(self, problem: str, event: int) -> None:
        self._hang_up()
        self.up = False
        if self._closed:
            return
        self._turn += 1
        if event == zmq.EVENT_CLOSED:
            self._refusals += 1
        kind = DOWN
        if event in _WORDLESS and monotonic() - self._began < QUICK_SECONDS:
            self._foreign += 1
            if self.foreign:
                problem = _ELSE
        elif event != zmq.EVENT_CLOSED:
            self._foreign = 0
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH or self.foreign:
            kind = DENIED
        text = f"{self.address}: {problem}"
        self._problems[self.address] = problem
        pause = 0.0
        if self._turn % len(self._addresses) == 0:
            if self._refusals >= len(self._addresses):
                kind = REFUSED
            self._refusals = 0
            pause = self._pause * jitter()
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
        self._retry = self._loop.after(pause, self.start)
        self._on_state(kind, text)

    def _frames(self, wire: Wire, frames: list[bytes]) -> None:
        if wire is not self._wire or len(frames) != 1:
            return
        try:
            message = _decode(frames[0])
        except m.UNDECODABLE as error:
            self._failed(f"the hub said something that makes no sense: {error}", 0)
            return
        if isinstance(message, m.Registered):
            self.up = True
            # The address that works is the first one when the connection is lost.
            self._addresses = [
                self.address,
                *(a for a in self._addresses if a != self.address),
            ]
            self._problems.clear()
            self._turn = 0
            self._refusals = 0
            self._foreign = 0
            self._pause = FIRST_PAUSE
            if wire.timer is not None:
                wire.timer.cancel()
            self._on_state("", "")
        self._on_message(message)

    def send(self, message: Any) -> bool:
        """Send to the hub; False when there is no connection (say it again later)."""
        if self._wire is None or not self.up:
            return False
        try:
            self._wire.socket.send([m.encode(message)])
        except zmq.ZMQError:
            return False
        return True

    def _hang_up(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def close(self, linger: int = 200) -> None:
        """Leave."""
        self._closed = True
        if self._retry is not None:
            self._retry.cancel()
        if self._wire is not None:
            self._wire.close(linger)
            self._wire = None
