"""Bodies of another host: fetched in pieces, in order with other work, and let go of.

Another host is staged by a proof that the agents cannot find: whoever sees it must take the
body for foreign and fetch it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ipclusterz as ipp
from ipclusterz.core import message as m
from ipclusterz.core.transfer import PATIENCE
from ipclusterz.engine import bodies, spares
from ipclusterz.net.transfer import Carrier

SECRET = b"s" * 32
ID = b"i" * 16
ITEMS = 3_000_000  # 24 MB: more pieces than a window


@pytest.fixture(scope="module")
def rc(shared_ipython_dir: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=3) as client:
        yield client


@pytest.fixture
def elsewhere(rc: ipp.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the agents believe that the client is on another host, and the other way round."""
    payloads = rc.session.connection._payloads
    monkeypatch.setattr(payloads, "proof", b"y" * len(payloads.proof))
    monkeypatch.setattr(bodies, "here", lambda body: False)


def test_arguments_and_results_travel(rc: ipp.Client, elsewhere: None) -> None:
    sent = np.arange(ITEMS, dtype="f8")
    got = rc.load_balanced_view().apply_async(lambda x: x * 2, sent).get(30)
    assert np.array_equal(got, sent * 2)
    got[0] = 7.0  # received arrays are writable


def test_a_broadcast_is_fetched_once_and_reaches_all(rc: ipp.Client, elsewhere: None) -> None:
    sent = np.arange(ITEMS, dtype="f8")
    sums = rc[:].apply_async(lambda x: float(x.sum()), sent).get(30)
    assert sums == [float(sent.sum())] * 3


def test_work_for_one_engine_keeps_its_order(rc: ipp.Client, elsewhere: None) -> None:
    view = rc[1]
    pushed = view.push({"q": np.arange(ITEMS)}, block=False)
    view.execute("shape = q.shape", block=False)
    assert view.pull("shape", block=False).get(30) == (ITEMS,)
    pushed.get(30)


def test_nothing_is_left_in_the_clients_folder(rc: ipp.Client, elsewhere: None) -> None:
    view = rc.load_balanced_view()
    view.apply_async(len, b"x" * 5_000_000).get(30)
    folder = rc.session.connection._payloads.folder

    def left() -> list[str]:
        """Bodies, and what is kept for a moment to become one."""
        bodies_left = [name for name in os.listdir(folder) if not name.startswith(".")]
        return bodies_left + spares.names(folder)

    rc.session.connection.wait(lambda: not left(), 10)
    assert left() == []


def test_bytes_changed_on_the_way_reach_no_engine(
    rc: ipp.Client, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler hands pieces on without opening them; the agent does, and asks again."""
    carrier = rc.session.connection._payloads._carrier
    send, harmed = carrier._send, []

    def harm(channel: int, message: Any) -> None:
        if isinstance(message, m.Load) and len(harmed) < PATIENCE:
            harmed.append(message.chunk.offset)
            message = flipped(message, len(message.data) // 2)
        send(channel, message)

    monkeypatch.setattr(carrier, "_send", harm)
    sent = np.arange(ITEMS, dtype="f8")
    total, first = rc[0].apply_async(lambda x: (float(x.sum()), x[:3].tolist()), sent).get(30)
    assert (total, first) == (float(sent.sum()), [0.0, 1.0, 2.0])
    assert len(harmed) == PATIENCE


def test_a_link_that_changes_everything_fails_the_task_by_name(
    rc: ipp.Client, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    carrier = rc.session.connection._payloads._carrier
    send = carrier._send

    def harm(channel: int, message: Any) -> None:
        send(channel, flipped(message, 0) if isinstance(message, m.Load) else message)

    monkeypatch.setattr(carrier, "_send", harm)
    with pytest.raises(ipp.SerializationError, match="changed on the way"):
        rc[0].apply_async(len, b"x" * 5_000_000).get(30)
    monkeypatch.undo()
    assert rc[0].apply_sync(abs, -1) == 1


class Peers:
    """Two carriers that talk to each other directly."""

    def __init__(self) -> None:
        self.ended: list[tuple[bytes, m.Body | None, str]] = []
        self.owner_at = bodies.make_folder()
        self.taker_at = bodies.make_folder()
        self.owner = Carrier(*self.owner_at, self.to_taker, lambda *a: None)
        self.taker = Carrier(*self.taker_at, self.to_owner, lambda *a: self.ended.append(a))
        self.requests: list[m.Fetch] = []
        self.harm: Callable[[Any], Any] = lambda message: message

    def to_owner(self, channel: int, message: m.Fetch) -> None:
        self.requests.append(message)

    def to_taker(self, channel: int, message: m.Chunk | m.Load) -> None:
        self.taker.came(self.harm(message))

    def run(self) -> None:
        while self.requests:
            self.owner.serve(4, self.requests.pop(0))


@pytest.fixture
def peers() -> Iterator[Peers]:
    made = Peers()
    yield made
    made.taker.close()
    bodies.remove_folder(made.owner_at[0])
    bodies.remove_folder(made.taker_at[0])


def test_a_body_arrives_as_it_was(peers: Peers) -> None:
    parts = [b"head", os.urandom(10 * m.PIECE + 17), b""]
    body = bodies.write(*peers.owner_at, parts)
    peers.taker.bring(4, 1, body)
    peers.run()
    [(id, here, problem)] = peers.ended
    assert (id, problem) == (body.id, "")
    assert here is not None
    assert [bytes(part) for part in bodies.read(here)] == parts


def test_a_body_that_is_gone_says_so_and_leaves_nothing(peers: Peers) -> None:
    body = bodies.write(*peers.owner_at, [b"x" * 100_000])
    bodies.remove(body)
    peers.taker.bring(4, 1, body)
    peers.run()
    [(_, here, problem)] = peers.ended
    assert here is None
    assert "let go" in problem
    assert os.listdir(peers.taker_at[0]) == [".proof"]


def flipped(load: m.Load, at: int) -> m.Load:
    data = bytearray(load.data)
    data[at] ^= 1
    return m.Load(load.chunk, bytes(data))


HARMS: dict[str, Callable[[m.Load], Any]] = {
    "its first byte": lambda load: flipped(load, 0),
    "its tag": lambda load: flipped(load, -1),
    "cut": lambda load: m.Load(load.chunk, load.data[:-1]),
    "longer": lambda load: m.Load(load.chunk, bytes(load.data) + b"x"),
    "empty": lambda load: m.Load(load.chunk, b""),
    "left out": lambda load: load.chunk,
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_piece_that_was_changed_on_the_way_is_asked_for_again(
    peers: Peers, harm: str
) -> None:
    parts = [os.urandom(3 * m.PIECE)]
    left = [2, 0]  # how many of the next are harmed

    def now_and_then(load: m.Load) -> Any:
        left[0] -= 1
        return HARMS[harm](load) if left[0] >= 0 else load

    peers.harm = now_and_then
    peers.taker.bring(4, 1, bodies.write(*peers.owner_at, parts))
    peers.run()
    [(_, here, problem)] = peers.ended
    assert here is not None and problem == ""
    assert [bytes(part) for part in bodies.read(here)] == parts


def test_pieces_that_changed_places_are_noticed(peers: Peers) -> None:
    parts = [os.urandom(3 * m.PIECE)]
    kept: list[m.Load] = []

    def swap(load: m.Load) -> m.Load:
        kept.append(load)
        return m.Load(load.chunk, kept[0].data) if len(kept) in (2, 3) else load

    peers.harm = swap
    peers.taker.bring(4, 1, bodies.write(*peers.owner_at, parts))
    peers.run()
    [(_, here, problem)] = peers.ended
    assert here is not None and problem == "" and len(kept) == 5
    assert [bytes(part) for part in bodies.read(here)] == parts


def test_what_is_always_changed_on_the_way_ends_with_an_error(peers: Peers) -> None:
    peers.harm = lambda load: flipped(load, 5)
    peers.taker.bring(4, 1, bodies.write(*peers.owner_at, [b"x" * 100_000]))
    peers.run()
    [(_, here, problem)] = peers.ended
    assert here is None and "changed on the way" in problem
    assert os.listdir(peers.taker_at[0]) == [".proof"]


def test_nobody_on_the_way_sees_what_a_piece_is(peers: Peers) -> None:
    word = b"a word that must not be seen"
    seen: list[m.Load] = []
    peers.harm = lambda load: seen.append(load) or load
    body = bodies.write(*peers.owner_at, [word * 10_000])
    for _ in range(2):  # and each transfer has a secret of its own
        peers.taker.bring(4, 1, body)
        peers.run()
        bodies.remove(peers.ended[-1][1])
    assert all(word not in bytes(load.data) for load in seen)
    assert len({bytes(load.data) for load in seen}) == 2


@pytest.mark.parametrize(
    "request_",
    [
        m.Fetch(1, b"short", 0, 10, 1, SECRET),
        m.Fetch(1, b"i" * 16, 0, 0, 1, SECRET),
        m.Fetch(1, b"i" * 16, 0, m.PIECE + 1, 1, SECRET),
        m.Fetch(1, b"i" * 16, -5, 10, 1, SECRET),
        m.Fetch(1, b"../../etc/passwd", 0, 10, 1, SECRET),
        m.Fetch(1, ID, 0, 10, 1, b""),
        m.Fetch(1, ID, 0, 10, 1, b"short"),
        m.Fetch(1, ID, 0, 10, -1, SECRET),
        m.Fetch(1, ID, 0, 100_000, 1, SECRET),
    ],
)
def test_impossible_requests_get_no_byte(peers: Peers, request_: m.Fetch) -> None:
    with open(os.path.join(peers.owner_at[0], ID.hex()), "wb") as file:
        file.write(b"x" * 1000)
    answers: list[m.Chunk] = []
    peers.owner._send = lambda channel, message: answers.append(message)
    peers.owner.serve(4, request_)
    [answer] = answers
    assert isinstance(answer, m.Chunk) and answer.problem
