"""What can be asked about a task: the keys of a query and how each is told.

The names are those of ipyparallel's task records as far as we have what they mean, and
ours for what it lacks (``engine_id``, ``status``, ``attempt``, ``label``, ...).  A key is
an SQL expression that is written here and nowhere else, so nothing a client sends ever
becomes part of a statement.

Pure: knows the names of the tables (:mod:`ipclusterz.store.schema`), opens nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from msgspec import Struct

from ipclusterz.core.message import COUNTER_BITS, Channel, Op, Status

COUNTER = (1 << COUNTER_BITS) - 1

WORK = 0
"""Kind of a payload: the encoded task, to be run again or for the first time."""

RESULT = 1
"""Kind of a payload: the encoded result, until its client has it."""

STDOUT = 1
STDERR = 2


class QueryError(ValueError):
    """A query that means nothing; the text names what was meant, perhaps."""


class Kind(Enum):
    """What the values of a key are, in a query."""

    TEXT = "text"
    WHOLE = "a whole number"
    TIME = "a time (datetime, seconds since the epoch, or ISO text)"
    WORD = "a word"
    TASK = "a msg_id"
    SHOWN = "nothing"


class Key(Struct, frozen=True):
    """One key: its expression, the kind of its values, and how a value is shown."""

    name: str
    sql: str
    kind: Kind
    show: Callable[[Any], Any] | None = None
    words: dict[str, int] | None = None
    instead: str = ""
    usual: bool = True  # shown when no keys were named


def instant(seconds: float | None) -> datetime | None:
    """Return seconds since the epoch as an aware datetime in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _words(members: Iterable[Any]) -> dict[str, int]:
    return {member.name.lower(): int(member) for member in members}


def _word(name: str, sql: str, members: Iterable[Any]) -> Key:
    words = _words(members)
    back = {value: word for word, value in words.items()}
    return Key(name, sql, Kind.WORD, lambda v: back.get(v, v), words)


def _payload(kind: int) -> str:
    return f"(SELECT p.data FROM payloads p WHERE p.key = t.key AND p.kind = {kind})"


def _output(stream: int) -> str:
    return f"(SELECT o.text FROM outputs o WHERE o.key = t.key AND o.stream = {stream})"


def _text(value: Any) -> Any:
    return "" if value is None else value


def _buffers(value: Any) -> list[Any]:
    return [] if value is None else [value]


_ALL = (
    Key("msg_id", f"(c.uuid || '_' || (t.key & {COUNTER}))", Kind.TASK),
    Key("client_uuid", "c.uuid", Kind.TEXT),
    Key("engine_id", "e.id", Kind.WHOLE),
    Key("engine_uuid", "e.uuid", Kind.TEXT),
    Key("engine_host", "e.host", Kind.TEXT),
    Key("submitted", "t.submitted", Kind.TIME, instant),
    Key("started", "t.started", Kind.TIME, instant),
    Key("completed", "t.finished", Kind.TIME, instant),
    Key("received", "t.received", Kind.TIME, instant),
    Key("resubmitted", "t.resubmitted", Kind.TEXT),
    _word("queue", "t.channel", (Channel.DIRECT, Channel.TASK, Channel.CONTROL)),
    _word("op", "t.op", Op),
    _word("status", "t.status", Status),
    Key("attempt", "t.attempt", Kind.WHOLE),
    Key("label", "t.label", Kind.TEXT),
    Key(
        "function",
        "coalesce(nullif(f.name, ''),"
        " CASE typeof(t.fn) WHEN 'blob' THEN lower(hex(t.fn)) ELSE t.fn END)",
        Kind.TEXT,
    ),
    Key("ename", "t.ename", Kind.TEXT),
    Key("evalue", "t.evalue", Kind.TEXT),
    Key("error", "(t.ename || ': ' || coalesce(t.evalue, ''))", Kind.TEXT),
    Key("stdout", _output(STDOUT), Kind.TEXT, _text),
    Key("stderr", _output(STDERR), Kind.TEXT, _text),
    Key(
        "buffers",
        f"coalesce(t.work, {_payload(WORK)})",
        Kind.SHOWN,
        _buffers,
        instead="function and label",
        usual=False,
    ),
    Key(
        "result_buffers",
        f"coalesce(t.result, {_payload(RESULT)})",
        Kind.SHOWN,
        _buffers,
        instead="status and error",
        usual=False,
    ),
)

KEYS: dict[str, Key] = {key.name: key for key in _ALL}

# Names of ipyparallel's records that group what we keep apart: what they are made of.
GROUPS: dict[str, tuple[str, ...]] = {
    "header": ("msg_id", "client_uuid", "op", "submitted"),
    "metadata": ("label", "queue"),
    "content": ("function",),
    "result_header": ("received",),
    "result_metadata": ("engine_uuid", "engine_id", "started", "completed", "status"),
    "result_content": ("status", "ename", "evalue"),
}

USUAL: tuple[str, ...] = tuple(key.name for key in _ALL if key.usual)


def find(name: Any) -> Key:
    """Return the key that a query names; QueryError with the nearest known one if none."""
    key = KEYS.get(name) if isinstance(name, str) else None
    if key is not None:
        return key
    if name in GROUPS:
        parts = ", ".join(GROUPS[name])
        raise QueryError(f"{name!r} can be shown, not asked for: ask for {parts}")
    raise QueryError(unknown("key", name, (*KEYS, *GROUPS)))


def unknown(what: str, name: Any, known: Iterable[str]) -> str:
    """Say that there is no such key or operator, and which is nearest or which there are."""
    from difflib import get_close_matches  # only when something is wrong

    names = list(known)
    text = name if isinstance(name, str) else repr(name)
    near = get_close_matches(text, names, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
    return f"there is no {what} {_short(name)} in a task query: {hint}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


class Shape:
    """The columns that a query asks for, and the records made of what comes back."""

    def __init__(self, names: Iterable[str] | None = None) -> None:
        if isinstance(names, str):
            names = (names,)
        wanted = list(dict.fromkeys(USUAL if names is None else ("msg_id", *names)))
        for name in wanted:
            if name not in GROUPS:
                _check(name)
        parts = [p for name in wanted for p in GROUPS.get(name, (name,))]
        self._plain = [name for name in wanted if name not in GROUPS]
        self._groups = [name for name in wanted if name in GROUPS]
        self._columns = [KEYS[name] for name in dict.fromkeys([*self._plain, *parts])]
        self.sql = ", ".join(key.sql for key in self._columns)

    def records(self, rows: Iterable[tuple[Any, ...]]) -> list[dict[str, Any]]:
        """Make a record of each row."""
        names = [key.name for key in self._columns]
        shows = [(key.name, key.show) for key in self._columns if key.show is not None]
        made = []
        for row in rows:
            record = dict(zip(names, row, strict=True))
            for name, show in shows:
                record[name] = show(record[name])
            made.append(self._grouped(record) if self._groups else record)
        return made

    def _grouped(self, record: dict[str, Any]) -> dict[str, Any]:
        made = {name: record[name] for name in self._plain}
        for name in self._groups:
            made[name] = {part: record[part] for part in GROUPS[name]}
        return made


def _check(name: Any) -> None:
    if not isinstance(name, str) or name not in KEYS:
        raise QueryError(unknown("key", name, (*KEYS, *GROUPS)))
