"""Log folders do not grow for ever."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ipclusterz.cluster import Cluster, ControllerSettings, logs
from ipclusterz.error import KernelError
from ipclusterz.paths import ProfileDir


def test_the_oldest_go(tmp_path: Path) -> None:
    for i in range(10):
        path = tmp_path / f"{i}.log"
        path.touch()
        os.utime(path, (i, i))
    (tmp_path / "folder").mkdir()
    logs.prune(str(tmp_path), 8)
    assert sorted(os.listdir(tmp_path)) == [*(f"{i}.log" for i in range(2, 10)), "folder"]
    logs.prune(str(tmp_path / "missing"))


def test_empty_ones_of_one_cluster_go(tmp_path: Path) -> None:
    for name, text in (("a-x.log", ""), ("b-x.log", "text"), ("a-y.log", "")):
        (tmp_path / name).write_text(text)
    logs.forget_empty(str(tmp_path), "x")
    assert sorted(os.listdir(tmp_path)) == ["a-y.log", "b-x.log"]


def test_logs_of_the_living_stay(tmp_path: Path) -> None:
    """However long nothing was written to them; what is open would be written in vain."""
    kept = ["ipcontroller-direct.log", "ipcontroller-direct.log.1", "ipenginez-x-agent-1.log"]
    others = [f"ipenginez-{i:010x}-agent-1.log" for i in range(10)]
    for name in kept + others:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1) if name in kept else (2, 2))
    logs.prune(str(tmp_path), 5, living=["", "x"])
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, *others[8:]])


def test_young_ones_go_only_when_there_are_far_too_many(tmp_path: Path) -> None:
    now = time.time()
    for i in range(20):
        path = tmp_path / f"{i:02}.log"
        path.touch()
        os.utime(path, (now - 100 + i, now - 100 + i))
    logs.prune(str(tmp_path), 5)
    assert len(os.listdir(tmp_path)) == 20
    logs.prune(str(tmp_path), 4)
    assert sorted(os.listdir(tmp_path)) == [f"{i:02}.log" for i in range(4, 20)]


def test_a_start_spares_the_logs_of_other_clusters(ipython_dir: Path) -> None:
    profile = ProfileDir(str(ipython_dir / "cluster_default")).create()
    Path(profile.state_file("")).write_text("{")  # damaged, so perhaps alive
    old = Path(profile.log, "ipcontroller-direct.log")
    for path in (old, *(Path(profile.log, f"{i}.log") for i in range(logs.LIMIT))):
        path.touch()
        os.utime(path, (1, 1))
    os.utime(old, (0, 0))
    cluster = Cluster(1, controller=ControllerSettings(ip="no such address"))
    with pytest.raises(KernelError):
        cluster.start_cluster_sync()
    assert old.exists() and len(os.listdir(profile.log)) <= logs.LIMIT + 10
