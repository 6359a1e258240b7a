"""How sequences are dealt over engines and joined again: scatter and gather.

Pure.  Knows sequences, and numpy arrays, pandas frames and scipy sparse matrices where
those are loaded already: they are looked for by what is in ``sys.modules``, and nothing is
imported for them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

DISTS = {"b": "b", "block": "b", "r": "r", "roundrobin": "r", "cyclic": "r"}
"""Names of the two ways to deal out: contiguous blocks, and in turn."""


def dist_of(dist: str) -> str:
    """Return ``'b'`` or ``'r'`` for a name of either; ValueError for others."""
    try:
        return DISTS[dist]
    except (KeyError, TypeError):
        raise ValueError(f"dist={dist!r} must be 'b' (blocks) or 'r' (round robin)") from None


# -- what can be dealt out -----------------------------------------------------------------


class Lists:
    """Anything with a length that can be sliced; pieces are joined into a list."""

    def length(self, seq: Any) -> int:
        return len(seq)

    def cut(self, seq: Any, part: slice) -> Any:
        return seq[part]

    def item(self, piece: Any) -> Any:
        return piece[0]

    def join(self, pieces: Sequence[Any], dist: str) -> Any:
        listed = [list(p) if _is_sequence(p) else [p] for p in pieces]
        if dist == "b":
            return list(chain.from_iterable(listed))
        longest = max(map(len, listed), default=0)
        return [piece[i] for i in range(longest) for piece in listed if i < len(piece)]


class Arrays(Lists):
    """numpy arrays, dealt out along their first axis."""

    def cut(self, seq: Any, part: slice) -> Any:
        piece = seq[part]
        # Pickling would copy what is not in one block, and forget its order of bytes.
        return piece if piece.flags.forc else piece.copy()

    def join(self, pieces: Sequence[Any], dist: str) -> Any:
        numpy = sys.modules["numpy"]
        kinds = {piece.dtype for piece in pieces}
        if any(isinstance(piece, numpy.ma.MaskedArray) for piece in pieces):
            joined = numpy.ma.concatenate(pieces)
        elif len(kinds) == 1:  # told, since otherwise the order of bytes becomes the host's
            joined = numpy.concatenate(pieces, dtype=kinds.pop())
        else:
            joined = numpy.concatenate(pieces)
        return joined if dist == "b" else joined[_places(pieces, self)]


class Frames(Lists):
    """pandas data frames, series and indexes, dealt out by position."""

    def cut(self, seq: Any, part: slice) -> Any:
        return seq.iloc[part] if hasattr(seq, "iloc") else seq[part]

    def item(self, piece: Any) -> Any:
        return piece.iloc[0] if hasattr(piece, "iloc") else piece[0]

    def join(self, pieces: Sequence[Any], dist: str) -> Any:
        if not hasattr(pieces[0], "iloc"):
            joined = pieces[0].append(list(pieces[1:]))
            return joined if dist == "b" else joined[_places(pieces, self)]
        joined = sys.modules["pandas"].concat(pieces)
        return joined if dist == "b" else joined.iloc[_places(pieces, self)]


class Sparse(Lists):
    """scipy sparse matrices and arrays, dealt out by rows; their format is kept."""

    def length(self, seq: Any) -> int:
        return int(seq.shape[0])

    def cut(self, seq: Any, part: slice) -> Any:
        return seq.tocsr()[part].asformat(seq.format)

    def item(self, piece: Any) -> Any:
        return piece

    def join(self, pieces: Sequence[Any], dist: str) -> Any:
        import scipy.sparse  # there, since the pieces are

        kind = pieces[0].format
        joined = scipy.sparse.vstack(pieces, format="csr")
        return (joined if dist == "b" else joined[_places(pieces, self)]).asformat(kind)


LISTS, ARRAYS, FRAMES, SPARSE = Lists(), Arrays(), Frames(), Sparse()


def kind_of(seq: Any) -> Lists:
    """Return how ``seq`` is dealt out."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(seq, numpy.ndarray):
        return ARRAYS
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(seq, pandas.DataFrame | pandas.Series | pandas.Index):
        return FRAMES
    sparse = sys.modules.get("scipy.sparse")
    if sparse is not None and sparse.issparse(seq):
        return SPARSE
    return LISTS


def _places(pieces: Sequence[Any], kind: Lists) -> Any:
    """Return where, in blocks one after the other, each item of a round robin stands."""
    numpy = sys.modules["numpy"]
    lengths = [kind.length(piece) for piece in pieces]
    turns = numpy.concatenate([numpy.arange(length) for length in lengths])
    return numpy.lexsort((numpy.repeat(numpy.arange(len(pieces)), lengths), turns))


# -- dealing and joining -------------------------------------------------------------------


def sliceable(seq: Any) -> Any:
    """Return ``seq`` if it can be dealt out as it is, else its items as a list.

    Raises TypeError for what is no sequence and cannot be iterated over.
    """
    kind = kind_of(seq)
    if (kind is ARRAYS and seq.ndim == 0) or (kind is SPARSE and seq.ndim != 2):
        raise TypeError(f"{type(seq).__name__} of {seq.ndim} dimensions cannot be dealt out")
    if kind is not LISTS:
        return seq
    indexed = hasattr(seq, "__len__") and hasattr(seq, "__getitem__")
    # A mapping is not asked for a slice: it might take that for a key, and make an item.
    if indexed and not isinstance(seq, Mapping):
        try:
            kind.cut(seq, slice(0))
        except Exception:  # which error it is, each kind decides for itself (deque, ...)
            return list(seq)
        return seq
    if not isinstance(seq, Iterable):
        raise TypeError(f"a sequence is needed, or an iterable, not {type(seq).__name__}")
    return list(seq)


def length(seq: Any) -> int:
    """Return how many items ``seq`` has to deal out."""
    return kind_of(seq).length(seq)


def deal(seq: Any, n: int, dist: str = "b") -> list[Any]:
    """Cut ``seq`` into ``n`` pieces whose lengths differ by one at most.

    Blocks keep neighbours together, the longer ones first; round robin (``'r'``) deals
    items out in turn.  Pieces are slices of the same type; of arrays, views where possible.
    With fewer items than pieces the last ones are empty.

    >>> deal([1, 2, 3, 4, 5], 3)
    [[1, 2], [3, 4], [5]]
    >>> deal([1, 2, 3, 4, 5], 3, "r")
    [[1, 4], [2, 5], [3]]
    """
    kind = kind_of(seq)
    if dist_of(dist) == "r":
        return [kind.cut(seq, slice(i, None, n)) for i in range(n)]
    each, more = divmod(kind.length(seq), n)
    pieces = []
    at = 0
    for i in range(n):
        end = at + each + (i < more)
        pieces.append(kind.cut(seq, slice(at, end)))
        at = end
    return pieces


def flat(piece: Any) -> Any:
    """Return the item of a piece that has just one, else the piece."""
    kind = kind_of(piece)
    return kind.item(piece) if kind.length(piece) == 1 else piece


def join(pieces: Sequence[Any], dist: str = "b") -> Any:
    """Put pieces together again: the inverse of :func:`deal`.

    Arrays, frames and sparse matrices give one of their kind, other sequences a list; items
    that are no sequences (scattered with ``flatten``; text is one item) stand for
    themselves.  Raises ValueError for arrays whose shapes do not fit together.

    >>> join([[1, 4], [2, 5], [3]], "r")
    [1, 2, 3, 4, 5]
    >>> join([range(2), (7,), "x"])
    [0, 1, 7, 'x']
    """
    dist = dist_of(dist)
    kinds = {kind_of(piece) for piece in pieces}
    if len(kinds) != 1 or not all(_is_sequence(piece) for piece in pieces):
        return LISTS.join(pieces, dist)
    try:
        return kinds.pop().join(pieces, dist)
    except (ValueError, TypeError) as error:
        shapes = [getattr(piece, "shape", type(piece).__name__) for piece in pieces[:8]]
        raise ValueError(f"these pieces cannot be joined: {shapes}: {error}") from error


def _is_sequence(piece: Any) -> bool:
    if isinstance(piece, list | tuple | range):
        return True
    return kind_of(piece) is not LISTS and getattr(piece, "ndim", 1) > 0
