"""Pickled functions as schedulers and agents keep them: by digest, for each travels once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from ipclusterz.core import message as m

FUNCTION_BYTES = 256 * 1024 * 1024
"""Bytes of pickled functions kept; beyond it the least recently used are asked for again."""


class Functions:
    """Pickled functions by digest, bounded in bytes, least recently used out first.

    What is ``pinned`` stays: nobody could be asked for it again.
    """

    def __init__(self, limit: int = FUNCTION_BYTES) -> None:
        self._limit = limit
        self._bytes = 0
        self._kept: OrderedDict[bytes, m.Function] = OrderedDict()
        self.pinned: dict[bytes, m.Function] = {}

    def add(self, function: m.Function) -> None:
        """Keep a function."""
        if function.digest in self._kept:
            self._kept.move_to_end(function.digest)
            return
        self._kept[function.digest] = function
        self._bytes += len(function.data)
        while self._bytes > self._limit and len(self._kept) > 1:
            _, old = self._kept.popitem(last=False)
            self._bytes -= len(old.data)

    def own(self, digest: bytes) -> bytes:
        """Return the digest as it is kept here, which costs no more memory; '' if it is not."""
        found = self._kept.get(digest) or self.pinned.get(digest)
        return b"" if found is None else found.digest

    def get(self, digest: bytes) -> m.Function | None:
        """Return the function with this digest if it is still here."""
        found = self._kept.get(digest)
        if found is None:
            return self.pinned.get(digest)
        self._kept.move_to_end(digest)
        return found

    def all(self) -> Iterable[m.Function]:
        """Return those that are kept."""
        return {**self.pinned, **self._kept}.values()

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._kept or digest in self.pinned

    def __len__(self) -> int:
        return len(self._kept)
