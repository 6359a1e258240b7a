"""Lines between processes of one host: frames whole and in order, and no stranger's."""

from __future__ import annotations

import os
import random
import resource
import socket as socketlib
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

import ipclusterz as ipp
from ipclusterz.core import message as m
from ipclusterz.net import lines
from ipclusterz.net.lines import Line, Lines
from ipclusterz.net.loop import Loop
from tests.net.conftest import OTHER, PEER, over_lines
from tests.net.test_door import greet, numbers, packet
from tests.running import eventually, kill


class Pair:
    """Both ends of lines, in one loop."""

    def __init__(self, path: Path) -> None:
        self.loop = Loop()
        self.path = path
        self.listening = socketlib.socket(socketlib.AF_UNIX, socketlib.SOCK_STREAM)
        self.listening.bind(str(path))
        self.listening.listen(100)
        self.heard: list[tuple[Line, list[bytes]]] = []
        self.answers: list[list[bytes]] = []
        self.ends: list[str] = []
        self.lines = Lines(
            self.loop,
            self.listening.fileno(),
            lambda line, frames: self.heard.append((line, [bytes(f) for f in frames])),
            lambda line, why: self.ends.append(why),
        )

    def dial(self) -> Line:
        return lines.dial(
            self.loop,
            f"{lines.SCHEME}{self.path}",
            lambda line, frames: self.answers.append([bytes(f) for f in frames]),
            lambda line, why: self.ends.append(why),
        )

    def raw(self) -> socketlib.socket:
        made = socketlib.socket(socketlib.AF_UNIX, socketlib.SOCK_STREAM)
        made.connect(str(self.path))
        return made

    def until(self, condition: Any, timeout: float = 10) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            self.loop.process(self.loop.wait(self.loop.timeout(0.01)))

    def close(self) -> None:
        if self.lines._socket.fileno() >= 0:
            self.lines.close()
        self.listening.close()
        self.loop.close()


@pytest.fixture
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ipcz-") as folder:
        made = Pair(Path(folder, "line"))
        yield made
        made.close()


def said(pair: Pair) -> list[list[bytes]]:
    return [frames for _, frames in pair.heard]


# -- frames --------------------------------------------------------------------------------


def test_messages_of_all_sizes_pass_both_ways_in_order(pair: Pair) -> None:
    chance = random.Random(5)
    sizes = [0, 1, 3, 4, 5, 100, 32 * 1024 - 1, 32 * 1024, 64 * 1024, 200_000, 8 << 20]
    messages = [
        [chance.randbytes(chance.choice(sizes)) for _ in range(chance.randint(1, 3))]
        for _ in range(60)
    ]
    line = pair.dial()
    for message in messages:
        if len(message) == 1:
            line.send_one(message[0])
        else:
            line.send(message)
    pair.until(lambda: len(pair.heard) == 60)
    assert said(pair) == messages
    back = pair.heard[0][0]
    for message in messages:
        back.send(message)
    pair.until(lambda: len(pair.answers) == 60)
    assert pair.answers == messages and pair.ends == []


def test_frames_that_come_in_bits_are_put_together(pair: Pair) -> None:
    chance = random.Random(6)
    messages = [[chance.randbytes(n)] for n in (0, 1, 2, 3, 4, 7, 300, 40_000, 70_000)]
    stream = b"".join(struct.pack("<I", len(f)) + f for (f,) in messages)
    raw = pair.raw()
    at = 0
    while at < len(stream):
        step = 1 if at < 400 else chance.randint(1, 20_000)
        raw.sendall(stream[at : at + step])
        at += step
        pair.loop.process(pair.loop.wait(pair.loop.timeout(0.01)))
    pair.until(lambda: len(pair.heard) == len(messages))
    assert said(pair) == messages
    raw.close()
    pair.until(lambda: pair.ends)


def test_what_nobody_reads_waits_and_nothing_is_lost(pair: Pair) -> None:
    raw = pair.raw()
    pair.until(lambda: pair.lines._lines)
    (line,) = pair.lines._lines
    for n in range(5000):
        line.send([n.to_bytes(4, "little"), b"x" * 1000])
    assert len(line._unsent) > 5000
    received = b""
    while len(received) < 5000 * 1012:
        pair.loop.process(pair.loop.wait(pair.loop.timeout(0.01)))
        try:
            received += raw.recv(1 << 20, socketlib.MSG_DONTWAIT)
        except BlockingIOError:
            pass
    starts = [received[n * 1012 + 4 : n * 1012 + 8] for n in range(5000)]
    assert starts == [n.to_bytes(4, "little") for n in range(5000)]
    assert not line._unsent
    # Then it is not looked at for being writable any more.
    assert pair.loop.wait(0.05) == []
    raw.close()


@pytest.mark.parametrize(
    "stream",
    [
        struct.pack("<I", (8 << 20) + 1),
        struct.pack("<I", (1 << 31) - 1),
        (struct.pack("<I", 1 << 31 | 1) + b"x") * 3,
    ],
    ids=["large", "very large", "many frames"],
)
def test_who_breaks_the_rules_is_cut_off(pair: Pair, stream: bytes) -> None:
    raw = pair.raw()
    raw.sendall(stream + b"y" * 1000)
    pair.until(lambda: pair.ends)
    assert not pair.heard and not pair.lines._lines
    with pytest.raises(OSError):
        while raw.recv(1000):
            pass
        raise OSError("the end")
    raw.close()


def test_the_other_sides_end_is_seen_and_nothing_can_be_sent(pair: Pair) -> None:
    line = pair.dial()
    line.send_one(b"hello")
    pair.until(lambda: pair.heard)
    there = pair.heard[0][0]
    there.send_one(b"last words")
    there.close()
    pair.until(lambda: pair.ends)
    assert pair.answers == [[b"last words"]] and line.closed
    with pytest.raises(zmq.ZMQError):
        line.send_one(b"more")
    line.close()
    there.close()
    assert pair.ends == ["the connection was closed"], "once, and not for those that close"


def test_a_line_that_is_closed_may_send_what_it_has(pair: Pair) -> None:
    import threading

    line = pair.dial()
    for _ in range(40):
        line.send_one(b"x" * 100_000)
    assert line._unsent
    pair.until(lambda: pair.lines._lines)
    (there,) = pair.lines._lines
    pair.loop.remove(there._socket.fileno())  # another one reads it
    read: list[int] = []

    def reader() -> None:
        there._socket.setblocking(True)
        while got := there._socket.recv(1 << 20):
            read.append(len(got))

    thread = threading.Thread(target=reader)
    thread.start()
    line.close(5000)
    thread.join(10)
    assert sum(read) == 40 * 100_004
    line = pair.dial()
    for _ in range(40):
        line.send_one(b"x" * 100_000)
    line.close(50)  # nobody reads


class Chunks:
    """A socket that gives what it was given, in pieces of these sizes, then its end."""

    def __init__(self, stream: bytes, sizes: list[int]) -> None:
        self.stream = stream
        self.sizes = sizes
        self.fd = os.eventfd(0)

    def fileno(self) -> int:
        return self.fd

    def setblocking(self, flag: bool) -> None:
        pass

    def recv(self, most: int) -> bytes:
        size = min(self.sizes.pop(0), most) if self.sizes else most
        if not size:
            raise BlockingIOError
        piece, self.stream = self.stream[:size], self.stream[size:]
        return piece

    def recv_into(self, room: memoryview) -> int:
        piece = self.recv(len(room))[: len(room)]
        room[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def whole(stream: bytes) -> list[list[bytes]]:
    """The messages in a stream up to where it ends or breaks the rules, read the plain way."""
    found: list[list[bytes]] = []
    frames: list[bytes] = []
    while len(stream) >= 4:
        size = int.from_bytes(stream[:4], "little")
        more, size = size >> 31, size & 0x7FFFFFFF
        if size > 8 << 20 or len(stream) < 4 + size or (more and len(frames) == 2):
            break
        frames.append(stream[4 : 4 + size])
        stream = stream[4 + size :]
        if not more:
            found.append(frames)
            frames = []
    return found


sizes = st.integers(0, 70_000) | st.sampled_from([0, 1, 2, 3, 4, 5])
heads = st.tuples(sizes | st.just((8 << 20) + 1) | st.integers(0, (1 << 31) - 1), st.booleans())


@given(
    parts=st.lists(st.tuples(heads, st.integers(0, 70_000) | st.none()), max_size=8),
    cuts=st.lists(st.integers(0, 66_000), max_size=30),
)
def test_whatever_is_said_is_read_the_same_however_it_is_cut(
    parts: list[tuple[tuple[int, bool], int | None]], cuts: list[int]
) -> None:
    stream = b""
    for (size, more), given_size in parts:  # where a size is given, the head may be a lie
        body = size if given_size is None else given_size
        stream += struct.pack("<I", size | more << 31) + b"x" * min(body, 100_000)
    loop = Loop()
    heard: list[list[bytes]] = []
    ends: list[str] = []
    line = Line(
        loop,
        Chunks(stream, list(cuts)),  # type: ignore[arg-type]
        lambda line, frames: heard.append([bytes(f) for f in frames]),
        lambda line, why: ends.append(why),
    )
    for _ in range(len(stream) + len(cuts) + 2):
        if line.closed:
            break
        line._ready()
    assert heard == whole(stream)
    assert len(ends) == 1 and line.closed
    loop.close()


def test_many_that_do_not_read_are_closed_together(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    raws = [pair.raw() for _ in range(50)]
    pair.until(lambda: len(pair.lines._lines) == 50)
    for line in pair.lines._lines:
        line.send_one(b"x" * 1_000_000)
        assert line._unsent
    given: list[int] = []
    real = Line.close

    def close(self: Line, linger: int = 0) -> None:
        given.append(linger)
        real(self, linger)

    monkeypatch.setattr(Line, "close", close)
    pair.lines.close(100)
    assert len(given) == 50 and 0 < given[0] <= 100
    assert given[-1] == 0, "not a tenth of a second for each"
    for raw in raws:
        raw.close()


# -- who may come --------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to become somebody else")
def test_another_user_is_turned_away_even_where_the_sockets_mode_lets_him_in(
    pair: Pair,
) -> None:
    pair.path.chmod(0o666)
    pair.path.parent.chmod(0o755)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.chdir(pair.path.parent)  # those above may be closed to him
            os.setresuid(65534, 65534, 65534)
            raw = socketlib.socket(socketlib.AF_UNIX, socketlib.SOCK_STREAM)
            raw.connect("line")
            raw.settimeout(10)
            try:
                raw.sendall(struct.pack("<I", 5) + b"hello")
                os.write(write, b"closed" if not raw.recv(1) else b"read")
            except OSError:
                os.write(write, b"closed")
        finally:
            os._exit(0)
    os.close(write)
    os.set_blocking(read, False)
    told: list[bytes] = []

    def heard() -> bool:
        try:
            told.append(os.read(read, 100))
        except BlockingIOError:
            return False
        return True

    pair.until(heard)
    os.waitpid(child, 0)
    os.close(read)
    assert told == [b"closed"] and not pair.heard


def test_without_files_nobody_is_accepted_and_the_processor_rests(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "FULL_SECONDS", 0.1)
    line = pair.dial()
    line.send_one(b"hello")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard)
    )
    taken: list[int] = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass
    try:
        pair.loop.process(pair.loop.wait(0.05))
        assert pair.loop.wait(0.02) == [], "it is not looked at for a while"
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    pair.until(lambda: said(pair) == [[b"hello"]])


# -- doors ---------------------------------------------------------------------------------


@over_lines
def test_a_door_knows_at_once_that_a_peer_has_gone(bench: Any) -> None:
    bench.admit(PEER)
    socket = bench.raw(PEER)
    sealer, _, _ = greet(bench, socket, PEER)
    socket.send(b"D" + sealer.seal(packet(1, m.Beat(1)), b"D"))
    bench.until(lambda: bench.heard)
    assert bench.door.connected(PEER.peer)
    socket.socket.close()
    bench.until(lambda: not bench.door.connected(PEER.peer))
    assert not bench.door._connections and not bench.door._lines._lines
    dial = bench.dial()
    bench.until(lambda: bench.door.connected(PEER.peer))
    dial._failed("cut by the test")
    bench.door.send(PEER.peer, m.Beat(2))  # on its way into a line that has ended, or kept
    bench.until(lambda: numbers(bench.answers) == [2])


@over_lines
def test_a_peer_that_is_not_known_yet_asks_again_at_the_same_place(bench: Any) -> None:
    """A scheduler that was started again hears from the hub whom it may let in."""
    dial = bench.dial()
    dial.identify(PEER, [bench.address, "tcp://127.0.0.1:9"])
    bench.until(lambda: bench.states)
    assert "does not know us" in dial.problem and dial.problem.startswith(bench.address)
    bench.admit(PEER)
    bench.until(lambda: dial.up)
    assert dial.address == bench.address and bench.news == ["renewed"]
    stranger = bench.dial(OTHER)
    bench.until(lambda: "unknown" in bench.news)
    assert not stranger.up


def test_lines_have_their_turn_beside_sockets_that_never_run_dry(pair: Pair) -> None:
    """Who floods a door over ZeroMQ cannot keep others from being heard."""

    class Flooded:
        closed = False
        turns = 0

        def drain(self) -> bool:
            self.turns += 1
            return self.turns < 10_000

    line = pair.dial()
    line.send_one(b"hello")
    socket: Any = Flooded()
    heard_at: list[int] = []
    pair.loop.flush.append(lambda: heard_at.append(socket.turns) if pair.heard else None)
    pair.loop.hot.append(socket)
    pair.loop.process([])
    assert socket.turns == 10_000 and heard_at[0] < 100


# -- the whole -----------------------------------------------------------------------------


def test_peers_of_the_controllers_host_come_by_lines() -> None:
    with ipp.Cluster(n=2) as rc:
        dials = rc.session.connection._dials
        assert {dial.address.partition("://")[0] for dial in dials.values()} == {"unix"}
        for dial in dials.values():
            place = Path(dial.address.removeprefix(lines.SCHEME))
            assert place.stat().st_mode & 0o777 == 0o600
            assert place.parent.stat().st_mode & 0o777 == 0o700
        # Of each, /proc/net/unix names the socket that listens and those that were accepted.
        named = Path("/proc/net/unix").read_text().split()
        found = [name for name in named if name.startswith(f"{place.parent}/")]
        for channel, dial in dials.items():
            name = dial.address.removeprefix(lines.SCHEME)
            agents = 0 if channel == m.Channel.QUERY else 1
            assert found.count(name) == 2 + agents, f"{name}: the client and the agent"


def test_where_a_line_is_not_to_be_had_zeromq_is_the_way() -> None:
    with ipp.Cluster(n=1) as first:
        task = first.session.connection._dials[m.Channel.TASK]
        runtime = Path(task.address.removeprefix(lines.SCHEME)).parent
        for place in runtime.glob("*.line"):
            place.unlink()
        cluster = first.cluster
        assert cluster is not None
        with cluster.connect_client_sync() as rc:
            dials = rc.session.connection._dials
            assert {d.address.partition("://")[0] for d in dials.values()} == {"ipc"}
            assert rc.load_balanced_view().apply_sync(abs, -1) == 1
        # One that breaks is made again by another way.
        task._failed("cut by the test")
        eventually(lambda: task.up)
        assert task.address.startswith("ipc://")
        assert first.load_balanced_view().apply_sync(abs, -2) == 2


def test_a_scheduler_that_is_killed_is_missed_at_once_and_found_again() -> None:
    events: list[dict[str, Any]] = []
    with ipp.Cluster(n=1, notice=events.append) as rc:
        parts = next(e for e in events if e["event"] == "ready")["parts"]
        task = rc.session.connection._dials[m.Channel.TASK]
        assert rc.load_balanced_view().apply_sync(abs, -1) == 1
        wire = task._wire
        kill(parts["task"])
        assert rc.load_balanced_view().apply_sync(abs, -3) == 3
        assert task._wire is not wire and task.address.startswith(lines.SCHEME)
