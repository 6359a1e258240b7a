"""What a map sends: one task for each item or chunk, made as they are taken.

Knows packing only; who sends them, and where to, is the views' business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from ipclusterz.client import mapping
from ipclusterz.core.message import RUN, Op
from ipclusterz.engine import serialize

if TYPE_CHECKING:
    from ipclusterz.engine.serialize import PackedFunction

Load = tuple[Op, "PackedFunction | None", list[Any]]
"""A task: the operation, its function unless that travels with the data, and the data."""

PORTION_SECONDS = 0.001

Pack = Callable[[Callable[..., Any]], "PackedFunction"]


def of_call(
    pack: Pack, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Load:
    """Return a call: by the function's digest, or whole if the function is large."""
    fn = pack(f)
    if fn.large:
        return Op.CALL, None, serialize.pack_large(f, args, kwargs)
    return Op.APPLY, fn, serialize.pack_call(args, kwargs)


def of_items(
    pack: Pack, f: Callable[..., Any], items: Iterable[tuple[Any, ...]]
) -> Iterator[Load]:
    """Yield a task for each item: a plain call, which needs no list around it."""
    fn = pack(f)
    for args in items:
        if fn.large:
            yield Op.CALL, None, serialize.pack_large(f, args, {})
        else:
            yield Op.APPLY, fn, serialize.pack_call(args, {})


def of_chunks(
    pack: Pack,
    f: Callable[..., Any],
    chunks: Iterable[list[Any]],
    sizes: list[int],
    return_exceptions: bool,
    single: bool,
) -> Iterator[Load]:
    """Yield a task for each chunk, and append its size to ``sizes``.

    Items are tuples of arguments; if ``single``, the only one of each.
    """
    fn = pack(f)
    how = {"return_exceptions": return_exceptions}
    for chunk in chunks:
        if fn.large:
            items = [(item,) for item in chunk] if single else chunk
            task: Load = (Op.CALL, None, serialize.pack_large_items(f, items, **how))
        else:
            load = serialize.pack_items(chunk, single=single, **how)
            task = (Op.MAP, fn, load)
        sizes.append(len(chunk))
        yield task


def portions(loads: Iterable[Load], sized: bool) -> Iterator[list[Load]]:
    """Yield tasks as they are to be sent: what is done once for a hundred need not be fast.

    If their items come from somewhere that may have to be waited for (not ``sized``), none
    waits for the next one; else for no more than :data:`PORTION_SECONDS`.
    """
    if not sized:
        for load in loads:
            yield [load]
        return
    portion: list[Load] = []
    until = monotonic() + PORTION_SECONDS
    for load in loads:
        portion.append(load)
        if len(portion) == RUN or monotonic() > until:
            yield portion
            portion = []
            until = monotonic() + PORTION_SECONDS
    if portion:
        yield portion


def cut(
    sequences: Sequence[Any], chunksize: int | str | None, engines: int
) -> Iterator[list[Any]] | None:
    """Return the items of a map in chunks; None when each is to go alone.

    Items are tuples of arguments; of one sequence they are what it has.

    ``chunksize`` as for ``View.map``.  ``'auto'`` (or None) is about eight chunks an engine;
    where no sequence knows its length, chunks grow with what was read before.
    """
    items: Iterable[Any] = sequences[0]
    if len(sequences) > 1:
        items = zip(*sequences, strict=False)
    if chunksize is None or chunksize == "auto":
        lengths = [len(seq) for seq in sequences if hasattr(seq, "__len__")]
        if not lengths:
            return mapping.growing_chunks(items, engines)
        return mapping.chunks(items, mapping.auto_chunk(min(lengths), engines))
    size = mapping.whole(chunksize)
    if size < 1:
        raise ValueError(f"chunksize={chunksize!r} must be a whole number from 1 or 'auto'")
    return None if size == 1 else mapping.chunks(items, size)
