"""ipyparallel: a cluster of its own, tasks through the load-balanced view.

Runs in the peers' environment, where ipclusterz is not installed.
"""

from __future__ import annotations

import logging
import platform
from contextlib import ExitStack
from importlib.metadata import version
from typing import Any

import ipyparallel as ipp  # type: ignore[import-not-found]

from benchmarks.peers.loops import time_tasks, time_trips
from benchmarks.protocol import serve
from benchmarks.work import noop


class Ipyparallel:
    """``with Cluster(n=n) as rc:``, held open between the calls."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._view: Any = None

    def start(self, n: int) -> None:
        cluster = ipp.Cluster(n=n, log_level=logging.WARNING)
        client = self._open.enter_context(cluster)
        self._view = client.load_balanced_view()

    def tasks(self, count: int) -> float:
        apply_async = self._view.apply_async
        return time_tasks(lambda: apply_async(noop), lambda result: result.get(), count)

    def trips(self, seconds: float) -> list[float]:
        apply_sync = self._view.apply_sync
        return time_trips(lambda: apply_sync(noop), seconds)

    def versions(self) -> dict[str, str]:
        return {"ipyparallel": version("ipyparallel"), "python": platform.python_version()}

    def stop(self) -> None:
        self._open.close()


if __name__ == "__main__":
    serve(Ipyparallel())
