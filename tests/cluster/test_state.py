"""State files and what follows from them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipclusterz.cluster import Cluster, leftovers
from ipclusterz.cluster import state as states
from ipclusterz.cluster.deployment import AlreadyRunning, check_free
from ipclusterz.error import ClusterError
from ipclusterz.paths import ProfileDir

SLEEP = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


@pytest.fixture
def profile(tmp_path: Path) -> ProfileDir:
    return ProfileDir(str(tmp_path / "cluster_x")).create()


def child(code: str, token: str) -> subprocess.Popen[str]:
    env = {**os.environ, states.TOKEN: token}
    made = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env
    )
    assert made.stdout is not None and made.stdout.readline() == "up\n"
    return made


def test_what_is_written_is_read(profile: ProfileDir) -> None:
    state = states.new(profile, "a", own=True)
    state.controller = states.Process.of(os.getpid())
    states.write(state)
    assert states.read(state.path) == state
    assert states.find(profile) == [state]
    assert state.alive() and state.here() and not state.elsewhere()
    Path(profile.pid, "cluster-b.json").write_text("{")
    assert states.find(profile) == [state]
    with pytest.raises(AlreadyRunning, match="--cluster-id=a"):
        check_free(profile, "a")


def test_nobody_judges_another_hosts_processes(profile: ProfileDir) -> None:
    state = states.new(profile, "", own=False)
    state.controller = states.Process.of(os.getpid())
    state.host, state.boot_id = "elsewhere", "another boot"
    states.write(state)
    assert state.elsewhere() and not state.alive()
    with pytest.raises(AlreadyRunning, match="host elsewhere"):
        check_free(profile, "")


def test_a_container_of_this_machine_is_another_host(profile: ProfileDir) -> None:
    """It has the same boot id, and perhaps the same name; its process ids are its own."""
    state = states.new(profile, "", own=True)
    assert state.here() and not state.elsewhere()
    state.launcher = state.controller = states.Process(2**22 + 1, 1)
    state.space = "pid:[1]"
    states.write(state)
    assert state.elsewhere() and not state.alive()
    with pytest.raises(AlreadyRunning, match=f"host {state.host}"):
        check_free(profile, "")
    assert leftovers.verdict(state)
    with pytest.raises(ClusterError, match=f"host {state.host}: run 'ipclusterz stop' there"):
        states.end(state)
    with pytest.raises(ClusterError, match="run 'ipclusterz stop' there"):
        Cluster.from_file(state.path).stop_cluster_sync()
    assert states.read(state.path) == state


def test_what_an_earlier_boot_left_is_removed(profile: ProfileDir) -> None:
    state = states.new(profile, "", own=False)
    state.controller = states.Process.of(os.getpid())
    state.boot_id = "an earlier boot"
    states.write(state)
    check_free(profile, "")
    assert not os.path.exists(state.path)


def test_a_number_used_again_is_another_process() -> None:
    process = states.Process.of(os.getpid())
    assert process.alive()
    process.start -= 1
    assert not process.alive()


def test_the_end_of_a_cluster_without_launcher(profile: ProfileDir, tmp_path: Path) -> None:
    state = states.new(profile, "", own=False)
    state.launcher = None
    polite, stubborn = child(SLEEP, state.token), child(STUBBORN, state.token)
    unlisted = child(STUBBORN, state.token)
    state.controller = states.Process.of(polite.pid)
    state.engine_sets["e1"] = states.Process.of(stubborn.pid)
    runtime = tmp_path / "ipclusterz-1234"
    runtime.mkdir()
    (runtime / "socket").touch()
    precious = tmp_path / "precious"
    precious.mkdir()
    state.runtime, state.bodies = str(runtime), [str(precious)]
    states.write(state)
    try:
        states.end(state, grace=0.1)
        for process in (polite, stubborn, unlisted):
            assert process.wait(10) != 0
    finally:
        for process in (polite, stubborn, unlisted):
            process.kill()
            process.communicate()
    assert not runtime.exists() and precious.exists()
    assert not os.path.exists(state.path)


def test_connector_files_of_another_controller_stay(profile: ProfileDir) -> None:
    state = states.new(profile, "", own=False)
    state.controller = states.Process(12, 34)
    Path(state.client_file).write_text('{"pid": 12}')
    Path(state.engine_file).write_text('{"pid": 13}')
    states.clean(state)
    assert not os.path.exists(state.client_file)
    assert os.path.exists(state.engine_file)


def test_unwritable_states_are_named(profile: ProfileDir) -> None:
    state = states.new(profile, "", own=False)
    os.rmdir(profile.pid)
    with pytest.raises(ClusterError, match="cannot write"):
        states.write(state)


def test_the_state_file_of_a_later_cluster_stays(profile: ProfileDir, tmp_path: Path) -> None:
    """Its id is the same; only the token tells whose the file is."""
    marker = tmp_path / "cancelled"
    cancel = [sys.executable, "-c", f"open({str(marker)!r}, 'w')"]
    old, later = (states.new(profile, "", own=False) for _ in range(2))
    later.jobs = old.jobs = {"e1": states.BatchJobs("Slurm", ["7"], cancel, "")}
    states.write(later)
    states.clean(old)
    states.clean(old, kept=states.ended(old, "why"))
    assert states.read(later.path) == later and not marker.exists()
    states.clean(later, kept=states.ended(later, "why"))
    found = states.read(later.path)
    assert found is not None and found.ended == "why" and marker.exists()
    states.clean(later)
    assert states.ids(profile) == []
    states.clean(later, kept=later)  # nor does it come back
    assert states.ids(profile) == []


def test_a_foreground_controller_leaves_a_later_cluster_alone(
    profile: ProfileDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ipclusterz.apps import controller as app
    from ipclusterz.net import controller

    later = states.new(profile, "", own=False)

    def run(config: object, status: Callable[[dict[str, Any]], None], rest: object) -> int:
        states.write(later)
        status({"event": "ready", "runtime": ""})
        return 0

    monkeypatch.setenv(states.TOKEN, "")
    monkeypatch.setattr(controller, "run", run)
    assert app.main([f"--profile-dir={profile.path}"]) == 0
    assert states.read(later.path) == later


def test_advice_names_the_profile_as_a_command_finds_it(
    ipython_dir: Path, tmp_path: Path
) -> None:
    strange = tmp_path / "a b" / "cluster_x"
    for folder, option in (
        (ipython_dir / "cluster_x", "--profile=x'"),
        (strange, f"--profile-dir='{strange}'"),
    ):
        found = ProfileDir(str(folder)).create()
        state = states.new(found, "", own=True)
        state.controller = states.Process.of(os.getpid())
        states.write(state)
        with pytest.raises(AlreadyRunning) as caught:
            check_free(found, "")
        assert f"'ipclusterz stop {option}" in str(caught.value)
