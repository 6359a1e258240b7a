"""Run a graph of tasks in its order on four engines: a build system in a page.

Each target is made of others: a hash of its name and of what it is made of, so that a wrong
order gives a wrong result.  ``after`` makes a task wait for those it needs, and all of them
are sent at once; who may run next is the scheduler's business.

    python examples/build_graph.py
    python examples/build_graph.py --targets 2000 -n 8

Exit codes: 0 equal to a build in this process, 1 not.
"""

from __future__ import annotations

import argparse
import random
import sys

import ipclusterz as ipp

Graph = dict[str, list[str]]


def make_graph(targets: int, seed: int) -> Graph:
    """Return targets in an order in which they can be made, each with what it needs."""
    choose = random.Random(seed)
    graph: Graph = {}
    for number in range(targets):
        known = list(graph)[-30:]
        needed = choose.sample(known, min(len(known), choose.randint(0, 4)))
        graph[f"target{number:04}"] = needed
    return graph


def build(name: str, needed: list[str]) -> str:
    """Make a target of those it needs, which this engine may have to fetch first."""
    import hashlib

    return hashlib.sha256("".join([name, *needed]).encode()).hexdigest()


def in_order(graph: Graph) -> dict[str, str]:
    """Build everything here, one after the other."""
    made: dict[str, str] = {}
    for name, needed in graph.items():
        made[name] = build(name, [made[one] for one in needed])
    return made


def on_engines(view: ipp.LoadBalancedView, folder: str, graph: Graph) -> dict[str, str]:
    """Send all targets at once; each reads what it needs from ``folder`` and writes there."""

    def step(name: str, needed: list[str]) -> str:
        from pathlib import Path

        read = [Path(folder, one).read_text() for one in needed]  # there, or it came too soon
        made = build(name, read)
        Path(folder, name).write_text(made)
        return made

    sent: dict[str, ipp.AsyncResult] = {}
    for name, needed in graph.items():
        with view.temp_flags(after=[sent[one] for one in needed]):
            sent[name] = view.apply_async(step, name, needed)
    return {name: result.get() for name, result in sent.items()}


def main(arguments: list[str] | None = None) -> int:
    """Build twice and compare."""
    import tempfile

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", type=int, default=4, help="engines (default: 4)")
    parser.add_argument("--targets", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    graph = make_graph(options.targets, options.seed)
    with ipp.Cluster(n=options.n) as rc, tempfile.TemporaryDirectory() as folder:
        made = on_engines(rc.load_balanced_view(label="build"), folder, graph)
    same = made == in_order(graph)
    edges = sum(map(len, graph.values()))
    print(
        f"{len(graph)} targets, {edges} dependencies; {'equal to' if same else 'NOT'} a build"
        " in this process"
    )
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
