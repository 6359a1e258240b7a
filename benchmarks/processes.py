"""The processes of a peer: finding all of them, weighing them, ending what they left.

Every process a peer starts inherits a mark in its environment, which survives daemonising
and re-parenting; where environments cannot be read, children of children are followed.
Knows nothing of any peer.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MARK = "IPCLUSTERZ_BENCH"
"""Name of the environment variable whose value marks the processes of one peer."""


def new_mark() -> str:
    """A fresh value for :data:`MARK`."""
    return secrets.token_hex(8)


def marked(mark: str) -> list[psutil.Process]:
    """Every living process that carries ``mark``, or descends from one that does."""
    parents: dict[int, int] = {}
    everyone: dict[int, psutil.Process] = {}
    found: set[int] = set()
    for process in psutil.process_iter():
        try:
            parents[process.pid] = process.ppid()
            everyone[process.pid] = process
            if process.environ().get(MARK) == mark:
                found.add(process.pid)
        except (psutil.Error, OSError):
            continue
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return [everyone[pid] for pid in found if _lives(everyone[pid])]


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except (psutil.Error, OSError):
        return False


@dataclass
class Weight:
    """Proportional set size in bytes of some processes, and what each of them is.

    A page shared by k processes counts 1/k in each, so the sum is the memory really taken.
    """

    total: int = 0
    processes: list[dict[str, object]] = field(default_factory=list)


def weigh(processes: list[psutil.Process]) -> Weight:
    """Weigh ``processes``; one that ends meanwhile is left out.

    Raises OSError where the kernel does not tell proportional sizes (not Linux).
    """
    if not Path("/proc/self/smaps_rollup").exists():
        raise OSError("proportional set size is known on Linux only (/proc/*/smaps_rollup)")
    weight = Weight()
    for process in processes:
        try:
            pss = _pss(process.pid)
            # The last part of each path: where things are installed is nobody's business.
            command = " ".join(word.rpartition("/")[2] for word in process.cmdline()[:6])
        except (psutil.Error, OSError):
            continue
        weight.total += pss
        weight.processes.append({"pid": process.pid, "pss": pss, "command": command[:120]})
    return weight


def _pss(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii", "replace")
    for line in rollup.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no Pss in /proc/{pid}/smaps_rollup")


def end_marked(mark: str, patience: float = 3.0) -> int:
    """Wait ``patience`` seconds for the marked processes to end, kill the rest; their number.

    A peer that stopped well leaves none behind: 0.
    """
    deadline = time.monotonic() + patience
    left = marked(mark)
    while left and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=0.1)
        left = marked(mark)
    for process in left:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(left, timeout=5.0)
    return len(left)
