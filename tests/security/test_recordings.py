"""A whole session recorded on the way, and played again: to every socket, at any time."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import ipclusterz as ipp
from tests.running import eventually
from tests.security.attack import (
    READY,
    Target,
    greeting,
    paced,
    plain_hello,
    replay,
    shout,
    tapped,
)

Session = dict[str, list[tuple[bytes, bytes]]]
"""By socket, for each connection: what was sent, and what was answered."""

SECRET = "what nobody on the way may read"
ALL = [SECRET, "1", "2"]
RAN: list[Path] = []
"""The file in which tasks note that they ran."""


@pytest.fixture(scope="module")
def target(shared_ipython_dir: Path) -> Iterator[Target]:
    made = Target()
    RAN[:] = [shared_ipython_dir / "ran"]
    yield made
    made.close()


@pytest.fixture(scope="module")
def session(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """What went to each socket and came back, while a client did a bit of everything."""
    file = tmp_path_factory.mktemp("copy") / "client.json"
    taps = tapped(target, file)
    path = str(RAN[0])

    def note(word: object) -> None:
        with open(path, "a") as ran:
            ran.write(f"{word}\n")

    try:
        with ipp.Client(str(file)) as rc:
            rc[:].apply_sync(note, SECRET)
            rc.load_balanced_view().map_async(note, [1, 2], ordered=True).get(timeout=20)
            assert rc.queue_status() is not None
            eventually(lambda: all(tap.recorded for tap in taps.values()))
            # The client stays, so that its password is good: the gate lets a replay through.
            yield {
                name: [(bytes(sent), bytes(heard)) for sent, heard in tap.recorded if sent]
                for name, tap in taps.items()
            }
            assert rc[:].apply_sync(pow, 2, 5) == [32], "it is still in"
    finally:
        for tap in taps.values():
            tap.close()


def seen() -> list[str]:
    return RAN[0].read_text().split("\n")[:-1]


def play(target: Target, session: Session) -> None:
    assert seen() == ALL
    for name, recorded in session.items():
        for sent, heard in recorded:
            for victim in session:
                replay(target.port(victim), paced(sent), 0.1)
            # Thrown back: what the controller said, said to it.
            shout(target.port(name), heard, 0.1)
    assert seen() == ALL
    assert target.works() and target.newcomer_works()


def test_nothing_can_be_read_on_the_way(session: Session) -> None:
    whole = b"".join(part for pairs in session.values() for pair in pairs for part in pair)
    assert len(whole) > 5000
    for word in (SECRET.encode(), b"note", b"ran.write", b"queue_status"):
        assert word not in whole


def test_played_again_it_changes_nothing(target: Target, session: Session) -> None:
    play(target, session)
    assert "ignored a greeting that does not open" in target.log("task"), "it passed the gate"


def heard(made: socket.socket, size: int | None) -> None:
    """Wait for a greeting of ``size`` bytes or for one command, whole.

    Who goes on after half of it speaks out of turn, and the server hangs up.
    """
    if size is None:
        flags, size = whole(made, 2)
        assert flags == 4, "a command that fits one byte of length"
    whole(made, size)


def whole(made: socket.socket, size: int) -> bytes:
    """Read so many bytes, in however many pieces they come."""
    said = b""
    while len(said) < size:
        piece = made.recv(size - len(said))
        assert piece, f"it hung up after {said!r}"
        said += piece
    return said


def garbage(target: Target, session: Session, frames: int) -> None:
    """So many frames of every length at each of the six doors, by who has captured a password.

    Registration opens to no password: there each connection ends with its first frame.
    """
    for name in session:
        port = target.port(name)
        if name == "registration":
            for _ in range(100):
                shout(port, b"\xff" + bytes(8) + b"\x7f" + os.urandom(1000), 0.01)
            continue
        user, password = captured_in(session[name])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as made:
            for piece in (greeting(b"PLAIN"), plain_hello(user, password), READY):
                made.sendall(piece)
                heard(made, 64 if len(piece) == 64 else None)
            kinds = [b"", b"D", b"H", b"W", b"U", b"D" + os.urandom(50), b"H" + os.urandom(79)]
            # Of no kind that there is: one greeting more, and fewer would be counted below.
            kinds += [b"\xf0" + os.urandom(n) for n in (0, 16, 59, 199)]
            block = b"".join(bytes((0, len(each))) + each for each in kinds * 100)
            made.settimeout(60)
            for _ in range(max(frames // (len(kinds) * 100), 1)):
                made.sendall(block)
            # Who closes with something unread resets the connection, and all of it is lost.
            made.shutdown(socket.SHUT_WR)
            while made.recv(1 << 16):
                pass


def counted(target: Target, frames: int) -> None:
    """Each of the six doors has refused so many, and told of it at powers of two only."""
    most = 1 << (frames.bit_length() - 1)

    def said(channel: int) -> list[str]:
        logs = [target.log(part) for part in ("hub", "direct", "task", "control", "iopub")]
        ends = f" such so far on channel {channel})"
        return [line for log in logs for line in log.splitlines() if line.endswith(ends)]

    for channel in range(1, 7):
        eventually(
            lambda c=channel: any(f"({most} such" in line for line in said(c)),  # type: ignore[misc]
            30,
        )
        assert len(said(channel)) < 60


def captured_in(recorded: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """The name and the password in a recorded greeting of a gate."""
    sent = next(sent for sent, _ in recorded if b"\x05HELLO" in sent)
    rest = sent.split(b"\x05HELLO", 1)[1]
    name, rest = rest[1 : 1 + rest[0]], rest[1 + rest[0] :]
    return name, rest[1 : 1 + rest[0]]


def test_nor_after_garbage(target: Target, session: Session) -> None:
    garbage(target, session, 10_000)
    play(target, session)
    counted(target, 9_000)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_nor_after_a_million_garbage_frames_at_each_door(
    target: Target, session: Session
) -> None:
    before = target.memory()
    garbage(target, session, 1_000_000)
    assert target.works() and target.newcomer_works()
    play(target, session)
    counted(target, 900_000)
    eventually(lambda: not grown(target, before, 10_000_000), 60, "memory is given back")
    for part in ("hub", "direct", "task", "control", "iopub"):
        assert len(target.log(part)) < 30_000


def test_nor_after_a_restart(target: Target, session: Session) -> None:
    restarted(target)
    play(target, session)


def grown(target: Target, before: dict[str, int], limit: int) -> list[str]:
    return [n for n, size in target.memory().items() if size >= before[n] + limit]


def restarted(target: Target) -> None:
    """Kill the hub and a scheduler; wait until their supervisor has started them again."""
    pids = target.parts()
    for part in ("hub", "task"):
        before = len([e for e in target.events if e["event"] == "restarted"])
        os.kill(pids[part], signal.SIGKILL)
        eventually(
            lambda n=before: (  # type: ignore[misc]
                len([e for e in target.events if e["event"] == "restarted"]) > n
            )
        )
    eventually(target.works)


def test_frames_changed_dropped_swapped_and_repeated_on_the_way(
    target: Target, session: Session
) -> None:
    """The recorded stream of the task socket, damaged in every way, is never acted upon."""
    sent = max((pair[0] for pair in session["task"]), key=len)
    port = target.port("task")
    half = len(sent) // 2
    damaged = [
        sent[:half],
        sent[half:],
        sent[half:] + sent[:half],
        sent + sent,
        sent[:64] + sent[half:],
        *(
            sent[:at] + bytes((sent[at] ^ 1,)) + sent[at + 1 :]
            for at in range(0, len(sent), 97)
        ),
    ]
    for text in damaged:
        replay(port, paced(text), 0.02)
    assert seen() == ALL and target.works()
