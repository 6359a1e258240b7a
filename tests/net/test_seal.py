"""Sealed frames: what was changed, moved, repeated or sealed by others does not open."""

from __future__ import annotations

import os

import pytest

from ipclusterz.net.seal import (
    GREETING,
    NONCE_BYTES,
    TO_PEER,
    TO_SERVER,
    ClusterKeys,
    Opener,
    Sealer,
    SealError,
    connection_key,
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
