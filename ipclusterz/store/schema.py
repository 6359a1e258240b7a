"""The tables of the task database, and the statements that write to them.

A task's row has the integer key of the wire, with the client's number replaced by that of
its row in ``clients``: numbers of the wire start anew with each controller, rows do not.
With an integer as its primary key a row costs less than with two columns and no rowid
(measured: 2.6 against 3.8 µs with the index, 100 against 108 bytes).

``received`` is set when a task has ended, by the controller's clock; ages and the order of
pruning go by it and not by the clocks of many hosts.
"""

from __future__ import annotations

APPLICATION = 0x69706378
"""Marks a file as ours (PRAGMA application_id): ``ipcx``."""

VERSION = 5
"""Of the tables below (PRAGMA user_version); see :data:`MIGRATIONS`."""

# WITHOUT ROWID is for small rows; a function's pickle may have 64 KiB.
FUNCTIONS = "CREATE TABLE functions (digest BLOB PRIMARY KEY, name TEXT, data BLOB);"

JOURNAL = "CREATE TABLE journal (id INTEGER PRIMARY KEY, names BLOB, data BLOB);"
"""What schedulers shipped, as it came, until there is time to make rows of it: a task costs a
hundredth of what its row does.  ``names`` says whose the numbers in it are."""

TALLY = "CREATE TABLE tally (rows INTEGER, since INTEGER);"
"""One row: how many tasks there are at the most, and how many were written since they were
counted.  To count them means to read them all, a second and more where there are a million."""

SETTLED = "CREATE TABLE settled (client INTEGER PRIMARY KEY);"
"""Clients of controllers that have ended: none of their tasks is under way any more."""

MIGRATIONS: dict[int, str] = {
    1: "ALTER TABLE tasks ADD COLUMN work BLOB; ALTER TABLE tasks ADD COLUMN result BLOB;"
    + FUNCTIONS,
    2: JOURNAL.replace("TABLE", "TABLE IF NOT EXISTS"),
    3: f"{TALLY.replace('TABLE', 'TABLE IF NOT EXISTS')} DELETE FROM tally;"
    " INSERT INTO tally SELECT count(*), 0 FROM tasks;",
    4: SETTLED.replace("TABLE", "TABLE IF NOT EXISTS"),
}
"""From version to the script that makes the next one of it."""

TABLES = f"""
{FUNCTIONS}
{JOURNAL}
{TALLY}
{SETTLED}
INSERT INTO tally VALUES (0, 0);
CREATE TABLE clients (id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE);
CREATE TABLE engines (
    row INTEGER PRIMARY KEY, id INTEGER NOT NULL, uuid TEXT, host TEXT
);
CREATE UNIQUE INDEX engines_uuid ON engines (uuid, id);
CREATE TABLE tasks (
    key INTEGER PRIMARY KEY,
    channel INTEGER, op INTEGER, fn, submitted REAL, label TEXT,
    attempt INTEGER, engine INTEGER, status INTEGER,
    started REAL, finished REAL, received REAL,
    ename TEXT, evalue TEXT, resubmitted TEXT, work BLOB, result BLOB
);
CREATE INDEX tasks_received ON tasks (received) WHERE received IS NOT NULL;
CREATE TABLE payloads (
    key INTEGER, kind INTEGER, data BLOB, PRIMARY KEY (key, kind)
) WITHOUT ROWID;
CREATE TABLE outputs (
    key INTEGER, stream INTEGER, text TEXT, PRIMARY KEY (key, stream)
) WITHOUT ROWID;
"""

BEGUN = ("channel", "op", "fn", "submitted", "label", "work")
ENDED = (
    *("attempt", "engine", "status", "started", "finished", "received"),
    *("ename", "evalue", "result"),
)
COLUMNS = ("key", *BEGUN, *ENDED)

ROWS = 128
"""Rows of one statement: a row costs a third less than with one each, and SQLite's work is
done without Python's lock, which a statement a row would fight for each time."""

_ROW = "(" + ", ".join("?" * len(COLUMNS)) + ")"


def upsert(rows: int) -> str:
    """Return the statement that writes so many rows; what is not told (NULL) stays.

    Of a task that is told of again, to a scheduler that is new, the first time counts.
    """
    told = [name for name in COLUMNS[1:] if name != "submitted"]
    kept = ", ".join(f"{name} = coalesce(excluded.{name}, {name})" for name in told)
    kept += ", submitted = coalesce(submitted, excluded.submitted)"
    values = ", ".join([_ROW] * rows)
    return (
        f"INSERT INTO tasks ({', '.join(COLUMNS)}) VALUES {values}"
        f" ON CONFLICT (key) DO UPDATE SET {kept}"
    )


UPSERT = upsert(1)
UPSERT_MANY = upsert(ROWS)

PAYLOAD = "INSERT OR REPLACE INTO payloads (key, kind, data) VALUES (?, ?, ?)"
COUNTED = "UPDATE tally SET rows = ?, since = ?"
SETTLE = "INSERT OR IGNORE INTO settled (client) VALUES (?)"
LOST = (
    "UPDATE tasks SET status = ?, received = ?, ename = ?, evalue = ?"
    " WHERE key BETWEEN ? AND ? AND received IS NULL"
)
DELIVERED = "DELETE FROM payloads WHERE key = ?"
RESUBMITTED = "UPDATE tasks SET resubmitted = ? WHERE key = ?"
OUTPUT = (
    "INSERT INTO outputs (key, stream, text) VALUES (?1, ?2, ?3) ON CONFLICT (key, stream)"
    " DO UPDATE SET text = substr(text || excluded.text, 1, ?4)"
)
SHIP = "INSERT INTO journal (names, data) VALUES (?, ?)"
FUNCTION = "INSERT OR IGNORE INTO functions (digest, name, data) VALUES (?, ?, ?)"
CLIENT = "INSERT OR IGNORE INTO clients (id, uuid) VALUES (?, ?)"
ENGINE = "INSERT OR IGNORE INTO engines (row, id, uuid, host) VALUES (?, ?, ?, ?)"

FROM = (
    " FROM tasks t LEFT JOIN clients c ON c.id = (t.key >> 40)"
    " LEFT JOIN engines e ON e.row = t.engine"
    " LEFT JOIN functions f ON f.digest = t.fn"
)
