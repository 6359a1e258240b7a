"""A pytest plugin: some tests run alone, even where several processes share the tests.

A test marked ``alone`` begins when no other test runs, and none begins before it has ended.
It is for what looks at, or tidies up, what all processes of this machine have in common.
Where one process runs all the tests, each is alone anyway.

Waiting for a turn is outside of the test's time limit.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Turns:
    """Who may run a test now, of those who share a folder."""

    def __init__(self, folder: Path) -> None:
        self._door = open(folder / "door.lock", "w")  # noqa: SIM115
        self._room = open(folder / "room.lock", "w")  # noqa: SIM115

    @contextmanager
    def turn(self, alone: bool) -> Iterator[None]:
        """Wait for a turn and have it, together with others or alone."""
        fcntl.flock(self._door, fcntl.LOCK_EX)
        try:
            # Who waits here for an empty room keeps the door: nobody comes before it.
            fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)

    def close(self) -> None:
        """Leave for good."""
        self._door.close()
        self._room.close()


TURNS = pytest.StashKey[Turns]()


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        # Each process has a folder of its own in the one of all.
        config.stash[TURNS] = Turns(Path(config.option.basetemp).parent)


def pytest_unconfigure(config: pytest.Config) -> None:
    if TURNS in config.stash:
        config.stash[TURNS].close()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    turns = item.config.stash.get(TURNS, None)
    if turns is None:
        return (yield)
    with turns.turn(item.get_closest_marker("alone") is not None):
        return (yield)
