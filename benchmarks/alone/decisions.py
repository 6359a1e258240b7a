"""What a task costs the task scheduler's core, with more and more engines.

Processor time of the core alone, in this process, with the garbage collector set as
schedulers set theirs.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import rows
from benchmarks.alone import Found, Setting
from benchmarks.books import Measured
from benchmarks.cases import engines_name
from benchmarks.simulated import Decider

TASKS = 100_000
TICKS = 5


def measure(setting: Setting) -> list[Found]:
    """Each number of engines, after a warm-up in which credits grow."""
    found = []
    for n in setting.plan.decided:
        setting.step(f"decisions among {n:,} engines")
        with _collecting_seldom():
            decider = Decider(n)
            tasks = max(TASKS, 2 * decider.wide) if n >= 100 else TASKS // 100
            decider.run(max(tasks // 5, decider.wide))
            rate = tasks / decider.run(tasks)
            tick = statistics.median(decider.tick() for _ in range(TICKS))
        found.append((engines_name(n), Measured(rows.DECISIONS, rate, {"tasks": tasks})))
        found.append((engines_name(n), Measured(rows.DECISIONS_TICK, tick)))
    return found


@contextmanager
def _collecting_seldom() -> Iterator[None]:
    """As in ipclusterz.net.loop.serve."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
