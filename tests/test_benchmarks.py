"""The benchmarks judge rightly, report what they found and survive peers that fail.

Tiny runs show that each row gives figures; no figure's size is ever looked at.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from benchmarks import __main__ as command
from benchmarks import machine, markdown, pages, peers, plots, processes, report, rows
from benchmarks.bars import BARS, Verdict, verdicts, wide_name
from benchmarks.bench import Bench
from benchmarks.cases import BARE, PAIR, SEALED
from benchmarks.choices import OF_PEERS
from benchmarks.environment import ROOT, PeersEnvironment
from benchmarks.figures import Figure, Results, ratio
from benchmarks.fresh import time_script
from benchmarks.peers import COPY, ECHO_IPC, ECHO_TCP, IMPORTS, LOKY, OURS, POOL, Peer
from benchmarks.plan import Plan
from benchmarks.progress import Progress
from benchmarks.protocol import PeerError, PeerGone, PeerProcess
from benchmarks.turns import enough
from tests.lab.lab import Lab

BEGIN, END = pages.marks(markdown.COMMAND)

TINY = Plan(
    rows=tuple(name for name in rows.BY_NAME if name != "hosts"),
    rounds=1,
    seconds=0.05,
    items=400,
    map_seconds=0.05,
    megabytes=1.0,
    arrays=1,
    wide=(6,),
    weighed_after=20,
    settle=0.0,
    growth=(2, 3),
    queued=(200,),
    decided=(10, 40),
    simulated=8,
    long=16,
    short=200,
    gigabyte=20_000_000,
)

PEER = """
import os, sys, time
from benchmarks.protocol import serve
class Peer:
    def start(self, n): print("chatter"); os.system("echo chatter of a child")
    def tasks(self, count): return count / 1000
    def balanced(self, seconds): time.sleep(seconds)
    def versions(self): os._exit(3)
    def everyone(self): raise ValueError("no one is here")
serve(Peer())
"""

HANGING = """
import subprocess, sys, time
from pathlib import Path
from benchmarks.protocol import serve
class Hanging:
    def start(self, n):
        self.child = subprocess.Popen([sys.executable, "-c", "input()"],
            stdin=subprocess.PIPE, start_new_session=True)
        with Path(__file__).with_name("pids").open("a") as told:
            print(self.child.pid, file=told)
    def versions(self): return {"hanging": "1"}
    def direct(self, seconds): raise ValueError("nobody has a name")
    def balanced(self, seconds): time.sleep(600)
    def apply(self, seconds): return [seconds]
serve(Hanging())
"""


def all_reached() -> Results:
    """Ours better than every bar, each peer at 1; one round each."""
    found = Results()
    for bar in BARS:
        better = 1000.0 if bar.quantity.more_is_better else 0.001
        found.figure(bar.ours, bar.quantity).rounds = [better]
        if bar.other:
            found.figure(bar.other, bar.quantity).rounds = [1.0]
    return found


def judged(quantity: rows.Quantity, ours: float, theirs: float, beside: Peer) -> Verdict:
    found = Results()
    found.figure(OURS.name, quantity).rounds = [ours]
    found.figure(beside.name, quantity).rounds = [theirs]
    (place,) = [i for i, b in enumerate(BARS) if (b.quantity, b.beside) == (quantity, beside)]
    return verdicts(found)[place]


# -- judging ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantity", "beside", "at_bar", "beyond"),
    [
        (rows.TASKS, POOL, 5.0, 4.99),
        (rows.BALANCED, ECHO_IPC, 4.0, 4.01),
        (rows.START, LOKY, 1.5, 1.51),
    ],
    ids=["tasks", "round trip", "start"],
)
def test_bars_are_judged_to_the_dot(
    quantity: rows.Quantity, beside: Peer, at_bar: float, beyond: float
) -> None:
    assert judged(quantity, at_bar, 1.0, beside).reached is True
    assert judged(quantity, beyond, 1.0, beside).reached is False


def test_a_wish_is_judged_apart() -> None:
    verdict = judged(rows.TASKS, 7.0, 1.0, POOL)
    assert (verdict.reached, verdict.wished) == (True, False)
    assert judged(rows.TASKS, 10.0, 1.0, POOL).wished is True


def test_memory_is_judged_by_its_size() -> None:
    found = Results()
    found.figure(OURS.name, rows.MEMORY).rounds = [119e6, 121e6, 120e6]
    (verdict,) = [v for v in verdicts(found) if v.what == rows.MEMORY.title]
    assert (verdict.measured, verdict.reached, verdict.wished) == ("120.00 MB", True, False)


def test_engines_that_did_not_answer_are_not_overlooked() -> None:
    found = Results()
    figure = found.figure(wide_name(200), rows.WIDE_READY)
    figure.rounds, figure.details = [1.0, 1.0], {"n": 200, "answered": [200, 199]}
    assert verdicts(found)[-1].reached is False
    figure.details["answered"] = [200, 200]
    assert verdicts(found)[-1].reached is True
    figure.rounds.append(None)
    assert verdicts(found)[-1].reached is False


def test_what_was_not_measured_is_not_judged() -> None:
    assert {(v.reached, v.wished) for v in verdicts(Results())} == {(None, None)}


def test_a_ratio_is_taken_within_rounds() -> None:
    one, other = Figure("a", "tasks"), Figure("b", "tasks")
    one.rounds = [10.0, 100.0, None, 7.0]
    other.rounds = [1.0, 10.0, 5.0]  # the machine was ten times as fast in the second round
    assert ratio(one, other) == 10.0
    assert ratio(one, Figure("c", "tasks")) is None


def test_quartiles() -> None:
    figure = Figure("a", "tasks", [5.0, 1.0, None, 3.0, 2.0, 4.0])
    assert (figure.median, figure.quartiles) == (3.0, (2.0, 4.0))
    assert Figure("a", "tasks", [7.0]).quartiles == (7.0, 7.0)


@pytest.mark.parametrize(
    ("quantity", "value", "text"),
    [
        (rows.TASKS, 73_912.0, "73,900"),
        (rows.BALANCED, 0.000581, "0.58"),
        (rows.START, 6.74, "6.74"),
        (rows.MEMORY, 94.3e6, "94.3"),
        (rows.MEMORY, 391.2e6, "391"),
    ],
)
def test_figures_are_shown_in_the_unit_of_their_table(
    quantity: rows.Quantity, value: float, text: str
) -> None:
    assert rows.shown(quantity, value) == text


def test_counts_follow_the_speed_of_a_peer() -> None:
    asked: list[int] = []

    def run(count: int) -> float:
        asked.append(count)
        return count / 1000

    assert enough(run, 2.0, 200_000) == 2000
    assert asked == [100, 1000]
    assert enough(run, 2.0, 500) == 500
    assert enough(run, float("inf"), 100_000) == 100_000
    assert enough(run, 0.01, 500) == 10


def test_the_time_of_others_is_counted_once() -> None:
    before = {(10, 1.0): (5.0, 0), (11, 1.0): (30.0, 10), (12, 1.0): (7.0, 0)}
    # 11 used one more second, ended and is in its parent's sum; 12 ended unseen; 13 is new.
    after = {(10, 1.0): (5.0 + 31.0 + 0.5, 0), (13, 2.0): (2.0, 0)}
    assert machine.growth(before, after) == pytest.approx(1.0 + 0.5 + 2.0)
    assert machine.growth(before, before) == 0.0
    # 22 and its parent 21 ended: both are in the sum of 20, with half a second more.
    before = {(20, 1.0): (1.0, 0), (21, 1.0): (2.0, 20), (22, 1.0): (40.0, 21)}
    assert machine.growth(before, {(20, 1.0): (43.5, 0)}) == pytest.approx(0.5)


# -- reporting -------------------------------------------------------------------------------


@pytest.fixture
def found() -> Results:
    """A run in which everything was measured, but one peer is missing and another fails."""
    found = all_reached()
    broken = found.figure("loky", rows.TASKS)
    broken.rounds = [None]
    broken.why = "too slow: no answer; last words: a | MemoryError (log: /somewhere/loky.log)"
    found.missing["ray"] = "no network"
    found.trouble.append("loky, tasks: too slow")
    found.versions["ipclusterz"] = {"ipclusterz": "1.0"}
    found.figure(wide_name(1000), rows.WIDE_READY).details = {"n": 1000, "answered": [1000]}
    found.figure(wide_name(1000), rows.WIDE_APPLY).rounds = [0.1]
    quiet = {"load before": 0.0, "load after": 1.0, "others before": 0.01, "stolen": 0.0}
    found.load.append({**quiet, "others during": 0.02, "seconds": 60.0})
    found.run = {
        "command": "./dev bench",
        "date": "2026-01-02T03:04:05+00:00",
        "machine": machine.describe(),
        "workers": 4,
        "rounds": 1,
        "rows": list(rows.BY_NAME),
        "plan": asdict(TINY),
    }
    return found


def test_the_report_names_what_failed_and_why(found: Results) -> None:
    text = report.text(found)
    assert "ray is missing: no network" in text
    assert "failed: too slow: no answer; last words: a | MemoryError" in text
    assert "loky, tasks: too slow" in text
    assert "NOT REACHED" not in text
    assert "not quiet" not in text


@pytest.mark.parametrize("key", ["others before", "others during", "stolen"])
def test_a_busy_machine_is_warned_of(found: Results, key: str) -> None:
    found.load.append({**found.load[0], key: 0.3})
    assert "WARNING: the machine was not quiet in round 2 (others took up to 30%" in (
        report.text(found)
    )
    assert "**Warning**" in markdown.text(found)


def test_markdown_tables_are_well_formed(found: Results) -> None:
    text = markdown.text(found)
    for table in re.findall(r"(?:^\|.*\n)+", text + "\n", re.MULTILINE):
        lines = table.splitlines()
        assert len({line.count("|") for line in lines}) == 1
        assert len(lines) > 2
    assert "2026-01-02" in text
    assert machine.describe()["processor"] in text
    assert "- loky is missing or failed: too slow: no answer: MemoryError\n" in text
    assert "/somewhere" not in text
    assert f"{wide_name(1000)}: started and each answered, 1,000 different processes" in text


def test_a_page_keeps_what_stands_around_its_marks(found: Results, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    assert pages.why_not(page, markdown.COMMAND) == ""
    for _ in range(2):
        markdown.write(page, found)
        text = page.read_text()
        assert text.startswith(f"before\n\n{BEGIN}\n")
        assert text.endswith(f"{END}\n\nafter\n")
        assert "old" not in text
        assert text.count("Medians:") == 1


def test_a_page_without_marks_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{END} the wrong way round {BEGIN}")
    with pytest.raises(SystemExit) as stopped:
        command.main(["--markdown", str(page)])
    assert stopped.value.code == 2
    assert "must have these two lines" in capsys.readouterr().err


def test_the_page_of_the_documentation_has_its_marks() -> None:
    assert pages.why_not(ROOT / "docs" / "benchmarks.md", markdown.COMMAND) == ""


def test_each_peer_has_its_program_and_its_footnote() -> None:
    for one in peers.ALL:
        module = one.program.replace(".", "/") + ".py"
        assert not one.program or (ROOT / module).is_file()
        assert not one.first or (ROOT / "benchmarks" / "first" / one.first).is_file()
        assert set(one.rows) <= set(rows.BY_NAME)
        assert one.key in peers.KEYS
        assert one in OF_PEERS
    assert sorted(peers.ALL, key=repr) == sorted(peers.TABLE_ORDER, key=repr)


@pytest.mark.parametrize(
    "argv",
    [["--rounds", "0"], ["--only", "nap"], ["--peers", "x"], ["--json", "/nowhere/at/all"]],
    ids=lambda argv: argv[0],
)
def test_wrong_usage(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(argv)
    assert stopped.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_rows_that_are_not_measured_are_kept_whole(found: Results) -> None:
    """Those of an earlier run stay with its date and load; what is measured again goes."""
    old = Results.from_json(json.loads(json.dumps(found.as_json())))
    assert [f.rounds for f in old.figures] == [f.rounds for f in found.figures]
    new = Results(run={**found.run, "date": "2026-02-02T00:00:00+00:00", "rows": ["tasks"]})
    new.load = found.load
    new.figure(OURS.name, rows.TASKS).rounds = [3.0]
    new.keep(old, ("tasks",))
    assert [f.peer for f in new.of(rows.TASKS)] == [OURS.name]
    assert [f.rounds for f in new.of(rows.MAP)] == [f.rounds for f in found.of(rows.MAP)]
    assert new.run_of("map")["date"] == "2026-01-02T03:04:05+00:00"
    assert new.run_of("tasks")["date"] == "2026-02-02T00:00:00+00:00"
    text = markdown.text(new)
    assert "on 2026-02-02" in text
    assert re.search(r"^From `./dev bench` on 2026-01-02 .*: start, memory, map", text, re.M)
    # Kept once more: what came from the first run still does.
    third = Results(run={**found.run, "rows": ["map"]}, load=found.load)
    third.keep(Results.from_json(json.loads(json.dumps(new.as_json()))), ("map",))
    assert third.run_of("tasks")["date"] == "2026-02-02T00:00:00+00:00"
    assert third.run_of("start")["date"] == "2026-01-02T03:04:05+00:00"
    assert not third.of(rows.MAP)


def test_what_is_no_earlier_run_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.json").write_text('{"figures": [{"peer": 1}]}')
    for name in ("old.json", "absent.json"):
        with pytest.raises(SystemExit) as stopped:
            command.main(["--keep", str(tmp_path / name)])
        assert stopped.value.code == 2
        assert "is no result of an earlier run" in capsys.readouterr().err


def test_the_page_never_loses_rows_for_want_of_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "benchmarks.md").write_text(f"{BEGIN}\n{END}\n")
    monkeypatch.setattr(command, "DOCS", tmp_path)
    with pytest.raises(SystemExit) as stopped:
        command.main(["--write-docs", "--only", "mixed"])
    assert stopped.value.code == 2
    assert "to keep the other rows from: measure all first" in capsys.readouterr().err


@pytest.mark.slow
def test_a_row_is_measured_again_and_the_docs_keep_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "benchmarks.md"
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    monkeypatch.setattr(command, "DOCS", tmp_path)
    argv = ["--write-docs", "--peers", "ours"]
    assert command.main(argv, replace(TINY, rows=("mixed", "decisions"))) == 0
    before = json.loads((tmp_path / "benchmarks.json").read_text())
    assert command.main([*argv, "--only", "decisions"], TINY) == 0
    after = json.loads((tmp_path / "benchmarks.json").read_text())
    mixed = [
        [f for f in d["figures"] if f["quantity"] == "mixed bound"] for d in (before, after)
    ]
    assert mixed[0] == mixed[1] and len(mixed[0]) == 3
    assert [run["rows"] for run in after["kept"]] == [["mixed"]]
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "mixed.svg",
        "decisions.svg",
    }
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "![The row mixed](plots/mixed.svg)" in text


def test_each_row_is_drawn_the_same_each_time(found: Results, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = plots.write(tmp_path / "plots", found)
    assert set(drawn) == {rows.row_of(q) for q in rows.QUANTITIES if found.of(q)}
    before = {path: path.read_text() for path in drawn.values()}
    assert plots.write(tmp_path / "plots", found) == drawn
    for path, text in before.items():
        assert path.read_text() == text
        assert text.startswith("<?xml") and len(text) < 60_000
    assert OURS.name in before[drawn["tasks"]]
    page = tmp_path / "page.md"
    markdown.write(page, found, drawn)
    assert "![The row tasks](plots/tasks.svg)" in page.read_text()


# -- peers that misbehave --------------------------------------------------------------------


@pytest.fixture
def peer(tmp_path: Path) -> PeerProcess:
    return PeerProcess(
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
    with pytest.raises(PeerGone, match="no answer to 'balanced' within"):
        peer.call("balanced", timeout=0.1, seconds=60)
    peer.close(timeout=0.1)


def test_a_peer_that_ends_is_given_up(peer: PeerProcess) -> None:
    with pytest.raises(PeerGone, match="ended during 'versions'"):
        peer.call("versions", timeout=20)
    with pytest.raises(PeerGone, match="ended during 'tasks'"):
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


def lives(pid: int) -> bool:
    """Whether a process runs; one that ended may wait for its new parent to notice."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_peer_that_hangs_is_killed_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hanging.py").write_text(HANGING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    hanging = replace(ECHO_TCP, name="hanging", program="hanging", arguments=())
    monkeypatch.setattr("benchmarks.books.TABLE_ORDER", (ECHO_IPC, hanging))
    plan = replace(TINY, rows=("direct", "balanced", "apply"), rounds=3, limit=1.0)
    here = Path(sys.executable)
    bench = Bench(plan, {hanging: here, ECHO_IPC: here}, Progress(quiet=True))
    bench.run()

    figures = {(f.peer, f.quantity): f for f in bench.results.figures}
    echo = [figures[ECHO_IPC.name, row.key] for row in (rows.DIRECT, rows.BALANCED, rows.APPLY)]
    assert [len(figure.values) for figure in echo] == [3, 3, 3]
    failed, slow, last = (
        figures["hanging", row.key] for row in (rows.DIRECT, rows.BALANCED, rows.APPLY)
    )
    assert (failed.rounds, slow.rounds) == ([None] * 3, [None] * 3)
    assert "nobody has a name" in failed.why
    assert slow.why.startswith("too slow: no answer to 'balanced' within 1 s")
    # What comes after a hang is lost with the process, until the hanging row is given up.
    assert last.rounds[:2] == [None, None]
    assert last.rounds[2] == plan.seconds
    assert sum("given up" in line for line in bench.results.trouble) == 2
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 3
    assert not [pid for pid in pids if lives(pid)]
    shutil.rmtree(bench.folder)


# -- tiny runs -------------------------------------------------------------------------------

Run = Callable[..., dict[tuple[str, str], Figure]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command with tiny counts; its figures as read from the JSON, all complete."""

    def run(*argv: str, plan: Plan = TINY) -> dict[tuple[str, str], Figure]:
        target, page = tmp_path / "figures.json", tmp_path / "page.md"
        outputs = ["--json", str(target), "--markdown", str(page)]
        assert command.main([*argv, *outputs], plan) == 0
        text = capsys.readouterr().out
        assert "Not as it should be" not in text
        document = json.loads(target.read_text())
        figures = {}
        for entry in document["figures"]:
            assert entry["median"] >= 0
            assert entry["quartiles"][0] <= entry["median"] <= entry["quartiles"][1]
            del entry["median"], entry["quartiles"]
            figure = Figure(**entry)
            assert None not in figure.rounds and len(figure.rounds) == plan.rounds
            figures[figure.peer, figure.quantity] = figure
            assert figure.peer in text and figure.peer in page.read_text()
        assert len(document["load"]) == plan.rounds
        assert document["bars"] and document["versions"]
        return figures

    return run


def keys(peer: Peer, *quantities: rows.Quantity) -> set[tuple[str, str]]:
    return {(peer.name, quantity.key) for quantity in quantities}


TRIPS = (rows.DIRECT, rows.BALANCED, rows.APPLY)
STARTS = (rows.START, rows.START_ALL, rows.STOP)
WORK = (rows.TASKS, rows.MAP, rows.MAP_CHUNKS)
WIDE = (rows.WIDE_READY, rows.WIDE_APPLY, rows.WIDE_MEMORY)
CASES = {
    "engines": ["2 engines", "3 engines"],
    "queue": ["200 waiting"],
    "mixed": ["shuffled", "long ones first", "long ones last"],
    "decisions": ["10 engines", "40 engines"],
}


@pytest.mark.slow
def test_a_tiny_run_of_ours_gives_every_row(run: Run) -> None:
    pytest.importorskip("numpy", reason="else the benchmarks would install it")
    figures = run("--peers", "ours")
    arrays_and_memory = (rows.PUSH, rows.PULL, rows.MEMORY, rows.MEMORY_ENGINE)
    expected = keys(OURS, *WORK, *TRIPS, *STARTS, *arrays_and_memory)
    expected |= {(wide_name(6), quantity.key) for quantity in WIDE}
    for name, cases in CASES.items():
        quantities = rows.BY_NAME[name].quantities
        expected |= {(case, quantity.key) for case in cases for quantity in quantities}
    assert set(figures) == expected
    assert figures["3 engines", "growth by engines"].details["answered"] == 3
    assert len(figures["200 waiting", "queue rate"].details["finished"]) == 100
    assert figures[OURS.name, "map"].details["count"] == TINY.items
    assert figures[OURS.name, "map in chunks"].details["chunksize"] == 13
    weighed = figures[OURS.name, "memory"].details["processes"]
    assert len(weighed) > 4
    assert not [one for one in weighed if "/" in one["command"]]
    assert figures[wide_name(6), "wide ready"].details["answered"] == [6]


@pytest.mark.slow
def test_between_two_hosts_an_array_crosses_once(lab: Lab, run: Run) -> None:
    """The fixture is asked for so that it says whether a lab is possible here."""
    pytest.importorskip("numpy", reason="else the benchmarks would install it")
    figures = run("--peers", "ours", plan=replace(TINY, rows=("hosts",), megabytes=4.0))
    assert {peer for peer, _ in figures} == {SEALED, PAIR, BARE}
    (crossed,) = figures[SEALED, "hosts crossed"].rounds
    assert crossed is not None and 1.0 <= crossed < 1.5


@pytest.mark.slow
def test_a_tiny_run_of_the_pool_and_the_floors(run: Run) -> None:
    figures = run("--peers", "pool,echo,copy,imports", plan=replace(TINY, rounds=2))
    assert set(figures) == (
        keys(POOL, *WORK, rows.BALANCED, rows.MEMORY, *STARTS)
        | keys(ECHO_IPC, *TRIPS)
        | keys(ECHO_TCP, *TRIPS)
        | keys(COPY, rows.PUSH, rows.PULL)
        | keys(IMPORTS, *STARTS)
    )
    assert figures[COPY.name, "push"].details["bytes"] == 1_000_000


@pytest.mark.slow
def test_peers_that_cannot_be_installed_are_named_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(packages: list[str], notice: Callable[[str], None]) -> PeersEnvironment:
        return PeersEnvironment(tmp_path / "python", {"ray": "no such thing", "loky": "gone"})

    monkeypatch.setattr(command, "peers_environment", nothing)
    target = tmp_path / "figures.json"
    argv = ["--peers", "echo,ray,loky", "--only", "balanced", "--json", str(target)]
    assert command.main(argv, TINY) == 0
    text = capsys.readouterr().out
    assert "ray is missing: no such thing" in text
    assert "loky is missing: gone" in text
    document = json.loads(target.read_text())
    assert document["missing"] == {"ray": "no such thing", "loky": "gone"}
    assert [figure["peer"] for figure in document["figures"]] == [ECHO_IPC.name, ECHO_TCP.name]
