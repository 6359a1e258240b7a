"""What clients leave behind: tasks that had not ended, in a form that outlives a scheduler.

As long as a client lives, its tasks are safe with it: it sends them again to a scheduler that
is new.  When it has left, the task scheduler alone knows what waits, so it writes that down,
and from then on what becomes of it: which tasks an agent was given, which had to be tried
again, which have ended.  A scheduler that is started again reads it and goes on.

A task's end is written before its agent is told to forget the result, so no task is taken for
waiting that has ended.  One that an agent was given may have run if that agent is gone, too.

Lives here: the records and what follows from them.  Must not know: files, and how tasks are
given out (:mod:`ipclusterz.core.balance`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Union

import msgspec

from ipclusterz.core import message as m
from ipclusterz.core.records import decoded, framed

PORTION = 10_000
"""Tasks that are written down at once: others want to be heard in between."""

SPARE = 10_000
"""Records about what has ended that are borne before the file is written anew."""


class Left(msgspec.Struct, tag="left", array_like=True):
    """A client has left; ``uuid`` is its name in the task database."""

    number: int
    uuid: str


class Code(msgspec.Struct, tag="code", array_like=True):
    """A pickled function that tasks name."""

    digest: bytes
    data: bytes


class Entry(msgspec.Struct, tag="task", array_like=True, gc=False):
    """A task that has not ended; ``handed`` says that an agent was given it."""

    work: m.Submit
    retries: int
    deaths: int
    handed: bool


class Handed(msgspec.Struct, tag="handed", array_like=True):
    """Agents were given these."""

    keys: list[int]


class Spent(msgspec.Struct, tag="spent", array_like=True):
    """A task is tried again."""

    key: int
    retries: int
    deaths: int


class Ended(msgspec.Struct, tag="ended", array_like=True):
    """Tasks that have ended: key, whether in success, engine (-1: none)."""

    ends: list[tuple[int, bool, int]]


Record = Union[Left, Code, Entry, Handed, Spent, Ended]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


class Inheritance:
    """What records amount to: names of clients, tasks by key, functions, and ends."""

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.tasks: dict[int, Entry] = {}
        self.codes: dict[bytes, bytes] = {}
        self.ends: dict[int, tuple[bool, int]] = {}

    def note(self, record: Record) -> None:
        """Take in one record."""
        if isinstance(record, Entry):
            self.tasks[record.work.key] = record
        elif isinstance(record, Handed):
            for key in record.keys:
                if key in self.tasks:
                    self.tasks[key].handed = True
        elif isinstance(record, Ended):
            for key, success, engine in record.ends:
                self.tasks.pop(key, None)
                self.ends[key] = (success, engine)
        elif isinstance(record, Spent):
            entry = self.tasks.get(record.key)
            if entry is not None:
                entry.retries, entry.deaths = record.retries, record.deaths
        elif isinstance(record, Code):
            self.codes[record.digest] = record.data
        else:
            self.names[record.number] = record.uuid


class Estate:
    """Keeps the books; ``out`` collects records for the shell, which appends them in time.

    ``keys`` are the tasks that are written down and have not ended.
    """

    def __init__(self) -> None:
        self.out: list[Record] = []
        self.keys: set[int] = set()
        self.names: dict[int, str] = {}
        self.codes: set[bytes] = set()
        self._coming: deque[int] = deque()  # tasks that are still to be written down
        self._spare = 0

    @property
    def coming(self) -> bool:
        """Whether there are tasks to be written down."""
        return bool(self._coming)

    @property
    def over(self) -> bool:
        """Whether nothing is left: what was written can go."""
        return not self.keys and not self._coming

    @property
    def wasteful(self) -> bool:
        """Whether most of what is written is about what is no more."""
        return self._spare > SPARE + 4 * len(self.keys)

    def leave(self, number: int, uuid: str, keys: Iterable[int]) -> None:
        """A client has left, with these tasks under way."""
        before = len(self._coming)
        self._coming.extend(keys)
        if len(self._coming) > before:
            self.names[number] = uuid
            self.out.append(Left(number, uuid))

    def portion(self) -> list[int]:
        """Take the next tasks that are to be written down."""
        coming = self._coming
        return [coming.popleft() for _ in range(min(PORTION, len(coming)))]

    def enter(self, entry: Entry, code: m.Function | None) -> None:
        """Write a task down, and its function if that is not yet."""
        if code is not None and code.digest not in self.codes:
            self.codes.add(code.digest)
            self.out.append(Code(code.digest, code.data))
        self.keys.add(entry.work.key)
        self.out.append(entry)

    def hand(self, key: int) -> None:
        """An agent is given a task."""
        if key in self.keys:
            last = self.out[-1] if self.out else None
            if type(last) is Handed:
                last.keys.append(key)
            else:
                self.out.append(Handed([key]))

    def spend(self, key: int, retries: int, deaths: int) -> None:
        """A task is tried again."""
        if key in self.keys:
            self.out.append(Spent(key, retries, deaths))
            self._spare += 1

    def end(self, key: int, success: bool, engine: int) -> None:
        """A task has ended."""
        if key not in self.keys:
            return
        self.keys.discard(key)
        self._spare += 1
        last = self.out[-1] if self.out else None
        if type(last) is Ended:
            last.ends.append((key, success, engine))
        else:
            self.out.append(Ended([(key, success, engine)]))

    def begin_anew(self) -> None:
        """What was written is to be forgotten: write down everything that is left again."""
        keys, self.keys = self.keys, set()
        self._spare = 0
        self.codes.clear()
        numbers = {m.client_of(key) for key in (*keys, *self._coming)}
        self.names = {n: uuid for n, uuid in self.names.items() if n in numbers}
        self.out = [Left(number, uuid) for number, uuid in self.names.items()]
        self._coming.extend(keys)


def written(records: Iterable[Record]) -> bytes:
    """Return records as they are appended to a file."""
    return b"".join(framed(_encode(record)) for record in records)


def read(data: bytes) -> Inheritance:
    """Return what a file amounts to; what follows a damaged record is left out."""
    found = Inheritance()
    for record in decoded(data, _decode):
        found.note(record)
    return found
