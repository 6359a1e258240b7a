"""Many strangers at once, and frames that are too large: real users are served all the time."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ipclusterz as ipp
from ipclusterz.core.config import CHANNEL_NAMES
from tests.running import eventually
from tests.security.attack import (
    READY,
    Target,
    captured,
    command,
    greeting,
    plain_hello,
    shout,
    tapped,
)

PLAIN, CURVE = greeting(b"PLAIN"), greeting(b"CURVE")
GROWTH = 10_000_000
"""Bytes a part of the controller may grow by, whatever strangers do, once they have gone."""

EACH = 40_000
"""Bytes that a connection may cost which said a whole greeting; libzmq closes it after 5 s."""

CLOSED = (b"", b"\xff\0\0\0\0\0\0\0\1\x7f")
"""What a stranger may hear who speaks no ZMTP: nothing, or the protocol's signature."""


@pytest.fixture(scope="module")
def target(shared_ipython_dir: Path) -> Iterator[Target]:
    made = Target()
    assert made.newcomer_works()
    yield made
    made.close()


@pytest.fixture(scope="module")
def password(
    target: Target, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[bytes, bytes]]:
    """Name and gate password of a client that is connected, as seen on the way."""
    file = tmp_path_factory.mktemp("copy") / "client.json"
    taps = tapped(target, file)
    try:
        with ipp.Client(str(file)) as rc:
            assert rc[:].apply_sync(pow, 2, 5) == [32]
            yield captured(taps)
            assert rc[:].apply_sync(pow, 2, 5) == [32], "its password was of use to nobody"
    finally:
        for tap in taps.values():
            tap.close()


def grown(target: Target, before: dict[str, int], limit: int) -> list[str]:
    return [n for n, size in target.memory().items() if size >= before[n] + limit]


def served(target: Target) -> None:
    """A client that was there and one that comes now get an answer; pytest -s shows when."""
    begun = time.perf_counter()
    assert target.works() and target.newcomer_works()
    print(f"served in {time.perf_counter() - begun:.3f} s")


def hold(target: Target, name: str, openings: list[list[bytes]]) -> list[socket.socket]:
    """Connect once for each opening and say it."""
    held = []
    for pieces in openings:
        made = socket.create_connection(("127.0.0.1", target.port(name)), timeout=10)
        held.append(made)
        try:
            for piece in pieces:
                made.sendall(piece)
        except OSError:
            pass  # it has been shown the door already
    return held


def crowd(target: Target, name: str, openings: list[list[bytes]], limit: int) -> None:
    before = target.memory()
    held = hold(target, name, openings)
    try:
        served(target)
        assert grown(target, before, limit) == [], "while all of them hang on"
    finally:
        for made in held:
            made.close()
    eventually(lambda: not grown(target, before, GROWTH), 40, "memory is given back")
    assert target.works()


def idle(target: Target, name: str) -> None:
    """1,000 that say nothing, or begin a greeting."""
    crowd(target, name, [[PLAIN[: n % 64 if n % 2 else 0]] for n in range(1000)], GROWTH)


@pytest.mark.parametrize("name", ["registration", "task"])
def test_a_thousand_idle_connections(target: Target, name: str) -> None:
    idle(target, name)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_thousand_idle_connections_at_each_socket(target: Target) -> None:
    for name in CHANNEL_NAMES:
        idle(target, name)


def half_handshakes(password: tuple[bytes, bytes]) -> dict[str, list[list[bytes]]]:
    user, right = password
    first = [
        [],
        [plain_hello(b"", b"")],
        [plain_hello(user, b"wrong")],
        [plain_hello(user, right)],
        [plain_hello(user, right), READY],
    ]
    hello = command(b"HELLO", b"\1\0" + bytes(72) + os.urandom(120))
    return {
        "gated": [[PLAIN, *first[n % len(first)]] for n in range(1000)],
        "registration": [[CURVE, hello] if n % 2 else [CURVE] for n in range(1000)],
    }


@pytest.mark.parametrize("name", ["registration", "task"])
def test_a_thousand_half_handshakes(
    target: Target, password: tuple[bytes, bytes], name: str
) -> None:
    """With no, a wrong and a captured password; what they cost is given back."""
    said = half_handshakes(password)["registration" if name == "registration" else "gated"]
    crowd(target, name, said, 1000 * EACH)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_hundred_thousand_half_handshakes(
    target: Target, password: tuple[bytes, bytes]
) -> None:
    """Crowd after crowd, at each socket: what is kept does not add up."""
    said = half_handshakes(password)
    before = target.memory()
    for _ in range(14):
        for name in CHANNEL_NAMES:
            which = "registration" if name == "registration" else "gated"
            crowd(target, name, said[which], 1000 * EACH)
    assert grown(target, before, GROWTH) == []


@pytest.mark.parametrize("name", CHANNEL_NAMES)
def test_frames_without_end(target: Target, password: tuple[bytes, bytes], name: str) -> None:
    """A greeting, and then a frame that says it has a thousand million bytes, or far more.

    Who has captured a password gets through the gate, and no further.
    """
    before = target.memory()
    inside = [PLAIN, plain_hello(*password), READY]
    for size in (1_000_000_000, 2**63 - 1, 2**64 - 1):
        for flags in (2, 4, 6, 7):
            endless = bytes((flags,)) + size.to_bytes(8, "big") + os.urandom(100_000)
            shout(target.port(name), PLAIN + endless, 0.01)
            for made in hold(target, name, [[*inside, endless]]):
                made.close()
    assert target.works()
    eventually(lambda: not grown(target, before, GROWTH), 40, "memory is given back")


@pytest.mark.parametrize("name", CHANNEL_NAMES)
def test_who_speaks_no_zmtp_hears_nothing(target: Target, name: str) -> None:
    for said in (b"GET / HTTP/1.0\r\n\r\n", os.urandom(5000), b"\0" * 64, b"SSH-2.0-x\r\n"):
        heard = shout(target.port(name), said, 0.05)
        assert heard in CLOSED or (heard[:10] == CLOSED[1] and len(heard) <= 64), heard


def test_logs_stay_short_and_no_process_ended(target: Target) -> None:
    for part in ("hub", "direct", "task", "control", "iopub"):
        assert len(target.log(part)) < 20_000
    assert [e for e in target.events if e["event"] in ("restarted", "error")] == []
    assert target.newcomer_works()
