"""Survey Python's own standard library with four engines, and check the result.

Each source file is parsed with :mod:`ast` on an engine: its functions, their length and
cyclomatic complexity, what it imports, which identifiers it uses.  The results become a
ranking, an import graph and an inverted index.  Then the same is done serially in this
process, and both must be equal.

    python examples/stdlib_survey.py
    python examples/stdlib_survey.py -n 8 --find memoryview
    python examples/stdlib_survey.py --folder ~/my/project

Exit codes: 0 equal, 1 the parallel result differs from the serial one, 2 wrong usage or
nothing to read.
"""

from __future__ import annotations

import argparse
import ast
import gc
import os
import sys
import sysconfig
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import ipclusterz as ipp

SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}

BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler)
"""Nodes that add one path each; boolean operators, cases and filters are counted apart."""

SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


# ------------------------------------------------------- what runs on the engines


class Survey(TypedDict):
    """What one file says; built-in types only, so that equal means equal anywhere."""

    module: str
    lines: int
    functions: list[tuple[str, int, int, int]]  # name, first line, lines, complexity
    imports: list[tuple[str, str]]  # module, name taken from it or ''
    identifiers: list[str]
    error: str


def survey(module: str, path: str) -> Survey:
    """Read and parse one file; one that cannot be parsed says so in ``error``."""
    with open(path, "rb") as file:
        source = file.read()
    result: Survey = {
        "module": module,
        "lines": source.count(b"\n"),
        "functions": [],
        "imports": [],
        "identifiers": [],
        "error": "",
    }
    try:
        tree = ast.parse(source, path)
    except (SyntaxError, ValueError) as error:
        result["error"] = str(error)
        return result
    package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
    nodes = list(ast.walk(tree))
    result["functions"] = list(functions(tree, ""))
    result["imports"] = sorted({pair for node in nodes for pair in imported(node, package)})
    result["identifiers"] = sorted({name for node in nodes if (name := identifier(node))})
    return result


def functions(scope: ast.AST, prefix: str) -> Iterator[tuple[str, int, int, int]]:
    """Each function below ``scope`` with its qualified name, nested ones included."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, SCOPES):
            name = prefix + node.name
            if not isinstance(node, ast.ClassDef):
                last = node.end_lineno or node.lineno
                yield name, node.lineno, last - node.lineno + 1, complexity(node)
            yield from functions(node, name + ".")
        else:
            yield from functions(node, prefix)


def complexity(function: ast.AST) -> int:
    """Cyclomatic complexity: 1 and the number of decisions (McCabe, 1976).

    Functions and classes inside are counted on their own, not here.
    """
    paths = 1
    waiting = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if isinstance(node, SCOPES):
            continue
        if isinstance(node, BRANCHES):
            paths += 1
        elif isinstance(node, ast.BoolOp):
            paths += len(node.values) - 1
        elif isinstance(node, ast.Match):
            paths += len(node.cases)
        elif isinstance(node, ast.comprehension):
            paths += 1 + len(node.ifs)
        waiting.extend(ast.iter_child_nodes(node))
    return paths


def imported(node: ast.AST, package: str) -> Iterator[tuple[str, str]]:
    """What an import statement names, with relative names made absolute."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, ""
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, base]).strip(".")
        for alias in node.names:
            yield base, alias.name


def identifier(node: ast.AST) -> str:
    """The identifier a node defines or uses, or ''."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.arg):
        return node.arg
    return node.name if isinstance(node, SCOPES) else ""


# ------------------------------------------------------ what is made of all files


@dataclass
class Findings:
    """All surveys combined."""

    surveys: list[Survey]
    importers: dict[str, set[str]]  # module -> modules that import it
    cycle: set[str]  # the largest group of modules that import each other
    index: dict[str, set[str]]  # identifier -> modules that use it


def combine(surveys: Iterable[Survey]) -> Findings:
    """Import graph and inverted index of all files."""
    surveys = sorted(surveys, key=lambda one: one["module"])
    known = {one["module"] for one in surveys}
    importers: dict[str, set[str]] = defaultdict(set)
    index: dict[str, set[str]] = defaultdict(set)
    for one in surveys:
        for base, name in one["imports"]:
            whole = f"{base}.{name}".strip(".")
            importers[whole if whole in known else base or whole].add(one["module"])
        for word in one["identifiers"]:
            index[word].add(one["module"])
    return Findings(surveys, dict(importers), largest_cycle(known, importers), dict(index))


def largest_cycle(modules: set[str], importers: dict[str, set[str]]) -> set[str]:
    """The largest strongly connected component of the import graph (Kosaraju, Sharir)."""
    backward = {module: importers.get(module, set()) & modules for module in modules}
    forward: dict[str, set[str]] = {module: set() for module in modules}
    for module, users in backward.items():
        for user in users:
            forward[user].add(module)
    order: list[str] = []
    seen: set[str] = set()
    for module in sorted(modules):
        order.extend(finished(module, forward, seen))
    seen = set()
    groups = [set(finished(module, backward, seen)) for module in reversed(order)]
    return max(groups, key=len, default=set())


def finished(start: str, graph: dict[str, set[str]], seen: set[str]) -> Iterator[str]:
    """Depth first from ``start`` through what is not ``seen``: each as it is left."""
    if start in seen:
        return
    seen.add(start)
    stack = [(start, iter(sorted(graph[start])))]
    while stack:
        node, successors = stack[-1]
        following = next((one for one in successors if one not in seen), None)
        if following is None:
            stack.pop()
            yield node
        else:
            seen.add(following)
            stack.append((following, iter(sorted(graph[following]))))


# -------------------------------------------------------------------- the two runs


def source_files(folder: Path) -> list[tuple[str, str]]:
    """Module name and path of each Python file below ``folder``, the largest first.

    The largest first, so that no engine is left with a long file when the others are done.
    """
    found = sorted(python_files(folder), key=lambda path: (-path.stat().st_size, path))
    return [(module_name(path, folder), str(path)) for path in found]


def python_files(folder: Path) -> Iterator[Path]:
    """Each Python file below ``folder``, tests and installed packages left out."""
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED]
        yield from (Path(where, name) for name in names if name.endswith(".py"))


def module_name(path: Path, folder: Path) -> str:
    """The name to import ``path`` by; ``folder`` is a package or holds modules."""
    base = folder.parent if (folder / "__init__.py").exists() else folder
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@dataclass
class Times:
    """Seconds of each step."""

    start: float = 0.0
    parallel: float = 0.0
    stop: float = 0.0
    serial: float = 0.0


def run_parallel(files: list[tuple[str, str]], n: int, times: Times) -> Findings:
    """Survey all files on ``n`` engines of a cluster made for this and stopped after it."""
    modules, paths = zip(*files, strict=True)
    began = time.perf_counter()
    with ipp.Cluster(n=n) as rc:
        view = rc.load_balanced_view()
        times.start = time.perf_counter() - began
        print(f"engines {rc.ids} are ready after {times.start:.2f} s", flush=True)
        began = time.perf_counter()
        pending = view.map_async(survey, modules, paths)
        pending.wait_interactive()
        findings = combine(pending.get())
        times.parallel = time.perf_counter() - began
        began = time.perf_counter()
    times.stop = time.perf_counter() - began
    return findings


def run_serial(files: list[tuple[str, str]], times: Times) -> Findings:
    """The same in this process, without any engine."""
    # The parallel result lives on; without this the collector would walk through it again
    # and again and make the serial run look slower than it is.
    gc.collect()
    gc.freeze()
    began = time.perf_counter()
    findings = combine([survey(module, path) for module, path in files])
    times.serial = time.perf_counter() - began
    return findings


def difference(one: Findings, other: Findings) -> str:
    """Where two results differ, or '' when they are equal."""
    if one == other:
        return ""
    for mine, theirs in zip(one.surveys, other.surveys, strict=False):
        if mine != theirs:
            return f"they differ first in module {mine['module']!r}"
    return f"{len(one.surveys)} and {len(other.surveys)} files, or their graphs, differ"


# ---------------------------------------------------------------------- the report


def report(findings: Findings, find: str) -> Iterator[str]:
    """What was found, in lines."""
    surveys = findings.surveys
    every = [(one["module"], *function) for one in surveys for function in one["functions"]]
    lines = sum(one["lines"] for one in surveys)
    yield f"{len(surveys):,} files, {lines:,} lines, {len(every):,} functions"
    for broken in (one for one in surveys if one["error"]):
        yield f"  not parsed: {broken['module']}: {broken['error']}"
    yield f"\n{'Longest functions':<64}lines"
    for module, name, line, length, _ in sorted(every, key=lambda f: (-f[3], f))[:5]:
        yield f"  {module + ':' + str(line):<28} {name:<32} {length:>5}"
    yield f"\n{'Most complex functions':<64}paths"
    for module, name, line, _, paths in sorted(every, key=lambda f: (-f[4], f))[:5]:
        yield f"  {module + ':' + str(line):<28} {name:<32} {paths:>5}"
    usage = Counter({name: len(users) for name, users in findings.importers.items()})
    yield "\nMost imported modules"
    yield "  " + ", ".join(f"{name} by {count}" for name, count in ranked(usage, 8))
    if len(findings.cycle) > 1:
        yield f"  {len(findings.cycle)} modules import each other, directly or by others"
    spread = Counter({word: len(users) for word, users in findings.index.items()})
    alone = sum(1 for count in spread.values() if count == 1) / max(1, len(spread))
    yield f"\nInverted index: {len(spread):,} identifiers, {alone:.0%} in one file only"
    yield "  " + ", ".join(f"{word} in {count}" for word, count in ranked(spread, 8))
    where = sorted(findings.index.get(find, ()))
    yield f"  {find} is used in {len(where)}: {', '.join(where[:5])}{' …' * (len(where) > 5)}"


def ranked(counts: Counter[str], most: int) -> list[tuple[str, int]]:
    """The ``most`` frequent, alike ones by name."""
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:most]


def comparison(times: Times, n: int) -> Iterator[str]:
    """Times and speed-up, and what could be hoped for on this machine."""
    cores = usable_cores()
    whole = times.start + times.parallel + times.stop
    yield f"{n} engines  {times.parallel:6.2f} s"
    yield f"            {whole:6.2f} s with starting and stopping the cluster"
    yield f"serially    {times.serial:6.2f} s"
    yield (
        f"speed-up    {times.serial / times.parallel:6.2f}x"
        f" ({times.serial / whole:.2f}x with start and stop);"
        f" {cores} usable cores and {n} engines allow {min(cores, n)}x at most"
    )


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main() -> int:
    """Both runs, the findings, the comparison; the exit code."""
    parser = argparse.ArgumentParser(description="Survey Python sources with a cluster.")
    parser.add_argument("-n", type=int, default=4, help="engines (4)")
    parser.add_argument("--find", default="memoryview", help="an identifier to look up")
    parser.add_argument(
        "--folder",
        type=lambda text: Path(text).expanduser().resolve(),
        default=Path(sysconfig.get_path("stdlib")),
        help="sources to survey (Python's standard library)",
    )
    options = parser.parse_args()
    if options.n < 1:
        parser.error(f"-n {options.n}: at least one engine is needed")
    files = source_files(options.folder)
    if not files:
        parser.error(f"no Python files in {options.folder}; name another one with --folder")
    print(f"{len(files)} files in {options.folder}; starting {options.n} engines", flush=True)
    times = Times()
    parallel = run_parallel(files, options.n, times)
    print("the cluster is stopped; the same serially, to compare", flush=True)
    serial = run_serial(files, times)
    print("", *report(parallel, options.find), "", *comparison(times, options.n), sep="\n")
    if where := difference(parallel, serial):
        print(f"the parallel result is NOT equal to the serial one: {where}", file=sys.stderr)
        return 1
    print("the parallel result is equal to the serial one")
    return 0


if __name__ == "__main__":
    sys.exit(main())
