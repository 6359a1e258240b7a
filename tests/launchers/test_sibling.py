"""Two processes of which one forks the other: to their launcher they are two jobs."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ipclusterz as ipp
from ipclusterz.core.config import AgentConfig
from ipclusterz.engine.offspring import AGENT_MARK
from ipclusterz.error import LaunchError
from ipclusterz.launchers.base import LaunchSpec
from ipclusterz.launchers.local import LocalJob
from ipclusterz.launchers.sibling import SiblingJob, start_both
from tests.faults.watch import agent_of, zygote_of
from tests.running import ROOT, alive, eventually, kill

PAIR = """
import json, os, signal, sys
ends = [int(word) for word in sys.argv[1:4]]
def say(**event):
    print(json.dumps(event), flush=True)
pid = os.fork()
if pid == 0:
    for fd, end in enumerate(ends):
        os.dup2(end, fd)
        os.close(end)
    os.setsid()
    os.chdir(sys.argv[4] if len(sys.argv) > 4 else ".")
    say(event="process", pid=os.getpid())
    say(event="younger", cwd=os.getcwd(), line=sys.stdin.readline())
    sys.stdin.read()
    print("its last words", file=sys.stderr, flush=True)
    say(event="exit", code=3)
    os._exit(3)
def ended(number, frame):
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        os.write(ends[1], json.dumps({"event": "exit", "code": code}).encode() + b"\\n")
    except BrokenPipeError:
        pass
    os.close(ends[1])
signal.signal(signal.SIGCHLD, ended)
os.close(ends[0])
os.close(ends[2])
say(event="elder", cwd=os.getcwd())
sys.stdin.read()
"""


def start(code: str = PAIR, folder: str = "") -> tuple[LocalJob, SiblingJob]:
    argv = (sys.executable, "-c", code)
    return start_both(
        LaunchSpec(argv=argv, name="the elder", cwd=folder),
        LaunchSpec(argv=(), name="the younger", stdin="a line\n"),
    )


def hear(job: LocalJob, kind: str) -> dict[str, object]:
    heard: list[dict[str, object]] = []

    def there() -> bool:
        heard.extend(job.events())
        return any(event["event"] == kind for event in heard)

    eventually(there, what=f"{kind} among {heard}")
    return next(event for event in heard if event["event"] == kind)


def test_each_has_its_own_ends_session_and_folder(tmp_path: Path) -> None:
    elder, younger = start(folder=str(tmp_path))
    assert hear(elder, "elder")["cwd"] == str(tmp_path)
    told = hear(younger, "younger")
    assert told == {"event": "younger", "cwd": os.getcwd(), "line": "a line\n"}
    assert os.getsid(younger.pid) == younger.pid != os.getsid(elder.pid)
    state = younger.stop()
    assert state.code == 3 and "its last words" in state.text
    assert not elder.poll().ended
    assert elder.stop().code == 0


def test_the_younger_outlives_the_elder_and_tells_its_end_itself() -> None:
    elder, younger = start()
    hear(younger, "younger")
    elder.signal(signal.SIGKILL)
    assert elder.wait(10)
    assert not younger.wait(0.05) and alive(younger.pid)
    assert younger.stop().code == 3
    assert "SIGKILL" in elder.stop().text


def test_the_elder_tells_of_a_kill() -> None:
    elder, younger = start()
    hear(younger, "younger")
    younger.signal(signal.SIGKILL)
    assert younger.wait(10)
    state = younger.poll()
    assert state.code == -9 and "was killed by SIGKILL" in state.text
    younger.signal(signal.SIGTERM)  # to nobody
    assert younger.stop().code == -9
    elder.stop()


def test_a_kill_that_nobody_saw_is_told_as_that() -> None:
    elder, younger = start()
    hear(younger, "younger")
    for job in (elder, younger):
        job.signal(signal.SIGKILL)
        assert job.wait(10)
    state = younger.stop()
    assert state.ended and state.code != 0
    assert "ended without a word, as when killed" in state.text
    elder.stop()


@pytest.mark.parametrize("stop", [SiblingJob.stop, lambda job: job.wait(10)])
def test_one_that_is_never_forked_says_what_the_elder_said(
    stop: Callable[[SiblingJob], object],
) -> None:
    elder, younger = start("raise SystemExit('no more processes')")
    stop(younger)
    state = younger.poll()
    assert state.code and "the younger (process 0) was not started" in state.text
    assert "no more processes" in state.text
    younger.stop()
    elder.stop()


def test_one_whose_elder_hangs_can_be_stopped() -> None:
    elder, younger = start("import sys; sys.stdin.read()")
    began = time.monotonic()
    assert younger.stop(0.1).ended
    assert time.monotonic() - began < 20 and elder.wait(10)
    elder.stop()


def test_what_cannot_be_run_leaves_nothing_open() -> None:
    before = os.listdir("/proc/self/fd")
    argv = ("/nowhere/python",)
    with pytest.raises(LaunchError, match="cannot start the elder"):
        start_both(LaunchSpec(argv=argv, name="the elder"), LaunchSpec(argv=argv, name="b"))
    assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def many_files() -> Iterator[None]:
    """More descriptors are open in this process than select() can tell apart."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip(f"only {hard} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    yield
    for fd in held:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_folder_to_work_in_may_be_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with ipp.Cluster(n=1, work_dir="in/here") as rc:
        assert rc[0].apply_sync(os.getcwd) == str(tmp_path / "in" / "here")
        assert rc.cluster is not None
        rc.cluster.start_engines_sync(1)
        rc.wait_for_engines(2, timeout=20)
        assert rc[1].apply_sync(os.getcwd) == str(tmp_path / "in" / "here")


def test_a_program_may_have_many_files_open(many_files: None) -> None:
    elder, younger = start()
    hear(younger, "younger")
    assert younger._pidfd > 1023
    assert not younger.poll().ended
    assert younger.stop().code == 3
    assert elder.stop().code == 0


# -- a cluster -----------------------------------------------------------------------------


def test_a_cluster_is_one_program_and_its_parts_live_by_themselves(tmp_path: Path) -> None:
    with ipp.Cluster(n=2, work_dir=str(tmp_path)) as rc:
        cluster = rc.cluster
        assert cluster is not None
        agent = rc[0].apply_sync(os.getppid)
        controller = int(cluster.controller.pid)
        (made,) = cluster.engine_sets.values()
        assert made.job.pid == agent != controller
        assert os.getsid(controller) == controller != os.getsid(agent)
        assert Path(f"/proc/{controller}/cwd").readlink() == Path.cwd()
        assert rc[:].apply_sync(os.getcwd) == [str(tmp_path)] * 2
        # Engines come of a zygote that was forked before ZeroMQ was loaded.
        mapped = [Path(f"/proc/{pid}/maps").read_text() for pid in rc[:].apply_sync(os.getpid)]
        assert not [text for text in mapped if "_zmq" in text or "cryptography" in text]
        cluster.stop_engines_sync()
        assert not alive(agent) and alive(controller)
        cluster.start_engines_sync(1)
        rc.wait_for_engines(1, timeout=20)
        assert rc[:].apply_sync(abs, -1) == [1]


def surroundings() -> dict[str, object]:
    with open("/proc/self/environ", "rb") as file:
        entries = file.read().split(b"\0")
    return {
        "marks": [e for e in entries if e.startswith(b"IPCLUSTERZ_AGENT=")],
        "room": [e for e in entries if e.startswith(b"IPCLUSTERZ_EMPTY")],
        "variable": os.environ.get("IPCLUSTERZ_EMPTY"),
        "path": sys.path[:1] + sys.path[-1:],
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "open": sorted(int(name) for name in os.listdir("/proc/self/fd")),
        "variables": sorted(set(os.environ) - {"IPCLUSTERZ_ENGINE_ID"}),
        "modules": sorted(name for name in sys.modules if name.startswith("ipclusterz.net")),
    }


def test_engines_cannot_tell_a_zygote_that_was_forked_from_one_that_was_executed() -> None:
    with ipp.Cluster(n=1, agent=AgentConfig(restart_engines=1)) as rc:
        forked = rc[0].apply_sync(surroundings)
        kill(zygote_of(agent_of(rc)))
        kill(rc[0].apply_sync(os.getpid))
        assert rc.session.wait(lambda: rc.ids == [1], 30)
        executed = rc[1].apply_sync(surroundings)
    (mark,) = forked["marks"]
    assert len(mark) == len(AGENT_MARK) + 17 and mark[-16:] != b"0" * 16
    assert forked["path"] == ["", str(ROOT)] and forked["modules"] == []
    assert forked["room"] == [] and forked["variable"] is None
    assert forked == executed


def daemon() -> int:
    """Start a process that is forked only, twice, in a session of its own; return its id."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write, str(os.getpid()).encode())
            time.sleep(600)
        os._exit(0)
    os.wait()
    return int(os.read(read, 20))


def test_a_daemon_that_was_forked_in_an_engine_ends_with_the_cluster() -> None:
    with ipp.Cluster(n=1) as rc:
        pid = rc[0].apply_sync(daemon)
        assert alive(pid)
    eventually(lambda: not alive(pid), what="the end of the daemon")


def test_a_controller_that_was_killed_is_told_by_the_agent() -> None:
    cluster = ipp.Cluster(n=1).start_cluster_sync()
    try:
        os.kill(cluster.controller.pid, signal.SIGKILL)
        eventually(lambda: cluster.problem)
        assert "was killed by SIGKILL" in cluster.problem
    finally:
        cluster.stop_cluster_sync()
