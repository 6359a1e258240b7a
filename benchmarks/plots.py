"""One small picture for each row of the report, as SVG, by matplotlib (extra ``docs``).

Takes results, measures nothing.  The same results give the same files.
"""

from __future__ import annotations

import importlib.util
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import rows
from benchmarks.figures import Figure, Results
from benchmarks.peers import OURS
from benchmarks.rows import BYTES, MB_PER_SECOND, MEGABYTES, MILLISECONDS, Quantity, shown

OWN, OTHERS = "#1b6ca8", "#b8b8b8"
_SCALE = {MILLISECONDS: 1e3, MEGABYTES: 1e-6, MB_PER_SECOND: 1e-6}


def why_not() -> str:
    """Why nothing can be drawn, or ''."""
    if importlib.util.find_spec("matplotlib") is None:
        return "plots need matplotlib, which is not installed here: pip install '.[docs]'"
    return ""


def write(folder: Path, results: Results) -> dict[str, Path]:
    """Draw each row that has figures into ``folder``; the files by row."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "ipclusterz", "font.size": 9}
    )
    folder.mkdir(exist_ok=True)
    drawn = {}
    for row in rows.ROWS:
        quantities = [q for q in row.quantities if any(f.values for f in results.of(q))]
        if quantities:
            drawn[row.name] = folder / f"{row.name}.svg"
            draw = _LINES.get(row.name, _bars)
            _save(drawn[row.name], results, quantities, draw)
    return drawn


Draw = Callable[[Any, Results, Quantity], None]


def _save(path: Path, results: Results, quantities: list[Quantity], draw: Draw) -> None:
    from matplotlib.figure import Figure as Canvas

    columns = min(3, len(quantities))
    lines = -(-len(quantities) // columns)
    canvas = Canvas(figsize=(3.6 * columns, 2.6 * lines), layout="constrained")
    for number, quantity in enumerate(quantities, 1):
        axes = canvas.add_subplot(lines, columns, number)
        axes.set_title(textwrap.fill(f"{quantity.title}, {quantity.unit}", 44), fontsize=8)
        draw(axes, results, quantity)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    canvas.savefig(path, format="svg", metadata={"Date": None})
    # Trailing blanks in it would look like mistakes in every comparison of versions.
    text = path.read_text("utf-8")
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", "utf-8")


def _measured(results: Results, quantity: Quantity) -> list[Figure]:
    return [figure for figure in results.of(quantity) if figure.values]


def _values(figures: list[Figure], quantity: Quantity) -> tuple[list[float], Any]:
    """Medians, and how far the quartiles are below and above them."""
    scale = _SCALE.get(quantity.unit, 1.0)
    medians = [figure.median * scale for figure in figures]
    low = [m - f.quartiles[0] * scale for m, f in zip(medians, figures, strict=True)]
    high = [f.quartiles[1] * scale - m for m, f in zip(medians, figures, strict=True)]
    return medians, [[max(0.0, x) for x in low], [max(0.0, x) for x in high]]


def _bars(axes: Any, results: Results, quantity: Quantity) -> None:
    """A bar for each peer or case, with its quartiles and the number at its end.

    From nought and never logarithmic: lengths are compared as they are seen.
    """
    figures = _measured(results, quantity)[::-1]
    medians, spread = _values(figures, quantity)
    colours = [OWN if f.peer.startswith(OURS.name) else OTHERS for f in figures]
    names = [figure.peer for figure in figures]
    bars = axes.barh(names, medians, xerr=spread, color=colours, ecolor="#444444", capsize=2)
    axes.bar_label(bars, [f" {shown(quantity, f.median)}" for f in figures], fontsize=7)
    axes.margins(x=0.2)
    axes.locator_params(axis="x", nbins=4)


def _growth(axes: Any, results: Results, quantity: Quantity) -> None:
    """A line over the numbers in the names of the cases."""
    figures = _measured(results, quantity)
    medians, spread = _values(figures, quantity)
    names = [figure.peer for figure in figures]
    numbers = [int(name.split()[0].replace(",", "")) for name in names]
    axes.errorbar(numbers, medians, yerr=spread, color=OWN, marker="o", markersize=3, capsize=2)
    axes.set_xscale("log")
    axes.set_xlabel(names[0].split(" ", 1)[1])
    axes.set_ylim(bottom=0)
    if quantity.unit == BYTES:
        axes.axhline(3000, color=OTHERS, linestyle=":")


_LINES: dict[str, Draw] = {"engines": _growth, "queue": _growth, "decisions": _growth}
"""Rows whose cases are sizes; the others are bars."""
