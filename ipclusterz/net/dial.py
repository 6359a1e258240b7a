"""A dial: the connecting side of one channel; see :mod:`ipclusterz.net.door`.

Each attempt is a new socket with ZeroMQ's own reconnection switched off, watched by a
monitor.  Candidate addresses are tried in order, rounds are spaced by a growing, jittered
pause.  The link outlives connections; when the door does not know it any more, ``on_renewed``
is called and the layers above tell each other what they know.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgspec
import zmq

from ipclusterz.core.link import Data, Link, LinkError, Packet
from ipclusterz.core.message import UNDECODABLE, Channel, Load
from ipclusterz.net import lines, sockets
from ipclusterz.net.door import ACK_SECONDS, DATA, HELLO, LOADED, WELCOME, Greeting, Welcome
from ipclusterz.net.loop import Loop, Timer, ZSocket
from ipclusterz.net.seal import (
    GREETING,
    NONCE_BYTES,
    TO_PEER,
    TO_SERVER,
    Opener,
    Sealer,
    SealError,
    connection_key,
)

ATTEMPT_SECONDS = 10.0
FIRST_SECONDS = 2.0
"""How long another host may be silent in the first round when there are others to try."""

_NEAR = (lines.SCHEME, "ipc:", "tcp://127.", "tcp://[::1]")

PROMPT = frozenset((int(Channel.QUERY),))
"""Channels on which each message is acknowledged at once: few, and the controller waits for
the last acknowledgement before it ends."""

REFUSALS = 3
"""Rounds of refused passwords after which a peer takes it that it is not known any more."""

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 3.0

_encode = msgspec.msgpack.Encoder().encode
_welcome = msgspec.msgpack.Decoder(Welcome).decode


def jitter() -> float:
    """Return a random factor between 0.75 and 1.25, so that peers do not return in step."""
    return 0.75 + os.urandom(1)[0] / 510


def patience(turn: int, addresses: list[str]) -> float:
    """Return how long an attempt may take: a silent host must not hide a good address.

    On this host what is silent is busy, and the last address of the first round may be of a
    busy controller; both are given the time, as all are in later rounds.
    """
    if turn >= len(addresses) - 1 or addresses[turn].startswith(_NEAR):
        return ATTEMPT_SECONDS
    return FIRST_SECONDS


class Identity:
    """What the hub gave a peer: its id, session key and gate password."""

    __slots__ = ("password", "peer", "session")

    def __init__(self, peer: bytes, session: bytes, password: bytes) -> None:
        self.peer = peer
        self.session = session
        self.password = password


class Wire:
    """One attempt over ZeroMQ: a socket and its monitor, gone together."""

    __slots__ = ("monitor", "ours", "socket", "timer")

    def __init__(
        self,
        loop: Loop,
        socket: zmq.Socket[bytes],
        address: str,
        on_frames: Callable[[Wire, list[Any]], None],
        on_event: Callable[[Wire, int], None],
    ) -> None:
        self.ours = os.urandom(NONCE_BYTES)
        self.timer: Timer | None = None
        monitor = sockets.monitored(socket)
        self.monitor = ZSocket(loop, monitor, lambda f: on_event(self, sockets.event_of(f)))
        self.socket = ZSocket(loop, socket, lambda f: on_frames(self, f))
        sockets.connect(socket, address)

    def begin(self, frame: bytes) -> None:
        """Say the first thing; see :func:`_begin`."""
        _begin(self.socket, frame)

    def close(self, linger: int = 0) -> None:
        """Let go of the connection."""
        if self.timer is not None:
            self.timer.cancel()
        if not self.socket.closed:
            self.socket.socket.disable_monitor()
            self.monitor.close()
            self.socket.close(linger)


class _Flush:
    """Has the dials of a loop send what is queued; none is called in vain, turn after turn."""

    def __init__(self) -> None:
        self.dials: tuple[Dial, ...] = ()

    def __call__(self) -> None:
        for dial in self.dials:
            link = dial.link
            if link.queue or link.loads:
                dial.flush()


def _hook_of(loop: Loop) -> _Flush:
    for hook in loop.flush:
        if isinstance(hook, _Flush):
            return hook
    made = _Flush()
    loop.flush.append(made)
    return made


class LineWire:
    """One attempt over a line (:mod:`ipclusterz.net.lines`); OSError where nobody listens."""

    __slots__ = ("ours", "socket", "timer")

    def __init__(
        self,
        loop: Loop,
        address: str,
        on_frames: Callable[[LineWire, list[Any]], None],
        on_end: Callable[[LineWire, str], None],
    ) -> None:
        self.ours = os.urandom(NONCE_BYTES)
        self.timer: Timer | None = None
        self.socket = lines.dial(loop, address, on_frames, on_end, self)

    def begin(self, frame: bytes) -> None:
        """Say the first thing; see :func:`_begin`."""
        _begin(self.socket, frame)

    def close(self, linger: int = 0) -> None:
        """Let go of the connection."""
        if self.timer is not None:
            self.timer.cancel()
        self.socket.close(linger)


def _begin(socket: ZSocket | lines.Line, frame: bytes) -> None:
    """Send the first frame of a connection.

    It may break before that; its monitor, or the line's end, then tells how, and alone does.
    """
    try:
        socket.send_one(frame)
    except zmq.ZMQError:
        pass


class Dial:
    """Keeps one channel connected.

    ``on_messages(messages)`` gets what the door's side says; ``on_state(problem)`` is called
    with '' when the channel is up and with the reason when it is not; ``on_unknown()`` when
    the door does not know us (register again, then :meth:`identify`).
    """

    def __init__(
        self,
        loop: Loop,
        context: zmq.Context[zmq.Socket[bytes]],
        channel: int,
        accepts: Any,
        on_messages: Callable[[list[Any]], None],
        *,
        on_state: Callable[[str], None],
        on_renewed: Callable[[], None] | None = None,
        on_unknown: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._context = context
        self.channel = int(channel)
        self._on_messages = on_messages
        self._on_state = on_state
        self._on_renewed = on_renewed
        self._on_unknown = on_unknown
        self.link = Link(accepts)
        self.up = False
        self.address = ""
        self.problem = "not connected yet"
        self._link_id = b""
        self._identity: Identity | None = None
        self._addresses: list[str] = []
        self._turn = 0
        self._patience = ATTEMPT_SECONDS
        self._refusals = 0
        self._pause = FIRST_PAUSE
        self._wire: Wire | LineWire | None = None
        self._retry: Timer | None = None
        self._opener: Opener | None = None
        self._sealer: Sealer | None = None
        self._ack_due = False
        self._closed = False
        self._hook = _hook_of(loop)
        self._hook.dials = (*self._hook.dials, self)

    @property
    def owing(self) -> bool:
        """Whether the other side is there and has not acknowledged all that it was sent."""
        return self.up and bool(self.link.waiting or self.link.unacknowledged)

    # -- going up --------------------------------------------------------------------------

    def identify(self, identity: Identity, addresses: list[str]) -> None:
        """(Re)connect as this peer to the first address that works.

        A connection that is up and of the same identity stays as it is.
        """
        known = self._identity
        if self.up and known is not None and known.session == identity.session:
            self._addresses = addresses
            return
        if known is not None and known.peer != identity.peer:
            self._link_id = b""
            self.link.reset()
        self._identity = identity
        self._addresses = addresses
        self._turn = 0
        self._pause = FIRST_PAUSE
        self._connect()

    def hurry(self) -> None:
        """End a pause between attempts: the controller has been seen."""
        if self._retry is not None:
            self._pause = FIRST_PAUSE
            self._connect()

    def _connect(self) -> None:
        self._hang_up()
        identity = self._identity
        if identity is None or self._closed or not self._addresses:
            return
        self.address = self._addresses[self._turn % len(self._addresses)]
        try:
            if self.address.startswith(lines.SCHEME):
                wire: Wire | LineWire = LineWire(
                    self._loop, self.address, self._frames, self._ended
                )
            else:
                wire = self._zeromq(identity)
        except (zmq.ZMQError, OSError) as error:
            self._failed(str(error))
            return
        self._wire = wire
        self._patience = patience(self._turn, self._addresses)
        wire.timer = self._loop.after(self._patience, self._too_long)
        head = HELLO + identity.peer + wire.ours
        key = connection_key(identity.session, self.channel, GREETING, wire.ours)
        greeting = _encode(Greeting(self._link_id, self.link.received))
        wire.begin(head + Sealer(key).seal(greeting, head))

    def _zeromq(self, identity: Identity) -> Wire:
        socket = sockets.dealer(self._context)
        socket.setsockopt(zmq.PLAIN_USERNAME, identity.peer.hex().encode())
        socket.setsockopt(zmq.PLAIN_PASSWORD, identity.password)
        try:
            return Wire(self._loop, socket, self.address, self._frames, self._event)
        except zmq.ZMQError:
            socket.close(0)
            raise

    def _too_long(self) -> None:
        self._failed(f"no answer within {self._patience:.0f} s")

    def _event(self, wire: Wire, event: int) -> None:
        if wire is self._wire:
            failure = sockets.FAILURES.get(event)
            if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._refused(failure or "")
            elif failure is not None:
                self._failed(failure)

    def _ended(self, wire: LineWire, why: str) -> None:
        if wire is self._wire:
            self._failed(why)

    def _refused(self, problem: str, rounds: int = 1) -> None:
        """The gate does not let us in: it is new and has not been told of us, or we are out."""
        self._refusals += rounds
        if self._refusals < REFUSALS * len(self._addresses):
            self._failed(problem)
        else:
            self._unknown(problem)

    def _unknown(self, problem: str) -> None:
        self._refusals = 0
        self._failed(problem)
        if self._on_unknown is not None and not self._closed:
            self._on_unknown()

    def _failed(self, problem: str) -> None:
        """This attempt is over; the next address at once, the next round after a pause."""
        self._hang_up()
        if self._closed:
            return
        was_up, self.up = self.up, False
        self.problem = f"{self.address}: {problem}"
        self._turn += 1
        if was_up:
            self._turn = 0
            self._pause = FIRST_PAUSE
        pause = 0.0
        if self._turn % max(len(self._addresses), 1) == 0:
            pause = self._pause * jitter()
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
        self._retry = self._loop.after(pause, self._connect)
        self._on_state(self.problem)

    def _hang_up(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        self._opener = self._sealer = None

    # -- receiving -------------------------------------------------------------------------

    def _frames(self, wire: Wire | LineWire, frames: list[Any]) -> None:
        if wire is not self._wire or not frames[0]:
            return
        if len(frames) == 2 and self._opener is not None:  # LOADED
            self._data(*frames)
            return
        frame = frames[0]
        kind = frame[0]
        if kind == 68 and self._opener is not None:  # DATA
            self._data(frame)
        elif kind == 87 and self._opener is None:  # WELCOME
            self._welcome(wire, frame)
        elif kind == 85:  # UNKNOWN
            if self._opener is None and type(wire) is LineWire:
                # No gate is in front of lines.  The same place again, after a pause.
                self._turn = -1
                self._refused("the controller does not know us (yet)", len(self._addresses))
            else:
                self._unknown("the controller does not know us (any more)")
        elif kind == 66:  # BROKEN
            self._failed("what was sent was changed or dropped on the way")

    def _welcome(self, wire: Wire | LineWire, frame: bytes) -> None:
        head = 1 + NONCE_BYTES
        theirs = frame[1:head]
        identity = self._identity
        assert identity is not None
        session, channel = identity.session, self.channel
        opener = Opener(connection_key(session, channel, TO_PEER, wire.ours, theirs))
        try:
            welcome = _welcome(opener.open(frame[head:], WELCOME + theirs))
        except (SealError, *UNDECODABLE):
            self._failed("something that is not our controller answered")
            return
        self._opener = opener
        self._sealer = Sealer(connection_key(session, channel, TO_SERVER, wire.ours, theirs))
        if wire.timer is not None:
            wire.timer.cancel()
        self._arrive(welcome)

    def _arrive(self, welcome: Welcome) -> None:
        """The channel is up: go on where the link was, or begin a new one."""
        again: list[Packet] = []
        renewed = not welcome.resumed
        if welcome.resumed:
            try:
                again = self.link.resume(welcome.received)
            except LinkError as error:
                self._link_id = b""
                self.link.reset()
                self._failed(str(error))
                return
        else:
            if self._link_id:
                # Work is said again by those who keep it; output only lies in the link.
                self.link.reset(unsent=self.channel == Channel.IOPUB)
            self._link_id = welcome.link
        self.up = True
        self.problem = ""
        self._refusals = 0
        self._pause = FIRST_PAUSE
        # The first sealed frame confirms the connection even when there is nothing to say.
        self._transmit(b"\0" * 8 + self.link.received.to_bytes(8, "little"))
        for packet, data in again:
            self._transmit(packet, data)
        if renewed and self._on_renewed is not None:
            self._on_renewed()
        self._on_state("")

    def _data(self, frame: bytes, data: Data | None = None) -> None:
        assert self._opener is not None
        try:
            kind = DATA if data is None else LOADED
            packet = self._opener.open(memoryview(frame)[1:], kind)
            messages = self.link.feed(packet, data)
        except (SealError, LinkError) as error:
            self._failed(str(error))
            return
        if messages:
            self._on_messages(messages)
            due = self.link.acknowledgement(force=self.channel in PROMPT)
            if due is not None:
                self._transmit(due)
            elif not self._ack_due:
                self._ack_due = True
                self._loop.after(ACK_SECONDS, self._acknowledge)

    def _acknowledge(self) -> None:
        self._ack_due = False
        if self.up:
            packet = self.link.acknowledgement(force=True)
            if packet is not None:
                self._transmit(packet)

    # -- sending ---------------------------------------------------------------------------

    def send(self, message: Any) -> None:
        """Queue a message; it leaves at the end of this turn, or when the channel is up."""
        self.link.put(message)

    def say(self, message: Any) -> None:
        """Queue a message, or send a piece of a payload, at once: it is in the cache now."""
        if isinstance(message, Load):
            self.link.load(message)
            self.flush()
        else:
            self.link.put(message)

    def flush(self) -> None:
        """Send what is queued, if the channel is up."""
        link = self.link
        if not self.up:
            return
        if not link.loads:
            for packet in link.take():
                self._transmit(packet)
                if not self.up:
                    break
            return
        for packet, data in link.leaving():
            self._transmit(packet, data)
            if not self.up:
                break

    def _transmit(self, packet: bytes, data: Data | None = None) -> None:
        wire, sealer = self._wire, self._sealer
        if wire is None or sealer is None:
            return
        try:
            if data is None:
                wire.socket.send_one(DATA + sealer.seal(packet, DATA))
            else:
                wire.socket.send([LOADED + sealer.seal(packet, LOADED), data])
        except zmq.ZMQError as error:
            self._failed(str(error))

    def close(self, linger: int = 200) -> None:
        """Send what is queued and let go."""
        if self._closed:
            return
        self.flush()
        self._closed = True
        self.up = False
        if self._retry is not None:
            self._retry.cancel()
        if self._wire is not None:
            self._wire.close(linger)
            self._wire = None
        self._hook.dials = tuple(dial for dial in self._hook.dials if dial is not self)
