"""Bodies of another host: fetched in pieces, in order with other work, and let go of.

Another host is staged by a proof that the agents cannot find: whoever sees it must take the
body for foreign and fetch it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ipclusterz as ipp
from ipclusterz.core import message as m
from ipclusterz.engine import bodies
from ipclusterz.net.transfer import Carrier

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
    rc.session.connection.wait(lambda: os.listdir(folder) == [".proof"], 10)
    assert os.listdir(folder) == [".proof"]


class Peers:
    """Two carriers that talk to each other directly."""

    def __init__(self) -> None:
        self.ended: list[tuple[bytes, m.Body | None, str]] = []
        self.owner_at = bodies.make_folder()
        self.taker_at = bodies.make_folder()
        self.owner = Carrier(*self.owner_at, self.to_taker, lambda *a: None)
        self.taker = Carrier(*self.taker_at, self.to_owner, lambda *a: self.ended.append(a))
        self.requests: list[m.Fetch] = []

    def to_owner(self, channel: int, message: m.Fetch) -> None:
        self.requests.append(message)

    def to_taker(self, channel: int, message: m.Chunk) -> None:
        self.taker.came(message)

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
    parts = [b"head", os.urandom(10 * m.CHUNK + 17), b""]
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


@pytest.mark.parametrize(
    "request_",
    [
        m.Fetch(1, b"short", 0, 10),
        m.Fetch(1, b"i" * 16, 0, 0),
        m.Fetch(1, b"i" * 16, 0, m.CHUNK + 1),
        m.Fetch(1, b"i" * 16, -5, 10),
        m.Fetch(1, b"../../etc/passwd", 0, 10),
    ],
)
def test_impossible_requests_get_no_byte(peers: Peers, request_: m.Fetch) -> None:
    answers: list[m.Chunk] = []
    peers.owner._send = lambda channel, message: answers.append(message)
    peers.owner.serve(4, request_)
    [answer] = answers
    assert answer.data == b""
    assert answer.problem
