"""The machine a run was made on: what it is, and how busy it was with other things.

A figure without these cannot be compared with another one.
"""

from __future__ import annotations

import os
import platform
import time
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


def background(seconds: float = 1.0) -> float:
    """Share (0 to 1) of all cores that others used during ``seconds`` in which we slept."""
    before = psutil.cpu_times()
    time.sleep(seconds)
    return _busy(before, psutil.cpu_times())


def stolen(before: Any, after: Any) -> float:
    """Share (0 to 1) of time a hypervisor gave to others between two ``cpu_times()``."""
    total = sum(after) - sum(before)
    steal = getattr(after, "steal", 0.0) - getattr(before, "steal", 0.0)
    return float(steal / total) if total > 0 else 0.0


def _busy(before: Any, after: Any) -> float:
    total = sum(after) - sum(before)
    idle = after.idle - before.idle + getattr(after, "iowait", 0) - getattr(before, "iowait", 0)
    return max(0.0, float(1 - idle / total)) if total > 0 else 0.0
