"""Connector files that cannot be used: what clients and engines say, and what they do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import ipclusterz as ipp
from ipclusterz.error import AuthenticationError, ConnectorError, ControllerLost
from tests.running import ROOT, Running, run

Start = Callable[[str], Running]
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
NOBODY = 65534


@pytest.fixture
def cluster() -> ipp.Cluster:
    """A cluster that was not started: it knows where its files would be."""
    made = ipp.Cluster(n=1)
    made.profile.create()
    return made


def a_file(path: str, **changes: object) -> str:
    """Write a connector file as a controller might have."""
    document = {
        "exec_key": "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6",
        "server_key": "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7",
        "role": "client",
        "url": "tcp://127.0.0.1:9",
        "location": "here",
        "hostid": "",
        "ssh": "",
        "addresses": {
            name: ["tcp://127.0.0.1:9"]
            for name in "registration heartbeat query direct task control iopub".split()
        },
        "cluster_id": "",
        "version": "0",
        "protocol": 1,
        "reuse": False,
        "pid": 1,
        "started": 0.0,
        **changes,
    }
    file = Path(path)
    file.write_text(json.dumps(document))
    file.chmod(0o600)
    return path


def test_a_missing_file_is_said_at_once_with_its_path(cluster: ipp.Cluster) -> None:
    with pytest.raises((ConnectorError, ControllerLost, OSError)) as caught:
        ipp.Client(cluster.client_file)
    assert cluster.client_file in str(caught.value)
    with pytest.raises(ipp.error.KernelError, match="ipclusterz start"):
        ipp.Client()


def test_a_file_open_to_others_is_refused_with_the_chmod(
    cluster: ipp.Cluster, start: Start
) -> None:
    path = a_file(cluster.client_file)
    os.chmod(path, 0o640)
    with pytest.raises(ConnectorError, match=f"chmod 600 {path}"):
        ipp.Client(path)
    assert os.stat(path).st_mode & 0o777 == 0o640, "whoever opened it shall close it"
    engine = start(f"ipenginez --file={path}")
    assert engine.wait(20) == 1
    assert f"chmod 600 {path}" in engine.text and "Traceback" not in engine.text


@root_only
def test_another_users_file_is_refused(cluster: ipp.Cluster) -> None:
    path = a_file(cluster.client_file)
    os.chown(path, NOBODY, -1)
    with pytest.raises(ConnectorError, match=f"{path} belongs to user {NOBODY}, not to you"):
        ipp.Client(path)


@root_only
def test_as_another_user_the_owners_file_is_refused(tmp_path: Path) -> None:
    # pytest's folders are closed to others: a place of its own, which they may enter.
    folder = Path("/dev/shm") if os.path.isdir("/dev/shm") else tmp_path
    file = Path(a_file(str(folder / f"ipcz-foreign-{os.getpid()}.json")))
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[2]);"
        "from ipclusterz.files import read_private;"
        "import ipclusterz.error;"
        f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "try: read_private(sys.argv[1])\n"
        "except ipclusterz.error.ConnectorError as error: print(error)"
    )
    command = [sys.executable, "-c", script, str(file), str(ROOT)]
    try:
        closed = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert closed.stdout.strip() == f"cannot read {file}: Permission denied"
        file.chmod(0o644)
        opened = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert f"{file} belongs to user 0, not to you (user {NOBODY})" in opened.stdout
    finally:
        file.unlink()


def test_a_truncated_file_is_said_to_be_that(cluster: ipp.Cluster, start: Start) -> None:
    path = a_file(cluster.client_file)
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConnectorError) as caught:
        ipp.Client(path)
    assert path in str(caught.value)
    engine = start(f"ipenginez --file={path}")  # it may be being copied: it waits a little
    assert engine.wait(20) == 1
    assert path in engine.text and "Traceback" not in engine.text


def test_a_stale_file_is_said_to_be_stale() -> None:
    cluster = ipp.Cluster(n=1)
    cluster.start_controller_sync()
    try:
        copy = shutil.copy(cluster.client_file, cluster.client_file + ".copy")
        os.chmod(copy, 0o600)
    finally:
        cluster.stop_cluster_sync()
    assert not os.path.exists(cluster.client_file)
    with pytest.raises(ConnectorError, match=f"{copy} is stale.*ipclusterz start"):
        ipp.Client(copy)
    # Of another host the process cannot be seen, but nothing listens.
    document = json.loads(Path(copy).read_text())
    Path(copy).write_text(json.dumps({**document, "pid": os.getpid()}))
    with pytest.raises(ControllerLost, match="stale.*ipclusterz start"):
        ipp.Client(copy)


@pytest.mark.parametrize("both", [False, True], ids=["role's key", "server's key too"])
def test_a_wrong_key_is_an_error_naming_file_and_address(both: bool, start: Start) -> None:
    import zmq

    cluster = ipp.Cluster(n=1)
    cluster.start_controller_sync()
    try:
        connected = cluster.connect_client_sync()
        connected.close()
        for role in ("client", "engine"):
            path = getattr(cluster, f"{role}_file")
            document = json.loads(Path(path).read_text())
            public, secret = zmq.curve_keypair()
            document["exec_key"] = secret.decode()
            if both:
                document["server_key"] = public.decode()
            wrong = f"{path}.wrong"
            Path(wrong).touch(0o600)
            Path(wrong).write_text(json.dumps(document))
        path = f"{cluster.client_file}.wrong"
        with pytest.raises(AuthenticationError) as caught:
            ipp.Client(path, timeout=5)
        assert path in str(caught.value)
        assert document["url"] in str(caught.value)
        engine = start(f"ipenginez --file={cluster.engine_file}.wrong")
        engine.until("does not accept this key")
        assert engine.process.poll() is None, "it keeps trying"
        assert engine.end(signal.SIGTERM) == 0
    finally:
        cluster.stop_cluster_sync()


def test_a_clients_file_makes_no_engine(start: Start) -> None:
    cluster = ipp.Cluster(n=1)
    cluster.start_controller_sync()
    try:
        done = run(f"ipenginez --file={cluster.client_file}")
        assert done.returncode == 1
        assert "ipcontroller-engine.json" in done.stderr
        with pytest.raises(ipp.error.KernelError, match=r"ends in client\.json"):
            ipp.Client(cluster.engine_file)
    finally:
        cluster.stop_cluster_sync()
