"""loky's reusable executor, the one joblib uses.

Runs in the peers' environment, where ipclusterz is not installed.
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

from loky import get_reusable_executor  # type: ignore[import-not-found]

from benchmarks.peers.loops import time_tasks, time_trips
from benchmarks.protocol import serve
from benchmarks.work import noop


class Loky:
    """One executor, held open between the calls."""

    def __init__(self) -> None:
        self._executor: Any = None

    def start(self, n: int) -> None:
        # Workers would leave after 10 s without work, and other peers' rounds take longer.
        self._executor = get_reusable_executor(max_workers=n, timeout=3600)
        for future in [self._executor.submit(noop) for _ in range(4 * n)]:
            future.result()

    def tasks(self, count: int) -> float:
        submit = self._executor.submit
        return time_tasks(lambda: submit(noop), lambda future: future.result(), count)

    def trips(self, seconds: float) -> list[float]:
        submit = self._executor.submit
        return time_trips(lambda: submit(noop).result(), seconds)

    def versions(self) -> dict[str, str]:
        return {"loky": version("loky"), "python": platform.python_version()}

    def stop(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None


if __name__ == "__main__":
    serve(Loky())
