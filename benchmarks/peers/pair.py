"""One end of a bare one-way ZeroMQ pair: what a transfer between two hosts takes at least.

``python -m benchmarks.peers.pair send|receive bind|connect ADDRESS BYTES``; neither sealed,
numbered nor looked into, in pieces of 1 MiB.  The receiver prints the seconds from its first
piece to its last, and the bytes that came meanwhile, as JSON.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter

import zmq

PIECE = 1 << 20
PATIENCE = 120_000
"""Milliseconds without a piece after which an end gives up."""


def main(what: str, how: str, address: str, size: int) -> None:
    """Be one end until all has passed."""
    context = zmq.Context()
    socket = context.socket(zmq.PAIR)
    socket.sndtimeo = socket.rcvtimeo = socket.linger = PATIENCE
    getattr(socket, how)(address)
    pieces = max(2, size // PIECE)
    if what == "send":
        piece = bytes(PIECE)
        for _ in range(pieces):
            socket.send(piece, copy=False)
        socket.recv()  # before that not all has arrived
    else:
        socket.recv(copy=False)
        began = perf_counter()
        for _ in range(pieces - 1):
            socket.recv(copy=False)
        print(json.dumps([perf_counter() - began, (pieces - 1) * PIECE]), flush=True)
        socket.send(b"")
    socket.close()
    context.term()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
