"""Processor time and wake-ups of threads, from /proc: what a process cost between two looks.

Linux only.  The time of a thread is that of the scheduler (nanoseconds); only how it divides
into user and system is counted in ticks.  Knows processes and threads, not what they do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Spent:
    """Seconds of processor time, ticks of it in user mode and in the kernel, and waits."""

    seconds: float = 0.0
    user: int = 0
    system: int = 0
    waits: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.seconds + other.seconds,
            self.user + other.user,
            self.system + other.system,
            self.waits + other.waits,
        )

    def __sub__(self, other: Spent) -> Spent:
        return self + Spent(-other.seconds, -other.user, -other.system, -other.waits)

    @property
    def kernel(self) -> float:
        """Seconds of it in the kernel, as far as ticks tell."""
        ticks = self.user + self.system
        return self.seconds * self.system / ticks if ticks else 0.0


Thread = tuple[int, int, str]
"""Process id, thread id, name of the thread; the first thread of a process is 'main'."""


def look(pids: Iterable[int]) -> dict[Thread, Spent]:
    """What each thread of these processes has spent so far; what ended is left out.

    Raises OSError where there is no /proc with these files.
    """
    if not Path("/proc/self/schedstat").exists():
        raise OSError("processor time of threads is known on Linux only (/proc/*/schedstat)")
    found: dict[Thread, Spent] = {}
    for pid in pids:
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                found[_thread(pid, task)] = _spent(task)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def grown(before: dict[Thread, Spent], after: dict[Thread, Spent]) -> dict[Thread, Spent]:
    """What each thread spent between two looks; one that began meanwhile from nothing."""
    return {thread: spent - before.get(thread, Spent()) for thread, spent in after.items()}


def _thread(pid: int, task: Path) -> Thread:
    tid = int(task.name)
    if tid == pid:
        return pid, tid, "main"
    # Threads that Python starts are named as the whole process is.
    name = (task / "comm").read_text()
    same = name == (task.parent.parent / "comm").read_text()
    return pid, tid, "thread" if same else name.strip()


def _spent(task: Path) -> Spent:
    running = int((task / "schedstat").read_text().split()[0]) / 1e9
    # The name may contain anything, but ends with the last parenthesis.
    fields = (task / "stat").read_text().rpartition(")")[2].split()
    status = (task / "status").read_text().splitlines()
    line = next(x for x in status if x.startswith("voluntary_ctxt_switches"))
    return Spent(running, int(fields[11]), int(fields[12]), int(line.split()[1]))
