"""Many strangers at once, and frames that are too large: real users are served all the time."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipclusterz.core.config import CHANNEL_NAMES
from tests.security.attack import Target, shout

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00PLAIN".ljust(24, b"\0") + bytes(31)
GROWTH = 30_000_000
"""Bytes a process may grow by; the buffers of 1,000 connections among it."""


@pytest.fixture(scope="module")
def target(shared_ipython_dir: Path) -> Iterator[Target]:
    made = Target()
    yield made
    made.close()


def idle(target: Target, names: tuple[str, ...], each: int) -> None:
    before = target.memory()
    held: list[socket.socket] = []
    try:
        for number in range(each):
            for name in names:
                made = socket.create_connection(("127.0.0.1", target.port(name)), timeout=10)
                held.append(made)
                if number % 2:
                    made.sendall(GREETING[: number % 64])
        assert target.works() and target.newcomer_works(), "while all of them hang on"
        for name, size in target.memory().items():
            assert size < before[name] + GROWTH, name
    finally:
        for made in held:
            made.close()
    assert target.works()


@pytest.mark.parametrize("name", ["registration", "task"])
def test_a_thousand_idle_connections(target: Target, name: str) -> None:
    idle(target, (name,), 1000)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_thousand_idle_connections_at_each_socket(target: Target) -> None:
    for name in CHANNEL_NAMES:
        idle(target, (name,), 1000)


@pytest.mark.parametrize("name", CHANNEL_NAMES)
def test_frames_without_end(target: Target, name: str) -> None:
    """A greeting, and then a frame that says it has a thousand million bytes, or far more."""
    before = target.memory()
    for size in (1_000_000_000, 2**63 - 1, 2**64 - 1):
        for flags in (2, 4, 6, 7):
            head = bytes((flags,)) + size.to_bytes(8, "big")
            shout(target.port(name), GREETING + head + os.urandom(100_000), 0.01)
    assert target.works()
    for part, size in target.memory().items():
        assert size < before[part] + GROWTH, part


def test_logs_stay_short_and_no_process_ended(target: Target) -> None:
    for part in ("hub", "direct", "task", "control", "iopub"):
        assert len(target.log(part)) < 20_000
    assert [e for e in target.events if e["event"] in ("restarted", "error")] == []
    assert target.newcomer_works()
