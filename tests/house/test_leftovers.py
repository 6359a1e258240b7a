"""The check for leftovers finds what it promises to find, shown on runs that leave it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests import leftovers

ROOT = Path(__file__).resolve().parents[2]

ORPHAN = """
import subprocess, sys

CHILD = "import signal; signal.pause()"
PARENT = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {CHILD!r}])"

def test_orphan():
    # The parent ends at once and leaves its child to init.
    subprocess.run([sys.executable, "-c", PARENT], check=True)
"""
PORT = """
import socket

KEPT = socket.create_server(("127.0.0.1", 0))

def test_port():
    assert KEPT.getsockname()[1]
"""
FOLDER = """
import tempfile

def test_folder():
    tempfile.mkdtemp(prefix="forgotten-")
"""
CLEAN = """
import subprocess, sys, tempfile

def test_clean():
    with tempfile.TemporaryDirectory():
        subprocess.run([sys.executable, "-c", ""], check=True)
"""


def run_pytest(folder: Path, text: str, *more: str) -> subprocess.CompletedProcess[str]:
    """Run ``text`` as a suite of its own that uses the plugin."""
    (folder / "test_inner.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\nleftover_patience = 0.5\n")
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "tests.leftovers"),
            *("-p", "no:cacheprovider", "--rootdir", str(folder), str(folder), *more),
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_a_run_that_leaves_nothing_passes_and_says_so(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, CLEAN)
    assert done.returncode == 0, done.stdout
    assert "nothing left behind" in done.stdout


def test_an_orphan_is_named_ended_and_fails_the_run(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, ORPHAN)
    assert done.returncode == 1, done.stdout
    line = next(row for row in done.stdout.splitlines() if row.startswith("process "))
    assert "signal.pause()" in line
    pid = int(line.split()[1].rstrip(":"))
    _, left = psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], 10)
    assert not [process for process in left if leftovers.alive(process)]


def test_processes_that_share_the_tests_report_what_they_find(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    (tmp_path / "test_other.py").write_text(CLEAN)
    done = run_pytest(tmp_path, ORPHAN + FOLDER, "-n2", "--dist=loadfile")
    assert done.returncode == 1, done.stdout
    assert "3 passed" in done.stdout
    assert len(re.findall(r"^process \d+: .*signal\.pause\(\)", done.stdout, re.M)) == 1
    assert len(re.findall("^temporary folder: .*forgotten-", done.stdout, re.M)) == 1
    (tmp_path / "test_inner.py").unlink()
    done = run_pytest(tmp_path, CLEAN, "-n2", "--dist=loadfile")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout and "nothing left behind" in done.stdout


def test_a_listening_port_is_named_and_fails_the_run(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, PORT)
    assert done.returncode == 1, done.stdout
    assert "port: 127.0.0.1:" in done.stdout


def test_a_temporary_folder_is_named_and_fails_the_run(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, FOLDER)
    assert done.returncode == 1, done.stdout
    assert "temporary folder: " in done.stdout
    assert "forgotten-" in done.stdout


def test_new_shared_memory_fails_the_run_unless_it_may_be_anothers(tmp_path: Path) -> None:
    (tmp_path / "ipclusterz-old").touch()
    before = leftovers.look([], [tmp_path])
    (tmp_path / "ipclusterz-new").touch()
    (tmp_path / "unrelated").touch()
    after = leftovers.look([], [tmp_path])
    alone = leftovers.judge(before, after, others=False)
    assert alone.left == [f"file: {tmp_path}/ipclusterz-new"]
    crowded = leftovers.judge(before, after, others=True)
    assert not crowded.left
    assert len(crowded.notes) == 1
