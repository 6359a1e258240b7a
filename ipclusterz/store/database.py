"""The task database itself: one connection, and what is written, pruned and asked.

Belongs to one thread.  Raises sqlite3.Error and OSError as they come: what to do about
them is the writer's business (:mod:`ipclusterz.store.writer`).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

import msgspec

from ipclusterz.core.message import COUNTER_BITS, UNDECODABLE, Records, Status
from ipclusterz.core.naming import function_name
from ipclusterz.core.recorder import unfold
from ipclusterz.store import place, schema
from ipclusterz.store.keys import COUNTER
from ipclusterz.store.opening import Say, is_damage, open_file, open_memory
from ipclusterz.store.pending import PAUSE, Notes, Pending
from ipclusterz.store.query import Condition

TEXT_CHARACTERS = 64 * 1024
"""Characters of a task's output that are kept, for each of its two streams."""

ERROR_CHARACTERS = 1_000
"""Characters of an error's text that are kept."""

MANY, MUCH = 1_000, 16 * 1024 * 1024
"""Engines, and bytes of functions, above which it is looked for those not needed any more."""

STEP = 1_000
"""Tasks pruned at once."""

Row = tuple[Any, ...]

_NOT_BEGUN = (None,) * len(schema.BEGUN)
_NOT_ENDED = (None,) * len(schema.ENDED)
_ENGINE = schema.COLUMNS.index("engine")
_DESERTED = ("ControllerLost", "the controller ended before it was known how this task did")
_DONE = "t.received IS NOT NULL"

# Values that SQLite cannot hold; everything else that goes wrong is the database's trouble.
_UNFIT = (
    *(sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.IntegrityError),
    *(sqlite3.DataError, OverflowError, ValueError, TypeError),
)


_decode_names = msgspec.msgpack.Decoder(
    tuple[dict[int, str], dict[int, tuple[str, str]]]
).decode
_decode_records = msgspec.msgpack.Decoder(Records).decode


def notes_of(data: bytes) -> Notes:
    """Return what a scheduler shipped, decoded."""
    records = unfold(_decode_records(data))
    return Notes(
        begun=records.begun,
        ended=records.ended,
        outputs=records.outputs,
        functions=records.functions,
        size=records.size,
        whole=records.whole,
    )


def _keys_of(row: int) -> tuple[int, int]:
    """Return the first and the last key that tasks of a client may have."""
    return row << COUNTER_BITS, row << COUNTER_BITS | COUNTER


class Shifts(dict[int, int]):
    """From a client's number on the wire: what is added to its keys to make ours."""

    def __init__(self, database: Database, names: dict[int, str]) -> None:
        self._database = database
        self._names = names

    def __missing__(self, number: int) -> int:
        uuid = self._names.get(number, f"unknown{number}")
        made = (self._database.client_row(uuid) - number) << COUNTER_BITS
        self[number] = made
        return made


class EngineRows(dict[int, "int | None"]):
    """From an engine's number to its row."""

    def __init__(self, database: Database, names: dict[int, tuple[str, str]]) -> None:
        self._database = database
        self._names = names

    def __missing__(self, engine: int) -> int | None:
        uuid, host = self._names.get(engine, ("", ""))
        made = self._database.engine_row(engine, uuid, host) if engine >= 0 else None
        self[engine] = made
        return made


class Database:
    """An open database; ``rows`` is never less than the number of tasks in it.

    It is that number with what was written twice since they were counted.
    """

    def __init__(self, path: str | None, say: Say) -> None:
        try:
            self._open(path, say)
        except sqlite3.DatabaseError as error:
            if not is_damage(error) or self.path is None:
                raise
            aside = place.move_aside(self.path, "damaged")
            say(
                f"the task database {self.path} is damaged ({error}); it was renamed to"
                f" {aside} and a new one is begun"
            )
            self._open(path, say)

    def _open(self, path: str | None, say: Say) -> None:
        self.path = path
        self.journal = "memory"
        self._identity: tuple[int, int] | None = None
        if path is None:
            self.connection = open_memory()
        else:
            self.connection, self.path, self.journal = open_file(path, say)
            self._identity = place.identity(self.path)
        try:
            self._load()
        except BaseException:
            self.connection.close()
            raise

    def _load(self) -> None:
        db = self.connection
        self.rows, self._since = db.execute(
            "SELECT max(rows), max(since) FROM tally"
        ).fetchone()
        if self.rows is None or self._since is None:  # somebody emptied it
            self.rows, self._since = self._count(), 0
            db.execute("INSERT INTO tally VALUES (?, ?)", (self.rows, self._since))
        self._told = (self.rows, self._since)
        self.tidy()
        self._clients = {uuid: row for row, uuid in db.execute("SELECT id, uuid FROM clients")}
        self._engines = {
            (uuid or "", number): row
            for row, number, uuid in db.execute("SELECT row, id, uuid FROM engines")
        }
        self._new_clients: list[Row] = []
        self._new_engines: list[Row] = []
        # Keys whose payloads are kept; few, and asked for with each delivery.
        self.kept = {key for (key,) in db.execute("SELECT DISTINCT key FROM payloads")}
        self._outputs = bool(db.execute("SELECT 1 FROM outputs LIMIT 1").fetchone())
        self.journal_bytes: int = db.execute(
            "SELECT coalesce(sum(length(data)), 0) FROM journal"
        ).fetchone()[0]
        self._shifts: Shifts | None = None
        self._engine_rows: EngineRows | None = None
        self._names = b""
        self._bad = 0

    def tidy(self) -> None:
        """Forget clients, and many engines and functions, of which there is no task left.

        To look for the last two means to look at every task, so it has to be worth it.
        """
        db = self.connection
        empty = db.execute(
            "SELECT id FROM clients WHERE NOT EXISTS (SELECT 1 FROM tasks WHERE key >="
            f" id << {COUNTER_BITS} AND key <= (id << {COUNTER_BITS} | {COUNTER}))"
        ).fetchall()
        for (row,) in empty:
            # Whoever gets the number next must not find anything under it.
            for table in ("outputs", "payloads"):
                db.execute(f"DELETE FROM {table} WHERE key BETWEEN ? AND ?", _keys_of(row))
            db.execute("DELETE FROM settled WHERE client = ?", (row,))
            db.execute("DELETE FROM clients WHERE id = ?", (row,))
        many = max(MANY, self.rows // 10)
        if db.execute("SELECT count(*) FROM engines").fetchone()[0] > many:
            db.execute(
                "DELETE FROM engines WHERE row NOT IN (SELECT engine FROM tasks WHERE engine"
                " IS NOT NULL)"
            )
        size = "SELECT coalesce(sum(length(data)), 0) FROM functions"
        if db.execute(size).fetchone()[0] > MUCH:
            db.execute(
                "DELETE FROM functions WHERE digest NOT IN"
                " (SELECT fn FROM tasks WHERE fn IS NOT NULL)"
            )

    def _count(self) -> int:
        return int(self.connection.execute("SELECT count(*) FROM tasks").fetchone()[0])

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()

    def moved(self) -> bool:
        """Tell whether the file was deleted or replaced under us."""
        return self._identity is not None and place.identity(self.path or "") != self._identity

    def probe(self) -> None:
        """Write something that changes nothing, to see whether it is possible."""
        self.connection.execute(f"PRAGMA user_version = {schema.VERSION}")

    # -- names -----------------------------------------------------------------------------

    def client_row(self, uuid: str) -> int:
        """Return the row of a client, which is made if need be."""
        row = self._clients.get(uuid)
        if row is None:
            row = self._clients[uuid] = max(self._clients.values(), default=0) + 1
            self._new_clients.append((row, uuid))
        return row

    def key_of(self, msg_id: str) -> int | None:
        """Return the key of a task in these tables, or None if its client is not known."""
        uuid, _, counter = msg_id.rpartition("_")
        row = self._clients.get(uuid)
        if row is None or not counter.isdecimal() or len(counter) > 13:
            return None
        return int(row) << COUNTER_BITS | int(counter)

    def engine_row(self, engine: int, uuid: str, host: str) -> int:
        """Return the row of an engine, which is made if need be."""
        row = self._engines.get((uuid, engine))
        if row is None:
            row = self._engines[uuid, engine] = max(self._engines.values(), default=0) + 1
            self._new_engines.append((row, engine, uuid or None, host or None))
        return row

    def _use(self, names: bytes, clients: Any, engines: Any) -> None:
        """Take note of what numbers stand for."""
        if names != self._names or self._shifts is None:
            self._names = names
            self._shifts = Shifts(self, clients)
            self._engine_rows = EngineRows(self, engines)

    # -- writing ---------------------------------------------------------------------------

    def write(self, pending: Pending) -> int:
        """Write what was noted, all or nothing; return how many made no sense."""
        self._use(pending.names, pending.clients, pending.engines)
        with self._transaction():
            self._write_all(pending)
        return self._bad

    def put_aside(self, pending: Pending) -> None:
        """Write what was shipped as it came."""
        shipments = [(pending.names, shipment.data) for shipment in pending.raw]
        with self._transaction():
            self.connection.executemany(schema.SHIP, shipments)
        self.journal_bytes += sum(len(data) for _, data in shipments)

    def settle(self) -> int:
        """Make rows of the oldest shipment; return how many records made no sense."""
        db = self.connection
        row = db.execute("SELECT id, names, data FROM journal ORDER BY id LIMIT 1").fetchone()
        if row is None:
            self.journal_bytes = 0
            return 0
        number, names, data = row
        pending = Pending()
        try:
            pending.clients, pending.engines = _decode_names(names)
            pending.add(notes_of(data))
            bad = 0
        except (TypeError, ValueError, *UNDECODABLE):
            bad = 1
        self._use(names, pending.clients, pending.engines)
        with self._transaction():
            db.execute("DELETE FROM journal WHERE id = ?", (number,))
            self._write_all(pending)
        self.journal_bytes -= len(data)
        return self._bad + bad

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; what is counted and remembered is so only when it is there."""
        db = self.connection
        self._bad = 0
        rows, since, kept = self.rows, self._since, self.kept
        db.execute("BEGIN")
        try:
            yield
            self._tell_names()
            self._tell_rows()
            db.execute("COMMIT")
        except BaseException:
            self.rows, self._since, self.kept = rows, since, kept
            self._told = (-1, -1)
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        self._new_clients.clear()
        self._new_engines.clear()

    def _tell_names(self) -> None:
        """Write down whose the new row numbers are, with what is kept under them."""
        self.connection.executemany(schema.CLIENT, self._new_clients)
        self.connection.executemany(schema.ENGINE, self._new_engines)

    def _tell_rows(self) -> None:
        """Write down how many tasks there are, within whichever transaction changes that."""
        known = (self.rows, self._since)
        if known != self._told:
            self.connection.execute(schema.COUNTED, known)
            self._told = known

    def _write_all(self, pending: Pending) -> None:
        written = self._write_tasks(pending)
        self.rows += written
        self._since += written
        self.kept = self._write_payloads(pending)
        self._write_rest(pending)

    def _write_tasks(self, pending: Pending) -> int:
        db, new = self.connection, 0
        rows = self._rows(pending)
        size = schema.ROWS
        while part := list(islice(rows, size)):
            new += len(part)
            if new % (size * 4) == 0:
                time.sleep(PAUSE)
            if len(part) == size:
                try:
                    db.execute(schema.UPSERT_MANY, list(chain.from_iterable(part)))
                    continue
                except _UNFIT:
                    pass  # one of them cannot be written: find out which
            self._each(schema.UPSERT, part)
        return new

    def _rows(self, pending: Pending) -> Iterator[Row]:
        """Yield a row for each task; what is not known is None."""
        begun, ended = pending.begun, pending.ended
        assert self._shifts is not None and self._engine_rows is not None
        shifts, engines = self._shifts, self._engine_rows
        for whole in pending.whole:
            try:
                key = whole[0]
                yield (
                    key + shifts[key >> COUNTER_BITS],
                    *whole[1:_ENGINE],
                    engines[whole[_ENGINE]],
                    *whole[_ENGINE + 1 :],
                )
            except (ValueError, TypeError, IndexError):
                self._bad += 1
        get = begun.get
        for key, end in ended.items():
            try:
                _, attempt, engine, status, started, finished, received, *rest = end
                ename, evalue, result = rest
                row = (
                    attempt,
                    engines[engine],
                    status,
                    started or None,
                    finished or None,
                    received or time.time(),
                    ename or None,
                    evalue[:ERROR_CHARACTERS] if evalue else None,
                    result or None,
                )
                start = get(key)
                if start is None:
                    yield (key + shifts[key >> COUNTER_BITS], *_NOT_BEGUN, *row)
                else:
                    _, channel, op, fn, submitted, label, work = start
                    yield (
                        key + shifts[key >> COUNTER_BITS],
                        channel,
                        op,
                        fn or None,
                        submitted or None,
                        label or None,
                        work or None,
                        *row,
                    )
            except (ValueError, TypeError):
                self._bad += 1
        for key, start in begun.items():
            if key in ended:
                continue
            try:
                _, channel, op, fn, submitted, label, work = start
                yield (
                    key + shifts[key >> COUNTER_BITS],
                    channel,
                    op,
                    fn or None,
                    submitted or None,
                    label or None,
                    work or None,
                    *_NOT_ENDED,
                )
            except (ValueError, TypeError):
                self._bad += 1

    def _each(self, statement: str, rows: Iterable[Row]) -> None:
        """Write rows one by one; those that SQLite cannot hold are counted and left out."""
        execute = self.connection.execute
        for row in rows:
            try:
                execute(statement, row)
            except _UNFIT:
                self._bad += 1

    def _write_payloads(self, pending: Pending) -> set[int]:
        if not (pending.payloads or (pending.delivered and self.kept)):
            return self.kept
        kept = set(self.kept)
        assert self._shifts is not None
        shifts = self._shifts
        gone = {key + shifts[key >> COUNTER_BITS] for key in pending.delivered} & kept
        self._each(schema.DELIVERED, [(key,) for key in gone])
        kept -= gone
        rows = [
            (key + shifts[key >> COUNTER_BITS], kind, data)
            for (key, kind), data in pending.payloads.items()
        ]
        self._each(schema.PAYLOAD, rows)
        kept.update(row[0] for row in rows)
        return kept

    def _write_rest(self, pending: Pending) -> None:
        if pending.functions:
            self._each(
                schema.FUNCTION,
                [(key, function_name(data), data) for key, data in pending.functions.items()],
            )
        if not (pending.outputs or pending.resubmitted):
            return
        assert self._shifts is not None
        shifts = self._shifts
        self._each(
            schema.RESUBMITTED,
            [(new, key + shifts[key >> COUNTER_BITS]) for key, new in pending.resubmitted],
        )
        if pending.outputs:
            self._outputs = True
            texts: dict[tuple[int, int], list[str]] = {}
            for key, stream, text in pending.outputs:
                texts.setdefault((key + shifts[key >> COUNTER_BITS], stream), []).append(text)
            self._each(
                schema.OUTPUT,
                [
                    (key, stream, "".join(parts)[:TEXT_CHARACTERS], TEXT_CHARACTERS)
                    for (key, stream), parts in texts.items()
                ],
            )

    # -- pruning ---------------------------------------------------------------------------

    def size(self) -> int:
        """Return the bytes in use, without free pages and the journal."""
        db = self.connection
        pages, free, size = (
            int(db.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size

    def prune(self, max_rows: int, max_bytes: int, oldest: float) -> bool:
        """Remove some tasks beyond the bounds; True when there may be more to remove.

        Those that ended first go first; what its client does not have yet
        goes last, and what has not ended never goes.
        """
        removed = self._remove_before(oldest)
        if self.rows > max_rows:
            # To count means to read all of them, and what was added since may be so much more
            # than there is as tasks were written twice: worth it now and then only.
            if self._since * 20 >= max_rows:
                self.rows, self._since = self._count(), 0
            over = self.rows - max_rows
            if over > 0:
                removed += self._remove_oldest(min(over + max_rows // 100, 10 * STEP))
        if self.size() > max_bytes:
            removed += self._remove_oldest(STEP)
        self._shrink()
        return removed >= STEP

    def _remove_before(self, oldest: float) -> int:
        keys = self._keys("received < ?", (oldest, STEP))
        return self._remove(keys)

    def _remove_oldest(self, n: int) -> int:
        keys = self._keys(
            "received IS NOT NULL", (n,), " AND key NOT IN (SELECT key FROM payloads)"
        )
        if not keys:
            keys = self._keys("received IS NOT NULL", (n,))
        return self._remove(keys)

    def _keys(self, where: str, values: Row, besides: str = "") -> list[Row]:
        return self.connection.execute(
            f"SELECT key FROM tasks WHERE {where}{besides if self.kept else ''}"
            " ORDER BY received LIMIT ?",
            values,
        ).fetchall()

    def _remove(self, keys: list[Row]) -> int:
        if not keys:
            return 0
        db, rows = self.connection, self.rows
        db.execute("BEGIN")
        try:
            db.executemany("DELETE FROM tasks WHERE key = ?", keys)
            if self.kept:
                db.executemany("DELETE FROM payloads WHERE key = ?", keys)
            if self._outputs:
                db.executemany("DELETE FROM outputs WHERE key = ?", keys)
            self.rows = max(rows - len(keys), 0)
            self._tell_rows()
            db.execute("COMMIT")
        except BaseException:
            self.rows, self._told = rows, (-1, -1)
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        if self.kept:
            self.kept.difference_update(key for (key,) in keys)
        return len(keys)

    def _shrink(self) -> None:
        """Give free pages back, a few at a time, when they are a quarter of the file."""
        db = self.connection
        free = int(db.execute("PRAGMA freelist_count").fetchone()[0])
        if free > 1_000 and free * 4 > int(db.execute("PRAGMA page_count").fetchone()[0]):
            db.execute("PRAGMA incremental_vacuum(500)").fetchall()

    # -- questions -------------------------------------------------------------------------

    def purge(self, where: Condition) -> dict[str, int]:
        """Remove the finished tasks that match; return how many, and how many were not."""
        condition, values = where
        text = f"SELECT t.key{schema.FROM} WHERE {condition}"
        keys = self.connection.execute(f"{text} AND {_DONE}", values).fetchall()
        left = self.connection.execute(
            f"SELECT count(*){schema.FROM} WHERE {condition} AND NOT ({_DONE})", values
        ).fetchone()[0]
        for first in range(0, len(keys), 10 * STEP):
            self._remove(keys[first : first + 10 * STEP])
        return {"purged": len(keys), "unfinished": int(left)}

    def deserted(self, here: Collection[str]) -> list[int]:
        """Return the rows of clients, but for these, of which tasks may seem under way."""
        found = self.connection.execute("SELECT client FROM settled")
        settled = {row for (row,) in found}
        return [r for uuid, r in self._clients.items() if uuid not in here and r not in settled]

    def desert(self, row: int) -> int:
        """End the tasks of a client: their controller has; return how many were under way."""
        values = (int(Status.LOST), time.time(), *_DESERTED, *_keys_of(row))
        with self._transaction():
            lost = self.connection.execute(schema.LOST, values).rowcount
            self.connection.execute(schema.SETTLE, (row,))
        return lost

    def counts(self) -> dict[str, Any]:
        """Return figures about what is kept."""
        self.rows, self._since = self._count(), 0
        unfinished, failed = self.connection.execute(
            "SELECT coalesce(sum(received IS NULL), 0), coalesce(sum(status != ?), 0)"
            " FROM tasks",
            (int(Status.OK),),
        ).fetchone()
        return {
            "tasks": self.rows,
            "unfinished": unfinished,
            "failed": failed,
            "undelivered": len(self.kept),
            "bytes": self.size(),
            "path": self.path,
            "journal": self.journal,
        }
