"""Schedulers write pieces for those on their own host who asked, and for nobody else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ipclusterz as ipp
from ipclusterz.core import message as m
from ipclusterz.core.link import Data
from ipclusterz.core.transfer import Transfer
from ipclusterz.engine import bodies
from ipclusterz.net import scribe, transfer
from ipclusterz.net.scribe import Scribe
from ipclusterz.net.transfer import Carrier, PieceReader, _Arrival, in_file

PEER, OTHER = b"peer", b"other"
SECRET = b"s" * 32


@pytest.fixture
def owner() -> Iterator[bodies.Place]:
    made = bodies.make_folder()
    yield made
    bodies.remove_folder(made[0])


class Asked:
    """A body of an owner elsewhere, a file for it here, and a scribe between them."""

    def __init__(self, owner: bodies.Place, place: bodies.Place, content: bytes) -> None:
        self.content = content
        self.body = bodies.write(*owner, [content])
        self.place = place
        folder, proof, self.fd = bodies.claim(place, self.body.id, len(content))
        self.transfer = Transfer(7, self.body, SECRET, folder, proof)
        self.read = in_file(owner[0], self.body.id)
        self.scribe = Scribe()

    def ask(self, peer: bytes = PEER) -> list[m.Fetch]:
        asked = self.transfer.wanted()
        for fetch in asked:
            self.scribe.expect(peer, fetch)
        return asked

    def piece(self, fetch: m.Fetch) -> m.Load:
        load = PieceReader().answer(fetch, self.read)
        assert isinstance(load, m.Load)
        return load

    def written(self) -> bytes:
        return os.pread(self.fd, len(self.content), 0)


@pytest.fixture
def asked(owner: bodies.Place, place: bodies.Place) -> Iterator[Asked]:
    made = Asked(owner, place, os.urandom(2 * m.PIECE + 64))
    yield made
    os.close(made.fd)


def test_pieces_are_written_and_told_of(asked: Asked) -> None:
    fetches = asked.ask()
    assert len(fetches) == 3
    assert all(not fetch.to and not fetch.to_proof for fetch in fetches), "nobody else's"
    for fetch in reversed(fetches):
        told = asked.scribe.keeps(PEER, asked.piece(fetch))
        assert told is not None and told.written and not told.problem
        assert asked.transfer.awaited(told) == fetch.size
        asked.transfer.came(told)
    assert asked.transfer.done and asked.written() == asked.content
    assert not asked.scribe._bodies


def test_a_piece_is_written_once_and_for_who_asked(asked: Asked) -> None:
    first, *_ = asked.ask()
    load = asked.piece(first)
    assert asked.scribe.keeps(OTHER, load) is None
    assert asked.scribe.keeps(PEER, load) is not None
    assert asked.scribe.keeps(PEER, load) is None


def test_what_was_asked_for_again_counts_only_once(asked: Asked) -> None:
    first, *_ = asked.ask()
    again = asked.transfer.again()[0]
    asked.scribe.expect(PEER, again)
    assert again.offset == first.offset and again.number != first.number
    assert asked.scribe.keeps(PEER, asked.piece(first)) is None
    assert asked.scribe.keeps(PEER, asked.piece(again)) is not None


def test_a_piece_that_was_changed_on_the_way_is_passed_on(asked: Asked) -> None:
    first, *_ = asked.ask()
    load = asked.piece(first)
    changed = bytearray(load.data)
    changed[100] ^= 1
    for data in (changed, load.data[:-1], b""):
        asked.scribe.expect(PEER, _again(asked, first))
        assert asked.scribe.keeps(PEER, m.Load(load.chunk, bytes(data))) is None
    assert asked.written() == bytes(len(asked.content))


def _again(asked: Asked, fetch: m.Fetch) -> m.Fetch:
    folder, proof = asked.place
    return m.Fetch(7, fetch.id, 0, fetch.size, fetch.number, SECRET, "", b"", folder, proof)


def test_nothing_is_written_where_no_body_is_kept(asked: Asked, tmp_path: Path) -> None:
    fetch = asked.transfer.wanted()[0]
    folder, proof = asked.place
    foreign = tmp_path / fetch.id.hex()
    foreign.write_bytes(b"mine")
    (tmp_path / bodies.PROOF).write_bytes(proof)
    link = Path(folder) / ("ab" * 16)
    link.symlink_to(foreign)
    for to, shown, id in (
        (str(tmp_path), proof, fetch.id),  # not where bodies lie
        (folder, b"x" * 16, fetch.id),
        (folder, b"", fetch.id),
        (folder + "/..", proof, fetch.id),
        ("", proof, fetch.id),
        (folder, proof, bytes.fromhex(link.name)),  # a link
        (folder, proof, b"../../../../" + b"abcd"),
        (folder, proof, b"n" * 16),  # there is none
    ):
        asking = m.Fetch(7, id, 0, 64, 1, SECRET, "", b"", to, shown)
        asked.scribe.expect(PEER, asking)
        load = asked.piece(m.Fetch(7, id, 0, 64, 1, SECRET))
        assert asked.scribe.keeps(PEER, load) is None, (to, id)
    assert foreign.read_bytes() == b"mine"
    assert sorted(os.listdir(folder)) == sorted([bodies.PROOF, fetch.id.hex(), link.name])


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": -1},
        {"size": m.PIECE + 1},
        {"offset": -1},
        {"offset": 1 << 63},
        {"number": -1},
        {"number": 1 << 64},
        {"secret": b"short"},
        {"id": b"short"},
    ],
    ids=lambda wrong: "-".join(map(str, *wrong.items())).replace("b'", "").replace("'", ""),
)
def test_impossible_requests_are_expected_by_nobody(
    asked: Asked, wrong: dict[str, object]
) -> None:
    fetch = asked.transfer.wanted()[0]
    for name, value in wrong.items():
        setattr(fetch, name, value)
    asked.scribe.expect(PEER, fetch)
    assert not asked.scribe._bodies and not fetch.to


def test_no_more_is_remembered_than_may_be(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scribe, "MOST", 4)
    monkeypatch.setattr(scribe, "PIECES", 4)
    folder, proof = asked.place
    for number in range(1, 100):
        for id in (asked.body.id, number.to_bytes(16, "big")):
            fetch = m.Fetch(7, id, 64 * number, 64, number, SECRET, "", b"", folder, proof)
            asked.scribe.expect(PEER, fetch)
    known = asked.scribe._bodies
    assert len(known) == 4 and max(len(body.pieces) for body in known.values()) <= 4
    asked.scribe.forget(OTHER)
    assert len(known) == 4
    asked.scribe.forget(PEER)
    assert not known


@pytest.mark.parametrize("beside", [True, False], ids=["beside", "elsewhere"])
def test_what_is_written_already_need_not_come(
    owner: bodies.Place, place: bodies.Place, beside: bool
) -> None:
    """The asker's side, with a scheduler beside it and one that only passes on."""
    content = os.urandom(3 * m.PIECE + 1)
    body = bodies.write(*owner, [content])
    sent: list[m.Fetch] = []
    done: list[tuple[m.Body | None, str]] = []
    carrier = Carrier(
        *place,
        lambda channel, message: sent.append(message),
        lambda id, body, problem: done.append((body, problem)),
    )
    between, reader = Scribe(), PieceReader()
    carrier.bring(1, 7, body)
    while sent:
        fetch = sent.pop(0)
        if beside:
            between.expect(PEER, fetch)
        load = reader.answer(fetch, in_file(owner[0], body.id))
        assert isinstance(load, m.Load)
        kept = between.keeps(PEER, load)
        assert (kept is not None) == beside
        carrier.came(kept or load)
    [(here, problem)] = done
    assert here is not None and not problem
    assert bytes(bodies.read(here)[0]) == content
    carrier.close()


def test_a_result_from_elsewhere_is_written_by_the_scheduler(
    shared_ipython_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []
    put = _Arrival.put

    def count(self: _Arrival, chunk: m.Chunk, sealed: Data, size: int) -> None:
        opened.append(size)
        put(self, chunk, sealed, size)

    monkeypatch.setattr(_Arrival, "put", count)
    monkeypatch.setattr(bodies, "here", lambda body: False)
    with ipp.Cluster(n=1) as rc:
        carrier = rc.session.connection._payloads._carrier
        bring = carrier.bring

        def from_elsewhere(channel: int, key: int, body: m.Body) -> None:
            bring(channel, key, m.Body(body.id, body.sizes, "/not/here", b"x" * 16))

        monkeypatch.setattr(carrier, "bring", from_elsewhere)
        rc[0].execute("import numpy; big = numpy.arange(3_000_000)", block=True)
        assert np.array_equal(rc[0].pull("big", block=True), np.arange(3_000_000))
        assert opened == []
        # What cannot be written there passes on, and is opened here.
        monkeypatch.setattr(transfer, "Transfer", lambda *args: Transfer(*args[:4], b"y" * 16))
        assert np.array_equal(rc[0].pull("big", block=True), np.arange(3_000_000))
        assert len(opened) > 5


def test_an_owner_cannot_say_that_a_piece_is_written(
    owner: bodies.Place, place: bodies.Place
) -> None:
    content = os.urandom(64)
    body = bodies.write(*owner, [content])
    sent: list[m.Fetch] = []
    done: list[m.Body | None] = []
    carrier = Carrier(
        *place,
        lambda channel, message: sent.append(message),
        lambda id, body, problem: done.append(body),
    )
    carrier.bring(1, 7, body)
    load = PieceReader().answer(sent[0], in_file(owner[0], body.id))
    assert isinstance(load, m.Load)
    load.chunk.written = True  # beside a piece it says nothing
    carrier.came(load)
    [here] = done
    assert here is not None and bytes(bodies.read(here)[0]) == content
    carrier.close()
