"""Records that are put aside as they came, and become rows when there is time or need."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ipclusterz.core import message as m
from ipclusterz.store import writer as writer_module
from ipclusterz.store.database import Database
from ipclusterz.store.pending import Pending, Shipment
from tests.store.helpers import OTHER, UUID, Desk, began, ended, key, whole


def ship(desk: Desk, **records: Any) -> None:
    made = m.Records(**records)
    desk.store.ship(m.encode(made), made.count, made.size)


def tasks(first: int, last: int, client: int = 1, **more: Any) -> list[tuple[Any, ...]]:
    return [
        whole(began(i, client=client, data=b"work"), ended(i, client=client, data=b"value"))
        for i in range(first, last)
    ]


def journal(path: Path) -> int:
    """How many shipments lie in a file that nobody has open."""
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT count(*) FROM journal").fetchone()[0])


def test_a_question_is_answered_from_everything_shipped(tmp_path: Path) -> None:
    with Desk(tmp_path / "tasks.db") as desk:
        ship(desk, whole=tasks(0, 50), begun=[began(100, fn=None)])  # type: ignore[arg-type]
        ship(desk, ended=[ended(100)], outputs=[(key(3), 1, "said")])
        found = desk.ask("query", {}, ["engine_id", "status", "stdout", "result_buffers"])
        assert len(found) == 51 and {record["status"] for record in found} == {"ok"}
        assert found[3]["stdout"] == "said" and found[3]["result_buffers"] == [b"value"]
        assert desk.ask("counts")["unfinished"] == 0


def test_rows_are_made_when_nothing_else_is_to_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "IDLE_SECONDS", 0.05)
    with Desk(tmp_path / "tasks.db") as desk:
        for first in range(0, 100, 10):
            ship(desk, whole=tasks(first, first + 10))
        database = desk.store._writer
        desk.until(
            lambda: (
                database._database is not None
                and database._database.rows == 100
                and not database._database.journal_bytes
            )
        )
    assert journal(tmp_path / "tasks.db") == 0


def test_what_was_not_made_rows_of_is_there_for_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with Desk(path) as desk:
        ship(desk, whole=tasks(0, 5))
        ship(desk, whole=tasks(0, 7, client=2))
    assert journal(path) == 2
    with Desk(path) as desk:
        # The numbers belong to others now.
        desk.store.client(1, "n" * 32)
        desk.store.client(2, "m" * 32)
        desk.store.engine(0, "other engine", "other host")
        ship(desk, whole=tasks(0, 3))
        names = desk.ask("history")
        assert sorted(name.partition("_")[0] for name in names) == sorted(
            [UUID] * 5 + [OTHER] * 7 + ["n" * 32] * 3
        )
        [old] = desk.ask("query", {"msg_id": f"{UUID}_0"}, ["engine_uuid"])
        [new] = desk.ask("query", {"msg_id": "n" * 32 + "_0"}, ["engine_uuid"])
        assert (old["engine_uuid"], new["engine_uuid"]) == ("e0", "other engine")
    assert journal(path) == 0


def test_what_comes_first_is_written_first(tmp_path: Path) -> None:
    with Desk(tmp_path / "tasks.db") as desk:
        ship(desk, whole=tasks(0, 5))
        desk.store.note(resubmitted=[(key(3), "new_1")])
        [record] = desk.ask("query", {"msg_id": f"{UUID}_3"}, ["resubmitted"])
        assert record["resubmitted"] == "new_1"


def test_what_lies_as_it_came_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "JOURNAL_BYTES", 10_000)
    path = tmp_path / "tasks.db"
    with Desk(path) as desk:
        for first in range(0, 3000, 100):
            ship(desk, whole=tasks(first, first + 100))
            desk.until(lambda: desk.store._writer.taken == desk.store._noted)
        database = desk.store._writer._database
        desk.until(lambda: database is not None and database.journal_bytes <= 10_000)
    with closing(sqlite3.connect(path)) as db:
        [rows] = db.execute("SELECT count(*) FROM tasks").fetchone()
        [size] = db.execute("SELECT coalesce(sum(length(data)), 0) FROM journal").fetchone()
    assert size <= 10_000 and rows >= 2800


def test_the_end_does_not_wait_for_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million tasks at the end took longer than the end may, and were lost."""
    monkeypatch.setattr(writer_module, "JOURNAL_BYTES", 0)
    entered, go_on = threading.Event(), threading.Event()
    settled: list[int] = []
    settle = Database.settle

    def slow(self: Database) -> int:
        entered.set()
        assert go_on.wait(20)
        settled.append(1)
        return settle(self)

    monkeypatch.setattr(Database, "settle", slow)
    path = tmp_path / "tasks.db"
    with Desk(path) as desk:
        writer = desk.store._writer
        ship(desk, whole=tasks(0, 10))
        assert entered.wait(20), "rows are being made"
        for first in range(10, 500, 10):
            ship(desk, whole=tasks(first, first + 10))
        writer.commands.put(("end", None, None))
        go_on.set()
        writer.thread.join(20)
        assert not writer.thread.is_alive() and writer.complete
    assert len(settled) <= 2 and journal(path) >= 48
    monkeypatch.undo()
    with Desk(path) as desk:
        assert len(desk.ask("history")) == 500


def test_a_shipment_that_makes_no_sense_is_left_out_and_told(tmp_path: Path) -> None:
    with Desk(tmp_path / "tasks.db") as desk:
        desk.store.ship(b"\xc1 no records", 7, 0)
        ship(desk, whole=tasks(0, 5))
        assert len(desk.ask("history")) == 5
        desk.until_said("made no sense")


def test_nothing_is_lost_when_the_disk_has_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "RETRY_SECONDS", 0.05)
    folder = tmp_path / "home"
    folder.write_text("a file where a folder should be")
    with Desk(folder / "tasks.db") as desk:
        ship(desk, whole=tasks(0, 1000))
        desk.until_said("cannot write the task database")
        ship(desk, whole=tasks(1000, 2000))
        with pytest.raises(RuntimeError, match="2000 records wait in memory"):
            desk.ask("history")
        folder.unlink()
        desk.until_said("can be written again; nothing was lost")
        assert len(desk.ask("history")) == 2000


def test_the_oldest_shipments_go_first_when_memory_is_short() -> None:
    pending = Pending()
    for _ in range(10):
        pending.ship(Shipment(bytes(100), 50, 0))
    assert not pending.noted and len(pending) == 500
    assert pending.trim(100_000, 550) == 250 and len(pending.raw) == 5
    assert pending.trim(120, 10_000) == 150 and pending.size == 200


@pytest.mark.parametrize("times", [1, 5])
def test_a_killed_process_leaves_its_shipments(tmp_path: Path, times: int) -> None:
    code = (
        "import os, sys\n"
        "from tests.store.helpers import Desk\n"
        "from tests.store.test_shipments import ship, tasks\n"
        "desk = Desk(sys.argv[1])\n"
        "for i in range(int(sys.argv[2])):\n"
        "    ship(desk, whole=tasks(i * 10, i * 10 + 10))\n"
        "    w = desk.store._writer\n"
        "    desk.until(lambda: w.taken == desk.store._noted and not w._pending)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    import sys

    path = tmp_path / "tasks.db"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(times)], cwd=root, timeout=60
    )
    assert done.returncode == -9
    with Desk(path) as desk:
        assert len(desk.ask("history")) == 10 * times
