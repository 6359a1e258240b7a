"""The floor of moving an array: one copy of it into fresh memory.  Standard library only."""

from __future__ import annotations

from benchmarks.peers.loops import time_call, versions_of
from benchmarks.protocol import serve


class MemoryCopy:
    """Copies in its own process; ``push`` and ``pull`` are the same copy."""

    def __init__(self) -> None:
        self._source = b""

    def start(self, n: int) -> None:
        """Nothing to start; one copy whatever ``n`` says."""

    def push(self, megabytes: float, fill: int) -> float:
        self._source = bytes([fill]) * int(megabytes * 1e6)
        return self._copy()

    def pull(self) -> float:
        return self._copy()

    def versions(self) -> dict[str, str]:
        return versions_of()

    def stop(self) -> None:
        self._source = b""

    def _copy(self) -> float:
        # The old copy is freed first, as it is where an engine's name is bound anew.
        taken, copy = time_call(lambda: bytearray(self._source))
        if (len(copy), copy[-1]) != (len(self._source), self._source[-1]):
            raise ValueError("the copy differs from what was copied")
        return taken


if __name__ == "__main__":
    serve(MemoryCopy())
