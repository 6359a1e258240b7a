"""Who is still there: judged by silence, never by a single missed beat.

A peer is *silent* after :data:`SILENT` heartbeats without a sign of life: it is told of as
"not responding", and gets nothing new, but keeps all it has.  It is *gone* when its lease is
over.  Proof of death (its process ended, it said goodbye) does not pass through here.

``now`` is any monotonic clock's reading in seconds.
"""

from __future__ import annotations

SILENT = 6.0
"""Heartbeat intervals of silence after which a peer counts as not responding."""


class Liveness:
    """Last signs of life; ``interval`` and ``lease`` are in seconds."""

    def __init__(self, interval: float, lease: float) -> None:
        self.interval = interval
        self.lease = lease
        self._seen: dict[bytes, float] = {}
        self._silent: dict[bytes, None] = {}

    def watch(self, peer: bytes, now: float) -> None:
        """Begin to watch a peer."""
        self._seen[peer] = now
        self._silent.pop(peer, None)

    def forget(self, peer: bytes) -> None:
        """Stop watching a peer."""
        self._seen.pop(peer, None)
        self._silent.pop(peer, None)

    def beat(self, peer: bytes, now: float) -> bool:
        """Note a sign of life; True when the peer had been silent and is back."""
        if peer not in self._seen:
            return False
        self._seen[peer] = now
        if peer in self._silent:
            del self._silent[peer]
            return True
        return False

    def silent(self, peer: bytes) -> bool:
        """Return whether a peer counts as not responding."""
        return peer in self._silent

    def judge(self, now: float) -> tuple[list[bytes], list[bytes]]:
        """Return the peers newly silent and those whose lease is over."""
        quiet = self.interval * SILENT
        silent: list[bytes] = []
        gone: list[bytes] = []
        for peer, seen in self._seen.items():
            age = now - seen
            if age >= self.lease:
                gone.append(peer)
            elif age >= quiet and peer not in self._silent:
                silent.append(peer)
        for peer in silent:
            self._silent[peer] = None
        return silent, gone
