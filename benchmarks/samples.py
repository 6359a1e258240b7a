"""In which functions and libraries processes spend their time: py-spy, perf, cProfile.

py-spy and perf look at running processes from outside, many times a second; what they cost is
not in the figures of benchmarks.profile, which are measured without them.  Knows nothing of
what runs.
"""

from __future__ import annotations

import cProfile
import io
import pstats
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

RATE = 500
"""Samples a second."""

SHOWN = 14

Work = Callable[[int], None]
Shares = list[tuple[str, float]]


def functions(
    work: Work, count: int, chosen: dict[str, int], seconds: int
) -> dict[str, Shares | str]:
    """Of each process in ``chosen`` (by its role) the Python functions it was in.

    ``work`` is done again and again meanwhile, by this process, which is the client.
    """
    program = _program("py-spy")
    if program is None:
        return {"client": _traced(work, count)}

    def command(pid: int, target: Path) -> list[str]:
        words = [program, "record", "--nonblocking", "--function", "--format", "raw"]
        words += ["--rate", str(RATE), "--duration", str(seconds)]
        return [*words, "--output", str(target), "--pid", str(pid)]

    return _watched(work, count, chosen, command, _own_time)


def libraries(
    work: Work, count: int, chosen: dict[str, int], seconds: int
) -> dict[str, Shares | str]:
    """The same by libraries, and the kernel as one of them, as perf sees them."""
    program = _program("perf")
    if program is None:
        return {"client": "perf is not installed (Debian: linux-perf)"}

    def command(pid: int, target: Path) -> list[str]:
        words = [program, "record", "-q", "-e", "cpu-clock", "-F", str(RATE), "-o", str(target)]
        return [*words, "-p", str(pid), "--", "sleep", str(seconds)]

    def read(target: Path) -> Shares:
        words = ["report", "-i", str(target), "--stdio", "-q", "-F", "overhead,dso"]
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=120)
        found = []
        for line in done.stdout.splitlines():
            share, _, name = line.strip().partition("%")
            if name and not line.startswith("#"):
                found.append((_library(name.strip()), float(share) / 100))
        return found[:SHOWN]

    return _watched(work, count, chosen, command, read)


def _watched(
    work: Work,
    count: int,
    chosen: dict[str, int],
    command: Callable[[int, Path], list[str]],
    read: Callable[[Path], Shares],
) -> dict[str, Shares | str]:
    """Do ``work`` until all watchers, one for each process, have ended; what they saw."""
    found: dict[str, Shares | str] = {}
    with tempfile.TemporaryDirectory() as folder:
        spies = {}
        for role, pid in chosen.items():
            target = Path(folder, role.replace(" ", "-"))
            words = command(pid, target)
            spy = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            spies[role] = (spy, target)
        while any(spy.poll() is None for spy, _ in spies.values()):
            work(max(1, count // 10))
        for role, (spy, target) in spies.items():
            said = spy.communicate()[0].decode("utf-8", "replace").strip().splitlines()
            if spy.returncode or not target.exists():
                found[role] = f"no samples: {said[-1] if said else spy.returncode}"
            elif target.stat().st_size and (shares := read(target)):
                found[role] = shares  # without any it was idle all the time
    return found


LIBRARIES = {
    "[kernel": "the kernel",
    "libpython": "Python",
    "python3": "Python",
    "_core.cpython": "msgspec",
    "_rust.abi3": "cryptography",
    "libzmq": "libzmq",
    "_zmq.": "pyzmq",
    "libsqlite3": "SQLite",
    "_sqlite3.": "sqlite3",
    "libc.so": "the C library",
    "libc-": "the C library",
}
"""What libraries are, by the beginnings of their names."""


def _library(name: str) -> str:
    known = (said for start, said in LIBRARIES.items() if name.startswith(start))
    return next(known, name)


def _program(name: str) -> str | None:
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def _own_time(target: Path) -> Shares:
    """Functions by the share of samples in which they ran themselves."""
    counts: Counter[str] = Counter()
    for line in target.read_text("utf-8", "replace").splitlines():
        stack, _, number = line.rpartition(" ")
        name, _, where = stack.split(";")[-1].partition(" (")
        counts[f"{name} ({_short(where)})"] += int(number)
    total = sum(counts.values()) or 1
    return [(name, number / total) for name, number in counts.most_common(SHOWN)]


def _short(where: str) -> str:
    """``core/broker.py:120`` of a file of ours, else its last part."""
    path = where.rstrip(")")
    _, ours, inside = path.rpartition("ipclusterz/")
    return inside if ours else "/".join(path.split("/")[-2:])


def _traced(work: Work, count: int) -> Shares:
    """The same of this process by cProfile, which makes short functions look longer."""
    profiler = cProfile.Profile()
    profiler.runcall(work, max(1, count // 10))
    rows = pstats.Stats(profiler, stream=io.StringIO()).stats  # type: ignore[attr-defined]
    total = sum(row[2] for row in rows.values()) or 1.0
    own = sorted(((row[2], key) for key, row in rows.items()), reverse=True)[:SHOWN]
    return [(f"{name} ({_short(path)})", seconds / total) for seconds, (path, _, name) in own]
