"""Sealed frames of each kind of message, damaged on the way in each way there is."""

from __future__ import annotations

import re
import typing
from typing import Any

import msgspec
import pytest

from ipclusterz.core import message as m
from ipclusterz.core.link import GapError, Link
from ipclusterz.net import door as doors
from ipclusterz.net.seal import TO_PEER, TO_SERVER, Opener, Sealer, SealError, connection_key
from tests.net.conftest import PEER
from tests.net.test_door import greet, numbers, packet

UNIONS = {
    name: getattr(m, name) for name in vars(m) if re.match(r"(From|To)[A-Z]", name)
}  # what each role may say to each part, and what it is told


def kinds(union: Any) -> tuple[type[msgspec.Struct], ...]:
    return typing.get_args(union) or (union,)


KINDS = sorted(
    ((name, kind) for name, union in UNIONS.items() for kind in kinds(union)),
    key=lambda each: (each[0], each[1].__name__),
)


def example(info: Any) -> Any:
    """A value of a type, as :mod:`msgspec.inspect` describes it."""
    i = msgspec.inspect
    if isinstance(info, i.StructType):
        return info.cls(*(example(f.type) for f in info.fields))
    if isinstance(info, i.UnionType):
        return example(info.types[0])
    if isinstance(info, i.ListType | i.VarTupleType):
        return [example(info.item_type)]
    if isinstance(info, i.TupleType):
        return tuple(example(each) for each in info.item_types)
    if isinstance(info, i.DictType):
        return {example(info.key_type): example(info.value_type)}
    plain: dict[type, Any] = {
        i.IntType: 3,
        i.FloatType: 1.5,
        i.StrType: "text",
        i.BytesType: b"bytes",
        i.BoolType: True,
        i.NoneType: None,
        i.AnyType: ["any", 1],
    }
    return plain[type(info)]


def made(kind: type[msgspec.Struct]) -> Any:
    return example(msgspec.inspect.type_info(kind))


def damaged(frame: bytes) -> list[bytes]:
    """The frame with each of its bytes changed, and with each possible end cut off."""
    flipped = [
        frame[:at] + bytes((frame[at] ^ 1 << at % 8,)) + frame[at + 1 :]
        for at in range(len(frame))
    ]
    return flipped + [frame[:at] for at in range(len(frame))]


@pytest.mark.parametrize(("union", "kind"), KINDS, ids=lambda v: getattr(v, "__name__", v))
def test_each_kind_of_message_arrives_whole_or_not_at_all(
    union: str, kind: type[msgspec.Struct]
) -> None:
    ours, theirs = b"o" * 16, b"t" * 16
    key = connection_key(PEER.session, 4, TO_SERVER, ours, theirs)
    back = connection_key(PEER.session, 4, TO_PEER, ours, theirs)
    sealer, opener = Sealer(key), Opener(key)
    message, link = made(kind), Link(UNIONS[union])
    frames = [sealer.seal(packet(number, message), b"D") for number in (1, 2, 3)]
    for each in damaged(frames[0]):
        with pytest.raises(SealError):
            opener.open(each, b"D")
    with pytest.raises(SealError):
        Opener(back).open(frames[0], b"D")  # thrown back at who sent it
    assert link.feed(opener.open(frames[0], b"D")) == [message], "attempts leave no mark"
    with pytest.raises(SealError, match="again"):
        opener.open(frames[0], b"D")
    with pytest.raises(GapError):  # the second one was dropped, or changed places
        link.feed(opener.open(frames[2], b"D"))
    with pytest.raises(SealError, match="again"):
        opener.open(frames[1], b"D")


HEARD = [each for each in KINDS if each[0] not in ("FromRegistration", "FromScheduler")]
HEARD = [each for each in HEARD if each[0].startswith("From")]


@pytest.mark.parametrize(("union", "kind"), HEARD, ids=lambda v: getattr(v, "__name__", v))
def test_a_door_refuses_counts_and_tells_once_in_a_while(
    bench: Any, union: str, kind: type[msgspec.Struct]
) -> None:
    bench.gate.admit(PEER.peer, PEER.password)
    bench.door.admit(PEER.peer, PEER.session, UNIONS[union])
    socket = bench.raw(PEER)
    sealer, _, hello = greet(bench, socket, PEER)
    (sender,) = bench.door._pending
    message = made(kind)
    frames = [doors.DATA + sealer.seal(packet(n, message), doors.DATA) for n in (1, 2, 3)]
    bad = [each for each in damaged(frames[0]) if each]
    for each in bad:
        bench.door._frames([sender, each])
    assert bench.heard == [] and bench.door.rejected == len(bad)
    bench.door._frames([sender, frames[0]])
    assert bench.heard == [(PEER.peer, message)]
    for each in (*bad, frames[0], frames[2], frames[1], hello):
        bench.door._frames([sender, each])
    assert bench.heard == [(PEER.peer, message)]
    assert bench.door.rejected == 2 * len(bad) + 4
    assert len(bench.log) <= (2 * len(bad) + 4).bit_length()
    assert bench.receive(socket) == doors.BROKEN
    more: list[bytes] = []
    for _ in range(20):
        bench.turn()
        while socket.poll(0):  # an acknowledgement of what was good may be due by now
            more.append(bench.receive(socket))
    assert doors.BROKEN not in more, "it is told once, and who never reads fills no memory"


@pytest.mark.parametrize("how", ["dropped", "changed", "exchanged", "repeated"])
def test_what_was_harmed_on_the_way_is_said_again_on_a_new_connection(
    bench: Any, how: str
) -> None:
    """Whoever changes the traffic cannot make one side wait for ever without a word."""
    bench.admit(PEER)
    dial = bench.dial()
    bench.until(lambda: dial.up)
    wire = dial._wire
    assert wire is not None
    frames: list[bytes] = []
    real = wire.socket
    wire.socket = _Held(real, frames)
    for n in (1, 2, 3, 4):
        dial.send(m.Beat(n))
        dial.flush()
    one, two, three, four = frames
    sent = {
        "dropped": [one, three, four],
        "changed": [one, two[:-1] + bytes((two[-1] ^ 1,)), three, four],
        "exchanged": [one, three, two, four],
        "repeated": [one, two, two, three, four],
    }[how]
    wire.socket = real
    for frame in sent:
        real.send_one(frame)
    bench.until(lambda: len(bench.heard) == 4)
    assert numbers([message for _, message in bench.heard]) == [1, 2, 3, 4]
    bench.until(lambda: dial.up and dial._wire is not wire)
    assert "changed or dropped on the way" in " ".join(bench.states)
    assert bench.door.rejected and bench.news.count("renewed") == 1


def test_a_dial_believes_no_answer_that_was_harmed(bench: Any) -> None:
    """Each damage ends the connection; on the next one the answer comes whole, once."""
    bench.admit(PEER)
    dial = bench.dial()
    bench.until(lambda: dial.up)
    for number in range(1, 30):
        bench.door.send(PEER.peer, m.Beat(number))
        bench.until(lambda n=number: len(bench.answers) == n)
        wire, sealer = dial._wire, bench.door.members[PEER.peer].connection.sealer
        forged = doors.DATA + sealer.seal(packet(number + 1, m.Beat(99)), doors.DATA)
        at = 1 + number * (len(forged) - 2) // 30
        dial._frames(wire, [forged[:at] + bytes((forged[at] ^ 1,)) + forged[at + 1 :]])
        assert not dial.up and dial._wire is not wire
        bench.until(lambda: dial.up)
    assert numbers(bench.answers) == [*range(1, 30)]


class _Held:
    """In place of a dial's socket: keeps what is sent."""

    def __init__(self, real: Any, frames: list[bytes]) -> None:
        self._real = real
        self.send_one = frames.append

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
