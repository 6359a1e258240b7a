"""What tasks print, kept by task until someone reads it or the task is forgotten.

Text comes on another channel than results, so it may come before, with or after them, and
for tasks whose result nobody holds any more.  The store lets go of everything that can no
longer be read: memory must not grow with the number of tasks that ever printed.

Called under the connection's I/O lock (:meth:`Outputs.add`, :meth:`Outputs.claim`), so one
at a time; reading is safe from any thread.  Knows keys and text only.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable

SWEEP = 1024
"""Tasks with unclaimed text at which the store first looks for forgotten ones."""

LATE = 16384
"""Finished tasks whose text may still be on its way; beyond, the oldest are given up."""


class Texts:
    """The text of one task, by stream; ``received`` counts characters."""

    __slots__ = ("__weakref__", "_pieces", "received")

    def __init__(self) -> None:
        self._pieces: list[tuple[int, str]] = []
        self.received = 0

    def add(self, stream: int, text: str) -> None:
        """Append ``text`` to standard output (1) or standard error (2)."""
        self._pieces.append((stream, text))
        self.received += len(text)

    def read(self, stream: int) -> str:
        """Return all text of one stream so far."""
        return "".join([text for which, text in list(self._pieces) if which == stream])


class Outputs:
    """Text by task key.

    ``live_keys`` returns the keys of tasks that are not finished.  ``open`` holds the text
    of tasks by key until it is claimed; others may look whether a key is in it.
    """

    def __init__(self, live_keys: Callable[[], Iterable[int]]) -> None:
        self._live_keys = live_keys
        self.open: dict[int, Texts] = {}
        self._late: dict[int, tuple[weakref.ref[Texts], int]] = {}
        self._sweep_at = SWEEP

    def add(self, key: int, engine: int, stream: int, text: str) -> None:
        """Keep ``text`` that task ``key`` wrote; what no task wrote (0) is dropped."""
        if not key:
            return
        late = self._late.get(key)
        if late is not None:
            self._add_late(key, late, stream, text)
            return
        texts = self.open.get(key)
        if texts is None:
            if len(self.open) >= self._sweep_at:
                self._sweep()
            texts = self.open[key] = Texts()
        texts.add(stream, text)

    def peek(self, key: int) -> Texts | None:
        """Return the text of a task that is still running, if it wrote any."""
        return self.open.get(key)

    def claim(self, key: int, expected: int) -> Texts | None:
        """Hand over a finished task's text; ``expected`` characters belong to it in all.

        What is still missing is added as it comes, as long as the caller holds the object.
        """
        texts = self.open.pop(key, None)
        if texts is None:
            if not expected:
                return None
            texts = Texts()
        if texts.received < expected:
            if len(self._late) >= LATE:
                del self._late[next(iter(self._late))]
            self._late[key] = (weakref.ref(texts), expected - texts.received)
        return texts

    def _add_late(
        self, key: int, late: tuple[weakref.ref[Texts], int], stream: int, text: str
    ) -> None:
        reference, missing = late
        texts = reference()
        if texts is not None:
            texts.add(stream, text)
        if missing > len(text):
            self._late[key] = (reference, missing - len(text))
        else:
            del self._late[key]

    def _sweep(self) -> None:
        """Forget text of tasks that ended without claiming it (it came after their end)."""
        live = set(self._live_keys())
        for key in [key for key in self.open if key not in live]:
            del self.open[key]
        self._sweep_at = max(SWEEP, 2 * len(self.open))
