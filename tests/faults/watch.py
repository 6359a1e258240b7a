"""What tests of faults watch: processes, body folders, conditions that come true."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable
from typing import Any

import ipclusterz as ipp

PATIENCE = 20.0


def until(done: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait for a condition; fail naming it."""
    deadline = time.monotonic() + patience
    while not (value := done()):
        assert time.monotonic() < deadline, f"waited {patience} s for {what}"
        time.sleep(0.002)
    return value


def alive(pid: int) -> bool:
    """Tell whether a process runs (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(*pids: int) -> Callable[[], bool]:
    """Return the condition that none of these processes runs any more."""
    return lambda: not any(alive(pid) for pid in pids)


def pids(rc: ipp.Client) -> dict[int, int]:
    """Return the process id of each engine."""
    return dict(zip(rc.ids, rc[:].apply_sync(os.getpid), strict=True))


def agent_of(rc: ipp.Client) -> int:
    """Return the process id of the (first) engine's agent."""
    parent: int = rc[rc.ids[0]].apply_sync(os.getppid)
    return parent


def folders() -> set[str]:
    """Return the folders of bodies that exist on this host now."""
    return set(glob.glob("/dev/shm/ipclusterz-*"))


def files(before: set[str]) -> list[str]:
    """Return the bodies in folders made since ``before``."""
    return [
        os.path.join(folder, name)
        for folder in folders() - before
        for name in os.listdir(folder)
        if not name.startswith(".")
    ]
