"""ipclusterz: a cluster of its own, as it is by default (sealed, with its database)."""

from __future__ import annotations

import os
import platform
from contextlib import ExitStack
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
from benchmarks.protocol import serve
from benchmarks.work import noop, same, told


class Ours:
    """``with Cluster(n=n) as rc:``, held open between the calls."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._client: Any = None
        self._view: Any = None
        self._pushed: Any = None

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

    def everyone(self) -> list[int]:
        """The process id of each engine, told by the engine itself, in order of ids."""
        pids: list[int] = self._client[:].apply_sync(os.getpid)
        return pids

    def versions(self) -> dict[str, str]:
        import zmq

        return {
            "ipclusterz": str(ipp.__version__),
            "pyzmq": zmq.pyzmq_version(),
            "libzmq": zmq.zmq_version(),
            "python": platform.python_version(),
        }

    def stop(self) -> None:
        self._open.close()


if __name__ == "__main__":
    serve(Ours())
