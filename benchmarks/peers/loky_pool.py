"""loky's reusable executor, the one joblib uses.

Runs in the peers' environment, where ipclusterz is not installed.
"""

from __future__ import annotations

from typing import Any

from loky import get_reusable_executor  # type: ignore[import-not-found]

from benchmarks.peers.loops import time_map, time_tasks, time_trips, versions_of
from benchmarks.protocol import serve
from benchmarks.work import noop, same


class Loky:
    """One executor, held open between the calls."""

    def __init__(self) -> None:
        self._executor: Any = None

    def start(self, n: int) -> None:
        # Workers would leave after 10 s without work; none of that is to be measured.
        self._executor = get_reusable_executor(max_workers=n, timeout=3600)
        for future in [self._executor.submit(noop) for _ in range(4 * n)]:
            future.result()

    def tasks(self, count: int) -> float:
        submit = self._executor.submit
        return time_tasks(lambda: submit(noop), lambda all: [f.result() for f in all], count)

    def map(self, count: int, chunksize: int) -> float:
        run = self._executor.map
        return time_map(lambda items: run(same, items, chunksize=chunksize), count)

    def balanced(self, seconds: float) -> list[float]:
        submit = self._executor.submit
        return time_trips(lambda: submit(noop).result(), seconds)

    def versions(self) -> dict[str, str]:
        return versions_of("loky")

    def stop(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None


if __name__ == "__main__":
    serve(Loky())
