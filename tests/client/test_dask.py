"""A dask.distributed cluster on real engines."""

from __future__ import annotations

import os
from typing import Any

import psutil
import pytest

import ipclusterz as ipp
from tests.running import alive

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.timeout(120)


def parent() -> int:
    return os.getppid()


def test_engines_become_a_dask_cluster() -> None:
    with ipp.Cluster(n=2) as rc:
        engines = rc[:].apply_sync(os.getpid)
        client = rc.become_dask()
        assert isinstance(client, distributed.Client)
        assert client.scheduler.address.startswith("tls://127.0.0.1:")
        workers: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
        assert sorted(w["name"] for w in workers.values()) == ["engine-0", "engine-1"]
        assert set(client.run(parent).values()) == set(engines)
        assert client.submit(pow, 3, 4).result(30) == 81
        assert client.gather(client.map(abs, range(-50, 0))) == list(range(50, 0, -1))
        import dask.bag

        assert (
            dask.bag.from_sequence(range(100), 10).map(lambda x: x + 1).sum().compute() == 5050
        )
        assert rc[:].apply_sync(abs, -1) == [1, 1]  # engines are engines still
        with pytest.raises(ipp.ClusterError, match="stop_dask"):
            rc.become_dask()
        pids = list(client.run(os.getpid).values())
        rc.stop_dask()
        assert not any(alive(pid) for pid in pids)
        assert all(not psutil.Process(pid).children() for pid in engines)
        client = rc.become_dask(targets=[0], nthreads=2)
        assert list(client.nthreads().values()) == [2]
        pids = list(client.run(os.getpid).values())
    assert not any(alive(pid) for pid in pids)  # it ends with the client
    assert client.status == "closed"


def test_what_cannot_be_started_leaves_nothing() -> None:
    with ipp.Cluster(n=1) as rc:
        with pytest.raises(ipp.LaunchError, match="nonsense"):
            rc.become_dask(nonsense=True)
        pid = rc[0].apply_sync(os.getpid)
        assert psutil.Process(pid).children() == []
        rc.stop_dask()
