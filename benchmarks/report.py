"""What a run found, as text for people and as JSON for programs.

Takes results, measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks import figures
from benchmarks.figures import Figure, Results, ratio, verdicts
from benchmarks.peers import OURS

Format = Callable[[float], str]


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


def _milliseconds(value: float) -> str:
    return f"{value * 1e3:.3f} ms"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _megabytes(value: float) -> str:
    return f"{value / 1e6:.1f} MB"


SECTIONS: tuple[tuple[str, str, Format], ...] = (
    (
        figures.TASKS,
        "No-op tasks one by one, collected: per second, more is better",
        _count,
    ),
    (figures.TRIP, "Round trip of one no-op task, less is better", _milliseconds),
    (figures.START, "Fresh Python process to its first result, less is better", _seconds),
    (figures.START_ALL, "The same until each engine or worker has answered", _seconds),
    (figures.STOP, "The same to the end of the process, all stopped", _seconds),
    (figures.MEMORY, "Memory of the cluster (PSS), without the asking process", _megabytes),
)


def text(results: Results) -> str:
    """The whole report: machine, a table per quantity, the bars, what went wrong."""
    return "\n".join(_lines(results))


def _lines(results: Results) -> Iterator[str]:
    yield from _header(results)
    for quantity, title, form in SECTIONS:
        rows = [figure for figure in results.figures if figure.quantity == quantity]
        if rows:
            yield ""
            yield title
            yield from _table(rows, results.get(OURS.name, quantity), form)
    yield from _width(results)
    yield from _bars(results)
    yield from _trouble(results)


def _header(results: Results) -> Iterator[str]:
    run = results.run
    machine = run["machine"]
    yield (
        f"{run['date']}  {machine['processor']}, {machine['cores']} usable cores, "
        f"{machine['memory'] / 2**30:.0f} GiB, {machine['system']}, {machine['python']}"
    )
    load = run["load"]
    yield (
        f"{run['workers']} engines, workers or processes each; {run['rounds']} interleaved "
        f"rounds of {run['seconds']:g} s, {run['starts']} starts, after a warm-up"
    )
    yield (
        f"load average {load['before'][0]:.2f} before, {load['after'][0]:.2f} after; "
        f"before the run others used {load['background']:.0%} of the cores, "
        f"during it the hypervisor took {load['stolen']:.1%}"
    )
    if load["background"] > 0.1:
        yield "The machine was not quiet: trust the ratios more than the figures."
    for peer, versions in results.versions.items():
        yield f"  {peer}: " + ", ".join(f"{name} {value}" for name, value in versions.items())


def _table(rows: list[Figure], ours: Figure | None, form: Format) -> Iterator[str]:
    yield f"  {'':<22}{'median':>12}   {'spread':<28}{OURS.name} / this"
    for figure in rows:
        if not figure.values:
            yield f"  {figure.peer:<22}{'failed':>12}"
            continue
        low, high = figure.spread
        spread = f"{form(low)} … {form(high)}" if len(figure.values) > 1 else "one round"
        beside = _beside(ours, figure)
        yield f"  {figure.peer:<22}{form(figure.median):>12}   {spread:<28}{beside}"


def _beside(ours: Figure | None, figure: Figure) -> str:
    value = None if ours is None or ours is figure else ratio(ours, figure)
    if value is None:
        return ""
    return f"{value:.2f}x" if value >= 0.1 else f"{value:.4f}x"


def _width(results: Results) -> Iterator[str]:
    wide = results.wide
    if "answered" in wide:
        yield ""
        yield (
            f"{wide['n']} engines of {OURS.name}: ready in {wide['start']:.2f} s, "
            f"{wide['answered']} different processes answered in {wide['answer']:.3f} s, "
            f"{_megabytes(wide['memory'])} in all"
        )


def _bars(results: Results) -> Iterator[str]:
    yield ""
    yield "Bars"
    for verdict in verdicts(results):
        words = {True: "reached", False: "NOT REACHED", None: "unknown"}[verdict.reached]
        yield f"  {verdict.what:<36}{verdict.wanted:<20}{verdict.measured:<26}{words}"


def _trouble(results: Results) -> Iterator[str]:
    if results.missing or results.trouble:
        yield ""
        yield "Not as it should be"
        for peer, why in results.missing.items():
            yield f"  {peer} is missing: {why}"
        for line in dict.fromkeys(results.trouble):
            yield f"  {line}"
