"""The thread that owns the database: writes what was noted, prunes, answers.

It sleeps until there is something to do.  What goes wrong with the disk is said once,
loudly, and tried again ever more slowly; meanwhile the newest records stay in memory.  The
hub never waits for any of it and never ends because of it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from ipclusterz.store.database import Database
from ipclusterz.store.keys import QueryError
from ipclusterz.store.opening import code_of, is_damage
from ipclusterz.store.pending import PAUSE, Notes, Pending, Shipment, weight
from ipclusterz.store.place import move_aside

PENDING_ROWS = 200_000
"""Records that are kept in memory while the database cannot be written."""

PENDING_BYTES = 64 * 1024 * 1024
"""Bytes of payloads that are kept meanwhile."""

RETRY_SECONDS = 1.0
RETRY_MOST = 60.0

PRUNE_SECONDS = 5.0
"""How often bounds are looked at when nothing else is due."""

JOURNAL_BYTES = 32 * 1024 * 1024
"""Shipments that may lie as they came: a question has to wait for rows to be made of them.

The end of the controller has not: what lies there is made rows of when it is back.
"""

IDLE_SECONDS = 1.0
"""After so long without a shipment rows are made."""

SLICE = 2_000
"""Records that are taken in before others get Python's lock."""

PORTION = 100_000
"""Records that are written at once."""

Task = Callable[[Database], Any]
Done = Callable[[Any, str], None]

monotonic = time.monotonic


class Bounds:
    """How much is kept."""

    def __init__(self, rows: int, age: float, size: int) -> None:
        self.rows = rows
        self.age = age
        self.size = size


class Writer:
    """See the module.  ``tell`` and ``answer`` are called here, and must only hand on."""

    def __init__(
        self,
        path: str | None,
        bounds: Bounds,
        flush_seconds: float,
        tell: Callable[[str], None],
        answer: Callable[[Done, Any, str], None],
    ) -> None:
        self.thread = threading.Thread(target=self._run, name="task database", daemon=True)
        self.inbox: deque[Notes | Shipment | tuple[str, int, str, str]] = deque()
        self.commands: SimpleQueue[tuple[str, Task | None, Done | None]] = SimpleQueue()
        self.taken = 0
        self.taken_size = 0
        self.waked = False
        self.hurried = False
        self.lost = 0
        self.problem = ""
        self.complete = False
        self._path = path
        self._bounds = bounds
        self._flush_seconds = flush_seconds
        self._tell = tell
        self._answer = answer
        self._database: Database | None = None
        self._pending = Pending()
        self._telling: list[Done] = []  # who is to be told when all of it is written
        self._due: float | None = None
        self._prune_at = 0.0
        self._shipped = 0.0  # when something was shipped last
        self._delay = 0.0
        self._odd = False
        self._named: set[str] = set()  # clients whose tasks are not deserted
        self._deserts = False
        self._desert_at = 0.0
        self._deserted: list[int] | None = None  # what is left of it, once it has begun
        self._lost_tasks = 0

    # -- the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        """Serve until told to end."""
        try:
            self._flush()
            self._serve()
        except BaseException as error:  # a defect of ours: the hub must hear of it
            self.problem = f"{type(error).__name__}: {error}"
            self._tell(f"the task database has stopped: {self.problem}")
            self._refuse_the_rest()
        finally:
            if self._database is not None:
                self._close()

    def _serve(self) -> None:
        while True:
            word, task, done = self._next()
            if word == "wake":
                if self._due is None:
                    self._due = monotonic() + self._flush_seconds
            elif word == "tell" and done is not None:
                self._telling.append(done)
                if self._due is None:
                    self._due = monotonic()
            elif word == "desert":
                self._deserts = True
                self._desert_at = monotonic() + IDLE_SECONDS
            elif word == "hurry":
                if not self._delay:
                    self._flush()
            elif word == "end":
                self._end()
                return
            elif task is not None and done is not None:
                self._ask(task, done, word == "do")
            if self._due is not None and monotonic() >= self._due:
                self._flush()
            elif self._database is not None and monotonic() >= self._prune_at:
                self._prune()
            elif not word and self._settles():
                self._settle_one()
            elif not word and self._may_desert():
                self._try_to_desert()

    def _settles(self) -> bool:
        """Whether it is time to make rows: a shipment at a time, for the end may come."""
        database = self._database
        if database is None or self._delay or not database.journal_bytes:
            return False
        return (
            database.journal_bytes > JOURNAL_BYTES
            or monotonic() >= self._shipped + IDLE_SECONDS
        )

    def _may_desert(self) -> bool:
        """Whether there is time for tasks that nobody will end any more."""
        database = self._database
        return (
            self._deserts
            and database is not None
            and not self._delay
            and not database.journal_bytes
            and monotonic() >= self._desert_at
        )

    def _try_to_desert(self) -> None:
        self._flush()  # names wait with what else was noted, and nothing may have been
        database = self._database
        if database is not None and not self._delay:
            try:
                self._desert(database)
            except (sqlite3.Error, OSError) as error:
                self._trouble(error)

    def _desert(self, database: Database) -> None:
        """End the tasks of one client that is of another controller's time."""
        if self._deserted is None:
            self._deserted = database.deserted(self._named)
        if self._deserted:
            self._lost_tasks += database.desert(self._deserted[-1])
            self._deserted.pop()
        if not self._deserted:
            self._deserts, self._deserted = False, None
            if self._lost_tasks:
                self._tell(
                    f"{self._lost_tasks} tasks in the task database were under way when an"
                    " earlier controller ended: recorded as lost"
                )
                self._lost_tasks = 0

    def _next(self) -> tuple[str, Task | None, Done | None]:
        due = self._due
        if self._database is not None and not self._delay:
            due = self._prune_at if due is None else min(due, self._prune_at)
            if self._database.journal_bytes > JOURNAL_BYTES:
                due = 0.0
            elif self._database.journal_bytes:
                due = min(due, self._shipped + IDLE_SECONDS)
            elif self._deserts:
                due = min(due, self._desert_at)
        try:
            return self.commands.get(
                timeout=None if due is None else max(due - monotonic(), 0.0)
            )
        except Empty:
            return ("", None, None)

    def _end(self) -> None:
        self._flush()
        self.complete = not self._pending and not self.lost
        if self._pending:
            self.lost += len(self._pending)
            self._tell(
                f"{len(self._pending)} records of tasks were not written: {self.problem}"
            )

    def _refuse_the_rest(self) -> None:
        for told in self._telling:
            self._answer(told, None, f"the task database has stopped: {self.problem}")
        while True:
            word, _, done = self.commands.get()
            if done is not None:
                self._answer(done, None, f"the task database has stopped: {self.problem}")
            if word == "end":
                return

    # -- writing ---------------------------------------------------------------------------

    def _take(self) -> None:
        """Take in what was noted since the last time, or a portion of it."""
        self.waked = self.hurried = False
        inbox, pending, since = self.inbox, self._pending, 0
        while True:
            most = PENDING_ROWS if self._delay else PORTION
            if len(pending) > most or pending.size > PENDING_BYTES:
                if not self._delay:
                    return
                self._trim()
            try:
                item = inbox.popleft()
            except IndexError:
                return
            if isinstance(item, Shipment):
                self.taken += len(item)
                self.taken_size += weight(item)
                self._shipped = monotonic()
                pending.ship(item)
            elif isinstance(item, Notes):
                self.taken += len(item)
                self.taken_size += weight(item)
                since += len(item)
                try:
                    pending.add(item)
                except (TypeError, ValueError, IndexError) as error:
                    self._strange(len(item), str(error))
                if since > SLICE:
                    since = 0
                    time.sleep(PAUSE)
            else:
                self._name(item)

    def _name(self, item: tuple[str, int, str, str]) -> None:
        what, number, uuid, host = item
        if what == "client":
            self._named.add(uuid)  # before its first row is made
            self._pending.name_client(number, uuid)
        else:
            self._pending.name_engine(number, uuid, host)

    def _flush(self) -> None:
        """Write what there is; on trouble keep it and come again later."""
        self._due = None
        self._write()
        while self.inbox and not self._delay:
            self._write()
        telling, self._telling = self._telling, []
        for told in telling:
            self._answer(told, None, self.problem if self._delay else "")
        if self._over():
            self._prune()

    def _write(self) -> None:
        self._take()
        try:
            database = self._open()
            if self._pending:
                if database.moved():
                    self._tell(
                        f"the task database {database.path} was removed: a new one is begun"
                    )
                    self._close()
                    database = self._open()
                self._store(database)
            elif self._delay:
                database.probe()
            self._recovered()
        except (sqlite3.Error, OSError) as error:
            self._trouble(error)

    def _store(self, database: Database) -> None:
        pending = self._pending
        if pending.raw:
            database.put_aside(pending)
            pending.clear_shipments()
        if pending.noted:
            self._settle(database)  # what came before comes before
            odd = database.write(pending)
            pending.clear()
            if odd:
                self._strange(odd, "values that a database cannot hold")

    def _settle(self, database: Database) -> None:
        """Make rows of everything that was shipped."""
        while database.journal_bytes:
            self._settle_some(database)

    def _settle_some(self, database: Database) -> None:
        odd = database.settle()
        if odd:
            self._strange(odd, "values that a database cannot hold")

    def _settle_one(self) -> None:
        """Make rows of one shipment."""
        database = self._database
        if database is not None:
            try:
                self._settle_some(database)
            except (sqlite3.Error, OSError) as error:
                self._trouble(error)

    def _open(self) -> Database:
        if self._database is None:
            self._database = Database(self._path, self._tell)
        return self._database

    def _close(self) -> None:
        database, self._database = self._database, None
        try:
            if database is not None:
                database.close()
        except sqlite3.Error:
            pass  # what was committed is in the journal

    def _trim(self) -> None:
        gone = self._pending.trim(PENDING_ROWS, PENDING_BYTES)
        self.lost += gone

    def _strange(self, n: int, text: str) -> None:
        self.lost += n
        if not self._odd:
            self._odd = True
            self._tell(f"{n} records of tasks made no sense and are left out: {text}")

    # -- trouble ---------------------------------------------------------------------------

    def _trouble(self, error: Exception) -> None:
        path = self._database.path if self._database is not None else self._path
        if is_damage(error) and self._database is not None and path is not None:
            self._close()
            try:
                aside = move_aside(path, "damaged")
            except OSError as worse:
                error = worse
            else:
                self._tell(
                    f"the task database {path} is damaged ({error}); it was renamed to {aside}"
                    " and a new one is begun"
                )
                self._delay = 0.0
                self._due = monotonic()
                return
        full = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)
        if getattr(error, "sqlite_errorcode", 0) not in full:
            self._close()  # and begin anew: a connection does not always survive the others
        text = describe(error)
        if not self._delay:
            self._tell(
                f"cannot write the task database {path}: {text}. Tasks run on; the newest"
                f" {PENDING_ROWS} records are kept in memory and written when it is possible"
                f" again. {remedy(error)}"
            )
        self.problem = f"{path}: {text}"
        self._delay = min(max(self._delay * 2, RETRY_SECONDS), RETRY_MOST)
        self._due = monotonic() + self._delay
        self._trim()

    def _recovered(self) -> None:
        if self._delay:
            self._delay = 0.0
            path = self._database.path if self._database is not None else self._path
            missing = f"; {self.lost} records were lost" if self.lost else "; nothing was lost"
            self._tell(f"the task database {path} can be written again{missing}")
        self.problem = ""

    # -- bounds ----------------------------------------------------------------------------

    def _over(self) -> bool:
        database = self._database
        return database is not None and (
            database.rows > self._bounds.rows
            or monotonic() >= self._prune_at
            or database.size() > self._bounds.size
        )

    def _prune(self) -> None:
        database, bounds = self._database, self._bounds
        if database is None:
            return
        self._prune_at = monotonic() + PRUNE_SECONDS
        try:
            if database.prune(bounds.rows, bounds.size, time.time() - bounds.age):
                self._prune_at = monotonic()  # more of it after what else is to be done
        except (sqlite3.Error, OSError) as error:
            self._trouble(error)

    # -- questions -------------------------------------------------------------------------

    def _ask(self, task: Task, done: Done, always: bool) -> None:
        """Answer from everything noted so far; while it cannot be written, say that.

        What can be done ``always`` is done all the same: to count, and to make room.
        """
        if self._delay:
            delay, due = self._delay, self._due
            self._write()  # there may be room again
            if self._delay:
                self._delay, self._due = delay, due
        else:
            self._flush()
        database = self._database
        if database is None or (self._delay and not always):
            waiting = f"; {len(self._pending)} records wait in memory" if self._pending else ""
            text = f"the task database cannot be used: {self.problem}{waiting}"
            self._answer(done, None, text)
            return
        try:
            if not self._delay:
                self._settle(database)
                while self._deserts:
                    self._desert(database)
            self._answer(done, task(database), "")
        except QueryError as error:
            self._answer(done, None, str(error))
        except (sqlite3.Error, OSError, ValueError, TypeError, OverflowError) as error:
            self._answer(done, None, f"the task database: {describe(error)}")
            if isinstance(error, sqlite3.Error) and is_damage(error):
                self._trouble(error)


def describe(error: BaseException) -> str:
    """Return an error's text, with SQLite's name for it."""
    name = getattr(error, "sqlite_errorname", "")
    return f"{error} ({name})" if name else f"{error}"


def remedy(error: BaseException) -> str:
    """Return what can be done about it."""
    code = code_of(error)
    if code == sqlite3.SQLITE_FULL:
        return "Make room on that file system, or choose another with --db-dir"
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, 0):
        return (
            "Make the folder writable for you, choose another with --db-dir, or use --memory-db"
        )
    return "Choose another folder with --db-dir if it does not pass"
