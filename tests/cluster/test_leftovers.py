"""Dead clusters with batch jobs: what tells of them stays as long as it is needed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ipclusterz.cluster import leftovers
from ipclusterz.cluster import state as states
from ipclusterz.paths import ProfileDir


@pytest.fixture
def dead(tmp_path: Path) -> states.State:
    profile = ProfileDir(str(tmp_path / "cluster_x")).create()
    state = states.new(profile, "", own=True)
    state.launcher, state.controller = None, states.Process(2**22 + 1, 1)
    folder = Path(profile.path, "jobs", "e1")
    folder.mkdir(parents=True)
    state.jobs = {"e1": states.BatchJobs("Slurm", ["12"], cancel("", 0), str(folder))}
    return state


def cancel(text: str, code: int) -> list[str]:
    said = f"import sys; print({text!r}, file=sys.stderr); sys.exit({code})"
    return [sys.executable, "-c", said]


def test_jobs_that_wait_for_the_next_controller_stay_known(dead: states.State) -> None:
    dead.reuse = True
    states.write(dead)
    found = leftovers.in_profile(ProfileDir(dead.profile_dir))
    assert [spared.kind for spared in found.spared] == ["batch jobs", "state file"]
    assert found.left == []


def test_jobs_that_cannot_be_cancelled_stay_known(dead: states.State) -> None:
    dead.jobs["e1"].cancel = cancel("Unable to contact slurm controller", 1)
    states.write(dead)
    found = leftovers.in_profile(ProfileDir(dead.profile_dir))
    problems = {left.kind: leftovers.remove(left) for left in found.left}
    assert "Unable to contact slurm controller" in problems["batch jobs"]
    assert "jobs are not cancelled" in problems["folder"]
    assert "jobs are not cancelled" in problems["state file"]
    assert states.read(dead.path) == dead and os.path.isdir(dead.jobs["e1"].folder)


def test_jobs_that_are_cancelled_are_forgotten(dead: states.State) -> None:
    states.write(dead)
    found = leftovers.in_profile(ProfileDir(dead.profile_dir))
    assert [left.kind for left in found.left] == ["batch jobs", "folder", "state file"]
    assert [leftovers.remove(left) for left in found.left] == ["", "", ""]
    assert not os.path.exists(dead.path) and not os.path.exists(dead.jobs["e1"].folder)
