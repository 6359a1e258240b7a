"""Figures: rounds of one quantity, ratios between peers, the bars that are to be reached.

Pure: takes numbers, gives numbers and words.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.peers import ECHO_IPC, LOKY, OURS, POOL

TASKS = "tasks"
TRIP = "round trip"
START = "start"
START_ALL = "start of all"
STOP = "start and stop"
MEMORY = "memory"


@dataclass
class Figure:
    """What was measured of one peer: one value a round; ``None`` for a round that failed.

    Units: tasks in tasks/s, times in seconds, memory in bytes.
    """

    peer: str
    quantity: str
    rounds: list[float | None] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> list[float]:
        return [value for value in self.rounds if value is not None]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest round."""
        return min(self.values), max(self.values)


def ratio(one: Figure, other: Figure) -> float | None:
    """Median over the rounds of ``one / other``, each ratio taken within a round.

    Rounds of the two are neighbours in time, so that a busy moment weighs on both.
    """
    pairs = zip(one.rounds, other.rounds, strict=False)
    ratios = [a / b for a, b in pairs if a is not None and b is not None and b > 0]
    return statistics.median(ratios) if ratios else None


@dataclass
class Results:
    """All figures of a run, what could not be measured and why, and the wide check."""

    figures: list[Figure] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    wide: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)

    def add(self, peer: str, quantity: str) -> Figure:
        figure = Figure(peer, quantity)
        self.figures.append(figure)
        return figure

    def get(self, peer: str, quantity: str) -> Figure | None:
        """The figure, if at least one of its rounds went well."""
        for figure in self.figures:
            if (figure.peer, figure.quantity) == (peer, quantity) and figure.values:
                return figure
        return None

    def as_json(self) -> dict[str, Any]:
        """Everything, in types JSON knows, with the verdict on each bar."""
        document = asdict(self)
        for entry, figure in zip(document["figures"], self.figures, strict=True):
            entry["median"] = figure.median if figure.values else None
        document["bars"] = [asdict(verdict) for verdict in verdicts(self)]
        return document


@dataclass
class Verdict:
    """One bar: the wish, what was measured, and whether it is reached (None: unknown)."""

    what: str
    wanted: str
    measured: str
    reached: bool | None


def verdicts(results: Results) -> list[Verdict]:
    """Each bar of this project against what was measured."""
    return [
        _against(results, TASKS, POOL.name, 5.0, at_least=True),
        _against(results, TRIP, ECHO_IPC.name, 4.0),
        _against(results, START, LOKY.name, 1.5),
        _memory(results),
        _wide(results),
    ]


def _against(
    results: Results, quantity: str, peer: str, bar: float, at_least: bool = False
) -> Verdict:
    reached: Callable[[float], bool] = (bar.__le__) if at_least else (bar.__ge__)
    what = f"{'tasks/s' if quantity == TASKS else quantity} beside {peer}"
    wanted = f"{'at least' if at_least else 'at most'} {bar:g}x"
    ours, theirs = results.get(OURS.name, quantity), results.get(peer, quantity)
    if ours is None or theirs is None:
        absent = OURS.name if ours is None else peer
        return Verdict(what, wanted, f"not measured: {absent}", None)
    value = ratio(ours, theirs)
    if value is None:
        return Verdict(what, wanted, "not measured: no round with both", None)
    return Verdict(what, wanted, f"{value:.2f}x", bool(reached(value)))


def _memory(results: Results, bar: float = 120e6) -> Verdict:
    what, wanted = "memory of the cluster of 4", f"at most {bar / 1e6:.0f} MB"
    ours = results.get(OURS.name, MEMORY)
    if ours is None:
        return Verdict(what, wanted, "not measured", None)
    return Verdict(what, wanted, f"{ours.median / 1e6:.1f} MB", ours.median <= bar)


def _wide(results: Results) -> Verdict:
    wide = results.wide
    what = f"a cluster of {wide.get('n', 200)} engines"
    if "answered" not in wide:
        why = wide.get("why", "left out")
        return Verdict(what, "each answers", f"not measured: {why}", None)
    said = f"{wide['answered']} of {wide['n']} answered"
    return Verdict(what, "each answers", said, wide["answered"] == wide["n"])
