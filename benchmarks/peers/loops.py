"""The loops every peer is timed with, so that all are timed alike, and their checks.

Standard library only (numpy inside the functions that make arrays); knows no peer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any


def time_tasks(
    submit: Callable[[], Any], collect: Callable[[list[Any]], object], count: int
) -> float:
    """Seconds to submit ``count`` tasks one by one and then collect all results."""
    began = perf_counter()
    collect([submit() for _ in range(count)])
    return perf_counter() - began


def time_map(run: Callable[[range], Iterable[int]], count: int) -> float:
    """Seconds until the values of ``count`` items are there; ValueError for wrong ones."""
    items = range(count)
    began = perf_counter()
    values = list(run(items))
    taken = perf_counter() - began
    if values != list(items):
        raise ValueError(f"a map of {count} items gave other values than asked for")
    return taken


def time_trips(trip: Callable[[], object], seconds: float, at_least: int = 20) -> list[float]:
    """Seconds of each round trip made, one after the other, during ``seconds``."""
    taken: list[float] = []
    end = perf_counter() + seconds
    while len(taken) < at_least or perf_counter() < end:
        began = perf_counter()
        trip()
        taken.append(round(perf_counter() - began, 7))
    return taken


def time_call(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that ``call()`` takes, and its value."""
    began = perf_counter()
    value = call()
    return perf_counter() - began, value


def new_array(megabytes: float, fill: int) -> Any:
    """A float64 array of ``megabytes`` 10^6 bytes whose every page is there; all ``fill``."""
    import numpy as np

    return np.full(int(megabytes * 1e6 / 8), float(fill))


def check_told(reports: Iterable[list[float]], array: Any, n: int) -> None:
    """Raise ValueError unless ``n`` engines told (benchmarks.work.told) of ``array``."""
    expected = [float(array.nbytes), float(array[0]), float(array[-1])]
    found = list(reports)
    if found != [expected] * n:
        raise ValueError(f"{n} engines should tell of {expected}, they told {found}")


def versions_of(*packages: str) -> dict[str, str]:
    """The versions of those ``packages`` that are installed, and of Python."""
    import importlib.metadata
    import platform

    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"python": platform.python_version()}
