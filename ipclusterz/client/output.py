"""What tasks print, display and publish, kept by task until read or the task is forgotten.

Output comes on another channel than results, so it may come before, with or after them, and
for tasks whose result nobody holds any more.  The store lets go of everything that can no
longer be read: memory must not grow with the number of tasks that ever printed.

Called under the connection's I/O lock (:meth:`Outputs.add`, :meth:`Outputs.claim`), so one
at a time; reading is safe from any thread.  Knows keys, text and records of displays
(:mod:`ipclusterz.engine.display` says what is in one).
"""

from __future__ import annotations

import base64
import pickle
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from ipclusterz.core.message import BEGIN, DISPLAY, END
from ipclusterz.error import SerializationError

SWEEP = 1024
"""Tasks with unclaimed text at which the store first looks for forgotten ones."""

LATE = 16384
"""Finished tasks whose text may still be on its way; beyond, the oldest are given up."""

_VALUES = '{"values":'  # a record with these words is no display, but what was published


class Texts:
    """The output of one task in order; ``received`` counts characters."""

    __slots__ = ("__weakref__", "_open", "_published", "engine", "pieces", "received")

    def __init__(self, engine: int = -1) -> None:
        self.engine = engine
        self.pieces: list[tuple[int, str]] = []
        """Text by stream (1 or 2), and whole displays as DISPLAY and JSON."""
        self.received = 0
        self._open: list[str] | None = None
        self._published: list[dict[str, Any]] | None = None

    def add(self, stream: int, text: str) -> None:
        """Append text to standard output (1) or standard error (2), or a display's piece."""
        self.received += len(text)
        if stream < DISPLAY:
            self.pieces.append((stream, text))
            return
        if stream & BEGIN or self._open is None:
            self._open = []  # what was not finished never will be: its engine has died
        self._open.append(text)
        if stream & END:
            whole = "".join(self._open)
            self._open = None
            if whole.startswith(_VALUES):
                self._publish(decoded(whole))
            else:
                self.pieces.append((DISPLAY, whole))

    def _publish(self, record: dict[str, Any]) -> None:
        """Keep published values until later ones have replaced them all."""
        names = frozenset(record.get("names", ()))
        old = [one for one in self._published or () if not names.issuperset(one["names"])]
        self._published = [*old, record] if names else old

    def read(self, stream: int) -> str:
        """Return all text of one stream so far."""
        return "".join([text for which, text in list(self.pieces) if which == stream])

    def displays(self) -> list[dict[str, Any]]:
        """Return what is to be seen of it: see :func:`displays`."""
        return displays(decoded(text) for which, text in list(self.pieces) if which == DISPLAY)

    def values(self) -> dict[str, Any]:
        """Return what was published: see :func:`published`."""
        return published(self._published or ())


def decoded(record: str) -> dict[str, Any]:
    """Return what a record says; nothing if it cannot be read."""
    try:
        made = msgspec.json.decode(record)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return {}
    return made if isinstance(made, dict) else {}


def displays(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what is to be seen in the end: dicts with 'data' and 'metadata' by MIME type.

    Displays that were cleared are gone, those that were updated are as they were last.
    """
    seen: list[dict[str, Any]] = []
    clear_next = False
    for record in records:
        if "clear" in record:
            clear_next = bool(record["clear"])
            if not clear_next:
                seen.clear()
        elif "data" in record:
            if clear_next:
                seen.clear()
                clear_next = False
            _place(seen, display_of(record), bool(record.get("update")))
    return seen


def display_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record's display as users get it."""
    made = {"data": record["data"], "metadata": record.get("metadata") or {}}
    if "id" in record:
        made["transient"] = {"display_id": record["id"]}
    return made


def _place(seen: list[dict[str, Any]], made: dict[str, Any], update: bool) -> None:
    if not update:
        seen.append(made)
        return
    for index, one in enumerate(seen):  # one that was cleared is not to be seen again
        if one.get("transient") == made.get("transient"):
            seen[index] = made


def published(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the values that a task has published, by name, the last of each."""
    values: dict[str, Any] = {}
    for record in records:
        try:
            values.update(pickle.loads(base64.b64decode(record["values"])))
        except Exception as error:
            raise SerializationError(
                f"published data cannot be unpickled here: {type(error).__name__}: {error};"
                " what it needs must be importable in the client as well"
            ) from error
    return values


class Outputs:
    """Output by task key.

    ``live_keys`` returns the keys of tasks that are not finished.  ``open`` holds the output
    of tasks by key until it is claimed; others may look whether a key is in it.  ``count``
    is another number whenever something came.
    """

    def __init__(self, live_keys: Callable[[], Iterable[int]]) -> None:
        self._live_keys = live_keys
        self.open: dict[int, Texts] = {}
        self.count = 0
        self._late: dict[int, tuple[weakref.ref[Texts], int]] = {}
        self._sweep_at = SWEEP

    def add(self, key: int, engine: int, stream: int, text: str) -> None:
        """Keep what task ``key`` wrote; what no task wrote (0) is dropped."""
        if not key:
            return
        self.count += 1
        late = self._late.get(key)
        if late is not None:
            self._add_late(key, late, stream, text)
            return
        texts = self.open.get(key)
        if texts is None:
            if len(self.open) >= self._sweep_at:
                self._sweep()
            texts = self.open[key] = Texts(engine)
        texts.add(stream, text)

    def peek(self, key: int) -> Texts | None:
        """Return the output of a task that is still running, if there is any."""
        return self.open.get(key)

    def claim(self, key: int, expected: int) -> Texts | None:
        """Hand over a finished task's output; ``expected`` characters belong to it in all.

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
        """Forget output of tasks that ended without claiming it (it came after their end)."""
        live = set(self._live_keys())
        for key in [key for key in self.open if key not in live]:
            del self.open[key]
        self._sweep_at = max(SWEEP, 2 * len(self.open))
