"""The hub's access to the task database (:mod:`ipclusterz.store`).

Opened a moment after the start, because importing SQLite would delay it; what happens
before waits in memory.  Nothing here waits for the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ipclusterz.core import message as m
from ipclusterz.net.loop import Loop

OPEN_SECONDS = 0.3
CLOSE_SECONDS = 5.0
ASKED = frozenset(
    ("hub_history", "db_query", "db_purge", "db_counts", "db_tasks", "db_await", "db_again")
)
"""Questions of clients that the task database answers."""

PORTION = 2 * 1024 * 1024
"""Bytes of one answer with payloads: a message must fit a frame."""

GRACE_SECONDS = 2.0
"""How long a task that is not known may still be on its way here."""

_UNREAD: dict[str, Any] = {"received": None}
"""Stands for a task that the answer had no room for: its turn comes."""

_decode = msgspec.msgpack.Decoder(m.Records).decode

Done = Callable[[Any, str], None]


class History:
    """A task database at ``path`` (``:memory:``: none on disk) in a loop."""

    def __init__(self, loop: Loop, path: str, say: Callable[[str], None]) -> None:
        self._loop = loop
        self._path = path
        self._say = say
        self._store: Any = None
        self._early: list[Callable[[], None]] = []
        self._numbers: dict[str, int] = {}  # a client's uuid -> its number
        self._waiting: list[tuple[dict[int, str], Done]] = []  # keys that are waited for
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
        self._numbers[uuid] = number
        self._do(lambda: self._store.client(number, uuid))

    def complete(self) -> None:
        """Say that all clients are named whose tasks may still be under way."""
        self._do(lambda: self._store.desert())

    def engine(self, number: int, uuid: str, host: str) -> None:
        """Say which engine has this number."""
        self._do(lambda: self._store.engine(number, uuid, host))

    def note(self, records: bytes, count: int, size: int) -> None:
        """Take down what happened to tasks: encoded records, as they came."""
        self._do(lambda: self._store.ship(records, count, size))
        if self._waiting:
            self._tell_waiting(_decode(records))

    def when_written(self, act: Callable[[], None]) -> None:
        """Call ``act`` when what was noted so far is on the disk, or cannot be written."""
        self._do(lambda: self._store.when_written(lambda value, error: act()))

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
            elif what == "db_tasks":
                store.tasks(done, [str(name) for name in arg], PORTION)
            elif what == "db_await":
                self._await([str(name) for name in arg], done)
            elif what == "db_again":
                self._again(arg)
                done(None, "")
            else:
                where, keys = arg if arg is not None else (None, None)
                store.query(done, where, keys)
        except (ValueError, TypeError, KeyError) as error:
            done(None, str(error))

    def _await(self, names: list[str], done: Done) -> None:
        """Answer when one of these tasks has ended, with those that have: at once if so.

        Tasks of a client that this hub does not know will not end any more, nor will those
        that nobody knows; who asks is told of these as well.
        """
        keys: dict[int, str] = {}
        for name in names:
            key = self.key_of(name)
            if key is not None:
                keys[key] = name
        entry = (keys, done)
        self._waiting.append(entry)  # first, so that no end is missed while the disk answers
        self._look(entry, names, GRACE_SECONDS)

    def _look(self, entry: tuple[dict[int, str], Done], names: list[str], grace: float) -> None:
        """Ask the disk which have ended; a task nobody knows may be about to be told of."""
        keys, done = entry
        hoped = set(keys.values()) if grace else set()

        def look(found: dict[str, dict[str, Any] | None], error: str) -> None:
            if entry not in self._waiting:
                return  # one of them ended meanwhile
            ended, unknown = [], False
            for name in names:
                record = None if error else found.get(name, _UNREAD)
                if record is None:
                    unknown = unknown or name in hoped
                    if name not in hoped:
                        ended.append(name)
                elif record["received"] or (record is not _UNREAD and name not in known):
                    ended.append(name)
            if ended or error:
                self._waiting.remove(entry)
                done(ended, error)
            elif unknown:
                self._loop.after(grace, lambda: self._look(entry, names, 0.0))

        known = set(keys.values())
        self._store.tasks(look, names, PORTION)

    def _tell_waiting(self, records: m.Records) -> None:
        keys = {ended[0] for ended in records.ended} | {whole[0] for whole in records.whole}
        for results, _ in records.results:
            keys.update(results.keys)
        for entry in list(self._waiting):
            wanted, done = entry
            if found := [name for key, name in wanted.items() if key in keys]:
                self._waiting.remove(entry)
                done(found, "")

    def _again(self, pairs: list[tuple[str, str]]) -> None:
        """Take down what was made of tasks that were submitted again."""
        known = [(self.key_of(old), new) for old, new in pairs]
        self._store.note(resubmitted=[(key, new) for key, new in known if key is not None])

    def key_of(self, msg_id: str) -> int | None:
        """Return the key of a task on the wire, or None if its client is of another time."""
        uuid, _, counter = msg_id.rpartition("_")
        number = self._numbers.get(uuid)
        if number is None or not counter.isdecimal():
            return None
        return m.make_key(number, int(counter))

    def close(self) -> None:
        """Wait until all is written."""
        if self._store is None:
            if not self._early:
                return
            self._open()
        self._loop.remove(self._store.fd)
        self._store.close(CLOSE_SECONDS)
