"""Figures: one value a round for each peer and quantity; medians, quartiles, ratios.

Pure: takes numbers, gives numbers.  What they should be stands in bars.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from benchmarks.rows import ROWS, Quantity


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
    kept: list[dict[str, Any]] = field(default_factory=list)
    """Earlier runs of which rows are kept: as ``run``, with their ``load`` and ``rows``."""

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

    def keep(self, old: Results, measured: Iterable[str]) -> None:
        """Take over the rows of ``old`` that are not among those ``measured`` now.

        Whole rows only: a ratio is never taken between figures of two runs.
        """
        now = set(measured)
        rows_of = {q.key: row.name for row in ROWS for q in row.quantities}
        self.figures += [f for f in old.figures if rows_of.get(f.quantity, "") not in now]
        left = {rows_of[f.quantity] for f in old.figures if f.quantity in rows_of} - now
        latest = {**old.run, "load": old.load}
        for run in [*old.kept, latest]:
            rows = [name for name in run.get("rows", ()) if name in left]
            if rows:
                self.kept.append({**run, "rows": rows})
        self.versions = {**old.versions, **self.versions}

    def run_of(self, row: str) -> dict[str, Any]:
        """The run in which a row was measured, this one unless it was kept."""
        return next((run for run in self.kept if row in run["rows"]), self.run)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Results:
        """What :meth:`as_json` gave."""
        known = {f.name for f in fields(Figure)}
        figures = [
            Figure(**{key: value for key, value in entry.items() if key in known})
            for entry in document["figures"]
        ]
        names = ("missing", "trouble", "versions", "load", "run", "kept")
        return cls(figures, **{name: document[name] for name in names if name in document})

    def as_json(self) -> dict[str, Any]:
        """Everything, in types JSON knows."""
        document = asdict(self)
        for entry, figure in zip(document["figures"], self.figures, strict=True):
            known = bool(figure.values)
            entry["median"] = figure.median if known else None
            entry["quartiles"] = list(figure.quartiles) if known else None
        return document
