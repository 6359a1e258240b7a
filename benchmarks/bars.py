"""The bars: what ipclusterz has promised to reach, and what it wants to reach next.

Pure.  Each compares ours with a peer or a floor of the same run, or with a fixed size.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import rows
from benchmarks.cases import BARE, PAIR, SEALED, engines_name, queue_name
from benchmarks.figures import Results, ratio
from benchmarks.peers import COPY, ECHO_IPC, IMPORTS, IPYPARALLEL, LOKY, OURS, POOL, RAY, Peer
from benchmarks.rows import Quantity


@dataclass(frozen=True)
class Bar:
    """Ours divided by ``beside`` (or ours itself): what must hold, and what is wished for.

    ``unit`` scales a fixed size for people; ``n`` names a wide cluster; ``case`` is another
    name of a figure of ours, and ``than`` the case it is divided by.
    """

    quantity: Quantity
    beside: Peer | None = None
    must: float | None = None
    wish: float | None = None
    unit: tuple[float, str] = (1.0, "x")
    n: int = 0
    case: str = ""
    than: str = ""

    @property
    def ours(self) -> str:
        """The name of our figure."""
        return self.case or (wide_name(self.n) if self.n else OURS.name)

    @property
    def other(self) -> str:
        """The name of the figure that ours is divided by, or ''."""
        return self.than or (self.beside.name if self.beside else "")


def wide_name(n: int) -> str:
    """What the figures of a cluster of ``n`` engines of ours are called."""
    return f"{OURS.name}, {n:,} engines"


MB = (1e6, " MB")
FLAT = 1 / 1.2
"""What counts as flat: a fifth more time a task at most."""

BARS = (
    Bar(rows.TASKS, POOL, must=5, wish=10),
    Bar(rows.TASKS, IPYPARALLEL, wish=150),
    Bar(rows.MAP, POOL, wish=12),
    Bar(rows.MAP_CHUNKS, POOL, wish=1),
    Bar(rows.BALANCED, ECHO_IPC, must=4, wish=2.5),
    Bar(rows.APPLY, ECHO_IPC, wish=4),
    Bar(rows.START, LOKY, must=1.5, wish=1),
    Bar(rows.START, IMPORTS, wish=4),
    Bar(rows.MEMORY, must=120e6, wish=80e6, unit=MB),
    Bar(rows.MEMORY_ENGINE, wish=6e6, unit=MB),
    Bar(rows.PUSH, RAY, wish=1),
    Bar(rows.PUSH, COPY),
    Bar(rows.PULL, RAY, wish=1),
    Bar(rows.WIDE_READY, wish=12, unit=(1.0, " s"), n=1000),
    Bar(rows.WIDE_MEMORY, wish=5e6, unit=MB, n=1000),
    *(
        Bar(rows.GROWTH, wish=FLAT, case=engines_name(n), than=engines_name(4))
        for n in (64, 256, 1000)
    ),
    *(
        Bar(quantity, wish=1.2, case=queue_name(n))
        for n in (100_000, 1_000_000)  # of fewer, a tenth is a few batches
        for quantity in (rows.QUEUE_OUT, rows.QUEUE_IN)
    ),
    *(
        Bar(rows.QUEUE_CLIENT, wish=3000, unit=(1.0, " bytes"), case=queue_name(n))
        for n in (100_000, 1_000_000)
    ),
    Bar(rows.QUEUE_ALL, wish=300e6, unit=MB, case=queue_name(1_000_000)),
    Bar(rows.HOSTS_THERE, wish=0.5, case=SEALED, than=PAIR),
    Bar(rows.HOSTS_BACK, wish=0.5, case=SEALED, than=PAIR),
    Bar(rows.HOSTS_THERE, case=SEALED, than=BARE),
    Bar(rows.HOSTS_BACK, case=SEALED, than=BARE),
    Bar(rows.HOSTS_THERE, case=BARE, than=PAIR),
    Bar(rows.HOSTS_CROSSED, wish=1.1, case=SEALED),
    *(
        Bar(rows.MIXED_BOUND, wish=1.1, case=order)
        for order in ("shuffled", "long ones first", "long ones last")
    ),
    *(
        # Half the tasks a second is twice the cost of each.
        Bar(rows.DECISIONS, wish=0.5, case=engines_name(n), than=engines_name(100))
        for n in (10_000, 100_000)
    ),
)


@dataclass
class Verdict:
    """One bar against what was measured; ``reached`` and ``wished`` are None when unknown."""

    what: str
    must: str
    wish: str
    measured: str
    reached: bool | None = None
    wished: bool | None = None


def verdicts(results: Results) -> list[Verdict]:
    """Each bar against what was measured, then how many engines of a wide cluster answered."""
    return [_verdict(results, bar) for bar in BARS] + _answered(results)


def _verdict(results: Results, bar: Bar) -> Verdict:
    scale, unit = bar.unit
    word = "at least" if bar.quantity.more_is_better else "at most"
    must, wish = (
        "" if limit is None else f"{word} {limit / scale:g}{unit}"
        for limit in (bar.must, bar.wish)
    )
    case = bar.case or (f"{bar.n:,}" if bar.n else "")
    what = bar.quantity.title + (f" ({case})" if case else "")
    if bar.other:
        what += f" / {bar.other}"
    value = _value(results, bar)
    if isinstance(value, str):
        return Verdict(what, must, wish, value)
    said = f"{value / scale:.2f}{unit}"
    reached, wished = (_judge(bar, value, limit) for limit in (bar.must, bar.wish))
    return Verdict(what, must, wish, said, reached, wished)


def _judge(bar: Bar, value: float, limit: float | None) -> bool | None:
    if limit is None:
        return None
    return value >= limit if bar.quantity.more_is_better else value <= limit


def _value(results: Results, bar: Bar) -> float | str:
    """The value to judge, or why there is none."""
    ours = results.get(bar.ours, bar.quantity)
    if ours is None:
        return f"not measured: {bar.ours}"
    if not bar.other:
        return ours.median
    other = results.get(bar.other, bar.quantity)
    if other is None:
        return f"not measured: {bar.other}"
    value = ratio(ours, other)
    return "not measured: no round with both" if value is None else value


def _answered(results: Results) -> list[Verdict]:
    found = []
    for figure in results.of(rows.WIDE_READY):
        n, answered = figure.details.get("n", 0), figure.details.get("answered", [])
        if figure.values:
            said = f"{min(answered):,} of {n:,}, {len(answered)} times"
            everyone = all(number == n for number in answered) and None not in figure.rounds
        else:
            said, everyone = f"not measured: {figure.why}", None
        what = f"{n:,} engines: different processes that answered"
        found.append(Verdict(what, f"{n:,}", "", said, everyone))
    return found
