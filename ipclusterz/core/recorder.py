"""What a scheduler notes for the task database, until it is shipped to the hub.

Most tasks come in runs and end by the hundred: of these the messages themselves are shipped,
and :func:`unfold` makes records of them when somebody asks.  Of all others there are plain
tuples (:class:`~ipclusterz.core.message.Records`).  Small payloads are kept with every task;
larger ones, up to what rides in a batch, as long as not too many bytes have come since the last
shipping: the database must not become the bottleneck of a cluster whose tasks are mostly data.
Still larger ones lie in files of their owners, and a reference to one is worth nothing to who
reads it later.
"""

from __future__ import annotations

import msgspec

from ipclusterz.core import message as m
from ipclusterz.core.message import SMALL

BUDGET = 1024 * 1024
"""Bytes of larger payloads and of output that are kept between two shippings."""

TEXT = 300
"""Characters of an error's text that are kept beside its payload."""

_failure = msgspec.msgpack.Decoder(m.Failure)


class Recorder:
    """Notes of one scheduler; ``clock`` is the time since the epoch when ``now`` was 0."""

    def __init__(self, channel: int, clock: float) -> None:
        self._channel = channel
        self._clock = clock
        self._runs: list[tuple[m.Run, float]] = []
        self._results: list[tuple[m.Results, float]] = []
        self._begun: dict[int, m.Begun] = {}
        self._ended: list[m.Ended] = []
        self._whole: list[m.Whole] = []
        self._functions: list[tuple[bytes, bytes]] = []
        self._known: set[bytes] = set()
        self._looks: set[int] = set()  # requests to inspect engines that go on
        self._outputs: list[tuple[int, int, str]] = []
        self._size = 0
        self._left = BUDGET

    @property
    def waiting(self) -> bool:
        """Whether there is something to ship."""
        return bool(
            self._runs
            or self._results
            or self._whole
            or self._begun
            or self._ended
            or self._outputs
            or self._functions
        )

    def run(self, run: m.Run, now: float) -> None:
        """Like tasks were taken in."""
        self._runs.append((run, now))

    def results(self, results: m.Results, now: float) -> None:
        """Tasks have ended well."""
        self._results.append((results, now))

    def begun(self, key: int, op: int, fn: bytes, label: str, data: bytes, now: float) -> None:
        """A task was taken in; who only looks leaves no trace."""
        if op == m.Op.INSPECT:
            self._looks.add(key)
            return
        if len(data) > SMALL:
            data = self._afford(data)
        self._size += len(data)
        self._begun[key] = (
            key,
            self._channel,
            op,
            fn or None,
            self._clock + now,
            label or None,
            data or None,
        )

    def ended(self, result: m.Result, now: float) -> None:
        """A task has ended, in whatever way."""
        if self._looks and result.key in self._looks:
            self._looks.discard(result.key)
            return
        data = result.data
        begun = self._begun.pop(result.key, None)
        if len(data) > SMALL:
            data = self._afford(data)
        self._size += len(data)
        end = _end(result, data, self._clock + now)
        if begun is not None:
            self._whole.append(begun + end)
        else:
            self._ended.append((result.key, *end))

    def function(self, digest: bytes, data: bytes) -> None:
        """A function that tasks name, once."""
        if digest not in self._known:
            self._known.add(digest)
            self._functions.append((digest, data))
            self._size += len(data)

    def output(self, key: int, stream: int, text: str) -> None:
        """A task wrote something; of floods only the beginnings are kept."""
        if self._left > 0:
            self._left -= len(text)
            self._size += len(text)
            self._outputs.append((key, stream, text))

    def _afford(self, data: bytes) -> bytes:
        if len(data) > self._left:
            return b""
        self._left -= len(data)
        return data

    def forgotten(self) -> None:
        """The hub is new: it may not have written which functions there were."""
        self._known.clear()

    def take(self) -> m.Records:
        """Return everything noted since the last time."""
        taken = m.Records(
            list(self._begun.values()),
            self._ended,
            self._whole,
            self._functions,
            self._outputs,
            self._size,
            self._runs,
            self._results,
            self._channel,
            self._clock,
        )
        self._runs, self._results = [], []
        self._begun.clear()
        self._ended, self._whole, self._functions, self._outputs = [], [], [], []
        self._size = 0
        self._left = BUDGET
        return taken


def unfold(records: m.Records) -> m.Records:
    """Make records of the messages that were shipped as they were."""
    clock, channel = records.clock, records.channel
    came: dict[int, tuple[m.Run, float]] = {}
    for run, at in records.runs:
        came.update(dict.fromkeys(range(run.key, run.key + len(run.data)), (run, clock + at)))
    for results, at in records.results:
        received = clock + at
        for result in results.singly():
            key = result.key
            end = _end(result, result.data, received)
            records.size += len(result.data)
            entry = came.pop(key, None)
            if entry is None:
                records.ended.append((key, *end))
            else:
                records.whole.append(_begin(*entry, key, channel) + end)
    records.begun += [_begin(*entry, key, channel) for key, entry in came.items()]
    records.size += sum(len(data) for run, _ in records.runs for data in run.data)
    records.runs, records.results = [], []
    return records


def _begin(run: m.Run, submitted: float, key: int, channel: int) -> m.Begun:
    data = run.data[key - run.key]
    return (key, channel, run.op, run.fn or None, submitted, None, data or None)


def _end(result: m.Result, data: bytes, received: float) -> m.End:
    name: str | None = None
    text: str | None = None
    if result.status and result.data:
        try:
            failure = _failure.decode(result.data)
            name, text = failure.name, failure.text[:TEXT]
        except m.UNDECODABLE:
            name = "unreadable"
    return (
        result.attempt,
        result.engine,
        result.status,
        result.started or None,
        result.finished or None,
        received,
        name,
        text,
        data or None,
    )
