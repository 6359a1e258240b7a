"""Links: numbering, acknowledging, going on after a break, and refusing what is wrong."""

from __future__ import annotations

from collections import deque
from itertools import groupby
from struct import pack, unpack_from

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipclusterz.core import link as link_module
from ipclusterz.core import message as m
from ipclusterz.core.link import (
    ACK_EVERY,
    MAX_BYTES,
    MAX_ITEMS,
    MAX_PACKET,
    WINDOW,
    Link,
    LinkError,
)


def numbers(packet: bytes) -> tuple[int, int]:
    number, ack = unpack_from("<QQ", packet)
    return number, ack


def send(sender: Link, *values: int) -> list[bytes]:
    sender.extend(m.Beat(value) for value in values)
    return sender.take()


def resume(link: Link, received: int = 0) -> list[bytes]:
    return [packet for packet, _ in link.resume(received)]


def pair() -> tuple[Link, Link]:
    return Link(m.Beat), Link(m.Beat)


def test_messages_arrive_in_order_and_once() -> None:
    one, two = pair()
    (packet,) = send(one, 1, 2, 3)
    assert two.feed(packet) == [m.Beat(1), m.Beat(2), m.Beat(3)]
    assert two.feed(packet) == []
    assert two.received == 1


def test_nothing_queued_means_nothing_to_send() -> None:
    one, _ = pair()
    assert one.take() == []
    one.put(m.Beat(1))
    assert one.waiting == 1
    assert len(one.take()) == 1
    assert one.waiting == 0
    assert one.take() == []


def test_packets_are_numbered_from_one_and_carry_the_last_number_received() -> None:
    one, two = pair()
    assert numbers(send(one, 1)[0]) == (1, 0)
    (second,) = send(one, 2)
    assert numbers(second) == (2, 0)
    three = Link(m.Beat)
    three.feed(send(two, 7)[0])
    assert numbers(send(three, 8)[0]) == (1, 1)


def test_an_acknowledgement_frees_what_was_kept() -> None:
    one, two = pair()
    for value in range(3):
        (packet,) = send(one, value)
        two.feed(packet)
    assert one.unacknowledged > 0
    ack = two.acknowledgement(force=True)
    assert ack is not None
    assert numbers(ack) == (0, 3)
    assert one.feed(ack) == []
    assert one.unacknowledged == 0
    assert one.resume(3) == []


def test_an_acknowledgement_frees_only_what_it_names() -> None:
    one, two = pair()
    packets = [send(one, value)[0] for value in range(3)]
    two.feed(packets[0])
    ack = two.acknowledgement(force=True)
    assert ack is not None
    one.feed(ack)
    assert one.unacknowledged == len(packets[1]) + len(packets[2])


def test_an_acknowledgement_is_due_after_so_many_packets() -> None:
    one, two = pair()
    for value in range(ACK_EVERY - 1):
        two.feed(send(one, value)[0])
        assert two.acknowledgement() is None
    two.feed(send(one, 0)[0])
    assert two.acknowledgement() is not None
    assert two.acknowledgement() is None
    assert two.acknowledgement(force=True) is None


def test_no_acknowledgement_is_owed_after_data_that_carried_it() -> None:
    one, two = pair()
    two.feed(send(one, 1)[0])
    two.put(m.Beat(2))
    (packet,) = two.take()
    assert numbers(packet) == (1, 1)
    assert two.acknowledgement(force=True) is None


def test_an_acknowledgement_is_not_acknowledged() -> None:
    one, two = pair()
    two.feed(send(one, 1)[0])
    ack = two.acknowledgement(force=True)
    assert ack is not None
    one.feed(ack)
    assert one.acknowledgement(force=True) is None


def test_what_was_lost_is_sent_again_on_the_next_connection() -> None:
    one, two = pair()
    packets = [send(one, value)[0] for value in range(4)]
    two.feed(packets[0])
    again = resume(one, two.received)
    assert [numbers(p)[0] for p in again] == [2, 3, 4]
    received = [message.n for packet in again for message in two.feed(packet)]
    assert received == [1, 2, 3]


def test_packets_sent_again_carry_what_was_received_meanwhile() -> None:
    one, two = pair()
    send(one, 1)
    one.feed(send(two, 9)[0])
    assert numbers(resume(one)[0]) == (1, 1)


def test_packets_that_arrive_twice_are_taken_once() -> None:
    one, two = pair()
    packets = [send(one, value)[0] for value in range(3)]
    for packet in packets:
        two.feed(packet)
    for packet in resume(one):
        assert two.feed(packet) == []
    assert two.received == 3


def test_a_gap_is_an_error() -> None:
    one, two = pair()
    send(one, 1)
    (second,) = send(one, 2)
    with pytest.raises(LinkError, match="packet 2 came after packet 0"):
        two.feed(second)
    assert two.received == 0


def test_an_acknowledgement_of_what_was_never_sent_is_an_error() -> None:
    one, _ = pair()
    send(one, 1)
    with pytest.raises(LinkError, match="acknowledged packet 2, sent only 1"):
        one.feed(pack("<QQ", 0, 2))
    with pytest.raises(LinkError, match="acknowledged packet 5"):
        one.resume(5)


@pytest.mark.parametrize("size", range(16))
def test_a_packet_without_its_numbers_is_an_error(size: int) -> None:
    with pytest.raises(LinkError, match=f"a packet of {size} bytes"):
        Link(m.Beat).feed(b"x" * size)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        m.encode([m.Stream(1, 2, 1, "text")]),
        m.encode([m.Beat(1)]) + b"tail",
        m.encode([m.Beat(1)])[:-1],
        m.encode(m.Beat(1)),
        m.encode([["not a number"]]),
    ],
)
def test_garbage_after_the_numbers_is_an_error_and_changes_nothing(payload: bytes) -> None:
    link = Link(m.FromScheduler if payload == b"" else m.Beat)
    with pytest.raises(LinkError, match="a message that does not belong here"):
        link.feed(pack("<QQ", 1, 0) + payload)
    assert link.received == 0
    assert link.acknowledgement(force=True) is None


def test_a_message_that_the_role_does_not_permit_is_an_error() -> None:
    client, scheduler = Link(m.ToClientWork), Link(m.FromClientTask)
    client.put(m.RollCall([], [], []))
    with pytest.raises(LinkError, match="does not belong here"):
        scheduler.feed(client.take()[0])


@given(st.binary(max_size=64))
def test_no_bytes_do_more_than_raise_a_link_error(data: bytes) -> None:
    link = Link(m.FromAgentWork)
    try:
        link.feed(data)
    except LinkError:
        assert link.received == 0


def test_reset_forgets_both_directions() -> None:
    one, two = pair()
    two.feed(send(one, 1)[0])
    one.feed(send(two, 2)[0])
    send(one, 3)
    one.put(m.Beat(4))
    one.reset()
    assert (one.waiting, one.unacknowledged, one.received) == (0, 0, 0)
    assert one.resume(0) == []
    assert one.acknowledgement(force=True) is None
    assert numbers(send(one, 5)[0]) == (1, 0)


def test_reset_may_keep_what_has_not_left() -> None:
    one, two = pair()
    send(one, 3)
    one.put(m.Beat(4))
    one.reset(unsent=True)
    assert (one.waiting, one.unacknowledged, one.received) == (1, 0, 0)
    assert two.feed(one.take()[0]) == [m.Beat(4)]


# -- splitting -----------------------------------------------------------------------------


def test_many_messages_are_split_by_number() -> None:
    one, two = pair()
    packets = send(one, *range(2 * MAX_ITEMS + 5))
    received = [two.feed(packet) for packet in packets]
    assert max(len(messages) for messages in received) <= MAX_ITEMS
    assert [x.n for messages in received for x in messages] == list(range(2 * MAX_ITEMS + 5))


def test_packets_follow_the_size_of_messages() -> None:
    """A link learns how many fit, and what it tries in vain stays a small part of the work."""
    link, other = Link(m.Function), Link(m.Function)
    counts: list[int] = []
    for size in (10, 20_000, 10):
        for _ in range(20):
            link.extend(m.Function(b"", bytes(size)) for _ in range(MAX_ITEMS // 4))
            for packet in link.take():
                counts.append(len(other.feed(packet)))
                assert len(packet) <= MAX_BYTES + 20_100
            link.resume(other.received)
        counts.append(0)
    small, large, again = (list(g) for k, g in groupby(counts, bool) if k)
    assert max(small) == MAX_ITEMS // 4 == max(again[10:])
    assert set(large[20:]) == {53, (MAX_ITEMS // 4) % 53}, "as many as fit"


@pytest.mark.parametrize("n", [2, 8, 9, 40])
def test_large_messages_are_split_by_size_whatever_their_number(n: int) -> None:
    link = Link(m.Function)
    data = b"x" * MAX_BYTES
    link.extend(m.Function(b"%d" % i, data) for i in range(n))
    packets = link.take()
    assert max(map(len, packets)) < 2 * MAX_BYTES + 1000
    other = Link(m.Function)
    received = [x.digest for packet in packets for x in other.feed(packet)]
    assert received == [b"%d" % i for i in range(n)]


@pytest.mark.parametrize("n", [8, 400])
def test_messages_that_are_large_in_other_fields_are_split_too(n: int) -> None:
    """A frame above the sockets' limit would break every connection that it is sent on."""
    link = Link(m.Stream)
    link.extend(m.Stream(i, 0, 1, "x" * 500_000) for i in range(n // 8))
    link.extend(m.Stream(i, 0, 1, "x" * 60_000) for i in range(n))
    packets = link.take()
    assert max(map(len, packets)) < MAX_PACKET + 16 + 1
    other = Link(m.Stream)
    assert sum(len(other.feed(packet)) for packet in packets) == n // 8 + n


@pytest.mark.parametrize("n", [1, 5])
def test_what_cannot_be_encoded_is_given_back_and_the_rest_leaves(n: int) -> None:
    one, two = pair()
    refused: list[tuple[m.Beat, Exception]] = []
    one.refuse = lambda message, error: refused.append((message, error))
    odd = m.Beat(object())  # type: ignore[arg-type]
    one.extend([odd, *(m.Beat(value) for value in range(n - 1))])
    came = [x.n for packet in one.take() for x in two.feed(packet)]
    assert came == list(range(n - 1))
    assert {id(message) for message, _ in refused} == {id(odd)} and one.queue == []
    assert all(isinstance(error, TypeError) for _, error in refused)
    assert [x.n for packet in send(one, 7) for x in two.feed(packet)] == [7]
    one.refuse = None
    one.put(odd)
    with pytest.raises(TypeError):
        one.take()


def test_one_message_may_be_larger_than_a_packet_should_be() -> None:
    link = Link(m.Function)
    link.put(m.Function(b"d", b"x" * (3 * MAX_BYTES)))
    assert len(link.take()) == 1


# -- the window ----------------------------------------------------------------------------


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(link_module, "WINDOW", 10_000)
    return 10_000


@pytest.mark.parametrize("size", [100, 3000])
def test_a_link_stops_sending_at_its_window_and_goes_on_when_acknowledged(
    narrow: int, size: int
) -> None:
    one, two = Link(m.Function), Link(m.Function)
    sent = 0
    for i in range(1000):
        one.put(m.Function(b"%d" % i, b"x" * size))
        for packet in one.take():
            two.feed(packet)
            sent += 1
    assert sent < 1000
    assert narrow <= one.unacknowledged < narrow + 2 * size + 1000
    before = one.waiting
    assert before == 1000 - sent
    ack = two.acknowledgement(force=True)
    assert ack is not None
    one.feed(ack)
    assert one.take()
    assert one.waiting < before


def test_the_window_closes_between_the_packets_of_one_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "WINDOW", 3 * MAX_BYTES)
    link = Link(m.Function)
    link.extend(m.Function(b"%d" % i, b"x" * MAX_BYTES) for i in range(20))
    assert len(link.take()) == 3
    assert link.waiting == 17
    assert link.take() == []


def test_the_window_is_wide() -> None:
    assert WINDOW >= 16 * MAX_BYTES


# -- two links over a channel that breaks --------------------------------------------------


class Wire:
    """Two links, joined by connections that keep order and lose their tails."""

    def __init__(self) -> None:
        self.ends = (Link(m.Beat), Link(m.Beat))
        self.flying: tuple[deque[bytes], deque[bytes]] = (deque(), deque())
        self.got: tuple[list[int], list[int]] = ([], [])
        self.put: tuple[list[int], list[int]] = ([], [])

    def write(self, end: int, n: int) -> None:
        for _ in range(n):
            self.ends[end].put(m.Beat(len(self.put[end])))
            self.put[end].append(len(self.put[end]))

    def flush(self, end: int) -> None:
        self.flying[end].extend(self.ends[end].take())

    def acknowledge(self, end: int) -> None:
        packet = self.ends[end].acknowledgement(force=True)
        if packet is not None:
            self.flying[end].append(packet)

    def arrive(self, end: int, n: int) -> None:
        """Up to ``n`` packets that ``end`` sent reach the other one."""
        for _ in range(min(n, len(self.flying[end]))):
            messages = self.ends[1 - end].feed(self.flying[end].popleft())
            self.got[1 - end].extend(message.n for message in messages)

    def reconnect(self, late: int) -> None:
        """A new connection; up to ``late`` packets still come on the old one meanwhile.

        Each side says what it has received when it greets, so what comes after that is sent
        twice.
        """
        known = (self.ends[0].received, self.ends[1].received)
        self.arrive(0, late)
        for end in (0, 1):
            self.flying[end].clear()
        for end in (0, 1):
            self.flying[end].extend(resume(self.ends[end], known[1 - end]))


step = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 1), st.integers(1, 12)),
    st.tuples(st.just("flush"), st.integers(0, 1)),
    st.tuples(st.just("acknowledge"), st.integers(0, 1)),
    st.tuples(st.just("arrive"), st.integers(0, 1), st.integers(1, 5)),
    st.tuples(st.just("reconnect"), st.integers(0, 3)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(step, max_size=60))
def test_every_message_arrives_once_and_in_order_over_connections_that_break(
    steps: list[tuple[object, ...]],
) -> None:
    wire = Wire()
    for name, *arguments in steps:
        getattr(wire, str(name))(*arguments)
        for end in (0, 1):
            assert wire.got[end] == wire.put[1 - end][: len(wire.got[end])]
    wire.reconnect(0)
    for _ in range(3):
        for end in (0, 1):
            wire.flush(end)
            wire.acknowledge(end)
            wire.arrive(end, 10**6)
    assert wire.got[0] == wire.put[1]
    assert wire.got[1] == wire.put[0]
    assert wire.ends[0].unacknowledged == wire.ends[1].unacknowledged == 0


# -- pieces of payloads --------------------------------------------------------------------


def load(number: int, size: int = 100) -> m.Load:
    return m.Load(m.Chunk(7, b"i" * 16, 0, number), bytes(size))


def told(message: m.Load) -> tuple[int, int]:
    return message.chunk.number, len(message.data)


def test_a_piece_goes_beside_its_packet_and_after_the_messages() -> None:
    one, two = Link(m.Beat), Link(m.Chunk)
    one.load(load(1))
    one.load(load(2, 50))
    one.put(m.Beat(5))
    assert one.waiting == 3
    (beat, none), *loads = one.leaving()
    assert one.waiting == 0 and none is None
    assert Link(m.Beat).feed(beat) == [m.Beat(5)]
    assert [len(data or b"") for _, data in loads] == [100, 50]
    assert all(len(packet) < 100 for packet, _ in loads), "the data is not in it"
    two.received = 1
    assert [told(x) for packet, data in loads for x in two.feed(packet, data)] == [
        (1, 100),
        (2, 50),
    ]


def test_a_piece_is_kept_with_its_data_until_it_is_acknowledged() -> None:
    one, two = Link(m.Beat), Link(m.Chunk)
    one.load(load(1))
    ((packet, data),) = one.leaving()
    kept = one.unacknowledged
    assert kept == len(packet) + 100
    ((again, same),) = one.resume(0)
    assert same is data and numbers(again) == (1, 0)
    assert [told(x) for x in two.feed(again, same)] == [(1, 100)]
    assert two.feed(packet, data) == [], "it came a second time"
    ack = two.acknowledgement(force=True)
    assert ack is not None
    one.feed(ack)
    assert one.unacknowledged == 0 and one.resume(1) == []


def test_no_more_pieces_leave_than_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "WINDOW", 1000)
    one = Link(m.Beat)
    for number in range(9):
        one.load(load(number, 400))
    assert len(list(one.leaving())) == 3
    assert list(one.leaving()) == [] and one.waiting == 6
    one.feed(pack("<QQ", 0, 2))
    assert len(list(one.leaving())) == 2


def test_one_after_the_other_is_made_when_it_leaves() -> None:
    one = Link(m.Beat)
    one.load(load(1))
    one.load(load(2))
    next(one.leaving())
    assert one.waiting == 1, "the connection broke: what has not left waits"


def test_data_that_no_piece_tells_of_is_an_error() -> None:
    for messages in ([m.Beat(1)], [load(1).chunk] * 2, []):
        link = Link(m.Beat | m.Chunk)
        with pytest.raises(LinkError, match="data that its packet does not tell of"):
            link.feed(pack("<QQ", 1, 0) + m.encode(messages), b"data")
        assert link.received == 0


def test_a_new_incarnation_is_sent_no_piece_of_the_one_before() -> None:
    for unsent in (False, True):
        one = Link(m.Beat)
        one.load(load(1))
        next(one.leaving())
        one.load(load(2))
        one.reset(unsent)
        assert (one.waiting, one.unacknowledged, one.resume(0)) == (0, 0, [])
