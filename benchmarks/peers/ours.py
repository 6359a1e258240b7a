"""ipclusterz: a cluster of its own, as it is by default (sealed, with its database)."""

from __future__ import annotations

import os
import platform
import time
from contextlib import ExitStack
from time import perf_counter
from typing import Any

import ipclusterz as ipp
from benchmarks.peers.loops import (
    check_told,
    new_array,
    time_call,
    time_map,
    time_tasks,
    time_trips,
)
from benchmarks.peers.parts import controller_parts
from benchmarks.protocol import serve
from benchmarks.work import noop, same, told, wait_for


def versions() -> dict[str, str]:
    """Of what is measured here."""
    import zmq

    return {
        "ipclusterz": str(ipp.__version__),
        "pyzmq": zmq.pyzmq_version(),
        "libzmq": zmq.zmq_version(),
        "python": platform.python_version(),
    }


class Ours:
    """``with Cluster(n=n) as rc:``, held open between the calls."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._client: Any = None
        self._view: Any = None
        self._pushed: Any = None
        self._gates: Any = None
        self._waiting: list[Any] = []

    def start(self, n: int) -> None:
        self._client = self._open.enter_context(ipp.Cluster(n=n))
        self._view = self._client.load_balanced_view()

    def tasks(self, count: int) -> float:
        apply_async = self._view.apply_async
        return time_tasks(lambda: apply_async(noop), lambda all: [r.get() for r in all], count)

    def map(self, count: int, chunksize: int) -> float:
        map_sync = self._view.map_sync
        return time_map(lambda items: map_sync(same, items, chunksize=chunksize), count)

    def direct(self, seconds: float) -> list[float]:
        apply_sync = self._client[0].apply_sync
        return time_trips(lambda: apply_sync(noop), seconds)

    def balanced(self, seconds: float) -> list[float]:
        apply_sync = self._view.apply_sync
        return time_trips(lambda: apply_sync(noop), seconds)

    def apply(self, seconds: float) -> list[float]:
        apply_sync = self._client[:].apply_sync
        return time_trips(lambda: apply_sync(noop), seconds)

    def push(self, megabytes: float, fill: int) -> float:
        view = self._client[:]
        array = self._pushed = new_array(megabytes, fill)
        taken, _ = time_call(lambda: view.push({"array": array}, block=True))
        reports = view.apply_sync(told, ipp.Reference("array"))
        check_told(reports, array, len(view))
        return taken

    def pull(self) -> float:
        view = self._client[0]
        taken, array = time_call(lambda: view.pull("array", block=True))
        check_told([told(array)], self._pushed, 1)
        return taken

    def parts(self) -> dict[str, int]:
        """The process ids of hub and schedulers."""
        return controller_parts(self._client)

    def shut(self, gate: str) -> None:
        """Keep every engine busy until there is a file ``gate``; returns when they are.

        Else tasks that are submitted next could be done before it begins.
        """
        self._gates = self._client[:].apply_async(wait_for, gate)
        folder, n = os.path.dirname(gate), len(self._gates)
        while len(os.listdir(folder)) < n:
            time.sleep(0.01)

    def queue(self, count: int, steps: int) -> list[float]:
        """Submit tasks; when each of ``steps`` parts of them was, in seconds.

        Returns when all are in the hands of the task scheduler.
        """
        apply_async, waiting = self._view.apply_async, self._waiting
        moments, began = [], perf_counter()
        for step in range(1, steps + 1):
            while len(waiting) < count * step // steps:
                waiting.append(apply_async(noop))
            moments.append(perf_counter() - began)
        while self._in_scheduler() < count:
            time.sleep(0.05)
        return moments

    def _in_scheduler(self) -> int:
        status = self._client.queue_status()
        given = sum(engine["tasks"] for key, engine in status.items() if key != "unassigned")
        return int(status["unassigned"] + given)

    def drain(self, steps: int) -> list[float]:
        """Get what was submitted; when each of ``steps`` parts was there, in seconds.

        These count from the first result: before, the engines are not yet let go.
        """
        waiting, self._waiting = self._waiting, []
        waiting[0].get()
        moments, began = [], perf_counter()
        for step in range(1, steps + 1):
            last = len(waiting) * step // steps
            for result in waiting[len(waiting) * (step - 1) // steps : last]:
                result.get()
            moments.append(perf_counter() - began)
        self._gates.get()
        return moments

    def everyone(self) -> list[int]:
        """The process id of each engine, told by the engine itself, in order of ids."""
        pids: list[int] = self._client[:].apply_sync(os.getpid)
        return pids

    def versions(self) -> dict[str, str]:
        return versions()

    def stop(self) -> None:
        self._open.close()


if __name__ == "__main__":
    serve(Ours())
