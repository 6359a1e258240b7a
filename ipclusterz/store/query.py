"""Queries in the manner of MongoDB, turned into a condition in SQL with parameters.

``{"engine_id": {"$in": [0, 1]}, "completed": None}`` becomes a text that holds only what is
written in this module and in :mod:`ipclusterz.store.keys`, and a list of values.  All that
is in one dict must hold.  A value that is no dict is compared with ``$eq``; None stands for
"not known (yet)", as in ``{"completed": None}``: what is not finished.

=============================  =======================================================
operator                       true when
=============================  =======================================================
``$eq`` ``$ne``                equal, not equal (None included)
``$lt`` ``$lte`` ``$gt`` ``$gte``   known, and less or greater
``$in`` ``$nin``               one of the list (None included), none of it
``$all``                       equal to everything in the list (a key has one value)
``$mod``                       ``[divisor, remainder]``, of whole numbers
``$exists``                    known (True), not known (False)
``$not``                       the condition inside does not hold
``$and`` ``$or`` ``$nor``      all, any, none of the queries in the list
=============================  =======================================================

Pure.  SQL's logic has three values and MongoDB's two: what is unknown counts as false, so
each negation turns NULL into false first; everywhere else the two agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

from ipclusterz.core.message import COUNTER_BITS
from ipclusterz.store.keys import COUNTER, Key, Kind, QueryError, find, unknown

DEPTH = 32
"""How deep a query may be nested."""

TERMS = 500
"""How many conditions a query may have in all; a list counts as one."""

_WHOLE = 1 << 63

Condition = tuple[str, list[Any]]


def compile_query(query: Mapping[str, Any] | None) -> Condition:
    """Return the condition for a query and the values of its parameters.

    >>> compile_query({"attempt": {"$gt": 1}})
    ('t.attempt > ?', [1])
    >>> compile_query({})
    ('1', [])

    Raises QueryError for a key or operator that is not known, with the nearest one that is,
    and for a value that a key cannot have.
    """
    compiler = _Compiler()
    return compiler.query({} if query is None else query, 0), compiler.values


class _Compiler:
    """Collects the values while the text is built."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._terms = 0

    def _value(self, value: Any) -> str:
        self.values.append(value)
        return "?"

    # -- structure -------------------------------------------------------------------------

    def query(self, query: Any, depth: int) -> str:
        """A dict of keys and logical operators, all of which must hold."""
        if not isinstance(query, Mapping):
            raise QueryError(f"a query is a dict of keys and conditions, not {_short(query)}")
        if depth > DEPTH:
            raise QueryError(f"the query is nested more than {DEPTH} deep")
        parts = [self._entry(name, value, depth) for name, value in query.items()]
        return _join(parts, " AND ", "1")

    def _entry(self, name: Any, value: Any, depth: int) -> str:
        self._terms += 1
        if self._terms > TERMS:
            raise QueryError(f"the query has more than {TERMS} conditions: use $in with a list")
        if isinstance(name, str) and name.startswith("$"):
            return self._logical(name, value, depth)
        key = find(name)
        if key.kind is Kind.SHOWN and not (
            isinstance(value, Mapping) and set(value) == {"$exists"}
        ):
            raise QueryError(
                f"{key.name!r} can be shown, and asked for with $exists only;"
                f" see also {key.instead}"
            )
        if isinstance(value, Mapping):
            return self._conditions(key, value, depth)
        return self._equal(key, value)

    def _logical(self, name: str, value: Any, depth: int) -> str:
        if name == "$not":
            return _negated(self.query(value, depth + 1))
        if name not in ("$and", "$or", "$nor"):
            if name in _OPERATORS:
                raise QueryError(
                    f"{name} stands inside a key: {{'engine_id': {{'{name}': …}}}}"
                )
            raise QueryError(unknown("operator", name, ("$and", "$or", "$nor", "$not")))
        parts = [self.query(part, depth + 1) for part in _list(name, value)]
        if not parts:
            raise QueryError(f"{name} takes a list of at least one query")
        if name == "$and":
            return _join(parts, " AND ", "1")
        either = _join(parts, " OR ", "0")
        return either if name == "$or" else _negated(either)

    def _conditions(self, key: Key, conditions: Mapping[Any, Any], depth: int) -> str:
        if not conditions:
            raise QueryError(f"the condition on {key.name!r} is empty: give an operator")
        parts = []
        for name, value in conditions.items():
            self._terms += 1
            if self._terms > TERMS:
                raise QueryError(f"the query has more than {TERMS} conditions")
            if name == "$not":
                parts.append(self._inverse(key, value, depth + 1))
                continue
            operator = _OPERATORS.get(name) if isinstance(name, str) else None
            if operator is None:
                raise QueryError(unknown("operator", name, (*_OPERATORS, "$not")))
            parts.append(operator(self, key, value))
        return _join(parts, " AND ", "1")

    def _inverse(self, key: Key, value: Any, depth: int) -> str:
        if depth > DEPTH:
            raise QueryError(f"the query is nested more than {DEPTH} deep")
        if not isinstance(value, Mapping):
            raise QueryError(f"$not takes a dict of operators, not {_short(value)}; or use $ne")
        return _negated(self._conditions(key, value, depth))

    # -- operators -------------------------------------------------------------------------

    def _equal(self, key: Key, value: Any) -> str:
        if value is None:
            return f"{key.sql} IS NULL"
        made = _convert(key, value)
        if key.kind is Kind.TASK:
            uuid, number = _task(made)
            client = self._value(uuid)
            return (
                f"t.key = ((SELECT k.id FROM clients k WHERE k.uuid = {client})"
                f" << {COUNTER_BITS} | {self._value(number)})"
            )
        if key.name == "client_uuid":  # a range of the primary key, not a scan
            first, last = self._value(made), self._value(made)
            return (
                f"(t.key >= (SELECT k.id << {COUNTER_BITS} FROM clients k WHERE k.uuid ="
                f" {first}) AND t.key <= (SELECT k.id << {COUNTER_BITS} | {COUNTER} FROM"
                f" clients k WHERE k.uuid = {last}))"
            )
        return f"{key.sql} = {self._value(made)}"

    def _unequal(self, key: Key, value: Any) -> str:
        if value is None:
            return f"{key.sql} IS NOT NULL"
        return _negated(self._equal(key, value))

    def _in(self, key: Key, value: Any) -> str:
        values = _list("$in", value)
        known = [_convert(key, one) for one in values if one is not None]
        parts = []
        if known and key.kind is Kind.TASK:
            wanted = json.dumps([_task(one) for one in known])
            parts.append(
                f"t.key IN (SELECT k.id << {COUNTER_BITS} | json_extract(j.value, '$[1]')"
                f" FROM json_each({self._value(wanted)}) j JOIN clients k"
                " ON k.uuid = json_extract(j.value, '$[0]'))"
            )
        elif known and key.kind is Kind.TIME:  # a float does not always survive JSON in SQLite
            if len(known) > TERMS:
                raise QueryError(f"{key.name!r}: more than {TERMS} times in a list")
            parts.append(f"{key.sql} IN ({', '.join(map(self._value, known))})")
        elif known:
            listed = self._value(json.dumps(known))
            parts.append(f"{key.sql} IN (SELECT j.value FROM json_each({listed}) j)")
        if len(known) < len(values):
            parts.append(f"{key.sql} IS NULL")
        return _join(parts, " OR ", "0")

    def _not_in(self, key: Key, value: Any) -> str:
        return _negated(self._in(key, _list("$nin", value)))

    def _all(self, key: Key, value: Any) -> str:
        values = list(_list("$all", value))
        different = [one for i, one in enumerate(values) if one not in values[:i]]
        if len(different) != 1:
            for one in different:
                if one is not None:
                    _convert(key, one)  # for the error
            return "0"  # a key has one value; and everything of nothing is nothing, as there
        return self._equal(key, different[0])

    def _modulo(self, key: Key, value: Any) -> str:
        if key.kind is not Kind.WHOLE:
            raise QueryError(f"$mod is for whole numbers, and {key.name!r} is {key.kind.value}")
        pair = _list("$mod", value)
        if len(pair) != 2 or not all(_whole(one) for one in pair) or pair[0] == 0:
            raise QueryError("$mod takes [divisor, remainder], the divisor not 0")
        return f"{key.sql} % {self._value(pair[0])} = {self._value(pair[1])}"

    def _exists(self, key: Key, value: Any) -> str:
        if not isinstance(value, (bool, int)):
            raise QueryError(f"$exists takes True or False, not {_short(value)}")
        return f"{key.sql} IS NOT NULL" if value else f"{key.sql} IS NULL"

    def _order(self, key: Key, value: Any, sign: str) -> str:
        if key.kind is Kind.WORD:
            raise QueryError(f"{key.name!r} is a word and has no order: use $in with a list")
        if value is None:
            raise QueryError(f"{key.name!r} cannot be less or greater than None: use $exists")
        made = _convert(key, value)
        return f"{key.sql} {sign} {self._value(made)}"


def _ordering(sign: str) -> Callable[[_Compiler, Key, Any], str]:
    return lambda compiler, key, value: compiler._order(key, value, sign)


_OPERATORS: dict[str, Callable[[_Compiler, Key, Any], str]] = {
    "$eq": _Compiler._equal,
    "$ne": _Compiler._unequal,
    "$lt": _ordering("<"),
    "$lte": _ordering("<="),
    "$gt": _ordering(">"),
    "$gte": _ordering(">="),
    "$in": _Compiler._in,
    "$nin": _Compiler._not_in,
    "$all": _Compiler._all,
    "$mod": _Compiler._modulo,
    "$exists": _Compiler._exists,
}


def _negated(text: str) -> str:
    return f"NOT coalesce({text}, 0)"


def _join(parts: list[str], word: str, nothing: str) -> str:
    if not parts:
        return nothing
    return parts[0] if len(parts) == 1 else "(" + word.join(parts) + ")"


def _list(name: str, value: Any) -> Sequence[Any]:
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, (set, frozenset, range)):
        return list(value)
    raise QueryError(f"{name} takes a list, not {_short(value)}")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_WHOLE <= value < _WHOLE


def _task(msg_id: str) -> tuple[str, int]:
    """Take a msg_id apart; one that is none belongs to nobody, and matches nothing."""
    uuid, mark, number = msg_id.rpartition("_")
    if mark and number.isascii() and number.isdigit() and len(number) <= 13:
        counter = int(number)
        if counter <= COUNTER and str(counter) == number:
            return uuid, counter
    return "", 0


def _convert(key: Key, value: Any) -> Any:
    """Return a value as the database holds it; QueryError if the key has no such values."""
    kind = key.kind
    if kind is Kind.TIME:
        return _seconds(key, value)
    if kind is Kind.WHOLE:
        if _whole(value) or (isinstance(value, float) and value.is_integer()):
            return int(value)
    elif kind is Kind.WORD:
        words = key.words or {}
        if isinstance(value, str):
            if value in words:
                return words[value]
            raise QueryError(unknown(key.name, value, words))
    elif isinstance(value, str):
        return value
    raise QueryError(f"{key.name!r} is compared with {kind.value}, not with {_short(value)}")


def _seconds(key: Key, value: Any) -> float:
    """A naive datetime is taken as local time, as everywhere in Python."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise QueryError(f"{key.name!r}: {_short(value)} is no ISO time") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    try:
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            seconds = float(value)
            if seconds == seconds:
                return seconds
    except (OverflowError, OSError, ValueError):
        pass
    raise QueryError(f"{key.name!r} is compared with {key.kind.value}, not {_short(value)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
