"""``python -m benchmarks``: measure, print the report, write the JSON.

Exit codes: 0 everything of ours was measured (whether or not each bar is reached, which the
report says), 1 something of ours could not be measured, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks import figures, machine, report
from benchmarks.environment import peers_environment
from benchmarks.figures import Results
from benchmarks.peers import ALL, OURS, Peer
from benchmarks.phases import Bench, Plan

PHASES = ("start", "memory", "width", "work")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks; the exit code."""
    options = _parser().parse_args(argv)
    plan = Plan.quick() if options.quick else Plan()
    if options.rounds:
        plan.rounds = plan.starts = options.rounds
    pythons, missing = _pythons(options.peers)
    bench = Bench(plan, pythons, _notice)
    bench.results.missing = missing
    try:
        _measure(bench, options.phases)
    except KeyboardInterrupt:
        shutil.rmtree(bench.folder, ignore_errors=True)
        _notice("interrupted; all that was started is stopped")
        return 130
    if not bench.results.trouble:  # else the logs are of use, and the report names them
        shutil.rmtree(bench.folder, ignore_errors=True)
    print(report.text(bench.results))
    if options.json:
        document = json.dumps(bench.results.as_json(), indent=2)
        options.json.write_text(document + "\n", encoding="utf-8")
        print(f"\nwritten: {options.json}")
    return 1 if options.phases == PHASES and _incomplete(bench.results) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure ipclusterz beside its peers, with 4 engines, in turns.",
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure")
    parser.add_argument("--rounds", type=_positive, help="rounds and starts of each peer")
    parser.add_argument(
        "--phases", type=_chosen(PHASES), default=PHASES, help=f"some of {','.join(PHASES)}"
    )
    names = tuple(dict.fromkeys(peer.program for peer in ALL))
    parser.add_argument(
        "--peers", type=_chosen(names), default=names, help=f"some of {','.join(names)}"
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _chosen(known: tuple[str, ...]) -> Any:
    def parse(text: str) -> tuple[str, ...]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(
                f"unknown: {', '.join(unknown)}; known: {', '.join(known)}"
            )
        return tuple(name for name in known if name in names)

    return parse


def _pythons(programs: tuple[str, ...]) -> tuple[dict[Peer, Path], dict[str, str]]:
    """The interpreter of each chosen peer that can be had, and why others cannot."""
    chosen = [peer for peer in ALL if peer.program in programs]
    packages = [peer.package for peer in chosen if peer.package]
    here = Path(sys.executable)
    if not packages:
        return dict.fromkeys(chosen, here), {}
    environment = peers_environment(packages, _notice)
    pythons = {
        peer: environment.python if peer.package else here
        for peer in chosen
        if peer.package not in environment.missing
    }
    return pythons, environment.missing


def _measure(bench: Bench, phases: tuple[str, ...]) -> None:
    plan = bench.plan
    load: dict[str, Any] = {"background": machine.background(), "before": os.getloadavg()}
    times = psutil.cpu_times()
    bench.results.run = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "load": load,
        "workers": plan.workers,
        "rounds": plan.rounds,
        "starts": plan.starts,
        "seconds": plan.seconds,
    }
    steps = {
        "start": bench.measure_start,
        "memory": bench.measure_memory,
        "width": bench.check_width,
        "work": bench.measure_work,
    }
    for phase in phases:
        steps[phase]()
    load["after"] = os.getloadavg()
    load["stolen"] = machine.stolen(times, psutil.cpu_times())


def _incomplete(results: Results) -> bool:
    """Whether anything of ours is absent."""
    quantities = (figures.TASKS, figures.TRIP, figures.START, figures.MEMORY)
    absent = [q for q in quantities if results.get(OURS.name, q) is None]
    return bool(absent) or "answered" not in results.wide


def _notice(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
