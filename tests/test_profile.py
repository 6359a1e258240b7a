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

from benchmarks import cputime, profile, scale

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


@pytest.mark.slow
def test_what_an_agent_more_costs_is_told_of_each_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "scale.json"
    argv = ["--agents", "1,2", "--seconds", "0.1", "--engines", "64,128"]
    assert scale.main([*argv, "--json", str(target)]) == 0
    found = json.loads(target.read_text())
    files = {one["part"]: one["files"] for one in found["agents"]}
    schedulers = {f"{name} scheduler" for name in ("direct", "task", "control", "iopub")}
    assert set(files) == schedulers | {"hub"}
    assert all(0 < number < 10 for number in files.values())
    small, large = found["cores"]
    assert large["listed"] == pytest.approx(2 * small["listed"], rel=0.1)
    assert f"| {large['engines']} | 0.01 |" in capsys.readouterr().out


def test_sizes_that_say_nothing_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("10", "10,10", "20,10"):
        with pytest.raises(SystemExit) as stopped:
            scale.main(["--agents", words])
        assert stopped.value.code == 2
    assert "a smaller and a larger number" in capsys.readouterr().err
