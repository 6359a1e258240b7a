"""How much is measured: rounds, seconds, counts, sizes, limits.  Data only."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from benchmarks import rows

MAP_CHUNKS_AN_ENGINE = 8


@dataclass
class Plan:
    """``workers`` engines of each peer; ``seconds`` of each row; ``limit`` seconds at most.

    ``items`` go through a map of ours, fewer through one that needs more than
    ``map_seconds`` for them.  ``arrays`` transfers of ``megabytes`` (10^6 bytes) a round.
    ``wide`` are the sizes of large clusters of ours.  Rows in which ours is alone are measured
    in the first ``alone`` rounds only: ``growth`` engines, ``queued`` tasks, ``decided``
    engines of the scheduler's core; ``long`` tasks of 10 s among ``short`` ones of 1 ms on
    ``simulated`` engines; ``gigabyte`` bytes between two hosts.
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
    alone: int = 3
    growth: tuple[int, ...] = (4, 64, 256, 1000)
    queued: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    decided: tuple[int, ...] = (100, 10_000, 100_000)
    simulated: int = 64
    long: int = 640
    short: int = 64_000
    gigabyte: int = 1_000_000_000

    @classmethod
    def quick(cls) -> Plan:
        """The short form: about 75 s with the peers of the short form."""
        return cls(rows=rows.QUICK, rounds=3, seconds=0.4, settle=0.5)

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Plan:
        """The plan that ``asdict`` gave, perhaps through JSON; the unknown is left out."""
        known = {one.name for one in fields(cls)} & set(facts)
        values = {name: facts[name] for name in known}
        lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
        return cls(**{**values, **lists})

    @property
    def chunksize(self) -> int:
        """Items of a chunk in the map in chunks: what ipclusterz takes by ``'auto'``."""
        return -(-self.items // (MAP_CHUNKS_AN_ENGINE * self.workers))
