"""What tests of faults watch: processes, body folders, conditions that come true."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import ipclusterz as ipp
from tests.running import children

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


def zygote_of(agent: int) -> int:
    """Return the process id of the zygote that an agent forks engines from."""
    found = [p for p in children(agent) if Path(f"/proc/{p}/comm").read_text() == "ipzygote\n"]
    (zygote,) = found
    return zygote


@contextmanager
def own_place() -> Iterator[Path]:
    """Have bodies in a place that no other run uses, and see that nothing stays there."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="faults-", dir=memory) as folder:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("IPCLUSTERZ_BODIES", folder)
            yield Path(folder)
        assert os.listdir(folder) == []


def files(place: Path) -> list[Path]:
    """Return the bodies in all folders of a place, and what waits to become one."""
    found = [path for path in place.glob("*/*") if not path.name.startswith(".")]
    return found + list(place.glob("*/.spare/*"))
