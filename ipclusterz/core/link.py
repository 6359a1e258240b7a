"""A link: a reliable, ordered stream of messages over connections that come and go.

What was put in while the loop was busy leaves as one packet.  Packets are numbered, kept
until the other side acknowledges them, and sent again on the next connection.  A link ends
when either side is a new incarnation; then the layers above tell each other what they know.

A packet is 16 bytes of numbers (its own, and the last one received) and a msgpack array of
messages.  Packet number 0 carries acknowledgements only and is never kept.

A piece of a large payload (:class:`~ipclusterz.core.message.Load`) goes with a packet of its
own, *beside* it: its data is sealed already, for whoever asked for it, and not touched here.
It leaves after the messages that wait, which need not queue behind megabytes.

This module knows neither sockets nor keys nor time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from struct import Struct
from typing import Any

import msgspec

from ipclusterz.core.message import UNDECODABLE, Chunk, Load

Data = bytes | memoryview
Packet = tuple[bytes, Data | None]
"""What leaves: a packet and the data that goes beside it, if any."""

_NUMBERS = Struct("<QQ")
_HEAD = _NUMBERS.size
_UNENCODABLE = (TypeError, ValueError, OverflowError, RecursionError)
_encode = msgspec.msgpack.Encoder().encode

MAX_ITEMS = 2000
"""Messages in one packet: enough to make the packet's own cost vanish."""

MAX_BYTES = 1024 * 1024
"""Payload bytes after which a packet is closed; one message may go beyond it."""

MAX_PACKET = 4 * 1024 * 1024
"""Bytes that several messages may have together in one packet: a packet must fit a frame."""

WINDOW = 64 * 1024 * 1024
"""Bytes that may wait for an acknowledgement before a link stops sending."""

ACK_EVERY = 32
"""Packets after which an acknowledgement is sent although nothing else is."""


class LinkError(Exception):
    """The other side broke the rules of the link; the connection is not to be trusted."""


class GapError(LinkError):
    """A packet is missing: somebody on the way has dropped it, for connections keep order."""


class Link:
    """One end of a link that receives messages of the type ``accepts``.

    ``queue`` and ``loads`` are what has not left yet: messages, and pieces of payloads.
    """

    __slots__ = (
        "_decode",
        "_kept",
        "_kept_bytes",
        "_next",
        "_owed",
        "_stride",
        "loads",
        "queue",
        "received",
        "refuse",
    )

    def __init__(self, accepts: Any) -> None:
        self._decode = msgspec.msgpack.Decoder(list[accepts]).decode
        self.queue: list[Any] = []
        self.loads: deque[Load] = deque()
        self._kept: deque[tuple[int, bytes, Data | None]] = deque()
        self._kept_bytes = 0
        self._next = 1
        self._owed = 0  # packets received since we last said so
        self._stride = 250  # messages that are likely to fit a packet
        self.received = 0
        self.refuse: Callable[[Any, Exception], None] | None = None
        """Called with a message that cannot be encoded; without it that is an exception."""

    # -- sending ---------------------------------------------------------------------------

    def put(self, message: Any) -> None:
        """Queue one message; it leaves with the next packet."""
        self.queue.append(message)

    def extend(self, messages: Iterable[Any]) -> None:
        """Queue several messages."""
        self.queue.extend(messages)

    def load(self, load: Load) -> None:
        """Queue a piece of a payload."""
        self.loads.append(load)

    @property
    def waiting(self) -> int:
        """How many messages and pieces have not left yet."""
        return len(self.queue) + len(self.loads)

    @property
    def unacknowledged(self) -> int:
        """Bytes that left and were not acknowledged."""
        return self._kept_bytes

    @property
    def used(self) -> bool:
        """Whether the other side has sent anything, or acknowledged what it was sent."""
        return bool(self.received) or self._next - 1 > len(self._kept)

    def leaving(self) -> Iterator[Packet]:
        """Yield what may leave now: messages, then pieces, one by one."""
        for packet in self.take():
            yield packet, None
        loads = self.loads
        while loads and self._kept_bytes < WINDOW:
            load = loads.popleft()
            yield self._close(_encode([load.chunk]), load.data), load.data

    def take(self) -> list[bytes]:
        """Return the packets of messages that may leave now."""
        queue = self.queue
        if not queue:
            return []
        if self._kept_bytes >= WINDOW:
            return []
        packets: list[bytes] = []
        if len(queue) == 1:  # the common lone task
            try:
                payload = _encode(queue)
            except _UNENCODABLE as error:
                self._sieve(0, error)
                return packets
            packets.append(self._close(payload))
            self.queue = []
            return packets
        start = 0
        while start < len(queue) and self._kept_bytes < WINDOW:
            # To encode and look costs less than to look at each message, unless it is in vain.
            end = min(start + self._stride, len(queue))
            try:
                payload = _encode(queue[start:end])
            except _UNENCODABLE as error:
                self._sieve(start, error)
                continue
            if len(payload) <= MAX_BYTES:
                if 2 * len(payload) <= MAX_BYTES and end - start == self._stride:
                    self._stride = min(2 * self._stride, MAX_ITEMS)
            elif end - start > 1:
                end = self._fit(queue, start)
                self._stride = end - start
                payload = _encode(queue[start:end])
            while len(payload) > MAX_PACKET and end - start > 1:
                # What is large about these is not their data: text, or lists of keys.
                end = start + (end - start) // 2
                payload = _encode(queue[start:end])
            packets.append(self._close(payload))
            start = end
        del queue[:start]
        return packets

    def _sieve(self, start: int, error: Exception) -> None:
        """Take out of the queue what cannot be encoded: a caller's value of some odd type."""
        if self.refuse is None:
            raise error
        good: list[Any] = []
        bad: list[tuple[Any, Exception]] = []
        for message in self.queue[start:]:
            try:
                _encode(message)
            except _UNENCODABLE as why:
                bad.append((message, why))
            else:
                good.append(message)
        self.queue[start:] = good
        for message, reason in bad:  # last: it may queue more
            self.refuse(message, reason)

    def _fit(self, queue: list[Any], start: int) -> int:
        size = 0
        stop = min(len(queue), start + MAX_ITEMS)
        for index in range(start, stop):
            data = getattr(queue[index], "data", b"")
            size += 64 + (
                sum(map(len, data)) + 32 * len(data) if type(data) is list else len(data)
            )
            if size > MAX_BYTES:
                return index + 1
        return stop

    def _close(self, payload: bytes, data: Data | None = None) -> bytes:
        packet = _NUMBERS.pack(self._next, self.received) + payload
        self._kept.append((self._next, packet, data))
        self._kept_bytes += len(packet) if data is None else len(packet) + len(data)
        self._next += 1
        self._owed = 0
        return packet

    def acknowledgement(self, force: bool = False) -> bytes | None:
        """Return a packet that only acknowledges, when one is due (or owed and forced)."""
        if self._owed >= ACK_EVERY or (force and self._owed):
            self._owed = 0
            return _NUMBERS.pack(0, self.received)
        return None

    # -- receiving -------------------------------------------------------------------------

    def feed(self, packet: bytes, data: Data | None = None) -> list[Any]:
        """Take a packet in and return its new messages; a packet seen before has none.

        With ``data`` beside it, it tells of that alone, and a Load is returned.  Raises
        :class:`LinkError` for a gap, an impossible acknowledgement, or messages that do not
        belong here.
        """
        if len(packet) < _HEAD:
            raise LinkError(f"a packet of {len(packet)} bytes")
        number, ack = _NUMBERS.unpack_from(packet)
        self._acknowledged(ack)
        if number == 0 or number <= self.received:
            return []
        if number != self.received + 1:
            raise GapError(f"packet {number} came after packet {self.received}")
        try:
            messages: list[Any] = self._decode(memoryview(packet)[_HEAD:])
        except UNDECODABLE as error:
            raise LinkError(f"a message that does not belong here: {error}") from None
        if data is not None:
            if len(messages) != 1 or type(messages[0]) is not Chunk:
                raise LinkError("data that its packet does not tell of")
            messages = [Load(messages[0], data)]
        self.received = number
        self._owed += 1
        return messages

    def _acknowledged(self, number: int) -> None:
        if number >= self._next:
            raise LinkError(f"acknowledged packet {number}, sent only {self._next - 1}")
        kept = self._kept
        while kept and kept[0][0] <= number:
            _, packet, data = kept.popleft()
            self._kept_bytes -= len(packet) if data is None else len(packet) + len(data)

    # -- a new connection ------------------------------------------------------------------

    def resume(self, received: int) -> list[Packet]:
        """Return what is to be sent again when the other side has ``received`` so many."""
        self._acknowledged(received)
        head = self.received
        self._owed = 0
        return [
            (_NUMBERS.pack(number, head) + packet[_HEAD:], data)
            for number, packet, data in self._kept
        ]

    def reset(self, unsent: bool = False) -> None:
        """Forget both directions: the other side is a new incarnation and starts at 1.

        What is ``unsent`` may be meant for it as well.
        """
        if not unsent:
            self.queue = []
        self.loads.clear()
        self._kept.clear()
        self._kept_bytes = 0
        self._next = 1
        self._owed = 0
        self.received = 0
