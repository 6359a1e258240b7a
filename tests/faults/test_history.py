"""The judge of histories finds what was put wrong into them by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.history import History, Line, judge, read, work

ROOT = Path(__file__).resolve().parents[2]


def good() -> list[Line]:
    """Task a runs once; b, which may run twice, dies once; c is cancelled; d dies."""
    return [
        {"what": "submit", "key": "a", "retries": 0, "value": 1},
        {"what": "submit", "key": "b", "retries": 1, "value": 2},
        {"what": "begin", "key": "a", "run": "r1"},
        {"what": "begin", "key": "b", "run": "r2"},
        {"what": "fault", "kind": "engine", "about": 77},
        {"what": "end", "key": "a", "run": "r1"},
        {"what": "begin", "key": "b", "run": "r3"},
        {"what": "got", "key": "a", "value": 1, "run": "r1"},
        {"what": "end", "key": "b", "run": "r3"},
        {"what": "got", "key": "b", "value": 2, "run": "r3"},
        {"what": "submit", "key": "c", "retries": 0, "value": 3},
        {"what": "cancel", "key": "c"},
        {"what": "got", "key": "c", "error": "TaskAborted"},
        {"what": "submit", "key": "d", "retries": 0, "value": 4},
        {"what": "begin", "key": "d", "run": "r4"},
        {"what": "got", "key": "d", "error": "EngineError"},
    ]


def without(**fields: object) -> list[Line]:
    """The good one less the first line that has these fields."""
    lines = good()
    lines.remove(next(x for x in lines if fields.items() <= x.items()))
    return lines


def with_(*more: Line) -> list[Line]:
    return [*good(), *more]


def changed(found: Line, **fields: object) -> list[Line]:
    lines = good()
    next(x for x in lines if found.items() <= x.items()).update(fields)
    return lines


def test_a_right_history_has_no_problem() -> None:
    assert judge(good()) == []


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (without(what="got", key="a"), "a: no outcome"),
        (with_({"what": "got", "key": "a", "value": 1, "run": "r1"}), "a: 2 outcomes"),
        (with_({"what": "begin", "key": "a", "run": "r9"}), "a: ran 2 times, and 1 are"),
        (
            with_({"what": "begin", "key": "c", "run": "r9"}),
            "c: run r9 began after the outcome",
        ),
        (with_({"what": "begin", "key": "x", "run": "r9"}), "x: submitted 0 times"),
        (with_({"what": "got", "key": "x", "value": 0, "run": "r"}), "x: submitted 0 times"),
        (
            with_({"what": "submit", "key": "a", "retries": 0, "value": 1}),
            "a: submitted 2 times",
        ),
        (changed({"what": "got", "key": "a"}, value=5), "a: value 5 instead of 1"),
        (changed({"what": "got", "key": "b"}, run="r2"), "b: run r2 won, though r3 began"),
        (changed({"what": "got", "key": "a"}, run="r3"), "a: the result is of run r3, which n"),
        (without(what="end", key="a"), "a: the result is of run r1, which did not end"),
        (changed({"what": "begin", "run": "r3"}, run="r2"), "b: one run began twice"),
        (without(what="fault"), "1 tasks failed and 0 faults excuse it: ['d']"),
        (without(what="cancel"), "c: aborted, though nobody cancelled it"),
        (changed({"what": "got", "key": "d"}, error="OSError"), "d: ended in OSError"),
        (
            with_({"what": "fetched", "key": "a", "value": 9, "run": "r1"}),
            "a: value 9 instead of 1",
        ),
    ],
)
def test_each_wrong_is_found(lines: list[Line], problem: str) -> None:
    assert any(text.startswith(problem) for text in judge(lines)), judge(lines)


def test_a_client_that_left_is_owed_nothing_and_may_be_asked_after() -> None:
    lines = without(what="got", key="a")
    fetched = {"what": "fetched", "key": "a", "value": 1, "run": "r1"}
    assert judge([*lines, {"what": "left", "keys": ["a"]}, fetched, fetched]) == []


def test_only_costly_faults_excuse_failures() -> None:
    lines = without(what="fault")
    lines.insert(0, {"what": "fault", "kind": "cut"})
    assert judge(lines) != []
    assert judge(lines, costly=("cut",)) == []


def test_the_program_judges_files(tmp_path: Path) -> None:
    right, wrong, torn = tmp_path / "right", tmp_path / "wrong", tmp_path / "torn"
    right.write_text("".join(json.dumps(line) + "\n" for line in good()))
    wrong.write_text("".join(json.dumps(x) + "\n" for x in without(what="got", key="a")))
    torn.write_text('{"what": "subm\n')

    def run(*paths: Path) -> tuple[int, str]:
        command = [sys.executable, "-m", "tests.faults.history", *map(str, paths)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=50)
        return done.returncode, done.stdout

    assert run(right) == (0, f"{right}: 16 lines, 4 outcomes, 0 problems\n")
    code, text = run(right, wrong, torn)
    assert code == 1
    assert "15 lines, 3 outcomes, 1 problems\n  a: no outcome\n" in text
    assert f"{torn}:1: torn line" in text
    assert run()[0] == 1, "nothing to judge is no proof"


def test_what_is_logged_is_what_is_read(tmp_path: Path) -> None:
    class Done:
        def __init__(self, value: object) -> None:
            self.value = value

        def wait(self, timeout: float) -> bool:
            return True

        def exception(self, timeout: float) -> None:
            return None

        def get(self) -> object:
            return self.value

    class View:
        def apply_async(self, f: object, *args: object) -> Done:
            assert f is work
            return Done(work(*args))  # type: ignore[arg-type]

    history = History(tmp_path / "log", "k")
    assert [history.submit(View()) for _ in range(3)] == ["k1", "k2", "k3"]
    history.fault("engine", 5)
    assert history.receive_all() == {"k1": 1, "k2": 4, "k3": 9}
    history.close()
    lines = read(tmp_path / "log")
    assert [line["what"] for line in lines].count("begin") == 3
    assert len(lines) == 13 and judge(lines) == []
