"""The store as the hub uses it: notes, answers, bounds, and that nothing ever waits."""

from __future__ import annotations

import os
import pickle
import select
import sqlite3
import stat
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ipclusterz.core.message import Status
from ipclusterz.store import RESULT, WORK, QueryError
from ipclusterz.store import database as database_module
from ipclusterz.store import store as store_module
from ipclusterz.store import writer as writer_module
from ipclusterz.store.database import Database
from ipclusterz.store.pending import Notes, Pending
from tests.store.helpers import NOON, OTHER, UUID, Desk, began, ended, key, whole


def test_a_task_is_told_from_beginning_to_end(tmp_path: Path) -> None:
    with Desk(tmp_path / "tasks.db") as desk:
        desk.store.note(begun=[began(7, label="night")])
        (record,) = desk.ask("query", {"label": "night"})
        assert record["msg_id"] == f"{UUID}_7"
        assert record["completed"] is None and record["status"] is None
        assert record["submitted"].timestamp() == NOON + 7
        error = ("ValueError", "no " * 1000)
        desk.store.note(ended=[ended(7, engine=2, status=Status.ERROR, error=error)])
        (record,) = desk.ask("query", {"msg_id": f"{UUID}_7"})
        assert record["status"] == "error" and record["ename"] == "ValueError"
        assert len(record["evalue"]) == database_module.ERROR_CHARACTERS
        assert (record["engine_id"], record["engine_uuid"]) == (2, "e2")
        assert record["engine_host"] == "host0" and record["label"] == "night"
        assert record["queue"] == "task" and record["op"] == "apply"
        assert record["completed"].timestamp() == pytest.approx(NOON + 7.2)
        assert record["submitted"].timestamp() == NOON + 7


def test_all_is_there_after_close_and_in_the_next_controller(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with Desk(path) as desk:
        desk.store.note([began(i) for i in range(5000)], [ended(i) for i in range(4000)])
        assert desk.close()
    with Desk(path) as desk:
        counts = desk.ask("counts")
        assert counts["tasks"] == 5000 and counts["unfinished"] == 1000
        assert counts["journal"] == "wal" and counts["path"] == str(path)
        # The same numbers for other clients and engines: they are not mixed up.
        desk.store.client(1, "new" * 4)
        desk.store.engine(0, "other", "elsewhere")
        desk.store.note([began(3)], [ended(3)])
        (record,) = desk.ask("query", {"client_uuid": "new" * 4})
        assert record["engine_uuid"] == "other" and record["msg_id"] == "new" * 4 + "_3"
        (record,) = desk.ask("query", {"msg_id": f"{UUID}_3"})
        assert record["engine_uuid"] == "e0"
        assert not desk.said


def test_answers_hold_everything_noted_before_the_question() -> None:
    with Desk(None, flush_seconds=60) as desk:
        for i in range(20):
            desk.store.note([began(i)])
            assert len(desk.ask("history")) == i + 1


def test_history_is_in_the_order_of_submission() -> None:
    with Desk(None) as desk:
        desk.store.note([began(i) for i in (5, 1, 9)])
        desk.store.note([began(3, client=2)])
        expected = [f"{UUID}_1", f"{OTHER}_3", f"{UUID}_5", f"{UUID}_9"]
        assert desk.ask("history") == expected
        assert desk.ask("history", limit=2) == expected[2:]


def test_the_descriptor_tells_of_an_answer_and_is_quiet_otherwise() -> None:
    with Desk(None) as desk:
        assert select.select([desk.store.fd], [], [], 0.1)[0] == []
        got: list[Any] = []
        desk.store.counts(
            lambda value, error: got.append((value, error, threading.get_ident()))
        )
        assert select.select([desk.store.fd], [], [], 20)[0]
        assert not got
        desk.store.poll()
        assert got[0][2] == threading.get_ident()
        assert select.select([desk.store.fd], [], [], 0)[0] == []


def test_noting_does_not_wait_for_a_writer_that_hangs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    go = threading.Event()
    write = database_module.Database.write

    def stuck(self: database_module.Database, pending: Pending) -> int:
        go.wait(20)
        return write(self, pending)

    monkeypatch.setattr(database_module.Database, "write", stuck)
    monkeypatch.setattr(store_module, "BACKLOG", 5000)
    monkeypatch.setattr(store_module, "HURRY", 4000)
    desk = Desk(tmp_path / "tasks.db")
    began_at = time.monotonic()
    for i in range(0, 20_000, 100):
        desk.store.note([began(n) for n in range(i, i + 100)])
    assert time.monotonic() - began_at < 2
    assert not desk.store.close(0.05)
    assert "did not finish writing" in desk.said[-1]
    go.set()
    assert not desk.store.close(20)  # the oldest were let go of
    with Desk(tmp_path / "tasks.db") as desk:
        names = desk.ask("history")
        assert 5000 <= len(names) < 20_000 and names[-1] == f"{UUID}_19999"


def test_queries_are_right_while_much_is_written(tmp_path: Path) -> None:
    with Desk(tmp_path / "tasks.db") as desk:
        for first in range(0, 60_000, 500):
            numbers = range(first, first + 500)
            desk.store.note([began(i) for i in numbers], [ended(i) for i in numbers])
            if first % 10_000 == 0:
                assert desk.ask("counts")["tasks"] == first + 500
                found = desk.ask("query", {"msg_id": {"$in": [f"{UUID}_{first}"]}})
                assert [r["status"] for r in found] == ["ok"]
        assert desk.ask("counts")["tasks"] == 60_000


def test_too_many_answers_are_refused_with_advice() -> None:
    with Desk(None) as desk:
        desk.store.note([began(i) for i in range(20)])
        assert len(desk.ask("query", {}, limit=20)) == 20
        with pytest.raises(RuntimeError, match="more than 19 tasks match"):
            desk.ask("query", {}, limit=19)


def test_a_bad_query_is_an_error_at_once() -> None:
    with Desk(None) as desk, pytest.raises(QueryError, match="did you mean 'engine_id'"):
        desk.store.query(print, {"engineid": 3})


def test_a_value_that_cannot_be_asked_for_is_an_error_answer() -> None:
    with Desk(None) as desk:
        with pytest.raises(RuntimeError, match="surrogates"):
            desk.ask("query", {"label": "\ud800"})
        assert desk.ask("history") == []


# -- bounds --------------------------------------------------------------------------------


def test_the_oldest_finished_go_first_and_unfinished_ones_never() -> None:
    with Desk(None, max_rows=1000) as desk:
        desk.store.note([began(i) for i in range(10)])  # never end
        now = time.time()
        for first in range(100, 5100, 500):
            numbers = range(first, first + 500)
            desk.store.note(
                [began(i) for i in numbers],
                [ended(i, received=now + i / 1e4) for i in numbers],
            )
            desk.ask("history")
        desk.until(lambda: desk.ask("counts")["tasks"] <= 1000)
        names = desk.ask("history")
        assert names[:10] == [f"{UUID}_{i}" for i in range(10)]
        numbers_left = [int(name.rpartition("_")[2]) for name in names[10:]]
        assert numbers_left == list(range(numbers_left[0], 5100))
        assert len(names) >= 900


def test_the_finished_go_by_age_of_the_controllers_clock() -> None:
    with Desk(None, max_age=3600) as desk:
        now = time.time()
        desk.store.note(
            [began(i) for i in range(3)],
            [ended(0, received=now - 4000), ended(1, received=now - 1000)],
        )
        desk.until(lambda: len(desk.ask("history")) == 2)
        assert desk.ask("history") == [f"{UUID}_1", f"{UUID}_2"]


def test_the_file_stays_within_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    limit = 2_000_000
    with Desk(path, max_bytes=limit) as desk:
        for first in range(0, 30_000, 1000):
            numbers = range(first, first + 1000)
            desk.store.note(
                [began(i, label="x" * 200) for i in numbers], [ended(i) for i in numbers]
            )
            desk.ask("history", limit=1)
        desk.until(lambda: desk.ask("counts")["bytes"] <= limit)
        assert desk.ask("counts")["tasks"] > 1000
        assert desk.ask("history")[-1] == f"{UUID}_29999"
        desk.close()
    assert path.stat().st_size < 4 * limit


def test_what_no_client_has_yet_is_pruned_last() -> None:
    with Desk(None, max_rows=100) as desk:
        desk.store.note(payloads=[(key(i), RESULT, b"r%d" % i) for i in range(10)])
        desk.store.note([began(i) for i in range(10)], [ended(i) for i in range(10)])
        desk.ask("history")
        numbers = range(100, 600)
        desk.store.note([began(i) for i in numbers], [ended(i) for i in numbers])
        desk.until(lambda: desk.ask("counts")["tasks"] <= 100)
        assert desk.ask("counts")["undelivered"] == 10


# -- payloads, output, purging -------------------------------------------------------------


def test_payloads_are_kept_until_they_are_delivered(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with Desk(path) as desk:
        desk.store.note(
            [began(1), began(2)],
            payloads=[(key(1), WORK, b"w1"), (key(1), RESULT, b"r1"), (key(2), WORK, b"w2")],
        )
        assert desk.ask("counts")["undelivered"] == 2
        desk.close()
    with Desk(path) as desk:
        waiting = {"completed": None, "buffers": {"$exists": True}}
        assert desk.ask("payloads", waiting, WORK) == {f"{UUID}_1": b"w1", f"{UUID}_2": b"w2"}
        assert desk.ask("payloads", {}, RESULT) == {f"{UUID}_1": b"r1"}
        desk.store.note(ended=[ended(1)], delivered=[key(1)])
        assert desk.ask("payloads", {}, WORK) == {f"{UUID}_2": b"w2"}
        assert desk.ask("payloads", {}, RESULT) == {}
        assert desk.ask("counts")["undelivered"] == 1
        assert len(desk.ask("history")) == 2


def test_what_is_delivered_before_it_was_written_is_never_written() -> None:
    with Desk(None, flush_seconds=60) as desk:
        desk.store.note([began(1)], payloads=[(key(1), RESULT, b"r" * 1000)])
        desk.store.note(ended=[ended(1)], delivered=[key(1)])
        assert desk.ask("counts")["undelivered"] == 0


def test_output_is_kept_up_to_a_limit() -> None:
    with Desk(None) as desk:
        desk.store.note([began(1)])
        for _ in range(30):
            desk.store.note(outputs=[(key(1), 1, "x" * 5000), (key(1), 2, "e")])
            desk.ask("history")
        (record,) = desk.ask("query", {}, ["stdout", "stderr"])
        assert record["stdout"] == "x" * database_module.TEXT_CHARACTERS
        assert record["stderr"] == "e" * 30


def test_purging_takes_the_finished_and_tells_of_the_others(tmp_path: Path) -> None:
    with Desk(tmp_path / "tasks.db") as desk:
        desk.store.note(
            [began(i) for i in range(10)],
            [ended(i, engine=i % 2) for i in range(8)],
            payloads=[(key(0), RESULT, b"r")],
            outputs=[(key(0), 1, "text")],
        )
        assert desk.ask("purge", {"engine_id": 0}) == {"purged": 4, "unfinished": 0}
        assert desk.ask("counts")["undelivered"] == 0
        assert desk.ask("purge") == {"purged": 4, "unfinished": 2}
        assert desk.ask("history") == [f"{UUID}_8", f"{UUID}_9"]
        desk.store.note([began(0)])
        (record,) = desk.ask("query", {"msg_id": f"{UUID}_0"})
        assert record["stdout"] == ""


def test_records_travel_as_messages(tmp_path: Path) -> None:
    """What a query returns can be packed and comes back with its times."""
    with Desk(None) as desk:
        desk.store.note([began(1)], [ended(1)])
        records = desk.ask("query")
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(records)) == records


# -- odd records ---------------------------------------------------------------------------


def test_records_that_make_no_sense_are_left_out_and_said_once() -> None:
    with Desk(None) as desk:
        odd: Any = [
            [(key(500), 1 << 70, 0, b"", 0.0, "")],
            [(key(501), 1)],
            [(key(502), 4, 0, b"", 0.0, "\ud800")],
            [None],
            [(key(503), 4, 0, [1], 0.0, "")],
        ]
        for one in odd:
            desk.store.note([*(began(i) for i in range(300)), *one])
            desk.ask("history", limit=1)
        assert desk.ask("counts")["tasks"] == 300
        assert [text for text in desk.said if "made no sense" in text] == desk.said
        assert len(desk.said) == 1
        assert not desk.close()  # not everything that was noted is written


def test_unknown_numbers_have_a_name_as_well() -> None:
    with Desk(None) as desk:
        desk.store.note([began(1, client=77)], [ended(1, client=77, engine=99)])
        (record,) = desk.ask("query")
        assert record["msg_id"] == "unknown77_1"
        assert record["engine_id"] == 99 and record["engine_uuid"] is None


# -- privacy -------------------------------------------------------------------------------


def test_files_and_folders_are_the_owners_alone(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        path = tmp_path / "new" / "db" / "tasks.db"
        with Desk(path) as desk:
            desk.store.note([began(1)])
            desk.ask("history")
            for name in path.parent.iterdir():
                assert stat.S_IMODE(name.stat().st_mode) == 0o600, name
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700
    finally:
        os.umask(previous)


def test_asking_after_close_is_answered() -> None:
    desk = Desk(None)
    assert desk.close()
    assert desk.close()
    got: list[tuple[Any, str]] = []
    desk.store.note([began(1)])
    desk.store.history(lambda value, error: got.append((value, error)))
    desk.store.poll()
    assert got == [(None, "the task database is closed")]


def test_small_payloads_stand_with_their_task() -> None:
    with Desk(None) as desk:
        desk.store.note(
            [began(1, data=b"arguments"), began(2)],
            [ended(1, data=b"value")],
            outputs=[(key(1), 1, "said"), (key(1), 2, "warned")],
            functions=[(b"\x01\x02", b"\x80\x05no pickle")],
        )
        found = desk.ask("tasks", [f"{UUID}_1", f"{UUID}_2", f"{UUID}_3", "nobody_1", "x"])
        one = found[f"{UUID}_1"]
        assert (one["work"], one["result"], one["function"]) == (
            b"arguments",
            b"value",
            b"\x80\x05no pickle",
        )
        assert (one["stdout"], one["stderr"], one["status"]) == ("said", "warned", 0)
        two = found[f"{UUID}_2"]
        assert (two["work"], two["result"], two["received"]) == (None, None, None)
        assert found[f"{UUID}_3"] is None and found["nobody_1"] is None and found["x"] is None
        [record] = desk.ask("query", {"msg_id": f"{UUID}_1"}, ["buffers", "result_buffers"])
        assert record["buffers"] == [b"arguments"] and record["result_buffers"] == [b"value"]
        assert desk.ask("query", {"buffers": {"$exists": True}}, ["msg_id"]) == [
            {"msg_id": f"{UUID}_1"}
        ]


def test_an_answer_with_payloads_is_bounded() -> None:
    with Desk(None) as desk:
        desk.store.note([began(i, data=bytes(1000)) for i in range(100)])
        names = [f"{UUID}_{i}" for i in range(100)]
        found = desk.ask("tasks", names, 10_000)
        assert list(found) == names[: len(found)] and 1 < len(found) < 12
        assert len(desk.ask("tasks", names[:1], 1)) == 1  # always some progress


def test_functions_are_called_by_their_names() -> None:
    with Desk(None) as desk:
        digest = bytes(16)
        desk.store.note([began(1, fn=digest)], functions=[(digest, pickle.dumps(os.getpid))])
        [record] = desk.ask("query", {"function": {"$ne": None}}, ["function"])
        assert record["function"].endswith("getpid")


def test_a_database_of_version_1_is_brought_to_this_one(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with Desk(path) as desk:
        desk.store.note([began(1)], [ended(1)])
    with sqlite3.connect(path) as db:
        db.executescript(
            "ALTER TABLE tasks DROP COLUMN work; ALTER TABLE tasks DROP COLUMN result;"
            "DROP TABLE functions; DROP TABLE journal; PRAGMA user_version = 1"
        )
    db.close()
    with Desk(path) as desk:
        desk.store.note([began(2, data=b"new")])
        assert desk.said == []
        found = desk.ask("tasks", [f"{UUID}_1", f"{UUID}_2"])
        assert found[f"{UUID}_1"]["status"] == 0 and found[f"{UUID}_2"]["work"] == b"new"


def test_what_was_under_way_when_a_controller_ended_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    with Desk(path) as desk:
        desk.store.note([began(1), began(2), began(3, client=2)], [ended(2)])
        assert desk.close()
    with Desk(path, {2: OTHER}) as desk:  # which goes on
        desk.store.note([began(4, client=2)])
        desk.store.desert()
        keys = ["status", "error", "received"]
        found = {r["msg_id"]: r for r in desk.ask("query", None, keys)}
        lost = found[f"{UUID}_1"]
        assert lost["status"] == "lost" and lost["received"] is not None
        assert lost["error"].startswith("ControllerLost: the controller ended before")
        assert found[f"{UUID}_2"]["status"] == "ok"
        assert found[f"{OTHER}_3"]["status"] is found[f"{OTHER}_4"]["status"] is None
        desk.until_said("1 tasks in the task database were under way")
        assert desk.ask("purge", {"status": "lost"}) == {"purged": 1, "unfinished": 0}
        desk.store.desert()
        assert desk.ask("counts")["unfinished"] == 2
        assert desk.close() and len(desk.said) == 1
    with Desk(path, {}) as desk:
        desk.store.desert()
        desk.store.client(5, "c5")  # comes before there is time for it
        desk.store.note([began(1, client=5)])
        assert desk.ask("counts")["unfinished"] == 1
        [record] = desk.ask("query", {"client_uuid": "c5"}, ["status"])
        assert record["status"] is None


def test_lost_tasks_are_looked_for_when_there_is_time_and_hold_up_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tasks.db"
    with Desk(path) as desk:
        desk.store.note([began(1)])
        assert desk.close()
    monkeypatch.setattr(Database, "deserted", None)
    with Desk(path, {}) as desk:
        desk.store.desert()
        assert desk.close(), "it is not done, and the next one does it"
    monkeypatch.undo()
    monkeypatch.setattr(writer_module, "IDLE_SECONDS", 0.01)
    with Desk(path) as desk:  # whose clients are all named, and have nothing to say
        desk.ask("history")
        desk.store.client(3, "c3")
        desk.store.desert()
        desk.until(lambda: not desk.store._writer._deserts)
        assert desk.ask("counts")["unfinished"] == 1
    with Desk(path, {}) as desk:
        desk.store.desert()
        desk.until_said("1 tasks in the task database were under way")  # nobody asked


def test_what_is_left_of_a_client_goes_with_it(tmp_path: Path) -> None:
    """Its row's number is given to another one, who must not find anything under it."""
    path = tmp_path / "tasks.db"
    with Desk(path) as desk:
        desk.store.note([began(1)], outputs=[(key(1), 1, "mine"), (key(7), 1, "of no task")])
        assert desk.close()
    with Desk(path, {}) as desk:
        desk.store.desert()
        assert desk.ask("purge")["purged"] == 1
        assert desk.close()
    with Desk(path) as desk:
        desk.store.note([began(7, client=2)])
        [record] = desk.ask("query", None, ["client_uuid", "stdout", "status"])
        assert record["client_uuid"] == OTHER and not record["stdout"]
        assert desk.close()
    with Desk(path, {}) as desk:
        desk.store.desert()
        assert desk.ask("counts")["unfinished"] == 0, "the number of one that was settled"


def test_payloads_go_first_when_the_disk_cannot_take_them() -> None:
    pending = Pending()
    notes = Notes([began(1, data=bytes(900))], [ended(1, data=bytes(900))], size=1800)
    pending.add(notes)
    assert pending.trim(1000, 1000) == 0
    assert pending.begun[key(1)][:-1] == notes.begun[0][:-1]
    assert pending.begun[key(1)][-1] == b"" == pending.ended[key(1)][-1]
    assert pending.size == 0


def test_tasks_told_of_as_a_whole_are_like_others() -> None:
    with Desk(None) as desk:
        at = 1_800_000_000.0
        ends = [ended(i, engine=i % 3, received=at, data=b"value") for i in range(300)]
        desk.store.note(whole=[whole(began(i, data=b"x"), ends[i]) for i in range(300)])
        desk.store.note([began(i + 1000, data=b"x") for i in range(300)])
        desk.store.note(ended=[(key(i + 1000), *ends[i][1:]) for i in range(300)])
        keys = ["engine_id", "status", "received", "buffers", "result_buffers", "function"]
        one = desk.ask("query", {"msg_id": {"$in": [f"{UUID}_{i}" for i in range(300)]}}, keys)
        two = desk.ask(
            "query", {"msg_id": {"$in": [f"{UUID}_{i + 1000}" for i in range(300)]}}, keys
        )
        assert len(one) == len(two) == 300
        for first, second in zip(one, two, strict=True):
            assert {**first, "msg_id": ""} == {**second, "msg_id": ""}


def test_what_is_whole_is_trimmed_and_stripped_like_the_rest() -> None:
    pending = Pending()
    rows = [whole(began(i, data=bytes(100)), ended(i, data=bytes(100))) for i in range(50)]
    pending.add(Notes(whole=rows, size=10_000))
    assert pending.trim(20, 1000) == 30
    assert [row[0] for row in pending.whole] == [key(i) for i in range(30, 50)]
    assert all(row[6] is None and row[-1] is None for row in pending.whole)
    assert [row[:6] for row in pending.whole] == [row[:6] for row in rows[30:]]


def test_bounds_are_kept_without_counting_each_time(tmp_path: Path) -> None:
    """A million rows are read in a tenth of a second: too long for every ten thousand tasks."""
    database = Database(str(tmp_path / "tasks.db"), lambda text: None)
    counted: list[int] = []
    database.connection.set_trace_callback(
        lambda text: counted.append(1) if "count(*) FROM tasks" in text else None
    )
    for first in range(0, 2_000, 10):
        pending = Pending()
        pending.add(
            Notes(
                whole=[
                    (key, 4, 0, None, 1.0, None, None, 1, 0, 0, 1.0, 2.0, 2.0, None, None, None)
                    for key in range(first, first + 10)
                ]
            )
        )
        database.write(pending)
        database.prune(1_000, 1 << 30, 0.0)
        assert database.rows <= 1_000
    assert 1 <= len(counted) <= 25, "200 writes, of which half were beyond the bound"
    kept = database.connection.execute("SELECT min(key & 1048575), count(*) FROM tasks")
    first, rows = kept.fetchone()
    assert 900 <= rows <= 1_000 and first == 2_000 - rows, "the newest"
    database.close()
