"""``python -m benchmarks.scale``: what each host and each engine more costs the controller.

Two tables for docs/scale.md (``--write-docs`` puts them there):

- agents that are started one after the other on this machine, one engine each, and what hub
  and schedulers have of them: open files, memory, processor time while nothing happens and
  while they join.  An agent is what a host is to the controller, so the figures *per agent*
  are those per host; they are slopes between two sizes;
- the cores alone with 1,000 to 100,000 engines, 64 an agent: bytes of the messages that name
  all engines, memory of the task scheduler's core, its processor time a task and a tick.

Linux only.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

import ipclusterz as ipp
from benchmarks import cputime, machine, pages, processes
from benchmarks.cputime import Spent
from benchmarks.environment import ROOT, compile_checkout
from benchmarks.peers.parts import controller_parts
from benchmarks.simulated import Decider
from ipclusterz.core import message as m
from ipclusterz.net.sockets import MAX_FRAME

PAGE = ROOT / "docs" / "scale.md"
COMMAND = "python -m benchmarks.scale --write-docs"
JOIN_SECONDS = 120.0


@dataclass
class State:
    """Of one part of the controller: open files, and bytes of memory."""

    files: int
    memory: int


@dataclass
class Slope:
    """What one agent more costs a part: files, bytes, and processor time in milliseconds.

    ``idle`` is for each second in which nothing happens, ``joining`` once.
    """

    part: str
    files: float
    memory: float
    idle: float
    joining: float


def slopes(sizes: tuple[int, int], seconds: float) -> list[Slope]:
    """Start the smaller number of agents, then the larger; what the difference costs."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="scale-"))
        rc = stack.enter_context(ipp.Cluster(n=1, profile_dir=folder))
        parts = controller_parts(rc)
        few, many = sizes
        _join(stack, rc, few)
        small, quiet = _state(parts), _idle(parts, seconds)
        before, began = _spent(parts), time.monotonic()
        _join(stack, rc, many)
        after, took = _spent(parts), time.monotonic() - began
        big, busy = _state(parts), _idle(parts, seconds)
        more = many - few
        return [
            Slope(
                part,
                (big[part].files - small[part].files) / more,
                (big[part].memory - small[part].memory) / more,
                (busy[part] - quiet[part]) / more * 1e3,
                # Heartbeats go on meanwhile, of half of those that join in the mean.
                (after[part] - before[part] - (quiet[part] + busy[part]) / 2 * took)
                / more
                * 1e3,
            )
            for part in parts
        ]


def _join(stack: ExitStack, rc: Any, agents: int) -> None:
    """Start agents until there are as many besides the cluster's own."""
    command = [sys.executable, "-m", "ipclusterz.apps.engine", "-n", "1"]
    command.append(f"--file={rc.cluster.engine_file}")
    while len(rc.ids) < 1 + agents:
        missing = 1 + agents - len(rc.ids)
        started = [
            subprocess.Popen(
                [*command, f"--profile-dir={rc.cluster.profile_dir}"],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for _ in range(min(missing, os.cpu_count() or 1))
        ]
        for process in started:
            stack.callback(_end, process)
        rc.wait_for_engines(len(rc.ids) + len(started), timeout=JOIN_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(30)


def _state(parts: dict[str, int]) -> dict[str, State]:
    return {
        part: State(
            len(os.listdir(f"/proc/{pid}/fd")),
            processes.weigh([psutil.Process(pid)]).total,
        )
        for part, pid in parts.items()
    }


def _spent(parts: dict[str, int]) -> dict[str, float]:
    """Seconds of processor time of each part so far."""
    looked = cputime.look(parts.values())
    whole = {part: Spent() for part in parts}
    for (pid, _, _), spent in looked.items():
        for part, number in parts.items():
            if number == pid:
                whole[part] += spent
    return {part: spent.seconds for part, spent in whole.items()}


def _idle(parts: dict[str, int], seconds: float) -> dict[str, float]:
    """Processor seconds that each part needs for a second in which nothing happens."""
    before = _spent(parts)
    time.sleep(seconds)
    return {part: (spent - before[part]) / seconds for part, spent in _spent(parts).items()}


# -- the cores -------------------------------------------------------------------------------

AN_AGENT = 64
TRIED = 50
"""Tasks that fail at their first try and are tried again."""


@dataclass
class Core:
    """One size: bytes of messages, bytes of an engine, seconds of processor time."""

    engines: int
    listed: int
    greeting: int
    memory: float
    task: float
    failed: float
    tick: float


def cores(sizes: tuple[int, ...]) -> Iterator[Core]:
    """Each number of engines."""
    for n in sizes:
        agents = [os.urandom(16) for _ in range(-(-n // AN_AGENT))]
        infos = [
            m.EngineInfo(e, f"node{e // AN_AGENT:05d}.cluster", 100_000, agents[e // AN_AGENT])
            for e in range(n)
        ]
        listed = len(m.encode([m.Engines(infos, [], True)]))
        pairs = [(e, agents[e // AN_AGENT]) for e in range(n)]
        greeting = len(m.encode([m.Hello(int(m.Channel.TASK), 1, [], pairs)]))
        gc.collect()
        tracemalloc.start()
        decider = Decider(n)
        memory = tracemalloc.get_traced_memory()[0] / n
        tracemalloc.stop()
        decider.run(2 * n)
        tasks = max(50_000, 2 * n)
        task = decider.run(tasks) / tasks
        failed = decider.wave(TRIED, failing=True) / TRIED
        yield Core(n, listed, greeting, memory, task, failed, decider.tick())


# -- what is told ----------------------------------------------------------------------------


def told(found: list[Slope], sizes: tuple[int, int]) -> Iterator[str]:
    """The first table."""
    yield f"One agent more (slope between {sizes[0]} and {sizes[1]} agents):"
    yield ""
    yield "| part | open files | memory, KB | idle, µs of processor a second | joining, ms |"
    yield "|---|---|---|---|---|"
    for one in found:
        yield (
            f"| {one.part} | {one.files:.1f} | {one.memory / 1e3:.0f} | {one.idle * 1e3:.0f}"
            f" | {one.joining:.1f} |"
        )


def told_of_cores(found: list[Core]) -> Iterator[str]:
    """The second table."""
    yield (
        f"The cores alone, {AN_AGENT} engines an agent (a message may have"
        f" {MAX_FRAME / 2**20:.0f} MiB):"
    )
    yield ""
    yield (
        "| engines | list of all engines, MB | a scheduler's greeting, MB"
        " | memory of the core an engine, bytes | processor a task, µs"
        " | of one that failed once, µs | tick, ms |"
    )
    yield "|---|---|---|---|---|---|---|"
    for one in found:
        yield (
            f"| {one.engines:,} | {one.listed / 1e6:.2f} | {one.greeting / 1e6:.2f}"
            f" | {one.memory:.0f} | {one.task * 1e6:.1f} | {one.failed * 1e6:,.0f}"
            f" | {one.tick * 1e3:.2f} |"
        )


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def main(argv: list[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "--agents", type=_sizes, default=(10, 60), metavar="FEW,MANY", help="default 10,60"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of idling (default 10)")
    parser.add_argument(
        "--engines",
        type=_sizes,
        default=(1_000, 10_000, 100_000),
        metavar="N,N",
        help="of the cores (default 1000,10000,100000)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure")
    parser.add_argument("--write-docs", action="store_true", help="also into docs/scale.md")
    options = parser.parse_args(argv)
    if len(options.agents) != 2 or options.agents[0] >= options.agents[1]:
        parser.error("--agents: a smaller and a larger number, as 10,60")
    if options.write_docs and (reason := pages.why_not(PAGE, COMMAND)):
        parser.error(reason)
    compile_checkout()
    facts = machine.describe()
    few, many = options.agents
    joined = slopes((few, many), options.seconds)
    alone = list(cores(options.engines))
    lines = [
        f"`python -m benchmarks.scale --agents {few},{many}` on {facts['processor']},"
        f" {facts['cores']} usable cores, {facts['python']}.",
        "",
        *told(joined, (few, many)),
        "",
        *told_of_cores(alone),
    ]
    print("\n".join(lines))
    if options.json:
        document = {
            "machine": facts,
            "agents": [asdict(one) for one in joined],
            "cores": [asdict(one) for one in alone],
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.write_docs:
        pages.write(PAGE, COMMAND, "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
