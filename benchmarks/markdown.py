"""The page of results: written between two marks of a Markdown file, never typed.

Takes results, measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import rows
from benchmarks.choices import notes
from benchmarks.figures import Figure, Results
from benchmarks.peers import FLOORS, OURS, TABLE_ORDER
from benchmarks.plan import Plan
from benchmarks.report import beside, machine_line, not_quiet
from benchmarks.rows import Quantity, shown

BEGIN = "<!-- written by ./dev bench --write-docs: begin -->"
END = "<!-- written by ./dev bench --write-docs: end -->"

Cell = Callable[[Figure], str]


def why_not(page: Path) -> str:
    """Why ``page`` cannot take a table, or ''; a page that is not there yet can."""
    if not page.exists():
        return "" if page.parent.is_dir() else f"there is no folder {page.parent}"
    try:
        text = page.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        return f"{page} cannot be read: {error}"
    if text.count(BEGIN) == text.count(END) == 1 and text.index(BEGIN) < text.index(END):
        return ""
    return f"{page} must have these two lines once, in this order: {BEGIN} {END}"


def write(page: Path, results: Results, plan: Plan) -> None:
    """Put the tables between the marks of ``page``, or into a new page."""
    table = f"{BEGIN}\n\n{text(results, plan)}\n\n{END}"
    if not page.exists():
        page.write_text(f"# Benchmarks\n\n{table}\n", encoding="utf-8")
        return
    old = page.read_text("utf-8")
    head, tail = old[: old.index(BEGIN)], old[old.index(END) + len(END) :]
    page.write_text(head + table + tail, encoding="utf-8")


def text(results: Results, plan: Plan) -> str:
    """The tables with date, machine, load, versions and footnotes, in Markdown."""
    return "\n".join(_lines(results, plan))


def _lines(results: Results, plan: Plan) -> Iterator[str]:
    run = results.run
    yield f"`{run['command']}` on {run['date'][:10]}: {machine_line(results)}."
    yield (
        f"{run['workers']} engines or workers each, {run['rounds']} interleaved rounds, each"
        " after a warm-up. Absolute figures belong to that machine; ratios travel better."
    )
    yield ""
    yield _load(results)
    yield from _tables(results)
    yield from _wide(results)
    yield from _missing(results)
    yield ""
    yield "How it was measured:"
    yield ""
    for name, note in notes(results, plan):
        yield f"- **{name}**: {note}"
    yield ""
    yield "Versions:"
    yield ""
    for peer, versions in results.versions.items():
        listed = ", ".join(f"{name} {value}" for name, value in versions.items())
        yield f"- {peer}: {listed}"


def _load(results: Results) -> str:
    before = max(load["others before"] for load in results.load)
    during = max(load["others during"] for load in results.load)
    stolen = max(load["stolen"] for load in results.load)
    said = (
        f"Others used at most {before:.0%} of the cores before a round and {during:.0%} during"
        f" one; the hypervisor took at most {stolen:.1%}."
    )
    warning = not_quiet(results)
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
    apart = (rows.WIDE_READY, rows.WIDE_APPLY, rows.WIDE_MEMORY)
    quantities = [q for q in rows.QUANTITIES if q not in apart and results.of(q)]
    names = {figure.peer for quantity in quantities for figure in results.of(quantity)}
    columns = [peer.name for peer in TABLE_ORDER if peer.name in names and peer not in FLOORS]
    if not columns and not names:
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
