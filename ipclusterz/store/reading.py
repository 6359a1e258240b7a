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
