"""Long and short tasks on simulated engines: how close to the best schedule there is.

No clock of this machine is looked at, so each round gives the same but for its seed.
"""

from __future__ import annotations

from benchmarks import rows
from benchmarks.alone import Found, Setting
from benchmarks.books import Measured
from benchmarks.simulated import mixtures, schedule

WARM = 2000
"""Short tasks that run before: the scheduler has learnt that tasks are short."""


def measure(setting: Setting) -> list[Found]:
    """Each order of the same tasks."""
    plan, found = setting.plan, []
    for order, lengths in mixtures(plan.long, plan.short).items():
        setting.step(f"simulated: {order}")
        done = schedule(lengths, plan.simulated, warm=WARM)
        details = {**vars(done), "engines": plan.simulated, "tasks": len(lengths)}
        for measured in (
            Measured(rows.MIXED_BOUND, done.makespan / done.bound, details),
            Measured(rows.MIXED_LIST, done.makespan / done.greedy),
            Measured(rows.MIXED_IDLE, done.idle, {"wasted": done.wasted}),
        ):
            found.append((order, measured))
    return found
