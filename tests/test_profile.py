"""Where each microsecond goes: the profile names every process, and its sums are sums.

Tiny counts; no figure's size is looked at.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmarks import cputime, profile

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

PARTS = {"client", "task scheduler", "hub", "agent", "engines", "supervisor", "zygote"}


def burn(seconds: float) -> None:
    """Use as much processor time of this thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_the_time_of_a_thread_is_its_own() -> None:
    go, stop = threading.Event(), threading.Event()

    def run() -> None:
        go.wait(20)
        burn(0.05)
        stop.wait(20)

    other = threading.Thread(target=run)
    other.start()
    before = cputime.look([os.getpid()])
    go.set()
    deadline = time.monotonic() + 20
    mine = (os.getpid(), other.native_id or 0, "thread")
    while time.monotonic() < deadline:
        spent = cputime.grown(before, cputime.look([os.getpid()]))
        if spent[mine].seconds >= 0.05:
            break
    stop.set()
    other.join()
    assert spent[mine].seconds >= 0.05
    assert {name for _, _, name in spent} >= {"main", "thread"}


def test_what_ended_is_left_out() -> None:
    assert cputime.look([2**22 + 1]) == {}


@pytest.mark.slow
def test_each_process_of_a_cluster_has_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "profile.json"
    argv = ["--n", "2", "--count", "300", "--json", str(target)]
    assert profile.main([*argv, "--row", "tasks", "--row", "balanced"]) == 0
    text = capsys.readouterr().out
    tasks, balanced = json.loads(target.read_text())["rows"]
    assert (tasks["row"], balanced["row"], tasks["count"]) == ("tasks", "balanced", 300)
    parts = {part["role"]: part for part in tasks["parts"]}
    assert set(parts) >= PARTS
    assert parts["engines"]["processes"] == 2
    for part in tasks["parts"]:
        total = part["user"] + part["system"]
        assert sum(part["threads"].values()) == pytest.approx(total, abs=0.02)
    for role in ("client", "task scheduler", "agent", "engines"):
        assert parts[role]["user"] + parts[role]["system"] > 0
        assert f"| {role}" in text
