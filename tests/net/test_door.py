"""A door and its dials over real sockets: links that outlive connections, and strangers."""

from __future__ import annotations

import os
import random
from typing import Any

import msgspec
import pytest
import zmq

from ipclusterz.core import link as link_module
from ipclusterz.core import message as m
from ipclusterz.net import door as doors
from ipclusterz.net import sockets
from ipclusterz.net.dial import Dial, Identity
from ipclusterz.net.door import Greeting, Welcome
from ipclusterz.net.seal import (
    GREETING,
    NONCE_BYTES,
    TO_PEER,
    TO_SERVER,
    Opener,
    Sealer,
    connection_key,
)
from tests.net.conftest import over_zeromq

CHANNEL = m.Channel.TASK
PEER = Identity(b"p" * 16, b"s" * 32, b"password")
OTHER = Identity(b"q" * 16, b"z" * 32, b"another's")


def numbers(found: list[Any]) -> list[int]:
    return [message.n for message in found]


def cut(dial: Dial) -> None:
    """End a dial's connection as a network would."""
    dial._failed("cut by the test")


def greet(bench: Any, socket: Any, identity: Identity) -> tuple[Sealer, Opener, bytes]:
    """Say hello by hand; return what seals, what opens, and the greeting that was sent."""
    ours = os.urandom(NONCE_BYTES)
    head = doors.HELLO + identity.peer + ours
    key = connection_key(identity.session, CHANNEL, GREETING, ours)
    hello = head + Sealer(key).seal(msgspec.msgpack.encode(Greeting(b"", 0)), head)
    socket.send(hello)
    answer = bench.receive(socket)
    assert answer[:1] == doors.WELCOME
    theirs = answer[1 : 1 + NONCE_BYTES]
    opener = Opener(connection_key(identity.session, CHANNEL, TO_PEER, ours, theirs))
    opener.open(answer[1 + NONCE_BYTES :], doors.WELCOME + theirs)
    sealer = Sealer(connection_key(identity.session, CHANNEL, TO_SERVER, ours, theirs))
    return sealer, opener, hello


def packet(number: int, *messages: Any) -> bytes:
    head = number.to_bytes(8, "little") + bytes(8)
    return head + msgspec.msgpack.encode(list(messages))


# -- links ---------------------------------------------------------------------------------


def test_messages_pass_both_ways_in_order(bench: Any) -> None:
    bench.admit(PEER)
    dial = bench.dial()
    for n in range(100):
        dial.send(m.Beat(n))
    bench.until(lambda: len(bench.heard) == 100)
    assert numbers([x for _, x in bench.heard]) == list(range(100))
    assert {peer for peer, _ in bench.heard} == {PEER.peer}
    for n in range(100):
        bench.door.send(PEER.peer, m.Beat(n))
    bench.until(lambda: len(bench.answers) == 100)
    assert numbers(bench.answers) == list(range(100))
    assert bench.renewed == [PEER.peer] and bench.door.connected(PEER.peer)


def test_a_link_goes_on_after_a_cut_and_nothing_is_lost_or_doubled(bench: Any) -> None:
    bench.admit(PEER)
    dial = bench.dial()
    bench.until(lambda: dial.up)
    for n in range(400):
        dial.send(m.Beat(n))
        bench.door.send(PEER.peer, m.Beat(n))
        if n % 3 == 0:
            bench.turn()
        if n % 100 == 50:
            cut(dial)
    bench.until(lambda: len(bench.heard) >= 400 and len(bench.answers) >= 400)
    assert numbers([x for _, x in bench.heard]) == list(range(400))
    assert numbers(bench.answers) == list(range(400))
    assert bench.renewed == [PEER.peer] and bench.news == ["renewed"], "one link all the time"


def test_an_acknowledgement_that_rides_on_messages_opens_the_window(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who answers at once owes no acknowledgement of its own, which would come later."""
    monkeypatch.setattr(link_module, "WINDOW", 200_000)
    bench.admit(PEER)

    class Answering(list[Any]):
        def extend(self, messages: Any) -> None:
            super().extend(messages)
            dial.send(m.Beat(len(self)))

    bench.answers = Answering()
    dial = bench.dial(accepts=m.Shutdown)
    bench.until(lambda: dial.up)
    for _ in range(100):
        bench.door.send(PEER.peer, m.Shutdown("x" * 50_000))
    bench.until(lambda: len(bench.answers) == 100)


def piece(number: int, size: int = 500_000) -> m.Load:
    return m.Load(m.Chunk(1, b"i" * 16, 0, number), bytes((number % 256,)) * size)


def told(loads: list[Any]) -> list[tuple[int, bytes]]:
    return [(load.chunk.number, bytes(load.data)) for load in loads]


def test_pieces_pass_both_ways_and_are_handed_on_as_they_are(bench: Any) -> None:
    bench.admit(PEER, m.Beat | m.Chunk)
    bench.admit(OTHER, m.Beat | m.Chunk)
    dial = bench.dial(accepts=m.Beat | m.Chunk)
    bench.dial(OTHER, accepts=m.Beat | m.Chunk)
    bench.until(lambda: bench.door.connected(OTHER.peer) and dial.up)
    for number in range(20):
        dial.say(piece(number))
        dial.send(m.Beat(number))
    bench.until(lambda: len(bench.heard) == 40)
    loads = [x for _, x in bench.heard if isinstance(x, m.Load)]
    assert told(loads) == told([piece(number) for number in range(20)])
    assert numbers([x for _, x in bench.heard if isinstance(x, m.Beat)]) == list(range(20))
    for load in loads:
        bench.door.load(OTHER.peer, load)
    bench.until(lambda: len(bench.answers) == 20)
    assert told(bench.answers) == told(loads)


def test_pieces_survive_a_cut_and_come_once(bench: Any) -> None:
    bench.admit(PEER, m.Beat | m.Chunk)
    dial = bench.dial(accepts=m.Beat | m.Chunk)
    bench.until(lambda: dial.up)
    for number in range(100):
        dial.say(piece(number, 10_000))
        bench.door.load(PEER.peer, piece(number, 10_000))
        bench.turn()
        if number % 30 == 15:
            cut(dial)
    bench.until(lambda: len(bench.heard) >= 100 and len(bench.answers) >= 100)
    assert told([x for _, x in bench.heard]) == [
        told([piece(n, 10_000)])[0] for n in range(100)
    ]
    assert [number for number, _ in told(bench.answers)] == list(range(100))
    assert bench.news == ["renewed"], "one link all the time"


def test_a_piece_without_its_packet_or_the_other_way_round_is_no_piece(bench: Any) -> None:
    bench.admit(PEER, m.Beat | m.Chunk)
    chunk = m.Chunk(1, b"i" * 16, 0, 1)
    for harm in (
        lambda seal: [doors.LOADED + seal(packet(1, chunk), doors.LOADED)],
        lambda seal: [doors.DATA + seal(packet(1, chunk), doors.LOADED), b"data"],
        lambda seal: [doors.LOADED + seal(packet(1, chunk), doors.DATA), b"data"],
        lambda seal: [doors.LOADED + seal(packet(1, m.Beat(1)), doors.LOADED), b"data"],
        lambda seal: [doors.LOADED + seal(packet(1, chunk), doors.LOADED), b"data", b"data"],
    ):
        socket = bench.raw(PEER)
        sealer, _, _ = greet(bench, socket, PEER)
        before = bench.door.rejected
        socket.send_multipart(harm(sealer.seal))
        bench.until(lambda before=before: bench.door.rejected == before + 1)
        assert not bench.heard
    socket = bench.raw(PEER)
    sealer, _, _ = greet(bench, socket, PEER)
    whole = [doors.LOADED + sealer.seal(packet(1, chunk), doors.LOADED), b"data"]
    socket.send_multipart(whole)
    bench.until(lambda: bench.heard)
    assert told([bench.heard[0][1]]) == [(1, b"data")]
    socket.send_multipart(whole)  # played again
    bench.until(lambda: bench.door.rejected > before + 1)
    assert len(bench.heard) == 1


def test_what_waits_for_a_peer_that_is_away_comes_when_it_is_back(bench: Any) -> None:
    bench.admit(PEER)
    bench.door.send(PEER.peer, m.Beat(1))
    dial = bench.dial()
    bench.until(lambda: numbers(bench.answers) == [1])
    cut(dial)
    bench.door.send(PEER.peer, m.Beat(2))
    dial.send(m.Beat(3))
    bench.until(lambda: numbers(bench.answers) == [1, 2])
    bench.until(lambda: numbers([x for _, x in bench.heard]) == [3])


def test_a_new_door_tells_both_sides_that_the_link_begins_anew(bench: Any) -> None:
    bench.admit(PEER)
    dial = bench.dial()
    dial.send(m.Beat(1))
    bench.until(lambda: bench.heard)
    bench.door.close()
    bench.door = bench.open()
    bench.admit(PEER)
    bench.until(lambda: bench.renewed == [PEER.peer] * 2)
    assert bench.news == ["renewed", "renewed"]
    dial.send(m.Beat(2))
    bench.until(lambda: numbers([x for _, x in bench.heard]) == [1, 2])


def test_a_new_incarnation_of_a_peer_begins_anew(bench: Any) -> None:
    bench.admit(PEER)
    first = bench.dial()
    first.send(m.Beat(1))
    bench.until(lambda: bench.heard)
    first.close(0)
    second = bench.dial()
    second.send(m.Beat(7))
    bench.until(lambda: numbers([x for _, x in bench.heard]) == [1, 7])
    assert bench.renewed == [PEER.peer] * 2


def test_what_comes_late_of_an_earlier_connection_changes_nothing(bench: Any) -> None:
    """It was given up after its greeting; what it said first was held up on the way."""
    bench.admit(PEER)
    given_up = bench.raw(PEER)
    sealer, _, _ = greet(bench, given_up, PEER)
    dial = bench.dial()
    dial.send(m.Beat(1))
    bench.door.send(PEER.peer, m.Beat(1))
    bench.until(lambda: bench.heard and bench.answers)
    given_up.send(doors.DATA + sealer.seal(packet(0), doors.DATA))
    given_up.send(doors.DATA + sealer.seal(packet(1, m.Beat(99)), doors.DATA))
    bench.until(lambda: bench.door.rejected == 2)
    dial.send(m.Beat(2))
    bench.door.send(PEER.peer, m.Beat(2))
    bench.until(lambda: len(bench.heard) > 1 and len(bench.answers) > 1)
    assert numbers([x for _, x in bench.heard]) == numbers(bench.answers) == [1, 2]
    assert bench.renewed == [PEER.peer] and bench.news == ["renewed"]


def test_a_link_that_was_begun_anew_is_not_taken_for_the_one_before(bench: Any) -> None:
    """Both count from one: what the new one says would be taken for known."""
    bench.admit(PEER)
    first = bench.dial()
    for n in range(5):
        first.send(m.Beat(n))
        bench.door.send(PEER.peer, m.Beat(n))
        bench.until(lambda n=n: len(bench.heard) == len(bench.answers) == n + 1)
    socket = bench.raw(PEER)
    sealer, _, _ = greet(bench, socket, PEER)  # knows of no link
    socket.send(doors.DATA + sealer.seal(packet(0), doors.DATA))
    bench.until(lambda: len(bench.renewed) == 2)
    cut(first)
    bench.until(lambda: bench.news == ["renewed", "renewed"])
    bench.door.send(PEER.peer, m.Beat(5))
    first.send(m.Beat(5))
    bench.until(lambda: len(bench.heard) == len(bench.answers) == 6)


def test_a_peer_that_was_sent_away_is_told_to_register_again(bench: Any) -> None:
    bench.admit(PEER)
    dial = bench.dial()
    bench.until(lambda: dial.up)
    bench.door.expel(PEER.peer)
    dial.send(m.Beat(1))  # over the connection that is still there
    bench.until(lambda: "unknown" in bench.news)
    assert not bench.heard and bench.door.rejected == 0
    bench.gate.expel(PEER.peer)  # and without a valid password
    bench.news.clear()
    bench.until(lambda: "unknown" in bench.news)
    assert {"zeromq": "refused", "lines": "does not know us"}[bench.over] in dial.problem
    bench.admit(PEER)
    bench.until(lambda: dial.up)


def test_the_same_identity_keeps_its_connection_another_does_not(bench: Any) -> None:
    bench.admit(PEER)
    dial = bench.dial()
    bench.until(lambda: dial.up)
    wire = dial._wire
    dial.identify(Identity(PEER.peer, PEER.session, PEER.password), [bench.address])
    assert dial._wire is wire
    bench.admit(OTHER)
    dial.identify(OTHER, [bench.address])
    bench.until(lambda: bench.door.connected(OTHER.peer))
    assert bench.news == ["renewed", "renewed"]


def test_addresses_are_tried_in_order(bench: Any, tmp_path: Any) -> None:
    bench.admit(PEER)
    dial = bench.dial()
    dial.close(0)
    other = bench.dial()
    other.identify(PEER, [f"ipc://{tmp_path}/no", "tcp://127.0.0.1:9", bench.address])
    bench.until(lambda: other.up)
    assert other.address == bench.address


# -- strangers -----------------------------------------------------------------------------


def test_recorded_frames_played_again_change_nothing(bench: Any) -> None:
    bench.admit(PEER)
    socket = bench.raw(PEER)
    sealer, _, hello = greet(bench, socket, PEER)
    said = doors.DATA + sealer.seal(packet(1, m.Beat(1)), doors.DATA)
    socket.send(said)
    bench.until(lambda: len(bench.heard) == 1)
    connection = bench.door.members[PEER.peer].connection

    socket.send(said)  # on the same connection
    bench.until(lambda: bench.door.rejected == 1)
    thief = bench.raw(PEER)
    thief.send(said)  # on another, without a greeting
    bench.until(lambda: bench.door.rejected == 2)
    assert bench.receive(thief) == doors.UNKNOWN
    thief.send(hello)  # with the recorded greeting
    assert bench.receive(thief)[:1] == doors.WELCOME
    thief.send(said)
    bench.until(lambda: bench.door.rejected == 3)
    assert len(bench.heard) == 1 and bench.renewed == [PEER.peer]
    assert bench.door.members[PEER.peer].connection is connection, "the peer is still in"
    socket.send(doors.DATA + sealer.seal(packet(2, m.Beat(2)), doors.DATA))
    bench.until(lambda: numbers([x for _, x in bench.heard]) == [1, 2])


def test_a_greeting_under_another_peers_name_does_not_open(bench: Any) -> None:
    bench.admit(PEER)
    bench.admit(OTHER)
    socket = bench.raw(OTHER)
    imposter = Identity(PEER.peer, OTHER.session, OTHER.password)
    ours = os.urandom(NONCE_BYTES)
    head = doors.HELLO + imposter.peer + ours
    key = connection_key(imposter.session, CHANNEL, GREETING, ours)
    socket.send(head + Sealer(key).seal(msgspec.msgpack.encode(Greeting(b"", 0)), head))
    bench.until(lambda: bench.door.rejected == 1)
    assert not bench.door.connected(PEER.peer)


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"H"],
        [b"H" + b"p" * 16],
        [b"H" + b"p" * 32 + b"x" * 40],
        [b"H" + b"p" * 10_000],
        [b"D"],
        [b"D" + b"x" * 100],
        [b"W" + b"x" * 100],
        [b"U"],
        [b"\0" * 64],
        [b"D" + b"x" * 50, b"more"],
        [b"L" + b"x" * 50],
        [b"L" + b"x" * 50, b"more"],
        [b"L" + b"x" * 50, b"more", b"and more"],
        [b"L", b""],
        [random.Random(7).randbytes(1000)],
    ],
    ids=lambda frames: repr(frames[0][:4]) + str(sum(map(len, frames))),
)
def test_nonsense_is_ignored_and_counted(bench: Any, frames: list[bytes]) -> None:
    bench.admit(PEER)
    socket = bench.raw(PEER)
    for _ in range(5):
        socket.send_multipart(frames)
    bench.until(lambda: bench.door.rejected == 5)
    assert not bench.heard and not bench.door.connected(PEER.peer)
    assert len(bench.log) == 3, "told of at the first, second and fourth"
    dial = bench.dial()
    bench.until(lambda: dial.up)


@pytest.mark.parametrize(
    "inside",
    [
        b"",
        b"x" * 15,
        packet(1, m.Query(1, "status")),
        packet(1) + b"\xff",
        packet(5, m.Beat(1)),
        (0).to_bytes(8, "little") + (9).to_bytes(8, "little"),
    ],
    ids=["empty", "short", "not for this role", "no list", "a gap", "too much acknowledged"],
)
def test_sealed_nonsense_reaches_nobody(bench: Any, inside: bytes) -> None:
    bench.admit(PEER)
    socket = bench.raw(PEER)
    sealer, _, _ = greet(bench, socket, PEER)
    socket.send(doors.DATA + sealer.seal(inside, doors.DATA))
    bench.until(lambda: bench.door.rejected == 1)
    assert not bench.heard


@over_zeromq
@pytest.mark.parametrize(
    "identity",
    [
        Identity(PEER.peer, PEER.session, b" "),
        Identity(PEER.peer, PEER.session, b"wrong"),
        Identity(PEER.peer, PEER.session, OTHER.password),
        Identity(b"x" * 16, PEER.session, PEER.password),
    ],
    ids=["nearly none", "wrong", "another's", "unknown name"],
)
def test_without_the_peers_own_password_nobody_gets_in(bench: Any, identity: Any) -> None:
    bench.admit(PEER)
    bench.admit(OTHER)
    dial = bench.dial(identity)
    bench.until(lambda: bench.gate.refused >= 3)
    assert not dial.up and not bench.heard and bench.door.rejected == 0


def test_after_many_greetings_without_a_word_others_still_get_in(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "MAX_PENDING", 4)
    bench.admit(PEER)
    idle = [bench.raw(PEER) for _ in range(8)]
    for socket in idle:
        greet(bench, socket, PEER)
    assert len(bench.door._pending) == 4
    dial = bench.dial()
    dial.send(m.Beat(1))
    bench.until(lambda: bench.heard)


# -- a door that is not ours ---------------------------------------------------------------


@over_zeromq
@pytest.mark.parametrize(
    "answer",
    [
        b"W",
        b"W" + b"x" * 16,
        b"W" + b"x" * 200,
        b"U",
        b"",
        b"D" + b"x" * 100,
        b"\xff" * 64,
    ],
    ids=["W", "W and a number", "W and noise", "U", "empty", "D", "noise"],
)
def test_a_hostile_welcome_convinces_no_peer(bench: Any, answer: bytes) -> None:
    bench.door.close()
    # Whoever listens there reads the password, and can finish the handshake.
    squatter = sockets.gated(bench.context.socket(zmq.ROUTER))
    squatter.setsockopt(zmq.LINGER, 0)
    bench.gate.admit(PEER.peer, PEER.password)
    squatter.bind(bench.address + "2")
    dial = bench.dial()
    dial.identify(PEER, [bench.address + "2"])
    try:
        for _ in range(2):
            bench.until(lambda: squatter.poll(0))
            sender, hello = squatter.recv_multipart()
            assert hello[:1] == doors.HELLO and PEER.session not in hello
            squatter.send_multipart([sender, answer])
            if answer[:1] in b"DU\xff" and answer[:1] != b"U":
                break  # ignored; the attempt ends by its time-out
        for _ in range(20):
            bench.turn()
        assert not dial.up and not bench.answers
        if answer[:1] == b"W":
            assert "not our controller" in " ".join(bench.states)
    finally:
        dial.close(0)
        squatter.close(0)
        bench.door = bench.open()


def test_a_welcome_recorded_for_another_connection_is_refused(bench: Any) -> None:
    bench.admit(PEER)
    socket = bench.raw(PEER)
    ours = os.urandom(NONCE_BYTES)
    head = doors.HELLO + PEER.peer + ours
    key = connection_key(PEER.session, CHANNEL, GREETING, ours)
    socket.send(head + Sealer(key).seal(msgspec.msgpack.encode(Greeting(b"", 0)), head))
    recorded = bench.receive(socket)
    dial = bench.dial()
    wire = dial._wire
    assert wire is not None
    dial._frames(wire, [recorded])
    assert not dial.up and "not our controller" in dial.problem
    bench.until(lambda: dial.up)


def test_a_frame_forged_for_a_connected_peer_is_not_acted_upon(bench: Any) -> None:
    """Whoever cuts into a connection is not heard, and what was on its way still comes."""
    bench.admit(PEER)
    dial = bench.dial()
    bench.until(lambda: dial.up)
    stranger = Sealer(os.urandom(32))
    for forged in (stranger.seal(packet(1, m.Beat(66)), doors.DATA), b"", b"noise"):
        wire = dial._wire
        assert wire is not None
        dial._frames(wire, [doors.DATA + forged])
        assert not dial.up and not bench.answers
        bench.until(lambda: dial.up)
    bench.door.send(PEER.peer, m.Beat(1))
    bench.until(lambda: bench.answers)
    assert numbers(bench.answers) == [1] and bench.news.count("renewed") == 1


def test_a_welcome_with_impossible_numbers_is_refused_without_harm(bench: Any) -> None:
    """Only the true controller could send it; the connection ends, not the process."""
    bench.admit(PEER)
    dial = bench.dial()
    bench.until(lambda: dial.up)
    dial.send(m.Beat(1))
    bench.until(lambda: bench.heard)
    dial._arrive(Welcome(dial._link_id, True, 10**6))
    assert not dial.up
    bench.until(lambda: dial.up)
