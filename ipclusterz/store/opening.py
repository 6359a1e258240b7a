"""How a database file is opened, whatever is found at its path.

Something that is no task database, a damaged one, and one of a newer version are renamed
aside and a new one is begun.  One that another process has is left alone (renaming a
database under a living writer destroys both) and a file beside it is taken.  Each is said.

Raises OSError or sqlite3.Error when none of that is possible.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable

from ipclusterz.store import place, schema

LOCK_SECONDS = 0.25
"""How long a lock is waited for: a controller that is just ending lets go of it."""

BESIDE = 9
"""How many files beside the first are tried before giving up."""

CACHE_KIB = 16_000
CHECKPOINT_PAGES = 4_000
LOG_BYTES = 64 * 1024 * 1024

Say = Callable[[str], None]


class Foreign(Exception):
    """A file that cannot be used; ``word`` becomes a part of its new name."""

    def __init__(self, word: str, text: str) -> None:
        super().__init__(text)
        self.word = word


def code_of(error: BaseException) -> int:
    """Return SQLite's primary result code of an error, or 0."""
    code = getattr(error, "sqlite_errorcode", 0)
    return int(code) & 0xFF if code else 0


def is_damage(error: BaseException) -> bool:
    """Tell whether the file itself is the trouble."""
    return code_of(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_locked(error: BaseException) -> bool:
    """Tell whether another process has the file."""
    return code_of(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def open_memory() -> sqlite3.Connection:
    """Return a database that ends with the process."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    _settings(connection)
    _create(connection)
    return connection


def open_file(path: str, say: Say) -> tuple[sqlite3.Connection, str, str]:
    """Return a connection that owns its file, the file's path, and its journal mode."""
    for number in range(1, BESIDE + 2):
        taken = path if number == 1 else place.beside(path, number)
        try:
            connection, journal = _open_one(taken, say)
        except sqlite3.Error as error:
            if not is_locked(error):
                raise
            continue
        if number > 1:
            say(
                f"the task database {path} is in use by another process: what happens here is"
                f" recorded in {taken} (another --db-dir keeps them apart for good)"
            )
        return connection, taken, journal
    raise OSError(f"the task database {path} and {BESIDE} files beside it are in use")


def _open_one(path: str, say: Say) -> tuple[sqlite3.Connection, str]:
    for attempt in (1, 2):
        why, word = "", "foreign"
        notes: list[str] = []
        try:
            place.prepare(path, notes)
            for note in notes:
                say(note)
            return _connect(path, say)
        except FileExistsError as error:
            why = f"{path} is no task database: {error}"
        except Foreign as error:
            why, word = f"{path}: {error}", error.word
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            why, word = f"{path} is damaged or no database ({error})", "damaged"
        if attempt == 2:
            break
        aside = place.move_aside(path, word)
        say(f"{why}; it was renamed to {aside} and a new task database is begun")
    raise OSError(why)


def _connect(path: str, say: Say) -> tuple[sqlite3.Connection, str]:
    kind = place.filesystem(os.path.dirname(os.path.abspath(path)))
    network = place.is_network(kind)
    try:
        connection = _attempt(path, network, "")
    except sqlite3.OperationalError as error:
        if not network or code_of(error) != sqlite3.SQLITE_IOERR:
            raise
        # Lustre without the flock option, NFS without its lock service: there are no locks.
        connection = _attempt(path, network, "&nolock=1")
        say(f"the file system of {path} ({kind or 'unknown'}) has no locks: none are used")
    journal = str(connection.execute("PRAGMA journal_mode").fetchone()[0])
    if network:
        say(
            f"{path} lies on a file system that is not local ({kind or 'of unknown type'}):"
            f" SQLite's {journal} journal is used instead of a write-ahead log; --db-dir"
            " chooses a local folder"
        )
    return connection, journal


def _attempt(path: str, network: bool, options: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{_escaped(os.path.abspath(path))}?mode=rw{options}",
        uri=True,
        isolation_level=None,
        timeout=LOCK_SECONDS,
    )
    try:
        # Before anything is read: the log's index is then in our memory, not in a shared
        # file, and no other process can come in between.
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        _check(connection)
        _settings(connection)
        # The first mode asked for is not always granted; what was, is what counts.
        mode = "TRUNCATE" if network else "WAL"
        connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")
        if _is_empty(connection):
            _create(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _settings(connection: sqlite3.Connection) -> None:
    for text in (
        "auto_vacuum = INCREMENTAL",
        "synchronous = NORMAL",
        "temp_store = MEMORY",
        f"cache_size = -{CACHE_KIB}",
        f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
        f"journal_size_limit = {LOG_BYTES}",
    ):
        connection.execute(f"PRAGMA {text}")


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def _check(connection: sqlite3.Connection) -> None:
    """Refuse what is not ours, or of a version that we do not know."""
    if _is_empty(connection):
        return
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if application != schema.APPLICATION:
        raise Foreign("foreign", "it is a database of another program")
    if version > schema.VERSION:
        raise Foreign(
            f"schema{version}",
            f"it was written by a newer ipclusterz (schema {version}; this one knows"
            f" {schema.VERSION})",
        )
    while version < schema.VERSION:
        script = schema.MIGRATIONS.get(version)
        if script is None:
            raise Foreign(
                f"schema{version}",
                f"its schema {version} cannot be brought to {schema.VERSION}",
            )
        version += 1
        connection.executescript(f"BEGIN;{script};PRAGMA user_version = {version};COMMIT;")


def _create(connection: sqlite3.Connection) -> None:
    connection.executescript(
        f"BEGIN;{schema.TABLES}"
        f"PRAGMA application_id = {schema.APPLICATION};"
        f"PRAGMA user_version = {schema.VERSION};COMMIT;"
    )


def _escaped(path: str) -> str:
    """Return a path as it stands in SQLite's URIs."""
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
