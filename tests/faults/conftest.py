"""Commands that are ended with the test that started them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from tests.running import Running


@pytest.fixture
def start() -> Iterator[Callable[[str], Running]]:
    """Start a command line of ours in the background."""
    made: list[Running] = []

    def begin(line: str) -> Running:
        made.append(Running(line))
        return made[-1]

    yield begin
    for running in reversed(made):
        if running.process.poll() is None:
            running.end(signal.SIGTERM)
