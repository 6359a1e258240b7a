"""How much of what reads strangers' input is run by its tests: lines and branches.

::

    python -m tests.fuzz.branches

Measures the decoder, the link, the seal, the connector and the template while their tests run
in a process of their own, prints a line for each with what was not run, and ends with 1 when
one of them is below ``LEAST`` per cent.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.running import ROOT

LEAST = 95.0
"""Per cent of lines and branches together, as coverage.py counts them."""

MODULES = (
    "ipclusterz/core/message.py",
    "ipclusterz/core/link.py",
    "ipclusterz/core/connector.py",
    "ipclusterz/core/template.py",
    "ipclusterz/net/seal.py",
)
TESTS = (
    "tests/core/test_message.py::test_keys_hold_a_client_and_a_counter",
    "tests/core/test_message.py::test_an_answer_of_any_length_comes_whole_in_pieces_that_fit",
    "tests/core/test_message.py::test_records_are_counted_whatever_they_are",
    "tests/core/test_link.py",
    "tests/core/test_connector.py",
    "tests/core/test_template.py",
    "tests/net/test_seal.py",
)
"""Those of the tests of these modules that are quick, and run each branch at least once."""


@dataclass(frozen=True)
class Measured:
    """One module: per cent, and the lines and branches that no test ran."""

    module: str
    percent: float
    lines: tuple[int, ...]
    branches: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        missing = [str(line) for line in self.lines]
        missing += [f"{a}->{b}" for a, b in self.branches]
        return f"{self.module}: {self.percent:.1f} % {' '.join(missing)}".rstrip()


def measure(tests: tuple[str, ...] = TESTS) -> list[Measured]:
    """Run the tests and return what they ran of each module that they import.

    RuntimeError with their words if one fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        data, report = Path(folder, "data"), Path(folder, "report.json")
        tool = [sys.executable, "-m", "coverage"]
        include = f"--include={','.join(MODULES)}"
        where = [f"--data-file={data}", include]
        _run([*tool, "run", "--branch", *where, "-m", "pytest", "-q", "-x", *tests])
        _run([*tool, "json", *where, "-o", str(report)])
        told = json.loads(report.read_text())["files"]
    return [
        Measured(
            name,
            told[name]["summary"]["percent_covered"],
            tuple(told[name]["missing_lines"]),
            tuple((a, b) for a, b in told[name]["missing_branches"]),
        )
        for name in MODULES
        if name in told
    ]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def main() -> int:
    """Print what was measured; 1 if it is too little."""
    found = measure()
    print(*found, sep="\n")
    return int(any(each.percent < LEAST for each in found))


if __name__ == "__main__":
    raise SystemExit(main())
