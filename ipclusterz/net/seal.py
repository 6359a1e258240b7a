"""Sealing: every message between a peer and a scheduler is encrypted and authenticated.

AES-256-GCM (NIST SP 800-38D) with keys from HKDF (RFC 5869).  Each connection has two keys
of its own, one a direction, derived from the peer's session key, the channel, and a fresh
random number of either side; so nothing recorded on one connection opens on another.  The
nonce is a counter that only ever grows: a replayed or reordered frame falls out.

Pieces of large payloads are sealed once, by their owner for whoever asked, with a key that the
asker made for this transfer and sent under the seal of its connection.  Schedulers hand them
on as they are, or seal them in the stead of an owner on their own host; the message that tells
of a piece is sealed and numbered like any other.

Open first, then decode: nothing here looks at what is inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct

import zmq
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from zmq.utils import z85

_COUNTER = Struct(">4xQ")
_PIECE = Struct(">Q")
TAG_BYTES = 16
KEY_BYTES = 32
NONCE_BYTES = 16

TO_SERVER = b"to server"
TO_PEER = b"to peer"
GREETING = b"greeting"


class SealError(Exception):
    """A frame that does not open: damaged, replayed, or sealed by somebody else."""


def connection_key(
    session: bytes, channel: int, direction: bytes, ours: bytes, theirs: bytes = b""
) -> bytes:
    """Derive the key of one direction of one connection.

    ``ours`` and ``theirs`` are the random numbers of the connecting and of the listening
    side.
    """
    info = b"ipclusterz 1|%d|%s|%s|%s" % (channel, direction, ours, theirs)
    return HKDFExpand(SHA256(), KEY_BYTES, info).derive(session)


class Sealer:
    """Seals frames under one key; the counter is the frame's first 12 bytes."""

    __slots__ = ("_count", "_encrypt")

    def __init__(self, key: bytes) -> None:
        self._encrypt = AESGCM(key).encrypt
        self._count = 0

    def seal(self, data: bytes, head: bytes = b"") -> bytes:
        """Return the sealed frame; ``head`` is authenticated and not contained."""
        self._count += 1
        nonce = _COUNTER.pack(self._count)
        return nonce + self._encrypt(nonce, data, head)


class Opener:
    """Opens frames of one key in the order they were sealed; gaps are allowed, returns not."""

    __slots__ = ("_decrypt", "_last")

    def __init__(self, key: bytes) -> None:
        self._decrypt = AESGCM(key).decrypt
        self._last = 0

    def open(self, frame: bytes | memoryview, head: bytes = b"") -> bytes:
        """Return what is inside, or raise :class:`SealError`."""
        nonce = frame[:12]
        try:
            data = self._decrypt(nonce, memoryview(frame)[12:], head)
        except (InvalidTag, ValueError):
            raise SealError("a frame that was not sealed with this connection's key") from None
        count: int = _COUNTER.unpack(nonce)[0]
        if count <= self._last:
            raise SealError(f"frame {count} came again after frame {self._last}")
        self._last = count
        return data


def seal_piece(
    secret: bytes, number: int, id: bytes, offset: int, data: memoryview, to: memoryview
) -> None:
    """Write a piece of a body into ``to``, so that only who has ``secret`` can open it.

    ``to`` is 16 bytes longer.  ``number`` must not be used twice with one secret.  ValueError
    for what is no key or no number.
    """
    if len(secret) != KEY_BYTES or not 0 <= number < 1 << 64 or not 0 <= offset < 1 << 64:
        raise ValueError("a request without a key or a number")
    bound = id + _PIECE.pack(offset)
    AESGCM(secret).encrypt_into(_COUNTER.pack(number), data, bound, to)


class PieceOpener:
    """Opens the pieces of one transfer, in any order: each has its place and number."""

    __slots__ = ("_decrypt", "_id")

    def __init__(self, secret: bytes, id: bytes) -> None:
        self._decrypt = AESGCM(secret).decrypt_into
        self._id = id

    def open(
        self, number: int, offset: int, sealed: bytes | memoryview, to: memoryview
    ) -> None:
        """Write what is inside into ``to``, whose size must be its own; else SealError.

        Then ``to`` holds nothing of worth.
        """
        if len(sealed) != len(to) + TAG_BYTES:
            raise SealError(f"a piece of {len(sealed)} bytes where {len(to)} were asked for")
        try:
            self._decrypt(_COUNTER.pack(number), sealed, self._id + _PIECE.pack(offset), to)
        except InvalidTag:
            raise SealError("a piece that was changed on the way") from None


class ClusterKeys:
    """The CURVE keys of a cluster, all from its one execution key.

    The server's pair belongs to the controller; each role's pair to whoever holds that
    role's connector file.  Keys are 40 bytes of Z85.  ``renewed`` holds a random salt for
    each role whose key was renewed (:mod:`ipclusterz.net.renewal`).
    """

    def __init__(self, exec_key: bytes, renewed: Mapping[str, bytes] | None = None) -> None:
        if len(exec_key) < 16:
            raise ValueError(f"the execution key has {len(exec_key)} bytes; 16 is the least")
        self.server_secret = _curve_secret(exec_key, b"server")
        salts = renewed or {}
        self.client_secret = _curve_secret(exec_key, b"client", salts.get("client"))
        self.engine_secret = _curve_secret(exec_key, b"engine", salts.get("engine"))
        self.server_public = zmq.curve_public(self.server_secret)
        self.client_public = zmq.curve_public(self.client_secret)
        self.engine_public = zmq.curve_public(self.engine_secret)

    def secret(self, role: str) -> bytes:
        """Return the secret of ``client`` or ``engine``."""
        return self.client_secret if role == "client" else self.engine_secret


def _curve_secret(exec_key: bytes, name: bytes, salt: bytes | None = None) -> bytes:
    info = b"ipclusterz 1|curve|" + name
    secret = HKDF(SHA256(), KEY_BYTES, salt, info).derive(exec_key)
    encoded: bytes = z85.encode(secret)
    return encoded
