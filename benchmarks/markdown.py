"""The page of results: written between two marks of a Markdown file, never typed.

Takes results, measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import pages, rows
from benchmarks.bars import verdicts
from benchmarks.choices import notes
from benchmarks.figures import Figure, Results
from benchmarks.peers import FLOORS, OURS, TABLE_ORDER
from benchmarks.report import beside, machine_line, not_quiet
from benchmarks.rows import Quantity, shown

COMMAND = "./dev bench --write-docs"
"""Stands in the marks of the page; see benchmarks.pages."""

HEADINGS = {
    "engines": "As engines grow",
    "queue": "As the queue grows",
    "hosts": "Between two hosts",
    "mixed": "Long and short tasks, simulated",
    "decisions": "The scheduler's decisions, as engines grow",
}


def write(page: Path, results: Results, plots: dict[str, Path] | None = None) -> None:
    """Put the tables between the marks of ``page``, or into a new page.

    ``plots`` are pictures by row, in a folder beside the page.
    """
    pages.write(page, COMMAND, text(results, plots), title="Benchmarks")


def text(results: Results, plots: dict[str, Path] | None = None) -> str:
    """The tables with date, machine, load, versions and footnotes, in Markdown."""
    return "\n".join(_lines(results, plots or {}))


def _lines(results: Results, plots: dict[str, Path]) -> Iterator[str]:
    run = results.run
    yield f"`{run['command']}` on {run['date'][:10]}: {machine_line(run)}."
    yield (
        f"{run['workers']} engines or workers each, {run['rounds']} interleaved rounds, each"
        " after a warm-up. Absolute figures belong to that machine; ratios travel better."
    )
    yield ""
    yield _load(results.load)
    yield from _kept(results)
    yield from _tables(results)
    yield from _wide(results)
    yield from _alone(results)
    yield from _bars(results)
    yield from _missing(results)
    yield from _plots(plots)
    yield ""
    yield "How it was measured:"
    yield ""
    for name, note in notes(results):
        yield f"- **{name}**: {note}"
    yield ""
    yield "Versions:"
    yield ""
    for peer, versions in results.versions.items():
        listed = ", ".join(f"{name} {value}" for name, value in versions.items())
        yield f"- {peer}: {listed}"


def _kept(results: Results) -> Iterator[str]:
    """What comes from earlier runs, and how quiet the machine was then."""
    for run in results.kept:
        yield ""
        yield (
            f"From `{run['command']}` on {run['date'][:10]} ({machine_line(run)},"
            f" {run['rounds']} rounds): {', '.join(run['rows'])}. {_load(run['load'])}"
        )


def _alone(results: Results) -> Iterator[str]:
    """A table for each row in which ours has no peer: a line for each case."""
    for name in rows.ALONE:
        quantities = [q for q in rows.BY_NAME[name].quantities if results.of(q)]
        cases = list(dict.fromkeys(f.peer for q in quantities for f in results.of(q)))
        if not cases:
            continue
        yield from ("", f"{HEADINGS[name]} (medians):", "")
        yield f"| case | {' | '.join(f'{q.title}, {q.unit}' for q in quantities)} |"
        yield "|---" * (len(quantities) + 1) + "|"
        for case in cases:
            figures = [results.get(case, quantity) for quantity in quantities]
            cells = [
                shown(q, figure.median) if figure else ""
                for q, figure in zip(quantities, figures, strict=True)
            ]
            yield f"| {case} | {' | '.join(cells)} |"


def _bars(results: Results) -> Iterator[str]:
    """What is aimed at, and whether it is reached."""
    known = [v for v in verdicts(results) if not v.measured.startswith("not measured")]
    judged = [v for v in known if v.reached is not None or v.wished is not None]
    if not judged:
        return
    yield from ("", "What is aimed at:", "", "| what | measured | aim | |", "|---|---|---|---|")
    for verdict in judged:
        aims = [(verdict.must, verdict.reached), (verdict.wish, verdict.wished)]
        for aim, reached in aims:
            if reached is not None:
                word = "reached" if reached else "**not reached**"
                yield f"| {verdict.what} | {verdict.measured} | {aim} | {word} |"


def _plots(plots: dict[str, Path]) -> Iterator[str]:
    for row, path in plots.items():
        yield ""
        yield f"![The row {row}]({path.parent.name}/{path.name})"


def _load(loads: list[dict[str, float]]) -> str:
    before = max(load["others before"] for load in loads)
    during = max(load["others during"] for load in loads)
    stolen = max(load["stolen"] for load in loads)
    said = (
        f"Others used at most {before:.0%} of the cores before a round and {during:.0%} during"
        f" one; the hypervisor took at most {stolen:.1%}."
    )
    warning = not_quiet(loads)
    return f"{said} **Warning**: {warning}." if warning else said


def _tables(results: Results) -> Iterator[str]:
    def median(figure: Figure, quantity: Quantity) -> str:
        return shown(quantity, figure.median)

    def quartiles(figure: Figure, quantity: Quantity) -> str:
        return " … ".join(shown(quantity, value) for value in figure.quartiles)

    def ratio(figure: Figure, quantity: Quantity) -> str:
        return beside(results.get(OURS.name, quantity), figure)

    yield from _table(results, "Medians", median)
    yield from _table(results, f"{OURS.name} divided by each, within rounds", ratio)
    yield from _table(results, "First and third quartile of the rounds", quartiles)


def _table(
    results: Results, title: str, cell: Callable[[Figure, Quantity], str]
) -> Iterator[str]:
    apart = [q for name in ("wide", *rows.ALONE) for q in rows.BY_NAME[name].quantities]
    quantities = [q for q in rows.QUANTITIES if q not in apart and results.of(q)]
    names = {figure.peer for quantity in quantities for figure in results.of(quantity)}
    columns = [peer.name for peer in TABLE_ORDER if peer.name in names and peer not in FLOORS]
    if not names:
        return
    yield from ("", f"{title}:", "")
    yield f"| what | {' | '.join([*columns, 'floor'])} |"
    yield "|---" * (len(columns) + 2) + "|"
    for quantity in quantities:
        cells = {figure.peer: _cell(figure, quantity, cell) for figure in results.of(quantity)}
        floors = [f"{p.name}: {cells[p.name]}" for p in FLOORS if cells.get(p.name)]
        values = [*(cells.get(name, "") for name in columns), "; ".join(floors)]
        yield f"| {quantity.title}, {quantity.unit} | {' | '.join(values)} |"


def _cell(figure: Figure, quantity: Quantity, cell: Callable[[Figure, Quantity], str]) -> str:
    return cell(figure, quantity) if figure.values else "failed"


def _wide(results: Results) -> Iterator[str]:
    for figure in results.of(rows.WIDE_READY):
        values = {q: results.get(figure.peer, q) for q in rows.BY_NAME["wide"].quantities}
        if all(values.values()):
            ready, trip, memory = (shown(q, f.median) for q, f in values.items() if f)
            yield ""
            yield (
                f"{figure.peer}: started and each answered, {min(figure.details['answered']):,}"
                f" different processes, in {ready} s; an apply on all took {trip} ms;"
                f" {memory} MB an engine, the whole cluster divided."
            )


def _missing(results: Results) -> Iterator[str]:
    failed = {f.peer: f.why for f in results.figures if not f.values and f.why}
    lines = {**results.missing, **failed}
    if lines:
        yield ""
        for name, why in lines.items():
            yield f"- {name} is missing or failed: {_plain(why)}"


def _plain(text: str) -> str:
    """What went wrong and the very last words, without paths, which mean nothing on a page."""
    what, _, words = text.split(" (log: ")[0].partition("; last words: ")
    return f"{what}: {words.split(' | ')[-1]}" if words and words != "none" else what
