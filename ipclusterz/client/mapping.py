"""How sequences are cut into pieces and joined again.

Pure.  Knows sequences and, where they are loaded already, numpy arrays; imports nothing
for them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

DISTS = {"b": "b", "block": "b", "r": "r", "roundrobin": "r"}
"""Names of the two ways to deal out: contiguous blocks, and in turn."""


def dist_of(dist: str) -> str:
    """Return ``'b'`` or ``'r'`` for a name of either; ValueError for others."""
    try:
        return DISTS[dist]
    except (KeyError, TypeError):
        raise ValueError(f"dist={dist!r} must be 'b' (blocks) or 'r' (round robin)") from None


def sliceable(seq: Any) -> Any:
    """Return ``seq`` if it has a length and can be sliced, else its items as a list."""
    if hasattr(seq, "__len__") and hasattr(seq, "__getitem__") and not isinstance(seq, dict):
        return seq
    return list(seq)


def deal(seq: Any, n: int, dist: str = "b") -> list[Any]:
    """Cut ``seq`` into ``n`` pieces whose lengths differ by one at most.

    Blocks keep neighbours together, the longer ones first; round robin (``'r'``) deals
    items out in turn.  Pieces are slices: of the same type, and views where that is so.

    >>> deal([1, 2, 3, 4, 5], 3)
    [[1, 2], [3, 4], [5]]
    >>> deal([1, 2, 3, 4, 5], 3, "r")
    [[1, 4], [2, 5], [3]]
    """
    if dist_of(dist) == "r":
        return [seq[i::n] for i in range(n)]
    each, more = divmod(len(seq), n)
    pieces = []
    at = 0
    for i in range(n):
        end = at + each + (i < more)
        pieces.append(seq[at:end])
        at = end
    return pieces


def join(pieces: Sequence[Any], dist: str = "b") -> Any:
    """Put pieces together again: the inverse of :func:`deal`.

    Arrays give an array, other sequences a list; items that are no sequences (scattered
    with ``flatten``) stand for themselves.

    >>> join([[1, 4], [2, 5], [3]], "r")
    [1, 2, 3, 4, 5]
    >>> join([range(2), (7,), "x"])
    [0, 1, 7, 'x']
    """
    dist = dist_of(dist)
    if _all_arrays(pieces):
        return _join_arrays(pieces, dist)
    listed = [list(piece) if _is_sequence(piece) else [piece] for piece in pieces]
    if dist == "b":
        return list(chain.from_iterable(listed))
    longest = max(map(len, listed), default=0)
    return [piece[i] for i in range(longest) for piece in listed if i < len(piece)]


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


def _is_sequence(piece: Any) -> bool:
    if isinstance(piece, list | tuple | range):
        return True
    return _is_array(piece) and piece.ndim > 0


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _all_arrays(pieces: Sequence[Any]) -> bool:
    return bool(pieces) and all(_is_array(piece) and piece.ndim > 0 for piece in pieces)


def _join_arrays(pieces: Sequence[Any], dist: str) -> Any:
    numpy = sys.modules["numpy"]
    if dist == "b":
        return numpy.concatenate(pieces)
    total = sum(len(piece) for piece in pieces)
    made = numpy.empty((total, *pieces[0].shape[1:]), numpy.result_type(*pieces))
    for i, piece in enumerate(pieces):
        made[i :: len(pieces)] = piece
    return made
