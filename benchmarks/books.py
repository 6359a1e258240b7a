"""Keeping the books of a run: values round by round, failures, and when to give up.

Pure but for the line of progress.  Each figure gets exactly one entry a round, so that
ratios can be taken within rounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from benchmarks import rows
from benchmarks.figures import Results
from benchmarks.peers import TABLE_ORDER, Peer
from benchmarks.progress import Progress
from benchmarks.rows import Quantity

STRIKES = 2
"""Failures after which a row of a peer is given up."""


@dataclass
class Measured:
    """One value of one quantity; ``details`` go to the JSON."""

    quantity: Quantity
    value: float
    details: dict[str, Any] = field(default_factory=dict)


class Books:
    """What is known so far: ``results``, and the failures of each peer's rows."""

    def __init__(self, progress: Progress) -> None:
        self.results = Results()
        self._progress = progress
        self._failures: Counter[tuple[str, str]] = Counter()

    def open(self, peers: Iterable[Peer], chosen: Iterable[str]) -> None:
        """Make the figures at once, so that tables are in the order people look for."""
        for peer in sorted(peers, key=TABLE_ORDER.index):
            for row in chosen:
                if row in peer.rows and row not in ("wide", *rows.ALONE):
                    for quantity in quantities(peer, row):
                        self.results.figure(peer.name, quantity)

    def add(self, peer: Peer, measured: Iterable[Measured]) -> None:
        self.add_found((peer.name, one) for one in measured)

    def absent(self, peer: Peer, row: str, why: str = "") -> None:
        """Note a round without a value for each quantity of ``row``."""
        for quantity in quantities(peer, row):
            figure = self.results.figure(peer.name, quantity)
            figure.rounds.append(None)
            figure.why = why or figure.why

    def add_found(self, found: Iterable[tuple[str, Measured]]) -> None:
        """Values of cases, which are called something else than the peer."""
        for name, one in found:
            figure = self.results.figure(name, one.quantity)
            figure.rounds.append(one.value)
            figure.details.update(one.details)

    def absent_alone(self, peer: Peer, row: str, why: str = "") -> None:
        """Note a round without a value for each case of ``row`` that is known by now."""
        for quantity in rows.BY_NAME[row].quantities:
            for figure in self.results.of(quantity) or [
                self.results.figure(peer.name, quantity)
            ]:
                figure.rounds.append(None)
                figure.why = why or figure.why

    def failed(self, peer: Peer, row: str, error: Exception) -> None:
        """A row went wrong (or the start of a peer's process, by whatever name)."""
        self._failures[peer.name, row] += 1
        end = "; given up" if self.given_up(peer, row) else ""
        self.trouble(f"{peer.name}, {row}: {error}{end}")

    def given_up(self, peer: Peer, row: str) -> bool:
        return self._failures[peer.name, row] >= STRIKES

    def trouble(self, text: str) -> None:
        self._progress.note(text)
        self.results.trouble.append(text)


def quantities(peer: Peer, row: str) -> list[Quantity]:
    """What ``row`` gives for ``peer``: not each can tell which processes are its engines."""
    found = rows.BY_NAME[row].quantities
    return [q for q in found if q is not rows.MEMORY_ENGINE or peer.everyone]
