"""What the document on starting controller and engines promises, done as it is written there.

Only what no other test does in this very form; docs/promises.md names the test of each promise.
A second host is a second ``$IPYTHONDIR`` here: nothing is found there that was not copied.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import ipclusterz as ipp
from ipclusterz.core.config import CHANNEL_NAMES
from tests.running import MODULES, ROOT, Running, eventually, run

Start = Callable[[str], Running]
CLIENT, ENGINE = "ipcontroller-client.json", "ipcontroller-engine.json"
RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
CLOUD = """
import msgspec
from ipclusterz.launchers.local import LocalLauncher

class CloudLauncher:
    def start(self, spec):
        env = {**spec.env, "STARTED_BY": f"cloud, {spec.n} engines"}
        return LocalLauncher().start(msgspec.structs.replace(spec, env=env))
"""


@pytest.fixture
def security(ipython_dir: Path) -> Path:
    return ipython_dir / "cluster_default" / "security"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """The security folder of another host's user, empty."""
    made = tmp_path / "elsewhere" / "cluster_default" / "security"
    made.mkdir(parents=True, mode=0o700)
    yield made


@pytest.fixture
def in_shell(tmp_path: Path) -> Callable[[str], str]:
    """Run a line as a user types it, the three commands being on the PATH."""
    for command, module in MODULES.items():
        file = tmp_path / "bin" / command
        file.parent.mkdir(exist_ok=True)
        file.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        file.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"

    def execute(line: str) -> str:
        log = tmp_path / "said"
        with log.open("a") as said:
            subprocess.run(
                ["/bin/sh", "-c", line],
                env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                timeout=30,
                check=True,
            )
        return log.read_text()

    return execute


def copied(file: Path, folder: Path) -> Path:
    shutil.copy(file, folder)
    made = folder / file.name
    made.chmod(0o600)
    return made


def home_of(security: Path) -> Path:
    return security.parent.parent


def ports(file: Path) -> dict[str, int]:
    addresses = json.loads(file.read_text())["addresses"]
    return {name: int(listed[-1].rpartition(":")[2]) for name, listed in addresses.items()}


def addresses() -> list[str]:
    """The addresses of this host."""
    listed = [each for interface in psutil.net_if_addrs().values() for each in interface]
    return [each.address for each in listed if each.family == socket.AF_INET]


def remotes(pid: int) -> set[str]:
    """The addresses that a process has connections to."""
    held = psutil.Process(pid).net_connections(kind="inet")
    return {each.raddr.ip for each in held if each.status == psutil.CONN_ESTABLISHED}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_start_n_4_and_what_the_documents_do_with_it() -> None:
    started = run("ipclusterz start -n 4 --daemon")
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        with ipp.Client() as rc:
            assert rc.ids == [0, 1, 2, 3]
            rc.push({"a": 10, "b": 5}, block=True)
            rc.execute("c = a + b", targets=[0, 2], block=True)
            rc[1::2].execute("c = a - b", block=True)
            assert rc[:]["c"] == [15, 5, 15, 5]
            rc[::2].execute("c = a * b", block=True)
            assert rc.pull("c", targets="all", block=True) == [50, 5, 50, 5]
    finally:
        stopped = run("ipclusterz stop")
    assert stopped.returncode == 0, stopped.stderr


def test_controller_and_engines_in_the_background_of_a_shell(
    in_shell: Callable[[str], str],
) -> None:
    """The form with parentheses, which leaves both to themselves."""
    in_shell("(ipcontrollerz &)")
    try:
        in_shell("(ipenginez &)")
        in_shell("(ipenginez &)")
        eventually(lambda: in_shell("").count("is ready") == 2)
        with ipp.Client() as rc:
            rc.wait_for_engines(2, timeout=20)
            assert rc[:].apply_sync(pow, 2, 5) == [32, 32]
    finally:
        assert run("ipclusterz stop").returncode == 0
    assert json.loads(run("ipclusterz list -o json").stdout) == []


def test_ipclusterz_heeds_the_settings_of_both_other_commands(ipython_dir: Path) -> None:
    profile = ipython_dir / "cluster_default"
    profile.mkdir(mode=0o700)
    port = free_port()
    (profile / "ipcontrollerz_config.py").write_text(f"c.ControllerApp.regport = {port}\n")
    (profile / "ipenginez_config.py").write_text("c.EngineApp.command = 'told = 7'\n")
    started = run("ipclusterz start -n 2 --daemon")
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        assert f"controller up: tcp://127.0.0.1:{port}" in started.stdout
        with ipp.Client() as rc:
            assert rc[:]["told"] == [7, 7]
    finally:
        run("ipclusterz stop")


@pytest.mark.skipif(shutil.which("mpiexec") is None, reason="there is no mpiexec here")
def test_engines_can_be_started_with_mpiexec(
    start: Start, in_shell: Callable[[str], str]
) -> None:
    """Without --mpi they have nothing to do with it, but their rank in what it set."""
    start("ipcontrollerz").until("^stop:")
    mine = re.search("OpenRTE|Open MPI", in_shell("mpiexec --version")) and os.geteuid() == 0
    root = "--allow-run-as-root --oversubscribe" if mine else ""
    in_shell(f"mpiexec {root} -n 2 ipenginez &")
    with ipp.Client() as rc:
        rc.wait_for_engines(2, timeout=30)
        told = [set(rc[:].apply_sync(os.getenv, name)) for name in RANKS]
        assert {"0", "1"} in told
    assert run("ipclusterz stop").returncode == 0


def test_a_launcher_of_ones_own_starts_engines(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found by its entry point, which is what installing its package leaves."""
    (tmp_path / "cloud.py").write_text(CLOUD)
    info = tmp_path / "cloud-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cloud\nVersion: 1.0\n")
    point = "[ipclusterz.launchers]\ncloud = cloud:CloudLauncher\n"
    (info / "entry_points.txt").write_text(point)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    running = start("ipclusterz start -n 2 --engines=cloud")
    running.until("^stop:")
    with ipp.Client() as rc:
        told = rc[:].apply_sync(os.getenv, "STARTED_BY")
    assert told == ["cloud, 2 engines"] * 2
    assert running.end() == 0


def test_a_copied_engine_file_is_found_by_folder_and_by_path(
    start: Start, security: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start("ipcontrollerz").until("^stop:")
    copy = copied(security / ENGINE, elsewhere)
    named = start(f"ipenginez --file={copy}")
    named.until("engine 0 is ready")
    with monkeypatch.context() as there:
        there.setenv("IPYTHONDIR", str(home_of(elsewhere)))
        found = start("ipenginez")
        found.until("engine 1 is ready")
    with ipp.Client() as rc:
        rc.wait_for_engines(2, timeout=20)
        assert rc[:].apply_sync(os.getppid) == [named.process.pid, found.process.pid]


def test_a_copied_client_file_is_found_by_folder_and_by_path(
    start: Start, security: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start("ipclusterz start -n 1").until("^stop:")
    copy = copied(security / CLIENT, elsewhere)
    with ipp.Client(str(copy)) as rc:
        assert rc[:].apply_sync(abs, -3) == [3]
    monkeypatch.setenv("IPYTHONDIR", str(home_of(elsewhere)))
    with ipp.Client() as rc:
        assert rc[:].apply_sync(abs, -4) == [4]


def test_other_hosts_come_to_the_address_that_was_given(
    start: Start, security: Path, elsewhere: Path
) -> None:
    """A host that is not the controller's has copies of its files, and none of its sockets."""
    own = next((found for found in addresses() if not found.startswith("127.")), "")
    if not own:
        pytest.skip("this host has no address but loopback")
    start(f"ipcontrollerz --ip={own} --client-ip={own}").until("^stop:")
    for name in (CLIENT, ENGINE):
        copy = copied(security / name, elsewhere)
        copy.write_text(json.dumps(json.loads(copy.read_text()) | {"hostid": "another-boot"}))
    engine = start(f"ipenginez --file={elsewhere / ENGINE}")
    engine.until("engine 0 is ready")
    with ipp.Client(str(elsewhere / CLIENT)) as rc:
        rc.wait_for_engines(1, timeout=20)
        assert rc[:].apply_sync(pow, 3, 4) == [81]
        for pid in (os.getpid(), engine.process.pid):
            assert remotes(pid) == {own}


def test_persistent_files_are_copied_once(
    start: Start, security: Path, elsewhere: Path
) -> None:
    """``ipcontrollerz -r --regport``, also where an older start left its files."""
    security.mkdir(parents=True, mode=0o700)
    for name in (CLIENT, ENGINE):
        (security / name).write_text("{}")
        (security / name).chmod(0o600)
    port = free_port()
    copies: dict[str, Path] = {}
    for _ in range(3):
        controller = start(f"ipcontrollerz -r --regport {port}")
        controller.until("^stop:")
        copies = copies or {
            name: copied(security / name, elsewhere) for name in (CLIENT, ENGINE)
        }
        engine = start(f"ipenginez --file={copies[ENGINE]}")
        engine.until("engine 0 is ready")
        with ipp.Client(str(copies[CLIENT])) as rc:
            rc.wait_for_engines(1, timeout=20)
            assert rc[:].apply_sync(abs, -5) == [5]
        assert ports(copies[CLIENT]) == ports(security / CLIENT)
        assert ports(copies[CLIENT])["registration"] == port
        assert controller.end() == 0
        assert engine.wait() == 0


def test_ports_are_chosen_at_random_for_each_controller(start: Start, security: Path) -> None:
    for name in "ab":
        start(f"ipcontrollerz --cluster-id={name}").until("^stop:")
    one, two = (ports(security / f"ipcontroller-{name}-client.json") for name in "ab")
    assert one.keys() == two.keys() == set(CHANNEL_NAMES)
    both = {*one.values(), *two.values()}
    assert len(both) == 2 * len(CHANNEL_NAMES) and min(both) > 1023


def test_every_component_has_a_log_file(start: Start, ipython_dir: Path) -> None:
    start("ipcontrollerz --profile=work").until("^stop:")
    start("ipenginez --profile=work").until("is ready")
    with ipp.Client(profile="work") as rc:
        rc.wait_for_engines(1, timeout=20)
        rc[:].execute("print('hello')", block=True)
    names = {path.name for path in (ipython_dir / "cluster_work" / "log").iterdir()}
    parts = ("hub", "direct", "task", "control", "iopub")
    assert {"ipcontroller.log", *(f"ipcontroller-{part}.log" for part in parts)} <= names
    assert [name for name in names if name.startswith("ipenginez-agent-")]


def test_a_program_of_one_line_leaves_nothing(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client is dropped with the line, and nobody closed it."""
    start("ipclusterz start -n 1").until("^stop:")
    monkeypatch.setenv("IPCLUSTERZ_BODIES", str(tmp_path))
    line = "import ipclusterz as ipp; print(ipp.Client()[:].apply_sync(abs, -6))"
    done = subprocess.run(
        [sys.executable, "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "[6]\n", done.stderr
    assert list(tmp_path.iterdir()) == []
