"""The hub's access to the task database (:mod:`ipclusterz.store`).

Opened a moment after the start, because importing SQLite would delay it; what happens
before waits in memory.  Nothing here waits for the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ipclusterz.core import message as m
from ipclusterz.net.loop import Loop

OPEN_SECONDS = 0.3
CLOSE_SECONDS = 5.0
ASKED = frozenset(("hub_history", "db_query", "db_purge", "db_counts"))
"""Questions of clients that the task database answers."""

Done = Callable[[Any, str], None]


class History:
    """A task database at ``path`` (``:memory:``: none on disk) in a loop."""

    def __init__(self, loop: Loop, path: str, say: Callable[[str], None]) -> None:
        self._loop = loop
        self._path = path
        self._say = say
        self._store: Any = None
        self._early: list[Callable[[], None]] = []
        loop.after(OPEN_SECONDS, self._open)

    def _open(self) -> None:
        if self._store is not None:
            return
        from ipclusterz.store.store import Store  # SQLite takes 10 ms to import

        path = None if self._path == ":memory:" else self._path
        self._store = Store(path, say=self._say)
        self._loop.add(self._store.fd, self._store.poll)
        early, self._early = self._early, []
        for act in early:
            act()

    def _do(self, act: Callable[[], None]) -> None:
        if self._store is None:
            self._early.append(act)
        else:
            act()

    def client(self, number: int, uuid: str) -> None:
        """Say whose tasks have keys with this number."""
        self._do(lambda: self._store.client(number, uuid))

    def engine(self, number: int, uuid: str, host: str) -> None:
        """Say which engine has this number."""
        self._do(lambda: self._store.engine(number, uuid, host))

    def note(self, records: m.Records) -> None:
        """Take down what happened to tasks."""
        self._do(lambda: self._store.note(begun=records.begun, ended=records.ended))

    def ask(self, what: str, arg: Any, done: Done) -> None:
        """Answer one of :data:`ASKED` by calling ``done(value, error)``."""
        self._do(lambda: self._ask(what, arg, done))

    def _ask(self, what: str, arg: Any, done: Done) -> None:
        store = self._store
        try:
            if what == "hub_history":
                store.history(done)
            elif what == "db_counts":
                store.counts(done)
            elif what == "db_purge":
                store.purge(done, arg)
            else:
                where, keys = arg if arg is not None else (None, None)
                store.query(done, where, keys)
        except (ValueError, TypeError, KeyError) as error:
            done(None, str(error))

    def close(self) -> None:
        """Wait until all is written."""
        if self._store is None:
            if not self._early:
                return
            self._open()
        self._loop.remove(self._store.fd)
        self._store.close(CLOSE_SECONDS)
