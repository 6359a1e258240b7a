"""Tasks a second with 4, 64, 256, 1,000 engines on this machine: is the rate flat?

More engines than cores do no more work; what is looked for is what each of them costs.
"""

from __future__ import annotations

from benchmarks import rows
from benchmarks.alone import Found, Setting
from benchmarks.books import Measured
from benchmarks.cases import engines_name
from benchmarks.turns import Turn, enough


def measure(setting: Setting) -> list[Found]:
    """No-op tasks one by one on a fresh cluster of each size, after a warm-up."""
    plan, found = setting.plan, []
    for n in plan.growth:
        setting.step(f"{n:,} engines")
        with setting.running(n) as turn:
            answered = len(set(turn.call("everyone")))

            def run(count: int, turn: Turn = turn) -> float:
                return float(turn.call("tasks", count=count))

            # Each engine has begun something before anything counts.
            run(10 * n)
            count = enough(run, plan.seconds, 200_000)
            rate = count / run(count)
        details = {"count": count, "answered": answered}
        found.append((engines_name(n), Measured(rows.GROWTH, rate, details)))
    return found
