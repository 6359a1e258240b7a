"""Whole clusters from Python, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ipclusterz as ipp
from ipclusterz.cluster import ControllerSettings
from ipclusterz.core.config import AgentConfig


def test_with_gives_a_client_with_all_engines(ipython_dir: Path) -> None:
    with ipp.Cluster(n=2) as rc:
        assert rc.ids == [0, 1]
        pids = rc[:].apply_sync(os.getpid)
        assert len({*pids, os.getpid()}) == 3
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    security = ipython_dir / "cluster_default" / "security"
    assert list(security.iterdir()) == []
    assert list((ipython_dir / "cluster_default" / "pid").iterdir()) == []


def test_async_with_works_as_well() -> None:
    async def use() -> list[int]:
        async with ipp.Cluster(n=1) as rc:
            return list(rc[:].apply_sync(lambda: 7))

    assert asyncio.run(use()) == [7]


def test_clusters_side_by_side() -> None:
    with ipp.Cluster(n=1) as one, ipp.Cluster(n=1) as two:
        pids = [rc[0].apply_sync(os.getpid) for rc in (one, two)]
    assert pids[0] != pids[1]


def test_an_engine_that_cannot_start_says_why() -> None:
    agent = AgentConfig(preload=["no_such_module"])
    began = time.monotonic()
    with pytest.raises(ipp.LaunchError, match="no_such_module"):
        ipp.Cluster(n=1, agent=agent).start_cluster_sync()
    assert time.monotonic() - began < 10


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = ControllerSettings(regport=port)
        with pytest.raises(ipp.LaunchError, match=rf"cannot listen on 127\.0\.0\.1:{port}"):
            ipp.Cluster(n=1, controller=settings).start_cluster_sync()


def test_nothing_survives_a_killed_program(ipython_dir: Path) -> None:
    code = (
        "import ipclusterz as ipp, os, signal\n"
        "cluster = ipp.Cluster(n=2, cluster_id='k').start_cluster_sync()\n"
        "print(*cluster.engine_sets['e1'].ready.values(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=30,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < deadline, "engines outlived their cluster"
        time.sleep(0.02)
    with ipp.Cluster(n=1, cluster_id="k") as rc:  # the name is free again
        assert rc.ids == [0]


def printed(code: str) -> str:
    """What a program printed, that ended well."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_programs_that_forget_to_stop_leave_nothing() -> None:
    code = (
        "import ipclusterz as ipp\n"
        "cluster = ipp.Cluster(n=1)\n"
        "rc = cluster.start_and_connect_sync()\n"
        "print(rc.ids)\n"
    )
    assert printed(code) == "[0]\n"


def test_programs_that_forget_their_controller_leave_nothing(ipython_dir: Path) -> None:
    code = "import ipclusterz as ipp\nc = ipp.Cluster(n=1)\nc.start_controller_sync()\n"
    assert printed(code) == ""
    assert list((ipython_dir / "cluster_default" / "pid").iterdir()) == []


def test_the_end_of_a_forked_child_is_not_that_of_the_cluster() -> None:
    code = (
        "import ipclusterz as ipp, os, sys\n"
        "cluster = ipp.Cluster(n=1)\n"
        "rc = cluster.start_and_connect_sync()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    sys.exit(0)\n"
        "os.waitpid(child, 0)\n"
        "print(rc[:].apply_sync(int, '8'))\n"
    )
    assert printed(code) == "[8]\n"
