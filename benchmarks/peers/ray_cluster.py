"""Ray on this machine: tasks for what is balanced, actors for what is named.

Runs in the peers' environment, where ipclusterz is not installed.
"""

from __future__ import annotations

import logging
from typing import Any

import ray  # type: ignore[import-not-found]

from benchmarks import work
from benchmarks.peers.loops import (
    check_told,
    new_array,
    time_call,
    time_map,
    time_tasks,
    time_trips,
    versions_of,
)
from benchmarks.protocol import serve


class Stub:
    """An actor that keeps an array."""

    def __init__(self) -> None:
        self._array: Any = None

    def noop(self) -> None:
        """Return at once."""

    def keep(self, array: Any) -> None:
        self._array = array

    def give(self) -> Any:
        return self._array

    def told(self) -> list[float]:
        return work.told(self._array)


class Ray:
    """``ray.init(num_cpus=n)``, held open between the calls."""

    def __init__(self) -> None:
        self._n = 0
        self._noop: Any = None
        self._same: Any = None
        self._made: list[Any] = []
        self._pool: Any = None
        self._pushed: Any = None

    def start(self, n: int) -> None:
        self._n = n
        ray.init(
            num_cpus=n,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
        self._noop, self._same = ray.remote(work.noop), ray.remote(work.same)
        ray.get([self._noop.remote() for _ in range(4 * n)])

    def tasks(self, count: int) -> float:
        return time_tasks(self._noop.remote, ray.get, count)

    def map(self, count: int, chunksize: int) -> float:
        if chunksize == 1:
            remote = self._same.remote
            return time_map(lambda items: ray.get([remote(item) for item in items]), count)
        if self._pool is None:
            from ray.util.multiprocessing import Pool  # type: ignore[import-not-found]

            # Without num_cpus=0 the pool would hold the cores that the tasks need.
            self._pool = Pool(self._n, ray_remote_args={"num_cpus": 0})
            self._pool.map(work.same, range(self._n))
        run = self._pool.map
        return time_map(lambda items: run(work.same, items, chunksize=chunksize), count)

    def direct(self, seconds: float) -> list[float]:
        remote = self._actors[0].noop.remote
        return time_trips(lambda: ray.get(remote()), seconds)

    def balanced(self, seconds: float) -> list[float]:
        remote = self._noop.remote
        return time_trips(lambda: ray.get(remote()), seconds)

    def apply(self, seconds: float) -> list[float]:
        actors = self._actors
        return time_trips(lambda: ray.get([one.noop.remote() for one in actors]), seconds)

    def push(self, megabytes: float, fill: int) -> float:
        actors = self._actors
        array = self._pushed = new_array(megabytes, fill)

        def push() -> None:
            reference = ray.put(array)
            ray.get([one.keep.remote(reference) for one in actors])

        taken, _ = time_call(push)
        check_told(ray.get([one.told.remote() for one in actors]), array, self._n)
        return taken

    def pull(self) -> float:
        actor = self._actors[0]
        taken, array = time_call(lambda: ray.get(actor.give.remote()))
        check_told([work.told(array)], self._pushed, 1)
        return taken

    def versions(self) -> dict[str, str]:
        return versions_of("ray", "numpy")

    def stop(self) -> None:
        self._made, self._pool = [], None
        ray.shutdown()

    @property
    def _actors(self) -> list[Any]:
        """One actor for each core, made when first needed: tasks are weighed without."""
        if not self._made:
            stub = ray.remote(num_cpus=0)(Stub)
            self._made = [stub.remote() for _ in range(self._n)]
            ray.get([one.noop.remote() for one in self._made])
        return self._made


if __name__ == "__main__":
    serve(Ray())
