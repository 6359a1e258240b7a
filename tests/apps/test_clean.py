"""``ipclusterz clean``: what the dead left goes, what the living have stays."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import ipclusterz as ipp
from ipclusterz.cluster import leftovers
from ipclusterz.cluster import state as states
from ipclusterz.engine import bodies
from ipclusterz.net.host import loopback_id
from ipclusterz.paths import ProfileDir, runtime_dir
from tests.running import alive, children, eventually, kill, run

# Engines that start, and each `clean`, remove what the dead left in shared memory.
pytestmark = pytest.mark.alone

LONG_AGO = time.time() - 3600


def clean(more: str = "") -> list[str]:
    done = run(f"ipclusterz clean {more}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def profile(ipython_dir: Path) -> ProfileDir:
    return ProfileDir(str(ipython_dir / "cluster_default")).create()


@pytest.fixture
def gone() -> states.Process:
    """A process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = states.Process.of(process.pid)
    process.communicate(timeout=20)
    return found


def dead_state(profile: ProfileDir, gone: states.Process, name: str = "") -> states.State:
    state = states.new(profile, name, own=True)
    state.launcher = state.controller = gone
    state.started = LONG_AGO
    return state


def connector(path: str, pid: int, **more: Any) -> None:
    document = {
        "exec_key": "x" * 40,
        "url": "tcp://127.0.0.1:1",
        "location": socket.gethostname(),
        "hostid": loopback_id(),
        "reuse": False,
        "pid": pid,
        "started": LONG_AGO,
    }
    Path(path).write_text(json.dumps(document | more))
    Path(path).chmod(0o600)


def sleepers(pid: int) -> list[int]:
    """The processes below ``pid`` that run ``sleep``."""
    found = []
    for child in children(pid):
        with suppress(OSError):
            if Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"sleep\0"):
                found.append(child)
    return found


@pytest.fixture
def killed(ipython_dir: Path) -> Iterator[dict[str, Any]]:
    """A cluster all of whose processes but one of its engines' daemons were killed."""
    assert run("ipclusterz start -n 1 --daemon").returncode == 0
    (file,) = ipython_dir.glob("cluster_default/pid/*.json")
    state = json.loads(file.read_text())
    pid = ipython_dir / "daemon.pid"
    with ipp.Client() as rc:
        # Not in the engine's session, and its parent ends at once: adopted by init.
        command = f"setsid sleep 300 & echo $! > {pid}"
        code = f"import subprocess; subprocess.run({command!r}, shell=True)"
        rc[0].execute(code, block=True)
    # Its number is known before it has become what it will be.
    eventually(lambda: pid.exists() and pid.read_text().strip())
    eventually(lambda: sleepers(state["launcher"]["pid"]))
    (daemon,) = sleepers(state["launcher"]["pid"])
    everything = [state["launcher"]["pid"], *children(state["launcher"]["pid"])]
    for each in everything:
        if each != daemon:
            try:
                os.kill(each, signal.SIGSTOP)  # nobody tidies up after anybody
            except ProcessLookupError:
                pass
    for each in everything:
        if each != daemon:
            kill(each)
    for each in everything:
        eventually(lambda each=each: each == daemon or not alive(each))  # type: ignore[misc]
    try:
        yield {**state, "file": file, "daemon": daemon}
    finally:
        kill(daemon)


def test_everything_of_a_killed_cluster_goes(killed: dict[str, Any]) -> None:
    files = [killed["file"], Path(killed["client_file"]), Path(killed["engine_file"])]
    folders = [Path(killed["runtime"]), *map(Path, killed["bodies"])]
    assert all(path.exists() for path in files + folders) and alive(killed["daemon"])
    listed = clean("--dry-run")
    assert all(path.exists() for path in files + folders) and alive(killed["daemon"])
    for path in files + folders:
        (line,) = [line for line in listed if f" {path}: " in line]
        assert line.startswith("would remove ")
    assert any(f"process {killed['daemon']}: " in line for line in listed)
    lines = clean()
    for path in files + folders:
        assert not path.exists()
        assert sum(line.startswith("removed") and f" {path}: " in line for line in lines) == 1
    assert any(f"removed process {killed['daemon']}: " in line for line in lines)
    assert not alive(killed["daemon"])
    assert clean("--cluster-id=any") == ["nothing to clean"]
    assert run("ipclusterz status").returncode == 12


def test_a_living_cluster_is_left_alone(ipython_dir: Path) -> None:
    with ipp.Cluster(n=2, cluster_id="alive") as rc:
        before = rc[:].apply_sync(os.getpid)
        state = rc.cluster.to_dict()
        things = [
            *(state["runtime"], *state["bodies"]),
            *(state["client_file"], state["engine_file"], rc.cluster.cluster_file),
        ]
        lines = [*clean("--dry-run --all"), *clean("--all"), *clean("--cluster-id=alive")]
        assert not [line for line in lines for thing in things if str(thing) in line]
        # Another one's folder of states: these processes and folders are strangers to it.
        other = ipython_dir / "other"
        other.mkdir()
        lines = clean(f"--ipython-dir={other}")
        assert not [line for line in lines for thing in things if str(thing) in line]
        assert all(os.path.exists(thing) for thing in things)
        assert rc[:].apply_sync(os.getpid) == before
        state = rc.cluster.to_dict()
        os.kill(state["controller"]["pid"], signal.SIGSTOP)
        try:
            clean("--all")
            assert all(os.path.exists(thing) for thing in things), "stopped is not dead"
        finally:
            os.kill(state["controller"]["pid"], signal.SIGCONT)
        assert rc[:].apply_sync(os.getpid) == before


def test_what_belongs_to_another_host_is_named_and_stays(
    profile: ProfileDir, gone: states.Process
) -> None:
    state = dead_state(profile, gone, "far")
    state.host, state.boot_id = "login2", "another-boot"
    states.write(state)
    connector(state.client_file, gone.pid, location="login2", hostid="another-boot")
    connector(profile.connector("client", "copied"), gone.pid, location="login3", hostid="x")
    lines = clean()
    (line,) = [line for line in lines if state.path in line]
    assert line.startswith("left alone state file ") and "login2" in line
    (line,) = [line for line in lines if "-copied-" in line]
    assert line.startswith("left alone connector file ") and "login3" in line
    assert os.path.exists(state.path) and os.path.exists(state.client_file)
    assert os.path.exists(profile.connector("client", "copied"))


def test_an_earlier_boot_of_this_host_left_nothing_alive(
    profile: ProfileDir, gone: states.Process
) -> None:
    state = dead_state(profile, states.Process.of(os.getpid()))
    state.boot_id = "an-earlier-boot"
    states.write(state)
    connector(state.client_file, os.getpid(), hostid="an-earlier-boot")
    assert len(clean("--cluster-id=x")) == 1
    lines = clean()
    assert not os.path.exists(state.path) and not os.path.exists(state.client_file)
    assert sum("removed" in line and str(profile.path) in line for line in lines) == 2


def test_connector_files(profile: ProfileDir, gone: states.Process) -> None:
    old = profile.connector("client", "old")
    connector(old, gone.pid)
    kept = profile.connector("engine", "kept")
    connector(kept, gone.pid, reuse=True)
    used_again = profile.connector("client", "again")
    connector(used_again, os.getpid())  # a process that is younger than the controller
    living = profile.connector("client", "living")
    connector(living, os.getpid(), started=time.time())
    damaged = Path(profile.connector("client", "damaged"))
    damaged.write_text("{")
    with socket.create_server(("127.0.0.1", 0)) as server:
        heard = profile.connector("client", "heard")
        connector(heard, gone.pid, url=f"tcp://127.0.0.1:{server.getsockname()[1]}")
        lines = clean()
    assert not os.path.exists(old) and not os.path.exists(used_again)
    assert all(os.path.exists(path) for path in (kept, living, heard, str(damaged)))
    told = [line for line in lines if line.startswith("left alone connector file")]
    assert any("listens" in line for line in told) and any("damaged" in line for line in told)
    assert len(told) == 2


def test_state_files(profile: ProfileDir, gone: states.Process) -> None:
    damaged = Path(profile.state_file("bad"))
    damaged.write_text("{")
    young = Path(profile.pid, "cluster-x.json.0123abcd.tmp")
    young.write_text("")
    old = Path(profile.pid, "cluster-y.json.0123abcd.tmp")
    old.write_text("")
    os.utime(old, (LONG_AGO, LONG_AGO))
    one, two = dead_state(profile, gone, "one"), dead_state(profile, gone, "two")
    states.write(one)
    states.write(two)
    clean("--cluster-id=one")
    assert not os.path.exists(one.path) and os.path.exists(two.path) and old.exists()
    lines = clean()
    assert damaged.exists() and young.exists()
    assert not old.exists() and not os.path.exists(two.path)
    assert any(str(damaged) in line and "left alone" in line for line in lines)


def test_all_means_all_profiles(ipython_dir: Path, gone: states.Process) -> None:
    found = []
    for name in ("default", "work"):
        profile = ProfileDir(str(ipython_dir / f"cluster_{name}")).create()
        found.append(dead_state(profile, gone))
        states.write(found[-1])
    clean()
    assert [os.path.exists(state.path) for state in found] == [False, True]
    clean("--all")
    assert not os.path.exists(found[1].path)
    done = run("ipclusterz clean --profile=moon")
    assert done.returncode == 12 and "there is no profile" in done.stderr


def test_folders_of_sockets(profile: ProfileDir) -> None:
    dead, young, living, strange = (Path(runtime_dir()) for _ in range(4))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(living / "hub"))
    listener.listen()
    for folder in (dead, young):
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(folder / "hub"))
            made.listen()
    (strange / "thesis.txt").write_text("mine")
    for folder in (dead, living, strange):
        os.utime(folder, (LONG_AGO, LONG_AGO))
    try:
        lines = clean()
        assert not dead.exists()
        assert young.exists() and living.exists() and (strange / "thesis.txt").exists()
        assert any(str(strange) in line and "left alone" in line for line in lines)
    finally:
        listener.close()
        for folder in (young, living, strange):
            bodies.remove_folder(str(folder))


def test_folders_of_bodies(profile: ProfileDir, monkeypatch: pytest.MonkeyPatch) -> None:
    living, _ = bodies.make_folder()
    dead, _ = bodies.make_folder()
    os.close(bodies._owned.pop(dead))  # as its owner's death does
    try:
        clean()
        assert os.path.isdir(living) and not os.path.exists(dead)
    finally:
        bodies.remove_folder(living)


def test_a_network_file_system_is_no_place_to_judge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "_is_network", lambda path: True)
    folder = tmp_path / "ipclusterz-0123"
    folder.mkdir()
    os.utime(folder, (LONG_AGO, LONG_AGO))
    found = leftovers.Found()
    leftovers._folder(str(folder), found, recorded=True)
    assert not found.left and "network" in found.spared[0].why


def test_processes(profile: ProfileDir, gone: states.Process) -> None:
    state = dead_state(profile, gone)
    states.write(state)
    dead_mark = {**os.environ, states.TOKEN: state.token}
    stranger = {**os.environ, states.TOKEN: "0123456789abcdef"}
    stubborn = (
        "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True);"
        " time.sleep(99)"
    )
    started = [
        subprocess.Popen(["sleep", "99"], env=dead_mark),
        subprocess.Popen(
            [sys.executable, "-c", stubborn], env=dead_mark, stdout=subprocess.PIPE
        ),
        subprocess.Popen(["sleep", "99"], env=stranger),  # its parent, we, lives
        subprocess.Popen(["sleep", "99"]),
    ]
    try:
        assert started[1].stdout is not None
        started[1].stdout.readline()
        lines = clean()
        assert started[0].wait(10) == -signal.SIGTERM
        assert started[1].wait(10) == -signal.SIGKILL
        assert started[2].poll() is None and started[3].poll() is None
        assert sum(line.startswith("removed process") for line in lines) >= 2
    finally:
        for process in started:
            process.kill()
            process.communicate(timeout=10)


def test_what_cannot_be_removed_is_said(
    profile: ProfileDir, gone: states.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ipclusterz.apps import clean as command
    from ipclusterz.apps.base import run as run_here

    states.write(dead_state(profile, gone))
    monkeypatch.setattr(leftovers, "remove", lambda leftover: "Read-only file system")
    monkeypatch.setattr(leftovers, "orphans", lambda *_: leftovers.Found())
    monkeypatch.setattr(leftovers, "in_shared_places", lambda *_: leftovers.Found())
    assert run_here(command.CleanApp, []) == 1
