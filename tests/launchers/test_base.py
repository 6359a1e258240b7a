"""What launchers have in common."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ipclusterz.error import LaunchError
from ipclusterz.launchers import base
from ipclusterz.launchers.local import LocalLauncher


def test_the_local_launcher_is_built_in() -> None:
    assert isinstance(base.get_launcher("local"), LocalLauncher)


def test_unknown_launchers_are_answered_with_the_known() -> None:
    with pytest.raises(LaunchError, match=r"no launcher 'moon'; known are: htcondor, local"):
        base.get_launcher("moon")


class Third:
    def start(self, spec: base.LaunchSpec) -> base.Job:
        raise LaunchError("never mind")


class FakePoint:
    name, value = "third", "party:Third"

    def load(self) -> type[Third]:
        return Third


def test_third_parties_register_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    def points(group: str) -> list[FakePoint]:
        assert group == base.GROUP
        return [FakePoint()]

    monkeypatch.setattr(importlib.metadata, "entry_points", points)
    assert isinstance(base.get_launcher("third"), Third)
    with pytest.raises(LaunchError, match="slurm.*third"):
        base.get_launcher("fourth")


def test_processes_are_named_by_number_and_start() -> None:
    start = base.process_start(os.getpid())
    assert base.is_alive(os.getpid(), start)
    assert not base.is_alive(os.getpid(), start + 1)
    assert not base.is_alive(0, 0)
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not base.is_alive(child.pid, 0), "a zombie does not run"
    child.wait()


def test_the_folder_refuses_to_be_a_package_of_its_own() -> None:
    root = Path(__file__).resolve().parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", "import launchers"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: import this folder as ipcl")
