"""concurrent.futures.ProcessPoolExecutor of the standard library, as it is by default."""

from __future__ import annotations

import multiprocessing
import platform
from concurrent.futures import ProcessPoolExecutor

from benchmarks.peers.loops import time_map, time_tasks, time_trips
from benchmarks.protocol import serve
from benchmarks.work import noop, same


class Pool:
    """One executor, held open between the calls."""

    def __init__(self) -> None:
        self._executor: ProcessPoolExecutor | None = None

    def start(self, n: int) -> None:
        self._executor = ProcessPoolExecutor(max_workers=n)
        for future in [self._executor.submit(noop) for _ in range(4 * n)]:
            future.result()

    def tasks(self, count: int) -> float:
        submit = self._started.submit
        return time_tasks(lambda: submit(noop), lambda all: [f.result() for f in all], count)

    def map(self, count: int, chunksize: int) -> float:
        run = self._started.map
        return time_map(lambda items: run(same, items, chunksize=chunksize), count)

    def balanced(self, seconds: float) -> list[float]:
        submit = self._started.submit
        return time_trips(lambda: submit(noop).result(), seconds)

    def versions(self) -> dict[str, str]:
        method = multiprocessing.get_start_method()
        return {"python": f"{platform.python_version()} ({method})"}

    def stop(self) -> None:
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    @property
    def _started(self) -> ProcessPoolExecutor:
        assert self._executor is not None
        return self._executor


if __name__ == "__main__":
    serve(Pool())
