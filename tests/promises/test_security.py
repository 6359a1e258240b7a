"""What the document on security promises and no other test shows in this form.

docs/promises.md names the test of each promise.  The way through SSH is one through a relay
here: a tunnel made by hand is a port of this host that leads to one of another.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import ipclusterz as ipp
from ipclusterz.core.config import CHANNEL_NAMES
from tests.running import ROOT, Running, children, eventually

Start = Callable[[str], Running]
NOBODY = 65534


class Relay:
    """A port of this host that leads to another one, as ``ssh -L`` makes it."""

    def __init__(self, port: int) -> None:
        self._to = ("127.0.0.1", port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.open = 0
        self._lock = threading.Lock()
        self._held: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._server.accept()
                there = socket.create_connection(self._to)
            except OSError:
                return
            self._count(1)
            self._held += [here, there]
            threading.Thread(target=self._carry, args=(here, there, 1), daemon=True).start()
            threading.Thread(target=self._carry, args=(there, here, 0), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, counts: int) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._count(-counts)

    def _count(self, change: int) -> None:
        with self._lock:
            self.open += change

    def close(self) -> None:
        for end in (self._server, *self._held):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()


@pytest.fixture
def tunnel() -> Iterator[Callable[[Path, Path], dict[str, Relay]]]:
    """Copy a connector file to "another host", its addresses being the ends of tunnels."""
    made: list[Relay] = []

    def dig(file: Path, copy: Path) -> dict[str, Relay]:
        document: dict[str, Any] = json.loads(file.read_text())
        relays: dict[str, Relay] = {}
        for name, listed in document["addresses"].items():
            relays[name] = Relay(int(listed[-1].rpartition(":")[2]))
            made.append(relays[name])
            document["addresses"][name] = [f"tcp://127.0.0.1:{relays[name].port}"]
        document["url"] = document["addresses"]["registration"][0]
        document |= {"hostid": "another-boot", "location": "another-host"}
        copy.touch(0o600)
        copy.write_text(json.dumps(document))
        return relays

    yield dig
    for relay in made:
        relay.close()


@pytest.fixture
def security(ipython_dir: Path) -> Path:
    return ipython_dir / "cluster_default" / "security"


def test_tunnels_made_by_hand_carry_client_and_engines(
    start: Start,
    security: Path,
    tmp_path: Path,
    tunnel: Callable[[Path, Path], dict[str, Relay]],
) -> None:
    """Seven connections each, which last as long as whoever made them."""
    controller = start("ipcontrollerz")
    controller.until("^stop:")
    for_engines = tunnel(security / "ipcontroller-engine.json", tmp_path / "engine.json")
    for_clients = tunnel(security / "ipcontroller-client.json", tmp_path / "client.json")
    engine = start(f"ipenginez -n 2 --file={tmp_path / 'engine.json'}")
    for _ in range(2):
        engine.until("is ready")
    with ipp.Client(str(tmp_path / "client.json")) as rc:
        rc.wait_for_engines(2, timeout=20)
        assert rc[:].apply_sync(lambda x: x**2, 12) == [144, 144]
        data = os.urandom(3_000_000)
        assert rc[:].apply_sync(lambda x: x[::-1], data) == [data[::-1]] * 2
        rc[0].apply_async(print, "told").get()
        rc.queue_status()
        one_each = dict.fromkeys(CHANNEL_NAMES, 1)
        # At first also the one that looked whether a tunnel is there.
        eventually(lambda: {name: each.open for name, each in for_clients.items()} == one_each)
    eventually(lambda: sum(relay.open for relay in for_clients.values()) == 0)
    assert sum(relay.open for relay in for_engines.values()) >= 6, "one for both engines"
    assert controller.end() == 0
    assert engine.wait() == 0
    eventually(lambda: sum(relay.open for relay in for_engines.values()) == 0)


def listeners(*pids: int) -> list[tuple[str, int]]:
    """Where processes listen, files of their host apart."""
    return [
        (connection.laddr.ip, connection.laddr.port)
        for each in pids
        for connection in psutil.Process(each).net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]


def test_only_the_controller_listens_and_on_loopback_only(start: Start) -> None:
    controller, engine = start("ipcontrollerz"), start("ipenginez -n 2")
    for _ in range(2):
        engine.until("is ready")
    with ipp.Client() as rc:
        rc.wait_for_engines(2, timeout=20)
        assert rc[:].apply_sync(abs, -1) == [1, 1]
        agent, parts = engine.process.pid, children(controller.process.pid)
        assert len(children(agent)) == 3, "a zygote and two engines"
        # Nobody can call them, nor the client.
        assert listeners(agent, *children(agent), os.getpid()) == []
        found = set(listeners(controller.process.pid, *parts))
    assert len(found) == 7 and {ip for ip, _ in found} == {"127.0.0.1"}


def test_the_ssh_server_is_written_into_the_files(start: Start, security: Path) -> None:
    given = "--ssh=me@gate.example.com:2222 --enginessh=login --location=node7"
    start(f"ipcontrollerz {given}").until("^stop:")
    read = {
        role: json.loads((security / f"ipcontroller-{role}.json").read_text())
        for role in ("client", "engine")
    }
    assert read["client"]["ssh"] == "me@gate.example.com:2222"
    assert read["engine"]["ssh"] == "login"
    assert read["client"]["location"] == read["engine"]["location"] == "node7"


def test_each_start_has_a_key_of_its_own(start: Start, security: Path) -> None:
    seen = []
    for _ in range(2):
        controller = start("ipcontrollerz")
        controller.until("^stop:")
        for role in ("client", "engine"):
            file = security / f"ipcontroller-{role}.json"
            seen.append(json.loads(file.read_text())["exec_key"])
            assert file.stat().st_mode & 0o777 == 0o600
        assert controller.end() == 0
    assert len(set(seen)) == 4, "one for each role at each start"


def test_the_user_may_choose_the_key_in_a_file_or_type_it(
    start: Start, security: Path, tmp_path: Path
) -> None:
    """The same key by both ways goes on with what ``-r`` keeps; another one does not."""
    file = tmp_path / "key"
    file.touch(0o600)
    file.write_bytes(b"a key of sixteen")
    controller = start(f"ipcontrollerz -r --execkey={file}")
    controller.until("^stop:")
    assert "sixteen" not in "".join(each.read_text() for each in security.iterdir())
    made = key_for_clients(security)
    assert controller.end() == 0
    said, shown = typed("a key of sixteen")
    assert "stop:" in said and "sixteen" not in shown, shown
    assert key_for_clients(security) == made
    said, _ = typed("another, of mine")
    assert "stop:" not in said and "the key (by its hash) is to be" in said, said


def key_for_clients(security: Path) -> str:
    return str(json.loads((security / "ipcontroller-client.json").read_text())["exec_key"])


def typed(key: str) -> tuple[str, str]:
    """Type a key for ``ipcontrollerz -r``; what it said till it was up, and the terminal."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ipclusterz.apps.controller", "-r", "--execkey=-"],
        cwd=ROOT,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    os.close(theirs)
    assert process.stdout is not None
    said = b""
    try:
        for awaited, answer in ((b"Key: ", key + "\n"), (b"stop:", "")):
            while awaited not in said and (more := os.read(process.stdout.fileno(), 1000)):
                said += more
            os.write(ours, answer.encode())
        os.set_blocking(ours, False)
        try:
            shown = os.read(ours, 1000)
        except OSError:  # nothing was, or the other end is closed
            shown = b""
        return said.decode(), shown.decode()
    finally:
        process.terminate()
        process.communicate(timeout=30)
        os.close(ours)


def test_an_engine_can_do_what_its_user_can(start: Start, tmp_path: Path) -> None:
    start("ipclusterz start -n 1").until("^stop:")
    file = tmp_path / "written"
    with ipp.Client() as rc:
        code = f"import os\nopen({str(file)!r}, 'w').write('by me')\nwho = os.getresuid()"
        rc[0].execute(code, block=True)
        assert rc[0]["who"] == os.getresuid()
        rc[0].execute(f"code = os.system('rm {file} && mkdir {file}')", block=True)
        assert rc[0]["code"] == 0
    assert file.is_dir() and file.stat().st_uid == os.geteuid()


def interpreters() -> Iterator[str]:
    """Interpreters that could run this project for any user."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    yield os.path.realpath(sys.executable)
    yield f"/usr/local/bin/{version}"
    yield f"/usr/bin/{version}"


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user runs all tests as one")
def test_everything_runs_as_an_ordinary_user() -> None:
    # pytest's folders are closed to others: a place of its own, for that user only.
    home = Path("/dev/shm") / f"ipcz-nobody-{os.getpid()}"
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY, NOBODY)
    environment = {
        "HOME": str(home),
        "TMPDIR": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}",
        **{name: value for name, value in os.environ.items() if "TEST_RUN" in name},
    }

    def as_nobody(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd="/",
            env=environment,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=40,
        )

    def usable(python: str) -> bool:
        try:
            return as_nobody(python, "-c", "import zmq, msgspec, ipclusterz").returncode == 0
        except OSError:
            return False

    try:
        python = next((each for each in interpreters() if usable(each)), None)
        if python is None:
            pytest.skip("no interpreter here can be run by another user")
        started = as_nobody(python, "-m", "ipclusterz", "start", "-n", "2", "--daemon")
        assert (started.returncode, started.stderr) == (0, ""), "not even the line about root"
        code = "import os, ipclusterz as ipp; print(ipp.Client()[:].apply_sync(os.geteuid))"
        used = as_nobody(python, "-c", code)
        stopped = as_nobody(python, "-m", "ipclusterz", "stop")
        assert used.stdout == f"[{NOBODY}, {NOBODY}]\n", used.stderr
        assert stopped.returncode == 0, stopped.stderr
    finally:
        shutil.rmtree(home)
