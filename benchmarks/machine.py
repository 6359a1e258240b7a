"""The machine a run was made on: what it is, and how busy it was with other things.

A figure without these cannot be compared with another one.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil


def usable_cores() -> int:
    """Cores this process may run on, which in a container are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """Processor, cores, memory in bytes, system and Python."""
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "memory": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return platform.processor() or platform.machine()
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def background(seconds: float) -> float:
    """Share (0 to 1) of all cores that others used during ``seconds`` in which we slept."""
    before = psutil.cpu_times()
    time.sleep(seconds)
    return busy(before, psutil.cpu_times())


class Watch:
    """How busy others kept the machine during a round; started when it is made.

    Others are processes that neither carry our mark nor descend from one that does.  What
    lives in another process namespace is not seen here, but by :func:`background`.
    """

    def __init__(self, is_ours: Callable[[psutil.Process], bool], settle: float) -> None:
        self._is_ours = is_ours
        self.facts = {"load before": os.getloadavg()[0], "others before": background(settle)}
        self._since = time.monotonic()
        self._times = psutil.cpu_times()
        self._used = self._others()

    def stop(self) -> dict[str, float]:
        """Load averages, shares (0 to 1) of the cores, seconds of the round."""
        used, times = self._others(), psutil.cpu_times()
        grown = growth(self._used, used)
        seconds = time.monotonic() - self._since
        share = grown / (seconds * (os.cpu_count() or 1))
        return {
            **self.facts,
            # What was missed before and seen after would count with all its life.
            "others during": min(share, busy(self._times, times)),
            "stolen": _stolen(self._times, times),
            "load after": os.getloadavg()[0],
            "seconds": seconds,
        }

    def _others(self) -> dict[tuple[int, float], tuple[float, int]]:
        """Of each process that is not ours: processor seconds so far, and its parent.

        Seconds of its children that ended are among them, but not in our own ancestors:
        there the time of our orphans ends up (in init, or another reaper).  The parent of
        their children is 0, too.
        """
        above = {1, *(process.pid for process in psutil.Process().parents())}
        used = {}
        for process in psutil.process_iter():
            try:
                if not self._is_ours(process):
                    times = process.cpu_times()[: 2 if process.pid in above else 4]
                    parent = process.ppid()
                    key = process.pid, process.create_time()
                    used[key] = sum(times), 0 if parent in above else parent
            except (psutil.Error, OSError):
                continue
        return used


def growth(
    before: dict[tuple[int, float], tuple[float, int]],
    after: dict[tuple[int, float], tuple[float, int]],
) -> float:
    """Processor seconds used between two notes of ``(pid, created) -> (seconds, parent)``.

    What began meanwhile counts from nothing.  What ended is by now in the sum of its parent,
    or of whoever is left above that; its seconds before are taken from there.  If nobody
    keeps its sum, its end is not seen.
    """
    grown = sum(seconds - before.get(key, (0.0, 0))[0] for key, (seconds, _) in after.items())
    living = {pid for pid, _ in after}
    parents = {pid: parent for (pid, _), (_, parent) in before.items()}
    for key in before.keys() - after.keys():
        seconds, parent = before[key]
        while parent and parent not in living:
            parent = parents.get(parent, 0)
        if parent:
            grown -= seconds
    return max(0.0, grown)


def _stolen(before: Any, after: Any) -> float:
    """Share (0 to 1) of time a hypervisor gave to others between two ``cpu_times()``."""
    total = sum(after) - sum(before)
    steal = getattr(after, "steal", 0.0) - getattr(before, "steal", 0.0)
    return float(steal / total) if total > 0 else 0.0


def busy(before: Any, after: Any) -> float:
    total = sum(after) - sum(before)
    idle = after.idle - before.idle + getattr(after, "iowait", 0) - getattr(before, "iowait", 0)
    return max(0.0, float(1 - idle / total)) if total > 0 else 0.0
