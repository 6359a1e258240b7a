"""Hours of mixed work, every result checked, and the memory of each part watched.

Run from a checkout::

    python -m tests.faults.soak --hours 8
    python -m tests.faults.soak --minutes 5 --samples soak.jsonl

Small and large tasks, errors, output, dependencies, cancels, variables, clients that come and
go, and engines that are killed and replaced.  Meanwhile each part's memory, open files and
threads are sampled.  At the end a part must not be larger than it was early on: the median of
the last fifth is held against that of the second fifth.  Prints a table; exit code 1 when a
value was wrong, a part grew, or something stayed behind.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import ipclusterz as ipp
from tests.faults.seeds import chance
from tests.faults.watch import agent_of, gone, pids, until, zygote_of

GROWTH_MB, GROWTH = 6.0, 0.10
"""By how much a part may be larger at the end: megabytes, or of its size, whatever is more."""

MORE_FILES = 4
SETTLING = 10.0
"""Seconds for what is kept a moment: the files of large bodies, to be written again."""

SAMPLES = 400  # at most, whatever the time
OURS = "engine 0"  # is never killed, so that it has a history of its own


class Wrong(Exception):
    """A value that is not right."""


def check(found: object, wanted: object, what: str) -> None:
    """Raise Wrong unless they are equal."""
    if found != wanted:
        raise Wrong(f"{what}: {str(found)[:200]} instead of {str(wanted)[:200]}")


# -- the work ------------------------------------------------------------------------------


class Work:
    """One client's mixed work; each method is a kind, chosen by chance."""

    def __init__(self, rc: ipp.Client, engines: int, seed: str, calm: bool = False) -> None:
        self.rc = rc
        self.engines = engines
        self.random = chance(seed)
        self.view = rc.load_balanced_view()
        self.view.retries = 5
        self.counts: Counter[str] = Counter()
        self._kinds: list[tuple[int, Callable[[], int]]] = [
            (30, self.map),
            (20, self.singly),
            (10, self.large),
            (10, self.errors),
            (10, self.output),
            (8, self.dependent),
            (6, self.cancelled),
            (8, self.variables),
            (4, self.another_client),
            (3, self.questions),
            (0 if calm else 2, self.killed),
        ]

    def some(self) -> None:
        """Do one kind, and count its tasks."""
        weights = [weight for weight, _ in self._kinds]
        [(_, kind)] = self.random.choices(self._kinds, weights)
        self.counts[kind.__name__] += kind()
        self.rc.purge_local_results("all")

    def map(self) -> int:
        """Many small tasks."""
        n = self.random.randint(50, 400)
        check(self.view.map_sync(lambda x: x * x, range(n)), [x * x for x in range(n)], "map")
        return n

    def singly(self) -> int:
        """Tasks one by one, waited for in another order."""
        results = {i: self.view.apply_async(divmod, i * 7, 5) for i in range(40)}
        for i in self.random.sample(sorted(results), len(results)):
            check(results[i].get(timeout=60), divmod(i * 7, 5), "task")
        return 40

    def large(self) -> int:
        """Payloads there and back."""
        data = os.urandom(self.random.randint(1, 30) * 100_000)
        back = self.view.apply_async(lambda d: d[::-1], data).get(timeout=60)
        check(back == data[::-1], True, "a large payload")
        check(self.rc[0].apply_sync(len, data), len(data), "a large argument")
        return 2

    def errors(self) -> int:
        """Tasks that fail as they should."""
        for result in [self.view.apply_async(lambda: 1 // 0) for _ in range(10)]:
            error = result.exception(60)
            check(isinstance(error, ZeroDivisionError), True, f"an error ({error!r})")
        return 10

    def output(self) -> int:
        """Text comes to who asked."""
        text = "x" * self.random.randint(1, 5000)
        result = self.rc[0].apply_async(print, text)
        result.get(timeout=60)
        until(lambda: result.stdout == text + "\n", "the output of a task")
        return 1

    def dependent(self) -> int:
        """Chains, and a task that cannot run."""
        last = self.view.apply_async(abs, -1)
        for _ in range(5):
            with self.view.temp_flags(after=[last]):
                last = self.view.apply_async(abs, -2)
        check(last.get(timeout=60), 2, "the end of a chain")
        failing = self.view.apply_async(lambda: 1 // 0)
        with self.view.temp_flags(after=[failing], retries=0):
            never = self.view.apply_async(abs, -3)
        error = never.exception(60)
        check(type(error).__name__, "ImpossibleDependency", "an impossible task")
        return 8

    def cancelled(self) -> int:
        """Of a heap of tasks some are cancelled: either is an end."""
        results = [self.view.apply_async(time.sleep, 0.005) for _ in range(60)]
        for result in results[30:]:
            result.cancel()
        for result in results[:30]:
            check(result.get(timeout=60), None, "a task beside cancelled ones")
        until(lambda: all(result.done() for result in results), "the end of cancelled tasks")
        return 60

    def variables(self) -> int:
        """Push and pull."""
        value = os.urandom(1000)
        self.rc[0].push({"kept": value}, block=True)
        check(self.rc[0].pull("kept", block=True) == value, True, "a variable")
        check(self.rc[:].apply_sync(abs, -4), [4] * len(self.rc.ids), "all engines")
        return 4

    def another_client(self) -> int:
        """A client that comes, works and goes."""
        with ipp.Client(self.rc.connection_file) as other:
            check(other.load_balanced_view().map_sync(abs, range(20)), list(range(20)), "map")
        return 20

    def questions(self) -> int:
        """What the hub and the task database know."""
        check(self.rc.queue_status() is not None, True, "the hub's answer")
        newest = self.rc.db_query({"completed": {"$ne": None}}, keys=["msg_id"])[-200:]
        if len(newest) == 200:
            self.rc.purge_hub_results("all")
        return 0

    def killed(self) -> int:
        """An engine dies in the middle of tasks that may be tried again; another one comes."""
        others = [number for number in self.rc.ids if number]
        if not others:
            return 0
        victim = pids(self.rc)[self.random.choice(others)]
        results = [self.view.apply_async(time.sleep, 0.02) for _ in range(40)]
        os.kill(victim, signal.SIGKILL)
        for result in results:
            check(result.get(timeout=60), None, "a task that is tried again")
        until(gone(victim), "the end of an engine that was killed")
        until(lambda: len(self.rc.ids) == self.engines, "the engine that replaces it", 60)
        return 40


# -- watching ------------------------------------------------------------------------------


@dataclass
class Series:
    """What was seen of one part: megabytes of its own, open files."""

    memory: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def judged(self) -> tuple[float, float, str]:
        """Return early and late memory, and what is wrong, or ''."""
        fifth = max(len(self.memory) // 5, 1)
        early, late = (
            statistics.median(part)
            for part in (self.memory[fifth : 2 * fifth], self.memory[-fifth:])
        )
        problems = []
        if late > early + max(GROWTH_MB, GROWTH * early):
            problems.append(f"grew by {late - early:.1f} MB")
        if self.files[-1] > (most := self.most_files()):
            problems.append(f"{self.files[-1]} open files, {most - MORE_FILES:.0f} before")
        return early, late, ", ".join(problems)

    def most_files(self) -> float:
        """Return how many open files there may be at the end."""
        fifth = max(len(self.files) // 5, 1)
        return statistics.median(self.files[fifth : 2 * fifth] or self.files) + MORE_FILES


class Watched:
    """All parts of a cluster, sampled now and then."""

    def __init__(self, rc: ipp.Client, ready: dict[str, Any], samples: Path | None) -> None:
        agent = agent_of(rc)
        self.parts = {
            "this client": os.getpid(),
            "supervisor": int(ready["pid"]),
            **ready["parts"],
            "agent": agent,
            "zygote": zygote_of(agent),
            OURS: pids(rc)[0],
        }
        self.series = {name: Series() for name in self.parts}
        self._file = samples
        self._began = time.monotonic()

    def sample(self) -> None:
        """Look at all of them; psutil.NoSuchProcess when one has ended."""
        gc.collect()
        line: dict[str, Any] = {"at": round(time.monotonic() - self._began, 1)}
        for name, pid in self.parts.items():
            process = psutil.Process(pid)
            memory = process.memory_full_info().uss / 1e6
            self.series[name].memory.append(memory)
            self.series[name].files.append(process.num_fds())
            line[name] = [round(memory, 2), process.num_fds(), process.num_threads()]
        if self._file is not None:
            with self._file.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def settle(self) -> None:
        """Wait until what is kept for a moment has gone, but not for ever, and sample."""
        deadline = time.monotonic() + SETTLING
        while time.monotonic() < deadline and any(
            psutil.Process(pid).num_fds() > self.series[name].most_files()
            for name, pid in self.parts.items()
        ):
            time.sleep(0.1)
        self.sample()

    def table(self) -> tuple[str, list[str]]:
        """Return the table, and who grew."""
        lines, bad = (
            [f"{'part':<12} {'early MB':>9} {'late MB':>9} {'most MB':>9} {'files':>6}"],
            [],
        )
        for name, series in self.series.items():
            early, late, problem = series.judged()
            most, files = max(series.memory), series.files[-1]
            lines.append(
                f"{name:<12} {early:9.1f} {late:9.1f} {most:9.1f} {files:6d}  {problem}"
            )
            if problem:
                bad.append(f"{name}: {problem}")
        return "\n".join(lines), bad


# -- the run -------------------------------------------------------------------------------


def soak(
    seconds: float, engines: int, samples: Path | None = None, calm: bool = False
) -> list[str]:
    """Work for so long; print what was seen; return what was wrong.  ``calm``: no kills."""
    events: list[dict[str, Any]] = []

    def hear(event: dict[str, Any]) -> None:
        if event["event"] == "ready":
            events.append(event)

    restarts = 0 if calm else 1_000_000
    cluster = ipp.Cluster(n=engines, restart_engines=restarts, notice=hear)
    interval = max(1.0, seconds / SAMPLES)
    with cluster as rc:
        work = Work(rc, engines, "soak", calm)
        for kind in (work.map, work.large, work.output, work.another_client):
            kind()  # what is imported and made once
        if not calm:
            work.killed()
        watched = Watched(rc, events[0], samples)
        folders = [Path(cluster.profile.path)]
        began = time.monotonic()
        due = told = began
        while (now := time.monotonic()) - began < seconds:
            work.some()
            if now >= due:
                watched.sample()
                due = now + interval
            if now - told >= max(60.0, seconds / 50):
                told = now
                print(f"{now - began:.0f} s: {sum(work.counts.values())} tasks", flush=True)
        rc.purge_results("all")
        watched.settle()
        everybody = {name: pid for name, pid in watched.parts.items() if pid != os.getpid()}
        everybody.update({f"engine {n}": pid for n, pid in pids(rc).items()})
        size = sum(
            f.stat().st_size for folder in folders for f in folder.rglob("*") if f.is_file()
        )
    table, problems = watched.table()
    print(table)
    print(f"tasks: {sum(work.counts.values())}; {dict(work.counts.most_common())}")
    taken = len(watched.series[OURS].memory)
    print(f"profile folder at the end: {size / 1e6:.0f} MB; {taken} samples")
    until(gone(*everybody.values()), "the end of all processes", 20)
    return problems


def main() -> int:
    """The soak by hand."""
    parser = argparse.ArgumentParser(description="Hours of mixed work; memory must stay flat.")
    parser.add_argument("--hours", type=float, default=0.0)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--engines", type=int, default=3)
    parser.add_argument("--calm", action="store_true", help="kill no engine")
    parser.add_argument("--samples", type=Path, help="a file for all samples, JSON lines")
    args = parser.parse_args()
    seconds = args.hours * 3600 + args.minutes * 60 or 300.0
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        os.environ["IPYTHONDIR"] = folder
        try:
            problems = soak(seconds, args.engines, args.samples, args.calm)
        except (Wrong, AssertionError, psutil.NoSuchProcess, ipp.error.KernelError) as error:
            problems = [f"{type(error).__name__}: {error}"]
    for text in problems:
        print(f"WRONG: {text}")
    print("flat, and every value right" if not problems else "not as it should be")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
