"""Through SSH: each route of docs/ssh.md beside a bare ``ssh`` pipe, on the lab's hosts.

Run by ``python -m benchmarks.across`` as root on Linux (see tests/lab).  Each figure is the
median of the rounds; pipe and routes take turns within a round.  ``--write-docs`` puts the
table into docs/ssh.md.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from pathlib import Path

from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.ssh.conftest import answer, cluster_on, script

PAGE = Path(__file__).resolve().parents[1] / "docs" / "ssh.md"
MEGABYTES = 200

WORK = """
import numpy as np
began = time.perf_counter()
rc = connect({where})
rc.wait_for_engines(2, timeout=60)
connected = time.perf_counter() - began
view = rc.load_balanced_view()
view.map_sync(abs, range(100))
began = time.perf_counter()
done = view.map_sync(abs, range(10_000), chunksize=1)
tasks = 10_000 / (time.perf_counter() - began)
assert done == list(range(10_000))
one = []
for _ in range(200):
    began = time.perf_counter()
    view.apply_sync(abs, -1)
    one.append(time.perf_counter() - began)
array = np.random.default_rng(1).integers(0, 255, {size}, dtype="u1")  # nothing to compress
rc[0].push({{"a": array[:1000]}}, block=True)
began = time.perf_counter()
rc[0].push({{"a": array}}, block=True)
there = time.perf_counter() - began
began = time.perf_counter()
back = rc[0].pull("a", block=True)
home = time.perf_counter() - began
assert (back == array).all()
rate = {size} / 1e6
print(json.dumps([connected, tasks, sorted(one)[100] * 1000, rate / there, rate / home]))
rc.close()
"""

Figures = list[float]


def pipe(laptop: Host, target: str) -> float:
    """MB/s of ``ssh target 'cat >/dev/null'``."""
    command = f"head -c {MEGABYTES}000000 /dev/urandom > blob"
    if not laptop.file("blob").exists():
        laptop.run(["sh", "-c", command], check=True)
    began = time.perf_counter()
    laptop.run(["sh", "-c", f"ssh {target} 'cat >/dev/null' < blob"], check=True, timeout=120)
    return MEGABYTES / (time.perf_counter() - began)


def measure(lab: Lab, rounds: int) -> dict[str, Figures]:
    """Return the medians by route."""
    found: dict[str, list[Figures]] = {}
    size = MEGABYTES * 1_000_000
    for number in range(rounds):
        for title, host, target in (
            ("laptop → login", lab.login, "login"),
            ("laptop → login → node1", lab.nodes[0], "node1"),
        ):
            with cluster_on(host):
                for kind in ("openssh", "paramiko"):
                    text = WORK.format(where=repr(f"ssh://{target}"), size=size)
                    figures = answer(script(lab.laptop, text, kind, timeout=300))
                    found.setdefault(f"{title}, {kind}", []).append(figures)
            bare = pipe(lab.laptop, target)
            found.setdefault(f"{title}, bare pipe", []).append([0, 0, 0, bare, 0])
        print(f"round {number + 1} of {rounds}", flush=True)
    return {
        name: [statistics.median(column) for column in zip(*rows, strict=True)]
        for name, rows in found.items()
    }


def table(found: dict[str, Figures]) -> str:
    """Return the figures as the page shows them."""
    lines = [
        "| route | connected s | tasks/s, one by one | round trip ms | to an engine MB/s"
        " | back MB/s |",
        "|---|---|---|---|---|---|",
    ]
    for name, (connected, tasks, trip, there, home) in found.items():
        if "pipe" in name:
            cells = f"| | | | {there:.0f} | |"
        else:
            cells = (
                f"| {connected:.2f} | {tasks:,.0f} | {trip:.2f} | {there:.0f} | {home:.0f} |"
            )
        lines.append(f"| {name} {cells}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs")
    parser.add_argument("--json", metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    with Lab() as lab:
        found = measure(lab, options.rounds)
    text = table(found)
    print(text)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    if options.write_docs:
        page = PAGE.read_text()
        marked = "<!-- figures -->\n" + text + "\n<!-- end of figures -->"
        pattern = r"<!-- figures -->.*?<!-- end of figures -->"
        PAGE.write_text(re.sub(pattern, lambda _: marked, page, flags=re.DOTALL))


if __name__ == "__main__":
    main()
