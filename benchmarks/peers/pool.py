"""concurrent.futures.ProcessPoolExecutor of the standard library, as it is by default."""

from __future__ import annotations

import multiprocessing
import platform
from concurrent.futures import Future, ProcessPoolExecutor

from benchmarks.peers.loops import time_tasks, time_trips
from benchmarks.protocol import serve
from benchmarks.work import noop


class Pool:
    """One executor, held open between the calls."""

    def __init__(self) -> None:
        self._executor: ProcessPoolExecutor | None = None

    def start(self, n: int) -> None:
        self._executor = ProcessPoolExecutor(max_workers=n)
        for future in [self._executor.submit(noop) for _ in range(4 * n)]:
            future.result()

    def tasks(self, count: int) -> float:
        assert self._executor is not None
        submit = self._executor.submit
        return time_tasks(lambda: submit(noop), _result, count)

    def trips(self, seconds: float) -> list[float]:
        assert self._executor is not None
        submit = self._executor.submit
        return time_trips(lambda: submit(noop).result(), seconds)

    def versions(self) -> dict[str, str]:
        method = multiprocessing.get_start_method()
        return {"python": f"{platform.python_version()} ({method})"}

    def stop(self) -> None:
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None


def _result(future: Future[None]) -> None:
    future.result()


if __name__ == "__main__":
    serve(Pool())
