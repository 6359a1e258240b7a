"""The benchmarks judge rightly, and survive peers that fail; nothing is measured here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import figures, machine, processes, report
from benchmarks.environment import ROOT
from benchmarks.figures import Results, ratio, verdicts
from benchmarks.fresh import time_script
from benchmarks.peers import ALL, ECHO_IPC, LOKY, OURS, POOL
from benchmarks.protocol import PeerError, PeerProcess

PEER = """
import os, sys, time
from benchmarks.protocol import serve
class Peer:
    def start(self, n): print("chatter"); os.system("echo chatter of a child")
    def tasks(self, count): return count / 1000
    def trips(self, seconds): time.sleep(seconds)
    def versions(self): os._exit(3)
    def everyone(self): raise ValueError("no one is here")
serve(Peer())
"""


def results(**values: float) -> Results:
    """Ours at ``values``, each peer at 1, one round each."""
    found = Results(run={})
    for quantity, peer in (
        (figures.TASKS, POOL),
        (figures.TRIP, ECHO_IPC),
        (figures.START, LOKY),
    ):
        found.add(OURS.name, quantity).rounds.append(values[quantity.replace(" ", "_")])
        found.add(peer.name, quantity).rounds.append(1.0)
    found.add(OURS.name, figures.MEMORY).rounds.append(values["memory"])
    found.wide = {"n": 200, "answered": int(values["answered"])}
    return found


def test_bars_reached_to_the_dot() -> None:
    reached = verdicts(
        results(tasks=5.0, round_trip=4.0, start=1.5, memory=120e6, answered=200)
    )
    assert [verdict.reached for verdict in reached] == [True] * 5


def test_bars_not_reached() -> None:
    missed = verdicts(
        results(tasks=4.99, round_trip=4.01, start=1.51, memory=120.1e6, answered=199)
    )
    assert [verdict.reached for verdict in missed] == [False] * 5


def test_what_was_not_measured_is_not_judged() -> None:
    assert [verdict.reached for verdict in verdicts(Results())] == [None] * 5


def test_a_ratio_is_taken_within_rounds() -> None:
    one, other = figures.Figure("a", "tasks"), figures.Figure("b", "tasks")
    one.rounds = [10.0, 100.0, None, 7.0]
    other.rounds = [1.0, 10.0, 5.0]  # the machine was ten times as fast in the second round
    assert ratio(one, other) == 10.0
    assert ratio(one, figures.Figure("c", "tasks")) is None


def test_report_and_json_of_a_run_with_failures() -> None:
    found = results(tasks=6.0, round_trip=2.0, start=1.0, memory=1e8, answered=200)
    found.wide |= {"start": 1.0, "answer": 0.1, "memory": 3e8}
    found.add("broken", figures.TASKS)
    found.missing["loky"] = "no network"
    found.run = {
        "date": "today",
        "machine": machine.describe(),
        "load": {"before": [0, 0, 0], "after": [0, 0, 0], "background": 0.5, "stolen": 0.0},
        "workers": 4,
        "rounds": 1,
        "starts": 1,
        "seconds": 1.0,
    }
    text = report.text(found)
    assert "loky is missing: no network" in text
    assert "failed" in text
    assert "not quiet" in text
    assert json.loads(json.dumps(found.as_json()))["bars"][0]["reached"] is True


@pytest.fixture
def peer(tmp_path: Path) -> PeerProcess:
    return PeerProcess(
        "a peer",
        [sys.executable, "-c", PEER],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        log=tmp_path / "log",
    )


def test_a_peer_answers_whatever_else_it_prints(peer: PeerProcess) -> None:
    assert peer.call("start", timeout=20, n=4) is None
    assert peer.call("tasks", timeout=20, count=500) == 0.5
    peer.close()


def test_a_peer_that_fails_says_why_and_goes_on(peer: PeerProcess) -> None:
    with pytest.raises(PeerError, match="ValueError: no one is here"):
        peer.call("everyone", timeout=20)
    assert peer.call("tasks", timeout=20, count=1000) == 1.0
    peer.close()


def test_a_silent_peer_is_given_up(peer: PeerProcess) -> None:
    with pytest.raises(PeerError, match="no answer to 'trips' within"):
        peer.call("trips", timeout=0.1, seconds=60)
    peer.close(timeout=0.1)


def test_a_peer_that_ends_is_given_up(peer: PeerProcess) -> None:
    with pytest.raises(PeerError, match="ended during 'versions'"):
        peer.call("versions", timeout=20)
    with pytest.raises(PeerError, match="ended during 'tasks'"):
        peer.call("tasks", timeout=20, count=1)
    peer.close()


def test_a_script_that_dies_is_quoted(tmp_path: Path) -> None:
    code = "import sys; print('first 1', flush=True); sys.exit('the disk is full')"
    with pytest.raises(PeerError, match="exit code 1.*the disk is full"):
        time_script(
            [sys.executable, "-c", code],
            env=dict(os.environ),
            cwd=tmp_path,
            log=tmp_path / "log",
        )


def test_processes_are_found_weighed_and_ended() -> None:
    mark = processes.new_mark()
    child = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, processes.MARK: mark},
        start_new_session=True,
    )
    assert child.stdout is not None and child.stdin is not None
    child.stdout.readline()
    found = processes.marked(mark)
    assert [process.pid for process in found] == [child.pid]
    if sys.platform == "linux":
        assert processes.weigh(found).total > 1_000_000
    assert processes.end_marked(mark, patience=0.0) == 1
    assert processes.marked(mark) == []
    child.wait(20)
    child.stdout.close()
    child.stdin.close()


def test_each_peer_has_its_program() -> None:
    for one in ALL:
        assert (ROOT / "benchmarks" / "peers" / f"{one.program}.py").is_file()
        assert not one.first or (ROOT / "benchmarks" / "first" / one.first).is_file()


@pytest.mark.parametrize("argv", [["--rounds", "0"], ["--phases", "nap"], ["--peers", "x"]])
def test_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(argv)
    assert stopped.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_over_the_echo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "figures.json"
    argv = ["--quick", "--rounds", "1", "--phases", "work", "--peers", "echo"]
    assert command.main([*argv, "--json", str(target)]) == 0
    shown = capsys.readouterr().out
    assert ECHO_IPC.name in shown
    assert "Not as it should be" not in shown
    assert json.loads(target.read_text())["figures"][0]["median"] > 0
