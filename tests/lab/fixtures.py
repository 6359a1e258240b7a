"""A pytest plugin: the ``lab`` fixture, one lab for all tests of a run.

Where the lab is required (``IPCLUSTERZ_LAB=required``, or ``CI`` is set) a machine that cannot
have one fails the tests; elsewhere they are skipped with the reason.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.lab.lab import Lab


def required() -> bool:
    """Whether tests in the lab must run."""
    return os.environ.get("IPCLUSTERZ_LAB") == "required" or bool(os.environ.get("CI"))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The lab; what a test disturbed is put right after it, its processes are its own care."""
    from tests.lab import build  # what other tests need not import
    from tests.lab.lab import Lab

    if reason := build.lacking():
        if required():
            pytest.fail(reason)
        pytest.skip(reason)
    with Lab() as made:
        yield made


@pytest.fixture(autouse=True)
def _undisturbed_lab(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test inherits cuts, opened ports or changed servers."""
    if "lab" not in request.fixturenames:
        yield
        return
    made: Lab = request.getfixturevalue("lab")
    yield
    made.reset()
