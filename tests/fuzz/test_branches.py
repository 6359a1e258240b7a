"""The tests of what reads strangers' input leave next to nothing of it unrun."""

from __future__ import annotations

import pytest

from tests.fuzz import branches


@pytest.mark.slow
def test_branches_of_what_reads_strangers_input() -> None:
    pytest.importorskip("coverage")
    found = branches.measure()
    assert [each.module for each in found] == list(branches.MODULES)
    assert [str(each) for each in found if each.percent < branches.LEAST] == []


@pytest.mark.slow
def test_what_is_not_run_is_seen() -> None:
    """The measure itself can fail: one test alone leaves most of the template unrun."""
    pytest.importorskip("coverage")
    (template,) = branches.measure(("tests/core/test_template.py::test_division_is_exact",))
    assert template.percent < branches.LEAST and template.lines and template.branches
    assert str(template.lines[0]) in str(template)
