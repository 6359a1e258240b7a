"""One end of a bare sealed transfer: what one between two hosts takes that keeps its promises.

``python -m benchmarks.peers.sealed send|receive bind|connect HOST:PORT BYTES``.  One plain TCP
connection, without messages, numbers, windows, other peers or a loop around it: the sender
seals pieces of 2 MiB (AES-256-GCM) out of its own memory, the receiver opens each and writes
it to a new file in shared memory, where engines could map it.  The receiver prints the seconds
from its first byte to its last piece, and the bytes, as JSON.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from time import monotonic, perf_counter, sleep

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PIECE = 2 << 20
TAG = 16
PATIENCE = 60.0
"""Seconds without a byte after which an end gives up."""

KEY = bytes(32)
FOLDER = "/dev/shm"


def reach(how: str, address: str) -> socket.socket:
    """Return the connection; TimeoutError or OSError without one."""
    host, _, port = address.rpartition(":")
    place = host, int(port)
    if how == "bind":
        with socket.create_server(place) as listening:
            listening.settimeout(PATIENCE)
            return listening.accept()[0]
    deadline = monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection(place, PATIENCE)
        except ConnectionRefusedError:
            if monotonic() > deadline:
                raise
            sleep(0.01)


def send(connection: socket.socket, pieces: int) -> None:
    """Seal and send what lies in this process's memory."""
    array = memoryview(bytearray(pieces * PIECE))
    for at in range(0, len(array), 4096):
        array[at] = 1  # else all of it would be one page of zeros
    seal = AESGCM(KEY).encrypt_into
    room = memoryview(bytearray(PIECE + TAG))
    for number in range(pieces):
        plain = array[number * PIECE : (number + 1) * PIECE]
        seal(number.to_bytes(12, "big"), plain, b"", room)
        connection.sendall(room)
    connection.recv(1)


def receive(connection: socket.socket, pieces: int) -> float:
    """Open what comes and keep it; return the seconds from the first byte on."""
    unseal = AESGCM(KEY).decrypt_into
    sealed, plain = memoryview(bytearray(PIECE + TAG)), memoryview(bytearray(PIECE))
    with tempfile.TemporaryFile(dir=FOLDER if os.path.isdir(FOLDER) else None) as file:
        began = 0.0
        for number in range(pieces):
            filled = 0
            while filled < len(sealed):
                got = connection.recv_into(sealed[filled:])
                if not got:
                    raise OSError("the sender has gone")
                began = began or perf_counter()
                filled += got
            unseal(number.to_bytes(12, "big"), sealed, b"", plain)
            os.pwrite(file.fileno(), plain, number * PIECE)
        seconds = perf_counter() - began
    connection.send(b"\0")
    return seconds


def main(what: str, how: str, address: str, size: int) -> None:
    """Be one end until all has passed."""
    pieces = max(1, size // PIECE)
    with reach(how, address) as connection:
        connection.settimeout(PATIENCE)
        if what == "send":
            send(connection, pieces)
        else:
            print(json.dumps([receive(connection, pieces), pieces * PIECE]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
