"""Many tasks that wait: does anything slow down, and what does each of them weigh?

The engines are kept busy until all tasks have been submitted and have reached the task
scheduler.  Then client, hub and schedulers are weighed, the engines are let go, and the rate
at which tasks finish is looked at over time.
"""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from benchmarks import processes, rows
from benchmarks.alone import Found, Setting
from benchmarks.books import Measured
from benchmarks.cases import queue_name
from benchmarks.turns import Turn

STEPS = 100
"""Moments noted while tasks are submitted, and while they finish."""

SLOWEST = 2000
"""Tasks a second below which a large queue is given up."""

TENTH = STEPS // 10


def measure(setting: Setting) -> list[Found]:
    """Each number of waiting tasks, on a fresh cluster."""
    found: list[Found] = []
    for count in setting.plan.queued:
        setting.step(f"{count:,} waiting tasks")
        with setting.running(setting.plan.workers) as turn:
            limit = max(setting.plan.limit, count / SLOWEST)
            found += [(queue_name(count), one) for one in _waiting(turn, count, limit)]
    return found


def _waiting(turn: Turn, count: int, limit: float) -> list[Measured]:
    parts: dict[str, int] = turn.call("parts")
    turn.call("tasks", count=2000)
    with tempfile.TemporaryDirectory(prefix="gate-") as folder:
        gate = Path(folder, "open")
        turn.call("shut", gate=str(gate))
        before = _weigh({"client": turn.process.pid, **parts})
        submitted = turn.process.call("queue", timeout=limit, count=count, steps=STEPS)
        while_waiting = _weigh({"client": turn.process.pid, **parts})
        gate.touch()
        finished = turn.process.call("drain", timeout=limit, steps=STEPS)
    after = _weigh({"client": turn.process.pid, **parts})
    details = {
        "count": count,
        "submitted": submitted,
        "finished": finished,
        "before": before,
        "waiting": while_waiting,
        "after": after,
    }
    client = (while_waiting["client"] - before["client"]) / count
    controller = {name: size for name, size in while_waiting.items() if name != "client"}
    return [
        Measured(rows.QUEUE_RATE, count / finished[-1], details),
        Measured(rows.QUEUE_OUT, _slower(finished)),
        Measured(rows.QUEUE_IN, _slower(submitted)),
        Measured(rows.QUEUE_CLIENT, max(client, 0.0)),
        Measured(rows.QUEUE_HUB, controller["hub"]),
        Measured(rows.QUEUE_TASK, controller["task scheduler"]),
        Measured(rows.QUEUE_ALL, sum(controller.values())),
    ]


def _slower(moments: list[float]) -> float:
    """How many times as long the last tenth of the steps took as the first."""
    taken = [later - earlier for earlier, later in pairwise([0.0, *moments])]
    return sum(taken[-TENTH:]) / max(sum(taken[:TENTH]), 1e-9)


def _weigh(pids: dict[str, int]) -> dict[str, Any]:
    found = {}
    for name, pid in pids.items():
        found[name] = processes.weigh([psutil.Process(pid)]).total
    return found
