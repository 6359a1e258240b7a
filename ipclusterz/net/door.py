"""A door: the listening side of one channel, with a sealed link to each admitted peer.

::

    peer                                   door
     | -- H id nonce sealed(Greeting) -->   |   opens with the session key, or nothing happens
     | <-- W nonce sealed(Welcome) -------  |
     | -- D sealed packet -------------->   |   only now does this connection replace the old
     | <-- D sealed packet --------------   |
     | <-> L sealed packet, sealed piece -> |   of a large payload, which is not opened here
     | <-- U ----------------------------   |   no such peer (any more); register again
     | <-- B ----------------------------   |   broken on the way: connect again and go on

A recorded H that is played again costs the door one answer and changes nothing, because the
first D must be sealed with a key that has the door's own fresh number in it.

Frames of one connection carry the channel's packets (:mod:`ipclusterz.core.link`); what a
peer may say on this channel is a type, so anything else does not decode.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgspec
import zmq

from ipclusterz.core.link import Data, GapError, Link, LinkError
from ipclusterz.core.message import UNDECODABLE, Load
from ipclusterz.net import memory
from ipclusterz.net.lines import Line, Lines
from ipclusterz.net.loop import BESIDE, Loop, ZSocket
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

HELLO = b"H"
WELCOME = b"W"
DATA = b"D"
LOADED = BESIDE
UNKNOWN = b"U"
BROKEN = b"B"

MAX_GREETING = 512
ACK_SECONDS = 0.25
"""How long an acknowledgement may wait for something to ride on."""

MAX_PENDING = 4096
"""Connections that greeted and have not spoken yet; beyond it the oldest is forgotten."""

MAX_FORMER = 256
"""Connections of peers sent away, whose last frames are no reason for suspicion."""


class Greeting(msgspec.Struct, array_like=True):
    """What a peer knows of the link: the door's link id, and packets received on it."""

    link: bytes
    received: int


class Welcome(msgspec.Struct, array_like=True):
    """What the door knows: its link id, whether it goes on, and packets received on it."""

    link: bytes
    resumed: bool
    received: int


_encode = msgspec.msgpack.Encoder().encode
_greeting = msgspec.msgpack.Decoder(Greeting).decode


Sender = bytes | Line
"""Who said something: ZeroMQ's name of a connection, or a line of this host."""


class Connection:
    """One transport connection of a member; a later one has a higher ``number``."""

    __slots__ = (
        "confirmed",
        "fresh",
        "id",
        "link_id",
        "member",
        "number",
        "opener",
        "peer_received",
        "sealer",
    )

    def __init__(self, id: Sender, member: Member, opener: Opener, sealer: Sealer) -> None:
        self.id = id
        self.number = 0
        self.link_id = member.link_id
        self.member = member
        self.opener = opener
        self.sealer = sealer
        self.confirmed = False
        self.fresh = False
        self.peer_received = 0


class Member:
    """An admitted peer and the link to it, which outlives connections."""

    __slots__ = (
        "accepts",
        "connection",
        "dirty",
        "id",
        "latest",
        "link",
        "link_id",
        "session",
    )

    def __init__(self, id: bytes, session: bytes, accepts: Any) -> None:
        self.id = id
        self.session = session
        self.accepts = accepts
        self.link = Link(accepts)
        self.link_id = os.urandom(8)
        self.connection: Connection | None = None
        self.latest = 0  # number of the last connection that was confirmed
        self.dirty = False


class Door:
    """Listens on one channel: with a ZeroMQ socket, and for lines of this host at ``lines``.

    ``on_messages(peer, messages)`` is called for what admitted peers say and
    ``on_renewed(peer)`` when a peer's link starts from nothing.
    """

    def __init__(
        self,
        loop: Loop,
        channel: int,
        socket: zmq.Socket[bytes],
        on_messages: Callable[[bytes, list[Any]], None],
        on_renewed: Callable[[bytes], None] | None = None,
        log: Callable[[str], None] | None = None,
        lines: int = -1,
    ) -> None:
        self._loop = loop
        self._channel = int(channel)
        self._socket = ZSocket(loop, socket, self._frames)
        self._lines: Lines | None = None
        if lines >= 0:
            self._lines = Lines(loop, lines, self._said, self._left)
        self._on_messages = on_messages
        self._on_renewed = on_renewed
        self._log = log
        self.members: dict[bytes, Member] = {}
        self.rejected = 0
        self._connections: dict[Sender, Connection] = {}
        self._pending: dict[Sender, Connection] = {}
        self._greeted = 0
        self._former: dict[Sender, None] = {}  # connections of peers that were sent away
        self._told: dict[Sender, None] = {}  # connections that were told to go
        self._dirty: list[Member] = []
        self._owing: dict[bytes, Member] = {}
        self._ack_due = False
        loop.flush.append(self.flush)

    # -- members ---------------------------------------------------------------------------

    def admit(self, peer: bytes, session: bytes, accepts: Any) -> None:
        """Let a peer speak messages of the type ``accepts``; known peers stay as they are."""
        known = self.members.get(peer)
        if known is None or known.session != session:
            self.members[peer] = Member(peer, session, accepts)

    def expel(self, peer: bytes) -> None:
        """Forget a peer."""
        member = self.members.pop(peer, None)
        self._owing.pop(peer, None)
        if member is None:
            return
        former = [c.id for c in self._pending.values() if c.member is member]
        if member.connection is not None:
            former.append(member.connection.id)
        for connection in former:
            self._connections.pop(connection, None)
            self._pending.pop(connection, None)
            self._former[connection] = None
        while len(self._former) > MAX_FORMER:
            self._former.pop(next(iter(self._former)))

    def connected(self, peer: bytes) -> bool:
        """Return whether a peer has a live connection here."""
        member = self.members.get(peer)
        return member is not None and member.connection is not None

    def owing(self, peer: bytes) -> bool:
        """Return whether a connected peer has not acknowledged all that it was sent."""
        member = self.members.get(peer)
        if member is None or member.connection is None:
            return False
        return bool(member.link.waiting or member.link.unacknowledged)

    # -- sending ---------------------------------------------------------------------------

    def send(self, peer: bytes, message: Any) -> None:
        """Queue a message; it leaves at the end of this turn, or when the peer is back."""
        self.send_all(peer, [message])

    def send_all(self, peer: bytes, messages: list[Any]) -> None:
        """Queue several messages."""
        member = self.members.get(peer)
        if member is not None:
            member.link.extend(messages)
            self._soil(member)

    def load(self, peer: bytes, load: Load) -> None:
        """Queue a piece of a payload; it leaves after what else is queued."""
        member = self.members.get(peer)
        if member is not None:
            member.link.load(load)
            self._soil(member)

    def _soil(self, member: Member) -> None:
        if not member.dirty:
            member.dirty = True
            self._dirty.append(member)

    def flush(self) -> None:
        """Send what is queued."""
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, []
        for member in dirty:
            member.dirty = False
            connection = member.connection
            if connection is None:
                continue
            if not member.link.loads:
                for packet in member.link.take():
                    if not self._transmit(connection, packet):
                        break
                continue
            for packet, data in member.link.leaving():
                if not self._transmit(connection, packet, data):
                    break

    def _transmit(
        self, connection: Connection, packet: bytes, data: Data | None = None
    ) -> bool:
        if data is None:
            frame = DATA + connection.sealer.seal(packet, DATA)
            to = connection.id
            if type(to) is not Line:
                return self._send(to, [frame], connection)
            try:
                to.send_one(frame)
            except zmq.ZMQError:
                self._drop(connection)
                return False
            return True
        frames = [LOADED + connection.sealer.seal(packet, LOADED), data]
        return self._send(connection.id, frames, connection)

    def _send(
        self, to: Sender, frames: list[Data], connection: Connection | None = None
    ) -> bool:
        try:
            if isinstance(to, Line):
                to.send(frames)
            else:
                self._socket.send([to, *frames])
        except zmq.ZMQError:
            # No such peer any more: its link keeps what it was sent, for its next connection.
            if connection is not None:
                self._drop(connection)
            return False
        return True

    def _drop(self, connection: Connection) -> None:
        self._connections.pop(connection.id, None)
        self._pending.pop(connection.id, None)
        if connection.member.connection is connection:
            connection.member.connection = None

    # -- receiving -------------------------------------------------------------------------

    def _frames(self, frames: list[Any]) -> None:
        if len(frames) == 3 and frames[1][:1] == LOADED:
            memory.keep()
            self._data(*frames)
            return
        if len(frames) != 2 or not frames[1]:
            self._reject("a message of wrong shape")
            return
        sender, frame = frames
        if frame[0] == 68:  # DATA
            self._data(sender, frame)
        elif frame[0] == 72:  # HELLO
            self._hello(sender, frame)
        else:
            self._reject("a frame of no known kind")

    def _said(self, line: Line, frames: list[Any]) -> None:
        if len(frames) == 1 and frames[0][:1] == DATA:
            self._data(line, frames[0])
        else:
            self._frames([line, *frames])

    def _left(self, line: Line, why: str) -> None:
        """A line has ended; its link keeps what it was sent, for the next connection."""
        connection = self._connections.get(line) or self._pending.get(line)
        if connection is not None:
            self._drop(connection)
        self._former.pop(line, None)
        self._told.pop(line, None)

    def _data(self, sender: Sender, frame: bytes, data: Data | None = None) -> None:
        connection = self._connections.get(sender) or self._pending.get(sender)
        if connection is None:
            # It was sent away, or forgotten: let it greet again, or register.
            self._tell(sender, UNKNOWN)
            if sender not in self._former:
                self._reject("a frame before the greeting")
            return
        try:
            kind = DATA if data is None else LOADED
            packet = connection.opener.open(memoryview(frame)[1:], kind)
            if not connection.confirmed:
                self._confirm(connection)
            member = connection.member
            messages = member.link.feed(packet, data)
        except (SealError, LinkError) as error:
            self._reject(str(error))
            if connection.confirmed and isinstance(error, (SealError, GapError)):
                # Changed or dropped on the way: without a new connection all that follows
                # would be refused too, and the peer never know.
                self._tell(sender, BROKEN)
            return
        if messages:
            self._on_messages(member.id, messages)
            self._owing[member.id] = member
            due = member.link.acknowledgement()
            if due is not None:
                self._transmit(connection, due)
            elif not self._ack_due:
                self._ack_due = True
                self._loop.after(ACK_SECONDS, self._acknowledge)
        if member.link.waiting:
            self._soil(member)  # an acknowledgement may have opened the window

    def _tell(self, sender: Sender, what: bytes) -> None:
        """Tell a connection to go, once: who sends and never reads fills no memory."""
        if sender not in self._told:
            self._told[sender] = None
            while len(self._told) > MAX_PENDING:
                self._told.pop(next(iter(self._told)))
            self._send(sender, [what])

    def _acknowledge(self) -> None:
        self._ack_due = False
        owing, self._owing = self._owing, {}
        for member in owing.values():
            if member.connection is not None:
                packet = member.link.acknowledgement(force=True)
                if packet is not None:
                    self._transmit(member.connection, packet)

    def _hello(self, sender: Sender, frame: bytes) -> None:
        head = 1 + 16 + NONCE_BYTES
        if not head < len(frame) <= MAX_GREETING:
            self._reject("a greeting of wrong size")
            return
        peer, theirs = frame[1:17], frame[17:head]
        member = self.members.get(peer)
        if member is None:
            self._tell(sender, UNKNOWN)
            return
        if sender in self._pending or sender in self._connections:
            self._reject("a second greeting")
            return
        try:
            key = connection_key(member.session, self._channel, GREETING, theirs)
            greeting = _greeting(Opener(key).open(frame[head:], frame[:head]))
        except (SealError, *UNDECODABLE):
            self._reject("a greeting that does not open")
            return
        self._welcome(sender, member, theirs, greeting)

    def _welcome(
        self, sender: Sender, member: Member, theirs: bytes, greeting: Greeting
    ) -> None:
        ours = os.urandom(NONCE_BYTES)
        session, channel = member.session, self._channel
        connection = Connection(
            sender,
            member,
            Opener(connection_key(session, channel, TO_SERVER, theirs, ours)),
            Sealer(connection_key(session, channel, TO_PEER, theirs, ours)),
        )
        resumed = greeting.link == member.link_id
        connection.fresh = not resumed
        connection.peer_received = greeting.received if resumed else 0
        received = member.link.received if resumed else 0
        self._greeted += 1
        connection.number = self._greeted
        if not resumed and member.link.used:
            # The peer forgot a link that we remember.  What replaces it has another name, or
            # who still knows the old one would go on with the new one's numbers.
            connection.link_id = os.urandom(8)
        while len(self._pending) >= MAX_PENDING:
            self._pending.pop(next(iter(self._pending)))
        self._pending[sender] = connection
        # A link that nobody used yet keeps its id, so that what waits in it is not lost.
        answer = _encode(Welcome(connection.link_id, resumed, received))
        sealed = connection.sealer.seal(answer, WELCOME + ours)
        self._send(sender, [WELCOME + ours + sealed])

    def _confirm(self, connection: Connection) -> None:
        """The peer has proved that it is there now: this connection is the one that counts."""
        self._pending.pop(connection.id, None)
        member = connection.member
        if self.members.get(member.id) is not member:
            raise SealError("the peer was sent away meanwhile")
        if connection.number < member.latest:
            # What was sent before the peer gave this one up may come after it is back.
            raise SealError("the peer has a later connection")
        member.latest = connection.number
        old = member.connection
        if old is not None:
            self._connections.pop(old.id, None)
        connection.confirmed = True
        member.connection = connection
        self._connections[connection.id] = connection
        link = member.link
        if connection.fresh:
            if connection.link_id != member.link_id or link.used:
                link.reset()
                member.link_id = connection.link_id
            if self._on_renewed is not None:
                self._on_renewed(member.id)
        for packet, data in link.resume(connection.peer_received):
            if not self._transmit(connection, packet, data):
                return
        if link.waiting:
            self._soil(member)

    def _reject(self, what: str) -> None:
        """Count what does not belong here; tell of it at powers of two only."""
        self.rejected += 1
        n = self.rejected
        if self._log is not None and n & (n - 1) == 0:
            self._log(f"ignored {what} ({n} such so far on channel {self._channel})")

    def close(self) -> None:
        """Stop listening."""
        self._loop.flush.remove(self.flush)
        if self._lines is not None:
            self._lines.close(200)
        self._socket.close(200)
