"""What a blocking call sends to engines elsewhere is read where it is, and is what it was."""

from __future__ import annotations

import errno
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import ipclusterz as ipp
from ipclusterz.core import message as m
from ipclusterz.engine import bodies
from ipclusterz.engine.serialize import Pieces
from ipclusterz.net import vmread
from ipclusterz.net.lent import Image, Lending, Neighbour
from ipclusterz.net.loop import Loop
from ipclusterz.net.seal import PieceOpener
from ipclusterz.net.standin import StandIn
from tests.faults.watch import agent_of

SECRET = b"s" * 32
ITEMS = 3_000_000  # 24 MB: more pieces than a window


class Call:
    """What a call waits for."""

    def __init__(self, ended: bool = False) -> None:
        self.ended = ended

    def done(self) -> bool:
        return self.ended


@pytest.fixture
def lending(place: bodies.Place) -> Lending:
    return Lending(*place)


def lend(lending: Lending, *parts: Any) -> m.Body:
    with lending.loan() as loan:
        body = lending.lend(parts, loan)
        loan.sent(Call(True))
    return body


# -- images --------------------------------------------------------------------------------


def test_an_image_is_what_the_file_would_be(place: bodies.Place) -> None:
    chance = random.Random(7)
    for _ in range(40):
        parts: list[Any] = [chance.randbytes(chance.randrange(200)) for _ in range(5)]
        pieces = [chance.randbytes(chance.randrange(1, 90)) for _ in range(3)]
        parts.append(Pieces(pieces, sum(map(len, pieces))))
        parts.append(memoryview(np.arange(chance.randrange(1, 9), dtype="u2")))
        parts[-1] = parts[-1].cast("B")
        body = bodies.write(*place, parts)
        with open(os.path.join(place[0], body.id.hex()), "rb") as file:
            content = file.read()
        image = Image(parts)
        assert image.layout.total == len(content) == bodies.space(body)
        assert bytes(image.read(0, memoryview(bytearray(len(content))))) == content
        for _ in range(60):
            offset = chance.randrange(len(content))
            size = chance.randrange(len(content) - offset) + 1
            room = memoryview(bytearray(b"?" * size))
            assert bytes(image.read(offset, room)) == content[offset : offset + size]
        with pytest.raises(ValueError, match="shorter"):
            image.read(1, memoryview(bytearray(len(content))))


def test_what_lies_in_one_piece_is_not_copied() -> None:
    data = np.arange(1000, dtype="u1")
    image = Image([b"begin", data])
    seen = image.read(64 + 10, memoryview(bytearray(20)))
    data[10] = 99
    assert seen[0] == 99
    assert image.copied().read(74, memoryview(bytearray(1)))[0] == 99
    copied = image.copied()
    data[10] = 1
    assert copied.read(74, memoryview(bytearray(1)))[0] == 99


# -- loans ---------------------------------------------------------------------------------


def test_what_is_needed_no_more_is_let_go_of(lending: Lending) -> None:
    data = np.zeros(100_000)
    seen = weakref.ref(data)
    with lending.loan() as loan:
        body = lending.lend([data], loan)
        loan.sent(Call(True))
    assert lending.drop(body.id)
    del data, loan
    gc.collect()
    assert lending._images.get(body.id) is None and seen() is None
    assert os.listdir(lending.folder) == [] and not lending.drop(body.id)


@pytest.mark.parametrize("result", [None, Call(False)], ids=["not all sent", "interrupted"])
def test_what_a_call_that_ends_early_lent_is_copied(
    lending: Lending, result: Call | None
) -> None:
    data = np.arange(1000, dtype="u1")
    with pytest.raises(KeyboardInterrupt), lending.loan() as loan:
        body, gone = lending.lend([data], loan), lending.lend([data], loan)
        assert lending.drop(gone.id), "its task has ended"
        if result is not None:
            loan.sent(result)
        raise KeyboardInterrupt
    before, data[:] = bytes(data), 0
    image = lending._images.get(body.id)
    assert image is not None and bytes(image.read(0, memoryview(bytearray(1000)))) == before
    if vmread.able:
        room = memoryview(bytearray(1000))
        assert bytes(Neighbour(lending.folder, body.id).read(0, room)) == before
    assert lending._images.get(gone.id) is None
    assert lending.drop(body.id) and lending._images.get(body.id) is None


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_what_cannot_be_copied_is_not_read_any_more(
    lending: Lending, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Its caller goes on and may change it: better nothing than something else."""

    def fails(image: Image) -> Image:
        raise error

    monkeypatch.setattr(Image, "copied", fails)
    with pytest.raises(error), lending.loan() as loan:
        bodies_lent = [lending.lend([b"x" * 100], loan) for _ in range(3)]
        raise KeyboardInterrupt
    assert lending._images == {}
    for body in bodies_lent:
        assert not Neighbour(lending.folder, body.id).open()


def test_what_is_read_is_not_moved_meanwhile(lending: Lending) -> None:
    data = np.arange(100, dtype="u1")
    body = lend(lending, data)
    with lending.reading(body.id) as image:
        mover = threading.Thread(target=lending.keep, args=(body.id,))
        mover.start()
        mover.join(0.05)
        assert mover.is_alive() and lending._images.get(body.id) is image
    mover.join(10)
    assert not mover.is_alive() and lending._images.get(body.id) is not image


# -- neighbours ----------------------------------------------------------------------------


def test_a_neighbour_reads_what_is_lent(lending: Lending) -> None:
    parts = [b"head", np.arange(300, dtype="u1"), Pieces([b"ab", b"cde"], 5)]
    body = lend(lending, *parts)
    whole = Image(parts).read(0, memoryview(bytearray(bodies.space(body))))
    neighbour = Neighbour(lending.folder, body.id)
    assert neighbour.open()
    for offset, size in ((0, len(whole)), (3, 70), (64, 300), (100, 5), (330, 60)):
        room = memoryview(bytearray(b"?" * size))
        assert neighbour.read(offset, room) == whole[offset : offset + size]
    with pytest.raises(ValueError, match="shorter"):
        neighbour.read(10, memoryview(bytearray(len(whole))))


def test_a_neighbour_reads_again_what_moved_meanwhile(
    lending: Lending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller went on, and may have changed it while it was read."""
    data = np.arange(200, dtype="u1")
    before = bytes(data)
    body = lend(lending, data)
    read = vmread.read
    moves = [1]

    def meanwhile(pid: int, wanted: list[tuple[int, memoryview]]) -> None:
        if moves:
            moves.pop()
            lending.keep(body.id)
            data[:] = 0
        read(pid, wanted)

    monkeypatch.setattr(vmread, "read", meanwhile)
    room = memoryview(bytearray(200))
    assert bytes(Neighbour(lending.folder, body.id).read(0, room)) == before
    assert not moves


def test_a_neighbour_gets_nothing_of_what_was_let_go_of_meanwhile(
    lending: Lending, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = lend(lending, b"x" * 100)
    read = vmread.read

    def meanwhile(pid: int, wanted: list[tuple[int, memoryview]]) -> None:
        read(pid, wanted)
        lending.drop(body.id)

    monkeypatch.setattr(vmread, "read", meanwhile)
    with pytest.raises(FileNotFoundError):
        Neighbour(lending.folder, body.id).read(0, memoryview(bytearray(100)))
    assert not Neighbour(lending.folder, body.id).open()


def test_another_process_with_its_number_is_not_read(lending: Lending) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        lending._pid = child.pid
        body = lend(lending, b"x" * 100)
        neighbour = Neighbour(lending.folder, body.id)
        assert not neighbour.open()
        with pytest.raises(OSError):
            neighbour.read(0, memoryview(bytearray(100)))
    finally:
        child.kill()
        child.wait(10)
    assert not neighbour.open(), "nor one that has ended"


@pytest.mark.parametrize("pieces", [[[-5, 105]], [[50]], [[0, 100]], "no list"])
def test_a_note_that_makes_no_sense_is_an_error(lending: Lending, pieces: Any) -> None:
    body = lend(lending, Pieces([b"x" * 50, b"y" * 50], 100))
    path = os.path.join(lending.folder, body.id.hex())
    with open(path, "rb") as file:
        note = msgspec.msgpack.decode(file.read())
    note[3] = pieces
    with open(path, "wb") as file:
        file.write(msgspec.msgpack.encode(note))
    neighbour = Neighbour(lending.folder, body.id)
    assert not neighbour.open()
    with pytest.raises(ValueError, match="no sense"):
        neighbour.read(0, memoryview(bytearray(10)))


def test_a_body_in_very_many_pieces_is_its_clients_own(lending: Lending) -> None:
    body = lend(lending, Pieces([b"x"] * 2000, 2000))
    assert not Neighbour(lending.folder, body.id).open()
    image = lending._images.get(body.id)
    assert image is not None
    assert bytes(image.read(0, memoryview(bytearray(2000)))) == b"x" * 2000


CLIENT = """
import os, sys
from ipclusterz.net.lent import Lending
lending = Lending(sys.argv[1], bytes.fromhex(sys.argv[2]))
data = bytes(range(256)) * 1000
with lending.loan() as loan:
    body = lending.lend([data], loan)
    print(body.id.hex(), flush=True)
    sys.stdin.read()
"""


def test_a_scheduler_reads_the_memory_of_a_client_that_stands_still(
    place: bodies.Place,
) -> None:
    command = [sys.executable, "-c", CLIENT, place[0], place[1].hex()]
    pipe = subprocess.PIPE
    client = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    loop = Loop()
    said: list[Any] = []
    stand_in = StandIn(loop, lambda peer, answer: said.append(answer))
    try:
        assert client.stdout is not None
        name = bytes.fromhex(client.stdout.readline().strip())
        client.send_signal(signal.SIGSTOP)
        folder = os.path.join(place[0], bodies.LENT)
        request = m.Fetch(7, name, 512, 1000, 3, SECRET, folder, place[1])
        assert stand_in.takes(b"peer", b"owner", request)
        loop.process(loop.wait(loop.timeout(0)))
        [load] = said
        got = bytearray(1000)
        PieceOpener(SECRET, name).open(3, 512, load.data, memoryview(got))
        assert got == (bytes(range(256)) * 5)[:1000]
        for proof in (b"", b"y" * 16):
            request.proof = proof
            assert not stand_in.takes(b"peer", b"owner", request)
        request.proof = place[1]
        request.folder = os.path.join(place[0], "..", bodies.LENT)
        assert not stand_in.takes(b"peer", b"owner", request)
    finally:
        client.kill()
        client.communicate(timeout=10)
        loop.close()
    request.folder = folder
    assert not stand_in.takes(b"peer", b"owner", request), "it has ended: nobody has it"


def test_where_no_note_can_be_written_the_owner_is_asked(
    lending: Lending, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its copy exists; that nobody can be told where, as the disk is full, is no loss."""
    loop = Loop()
    said: list[Any] = []
    stand_in = StandIn(loop, lambda peer, message: said.append((peer, message)))
    with lending.loan() as loan:
        body = lending.lend([b"x" * 5000], loan)
        request = m.Fetch(7, body.id, 0, 1000, 1, SECRET, body.folder, body.proof)
        assert stand_in.takes(b"peer", b"owner", request)
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", lambda *paths: _full())
            lending.keep(body.id)
        loan.sent(Call(True))
    loop.process(loop.wait(loop.timeout(0)))
    assert said == [(b"owner", request)]
    with lending.reading(body.id) as image:
        assert image is not None
    loop.close()


def _full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_request_that_names_no_body_is_not_for_us(lending: Lending) -> None:
    loop = Loop()
    stand_in = StandIn(loop, lambda peer, message: pytest.fail("it was answered"))
    body = lend(lending, b"x" * 100)
    before = os.listdir("/proc/self/fd")
    for name in (b"", b"x", b"y" * 17):
        request = m.Fetch(7, name, 0, 10, 1, SECRET, body.folder, body.proof)
        assert not stand_in.takes(b"peer", b"owner", request)
    os.mkdir(os.path.join(lending.folder, "66" * 16))
    assert not Neighbour(lending.folder, b"f" * 16).open()
    assert os.listdir("/proc/self/fd") == before, "nothing is left open"
    os.rmdir(os.path.join(lending.folder, "66" * 16))
    loop.close()


# -- calls ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rc(shared_ipython_dir: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=3) as client:
        yield client


@pytest.fixture
def elsewhere(rc: ipp.Client, monkeypatch: pytest.MonkeyPatch) -> Lending:
    """Let the client believe that all engines are on other hosts; and write no file."""
    connection = rc.session.connection
    monkeypatch.setattr(connection, "elsewhere", frozenset(connection.engines))
    monkeypatch.setattr(bodies, "write", None)
    lending = connection._payloads.lending
    assert lending._images == {}
    return lending


@pytest.fixture(params=["read by the scheduler", "asked of the client"])
def reader(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, elsewhere: Lending
) -> None:
    """Both ways: the second is that of clients on other hosts than the controller."""
    if request.param == "asked of the client":
        monkeypatch.setattr(vmread, "able", False)


def test_blocking_calls_lend(rc: ipp.Client, elsewhere: Lending, reader: None) -> None:
    sent = np.arange(ITEMS, dtype="f8")
    total = float(sent.sum())
    every, one, pool = rc[:], rc[1], rc.load_balanced_view()
    assert pool.apply_sync(lambda x: float(x.sum()), sent) == total
    assert every.apply_sync(lambda x: float(x.sum()), sent) == [total] * 3
    one.push({"q": sent}, block=True)
    assert one.apply_sync(lambda x: float(x.sum()), ipp.Reference("q")) == total
    every["q"] = sent
    assert every.apply_sync(lambda x: x.shape, ipp.Reference("q")) == [(ITEMS,)] * 3
    every.scatter("part", sent, block=True)
    sums = every.apply_sync(lambda x: float(x.sum()), ipp.Reference("part"))
    assert sum(sums) == pytest.approx(total)
    rows = sent.reshape(30, -1)
    assert pool.map_sync(lambda row: row.shape, list(rows)) == [(ITEMS // 30,)] * 30
    assert every.map_sync(lambda row: row.shape, list(rows)) == [(ITEMS // 30,)] * 30
    rc.session.connection.wait(lambda: elsewhere._images == {}, 10)
    assert elsewhere._images == {}
    assert not os.path.isdir(elsewhere.folder) or os.listdir(elsewhere.folder) == []


def test_what_fails_there_is_let_go_of_here(rc: ipp.Client, elsewhere: Lending) -> None:
    sent = np.arange(ITEMS, dtype="f8")
    seen = weakref.ref(sent)
    with pytest.raises(ZeroDivisionError):
        rc[0].apply_sync(lambda x: 1 // 0, sent)
    with pytest.raises(ZeroDivisionError):
        rc.load_balanced_view().apply_sync(lambda x: 1 // 0, sent)
    del sent
    rc.session.connection.wait(lambda: elsewhere._images == {}, 10)
    gc.collect()
    assert elsewhere._images == {} and seen() is None


@pytest.mark.parametrize("view", ["direct", "balanced"])
def test_who_stops_waiting_may_change_what_was_sent(
    rc: ipp.Client, elsewhere: Lending, reader: None, view: str
) -> None:
    sent = np.arange(ITEMS, dtype="f8")
    total = float(sent.sum())
    chosen = rc[2] if view == "direct" else rc.load_balanced_view()
    agent = agent_of(rc)
    main = threading.main_thread().ident
    assert main is not None
    os.kill(agent, signal.SIGSTOP)  # nothing of it leaves before
    try:
        presser = threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT))
        presser.start()
        with pytest.raises(KeyboardInterrupt):
            chosen.apply_sync(lambda x: float(x.sum()), sent)
        presser.join(10)
        sent[:] = 0
    finally:
        os.kill(agent, signal.SIGCONT)
    assert len(elsewhere._images) == 1, "and nothing but that is kept"
    assert rc.get_result(chosen.history[-1]).get(30) == total
    rc.session.connection.wait(lambda: elsewhere._images == {}, 10)
    assert elsewhere._images == {}


@pytest.fixture
def copies(rc: ipp.Client, elsewhere: Lending, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is room for files all the same."""
    monkeypatch.undo()
    connection = rc.session.connection
    monkeypatch.setattr(connection, "elsewhere", frozenset(connection.engines))


def test_who_hears_of_engines_meanwhile_sends_a_copy(
    rc: ipp.Client, copies: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is called in the midst of whichever call drives, and does not wait."""
    connection = rc.session.connection
    sent = np.arange(ITEMS, dtype="f8")
    total = float(sent.sum())
    results: list[Any] = []

    def came() -> None:
        if not results:
            results.append(rc[0].apply_async(lambda x: float(x.sum()), sent))
            sent[:] = 0

    monkeypatch.setattr(connection, "_engine_calls", [came])
    with connection.lending() as loan:
        connection._tell_engines()
        assert loan.names == []
    assert results[0].get(30) == total


class Sends:
    """An argument that sends work of its own when it is pickled, and changes what it sent."""

    def __init__(self, send: Callable[[Any], ipp.AsyncResult]) -> None:
        self.send = send
        self.results: list[ipp.AsyncResult] = []

    def __reduce__(self) -> tuple[Any, ...]:
        array = np.ones(ITEMS)
        self.results.append(self.send(array))
        array[:] = 7
        return (int, ())


def test_what_is_sent_while_an_argument_is_packed_is_a_copy(
    rc: ipp.Client, copies: None
) -> None:
    sent = np.ones(ITEMS)
    pool = rc.load_balanced_view()
    inner = Sends(lambda array: pool.apply_async(lambda x: float(x.sum()), array))
    assert pool.apply_sync(lambda x, _: float(x.sum()), sent, inner) == ITEMS
    assert rc[0].apply_sync(lambda x, _: float(x.sum()), sent, inner) == ITEMS
    assert pool.map_sync(lambda x: 1, [sent, inner]) == [1, 1]
    assert rc[:].map_sync(lambda x: 1, [sent, inner]) == [1, 1]
    rc[:].push({"q": [sent, inner]}, block=True)
    assert [result.get(30) for result in inner.results] == [ITEMS] * len(inner.results)
    assert len(inner.results) >= 5


@pytest.mark.parametrize("chunksize", [1, 2])
def test_items_that_are_made_as_they_are_read_are_copied(
    rc: ipp.Client, copies: None, chunksize: int
) -> None:
    """Who reads a large file may fill one array again and again."""
    room = np.empty(ITEMS)

    def read(step: int) -> Iterator[np.ndarray[Any, Any]]:
        for number in range(8):
            room[:] = number // step
            yield room

    step = chunksize
    values = rc.load_balanced_view().map_sync(
        lambda x: float(x[0]), read(step), chunksize=chunksize
    )
    assert values == [number // step for number in range(8)]


def test_calls_that_do_not_wait_send_a_copy(rc: ipp.Client, copies: None) -> None:
    sent = np.arange(ITEMS, dtype="f8")
    result = rc[0].apply_async(lambda x: float(x.sum()), sent)
    before = float(sent.sum())
    sent[:] = 0
    assert result.get(30) == before


def test_with_an_engine_of_this_host_among_them_nothing_is_lent(
    rc: ipp.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = rc.session.connection
    lending = connection._payloads.lending
    monkeypatch.setattr(connection, "elsewhere", frozenset([0, 1]))
    monkeypatch.setattr(lending, "lend", lambda parts, loan: pytest.fail("lent"))
    sent = np.arange(ITEMS, dtype="f8")
    assert rc[:].apply_sync(len, sent) == [ITEMS] * 3
    assert rc.load_balanced_view().apply_sync(len, sent) == ITEMS
    rc[:].push({"q": sent}, block=True)
