"""Starting and stopping, with processes that fail in every way one can think of."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ipclusterz.cluster import AlreadyRunning, Cluster, SettingError, spec
from ipclusterz.cluster import state as states
from ipclusterz.cluster.api import _StopOnError
from ipclusterz.error import ClusterError, LaunchError
from ipclusterz.error import TimeoutError as OurTimeoutError

FAKE = str(Path(__file__).with_name("fake_launched.py"))


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "_LAUNCHED", FAKE)


def assert_nothing_is_left(cluster: Cluster) -> None:
    for folder in (cluster.profile.security, cluster.profile.pid):
        assert os.listdir(folder) == []
    assert not cluster.running and cluster.engine_sets == {}


def test_a_cluster_comes_and_goes() -> None:
    events: list[dict[str, Any]] = []
    cluster = Cluster(2, notice=events.append)
    assert cluster.start_cluster_sync() is cluster
    try:
        assert cluster.running and "running, 2 engines" in repr(cluster)
        (made,) = cluster.engine_sets.values()
        assert sorted(made.ready) == [0, 1] and made.complete
        state = states.read(cluster.cluster_file)
        assert state is not None and state.alive()
        assert cluster.to_dict()["cluster_id"] == cluster.cluster_id
        again = Cluster.from_file(cluster.cluster_file)
        assert again.running and again.cluster_id == cluster.cluster_id
        with pytest.raises(AlreadyRunning):
            Cluster(2, cluster_id=cluster.cluster_id).start_cluster_sync()
        with pytest.raises(AlreadyRunning):
            cluster.start_controller_sync()
        assert cluster.running
    finally:
        cluster.stop_cluster_sync()
    assert_nothing_is_left(cluster)
    told = [e["event"] for e in events]  # "engines" may come a moment later
    assert told[:3] == ["ready", "engine", "engine"]
    assert events[2]["ready"] == events[2]["of"] == 2
    cluster.stop_cluster_sync()  # nothing happens


def test_sets_of_engines_come_and_go() -> None:
    cluster = Cluster(1)
    cluster.start_controller_sync()
    try:
        first, second = cluster.start_engines_sync(), cluster.start_engines_sync(3)
        assert [len(cluster.engine_sets[name].ready) for name in (first, second)] == [1, 3]
        other = Cluster.from_file(cluster.cluster_file, n=2)
        third = other.start_engines_sync()
        state = states.read(cluster.cluster_file)
        assert state is not None and set(state.engine_sets) == {first, second, third}
        other.stop_engines_sync()
        pid = cluster.engine_sets[second].job.pid
        cluster.restart_engines_sync(second)
        assert cluster.engine_sets[second].job.pid != pid
        cluster.stop_engines_sync(first)
        state = states.read(cluster.cluster_file)
        assert state is not None and set(state.engine_sets) == {second}
    finally:
        cluster.stop_cluster_sync()
    assert_nothing_is_left(cluster)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("port", "cannot listen on 127.0.0.1:80"),
        ("crash", "a traceback"),
        ("engine", "engine 1 cannot start: No module named 'missing'"),
    ],
)
def test_what_cannot_start_says_why(
    fault: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE", fault)
    cluster = Cluster(2)
    began = time.monotonic()
    with pytest.raises(LaunchError, match=words):
        cluster.start_cluster_sync()
    assert time.monotonic() - began < 10
    assert_nothing_is_left(cluster)


@pytest.mark.parametrize(
    ("fault", "words"),
    [("mute", "the controller to listen"), ("slow", "engines, 1/2 are ready")],
)
def test_no_wait_is_endless(fault: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", fault)
    cluster = Cluster(2, engine_timeout=1.0)
    with pytest.raises(OurTimeoutError, match=words):
        cluster.start_controller_sync()
        cluster.start_engines_sync()
    cluster.stop_cluster_sync()
    assert_nothing_is_left(cluster)


def test_stubborn_processes_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", "stubborn")
    cluster = Cluster(1)
    cluster.start_cluster_sync()
    cluster.stop_cluster_sync(grace=0.1)
    assert_nothing_is_left(cluster)


def test_what_is_left_of_a_killed_controller_is_removed() -> None:
    ends: list[dict[str, Any]] = []
    cluster = Cluster(1, notice=ends.append)
    cluster.start_cluster_sync()
    state = states.read(cluster.cluster_file)
    assert state is not None and state.controller is not None
    os.kill(state.controller.pid, 9)
    deadline = time.monotonic() + 10
    while not cluster.problem:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "was killed by SIGKILL" in cluster.problem
    cluster.stop_cluster_sync()
    assert_nothing_is_left(cluster)


def test_who_adds_engines_does_not_bring_a_stopped_cluster_back() -> None:
    cluster = Cluster(1)
    cluster.start_controller_sync()
    other = Cluster.from_file(cluster.cluster_file, n=1)
    added = other.start_engines_sync()
    cluster.stop_cluster_sync()
    other.stop_engines_sync(added)
    assert_nothing_is_left(cluster)
    cluster.start_cluster_sync()
    try:
        late = Cluster.from_file(cluster.cluster_file, n=1)
        name = late.start_engines_sync()
        cluster.stop_cluster_sync()
        cluster.start_cluster_sync()
        before = states.read(cluster.cluster_file)
        late.stop_engines_sync(name)
        assert before is not None and states.read(cluster.cluster_file) == before
    finally:
        cluster.stop_cluster_sync()
    assert_nothing_is_left(cluster)


def test_engines_that_others_added_stay_in_the_state_file() -> None:
    """Whatever comes late from an agent of the first launcher: a job array's last part."""
    cluster = Cluster(1)
    cluster.start_cluster_sync()
    try:
        other = Cluster.from_file(cluster.cluster_file, n=1)
        added = other.start_engines_sync()
        cluster._deployed._note_folders({"event": "x", "bodies": "/dev/shm/ipclusterz-none"})
        state = states.read(cluster.cluster_file)
        assert state is not None and added in state.engine_sets
        assert "/dev/shm/ipclusterz-none" in state.bodies
        other.stop_engines_sync(added)
    finally:
        cluster.stop_cluster_sync()
    assert_nothing_is_left(cluster)


def test_an_unknown_argument_names_the_nearest() -> None:
    for name, nearest in (("enignes", "engines"), ("cluster_idd", "cluster_id")):
        said = rf"^Cluster\(\) has no argument '{name}'; the nearest is {nearest}$"
        with pytest.raises(TypeError, match=said):
            Cluster(**{name: 1})


def test_misuse() -> None:
    with pytest.raises(SettingError, match="at least one engine"):
        Cluster(-1)
    with pytest.raises(ClusterError, match="cluster id"):
        Cluster(1, cluster_id="../x").start_cluster_sync()
    with pytest.raises(ClusterError, match="'ipclusterz start' starts one"):
        Cluster.from_file(profile="nowhere")


def test_config_files_speak_to_python_too(ipython_dir: Path) -> None:
    folder = ipython_dir / "cluster_x"
    folder.mkdir(0o700)
    (folder / "ipclusterz_config.py").write_text("c = get_config()\nc.StartApp.n = 3\n")
    (folder / "ipenginez_config.py").write_text("c.EngineApp.preload = 'math, json'\n")
    cluster = Cluster(profile="x")
    assert cluster.n == 3
    assert cluster._deployed.plan.agent.preload == ["math", "json"]
    (folder / "ipcontrollerz_config.py").write_text("c.ControllerApp.regprot = 3\n")
    with pytest.raises(SettingError, match=r"no setting c\.ControllerApp\.regprot"):
        Cluster(profile="x")
    (folder / "ipcontrollerz_config.py").write_text("c.ControllerApp.regport = '3'\n")
    with pytest.raises(SettingError, match="must be of type int"):
        Cluster(profile="x")
    (folder / "ipcontrollerz_config.py").write_text("1/0\n")
    with pytest.raises(SettingError, match="ZeroDivisionError"):
        Cluster(profile="x")


def test_the_end_of_an_old_object_leaves_a_later_cluster_alone() -> None:
    old, later = Cluster(1, cluster_id=""), Cluster(1, cluster_id="")
    old.start_cluster_sync()
    try:
        state = states.read(old.cluster_file)
        assert state is not None
        states.end(state)  # as 'ipclusterz stop' does
        old.stop_engines_sync()
        assert not os.path.exists(old.cluster_file)
        later.start_cluster_sync()
        before = states.read(later.cluster_file)
        old.stop_cluster_sync()
        assert before is not None and states.read(later.cluster_file) == before
        assert before.alive()
    finally:
        old.stop_cluster_sync()
        later.stop_cluster_sync()
    assert_nothing_is_left(later)


def test_whoever_ends_a_cluster_knows_what_was_added(tmp_path: Path) -> None:
    marker = tmp_path / "cancelled"
    cancel = [sys.executable, "-c", f"open({str(marker)!r}, 'w')"]
    cluster = Cluster(1)
    cluster.start_cluster_sync()
    try:
        other = Cluster.from_file(cluster.cluster_file)
        state = states.read(cluster.cluster_file)
        assert state is not None
        state.jobs = {"e9": states.BatchJobs("Slurm", ["7"], cancel, "")}
        states.write(state)
        other.stop_cluster_sync()
        assert marker.exists()
    finally:
        cluster.stop_cluster_sync()
    assert_nothing_is_left(cluster)


def test_programs_that_add_engines_choose_different_names() -> None:
    cluster = Cluster(1)
    cluster.start_cluster_sync()
    others = [Cluster.from_file(cluster.cluster_file, n=1) for _ in range(2)]
    try:
        names = {other.start_engines_sync() for other in others}
        state = states.read(cluster.cluster_file)
        assert len(names) == 2 and state is not None and names < set(state.engine_sets)
    finally:
        for other in others:
            other.stop_engines_sync()
        cluster.stop_cluster_sync()
    assert_nothing_is_left(cluster)


def test_a_name_is_free_again_when_a_launch_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(1)
    cluster.start_controller_sync()
    try:
        monkeypatch.setattr(spec.sys, "executable", "/nonexistent")
        with pytest.raises(LaunchError):
            cluster.start_engines_sync()
        state = states.read(cluster.cluster_file)
        assert state is not None and state.engine_sets == {}
    finally:
        cluster.stop_cluster_sync()
    assert_nothing_is_left(cluster)


def test_a_mistake_in_notice_is_shown_and_no_more(capfd: pytest.CaptureFixture[str]) -> None:
    def notice(event: dict[str, Any]) -> None:
        raise RuntimeError("a mistake of the user's")

    cluster = Cluster(2, notice=notice)
    cluster.start_cluster_sync()
    try:
        assert cluster.running and len(cluster.engine_sets["e1"].ready) == 2
    finally:
        cluster.stop_cluster_sync()
    assert "RuntimeError: a mistake of the user's" in capfd.readouterr().err
    assert_nothing_is_left(cluster)


def test_the_engines_key_is_not_told() -> None:
    events: list[dict[str, Any]] = []
    cluster = Cluster(1, notice=events.append)
    cluster.start_cluster_sync()
    try:
        deployed = cluster._deployed
        assert deployed.controller is not None and deployed.ready is not None
        assert deployed.ready["engine_connector"]
        deployed._on_event(
            deployed.controller, {"event": "renewed", "engine_connector": "another"}
        )
        assert deployed.ready["engine_connector"] == "another"
    finally:
        cluster.stop_cluster_sync()
    assert {"ready", "renewed"} <= {event["event"] for event in events}
    assert not any("engine_connector" in event for event in events)


def test_a_stop_ends_a_start_in_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", "mute")
    waits, problems = threading.Event(), list[BaseException]()
    cluster = Cluster(1, engine_timeout=600)
    wait = cluster._deployed._wait

    def noted(*arguments: Any, **more: Any) -> None:
        waits.set()
        wait(*arguments, **more)

    def start() -> None:
        try:
            cluster.start_controller_sync()
        except BaseException as error:
            problems.append(error)

    monkeypatch.setattr(cluster._deployed, "_wait", noted)
    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    assert waits.wait(30)
    cluster.stop_cluster_sync()
    thread.join(30)
    assert [str(problem) for problem in problems] == ["the cluster was stopped meanwhile"]
    assert isinstance(problems[0], LaunchError)
    assert_nothing_is_left(cluster)


def test_a_start_that_was_stopped_leaves_the_next_alone() -> None:
    cluster = Cluster(1)
    try:
        with pytest.raises(LaunchError, match="stopped meanwhile"), _StopOnError(cluster) as of:
            cluster.start_cluster_sync()
            cluster.stop_cluster_sync()
            cluster.start_cluster_sync()
            with pytest.raises(LaunchError, match="stopped meanwhile"):
                cluster._deployed.launch_engines(1, of=of)
            cluster._deployed.await_controller(of)
        assert cluster.running and len(cluster.engine_sets) == 1
    finally:
        cluster.stop_cluster_sync()
    assert_nothing_is_left(cluster)
