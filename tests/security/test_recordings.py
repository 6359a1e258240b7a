"""A whole session recorded on the way, and played again: to every socket, at any time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import ipclusterz as ipp
from tests.running import eventually
from tests.security.attack import Target, paced, replay, shout, tapped

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
def session(
    target: Target, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, list[tuple[bytes, bytes]]]]:
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


def play(target: Target, session: dict[str, list[tuple[bytes, bytes]]]) -> None:
    assert seen() == ALL
    for name, recorded in session.items():
        for sent, heard in recorded:
            for victim in session:
                replay(target.port(victim), paced(sent), 0.1)
            # Thrown back: what the controller said, said to it.
            shout(target.port(name), heard, 0.1)
    assert seen() == ALL
    assert target.works() and target.newcomer_works()


def test_nothing_can_be_read_on_the_way(session: dict[str, list[tuple[bytes, bytes]]]) -> None:
    whole = b"".join(part for pairs in session.values() for pair in pairs for part in pair)
    assert len(whole) > 5000
    for word in (SECRET.encode(), b"note", b"ran.write", b"queue_status"):
        assert word not in whole


def test_played_again_it_changes_nothing(
    target: Target, session: dict[str, list[tuple[bytes, bytes]]]
) -> None:
    play(target, session)
    assert "ignored a greeting that does not open" in target.log("task"), "it passed the gate"


def test_nor_after_garbage_and_a_restart(
    target: Target, session: dict[str, list[tuple[bytes, bytes]]]
) -> None:
    for name in session:
        shout(target.port(name), b"\xff" + bytes(8) + b"\x7f" + os.urandom(100_000), 0.1)
    play(target, session)
    pids = target.parts()
    for part in ("hub", "task"):
        restarts = len([e for e in target.events if e["event"] == "restarted"])
        os.kill(pids[part], signal.SIGKILL)
        eventually(
            lambda n=restarts: (  # type: ignore[misc]
                len([e for e in target.events if e["event"] == "restarted"]) > n
            )
        )
    eventually(target.works)
    play(target, session)


def test_frames_changed_dropped_swapped_and_repeated_on_the_way(
    target: Target, session: dict[str, list[tuple[bytes, bytes]]]
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
