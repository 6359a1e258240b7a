"""Clusters whose engines come by a batch system: one for tests, or the lab's real Slurm."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import ROOT, kill, run

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "qsub", "qstat", "qdel")
START = "ipclusterz start --allow-loopback"


@pytest.fixture
def batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a batch system for tests, whose commands come first in the PATH."""
    commands, folder = tmp_path / "bin", tmp_path / "batch"
    commands.mkdir()
    folder.mkdir()
    for name in COMMANDS:
        (commands / name).symlink_to(ROOT / "tests" / "launchers" / "fakebatch.py")
    monkeypatch.setenv("FAKE_BATCH", str(folder))
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    yield folder
    for path in folder.glob("*.pid"):
        if not path.with_suffix(".end").exists():
            kill(int(path.read_text()))


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    """No cluster of a test is left behind."""
    yield
    run("ipclusterz stop --all")


def profile(ipython_dir: Path) -> Path:
    """The folder of the default profile."""
    return ipython_dir / "cluster_default"


def submitted(batch: Path) -> list[str]:
    """The numbers of the jobs that were accepted."""
    path = batch / "submitted"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def cancelled(batch: Path) -> list[str]:
    """The numbers of the jobs that were cancelled."""
    path = batch / "cancelled"
    return path.read_text().split() if path.exists() else []
