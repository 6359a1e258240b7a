"""Figures: one value a round for each peer and quantity; medians, quartiles, ratios.

Pure: takes numbers, gives numbers.  What they should be stands in bars.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.rows import Quantity


@dataclass
class Figure:
    """What was measured of one peer: one value a round; ``None`` for a round without.

    Units: tasks/s, seconds, bytes.  ``why`` says what went wrong in the latest round that
    failed.
    """

    peer: str
    quantity: str
    rounds: list[float | None] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    why: str = ""

    @property
    def values(self) -> list[float]:
        return [value for value in self.rounds if value is not None]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and third quartile; of a single round, that round twice."""
        values = self.values
        if len(values) < 2:
            return values[0], values[0]
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return low, high


def ratio(one: Figure, other: Figure) -> float | None:
    """Median over the rounds of ``one / other``, each ratio taken within a round.

    Rounds of the two are neighbours in time, so that a busy moment weighs on both.
    """
    pairs = zip(one.rounds, other.rounds, strict=False)
    ratios = [a / b for a, b in pairs if a is not None and b is not None and b > 0]
    return statistics.median(ratios) if ratios else None


@dataclass
class Results:
    """All figures of a run, what could not be measured and why, versions, machine, load."""

    figures: list[Figure] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    load: list[dict[str, float]] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)

    def figure(self, peer: str, quantity: Quantity) -> Figure:
        """The figure of ``peer``, made if there is none yet."""
        for figure in self.figures:
            if (figure.peer, figure.quantity) == (peer, quantity.key):
                return figure
        self.figures.append(Figure(peer, quantity.key))
        return self.figures[-1]

    def get(self, peer: str, quantity: Quantity) -> Figure | None:
        """The figure, if at least one of its rounds went well."""
        for figure in self.figures:
            if (figure.peer, figure.quantity) == (peer, quantity.key) and figure.values:
                return figure
        return None

    def of(self, quantity: Quantity) -> list[Figure]:
        """Every peer's figure of ``quantity``, in the order they were first measured."""
        return [figure for figure in self.figures if figure.quantity == quantity.key]

    def as_json(self) -> dict[str, Any]:
        """Everything, in types JSON knows."""
        document = asdict(self)
        for entry, figure in zip(document["figures"], self.figures, strict=True):
            known = bool(figure.values)
            entry["median"] = figure.median if known else None
            entry["quartiles"] = list(figure.quartiles) if known else None
        return document
