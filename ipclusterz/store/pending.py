"""What has been told and is not yet in the database.

Records are plain tuples, as msgspec decodes them; a row is made of them once, when it is
written, so that what begins and ends between two writes costs one row and no more.

Memory only.  Used by the writer's thread alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from operator import itemgetter
from time import sleep
from typing import Any

import msgspec

from ipclusterz.store import schema

Begun = tuple[Any, ...]
"""A task is known: key, channel, op, function (digest or name), submitted, label, payload."""

Ended = tuple[Any, ...]
"""A task has ended: key, attempt, engine (-1: none), status, started, finished, received,
error's name, error's text, payload.  Times are seconds since the epoch."""

Whole = tuple[Any, ...]
"""Both of one task, with one key; what is not known is None here, not empty."""

Function = tuple[bytes, bytes]
"""Digest and pickle of a function."""

Payload = tuple[int, int, bytes]
"""Key, kind (:data:`WORK` or :data:`RESULT`), bytes."""

Output = tuple[int, int, str]
"""Key, stream (1: standard output, 2: standard error), text to be added."""

Resubmitted = tuple[int, str]
"""Key, and the msg_id of the task that was made of it."""

PAUSE = 0.0005
"""Seconds that the thread leaves Python's lock alone now and then: to give it back for an
instant is not enough, for it has it again before a thread that waits is awake (measured at
60,000 tasks/s: the hub's thread ran up to 13 ms late, 8 in one of a hundred; now 4 and 2)."""

SLICE = 1_000
"""Records that are forgotten before others get Python's lock."""

_key = itemgetter(0)


class Shipment:
    """Encoded :class:`~ipclusterz.core.message.Records`, as a scheduler shipped them."""

    __slots__ = ("count", "data", "size")

    def __init__(self, data: bytes, count: int, size: int) -> None:
        self.data = data
        self.count = count
        self.size = size

    def __len__(self) -> int:
        return self.count


class Notes:
    """What one call of :meth:`ipclusterz.store.store.Store.note` brought."""

    __slots__ = (
        *("begun", "delivered", "ended", "functions", "outputs", "payloads"),
        *("resubmitted", "size", "whole"),
    )

    def __init__(
        self,
        begun: Sequence[Begun] = (),
        ended: Sequence[Ended] = (),
        payloads: Sequence[Payload] = (),
        delivered: Sequence[int] = (),
        outputs: Sequence[Output] = (),
        resubmitted: Sequence[Resubmitted] = (),
        functions: Sequence[Function] = (),
        size: int = 0,
        whole: Sequence[Whole] = (),
    ) -> None:
        self.whole = whole
        self.functions = functions
        self.size = size
        self.begun = begun
        self.ended = ended
        self.payloads = payloads
        self.delivered = delivered
        self.outputs = outputs
        self.resubmitted = resubmitted

    def __len__(self) -> int:
        return (
            len(self.whole)
            + len(self.begun)
            + len(self.ended)
            + len(self.payloads)
            + len(self.delivered)
            + len(self.outputs)
            + len(self.resubmitted)
        )


def weight(item: Notes | Shipment) -> int:
    """Return the bytes that what was noted takes besides its fixed parts."""
    return len(item.data) if isinstance(item, Shipment) else item.size


class Pending:
    """Everything to be written, by task; and the names that numbers stand for."""

    def __init__(self) -> None:
        self.raw: deque[Shipment] = deque()
        self.whole: deque[Whole] = deque()
        self.begun: dict[int, Begun] = {}
        self.ended: dict[int, Ended] = {}
        self.payloads: dict[tuple[int, int], bytes] = {}
        self.delivered: list[int] = []
        self.outputs: list[Output] = []
        self.resubmitted: list[Resubmitted] = []
        self.functions: dict[bytes, bytes] = {}
        self.size = 0
        self.clients: dict[int, str] = {}
        self.engines: dict[int, tuple[str, str]] = {}
        self._names: bytes | None = None

    def name_client(self, number: int, uuid: str) -> None:
        """Say whose keys have this number."""
        self.clients[number] = uuid
        self._names = None

    def name_engine(self, number: int, uuid: str, host: str) -> None:
        """Say which engine has this number."""
        self.engines[number] = (uuid, host)
        self._names = None

    @property
    def names(self) -> bytes:
        """What the numbers stand for, encoded; made again only when it changed."""
        if self._names is None:
            self._names = msgspec.msgpack.encode((self.clients, self.engines))
        return self._names

    @property
    def noted(self) -> bool:
        """Whether there is something that cannot be put aside as it came."""
        return len(self) > sum(map(len, self.raw))

    def ship(self, shipment: Shipment) -> None:
        """Take in what came encoded."""
        self.raw.append(shipment)
        self.size += len(shipment.data)

    def add(self, notes: Notes) -> None:
        """Take in what was noted; for each task the latest counts."""
        self.whole.extend(notes.whole)
        self.begun.update(zip(map(_key, notes.begun), notes.begun, strict=True))
        self.ended.update(zip(map(_key, notes.ended), notes.ended, strict=True))
        for key, kind, data in notes.payloads:
            self.payloads[key, kind] = data
        if notes.delivered:
            self._deliver(notes.delivered)
        self.functions.update(notes.functions)
        self.size += notes.size
        self.outputs.extend(notes.outputs)
        self.resubmitted.extend(notes.resubmitted)

    def _deliver(self, keys: Iterable[int]) -> None:
        if self.payloads:
            for key in keys:
                self.payloads.pop((key, 0), None)
                self.payloads.pop((key, 1), None)
        self.delivered.extend(keys)

    def clear_shipments(self) -> None:
        """Forget what was put aside."""
        self.size -= sum(len(shipment.data) for shipment in self.raw)
        self.raw.clear()

    def clear(self) -> None:
        """Forget what was noted and is written; not in one go, for freeing takes time."""
        whole = self.whole
        while whole:
            for _ in range(min(len(whole), SLICE)):
                whole.popleft()
            sleep(PAUSE)
        for records in (self.begun, self.ended, self.payloads):
            while records:
                for _ in range(min(len(records), SLICE)):
                    records.popitem()
                sleep(PAUSE)
        self.delivered.clear()
        self.outputs.clear()
        self.resubmitted.clear()
        self.functions.clear()
        self.size = sum(len(shipment.data) for shipment in self.raw)

    def trim(self, rows: int, size: int) -> int:
        """Keep the newest of each, at most so many and so many bytes; return how many went."""
        before = len(self)
        rows //= 2  # what began and what ended are told apart
        while len(self.whole) > 2 * rows:
            self.whole.popleft()
        for kept in (self.begun, self.ended):
            for key in list(islice(kept, max(len(kept) - rows, 0))):
                del kept[key]
        self._trim_raw(2 * rows, size)
        if self.size > size:
            self._strip()
        total = sum(map(len, self.payloads.values()))
        for name in list(self.payloads):
            if total <= size:
                break
            total -= len(self.payloads.pop(name))
        del self.delivered[: max(len(self.delivered) - rows, 0)]
        text = sum(len(output[2]) for output in self.outputs)
        first = 0
        while text > size and first < len(self.outputs):
            text -= len(self.outputs[first][2])
            first += 1
        del self.outputs[:first]
        del self.resubmitted[: max(len(self.resubmitted) - rows, 0)]
        return before - len(self)

    def _trim_raw(self, rows: int, size: int) -> None:
        total = sum(map(len, self.raw))
        held = sum(len(shipment.data) for shipment in self.raw)
        while self.raw and (total > rows or held > size):
            gone = self.raw.popleft()
            total -= len(gone)
            held -= len(gone.data)
            self.size -= len(gone.data)

    def _strip(self) -> None:
        """Keep what happened, but not the payloads: they are what takes the memory."""
        place = schema.COLUMNS.index("work")
        for at, row in enumerate(self.whole):
            self.whole[at] = (*row[:place], None, *row[place + 1 : -1], None)
        for key, start in self.begun.items():
            if start[-1]:
                self.begun[key] = (*start[:-1], b"")
        for key, end in self.ended.items():
            if end[-1]:
                self.ended[key] = (*end[:-1], b"")
        self.size = sum(len(output[2]) for output in self.outputs)
        self.size += sum(len(shipment.data) for shipment in self.raw)

    def __len__(self) -> int:
        return (
            sum(map(len, self.raw))
            + len(self.whole)
            + len(self.begun)
            + len(self.ended)
            + len(self.payloads)
            + len(self.delivered)
            + len(self.outputs)
            + len(self.resubmitted)
        )
