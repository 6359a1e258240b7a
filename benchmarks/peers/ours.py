"""ipclusterz: a cluster of its own, tasks through the load-balanced view."""

from __future__ import annotations

import os
import platform
from contextlib import ExitStack
from typing import Any

import ipclusterz as ipp
from benchmarks.peers.loops import time_tasks, time_trips
from benchmarks.protocol import serve
from benchmarks.work import noop


class Ours:
    """``with Cluster(n=n) as rc:``, held open between the calls."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._client: Any = None
        self._view: Any = None

    def start(self, n: int) -> None:
        self._client = self._open.enter_context(ipp.Cluster(n=n))
        self._view = self._client.load_balanced_view()

    def tasks(self, count: int) -> float:
        apply_async = self._view.apply_async
        return time_tasks(lambda: apply_async(noop), lambda result: result.get(), count)

    def trips(self, seconds: float) -> list[float]:
        apply_sync = self._view.apply_sync
        return time_trips(lambda: apply_sync(noop), seconds)

    def everyone(self) -> list[int]:
        """The process id of each engine, told by the engine itself, in order of ids."""
        pids: list[int] = self._client[:].apply_sync(os.getpid)
        return pids

    def versions(self) -> dict[str, str]:
        return {"ipclusterz": str(ipp.__version__), "python": platform.python_version()}

    def stop(self) -> None:
        self._open.close()


if __name__ == "__main__":
    serve(Ours())
