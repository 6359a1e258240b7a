"""Rows in which ipclusterz has no peer beside it: how it grows, crosses hosts and decides.

Each module has ``measure(setting)``, one round of its row, which returns values with the name
of the case each belongs to ("1,000 engines").  What they are compared with (another size, a
floor) is measured in the same round.

    engines     tasks a second with more and more engines
    queue       tasks that wait: rates, and memory of client, hub and schedulers
    hosts       a gigabyte between two hosts, beside a bare ZeroMQ pair (root, Linux)
    mixed       long and short tasks on simulated engines
    decisions   the task scheduler's core with more and more engines
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from benchmarks.books import Measured
from benchmarks.plan import Plan
from benchmarks.turns import Turn

Found = tuple[str, Measured]


class Unavailable(Exception):
    """This row cannot be measured on this machine, and why; nothing went wrong."""


@dataclass(frozen=True)
class Setting:
    """``running(n)`` holds a cluster of ours with ``n`` engines; ``step`` tells what goes on.

    ``modules`` are more folders of modules for ours, with numpy.  ``mark`` goes into the
    environment of whatever is started otherwise: it tells that it is no stranger's load.
    """

    plan: Plan
    running: Callable[[int], AbstractContextManager[Turn]]
    step: Callable[[str], None]
    modules: tuple[str, ...] = ()
    mark: dict[str, str] = field(default_factory=dict)
