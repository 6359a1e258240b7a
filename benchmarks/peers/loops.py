"""The two loops every peer is timed with, so that all are timed alike.

Standard library only; knows no peer.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any


def time_tasks(
    submit: Callable[[], Any], collect: Callable[[Any], object], count: int
) -> float:
    """Seconds to submit ``count`` tasks one by one and then collect each result."""
    began = perf_counter()
    pending = [submit() for _ in range(count)]
    for one in pending:
        collect(one)
    return perf_counter() - began


def time_trips(trip: Callable[[], object], seconds: float, at_least: int = 20) -> list[float]:
    """Seconds of each round trip made, one after the other, during ``seconds``."""
    taken: list[float] = []
    end = perf_counter() + seconds
    while len(taken) < at_least or perf_counter() < end:
        began = perf_counter()
        trip()
        taken.append(round(perf_counter() - began, 7))
    return taken
