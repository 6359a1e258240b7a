"""One peer's turn in a round: its process is up, and each of its rows is measured once.

Knows how a row is measured; not in which order, nor what to do when one fails.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks import processes, rows
from benchmarks.books import Measured
from benchmarks.peers import OURS, Peer
from benchmarks.plan import Plan
from benchmarks.protocol import PeerProcess
from benchmarks.rows import Quantity

_CHUNKED = 5


@dataclass
class Counts:
    """How many tasks and items keep each peer busy; found out in its first turn, then kept."""

    known: dict[tuple[Peer, str], int] = field(default_factory=dict)


class Turn:
    """``process`` runs ``peer``'s program, started, its processes marked with ``mark``."""

    def __init__(
        self, peer: Peer, process: PeerProcess, mark: str, plan: Plan, counts: Counts
    ) -> None:
        self.peer = peer
        self.process = process
        self.mark = mark
        self.plan = plan
        self._counts = counts.known

    def measure(self, row: str) -> list[Measured]:
        """Measure ``row`` after a warm-up; raises PeerError, OSError (no memory figures)."""
        ways: dict[str, Callable[[], list[Measured]]] = {
            "memory": self._memory,
            "tasks": self._tasks,
            "map": self._map,
            "direct": lambda: self._trips("direct", rows.DIRECT),
            "balanced": lambda: self._trips("balanced", rows.BALANCED),
            "apply": lambda: self._trips("apply", rows.APPLY),
            "array": self._array,
        }
        return ways[row]()

    def call(self, name: str, **arguments: object) -> Any:
        return self.process.call(name, timeout=self.plan.limit, **arguments)

    def weigh(self) -> tuple[processes.Weight, processes.Weight]:
        """The cluster's processes, and the one that asks."""
        everyone = processes.marked(self.mark)
        asking = self.process.pid
        cluster = processes.weigh([p for p in everyone if p.pid != asking])
        return cluster, processes.weigh([p for p in everyone if p.pid == asking])

    def _memory(self) -> list[Measured]:
        self.call("tasks", count=self.plan.weighed_after)
        pids = set(self.call("everyone")) if self.peer.everyone else set()
        cluster, client = self.weigh()
        details = {"processes": cluster.processes, "client": client.total}
        found = [Measured(rows.MEMORY, cluster.total, details)]
        engines = [float(str(p["pss"])) for p in cluster.processes if p["pid"] in pids]
        if engines:
            found.append(Measured(rows.MEMORY_ENGINE, statistics.mean(engines)))
        return found

    def _tasks(self) -> list[Measured]:
        def run(count: int) -> float:
            return float(self.call("tasks", count=count))

        count = self._count("tasks", run, self.plan.seconds, 200_000)
        return [Measured(rows.TASKS, count / run(count), {"count": count})]

    def _map(self) -> list[Measured]:
        def run(count: int, chunksize: int = 1) -> float:
            return float(self.call("map", count=count, chunksize=chunksize))

        items, chunksize = self.plan.items, self.plan.chunksize
        # Ours gets all items whatever it takes; a slow peer as many as it can do in time.
        seconds = float("inf") if self.peer == OURS else self.plan.map_seconds
        count = self._count("map", run, seconds, items)
        found = [Measured(rows.MAP, count / run(count), {"count": count})]
        run(items // 10 or 1, chunksize)
        # A few hundredths of a second each: one alone says little.
        seconds = statistics.median(run(items, chunksize) for _ in range(_CHUNKED))
        details = {"count": items, "chunksize": chunksize, "times": _CHUNKED}
        found.append(Measured(rows.MAP_CHUNKS, items / seconds, details))
        return found

    def _count(self, what: str, run: Callable[[int], float], seconds: float, most: int) -> int:
        """Warm up; how many keep the peer busy for ``seconds``, ``most`` at most."""
        known = self._counts.get((self.peer, what))
        if known is not None:
            run(max(1, known // 4))
            return known
        count = enough(run, seconds, most)
        return self._counts.setdefault((self.peer, what), count)

    def _trips(self, call: str, quantity: Quantity) -> list[Measured]:
        self.call(call, seconds=self.plan.seconds / 4)
        trips = sorted(self.call(call, seconds=self.plan.seconds))
        late = trips[min(len(trips) - 1, len(trips) * 99 // 100)]
        details = {"trips": len(trips), "percentile 99": late}
        return [Measured(quantity, statistics.median(trips), details)]

    def _array(self) -> list[Measured]:
        pushes, pulls = [], []
        for number in range(self.plan.arrays + 1):
            pushed = self.call("push", megabytes=self.plan.megabytes, fill=number)
            pulled = self.call("pull")
            if number > 0:  # the first is the warm-up
                pushes.append(pushed)
                pulls.append(pulled)
        details = {"bytes": int(self.plan.megabytes * 1e6)}
        return [
            Measured(rows.PUSH, statistics.median(pushes), details),
            Measured(rows.PULL, statistics.median(pulls), details),
        ]


def enough(run: Callable[[int], float], seconds: float, most: int) -> int:
    """Warm up with ``run(count) -> seconds taken``; the count that takes ``seconds``.

    At most ``most``, and at once if that takes less than half of ``seconds``.
    """
    count = min(100, most)
    while True:
        taken = max(run(count), 1e-6)
        wanted = min(most, max(1, int(min(count * seconds / taken, most))))
        if taken >= seconds / 2 or count * 10 >= most or count >= wanted:
            return wanted
        # At most ten times more at once: the first, cold run says little.
        count = min(wanted, 10 * count)
