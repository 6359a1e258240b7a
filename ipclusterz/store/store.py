"""The hub's side of the task database: note, ask, and be told; never wait.

A loop watches :attr:`Store.fd` and calls :meth:`Store.poll` when it is readable; answers
and messages arrive there, in the loop's own thread.  Everything that touches the disk is
done by one thread (:mod:`ipclusterz.store.writer`).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ipclusterz.store import reading
from ipclusterz.store.keys import Shape
from ipclusterz.store.pending import (
    Begun,
    Ended,
    Function,
    Notes,
    Output,
    Payload,
    Resubmitted,
    Shipment,
    Whole,
    weight,
)
from ipclusterz.store.query import compile_query
from ipclusterz.store.writer import Bounds, Done, Task, Writer

MAX_ROWS = 1_000_000
MAX_AGE = 30 * 86_400.0
MAX_BYTES = 1 << 30
FLUSH_SECONDS = 0.5

ANSWER_ROWS = 100_000
"""Records of one answer; a query that matches more is told to ask for fewer."""

ANSWER_BYTES = 64 * 1024 * 1024
"""Payloads of one answer."""

HURRY = 25_000
"""Records that are not left waiting for the next regular write."""

HURRY_BYTES = 8 * 1024 * 1024
"""Bytes of payloads and output that are not left waiting."""

BACKLOG_BYTES = 256 * 1024 * 1024
"""Bytes that may wait when the disk does not come back from a write at all."""

BACKLOG = 1_000_000
"""Records that may wait when the disk does not come back from a write at all."""


class Store:
    """A task database that is written behind; to be made and used by one thread.

    ``path`` is the database's file, or None for one in memory.  Nothing is opened here; what
    goes wrong with the file is said through ``say`` (from :meth:`poll` and :meth:`close`),
    and never raised.  At most ``max_rows`` tasks and ``max_bytes`` bytes are kept, and
    finished ones no longer than ``max_age`` seconds; unfinished ones always.
    """

    def __init__(
        self,
        path: str | None,
        *,
        max_rows: int = MAX_ROWS,
        max_age: float = MAX_AGE,
        max_bytes: int = MAX_BYTES,
        flush_seconds: float = FLUSH_SECONDS,
        say: Callable[[str], None],
    ) -> None:
        self._say = say
        self._out: deque[tuple[Done | None, Any, str]] = deque()
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._noted = 0
        self._size = 0
        self._dropped = 0
        self._closed = False
        bounds = Bounds(max_rows, max_age, max_bytes)
        self._writer = Writer(path, bounds, flush_seconds, self._tell, self._answer)
        self._writer.thread.start()

    @property
    def fd(self) -> int:
        """A descriptor that is readable when :meth:`poll` has something to do."""
        return self._read

    # -- what happens ----------------------------------------------------------------------

    def client(self, number: int, uuid: str) -> None:
        """Say whose keys have this number; before the first note of them."""
        self._put(("client", number, uuid, ""))

    def engine(self, engine: int, uuid: str, host: str) -> None:
        """Say which engine has this number; before the first note of it."""
        self._put(("engine", engine, uuid, host))

    def note(
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
        """Take down what happened to tasks; costs the same for one and for thousands.

        The sequences belong to the store from now on; ``size`` are the bytes of what is in
        them besides fixed parts.  Neither waits nor raises.
        """
        notes = Notes(
            begun, ended, payloads, delivered, outputs, resubmitted, functions, size, whole
        )
        self._add(notes, size)

    def ship(self, records: bytes, count: int, size: int) -> None:
        """Take down encoded records as they came: that costs the least."""
        self._add(Shipment(records, count, size), len(records))

    def _add(self, item: Notes | Shipment, size: int) -> None:
        if self._closed:
            return
        self._noted += len(item)
        self._put(item)
        writer = self._writer
        if not writer.waked:
            writer.waked = True
            writer.commands.put(("wake", None, None))
        self._size += size
        waiting = self._noted - writer.taken - self._dropped
        if waiting > HURRY or self._size - writer.taken_size > HURRY_BYTES:
            if not writer.hurried:
                writer.hurried = True
                writer.commands.put(("hurry", None, None))
            if waiting > BACKLOG or self._size - writer.taken_size > BACKLOG_BYTES:
                self._drop()

    def _put(self, item: Notes | Shipment | tuple[str, int, str, str]) -> None:
        if not self._closed:
            self._writer.inbox.append(item)

    def _drop(self) -> None:
        """The disk hangs: let go of the oldest notes (names are kept)."""
        try:
            item = self._writer.inbox.popleft()
        except IndexError:
            return
        if not isinstance(item, tuple):
            self._dropped += len(item)
            self._size -= weight(item)
        else:
            self._writer.inbox.append(item)

    def when_written(self, done: Done) -> None:
        """Have ``done`` called when everything noted so far is on the disk.

        Or at once when it cannot be written, with the reason: nobody must wait for a disk.
        """
        if self._closed:
            self._answer(done, None, "the task database is closed")
        else:
            self._writer.commands.put(("tell", None, done))

    # -- questions -------------------------------------------------------------------------

    def query(
        self,
        done: Done,
        where: Mapping[str, Any] | None = None,
        keys: Iterable[str] | None = None,
        limit: int = ANSWER_ROWS,
    ) -> None:
        """Ask for the records of tasks; ``done(records, error)`` is called by :meth:`poll`.

        ``records`` is a list of dicts in the order of submission, times as aware datetimes;
        it is None when ``error`` is not empty.  Raises QueryError at once for a query that
        makes no sense.
        """
        condition, shape = compile_query(where), Shape(keys)
        self._ask(lambda db: reading.records(db, condition, shape, limit), done)

    def history(self, done: Done, limit: int = MAX_ROWS) -> None:
        """Ask for the msg_ids of the newest tasks, in the order of submission."""
        self._ask(lambda db: reading.history(db, limit), done)

    def payloads(self, done: Done, where: Mapping[str, Any], kind: int) -> None:
        """Ask for what is kept of tasks: a dict of msg_id and bytes, 64 MiB at the most."""
        condition = compile_query(where)
        self._ask(lambda db: reading.payloads(db, condition, kind, ANSWER_BYTES), done)

    def tasks(self, done: Done, names: list[str], most: int = ANSWER_BYTES) -> None:
        """Ask for everything kept of the tasks with these msg_ids; see reading.tasks."""
        self._ask(lambda db: reading.tasks(db, names, most), done)

    def purge(self, done: Done, where: Mapping[str, Any] | None = None) -> None:
        """Remove finished tasks; answers ``{"purged": n, "unfinished": m}``; the m stay."""
        condition = compile_query(where)
        self._ask(lambda db: db.purge(condition), done, "do")

    def desert(self) -> None:
        """End the unfinished tasks of all clients that nobody has named (:meth:`client`).

        For a controller that begins and has named those whose tasks go on: the clients of
        another one get no results any more.  It is done when there is time, and before the
        next question is answered; not before the end, which is waited for.
        """
        if not self._closed:
            self._writer.commands.put(("desert", None, None))

    def counts(self, done: Done) -> None:
        """Ask for figures about what is kept, where, and what is wrong with it if anything."""
        writer = self._writer

        def count(db: Any) -> dict[str, Any]:
            figures: dict[str, Any] = db.counts()
            return figures | {"lost": writer.lost + self._dropped, "problem": writer.problem}

        self._ask(count, done, "do")

    def _ask(self, task: Task, done: Done, word: str = "ask") -> None:
        if self._closed:
            self._answer(done, None, "the task database is closed")
        else:
            self._writer.commands.put((word, task, done))

    # -- answers ---------------------------------------------------------------------------

    def _tell(self, text: str) -> None:
        self._answer(None, text, "")

    def _answer(self, done: Done | None, value: Any, error: str) -> None:
        self._out.append((done, value, error))
        try:
            os.write(self._write, b"!")
        except (BlockingIOError, OSError):
            pass  # full: it is readable already; closed: close() looks by itself

    def poll(self) -> None:
        """Call back with the answers that are there, and say what is to be said."""
        if self._read >= 0:
            try:
                os.read(self._read, 65_536)
            except BlockingIOError:
                pass
        while self._out:
            done, value, error = self._out.popleft()
            if done is None:
                self._say(value)
            else:
                done(value, error)

    def close(self, timeout: float) -> bool:
        """Wait until all is written, at most so many seconds; tell whether all ever noted was.

        What was asked before is answered first.  The descriptor is closed: take it out of
        the loop before.
        """
        if not self._closed:
            self._closed = True
            self._writer.commands.put(("end", None, None))
        self._writer.thread.join(timeout)
        ended = not self._writer.thread.is_alive()
        self.poll()
        if not ended:
            self._say(
                f"the task database did not finish writing within {timeout:g} s; what is not"
                " written is lost when this process ends"
            )
            return False
        if self._read >= 0:
            os.close(self._read)
            os.close(self._write)
            self._read = self._write = -1
        return self._writer.complete and not self._dropped
