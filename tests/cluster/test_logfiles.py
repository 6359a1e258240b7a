"""Log files: whose they are, their lines in order, and what is added, across rotation."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest

from ipclusterz.cluster import logfiles
from ipclusterz.cluster.logfiles import Follower, LogFile
from ipclusterz.net import log as netlog
from tests.running import run


@pytest.mark.parametrize(
    ("name", "cluster_id", "found"),
    [
        ("ipcontroller.log", "", ("controller", -1)),
        ("ipcontroller-hub.log", "", ("hub", -1)),
        ("ipcontroller-x-hub.log", "", None),
        ("ipcontroller-x-hub.log", "x", ("hub", -1)),
        ("ipcontroller-hub.log", "x", None),
        ("ipcontroller-x.log", "x", ("controller", -1)),
        ("ipcontrollerz.err", "", ("controller", -1)),
        ("ipcontrollerz-x.err", "x", ("controller", -1)),
        ("ipclusterz-x.log", "x", ("launcher", -1)),
        ("ipclusterz-engines.log", "", ("launcher", -1)),
        ("ipclusterz-engines-x.log", "x", ("launcher", -1)),
        ("ipenginez-agent-12.log", "", ("agent", -1)),
        ("ipenginez-x-agent-12.log", "x", ("agent", -1)),
        ("ipenginez-e1.err", "", ("agent", -1)),
        ("ipenginez-x-e1.err", "x", ("agent", -1)),
        ("ipenginez-x-e1.err", "", None),
        ("ipenginez-engine-0.log", "", ("engine", 0)),
        ("ipenginez-x-engine-41.log", "x", ("engine", 41)),
        ("ipenginez-x-engine-41.log", "xx", None),
        ("notes.txt", "", None),
    ],
)
def test_a_log_is_known_by_its_name(
    name: str, cluster_id: str, found: tuple[str, int] | None
) -> None:
    assert logfiles.classify(name, cluster_id) == found


def write(folder: Path, name: str, *lines: str) -> LogFile:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines))
    kind, number = logfiles.classify(name, "") or ("", -1)
    return LogFile(kind, number, str(path))


def texts(records: list[logfiles.Record]) -> list[str]:
    return [f"{record.source}: {line}" for record in records for line in record.lines]


def test_lines_come_in_the_order_of_time_and_records_stay_whole(tmp_path: Path) -> None:
    hub = write(
        tmp_path,
        "ipcontroller-hub.log",
        "2026-01-02 03:04:05.100 INFO one",
        "2026-01-02 03:04:05.300 ERROR three",
        "Traceback",
        "  of it",
    )
    task = write(tmp_path, "ipcontroller-task.log", "2026-01-02 03:04:05.200 INFO two")
    engine = write(tmp_path, "ipenginez-engine-3.log", "printed", "and more")
    os.utime(engine.path, (0, 0))
    logs = logfiles.find(str(tmp_path), "")
    assert logs == sorted([hub, task, engine])
    found = logfiles.merge(logfiles.last(log, 100) for log in logs)
    assert [re.sub(r"2026\S+ \S+ ", "", text) for text in texts(found)] == [
        "engine 3: printed",
        "engine 3: and more",
        "hub: INFO one",
        "task: INFO two",
        "hub: ERROR three",
        "hub: Traceback",
        "hub:   of it",
    ]
    cut = logfiles.merge((logfiles.last(log, 2) for log in logs), 2)
    assert texts(cut) == ["hub: Traceback", "hub:   of it"]
    assert logfiles.merge([logfiles.last(hub, 0)], 0) == []


def test_the_end_of_a_large_log_is_read_from_its_end(tmp_path: Path) -> None:
    log = write(tmp_path, "ipcontroller.log", *(f"line {n:06}" for n in range(50_000)))
    assert texts(logfiles.last(log, 3)) == [
        f"controller: line {n:06}" for n in range(49997, 50000)
    ]
    assert len(texts(logfiles.last(log, None))) == 50_000


def test_older_files_continue_a_log(tmp_path: Path) -> None:
    log = write(tmp_path, "ipcontroller.log", "new")
    write(tmp_path, "ipcontroller.log.1", "old 1", "old 2")
    write(tmp_path, "ipcontroller.log.2", "oldest")
    assert texts(logfiles.last(log, 2)) == ["controller: old 2", "controller: new"]
    assert len(texts(logfiles.last(log, None))) == 4
    assert logfiles.find(str(tmp_path), "") == [log]


def test_following_misses_nothing_however_often_the_log_is_rotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netlog, "BYTES", 400)
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    logger = netlog.open_log(str(tmp_path), "ipcontroller")
    log = LogFile("controller", -1, str(tmp_path / "ipcontroller.log"))
    logger.info("before")
    follower = Follower(log, from_end=True)
    seen: list[str] = []
    n = 0
    for burst in (1, 3, 20, 1, 0, 7, 25):  # some rotate once, some twice
        for _ in range(burst):
            logger.info("line %d", n)
            n += 1
        seen += texts(follower.news())
    for handler in list(logger.handlers):
        handler.close()
        logger.removeHandler(handler)
    assert len(list(tmp_path.iterdir())) == 4
    assert [int(text.rpartition(" ")[2]) for text in seen] == list(range(n))


def test_following_waits_for_the_end_of_a_line_and_begins_anew_when_emptied(
    tmp_path: Path,
) -> None:
    log = write(tmp_path, "ipenginez-engine-0.log", "old")
    follower = Follower(log, from_end=True)
    path = Path(log.path)
    with path.open("a") as file:
        file.write("half")
        file.flush()
        assert follower.news() == []
        file.write(" and half\nnext")
        file.flush()
        assert texts(follower.news()) == ["engine 0: half and half"]
    path.write_text("anew\n")
    assert texts(follower.news()) == ["engine 0: anew"]
    late = Follower(LogFile("hub", -1, str(tmp_path / "ipcontroller-hub.log")), from_end=False)
    assert late.news() == []
    write(tmp_path, "ipcontroller-hub.log", "first")
    assert texts(late.news()) == ["hub: first"]


def test_there_is_no_such_log(ipython_dir: Path) -> None:
    done = run("ipclusterz logs")
    assert (done.returncode, done.stdout) == (12, "")
    assert "there are no logs" in done.stderr
