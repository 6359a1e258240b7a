"""Letting go of bodies: what is kept for a moment, and that its memory is free afterwards."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from ipclusterz.core.message import Body
from ipclusterz.engine import bodies, spares
from ipclusterz.net import memory
from ipclusterz.net.discard import SLOW, Discard
from ipclusterz.net.payload import Payloads


class Later:
    """A clock of our own: what is to be called later is called when the test says so."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def __call__(self, seconds: float, act: Callable[[], None]) -> None:
        self.calls.append((seconds, act))

    def run(self) -> list[float]:
        """Call all; how long each was to wait."""
        calls, self.calls = self.calls, []
        for _, act in calls:
            act()
        return [seconds for seconds, _ in calls]


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept for longer than an instant."""
    monkeypatch.setattr(spares, "SECONDS", 0.0)


def held(folder: str) -> list[str]:
    """Files of a folder, removed ones too, that this process has open or mapped."""
    for thread in threading.enumerate():
        if thread.name == "ipclusterz-clear":
            thread.join(10)
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            pass  # that of the listing itself
    with open("/proc/self/maps") as maps:
        found += [line.split(maxsplit=5)[-1].strip() for line in maps]
    return [path for path in found if path.startswith(folder) and ".proof" not in path]


def files(folder: str) -> list[str]:
    """What lies in a folder of bodies and is not needed for the folder itself."""
    found = []
    for at, _, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(at, name), folder) for name in names]
    return [name for name in found if name != bodies.PROOF]


@pytest.mark.parametrize("size", [1000, spares.LEAST, SLOW, spares.MOST + 64])
def test_a_dropped_body_is_gone_at_once_and_soon_its_memory(
    place: bodies.Place, soon: None, size: int
) -> None:
    later = Later()
    discard = Discard(place[0], later, hold=True)
    body = Body(b"x" * 16, [size], *place)
    with open(os.path.join(place[0], body.id.hex()), "wb") as file:
        file.truncate(size)
    discard.drop(body)
    discard.drop(body)  # a second time does no harm
    with pytest.raises(FileNotFoundError):
        bodies.read(body)
    while later.calls:
        later.run()
    assert files(place[0]) == []
    assert held(place[0]) == []


def test_a_kept_file_is_removed_in_time_and_looked_for_only_while_there_is_one(
    place: bodies.Place,
) -> None:
    later = Later()
    discard = Discard(place[0], later)
    for _ in range(3):
        discard.drop(bodies.write(*place, [bytes(spares.LEAST)]))
    assert len(files(place[0])) == 3
    (seconds,) = later.run()
    assert 0 < seconds <= spares.SECONDS
    assert len(files(place[0])) == 3, "too early"
    assert len(later.calls) == 1


def test_the_owner_writes_over_what_it_dropped_and_holds_it(place: bodies.Place) -> None:
    payloads = Payloads(lambda *a: None, lambda *a: None, Later())
    try:
        parts = [b"stream", bytes(3 << 20)]
        _, first = payloads.pack(parts)
        assert first is not None
        payloads.drop(first)
        inode = os.stat(os.path.join(first.folder, spares.FOLDER, *spares.names(first.folder)))
        for number in range(3):
            _, body = payloads.pack([b"stream", bytes([number]) * (3 << 20)])
            assert body is not None
            assert os.stat(os.path.join(body.folder, body.id.hex())).st_ino == inode.st_ino
            assert bytes(bodies.read(body)[1]) == bytes([number]) * (3 << 20)
            assert len(held(payloads.folder)) == 3, "a descriptor, that of the map, and the map"
            payloads.drop(body)
    finally:
        payloads.close()
    assert held(payloads.folder) == []
    assert not os.path.exists(payloads.folder)


@pytest.mark.parametrize(
    ("allowed", "blocks", "most"),
    [(1 << 40, 1 << 40, spares.MOST), (64 << 20, 0, 2 << 20), (1 << 40, 64 << 8, 8 << 20)],
)
def test_small_machines_jobs_and_places_keep_less(
    place: bodies.Place,
    monkeypatch: pytest.MonkeyPatch,
    allowed: int,
    blocks: int,
    most: int,
) -> None:
    usual = os.statvfs(place[0])
    told = os.statvfs_result((4096, 4096, blocks, *usual[3:]))
    monkeypatch.setattr(memory, "allowance", lambda: allowed)
    monkeypatch.setattr(os, "statvfs", lambda path: told)
    discard = Discard(place[0], Later())
    discard.drop(bodies.write(*place, [bytes(most)]))
    discard.drop(bodies.write(*place, [bytes(most + 64)]))
    assert [name.partition("-")[0] for name in spares.names(place[0])] == [str(most)]


def test_where_there_is_a_limit_nothing_is_kept(place: bodies.Place) -> None:
    bodies.limit(place[0], 100 << 20, None)
    later = Later()
    Discard(place[0], later).drop(bodies.write(*place, [bytes(spares.LEAST)]))
    assert files(place[0]) == [bodies.LIMIT]
    assert not later.calls
