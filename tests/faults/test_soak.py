"""The soak by hand runs, finds wrong values, and tells who grew."""

from __future__ import annotations

import pytest

from tests.faults import soak


def series(memory: list[float], files: list[int] | None = None) -> soak.Series:
    return soak.Series(memory, files or [10] * len(memory))


@pytest.mark.parametrize("calm", [False, True], ids=["kills", "calm"])
def test_a_few_seconds_of_it(calm: bool, capsys: pytest.CaptureFixture[str]) -> None:
    problems = soak.soak(4.0, 2, calm=calm)
    assert [text for text in problems if "grew" not in text] == [], "too short to judge growth"
    said = capsys.readouterr().out
    assert "supervisor" in said and "engine 0" in said and "tasks: " in said


def test_what_grows_is_told() -> None:
    flat = [20.0 + (i % 3) for i in range(50)]
    assert series(flat).judged()[2] == ""
    assert series([5.0] * 5 + [20.0] * 45).judged()[2] == "", "warming up is no growth"
    assert series([20.0 + i * 0.3 for i in range(50)]).judged()[2].startswith("grew by 9.")
    assert series(flat, list(range(50))).judged()[2] == "49 open files, 14 before"


def test_a_wrong_value_is_told() -> None:
    soak.check([1], [1], "a list")
    with pytest.raises(soak.Wrong, match=r"a list: \[2\] instead of \[1\]"):
        soak.check([2], [1], "a list")
