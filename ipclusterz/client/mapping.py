"""How the items of a map are cut into chunks, and how many are under way at a time.

Pure: counts only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from operator import index
from typing import Any


def whole(value: Any) -> int:
    """Return an integer of any kind (numpy's as well) as an int; -1 for what is none.

    >>> whole(3), whole(3.0), whole(True)
    (3, -1, -1)
    """
    try:
        return -1 if isinstance(value, bool) else index(value)
    except TypeError:
        return -1


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of up to ``size`` items, reading no further than needed."""
    source = iter(items)
    while piece := list(islice(source, size)):
        yield piece


def growing_chunks(items: Iterable[Any], engines: int) -> Iterator[list[Any]]:
    """Yield lists of items from a source of unknown length, longer ones as it goes on.

    Each is an eighth of an engine's share of what was read before, up to 1,000: so the last
    ones, whichever they are, keep no engine busy long after the others.

    >>> [len(chunk) for chunk in growing_chunks(range(40), 1)]
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 5, 1]
    """
    source = iter(items)
    read = 0
    while piece := list(islice(source, auto_chunk(read, engines))):
        read += len(piece)
        yield piece


def auto_chunk(count: int, engines: int) -> int:
    """Return the chunk size that gives each engine about eight chunks, at most 1,000 items.

    Enough chunks that uneven ones balance out, few enough that what each costs is shared.
    """
    return max(1, min(1000, -(-count // (8 * max(1, engines)))))


def window(engines: int, seconds: float) -> int:
    """Return how many tasks to keep outstanding when one takes ``seconds`` on average.

    Two an engine for long ones (one runs, one waits); for short ones as many as fill 20 ms,
    up to 256, so that they travel in batches.

    >>> window(4, 1.0), window(4, 0.0)
    (8, 1024)
    """
    ahead = 256 if seconds <= 0.02 / 256 else max(2, int(0.02 / seconds))
    return max(1, engines) * ahead
