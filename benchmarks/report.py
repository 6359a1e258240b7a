"""What a run found, as text for a terminal.

Takes results, measures nothing.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from benchmarks import rows
from benchmarks.bars import verdicts
from benchmarks.choices import notes
from benchmarks.figures import Figure, Results, ratio
from benchmarks.peers import OURS
from benchmarks.rows import Quantity, shown

QUIET = 0.1
"""Share of the cores that others may use before figures are to be doubted."""


def text(results: Results) -> str:
    """The whole report: machine, load, a table per quantity, bars, trouble, footnotes."""
    return "\n".join(_lines(results))


def _lines(results: Results) -> Iterator[str]:
    yield from _header(results)
    for quantity in rows.QUANTITIES:
        figures = results.of(quantity)
        if figures:
            yield ""
            better = "more" if quantity.more_is_better else "less"
            yield f"{quantity.title[0].upper()}{quantity.title[1:]}, {quantity.unit}"
            yield from _table(figures, results.get(OURS.name, quantity), quantity, better)
    yield from _bars(results)
    yield from _trouble(results)
    yield ""
    yield "How it was measured"
    for name, note in notes(results):
        yield from _wrapped(f"{name}: {note}".replace("`", ""))


def _header(results: Results) -> Iterator[str]:
    run = results.run
    yield f"{run['date']}  {machine_line(run)}"
    yield (
        f"{run['workers']} engines, workers or processes each; {run['rounds']} interleaved"
        f" rounds, each after a warm-up; medians and quartiles of the rounds"
    )
    for number, load in enumerate(results.load, 1):
        yield (
            f"  round {number}: load average {load['load before']:.2f} before and"
            f" {load['load after']:.2f} after; others used {load['others before']:.0%} of the"
            f" cores before and {load['others during']:.0%} during it; the hypervisor took"
            f" {load['stolen']:.1%}; {load['seconds']:.0f} s"
        )
    warning = not_quiet(results.load)
    if warning:
        yield f"WARNING: {warning}"
    for kept in results.kept:
        yield (
            f"kept from {kept['date']} ({kept['command']}): {', '.join(kept['rows'])}"
            + (f"; {not_quiet(kept['load'])}" if not_quiet(kept["load"]) else "")
        )
    for peer, versions in results.versions.items():
        yield f"  {peer}: " + ", ".join(f"{name} {value}" for name, value in versions.items())


def machine_line(run: dict[str, Any]) -> str:
    """The machine of a run in one line."""
    machine = run["machine"]
    return (
        f"{machine['processor']}, {machine['cores']} usable cores,"
        f" {machine['memory'] / 2**30:.0f} GiB, {machine['system']}, {machine['python']}"
    )


def not_quiet(loads: list[dict[str, float]]) -> str:
    """Why the machine was not quiet in the rounds of these loads, or ''."""
    keys = ("others before", "others during", "stolen")
    busy = [n for n, load in enumerate(loads, 1) if any(load[k] > QUIET for k in keys)]
    if not busy:
        return ""
    worst = max(load[key] for load in loads for key in keys)
    which = f"round{'s' if len(busy) > 1 else ''} {', '.join(map(str, busy))}"
    return (
        f"the machine was not quiet in {which} (others took up to {worst:.0%} of its cores):"
        " trust the ratios more than the figures, and neither much"
    )


def _table(
    figures: list[Figure], ours: Figure | None, quantity: Quantity, better: str
) -> Iterator[str]:
    yield f"  {better + ' is better':<24}{'median':>10}   {'quartiles':<22}{OURS.name} / this"
    for figure in figures:
        if not figure.values:
            yield from _wrapped(f"{figure.peer:<24}failed: {figure.why}")
            continue
        low, high = (shown(quantity, value) for value in figure.quartiles)
        spread = f"{low} … {high}" if len(figure.values) > 1 else "one round"
        lost = figure.rounds.count(None)
        end = f"  ({lost} rounds failed: {figure.why})" if lost else ""
        median = shown(quantity, figure.median)
        yield f"  {figure.peer:<24}{median:>10}   {spread:<22}{beside(ours, figure)}{end}"


def beside(ours: Figure | None, figure: Figure) -> str:
    """``3.2x``: ours divided by this one; '' for ours itself, and where there is none."""
    value = None if ours is None or ours is figure else ratio(ours, figure)
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}x"
    return f"{value:.3g}x" if value >= 0.1 else f"{value:.2g}x"


def _bars(results: Results) -> Iterator[str]:
    yield ""
    yield "Bars (what must hold) and wishes (what comes next)"
    unknown = []
    for verdict in verdicts(results):
        if verdict.measured.startswith("not measured"):
            unknown.append(verdict.what)
            continue
        yield f"  {verdict.what}: {verdict.measured}"
        if verdict.reached is not None:
            word = "reached" if verdict.reached else "NOT REACHED"
            yield f"      must be {verdict.must}: {word}"
        if verdict.wished is not None:
            word = "reached" if verdict.wished else "not yet"
            yield f"      wish {verdict.wish}: {word}"
    if unknown:
        yield from _wrapped(f"not measured in this run: {'; '.join(unknown)}")


def _trouble(results: Results) -> Iterator[str]:
    if results.missing or results.trouble:
        yield ""
        yield "Not as it should be"
        for peer, why in results.missing.items():
            yield from _wrapped(f"{peer} is missing: {why}")
        for line in dict.fromkeys(results.trouble):
            yield from _wrapped(line)


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, 96, initial_indent="  ", subsequent_indent="      ")
