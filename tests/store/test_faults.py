"""Disks that are full, files that are damaged, locked or others', processes that are killed."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipclusterz.core import message as m
from ipclusterz.core.message import Op
from ipclusterz.store import schema
from ipclusterz.store import writer as writer_module
from ipclusterz.store.database import Database
from ipclusterz.store.pending import Notes, Pending, Shipment
from tests.store.helpers import NOON, UUID, Desk, began, ended, key

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir(mode=0o700)
    options = "size=2m,mode=0700"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trouble is tried again soon."""
    monkeypatch.setattr(writer_module, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(writer_module, "RETRY_MOST", 0.1)


def told(desk: Desk, text: str) -> int:
    return sum(text in one for one in desk.said)


@pytest.mark.usefixtures("quick")
def test_a_full_disk_is_said_once_and_nothing_is_lost_when_there_is_room(
    small_disk: Path,
) -> None:
    path = small_disk / "tasks.db"
    with Desk(path) as desk:
        desk.store.note([began(i) for i in range(100)])
        assert len(desk.ask("history")) == 100
        ballast = small_disk / "ballast"
        with ballast.open("wb") as file, pytest.raises(OSError):
            while True:
                os.write(file.fileno(), b"x" * 4096)
        for first in range(100, 10_100, 1000):
            desk.store.note([began(i) for i in range(first, first + 1000)])
        desk.until_said("cannot write the task database")
        (text,) = desk.said
        assert str(path) in text and "SQLITE_FULL" in text and "Make room" in text
        assert "--db-dir" in text
        time.sleep(0.4)  # several attempts
        desk.store.poll()
        assert desk.said == [text]
        # An answer without the newest would look like one with them.
        with pytest.raises(RuntimeError, match="SQLITE_FULL.*10000 records wait in memory"):
            desk.ask("history")
        assert "SQLITE_FULL" in desk.ask("counts")["problem"]
        ballast.unlink()
        desk.until_said("can be written again; nothing was lost")
        assert len(desk.ask("history")) == 10_100
        assert desk.ask("counts")["problem"] == ""
        assert desk.close()


@pytest.mark.usefixtures("quick")
def test_what_waits_for_a_full_disk_is_bounded_and_the_newest_stay(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "PENDING_ROWS", 2000)
    with Desk(small_disk / "tasks.db") as desk:
        desk.ask("history")
        ballast = small_disk / "ballast"
        with ballast.open("wb") as file, pytest.raises(OSError):
            while True:
                os.write(file.fileno(), b"x" * 4096)
        for first in range(0, 20_000, 500):
            desk.store.note([began(i) for i in range(first, first + 500)])
            desk.ask("counts")
        desk.until_said("cannot write")
        ballast.unlink()
        desk.until_said("can be written again")
        assert "records were lost" in desk.said[-1]
        names = desk.ask("history")
        assert names[-1] == f"{UUID}_19999" and 1000 <= len(names) <= 4000
        assert not desk.close()


def test_a_client_keeps_its_tasks_when_rows_could_not_be_made_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its number, which nobody wrote down, would go to the next client, and they with it."""
    path = tmp_path / "tasks.db"
    database = Database(str(path), pytest.fail)

    def aside(first: int) -> None:
        pending = Pending()
        pending.name_client(1, UUID)
        run = m.Run(key(first), int(Op.APPLY), b"", [b""] * 10)
        pending.ship(Shipment(m.encode(m.Records(runs=[(run, NOON)], channel=4)), 1, 10))
        database.put_aside(pending)

    def full(*_: object) -> int:
        raise sqlite3.OperationalError("database or disk is full")

    aside(0)
    with monkeypatch.context() as patch:
        patch.setattr(Database, "_write_rest", full)
        with pytest.raises(sqlite3.OperationalError):
            database.settle()
    aside(100)
    while database.journal_bytes:
        database.settle()
    database.close()
    with sqlite3.connect(path) as db:
        assert [uuid for _, uuid in db.execute("SELECT * FROM clients")] == [UUID]
        assert db.execute("SELECT count(*) FROM tasks").fetchone() == (20,)


def test_a_disk_that_stays_full_does_not_keep_the_hub_from_ending(small_disk: Path) -> None:
    with Desk(small_disk / "tasks.db") as desk:
        desk.ask("history")
        with (small_disk / "ballast").open("wb") as file, pytest.raises(OSError):
            while True:
                os.write(file.fileno(), b"x" * 4096)
        desk.store.note([began(i) for i in range(5000)])
        desk.until_said("cannot write")
        started = time.monotonic()
        assert not desk.close(10)
        assert time.monotonic() - started < 5
        assert "5000 records of tasks were not written" in desk.said[-1]


LIMITED = """
import sys
from tests.store.helpers import Desk, began
with Desk(sys.argv[1]) as desk:
    for first in range(0, 20000, 500):
        desk.store.note([began(i, label="x" * 100) for i in range(first, first + 500)])
        desk.ask("counts")
    desk.until_said("cannot write the task database")
    print(desk.said[0])
"""


def test_a_limit_on_file_sizes_is_a_full_disk(tmp_path: Path) -> None:
    limit = 1 << 20
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "tasks.db")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 0, done.stderr
    assert "cannot write the task database" in done.stdout and "SQLITE_" in done.stdout


@pytest.mark.usefixtures("quick")
def test_a_folder_that_cannot_be_made_is_said_and_tried_again(tmp_path: Path) -> None:
    blocker = tmp_path / "home"
    blocker.write_text("a file where a folder should be")
    with Desk(blocker / "tasks.db") as desk:
        desk.store.note([began(1)])
        desk.until_said("cannot write the task database")
        assert "--memory-db" in desk.said[0]
        with pytest.raises(RuntimeError, match="cannot be used"):
            desk.ask("history")
        blocker.unlink()
        desk.until_said("can be written again")
        assert desk.ask("history") == [f"{UUID}_1"]
        assert desk.close()


@pytest.mark.usefixtures("quick")
def test_a_read_only_file_system_is_said_and_tried_again(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with Desk(small_disk / "tasks.db") as desk:
        desk.store.note([began(1)])
        desk.until_said("Read-only file system")
        assert "Make the folder writable" in desk.said[0]
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        desk.until_said("can be written again")
        assert desk.ask("history") == [f"{UUID}_1"]


@pytest.mark.usefixtures("quick")
def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with Desk(folder / "tasks.db") as desk:
        desk.store.note([began(1)])
        desk.until_said("chmod go-w")
        folder.chmod(0o700)
        desk.until_said("can be written again")


# -- files ---------------------------------------------------------------------------------


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE recipes (name TEXT)")
    db.close()


def newer(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.executescript(schema.TABLES)
        db.execute(f"PRAGMA application_id = {schema.APPLICATION}")
        db.execute("PRAGMA user_version = 99")
    db.close()


def older(path: Path) -> None:
    newer(path)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 0")
    db.close()


@pytest.mark.parametrize(
    ("make", "word", "text"),
    [
        (lambda path: path.write_bytes(b"once upon a time " * 500), "damaged", "no database"),
        (foreign, "foreign", "another program"),
        (newer, "schema99", "schema 99; this one knows 5"),
        (older, "schema0", "cannot be brought to 5"),
        (lambda path: path.mkdir(), "foreign", "not a regular file"),
        (lambda path: path.symlink_to("elsewhere.db"), "foreign", "a symbolic link"),
    ],
    ids=["garbage", "foreign", "newer", "older", "folder", "link"],
)
def test_what_cannot_be_used_is_renamed_and_a_new_one_begun(
    tmp_path: Path, make: object, word: str, text: str
) -> None:
    path = tmp_path / "tasks.db"
    assert callable(make)
    make(path)
    if path.is_file():
        path.chmod(0o600)
    with Desk(path) as desk:
        desk.store.note([began(1)])
        assert desk.ask("history") == [f"{UUID}_1"]
        assert len(desk.said) == 1 and text in desk.said[0] and "was renamed to" in desk.said[0]
    (aside,) = tmp_path.glob(f"tasks.db.{word}-*")
    assert str(aside) in desk.said[0]
    assert not (tmp_path / "elsewhere.db").exists()
    with Desk(path) as desk:
        assert desk.ask("history") == [f"{UUID}_1"]
        assert not desk.said


def test_an_empty_file_is_a_new_database(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    path.touch(0o644)
    with Desk(path) as desk:
        desk.store.note([began(1)])
        assert desk.ask("history") == [f"{UUID}_1"]
        assert "is private now" in desk.said[0]
    assert path.stat().st_mode & 0o777 == 0o600


def test_pages_damaged_later_are_found_out_and_the_hub_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with Desk(path) as desk:
        desk.store.note([began(i) for i in range(50_000)], [ended(i) for i in range(50_000)])
        desk.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        for page in range(3, size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 64)
    with Desk(path) as desk:
        desk.store.note([began(i) for i in range(60_000, 61_000)], [ended(60_000)])
        desk.until(lambda: desk.ask("counts")["tasks"] >= 1000)
        assert told(desk, "damaged") == 1
        assert f"{UUID}_60999" in desk.ask("history")
    assert list(tmp_path.glob("tasks.db.damaged-*"))


@pytest.mark.parametrize("replace", [False, True])
def test_a_file_that_is_deleted_under_us_is_begun_anew(tmp_path: Path, replace: bool) -> None:
    path = tmp_path / "tasks.db"
    with Desk(path) as desk:
        desk.store.note([began(1)])
        desk.ask("history")
        for name in tmp_path.glob("tasks.db*"):
            name.unlink()
        if replace:
            path.write_bytes(b"")
            path.chmod(0o600)
        desk.store.note([began(2)])
        assert desk.ask("history") == [f"{UUID}_2"]
        assert told(desk, "was removed") == 1
        desk.close()
    with Desk(path) as desk:
        assert desk.ask("history") == [f"{UUID}_2"]


def test_a_folder_that_is_deleted_under_us_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "db" / "tasks.db"
    with Desk(path) as desk:
        desk.ask("history")
        shutil.rmtree(path.parent)
        desk.store.note([began(2)])
        assert desk.ask("history") == [f"{UUID}_2"]


# -- processes -----------------------------------------------------------------------------

WRITING = """
import sys, time
from tests.store.helpers import Desk, began, ended
desk = Desk(sys.argv[1], flush_seconds=0.01)
number = 0
while True:
    batch = range(number, number + 200)
    desk.store.note([began(i) for i in batch], [ended(i) for i in batch])
    number += 200
    if number % 2000 == 0:
        desk.ask("history", limit=1)
        print(number, flush=True)
"""


def writing(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITING, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_killed_process_leaves_all_it_had_written(tmp_path: Path, after: int) -> None:
    path = tmp_path / "tasks.db"
    process = writing(path)
    assert process.stdout is not None
    written = 0
    for _ in range(after):
        written = int(process.stdout.readline())
    time.sleep(0.01 * after)
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split()
    process.stdout.close()
    process.wait()
    written = int(rest[-1]) if rest else written
    with Desk(path) as desk:
        names = desk.ask("history")
        numbers = [int(name.rpartition("_")[2]) for name in names]
        assert numbers == list(range(len(numbers))) and len(numbers) >= written
        assert desk.ask("counts")["unfinished"] == 0
        assert not desk.said
        desk.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_a_file_another_process_has_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    process = writing(path)
    assert process.stdout is not None
    try:
        written = int(process.stdout.readline())
        with Desk(path) as desk:
            desk.store.note([began(1)])
            assert desk.ask("history") == [f"{UUID}_1"]
            assert told(desk, "is in use by another process") == 1
            assert desk.ask("counts")["path"] == str(tmp_path / "tasks-2.db")
        assert int(process.stdout.readline()) > written
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    with Desk(path) as desk:
        assert len(desk.ask("history")) >= written
        assert not desk.said


def noted(counters: range) -> Pending:
    """Tasks that have ended."""
    pending = Pending()
    pending.name_client(1, UUID)
    pending.add(Notes([began(i) for i in counters], [ended(i) for i in counters]))
    return pending


def test_to_open_a_file_reads_no_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million of them take seconds where the disk is slow; starts and stops wait for that."""
    path = str(tmp_path / "tasks.db")
    database = Database(path, lambda text: None)
    database.write(noted(range(1, 301)))
    database.write(noted(range(1, 101)))
    assert database.rows == 400, "never less than there are"
    assert database.prune(10_000, 1 << 40, 0.0) is False
    database.close()
    with monkeypatch.context() as patch:
        patch.setattr(Database, "_count", None)
        database = Database(path, lambda text: None)
    assert database.rows == 400
    assert database.counts()["tasks"] == database.rows == 300
    database._remove([(key,) for (key,) in database._keys("1", (50,))])
    assert database.rows == 250
    database.close()
    database = Database(path, lambda text: None)
    assert database.rows == database._count() == 250
    database.close()


@pytest.mark.parametrize("lacking", ["DELETE FROM tally", "DROP TABLE tally"])
def test_a_file_that_does_not_say_how_many_there_are_is_counted(
    tmp_path: Path, lacking: str
) -> None:
    path = tmp_path / "tasks.db"
    database = Database(str(path), lambda text: None)
    database.write(noted(range(1, 31)))
    database.close()
    with sqlite3.connect(path) as db:
        db.execute(lacking)
        if "DROP" in lacking:  # as it was before version 4
            db.execute("PRAGMA user_version = 3")
    db.close()
    for _ in range(2):
        database = Database(str(path), lambda text: pytest.fail(text))
        assert database.rows == 30
        database.close()


def test_what_was_not_committed_is_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "tasks.db")
    database = Database(path, lambda text: None)
    database.write(noted(range(1, 31)))
    monkeypatch.setattr(database, "_tell_rows", None)
    with pytest.raises(TypeError):
        database.write(noted(range(100, 131)))
    with pytest.raises(TypeError):
        database._remove([(key,) for (key,) in database._keys("1", (5,))])
    monkeypatch.undo()
    assert database.rows == database._count() == 30
    database.write(noted(range(200, 211)))
    database.close()
    database = Database(path, lambda text: None)
    assert database.rows == database._count() == 41
    database.close()
