"""Client: finding a controller, waiting, control, the end."""

from __future__ import annotations

import gc
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ipclusterz import error
from ipclusterz.client import locate
from ipclusterz.client.client import Client
from ipclusterz.core.message import Op
from ipclusterz.net.host import loopback_id
from tests.client.fake import FakeConnection

KEY = "0" * 40


def write(path: Path, **fields: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "exec_key": KEY,
        "server_key": KEY,
        "role": "client",
        "url": "tcp://127.0.0.1:9",
        "hostid": loopback_id(),
        "location": socket.gethostname(),
        **fields,
    }
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    return path


def test_nothing_running(ipython_dir: Path) -> None:
    with pytest.raises(error.ConnectorError) as caught:
        Client()
    text = str(caught.value)
    assert str(ipython_dir / "cluster_default/security/ipcontroller-client.json") in text
    assert "ipclusterz start" in text and "No connector file of any other" in text
    assert isinstance(caught.value, FileNotFoundError)


def test_other_clusters_are_named(ipython_dir: Path) -> None:
    there = write(ipython_dir / "cluster_mpi/security/ipcontroller-client.json")
    write(ipython_dir / "cluster_default/security/ipcontroller-x1-client.json")
    with pytest.raises(error.ConnectorError) as caught:
        Client()
    text = str(caught.value)
    assert f"Client(profile='mpi')  {there}" in text and "Client(cluster_id='x1')" in text


def test_nothing_running_is_told_without_loading_sockets(ipython_dir: Path) -> None:
    code = (
        "import sys, ipclusterz\n"
        "try: ipclusterz.Client()\n"
        "except ipclusterz.ConnectorError: pass\n"
        "print([m for m in ('zmq', 'cryptography', 'asyncio', 'tqdm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_files_are_found_by_path_folder_dict_and_id(ipython_dir: Path) -> None:
    path = write(ipython_dir / "cluster_default/security/ipcontroller-client.json")
    other = write(ipython_dir / "cluster_default/security/ipcontroller-a-client.json")
    for given in (None, str(path), path, path.parent):
        assert locate.locate(given)[1] == str(path)
    assert locate.locate(cluster_id="a")[1] == str(other)
    assert locate.locate(path.parent, cluster_id="a")[1] == str(other)
    found, _ = locate.locate(json.loads(path.read_text()))
    assert found.url == "tcp://127.0.0.1:9"


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(error.ConnectorError, match="there is no connector file"):
        Client(tmp_path / "none.json")
    with pytest.raises(error.ConnectorError, match="address alone proves nothing"):
        Client("tcp://127.0.0.1:123")
    with pytest.raises(error.ConnectorError, match="lets engines in"):
        Client(write(tmp_path / "e.json", role="engine"))
    path = write(tmp_path / "open.json")
    path.chmod(0o644)
    with pytest.raises(error.ConnectorError, match="chmod 600"):
        Client(path)
    path.chmod(0o600)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(error.ConnectorError, match="no text"):
        Client(path)
    with pytest.raises(TypeError, match="pass one of"):
        Client(path, url_file=path)


def test_a_stale_file(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = write(tmp_path / "c.json", pid=ended.pid)
    with pytest.raises(error.ConnectorError, match=f"stale.*process {ended.pid}"):
        Client(path)
    locate.check_reachable(*locate.locate(write(tmp_path / "d.json", pid=os.getpid())))


def test_a_controller_on_another_hosts_loopback(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        addresses = {"task": ["ipc:///run/x", "tcp://127.0.0.1:4001"]}
        path = write(
            tmp_path / "c.json", hostid="other", location="head", url=url, addresses=addresses
        )
        connector, origin = locate.locate(path)
        locate.check_reachable(connector, origin)  # a tunnel made by hand answers
    with pytest.raises(error.ConnectorError) as caught:
        Client(path)
    text = str(caught.value)
    assert "loopback of head" in text and "sshserver='head'" in text
    port = connector.url.rpartition(":")[2]
    assert f"ssh -N -L 127.0.0.1:{port}:127.0.0.1:{port} -L 127.0.0.1:4001:" in text
    with pytest.raises(error.ConnectorError, match="since sshserver is ''"):
        Client(path, sshserver="")
    with pytest.raises(error.ConnectorError, match="no SSH server: write"):
        Client(path, sshserver="-oProxyCommand=id")
    with pytest.raises(error.SSHError, match="connect to me@gate.invalid:2222 by ssh"):
        Client(path, sshserver="me@gate.invalid:2222")


def test_waiting(rc: Client, link: FakeConnection) -> None:
    view = rc.load_balanced_view()
    first, second = view.apply_async(len, "a"), view.apply_async(len, "b")
    assert rc.outstanding == {*first.msg_ids, *second.msg_ids}
    assert rc.wait(first) and first.ready() and not second.ready()
    third = view.apply_async(len, "c")
    assert view.wait(third.msg_ids) and third.ready()
    assert rc.wait([first, second.msg_ids[0]]) and rc.wait() and rc.wait(timeout=0)
    assert rc.outstanding == set()
    rc[:].apply_async(len, "d")
    assert rc.wait_interactive(interval=0.01)
    with pytest.raises(TypeError, match="message ids"):
        rc.wait(3)


def test_waiting_for_engines_tells_what_becomes_of_their_jobs(
    rc: Client,
    link: FakeConnection,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("ipclusterz.client.waiting.JOBS_SECONDS", 0.01)
    link.jobs = {
        "6": ["running", "Slurm job 6 runs on node1"],
        "7": ["pending", "Slurm job 7 waits (Resources)"],
    }
    text = r"4 engines are not ready after 0\.2 s: 3 are. Slurm job 7 waits \(Resources\)$"
    with pytest.raises(error.TimeoutError, match=text):
        rc.wait_for_engines(4, timeout=0.2)
    told = "waiting for 4 engines, 3 are here: Slurm job 7 waits (Resources)\n"
    assert capsys.readouterr().err == told, "once, as long as nothing changes"


def test_waiting_for_engines(rc: Client, link: FakeConnection) -> None:
    assert rc.wait_for_engines(3, timeout=1) is None
    with pytest.raises(error.TimeoutError, match=r"9 engines are not ready after 0\.01 s: 3"):
        rc.wait_for_engines(9, timeout=0.01)
    future = rc.wait_for_engines(4, block=False)
    assert future is not None and not future.done()
    timer = threading.Timer(0.01, link.add_engine, [3])
    timer.start()
    assert rc.wait_for_engines(4, timeout=10, interactive=True) is None
    assert future.result(10) is None
    timer.join()


def test_control(rc: Client, link: FakeConnection) -> None:
    rc.send_signal(10, targets=[0, 1], block=True)
    assert link.controls[-1] == (Op.SIGNAL, [0, 1], b"\x0a")
    rc.send_signal(2, targets=[1], block=True)
    assert link.controls[-1] == (Op.INTERRUPT, [1], b"")
    rc.send_signal("TERM", targets=[0], block=True)
    rc.send_signal("SIGTERM", targets=[0], block=True)
    assert link.controls[-2:] == [(Op.SIGNAL, [0], b"\x0f")] * 2
    for wrong in (999, -1, "FOO", 1.5, None):
        with pytest.raises(ValueError, match=r"is no signal"):
            rc.send_signal(wrong)  # type: ignore[arg-type]
    done = rc.shutdown(targets=2)
    assert done is not None and done.result() is None
    assert link.controls[-1] == (Op.STOP, [2], b"")
    rc.shutdown(hub=True, block=True)
    assert link.controls[-1] == (Op.STOP, [], b"controller")
    assert rc.queue_status()[2] == {"queue": 0, "completed": 0, "tasks": 0}
    assert set(rc[0].queue_status()) == {"unassigned", 0}
    with pytest.raises(NotImplementedError):
        rc.shutdown(restart=True)


def test_abort(rc: Client, link: FakeConnection) -> None:
    balanced = rc.load_balanced_view().apply_async(len, [])
    direct = rc[:].apply_async(len, [])
    rc.abort(balanced)
    assert balanced.cancelled() and not direct.done()
    rc.abort(block=True)
    assert direct.cancelled()
    rc[0].abort()
    assert link.controls[-1] == (Op.ABORT, [0], b"")


def test_closing(link: FakeConnection) -> None:
    with Client.over(link) as rc:
        pass
    rc.close()
    assert link.closed == 1 and repr(rc) == "<Client: closed>"


def test_a_forgotten_client_is_closed_but_not_before_its_results(link: FakeConnection) -> None:
    closed = threading.Event()
    link.close = closed.set  # type: ignore[method-assign]
    result = Client.over(link).load_balanced_view().apply_async(len, "ab")
    gc.collect()
    assert not closed.is_set() and result.get() == 2
    del result
    gc.collect()
    assert closed.wait(10)
