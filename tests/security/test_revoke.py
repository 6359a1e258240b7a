"""``ipclusterz revoke``: old files are worthless at once, and who works goes on working."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ipclusterz as ipp
from ipclusterz.core.connector import parse
from ipclusterz.error import EngineError, KernelError
from ipclusterz.net.client import Connection
from ipclusterz.net.seal import ClusterKeys
from tests.running import Running, alive, eventually, run

N = 300


def slow(number: int) -> int:
    time.sleep(0.01)
    return number * number


@pytest.fixture
def cluster() -> Iterator[ipp.Cluster]:
    made = ipp.Cluster(n=2)
    made.start_cluster_sync()
    yield made
    made.stop_cluster_sync()


def revoke(cluster: ipp.Cluster, options: str = "") -> str:
    where = f"--profile-dir={cluster.profile.path} --cluster-id={cluster.cluster_id}"
    done = run(f"ipclusterz revoke {where} {options}")
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def hub_pid(cluster: ipp.Cluster, events: list[dict[str, Any]]) -> int:
    return int(next(e["parts"]["hub"] for e in events if e["event"] == "ready"))


def test_a_running_map_loses_nothing_and_old_files_are_dead(
    cluster: ipp.Cluster, tmp_path: Path
) -> None:
    files = {role: Path(getattr(cluster, f"{role}_file")) for role in ("client", "engine")}
    old = {role: Path(shutil.copy(file, tmp_path)) for role, file in files.items()}
    with ipp.Client(str(files["client"])) as rc:
        pids = rc[:].apply_sync(os.getpid)
        rc[:].push({"state": 7}, block=True)
        work = rc.load_balanced_view().map_async(slow, range(N))
        told = revoke(cluster)
        assert str(files["client"]) in told and str(files["engine"]) in told
        for role, file in files.items():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            was, now = json.loads(old[role].read_text()), json.loads(file.read_text())
            assert was.pop("exec_key") != now.pop("exec_key") and was == now
        with pytest.raises(ipp.AuthenticationError, match="does not accept this key"):
            ipp.Client(str(old["client"]))
        stranger = Running(f"ipenginez --file={old['engine']}")
        try:
            stranger.until("does not accept this key")
        finally:
            stranger.end()
        with ipp.Client(str(files["client"])) as other:
            assert other[:].apply_sync(os.getpid) == pids
        assert list(work.get(timeout=60)) == [n * n for n in range(N)]
        assert rc[:].apply_sync(os.getpid) == pids and rc[:].pull("state", block=True) == [7, 7]
        # The launcher has the new engine file as well.
        cluster.start_engines_sync(n=1)
        eventually(lambda: len(rc.ids) == 3)
        assert rc[2].apply_sync(pow, 2, 5) == 32


def test_who_stayed_registers_with_the_new_key_when_the_hub_was_killed() -> None:
    events: list[dict[str, Any]] = []
    cluster = ipp.Cluster(n=1, notice=events.append)
    with cluster as rc:
        pids = rc[:].apply_sync(os.getpid)
        old = Path(cluster.client_file).read_text()
        revoke(cluster)
        os.kill(hub_pid(cluster, events), 9)
        eventually(lambda: any(e["event"] == "restarted" for e in events))
        log = Path(cluster.profile.log) / f"ipcontroller-{cluster.cluster_id}-hub.log"
        eventually(lambda: log.read_text().count("registered engine") >= 2)
        assert rc[:].apply_sync(os.getpid) == pids
        with ipp.Client(cluster.client_file) as other:
            assert other[:].apply_sync(os.getpid) == pids
        with pytest.raises(ipp.AuthenticationError):
            Connection(parse(old, "the old file"), timeout=10)


def test_peers_that_are_named_are_dropped_and_others_stay(cluster: ipp.Cluster) -> None:
    with ipp.Client(cluster.client_file) as kept, ipp.Client(cluster.client_file) as thief:
        assert thief[:].apply_sync(pow, 2, 3) == [8, 8]
        told = revoke(cluster, "--role=client --client=all")
        assert told.count("dropped client") >= 2
        for each in (kept, thief):
            with pytest.raises(ipp.AuthenticationError, match="dropped by 'ipclusterz revoke'"):
                each[:].apply_sync(pow, 2, 3)
    with ipp.Client(cluster.client_file) as owner:
        pids = owner[:].apply_sync(os.getpid)
        told = revoke(cluster, "--role=engine --engine=0")
        assert "with engines [0, 1]" in told
        with pytest.raises(EngineError):
            owner[[0, 1]].apply_sync(pow, 2, 3)
        eventually(lambda: not any(map(alive, pids)))


def test_what_cannot_be_is_refused_and_changes_nothing(cluster: ipp.Cluster) -> None:
    files = [Path(cluster.client_file), Path(cluster.engine_file)]
    before = [file.read_text() for file in files]
    with ipp.Client(cluster.client_file) as rc:
        ask = rc.session.connection.query
        for arg, words in (
            (None, "Expected"),
            ([[]], "no such roles"),
            ([["king"]], "no such roles"),
            ([["engine"], [77]], "there is no engine 77"),
            ([["client"], [0]], "could come back"),
            ([["client"], [], ["x:1"]], "there is no client 'x:1'"),
        ):
            with pytest.raises(KernelError, match=words):
                ask("revoke", arg)
        where = f"--profile-dir={cluster.profile.path} --cluster-id={cluster.cluster_id}"
        done = run(f"ipclusterz revoke {where} --role=client --engine=1")
        assert done.returncode == 2 and "could come back" in done.stderr
        # A file that cannot be written: a folder is in its place.
        files[1].unlink()
        files[1].mkdir()
        with pytest.raises(KernelError, match="cannot write"):
            ask("revoke", [["client", "engine"]])
        files[1].rmdir()
        assert files[0].read_text() == before[0]
        with ipp.Client(cluster.client_file) as other:
            assert other[:].apply_sync(pow, 2, 3) == [8, 8]


def test_with_r_the_new_keys_are_kept(ipython_dir: Path, tmp_path: Path) -> None:
    start = "ipclusterz start -n 1 -r --daemon"
    assert run(start).returncode == 0
    security = ipython_dir / "cluster_default" / "security"
    try:
        old = Path(shutil.copy(security / "ipcontroller-client.json", tmp_path))
        engine = json.loads((security / "ipcontroller-engine.json").read_text())["exec_key"]
        assert run("ipclusterz revoke --role=client").returncode == 0
        new = Path(shutil.copy(security / "ipcontroller-client.json", tmp_path / "new.json"))
        assert run("ipclusterz stop").returncode == 0
        assert run(start).returncode == 0
        with ipp.Client(str(new)) as rc:
            assert rc[:].apply_sync(pow, 2, 5) == [32]
        with pytest.raises(ipp.AuthenticationError):
            ipp.Client(str(old))
        same = json.loads((security / "ipcontroller-engine.json").read_text())["exec_key"]
        assert same == engine, "only the client's key was renewed"
    finally:
        run("ipclusterz stop")


def test_keys_differ_by_role_and_renewal() -> None:
    first = ClusterKeys(b"k" * 32)
    second = ClusterKeys(b"k" * 32, {"client": b"a" * 16})
    third = ClusterKeys(b"k" * 32, {"client": b"b" * 16, "engine": b"b" * 16})
    assert first.server_secret == second.server_secret == third.server_secret
    assert len({k.client_secret for k in (first, second, third)}) == 3
    assert first.engine_secret == second.engine_secret != third.engine_secret
    assert third.client_secret != third.engine_secret
