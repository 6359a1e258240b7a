"""Sealed frames: what was changed, moved, repeated or sealed by others does not open."""

from __future__ import annotations

import os

import pytest

from ipclusterz.net.seal import (
    GREETING,
    NONCE_BYTES,
    TAG_BYTES,
    TO_PEER,
    TO_SERVER,
    ClusterKeys,
    Opener,
    PieceOpener,
    Sealer,
    SealError,
    connection_key,
    seal_piece,
)

SESSION = bytes(range(32))
OURS, THEIRS = b"o" * NONCE_BYTES, b"t" * NONCE_BYTES


def pair(direction: bytes = TO_SERVER, channel: int = 4) -> tuple[Sealer, Opener]:
    key = connection_key(SESSION, channel, direction, OURS, THEIRS)
    return Sealer(key), Opener(key)


@pytest.mark.parametrize("size", [0, 1, 100, 70_000])
def test_what_was_sealed_opens(size: int) -> None:
    sealer, opener = pair()
    data = os.urandom(size)
    for _ in range(3):
        frame = sealer.seal(data, b"D")
        assert len(frame) == size + 12 + 16
        assert opener.open(frame, b"D") == data


def test_every_flipped_bit_is_noticed() -> None:
    sealer, opener = pair()
    frame = sealer.seal(b"payload", b"D")
    for bit in range(len(frame) * 8):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealError):
            opener.open(bytes(damaged), b"D")
    for head in (b"", b"W", b"DD"):
        with pytest.raises(SealError):
            opener.open(frame, head)
    assert opener.open(frame, b"D") == b"payload", "attempts leave no mark"


@pytest.mark.parametrize("size", range(30))
def test_a_frame_cut_short_is_noticed(size: int) -> None:
    sealer, opener = pair()
    frame = sealer.seal(b"payload", b"D")
    with pytest.raises(SealError):
        opener.open(frame[:size], b"D")


def test_frames_open_once_and_in_order() -> None:
    sealer, opener = pair()
    frames = [sealer.seal(b"%d" % i) for i in range(5)]
    assert opener.open(frames[0]) == b"0"
    assert opener.open(frames[2]) == b"2", "a gap is allowed: the link notices what is lost"
    for old in (0, 1, 2):
        with pytest.raises(SealError, match="again"):
            opener.open(frames[old])
    assert opener.open(frames[3]) == b"3"


def test_the_counter_alone_cannot_be_moved_on() -> None:
    sealer, opener = pair()
    frame = sealer.seal(b"x")
    with pytest.raises(SealError):
        opener.open(b"\0\0\0\0" + (99).to_bytes(8, "big") + frame[12:])


def test_keys_differ_by_direction_channel_session_and_nonces() -> None:
    made = [
        connection_key(SESSION, 4, TO_SERVER, OURS, THEIRS),
        connection_key(SESSION, 4, TO_PEER, OURS, THEIRS),
        connection_key(SESSION, 5, TO_SERVER, OURS, THEIRS),
        connection_key(SESSION[::-1], 4, TO_SERVER, OURS, THEIRS),
        connection_key(SESSION, 4, TO_SERVER, THEIRS, OURS),
        connection_key(SESSION, 4, TO_SERVER, OURS, OURS),
        connection_key(SESSION, 4, GREETING, OURS),
    ]
    assert len(set(made)) == len(made) and {len(key) for key in made} == {32}


def test_a_frame_that_is_thrown_back_does_not_open() -> None:
    sealer, _ = pair(TO_SERVER)
    _, peer = pair(TO_PEER)
    with pytest.raises(SealError):
        peer.open(sealer.seal(b"mirror", b"D"), b"D")


def test_the_keys_of_a_cluster_follow_from_its_one_key() -> None:
    first, again = ClusterKeys(b"k" * 32), ClusterKeys(b"k" * 32)
    assert first.server_secret == again.server_secret
    secrets = {first.server_secret, first.client_secret, first.engine_secret}
    assert len(secrets) == 3 and not secrets & {first.server_public, first.client_public}
    assert first.secret("client") == first.client_secret
    assert first.secret("engine") == first.engine_secret
    assert ClusterKeys(b"j" * 32).client_secret != first.client_secret
    with pytest.raises(ValueError, match="15 bytes; 16 is the least"):
        ClusterKeys(b"k" * 15)


# -- pieces of payloads --------------------------------------------------------------------

SECRET, ID = bytes(range(32, 64)), b"i" * 16


def sealed(data: bytes, number: int = 1, offset: int = 0) -> bytes:
    to = memoryview(bytearray(len(data) + TAG_BYTES))
    seal_piece(SECRET, number, ID, offset, memoryview(data), to)
    return bytes(to)


def opened(
    piece: bytes,
    size: int,
    number: int = 1,
    offset: int = 0,
    secret: bytes = SECRET,
    id: bytes = ID,
) -> bytes:
    to = memoryview(bytearray(size))
    PieceOpener(secret, id).open(number, offset, piece, to)
    return bytes(to)


@pytest.mark.parametrize("size", [1, 100, 70_000])
def test_a_piece_opens_where_it_was_asked_for(size: int) -> None:
    data = os.urandom(size)
    piece = sealed(data, 3, 4096)
    assert len(piece) == size + 16
    assert data not in piece or size == 1  # one byte may be there by chance
    assert opened(piece, size, 3, 4096) == data


def test_a_piece_opens_nowhere_else() -> None:
    piece = sealed(b"x" * 50, 3, 4096)
    for wrong in (
        {"number": 4, "offset": 4096},
        {"number": 3, "offset": 0},
        {"number": 3, "offset": 4096, "id": b"j" * 16},
        {"number": 3, "offset": 4096, "secret": bytes(32)},
        {"number": 3, "offset": 4096, "size": 49},
        {"number": 3, "offset": 4096, "size": 51},
    ):
        with pytest.raises(SealError):
            opened(piece, **{"size": 50, **wrong})  # type: ignore[arg-type]


def test_every_flipped_bit_of_a_piece_is_noticed() -> None:
    piece = sealed(b"what is inside")
    for at in range(len(piece) * 8):
        changed = bytearray(piece)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(SealError, match="changed on the way"):
            opened(bytes(changed), len(piece) - TAG_BYTES)


def test_no_piece_is_sealed_without_a_key_of_full_length_and_a_number() -> None:
    to = memoryview(bytearray(4 + TAG_BYTES))
    for secret, number, offset in (
        (b"", 1, 0),
        (bytes(16), 1, 0),
        (SECRET, -1, 0),
        (SECRET, 1 << 64, 0),
        (SECRET, 1, -1),
    ):
        with pytest.raises(ValueError, match="without a key or a number"):
            seal_piece(secret, number, ID, offset, memoryview(b"data"), to)
    assert bytes(to) == bytes(4 + TAG_BYTES)
