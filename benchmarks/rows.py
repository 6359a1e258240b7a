"""The rows of the report: what is measured, in which unit, and which way is better.

Data only.  A row is what can be chosen on the command line and is measured in one go; it
gives one or more quantities, each a table of the report.
"""

from __future__ import annotations

from dataclasses import dataclass

PER_SECOND, SECONDS, MILLISECONDS, MEGABYTES = "per second", "s", "ms", "MB"
MB_PER_SECOND, BYTES, TIMES = "MB/s", "bytes", "x"


@dataclass(frozen=True)
class Quantity:
    """One table: ``key`` in the JSON, ``title`` for people, the unit it is shown in.

    Values are kept in tasks or bytes per second, seconds, bytes and ratios whatever the unit
    shown is.
    """

    key: str
    title: str
    unit: str

    @property
    def more_is_better(self) -> bool:
        return self.unit in (PER_SECOND, MB_PER_SECOND)


TASKS = Quantity("tasks", "no-op tasks one by one", PER_SECOND)
MAP = Quantity("map", "map, every item a task", PER_SECOND)
MAP_CHUNKS = Quantity("map in chunks", "map, items in equal chunks", PER_SECOND)
DIRECT = Quantity("direct trip", "round trip, named engine or actor", MILLISECONDS)
BALANCED = Quantity("balanced trip", "round trip, any free engine", MILLISECONDS)
APPLY = Quantity("apply on all", "apply on all 4, all answers", MILLISECONDS)
PUSH = Quantity("push", "100 MB array to all 4 engines", MILLISECONDS)
PULL = Quantity("pull", "the same array from one engine", MILLISECONDS)
START = Quantity("start", "fresh process to first result", SECONDS)
START_ALL = Quantity("start of all", "the same until each has answered", SECONDS)
STOP = Quantity("start and stop", "the same to its end, all stopped", SECONDS)
MEMORY = Quantity("memory", "memory of the cluster (PSS)", MEGABYTES)
MEMORY_ENGINE = Quantity("memory of an engine", "memory of one engine (PSS)", MEGABYTES)
WIDE_READY = Quantity("wide ready", "many engines: all ready and answered", SECONDS)
WIDE_APPLY = Quantity("wide apply", "many engines: apply on all", MILLISECONDS)
WIDE_MEMORY = Quantity("wide memory", "many engines: memory each (PSS)", MEGABYTES)
GROWTH = Quantity("growth by engines", "no-op tasks one by one, many engines", PER_SECOND)
QUEUE_RATE = Quantity("queue rate", "tasks that waited: finished", PER_SECOND)
QUEUE_OUT = Quantity("queue out", "finished: first tenth's rate / last tenth's", TIMES)
QUEUE_IN = Quantity("queue in", "submitted: first tenth's rate / last tenth's", TIMES)
QUEUE_CLIENT = Quantity("queue client", "memory of the client a waiting task", BYTES)
QUEUE_HUB = Quantity("queue hub", "memory of the hub while they wait", MEGABYTES)
QUEUE_TASK = Quantity("queue task", "memory of the task scheduler while they wait", MEGABYTES)
QUEUE_ALL = Quantity("queue all", "memory of hub and schedulers while they wait", MEGABYTES)
HOSTS_THERE = Quantity(
    "hosts there", "1 GB from a client to an engine elsewhere", MB_PER_SECOND
)
HOSTS_BACK = Quantity("hosts back", "1 GB from an engine elsewhere to a client", MB_PER_SECOND)
HOSTS_CROSSED = Quantity("hosts crossed", "an array to 8 engines elsewhere: crossings", TIMES)
MIXED_BOUND = Quantity("mixed bound", "makespan / max(total / engines, longest)", TIMES)
MIXED_LIST = Quantity("mixed list", "makespan / that of a greedy schedule at no cost", TIMES)
MIXED_IDLE = Quantity(
    "mixed idle", "longest idling of an engine while a task waits", MILLISECONDS
)
DECISIONS = Quantity("decisions", "tasks through the task scheduler's core", PER_SECOND)
DECISIONS_TICK = Quantity("decisions tick", "its tick, ten times a second", MILLISECONDS)


@dataclass(frozen=True)
class Row:
    """What is measured in one go: its name on the command line, and what it gives."""

    name: str
    quantities: tuple[Quantity, ...]


ROWS = (
    Row("start", (START, START_ALL, STOP)),
    Row("memory", (MEMORY, MEMORY_ENGINE)),
    Row("tasks", (TASKS,)),
    Row("map", (MAP, MAP_CHUNKS)),
    Row("direct", (DIRECT,)),
    Row("balanced", (BALANCED,)),
    Row("apply", (APPLY,)),
    Row("array", (PUSH, PULL)),
    Row("wide", (WIDE_READY, WIDE_APPLY, WIDE_MEMORY)),
    Row("engines", (GROWTH,)),
    Row(
        "queue",
        (QUEUE_RATE, QUEUE_OUT, QUEUE_IN, QUEUE_CLIENT, QUEUE_HUB, QUEUE_TASK, QUEUE_ALL),
    ),
    Row("hosts", (HOSTS_THERE, HOSTS_BACK, HOSTS_CROSSED)),
    Row("mixed", (MIXED_BOUND, MIXED_LIST, MIXED_IDLE)),
    Row("decisions", (DECISIONS, DECISIONS_TICK)),
)

BY_NAME = {row.name: row for row in ROWS}

ALONE = ("engines", "queue", "hosts", "mixed", "decisions")
"""Rows in which ipclusterz has no peer beside it: see benchmarks.alone."""

QUICK = ("start", "memory", "tasks", "balanced", "wide")
"""The rows of the short form."""

QUANTITIES = (
    *(TASKS, MAP, MAP_CHUNKS, BALANCED, DIRECT, APPLY, PUSH, PULL),
    *(START, START_ALL, STOP, MEMORY, MEMORY_ENGINE, WIDE_READY, WIDE_APPLY, WIDE_MEMORY),
    *(quantity for name in ALONE for quantity in BY_NAME[name].quantities),
)
"""All quantities, in the order of the report."""


def row_of(quantity: Quantity) -> str:
    """The row that gives ``quantity``."""
    return next(row.name for row in ROWS if quantity in row.quantities)


def shown(quantity: Quantity, value: float) -> str:
    """``value`` in the unit of its table, to about three digits, without the unit."""
    if quantity.unit == PER_SECOND:
        return f"{float(f'{value:.3g}'):,.0f}"
    if quantity.unit == MILLISECONDS:
        value *= 1e3
    elif quantity.unit in (MEGABYTES, MB_PER_SECOND):
        value /= 1e6
    if quantity.unit == BYTES:
        return f"{value:,.0f}"
    return (
        f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    )
