"""Which engines: from what users write to engine ids.

Pure: knows ids only.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ipclusterz.error import EngineError


class NoSuchEngine(EngineError, IndexError):
    """No engine has this id; also an IndexError, which is what sequences raise."""

    __str__ = Exception.__str__


def choose(
    spec: Any, ids: Sequence[int], departed: Mapping[int, str] | None = None
) -> int | list[int]:
    """Return the engine id, or the list of ids, that ``spec`` means among ``ids``.

    ``spec`` is an id, a negative number (counted from the end), a slice (by position), an
    iterable of ids, or ``'all'`` (or None).  Raises NoSuchEngine and TypeError.

    >>> choose(slice(None, None, 2), [0, 1, 2, 5]), choose(-1, [0, 1, 2, 5])
    ([0, 2], 5)
    """
    if spec is None or (isinstance(spec, str) and spec == "all"):
        return list(ids)
    if isinstance(spec, slice):
        return list(ids[spec])
    if isinstance(spec, str):
        raise TypeError(f"targets={spec!r}: the only text that names engines is 'all'")
    if isinstance(spec, Iterable):
        return [_one(item, ids, departed) for item in spec]
    return _one(spec, ids, departed)


def _one(spec: Any, ids: Sequence[int], departed: Mapping[int, str] | None) -> int:
    try:
        number = operator.index(spec)
    except TypeError:
        number = -1
        if not isinstance(spec, int):
            raise TypeError(
                "engines are chosen by int, slice, iterable of ints or 'all', not by"
                f" {type(spec).__name__}"
            ) from None
    if isinstance(spec, bool):
        raise TypeError(f"{spec!r} is no engine id")
    if number < 0 and -number <= len(ids):
        return ids[number]
    if number not in ids:
        raise missing([number], ids, departed)
    return number


def missing(
    gone: Sequence[int], ids: Sequence[int], departed: Mapping[int, str] | None = None
) -> NoSuchEngine:
    """Make the error for engine ids that are not there; ``departed`` says why, by id."""
    which = "engine" if len(gone) == 1 else "engines"
    there = _spans(ids) if ids else "none"
    why = "".join(
        f"; engine {number} ended: {departed[number]}"
        for number in gone[:3]
        if departed and number in departed
    )
    return NoSuchEngine(
        f"no such {which}: {', '.join(map(str, gone[:20]))} (there are: {there}){why};"
        " see rc.ids"
    )


def _spans(ids: Sequence[int]) -> str:
    """Write sorted ids shortly.

    >>> _spans([0, 1, 2, 5])
    '0-2, 5'
    """
    spans: list[list[int]] = []
    for number in sorted(ids):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(f"{a}-{b}" if a != b else str(a) for a, b in spans[:20])
