"""Tests that are marked ``alone`` are, and the others are not kept from running together."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.running import eventually
from tests.turns import Turns


def test_who_is_alone_waits_for_the_others_and_they_for_it(tmp_path: Path) -> None:
    log: list[str] = []
    leave = threading.Event()

    def visit(name: str, alone: bool) -> None:
        turns = Turns(tmp_path)
        log.append(f"{name} comes")
        with turns.turn(alone):
            log.append(f"{name} is in")
            assert alone or leave.wait(30)
            log.append(f"{name} goes")
        turns.close()

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(visit, name, False) for name in ("one", "two")]
        eventually(lambda: {"one is in", "two is in"} <= set(log), what="they are together")
        futures.append(pool.submit(visit, "lonely", True))
        eventually(lambda: closed(tmp_path), what="it waits, and lets nobody in")
        futures.append(pool.submit(visit, "late", False))
        eventually(lambda: "late comes" in log)
        assert "lonely is in" not in log and "late is in" not in log
        leave.set()
        for future in futures:
            future.result(timeout=30)
    at = log.index("lonely is in")
    assert {"one goes", "two goes"} <= set(log[:at])
    assert log[at + 1] == "lonely goes" and "late is in" in log[at:]


def closed(folder: Path) -> bool:
    """Whether somebody keeps the door."""
    import fcntl

    with open(folder / "door.lock") as door:
        try:
            fcntl.flock(door, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
