"""Clusters with real engines: one engine at a time, coroutines, and the manager."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

import ipclusterz as ipp
from tests.running import eventually


def test_one_engine_is_stopped_restarted_and_signalled() -> None:
    cluster = ipp.Cluster(n=2)
    with cluster as rc:
        cluster.stop_engine_sync(0)
        assert rc.ids == [1]
        new = cluster.restart_engine_sync(1)
        assert new == 2
        eventually(lambda: rc.ids == [2])
        assert rc[2].apply_sync(abs, -1) == 1 and len(cluster.engines) == 2
        stuck = rc[2].apply_async(time.sleep, 600)
        eventually(lambda: rc.queue_status()[2]["queue"] == 1)
        interrupt_until_done(cluster, stuck)
        error = stuck.exception()
        assert isinstance(error, ipp.RemoteError) and error.ename == "KeyboardInterrupt"
        with pytest.raises(IndexError, match="no such engine: 0"):
            cluster.stop_engine_sync(0)
        assert cluster.engine_set is not None and cluster.controller.pid
        assert cluster.engine_timeout == 60.0 and cluster.controller_ip == ""


def interrupt_until_done(cluster: ipp.Cluster, result: ipp.AsyncResult) -> None:
    def ended() -> bool:
        cluster.signal_engine_sync(signal.SIGINT, 2)
        return bool(result.wait(0.2))

    eventually(ended)


def test_coroutines() -> None:
    async def work() -> list[int]:
        cluster = ipp.Cluster(n=1)
        async with cluster as rc:
            assert await rc.load_balanced_view().apply_async(abs, -3) == 3
            name = await cluster.start_engines(1)
            await asyncio.to_thread(rc.wait_for_engines, 2)
            assert rc.ids == [0, 1]
            other = await cluster.connect_client()
            assert await other[:].apply_async(abs, -1) == [1, 1]
            other.close()
            await cluster.signal_engine(0, 1)
            await cluster.signal_engines(0, name)
            new = await cluster.restart_engine(1)
            await cluster.stop_engine(0)
            await asyncio.to_thread(rc.session.wait, lambda: rc.ids == [new], 20)
            return rc.ids
        raise AssertionError

    assert asyncio.run(work()) == [2]


def test_a_cluster_described_elsewhere() -> None:
    cluster = ipp.Cluster(n=1)
    with cluster as rc:
        pid = rc[0].apply_sync(os.getpid)
        again = ipp.Cluster.from_dict(cluster.to_dict())
        assert again.running and again.cluster_id == cluster.cluster_id
        with again.connect_client_sync() as other:
            assert other[0].apply_sync(os.getpid) == pid
    assert not again.running
    with pytest.raises(ipp.ClusterError, match="no description"):
        ipp.Cluster.from_dict({"cluster_id": 3})


def test_the_manager_finds_what_runs() -> None:
    manager = ipp.ClusterManager()
    assert manager.load_clusters() == {}
    key, cluster = manager.new_cluster(n=1, profile="lab", cluster_id="x")
    assert key == "lab:x" and manager.get_cluster(key) is cluster
    with pytest.raises(KeyError, match="exists already"):
        manager.new_cluster(profile="lab", cluster_id="x")
    assert manager.load_clusters() == {key: cluster}  # not started is not ended
    with cluster as rc:
        other = ipp.ClusterManager()
        for where in ({}, {"profile": "lab"}, {"profiles": ["lab", "none"]}):
            assert list(other.load_clusters(**where)) == [key]  # type: ignore[arg-type]
        assert other.load_clusters(profile_dir=cluster.profile_dir)[key].running
        assert ipp.ClusterManager().load_clusters(profile="none") == {}
        with other.clusters[key].connect_client_sync() as second:
            assert second.ids == rc.ids
        manager.load_clusters()
    assert other.load_clusters() == {} == manager.load_clusters()
    found = other.load_clusters(profile="lab", init_default_clusters=True)
    assert list(found) == ["lab:"] and not found["lab:"].running
    other.remove_cluster("lab:")
    with pytest.raises(KeyError, match="load_clusters"):
        other.get_cluster("lab:")
