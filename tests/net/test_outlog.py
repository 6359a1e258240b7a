"""The engines' logs: written in a thread of their own, which nothing waits for without end."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ipclusterz.net import outlog
from ipclusterz.net.outlog import OutputLog


def test_what_is_queued_is_written_before_the_end(tmp_path: Path) -> None:
    log = OutputLog(str(tmp_path), "p")
    for number in range(100):
        log.write(0, f"{number}\n")
    log.stop()
    lines = (tmp_path / "p-engine-0.log").read_text().split()
    assert lines == [str(number) for number in range(100)] and log.dropped == 0


def test_a_disk_that_hangs_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlog, "_FULL_SECONDS", 0.05)
    path = tmp_path / "p-engine-0.log"
    os.mkfifo(path)  # to open it waits for a reader, as a dead file server makes us wait
    log = OutputLog(str(tmp_path), "p")
    for _ in range(outlog.WAITING + 10):
        log.write(0, "x")
    writer = log._thread
    assert log.dropped and writer is not None
    ending = threading.Thread(target=log.stop, daemon=True)
    ending.start()
    ending.join(30)
    assert not ending.is_alive(), "it waits for room in a queue that nobody empties"
    reader = os.open(path, os.O_RDONLY)  # lets the writer go on, to its last word
    try:
        log._queue.put(None, timeout=30)
        while os.read(reader, 65536):
            pass
    finally:
        os.close(reader)
    writer.join(30)
    assert not writer.is_alive()
