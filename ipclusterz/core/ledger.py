"""What a client has asked for and not yet been told: the client's own authority.

Each entry keeps the message that asked, so that it can be sent again to a scheduler that
forgot it, and a sink that is told the outcome exactly once.  Results that come a second time
are acknowledged and dropped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from ipclusterz.core import message as m
from ipclusterz.core.dependency import Ends
from ipclusterz.core.message import Channel


class Sink(Protocol):
    """Whatever wants to know how a task ended."""

    def deliver(self, key: int, result: m.Result) -> None:
        """Take the outcome; called once per key; must be quick and must not raise."""


class Packed(Protocol):
    """A function ready to travel."""

    digest: bytes
    data: bytes


class Entry(Struct, eq=False):
    """One request, shared by the keys of its targets; ``left`` counts those not answered."""

    message: Any
    channel: int
    fn: Packed | None
    sink: Sink
    left: int


Out = defaultdict[int, list[Any]]
"""What is to be said, by channel."""

_TASK = int(Channel.TASK)

CANCEL_PART = 50_000
"""Keys in one message: a message must fit a frame."""


class Ledger:
    """Outstanding work of one client; ``out`` collects what is to be said.

    Keys are given by :meth:`reserve` ahead of time, so that a caller knows them before the
    task is entered.  ``claim`` is asked about each result with a body and may
    postpone it (False); :meth:`deliver` takes it up again.  Acknowledgements wait in
    ``received`` for something to ride on, or for :meth:`acknowledge`.  ``dropped`` collects
    bodies that nobody needs any more; ``piece`` is given pieces of bodies, and requests.
    """

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.out: Out = defaultdict(list)
        self.pending: dict[int, Entry] = {}
        self.waiting: dict[int, str] = {}  # channel -> why nothing progresses there
        self.dropped: list[m.Body] = []
        self.received: dict[int, list[int]] = {}  # channel -> results not acknowledged yet
        self.claim: Callable[[int, m.Result], bool] = lambda channel, result: True
        self.piece: Callable[[int, Any], None] = lambda channel, message: None
        self._postponed: set[int] = set()  # results whose bodies are on their way
        self._cancelled: dict[int, None] = {}  # cancelled, and not ended yet
        self._depending = 0  # entries that wait for other tasks
        self._ends: dict[int, tuple[bool, int] | None] = {}  # of what they wait for
        # Of the latest tasks: what one waits for may end just before it is entered.
        self._latest = Ends()
        self._base = number << m.COUNTER_BITS
        self._counter = 0
        self._sent_functions: dict[int, set[bytes]] = {
            _TASK: set(),
            int(Channel.DIRECT): set(),
            int(Channel.CONTROL): set(),
        }

    # -- asking ----------------------------------------------------------------------------

    @property
    def issued(self) -> tuple[int, int]:
        """The first key that was given out, and the one that comes next."""
        return self._base + 1, self._base + self._counter + 1

    def reserve(self, n: int = 1) -> int:
        """Return the first of ``n`` fresh keys in a row."""
        first = self._counter + 1
        self._counter += n
        return self._base + first

    def enter(self, entries: Iterable[Entry]) -> None:
        """Enter what :func:`task` made."""
        pending = self.pending
        known = self._sent_functions[_TASK]
        tell = self.out[_TASK].append
        like: list[m.Submit] = []  # these may go as one run
        fn, op, key = b"", -1, -1  # and so may a task with these that comes next
        for entry in entries:
            message = entry.message
            pending[message.key] = entry
            small = (
                message.opt is None and message.body is None and len(message.data) <= m.SMALL
            )
            if small and message.key == key and message.fn == fn and message.op == op:
                like.append(message)
                key += 1
                continue
            if like:
                _tell_runs(like, tell)
                like = []
            if message.fn not in known:
                known.add(message.fn)
                if entry.fn is not None:
                    tell(m.Function(message.fn, entry.fn.data))
            if small:
                like.append(message)
                fn, op, key = message.fn, message.op, message.key + 1
                continue
            if message.opt is not None and _depends(message):
                self._depends(message.opt)
            tell(message)
        if like:
            _tell_runs(like, tell)

    def request(
        self,
        key: int,
        channel: int,
        op: int,
        fn: Packed | None,
        data: bytes,
        body: m.Body | None,
        targets: list[int],
        sink: Sink,
        opt: m.Options | None = None,
    ) -> None:
        """Enter work for named engines; target ``i`` has ``key + i``."""
        digest = b""
        if fn is not None:
            digest = fn.digest
            self._send_function(channel, fn)
        message = m.Request(key, targets, op, digest, data, body, opt)
        entry = Entry(message, channel, fn, sink, len(targets))
        for index in range(len(targets)):
            self.pending[key + index] = entry
        self.out[channel].append(message)

    def _send_function(self, channel: int, fn: Packed) -> None:
        known = self._sent_functions[channel]
        if fn.digest not in known:
            known.add(fn.digest)
            self.out[channel].append(m.Function(fn.digest, fn.data))

    def cancel(self, keys: Iterable[int]) -> None:
        """Say that these are no longer wanted; their outcome is still delivered."""
        by_channel: dict[int, list[int]] = {}
        for key in keys:
            entry = self.pending.get(key)
            if entry is not None:
                self._cancelled[key] = None
                by_channel.setdefault(entry.channel, []).append(key)
        for channel, chosen in by_channel.items():
            for start in range(0, len(chosen), CANCEL_PART):
                part = chosen[start : start + CANCEL_PART]
                self.out[channel].append(m.Cancel(part))

    # -- hearing ---------------------------------------------------------------------------

    def handle(self, channel: int, messages: Iterable[Any]) -> None:
        """Act on what a scheduler said: deliver results, once each, and acknowledge them."""
        received: list[int] = []
        for kind, run in groupby(messages, type):
            if kind is m.Result:
                singles = list(run)
                for result in singles:
                    self._latest.note(result.key, not result.status, result.engine)
                self._results(channel, singles, received)
            elif kind is m.Results:
                for results in run:
                    self._latest.note_all(results.keys, True, results.engine)
                    self._results(channel, results.singly(), received)
            else:
                for message in run:
                    self._other(channel, message)
        if received:
            waiting = self.received.get(channel)
            if waiting is None:
                self.received[channel] = received
            else:
                waiting.extend(received)

    def _results(self, channel: int, run: Iterable[m.Result], received: list[int]) -> None:
        pop = self.pending.pop
        for result in run:
            key = result.key
            if result.body is not None and self._postpone(channel, result):
                continue
            entry = pop(key, None)
            received.append(key)
            if entry is not None:
                if self._ends and key in self._ends:
                    self._ends[key] = (not result.status, result.engine)
                if entry.left > 1 or self._cancelled or self._depending:
                    self._done(key, entry)
                elif entry.message.body is not None:
                    self.dropped.append(entry.message.body)
                entry.sink.deliver(key, result)

    def _postpone(self, channel: int, result: m.Result) -> bool:
        """Ask about a result with a body, once; True when it is not to be delivered yet."""
        key = result.key
        if key not in self.pending or key in self._postponed:
            return key in self._postponed
        if self.claim(channel, result):
            return False
        self._postponed.add(key)
        return True

    def acknowledge(self, channel: int | None = None) -> None:
        """Say which results were received, on one channel or on all."""
        if channel is None:
            for each in list(self.received):
                self.acknowledge(each)
            return
        keys = self.received.pop(channel, None)
        if keys:
            self.out[channel].append(m.Received(keys))

    def deliver(self, channel: int, result: m.Result) -> None:
        """Deliver a result that was postponed."""
        self._postponed.discard(result.key)
        entry = self.pending.pop(result.key, None)
        self.out[channel].append(m.Received([result.key]))
        if entry is not None:
            if result.key in self._ends:
                self._ends[result.key] = (not result.status, result.engine)
            self._done(result.key, entry)
            entry.sink.deliver(result.key, result)

    def _done(self, key: int, entry: Entry) -> None:
        if self._cancelled:
            self._cancelled.pop(key, None)
        entry.left -= 1
        if entry.left == 0:
            message = entry.message
            if message.body is not None:
                self.dropped.append(message.body)
            if self._depending and _depends(message):
                self._depending -= 1
                if not self._depending:
                    self._ends.clear()

    def _depends(self, opt: m.Options) -> None:
        """Take note of what a task waits for: a scheduler that is new has to be told."""
        self._depending += 1
        for depend in (opt.after, opt.follow):
            if depend is not None:
                for key in depend.keys:
                    self._ends.setdefault(key, self._latest.get(key))

    def _told(self, message: Any) -> Any:
        """Add to a task that waits for others how those ended of which we know."""
        if not self._depending or not _depends(message):
            return message
        opt = message.opt
        for depend in (opt.after, opt.follow):
            if depend is not None:
                known = {key: end for key, *end in depend.known}
                for key in depend.keys:
                    if (end := self._ends.get(key)) is not None:
                        known[key] = list(end)
                depend.known = [(key, end[0], end[1]) for key, end in known.items()]
        return message

    def _other(self, channel: int, message: Any) -> None:
        if isinstance(message, (m.Fetch, m.Chunk, m.Load)):
            self.piece(channel, message)
            return
        if isinstance(message, m.NeedFunction):
            for entry in self.pending.values():
                if entry.fn is not None and entry.fn.digest == message.digest:
                    self.out[channel].append(m.Function(message.digest, entry.fn.data))
                    return
        elif isinstance(message, m.Retried):
            self._retried(message.key, message.left)
        elif isinstance(message, m.Waiting):
            if message.reason:
                self.waiting[channel] = message.reason
            else:
                self.waiting.pop(channel, None)

    def _retried(self, key: int, left: int) -> None:
        """Ask for no more retries than are left, should the scheduler be started again."""
        entry = self.pending.get(key)
        if entry is None or not isinstance(entry.message, m.Submit):
            return
        opt = entry.message.opt
        if opt is not None:  # which many tasks share
            entry.message = replace(entry.message, opt=replace(opt, retries=left))

    # -- a scheduler that is new to us -----------------------------------------------------

    def renewed(self, channel: int) -> None:
        """Send everything outstanding on ``channel`` again: its scheduler knows nothing."""
        self.waiting.pop(channel, None)
        self._sent_functions[channel].clear()
        self.received.pop(channel, None)  # who is to know no longer does
        self.out.pop(channel, None)
        self.out[channel].append(m.Resumed(self._counter))
        runs: list[tuple[Entry, list[int]]] = []
        for key, entry in self.pending.items():
            if entry.channel != channel:
                continue
            if runs and runs[-1][0] is entry and runs[-1][1][-1] == key - 1:
                runs[-1][1].append(key)
            else:
                runs.append((entry, [key]))
        for entry, keys in runs:
            if entry.fn is not None:
                self._send_function(channel, entry.fn)
            self.out[channel].append(self._narrowed(self._told(entry.message), keys))
        self.cancel([key for key in self._cancelled if self._on(key, channel)])

    def _on(self, key: int, channel: int) -> bool:
        entry = self.pending.get(key)
        return entry is not None and entry.channel == channel

    def _narrowed(self, message: Any, keys: list[int]) -> Any:
        """Narrow a request to targets in a row that have not answered."""
        if isinstance(message, m.Submit) or len(message.targets) == len(keys):
            return message
        first = keys[0] - message.key
        targets = message.targets[first : first + len(keys)]
        return m.Request(
            keys[0],
            targets,
            message.op,
            message.fn,
            message.data,
            message.body,
            message.opt,
        )

    def refuse(self, message: Any, failure: m.Failure) -> None:
        """End the tasks of a message that cannot be sent."""
        count = 1
        if isinstance(message, m.Run):
            count = len(message.data)
        elif isinstance(message, m.Request):
            count = len(message.targets)
        elif not isinstance(message, m.Submit):
            return
        data = m.encode(failure)
        for key in range(message.key, message.key + count):
            entry = self.pending.pop(key, None)
            if entry is not None:
                self._end(key, entry, m.Status.REFUSED, data)

    def give_up(self, failure: m.Failure) -> None:
        """End everything outstanding: the controller is gone for good."""
        data = m.encode(failure)
        pending, self.pending = self.pending, {}
        for key, entry in pending.items():
            self._end(key, entry, m.Status.LOST, data)

    def _end(self, key: int, entry: Entry, status: m.Status, data: bytes) -> None:
        """End a task of which no scheduler will tell."""
        self._done(key, entry)
        entry.sink.deliver(key, m.Result(key, 0, -1, int(status), data, None, 0.0, 0.0, 0))


def task(
    key: int,
    op: int,
    fn: Packed | None,
    data: bytes,
    body: m.Body | None,
    opt: m.Options | None,
    sink: Sink,
) -> Entry:
    """Return a task for any engine, to be entered; in any thread."""
    digest = b"" if fn is None else fn.digest
    return Entry(m.Submit(key, op, digest, data, body, opt), _TASK, fn, sink, 1)


def _tell_runs(like: list[m.Submit], tell: Callable[[Any], None]) -> None:
    """Tell of like tasks with keys in a row: as runs, or, of a single one, as it is."""
    if len(like) == 1:
        tell(like[0])
        return
    for start in range(0, len(like), m.RUN):
        part = like[start : start + m.RUN]
        head = part[0]
        tell(m.Run(head.key, head.op, head.fn, [each.data for each in part]))


def _depends(message: Any) -> bool:
    opt = message.opt
    return opt is not None and (opt.after is not None or opt.follow is not None)
