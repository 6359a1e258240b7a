"""``python -m benchmarks``: measure, print the report, write the JSON and the page.

Exit codes: 0 everything of ours was measured (whether or not each bar is reached, which the
report says), 1 something of ours could not be measured, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import sys
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks import bars, machine, markdown, pages, plots, report, rows
from benchmarks.bench import Bench
from benchmarks.environment import ROOT, compile_checkout, numpy_beside, peers_environment
from benchmarks.figures import Results
from benchmarks.peers import ALL, KEYS, OURS, QUICK, Peer
from benchmarks.plan import Plan
from benchmarks.progress import Progress

LARGE = 1000
DOCS = ROOT / "docs"


def main(argv: list[str] | None = None, plan: Plan | None = None) -> int:
    """Run the benchmarks; the exit code.  ``plan`` instead of that of the command line."""
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    options = parser.parse_args(argv)
    page = DOCS / "benchmarks.md" if options.write_docs else options.markdown
    if page and (reason := pages.why_not(page, markdown.COMMAND)):
        parser.error(reason)
    if options.write_docs and (reason := plots.why_not()):
        parser.error(reason)
    if options.json and not options.json.parent.is_dir():
        parser.error(f"there is no folder {options.json.parent}")
    keep = options.keep or (DOCS / "benchmarks.json" if options.write_docs else None)
    if options.write_docs and options.only and keep and not keep.exists():
        parser.error(f"there is no {keep} to keep the other rows from: measure all first")
    try:
        old = _kept(keep, must=bool(options.keep))
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"{keep} is no result of an earlier run: {error!r}")
    plan = _planned(options, plan)
    bench = _prepare(options, plan, Progress())
    bench.results.run = _facts(plan, _command(options))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        bench.run()
    except KeyboardInterrupt:
        shutil.rmtree(bench.folder, ignore_errors=True)
        bench.progress.note("interrupted; all that was started is stopped")
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    complete = not _incomplete(bench.results)
    if old:
        bench.results.keep(old, plan.rows)
    _publish(bench, options.json, page, options.write_docs)
    chosen = options.peers is None or OURS.key in options.peers
    return 1 if chosen and not complete else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./dev bench",
        description="Measure ipclusterz beside its peers, each alone on the machine in turns,"
        " 4 engines each. All rows and peers take about half an hour.",
        epilog=f"Rows: {', '.join(rows.BY_NAME)}. Peers and floors: {', '.join(KEYS)}."
        " A peer that cannot be installed or started is named, and the run goes on.",
    )
    parser.add_argument(
        "--quick", action="store_true", help="about 75 s: fewer rows, peers and rounds"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FILE",
        help="take the rows that are not measured now from this JSON of an earlier run",
    )
    pages = parser.add_mutually_exclusive_group()
    pages.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write the tables into this page"
    )
    pages.add_argument(
        "--write-docs",
        action="store_true",
        help="also write docs/benchmarks.md, .json and docs/plots (needs matplotlib); rows"
        " that are not measured now are kept from the .json",
    )
    parser.add_argument(
        "--only",
        type=_chosen(tuple(rows.BY_NAME)),
        metavar="ROWS",
        help="some rows, as tasks,map",
    )
    parser.add_argument(
        "--peers",
        type=_chosen(KEYS),
        metavar="LIST",
        help="some peers and floors, as ours,ray,echo",
    )
    parser.add_argument("--rounds", type=_positive, metavar="N", help="rounds of all peers")
    parser.add_argument(
        "--large", action="store_true", help=f"also a cluster of {LARGE:,} engines (row wide)"
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


def _planned(options: argparse.Namespace, plan: Plan | None) -> Plan:
    plan = plan or (Plan.quick() if options.quick else Plan())
    if options.only:
        plan = replace(plan, rows=options.only)
    if options.rounds:
        plan = replace(plan, rounds=options.rounds)
    if options.large:
        plan = replace(plan, wide=(*plan.wide, LARGE))
    return plan


def _prepare(options: argparse.Namespace, plan: Plan, progress: Progress) -> Bench:
    """Find the interpreter of each chosen peer; name those that cannot be had."""
    keys = options.peers or (QUICK if options.quick else KEYS)
    chosen = [peer for peer in ALL if peer.key in keys and set(peer.rows) & set(plan.rows)]
    arrays = bool({"array", "hosts"} & set(plan.rows))

    def wanted(peer: Peer) -> list[str]:
        return [name for name in peer.packages if arrays or name != "numpy"]

    compile_checkout()
    here = Path(sys.executable)
    pythons = dict.fromkeys(chosen, here)
    missing: dict[str, str] = {}
    packages = list(dict.fromkeys(name for peer in chosen for name in wanted(peer)))
    if packages:
        environment = peers_environment(packages, progress.note)
        for peer in [peer for peer in chosen if peer.packages]:
            pythons[peer] = environment.python
            reasons = [environment.missing.get(name) for name in wanted(peer)]
            if any(reasons):
                missing[peer.name] = next(filter(None, reasons)) or ""
                del pythons[peer]
    beside = None
    if arrays and OURS in pythons:
        beside, reason = numpy_beside(progress.note)
        if reason:
            missing["numpy, for the arrays of ipclusterz"] = reason
    bench = Bench(plan, pythons, progress, beside)
    bench.results.missing = missing
    return bench


def _command(options: argparse.Namespace) -> str:
    """The command that measures this again, without where its results went."""
    words = ["./dev bench"]
    words += [f"--{name}" for name in ("quick", "large") if getattr(options, name)]
    for name in ("only", "peers"):
        if chosen := getattr(options, name):
            words.append(f"--{name} {','.join(chosen)}")
    return " ".join([*words, *([f"--rounds {options.rounds}"] if options.rounds else [])])


def _kept(path: Path | None, must: bool) -> Results | None:
    """The results of an earlier run; None when there are none, unless there must be."""
    if path is None or not (must or path.exists()):
        return None
    return Results.from_json(json.loads(path.read_text("utf-8")))


def _facts(plan: Plan, command: str) -> dict[str, Any]:
    return {
        "command": command,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "workers": plan.workers,
        "rounds": plan.rounds,
        "rows": list(plan.rows),
        "plan": asdict(plan),
    }


def _publish(bench: Bench, target: Path | None, page: Path | None, docs: bool) -> None:
    results = bench.results
    if results.trouble:  # then the logs are of use, and the report names them
        bench.progress.note(f"logs: {bench.folder}")
    else:
        shutil.rmtree(bench.folder, ignore_errors=True)
    print(report.text(results))
    document = results.as_json()
    document["bars"] = [asdict(verdict) for verdict in bars.verdicts(results)]
    written = [path for path in (target, DOCS / "benchmarks.json" if docs else None) if path]
    text = json.dumps(document, indent=1) + "\n"
    if target:
        target.write_text(text, encoding="utf-8")
    if docs:  # without the paths of logs, which nobody else has
        (DOCS / "benchmarks.json").write_text(re.sub(r" \(log: [^)]*\)", "", text), "utf-8")
    drawn = plots.write(DOCS / "plots", results) if docs else {}
    if page:
        markdown.write(page, results, drawn)
        written.append(page)
    for path in [*written, *drawn.values()]:
        print(f"written: {path}")


def _incomplete(results: Results) -> bool:
    """Whether anything of ours is absent."""
    alone = {quantity.key for name in rows.ALONE for quantity in rows.BY_NAME[name].quantities}
    mine = [
        figure
        for figure in results.figures
        if figure.peer.split(",")[0] == OURS.name or figure.quantity in alone
    ]
    return not mine or any(None in figure.rounds or not figure.rounds for figure in mine)


if __name__ == "__main__":
    sys.exit(main())
