"""Keys stay where they belong: not in arguments, environments or logs; files are private."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

import ipclusterz as ipp
from ipclusterz.cluster import ControllerSettings
from ipclusterz.core.connector import Connector
from ipclusterz.net import host
from ipclusterz.net.dial import Identity
from ipclusterz.net.seal import ClusterKeys, Sealer
from tests.running import ROOT, children

LOOK = """
import gc, os, sys
told = repr([sys.argv, dict(os.environ), sorted(sys.modules)])
told += repr([each for each in gc.get_objects() if type(each) is dict and "exec_key" in each])
"""
OWN = b"correct horse battery staple"


def spellings(key: bytes) -> list[bytes]:
    """A key as it is, and as it is likely to be written."""
    return [key, key.hex().encode(), base64.b64encode(key), repr(key)[2:-1].encode()]


@pytest.mark.parametrize("reuse", [False, True], ids=["fresh", "-r"])
def test_no_key_is_seen_from_outside(reuse: bool) -> None:
    settings = ControllerSettings(execkey=OWN, reuse_files=reuse)
    cluster = ipp.Cluster(n=2, cluster_id="keys", controller=settings, log_level="DEBUG")
    events: list[dict[str, object]] = []
    cluster._deployed._notice = events.append
    with cluster as rc:
        rc[:].apply_sync(os.getpid)
        files = [Path(cluster.client_file), Path(cluster.engine_file)]
        secret = [json.loads(f.read_text())["exec_key"].encode() for f in files]
        if reuse:
            kept = Path(cluster.profile.key_file("keys"))
            files.append(kept)
            key = base64.b64decode(json.loads(kept.read_text())["key"])
            keys = ClusterKeys(key)
            assert keys.client_secret == secret[0] and keys.engine_secret == secret[1]
            secret += [*spellings(key), keys.server_secret]
        secret += spellings(OWN)
        for file in files:
            facts = file.stat()
            assert (stat.S_IMODE(facts.st_mode), facts.st_uid) == (0o600, os.geteuid())
            assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        processes = children(os.getpid())
        assert len(processes) >= 10, "controller, five parts, agent, zygote, two engines"
        seen: dict[str, bytes] = {}
        for pid in processes:
            for name in ("cmdline", "environ"):
                seen[f"/proc/{pid}/{name}"] = Path(f"/proc/{pid}/{name}").read_bytes()
        # Whoever runs code on an engine has no key there either.
        rc[:].execute(LOOK, block=True)
        for at, text in enumerate(rc[:]["told"]):
            assert "'zmq'" not in text and "'cryptography'" not in text
            seen[f"engine {at}"] = text.encode()
        seen["state file"] = Path(cluster.cluster_file).read_bytes()
    seen["the task database"] = Path(cluster.profile.path, "tasks.db").read_bytes()
    for log in Path(cluster.profile.log).iterdir():
        seen[str(log)] = log.read_bytes()
    logs = [name for name in seen if "/log/" in name]
    assert len(logs) >= 7, "the controller, five parts, the agent"
    for where, content in seen.items():
        for key in secret:
            assert key not in content, f"a key stands in {where}"


DUMPABLE = """
import ctypes, os
from ipclusterz.net import host
prctl = ctypes.CDLL(None).prctl
print(prctl(3, 0, 0, 0, 0))
host.no_core_dump()
print(prctl(3, 0, 0, 0, 0), flush=True)
if os.fork() == 0:
    print(prctl(3, 0, 0, 0, 0), flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.skipif(not host.LINUX, reason="a call of Linux")
def test_what_holds_keys_leaves_no_core_dump_nor_do_its_children() -> None:
    words = [sys.executable, "-c", DUMPABLE]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.stdout.split() == ["1", "0", "0"], done.stderr


def test_a_traceback_shows_no_key() -> None:
    keys = ClusterKeys(OWN)
    connector = Connector(
        exec_key=keys.client_secret.decode(),
        server_key=keys.server_public.decode(),
        role="client",
        url="tcp://127.0.0.1:1",
    )
    made: list[object] = [keys, connector, Sealer(OWN.ljust(32)), Identity(b"p", OWN, OWN)]
    try:
        raise LookupError(made, "as a careless message has it")
    except LookupError as error:
        summary = traceback.TracebackException.from_exception(error, capture_locals=True)
    # OWN stands in this module; what is looked for is in the objects' own words.
    told = "".join(map(repr, made)) + "".join(summary.format_exception_only())
    for key in (*spellings(OWN), keys.client_secret, keys.server_secret):
        assert key.decode("latin-1") not in told


def test_runtime_folder_and_sockets_are_private() -> None:
    events: list[dict[str, object]] = []
    cluster = ipp.Cluster(n=1, notice=events.append)
    cluster.start_controller_sync()
    try:
        runtime = Path(str(next(e["runtime"] for e in events if e["event"] == "ready")))
        assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in runtime.iterdir()}
        assert len(modes) == 14 and set(modes.values()) == {0o600}, modes
    finally:
        cluster.stop_cluster_sync()
    assert not runtime.exists()


def test_the_controller_tries_its_own_doors() -> None:
    cluster = ipp.Cluster(n=1)
    cluster.start_controller_sync()
    try:
        from tests.running import eventually

        folder = Path(cluster.profile.log)

        def text() -> str:
            return "".join(p.read_text() for p in folder.glob("ipcontroller-*.log"))

        eventually(lambda: "all 7 doors refuse a wrong key" in text())
        assert "WARNING" not in text(), "the test itself is no attack"
    finally:
        cluster.stop_cluster_sync()
