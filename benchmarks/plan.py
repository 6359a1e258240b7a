"""How much is measured: rounds, seconds, counts, sizes, limits.  Data only."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import rows

MAP_CHUNKS_AN_ENGINE = 8


@dataclass
class Plan:
    """``workers`` engines of each peer; ``seconds`` of each row; ``limit`` seconds at most.

    ``items`` go through a map of ours, fewer through one that needs more than
    ``map_seconds`` for them.  ``arrays`` transfers of ``megabytes`` (10^6 bytes) a round.
    ``wide`` are the sizes of large clusters of ours.
    """

    rows: tuple[str, ...] = tuple(row.name for row in rows.ROWS)
    workers: int = 4
    rounds: int = 7
    seconds: float = 0.6
    items: int = 100_000
    map_seconds: float = 3.0
    megabytes: float = 100.0
    arrays: int = 3
    wide: tuple[int, ...] = (200,)
    weighed_after: int = 500
    limit: float = 60.0
    start_limit: float = 90.0
    settle: float = 1.0

    @classmethod
    def quick(cls) -> Plan:
        """The short form: about 75 s with the peers of the short form."""
        return cls(rows=rows.QUICK, rounds=3, seconds=0.4, settle=0.5)

    @property
    def chunksize(self) -> int:
        """Items of a chunk in the map in chunks: what ipclusterz takes by ``'auto'``."""
        return -(-self.items // (MAP_CHUNKS_AN_ENGINE * self.workers))
