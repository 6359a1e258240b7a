"""What a client has asked for and not yet been told: the client's own authority.

Each entry keeps the message that asked, so that it can be sent again to a scheduler that
forgot it, and a sink that is told the outcome exactly once.  Results that come a second time
are acknowledged and dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from ipclusterz.core import message as m
from ipclusterz.core.message import Channel


class Sink(Protocol):
    """Whatever wants to know how a task ended."""

    def deliver(self, key: int, result: m.Result) -> None:
        """Take the outcome; called once per key; must be quick and must not raise."""


class Packed(Protocol):
    """A function ready to travel."""

    digest: bytes
    data: bytes


class Entry:
    """One request, shared by the keys of its targets."""

    __slots__ = ("channel", "fn", "message", "sink")

    def __init__(self, message: Any, channel: int, fn: Packed | None, sink: Sink) -> None:
        self.message = message
        self.channel = channel
        self.fn = fn
        self.sink = sink


class Ledger:
    """Outstanding work of one client; ``out`` collects (channel, message) pairs."""

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.out: list[tuple[int, Any]] = []
        self.pending: dict[int, Entry] = {}
        self.waiting: dict[int, str] = {}  # channel -> why nothing progresses there
        self._base = number << m.COUNTER_BITS
        self._counter = 0
        self._sent_functions: dict[int, set[bytes]] = {
            int(Channel.TASK): set(),
            int(Channel.DIRECT): set(),
            int(Channel.CONTROL): set(),
        }

    # -- asking ----------------------------------------------------------------------------

    def submit(
        self,
        op: int,
        fn: Packed | None,
        data: bytes,
        body: m.Body | None,
        opt: m.Options | None,
        sink: Sink,
    ) -> int:
        """Enter a task for any engine and return its key."""
        self._counter += 1
        key = self._base + self._counter
        digest = b""
        if fn is not None:
            digest = fn.digest
            known = self._sent_functions[4]
            if digest not in known:
                known.add(digest)
                self.out.append((4, m.Function(digest, fn.data)))
        message = m.Submit(key, op, digest, data, body, opt)
        self.pending[key] = Entry(message, 4, fn, sink)
        self.out.append((4, message))
        return key

    def request(
        self,
        channel: int,
        op: int,
        fn: Packed | None,
        data: bytes,
        body: m.Body | None,
        targets: list[int],
        sink: Sink,
    ) -> int:
        """Enter work for named engines and return the first target's key."""
        key = self._base + self._counter + 1
        self._counter += len(targets)
        digest = b""
        if fn is not None:
            digest = fn.digest
            self._send_function(channel, fn)
        message = m.Request(key, targets, op, digest, data, body)
        entry = Entry(message, channel, fn, sink)
        for index in range(len(targets)):
            self.pending[key + index] = entry
        self.out.append((channel, message))
        return key

    def _send_function(self, channel: int, fn: Packed) -> None:
        known = self._sent_functions[channel]
        if fn.digest not in known:
            known.add(fn.digest)
            self.out.append((channel, m.Function(fn.digest, fn.data)))

    def cancel(self, keys: Iterable[int]) -> None:
        """Say that these are no longer wanted; their outcome is still delivered."""
        by_channel: dict[int, list[int]] = {}
        for key in keys:
            entry = self.pending.get(key)
            if entry is not None:
                by_channel.setdefault(entry.channel, []).append(key)
        for channel, chosen in by_channel.items():
            self.out.append((channel, m.Cancel(chosen)))

    # -- hearing ---------------------------------------------------------------------------

    def handle(self, channel: int, messages: Iterable[Any]) -> None:
        """Act on what a scheduler said: deliver results, once each, and acknowledge them."""
        received: list[int] = []
        pop = self.pending.pop
        for message in messages:
            if type(message) is m.Result:
                key = message.key
                entry = pop(key, None)
                received.append(key)
                if entry is not None:
                    entry.sink.deliver(key, message)
            else:
                self._other(channel, message)
        if received:
            self.out.append((channel, m.Received(received)))

    def _other(self, channel: int, message: Any) -> None:
        if isinstance(message, m.NeedFunction):
            for entry in self.pending.values():
                if entry.fn is not None and entry.fn.digest == message.digest:
                    self.out.append((channel, m.Function(message.digest, entry.fn.data)))
                    return
        elif isinstance(message, m.Waiting):
            if message.reason:
                self.waiting[channel] = message.reason
            else:
                self.waiting.pop(channel, None)

    # -- a scheduler that is new to us -----------------------------------------------------

    def renewed(self, channel: int) -> None:
        """Send everything outstanding on ``channel`` again: its scheduler knows nothing."""
        self.waiting.pop(channel, None)
        self._sent_functions[channel].clear()
        self.out = [(c, message) for c, message in self.out if c != channel]
        self.out.append((channel, m.Resumed(self._counter)))
        for key, entry in self.pending.items():
            if entry.channel != channel:
                continue
            if entry.fn is not None:
                self._send_function(channel, entry.fn)
            self.out.append((channel, self._single(key, entry.message)))

    def _single(self, key: int, message: Any) -> Any:
        """Narrow a request to the one target that has not answered."""
        if isinstance(message, m.Submit) or len(message.targets) == 1:
            return message
        target = message.targets[key - message.key]
        return m.Request(
            key, [target], message.op, message.fn, message.data, message.body
        )

    def give_up(self, failure: m.Failure) -> None:
        """End everything outstanding: the controller is gone for good."""
        data = m.encode(failure)
        pending, self.pending = self.pending, {}
        for key, entry in pending.items():
            result = m.Result(key, 0, -1, int(m.Status.LOST), data, None, 0.0, 0.0, 0)
            entry.sink.deliver(key, result)
