"""What clients ask of the task database: records, history, payloads.

Runs in the writer's thread and reads in pieces: between two, the hub's own thread runs.
"""

from __future__ import annotations

import time
from typing import Any

from ipclusterz.store import schema
from ipclusterz.store.database import Database, Row
from ipclusterz.store.keys import COUNTER, QueryError, Shape
from ipclusterz.store.pending import PAUSE
from ipclusterz.store.query import Condition

FETCH = 500
"""Rows read at once."""


def _read(database: Database, text: str, values: list[Any]) -> list[Row]:
    cursor = database.connection.execute(text, values)
    rows: list[Row] = []
    while piece := cursor.fetchmany(FETCH):
        rows += piece
        if len(piece) == FETCH:
            time.sleep(PAUSE)
    return rows


def records(
    database: Database, where: Condition, shape: Shape, limit: int
) -> list[dict[str, Any]]:
    """Return the records that match, those submitted first first."""
    condition, values = where
    text = (
        f"SELECT {shape.sql}{schema.FROM} WHERE {condition} ORDER BY t.submitted, t.key LIMIT ?"
    )
    rows = _read(database, text, [*values, limit + 1])
    if len(rows) > limit:
        raise QueryError(
            f"more than {limit} tasks match: ask for fewer, by submitted or status"
        )
    made: list[dict[str, Any]] = []
    for first in range(0, len(rows), FETCH):
        made += shape.records(rows[first : first + FETCH])
        if len(rows) > FETCH:
            time.sleep(PAUSE)
    return made


def history(database: Database, limit: int) -> list[str]:
    """Return the msg_ids of the newest tasks, those submitted first first."""
    text = (
        f"SELECT c.uuid || '_' || (t.key & {COUNTER}){schema.FROM}"
        " ORDER BY t.submitted DESC, t.key DESC LIMIT ?"
    )
    return [name for (name,) in reversed(_read(database, text, [limit]))]


def payloads(database: Database, where: Condition, kind: int, most: int) -> dict[str, bytes]:
    """Return what is kept of the tasks that match, by msg_id, at most ``most`` bytes."""
    condition, values = where
    cursor = database.connection.execute(
        f"SELECT c.uuid, t.key & {COUNTER}, p.data{schema.FROM}"
        f" JOIN payloads p ON p.key = t.key AND p.kind = ? WHERE {condition}"
        " ORDER BY t.submitted, t.key",
        [kind, *values],
    )
    found: dict[str, bytes] = {}
    total = 0
    for uuid, counter, data in cursor:
        total += len(data)
        if found and total > most:
            break
        found[f"{uuid}_{counter}"] = data
    cursor.close()
    return found


_TASK = (
    "SELECT t.channel, t.op, t.fn, f.data, t.label, t.work, t.attempt, e.id, t.status,"
    " t.submitted, t.started, t.finished, t.received, t.result, t.ename, t.evalue,"
    " (SELECT text FROM outputs o WHERE o.key = t.key AND o.stream = 1),"
    " (SELECT text FROM outputs o WHERE o.key = t.key AND o.stream = 2)"
)
_NAMES = (
    *("channel", "op", "fn", "function", "label", "work", "attempt", "engine", "status"),
    *("submitted", "started", "finished", "received", "result", "ename", "evalue"),
    *("stdout", "stderr"),
)


def tasks(database: Database, names: list[str], most: int) -> dict[str, dict[str, Any] | None]:
    """Return everything kept of the first of these tasks, about ``most`` bytes in all.

    Of a msg_id that is not known the value is None.  At least one is answered for; those
    that do not fit are to be asked for again.
    """
    found: dict[str, dict[str, Any] | None] = {}
    total = 0
    for name in names:
        key = database.key_of(name)
        row = None
        if key is not None:
            row = database.connection.execute(
                f"{_TASK}{schema.FROM} WHERE t.key = ?", [key]
            ).fetchone()
        if row is not None:
            total += 200 + sum(len(value) for value in row if isinstance(value, bytes | str))
        if found and total > most:
            break
        found[name] = None if row is None else dict(zip(_NAMES, row, strict=True))
    return found
