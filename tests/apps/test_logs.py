"""``ipclusterz logs`` as its users meet it: shown, followed, packed without keys."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import ipclusterz as ipp
from ipclusterz.cluster import ControllerSettings, bundle
from ipclusterz.net.seal import ClusterKeys
from ipclusterz.paths import ProfileDir
from tests.running import Running, eventually, run


@pytest.fixture
def rc(ipython_dir: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=2, cluster_id="told") as rc:
        yield rc


def logs(more: str = "") -> list[str]:
    done = run(f"ipclusterz logs --cluster-id=told {more}")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_was_written_is_shown_in_order_with_its_source(rc: ipp.Client) -> None:
    rc[:].apply_sync(print, "hello from the engines")
    eventually(lambda: sum("hello" in line for line in logs()) == 2)
    eventually(lambda: any("doors refuse a wrong key" in line for line in logs("hub")))
    lines = logs()
    assert any(" hub " in line and "registered engine" in line for line in lines)
    assert any(" agent " in line and "engines are ready" in line for line in lines)
    assert any(" controller " in line and "is up" in line for line in lines)
    assert any(" engine 1 " in line and "hello" in line for line in lines)
    times = [line[:23] for line in lines if " engine " not in line[23:35]]
    assert times == sorted(times)
    assert all(" hub " in line for line in logs("hub"))
    (only,) = logs("engine 1")
    assert only.endswith("engine 1   hello from the engines")
    assert len(logs("hub engine 0-1,7 -n 1")) == 1
    assert logs("-n 0") == []
    assert len(logs("-n all")) == len(lines)
    done = run("ipclusterz logs --cluster-id=told engine 7")
    assert done.returncode == 1
    assert "no log of engine 7; there are: " in done.stderr and "engine 1" in done.stderr


def test_what_is_added_is_followed(rc: ipp.Client) -> None:
    following = Running("ipclusterz logs -f engine 1 hub --cluster-id=told -n 1")
    try:
        following.until("hub")
        rc[:].apply_sync(print, "news")  # the engine's log comes into being only now
        assert "engine 1" in following.until("news")
        rc[1].execute("print('more')", block=True)
        following.until("more")
        assert following.end(signal.SIGINT) == 0
        assert "engine 0" not in following.text and "Traceback" not in following.text
    finally:
        if following.process.poll() is None:
            following.end(signal.SIGKILL)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("hob", "no log called 'hob'; there are: all,"),
        ("3", "no log called '3'"),
        ("engine 3-x", "like 0-3,7"),
        ("-n some", "number of lines"),
    ],
)
def test_misuse_is_a_usage_error(line: str, words: str) -> None:
    done = run(f"ipclusterz logs {line}")
    assert done.returncode == 2, done.stderr
    assert words in done.stderr


def content(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        found = {}
        for entry in archive:
            file = archive.extractfile(entry)
            assert file is not None
            found[entry.name.partition("/")[2]] = file.read()
        return found


def test_a_bundle_has_what_helps_and_no_key(ipython_dir: Path, tmp_path: Path) -> None:
    settings = ControllerSettings(reuse_files=True)
    cluster = ipp.Cluster(n=1, cluster_id="told", controller=settings)
    (ipython_dir / "cluster_default").mkdir(mode=0o700, exist_ok=True)
    with cluster as rc:
        folder = cluster.profile
        client = json.loads(Path(cluster.client_file).read_text())
        engine = json.loads(Path(cluster.engine_file).read_text())
        key = base64.b64decode(json.loads(Path(folder.key_file("told")).read_text())["key"])
        spelled = [
            *(client["exec_key"], engine["exec_key"], key.hex(), key.hex().upper()),
            *(base64.b64encode(key).decode(), repr(key), json.dumps(client)),
        ]
        # Users print anything, and put anything into their settings.
        rc[:].apply_sync(print, "\n".join(spelled))
        config = Path(folder.path) / "ipclusterz_config.py"
        config.write_text(f"# the key is {client['exec_key']}\nc = get_config()\n")
        log = Path(folder.log) / "ipenginez-told-engine-0.log"
        eventually(lambda: log.exists() and client["server_key"] in log.read_text())
        target = tmp_path / "out.tgz"
        done = run(f"ipclusterz logs --bundle={target} --cluster-id=told")
        assert done.returncode == 0, done.stderr
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        found = content(target)
        keys = ClusterKeys(key)
        secret = [keys.client_secret, keys.engine_secret, keys.server_secret, key]
        secret += [text.encode() for text in spelled[:5]] + [repr(key)[2:-1].encode()]
        for name, data in found.items():
            for each in secret:
                assert each not in data, name
        assert b"ipclusterz 0" in found["versions.txt"] and b"pyzmq" in found["versions.txt"]
        assert b"registered engine" in found["logs/ipcontroller-told-hub.log"]
        assert found["logs/ipenginez-told-engine-0.log"].count(bundle.REMOVED) >= 6
        assert bundle.REMOVED in found["config/ipclusterz_config.py"]
        assert json.loads(found["state/cluster-told.json"])["cluster_id"] == "told"
        written = json.loads(found["state/ipcontroller-told-client.json"])
        assert written["exec_key"] == bundle.REMOVED.decode()
        assert written["url"] == client["url"]
        assert not any(name.endswith(".key") for name in found)
    os.unlink(cluster.client_file)


def test_a_key_that_cannot_be_read_prevents_a_bundle(ipython_dir: Path, tmp_path: Path) -> None:
    folder = ProfileDir(str(ipython_dir / "cluster_default")).create()
    (Path(folder.log) / "ipcontroller-hub.log").write_text("2026-01-01 00:00:00.000 INFO x\n")
    bad = Path(folder.connector("client", "other"))
    bad.write_text('{"exec_key": ')
    bad.chmod(0o600)
    target = tmp_path / "out.tgz"
    done = run(f"ipclusterz logs --bundle={target}")
    assert done.returncode == 1
    assert "no bundle was made" in done.stderr and str(bad) in done.stderr
    assert list(tmp_path.iterdir()) == []
    bad.write_text(json.dumps({"exec_key": "x" * 40}))
    bad.chmod(0o644)
    done = run(f"ipclusterz logs --bundle={target}")
    assert done.returncode == 1 and "chmod 600" in done.stderr
    bad.chmod(0o600)
    done = run(f"ipclusterz logs --bundle={target}")
    assert done.returncode == 0, done.stderr
    assert "logs/ipcontroller-hub.log" in content(target)


def test_an_archive_with_a_key_is_not_kept(
    ipython_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ProfileDir(str(ipython_dir / "cluster_default")).create()
    secret = Path(folder.connector("client"))
    secret.write_text(json.dumps({"exec_key": "K" * 40}))
    secret.chmod(0o600)
    monkeypatch.setattr(bundle, "scrub", lambda data, known: data)
    with pytest.raises(ipp.KernelError, match="a key would stand in"):
        bundle.make(folder, "", str(tmp_path / "out.tgz"))
    assert list(tmp_path.iterdir()) == []
