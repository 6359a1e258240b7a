"""dask.distributed: a LocalCluster of worker processes with one thread each.

Runs in the peers' environment, where ipclusterz is not installed.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from typing import Any

from distributed import Client, LocalCluster

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
from benchmarks.work import noop, same, told


class Stub:
    """An actor with nothing to remember."""

    def noop(self) -> None:
        """Return at once."""


class Dask:
    """``Client(LocalCluster(...))``, held open between the calls."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._client: Any = None
        self._actor: Any = None
        self._pushed: Any = None
        self._future: Any = None

    def start(self, n: int) -> None:
        cluster = LocalCluster(
            n_workers=n,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=logging.ERROR,
        )
        self._open.enter_context(cluster)
        self._client = self._open.enter_context(Client(cluster))
        self._client.wait_for_workers(n)

    # pure=False: else equal calls would be one task.
    def tasks(self, count: int) -> float:
        submit = self._client.submit
        return time_tasks(lambda: submit(noop, pure=False), self._client.gather, count)

    def map(self, count: int, chunksize: int) -> float:
        return time_map(self._map_items if chunksize == 1 else self._bag(chunksize), count)

    def _map_items(self, items: range) -> Any:
        return self._client.gather(self._client.map(same, items, pure=False))

    def _bag(self, chunksize: int) -> Any:
        # Client.map has no chunks of several items in a task; a bag's partitions are that.
        import dask.bag

        return lambda items: (
            dask.bag.from_sequence(items, partition_size=chunksize).map(same).compute()
        )

    def direct(self, seconds: float) -> list[float]:
        if self._actor is None:
            worker = sorted(self._client.scheduler_info(n_workers=-1)["workers"])[0]
            made = self._client.submit(Stub, actor=True, workers=[worker])
            self._actor = made.result()
        call = self._actor.noop
        return time_trips(lambda: call().result(), seconds)

    def balanced(self, seconds: float) -> list[float]:
        submit = self._client.submit
        return time_trips(lambda: submit(noop, pure=False).result(), seconds)

    def apply(self, seconds: float) -> list[float]:
        run = self._client.run
        return time_trips(lambda: run(noop), seconds)

    def push(self, megabytes: float, fill: int) -> float:
        # hash=False: to name the data by its contents would only take longer; direct=True:
        # past the scheduler, which is faster both ways.
        client = self._client
        self._future = None  # what was there before goes first
        array = self._pushed = new_array(megabytes, fill)
        taken, self._future = time_call(
            lambda: client.scatter(array, broadcast=True, hash=False, direct=True)
        )
        workers = list(client.scheduler_info(n_workers=-1)["workers"])
        asked = [client.submit(told, self._future, workers=[w], pure=False) for w in workers]
        check_told(client.gather(asked), array, len(workers))
        holders = client.who_has([self._future])[self._future.key]
        if len(holders) != len(workers):
            raise ValueError(f"{len(holders)} of {len(workers)} workers hold the array")
        return taken

    def pull(self) -> float:
        client, future = self._client, self._future
        taken, array = time_call(lambda: client.gather(future, direct=True))
        check_told([told(array)], self._pushed, 1)
        return taken

    def everyone(self) -> list[int]:
        return list(self._client.run(os.getpid).values())

    def versions(self) -> dict[str, str]:
        return versions_of("distributed", "dask", "numpy")

    def stop(self) -> None:
        self._future = self._actor = None
        self._open.close()


if __name__ == "__main__":
    serve(Dask())
