"""``python -m benchmarks.profile``: where each microsecond of a task goes.

Starts a cluster, runs a row of the benchmarks in this process as its client, and prints the
processor time that each process spent for one task (or one round trip), told by the kernel::

    python -m benchmarks.profile                       # no-op tasks, submitted one by one
    python -m benchmarks.profile --row balanced        # a synchronous round trip
    python -m benchmarks.profile --functions           # and in which functions
    python -m benchmarks.profile --libraries           # and in which libraries (perf)

``--functions`` samples client, task scheduler, hub, agent and one engine with py-spy, in a
measurement of its own so that it does not weigh on the first; without py-spy only the client
is looked into, by cProfile.  ``--libraries`` does the same with perf.  ``--write-docs`` puts
what is printed into docs/performance.md.

Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

import ipclusterz as ipp
from benchmarks import cputime, machine, pages, samples
from benchmarks.cputime import Spent
from benchmarks.environment import ROOT, compile_checkout
from benchmarks.peers.parts import roles
from benchmarks.work import noop, same

PAGE = ROOT / "docs" / "performance.md"
COMMAND = "python -m benchmarks.profile --write-docs"
ORDER = (
    *("client", "task scheduler", "hub", "agent", "engines", "direct scheduler"),
    *("control scheduler", "iopub scheduler", "supervisor", "zygote"),
)
"""The roles of processes, in the order of the table."""

SAMPLED = ("client", "task scheduler", "direct scheduler", "hub", "agent", "engines")
Work = Callable[[int], None]


@dataclass
class Part:
    """What the processes of a role spent for one task: microseconds, and waits."""

    role: str
    processes: int
    user: float
    system: float
    threads: dict[str, float]
    waits: float

    @property
    def total(self) -> float:
        return self.user + self.system


@dataclass
class Profile:
    """One row: ``count`` tasks in ``seconds``; ``others`` is what others used of the cores."""

    row: str
    count: int
    seconds: float
    parts: list[Part]
    others: float
    load: float

    @property
    def wall(self) -> float:
        """Microseconds of wall time a task."""
        return self.seconds / self.count * 1e6

    @property
    def total(self) -> float:
        """Microseconds of processor time a task, of all processes."""
        return sum(part.total for part in self.parts)


def works(rc: Any) -> dict[str, tuple[int, Work]]:
    """Of each row: how many tasks or trips are enough, and how that many are done."""
    view = rc.load_balanced_view()

    def tasks(count: int) -> None:
        for one in [view.apply_async(noop) for _ in range(count)]:
            one.get()

    def trips(apply_sync: Callable[..., Any]) -> Work:
        def run(count: int) -> None:
            for _ in range(count):
                apply_sync(noop)

        return run

    return {
        "tasks": (200_000, tasks),
        "map": (200_000, lambda count: view.map_sync(same, range(count), chunksize=1)),
        "balanced": (3000, trips(view.apply_sync)),
        "direct": (3000, trips(rc[0].apply_sync)),
        "apply": (2000, trips(rc[:].apply_sync)),
    }


ROWS = ("tasks", "map", "balanced", "direct", "apply")


def measure(row: str, count: int, work: Work, pids: dict[int, str]) -> Profile:
    """Run a row after a warm-up; what every process spent for it."""
    work(max(1, count // 4))
    load, times = os.getloadavg()[0], psutil.cpu_times()
    before = cputime.look(pids)
    began = time.perf_counter()
    work(count)
    seconds = time.perf_counter() - began
    spent = cputime.grown(before, cputime.look(pids))
    busy = machine.busy(times, psutil.cpu_times()) * (psutil.cpu_count() or 1) * seconds
    ours = sum(one.seconds for one in spent.values())
    others = max(0.0, (busy - ours) / seconds / (psutil.cpu_count() or 1))
    parts = [part for role in ORDER if (part := _part(role, count, spent, pids)).processes]
    return Profile(row, count, seconds, parts, others, load)


def _part(
    role: str, count: int, spent: dict[cputime.Thread, Spent], pids: dict[int, str]
) -> Part:
    mine = {thread: one for thread, one in spent.items() if pids[thread[0]] == role}
    scale = 1e6 / count
    threads: defaultdict[str, float] = defaultdict(float)
    for (_, _, name), one in mine.items():
        threads[name] += one.seconds * scale
    whole = sum(mine.values(), Spent())
    return Part(
        role,
        len({thread[0] for thread in mine}),
        (whole.seconds - whole.kernel) * scale,
        whole.kernel * scale,
        {name: round(value, 3) for name, value in threads.items()},
        whole.waits / count,
    )


# -- what is told ----------------------------------------------------------------------------


def told(profile: Profile, sampled: dict[str, Any]) -> Iterator[str]:
    """The profile of a row as lines of Markdown, readable on a terminal, too."""
    what = "task" if profile.row in ("tasks", "map") else "round trip"
    yield f"**{profile.row}**: {profile.count:,} in {profile.seconds:.2f} s, which is"
    yield (
        f"{profile.wall:.1f} µs of time and {profile.total:.1f} µs of processor time a {what}"
        f" (load average {profile.load:.2f}; others used {profile.others:.0%} of the cores)."
    )
    yield ""
    yield f"| process | µs a {what} | user | system | waits | by thread |"
    yield "|---|---|---|---|---|---|"
    for part in profile.parts:
        if part.total < 0.005:
            continue
        threads = sorted(part.threads.items(), key=lambda item: -item[1])
        listed = ", ".join(f"{name} {value:.2f}" for name, value in threads if value >= 0.01)
        name = f"{part.role} ({part.processes})" if part.processes > 1 else part.role
        yield (
            f"| {name} | {part.total:.2f} | {part.user:.2f} | {part.system:.2f}"
            f" | {part.waits:.3g} | {listed} |"
        )
    for what_of, found in sampled.items():
        for role, shares in found.items():
            yield ""
            if isinstance(shares, str):
                yield f"{role}: {shares}"
                continue
            yield f"{role}, {what_of}:"
            yield ""
            yield from (f"- {share:.0%} `{name}`" for name, share in shares if share >= 0.01)


def run(row: str, options: argparse.Namespace, keep: list[dict[str, Any]]) -> Iterator[str]:
    """Start a cluster, measure one row, and tell; its figures go to ``keep``."""
    sampled = {}
    # A profile of its own: the user's task database may have any size.
    with TemporaryDirectory() as own, ipp.Cluster(n=options.n, profile_dir=own) as rc:
        rc[:].apply_sync(noop)
        usual, work = works(rc)[row]
        count, pids = options.count or usual, roles(rc)
        profile = measure(row, count, work, pids)
        chosen = {role: pid for pid, role in reversed(pids.items()) if role in SAMPLED}
        for name, by in (("functions", samples.functions), ("libraries", samples.libraries)):
            if getattr(options, name):
                sampled[f"own time of {name}"] = by(work, count, chosen, options.seconds)
    keep.append({**asdict(profile), **sampled})
    yield from told(profile, sampled)


def main(argv: list[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--row", choices=ROWS, action="append", help="default: tasks")
    parser.add_argument("--n", type=int, default=4, metavar="N", help="engines (default 4)")
    parser.add_argument("--count", type=int, default=0, metavar="N", help="tasks or trips")
    parser.add_argument(
        "--functions", action="store_true", help="also the functions, by py-spy or cProfile"
    )
    parser.add_argument(
        "--libraries", action="store_true", help="also the libraries and the kernel, by perf"
    )
    parser.add_argument("--seconds", type=int, default=8, metavar="S", help="of each of these")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure")
    parser.add_argument(
        "--write-docs", action="store_true", help="also write it into docs/performance.md"
    )
    options = parser.parse_args(argv)
    if options.write_docs and (reason := pages.why_not(PAGE, COMMAND)):
        parser.error(reason)
    compile_checkout()
    facts = machine.describe()
    lines = [
        f"{facts['processor']}, {facts['cores']} usable cores, {facts['system']},"
        f" {facts['python']}; {options.n} engines, sealed, with the task database."
    ]
    kept: list[dict[str, Any]] = []
    print(lines[0])
    for row in dict.fromkeys(options.row or ["tasks"]):
        found = ["", *run(row, options, kept)]
        print("\n".join(found), flush=True)
        lines += found
    if options.json:
        document = {"machine": facts, "engines": options.n, "rows": kept}
        options.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if options.write_docs:
        pages.write(PAGE, COMMAND, "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
