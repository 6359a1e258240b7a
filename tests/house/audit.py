"""Known vulnerabilities of what ipclusterz needs at run time; a part of ``./dev lint``.

::

    python -m tests.house.audit

pip-audit is asked about each package that an installation brings along, as it is installed
here, and about the oldest release of each that ``setup.cfg`` allows.  A vulnerability that a
newer release mends ends it with 1; one that nobody has mended is told.  Where the index cannot
be asked, or has nothing on a package, that is said, and nothing fails: lint works offline.
"""

from __future__ import annotations

import configparser
import importlib.metadata as metadata
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120
_PATIENCE = 15  # seconds for one answer of the index

Pins = dict[str, str]
"""Packages and the version of each."""


@dataclass
class Findings:
    """What the index says of some pins."""

    mended: list[str] = field(default_factory=list)
    unmended: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    problem: str = ""  # why it could not be asked at all


def required(setup: Path = ROOT / "setup.cfg") -> list[Requirement]:
    """What ``setup.cfg`` names as needed at run time."""
    parser = configparser.ConfigParser()
    parser.read(setup)
    lines = parser["options"]["install_requires"].split("\n")
    return [Requirement(line) for line in lines if line.strip()]


def oldest(requirements: Iterable[Requirement]) -> Pins:
    """The lowest version of each that is allowed; KeyError for one without a bound."""
    found = {}
    for each in requirements:
        bounds = {one.operator: one.version for one in each.specifier}
        found[each.name] = bounds[">="]
    return found


def installed(requirements: Iterable[Requirement]) -> Pins:
    """What is here of these and of all that they need in turn."""
    found: Pins = {}
    waiting = [(each, "") for each in requirements]
    while waiting:
        each, extra = waiting.pop()
        name = canonicalize_name(each.name)
        if name in found or (each.marker and not each.marker.evaluate({"extra": extra})):
            continue
        try:
            here = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[name] = here.version
        waiting += [(Requirement(line), "") for line in here.requires or ()]
    return found


def ask(pins: Pins) -> Findings:
    """Ask pip-audit about versions, which need not be installed."""
    with tempfile.TemporaryDirectory() as folder:
        listed, answer = Path(folder, "pins.txt"), Path(folder, "answer.json")
        listed.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        words = "--no-deps --disable-pip --progress-spinner=off --format=json".split()
        words += [f"--timeout={_PATIENCE}", f"--output={answer}", f"--requirement={listed}"]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pip_audit", *words],
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            return Findings(problem=f"no answer within {SECONDS} s")
        if not answer.exists():
            last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
            text = last[0][:200] if last else f"it ended with {done.returncode}"
            return Findings(problem=text)
        return judged(json.loads(answer.read_text()))


def judged(told: dict[str, list[dict[str, object]]]) -> Findings:
    """Sort what pip-audit has told."""
    found = Findings()
    for each in told["dependencies"]:
        if "skip_reason" in each:
            found.unknown.append(str(each["name"]))
            continue
        holes = each["vulns"]
        assert isinstance(holes, list)
        for hole in holes:
            names = " ".join([hole["id"], *hole["aliases"]])
            text = f"{each['name']} {each['version']}: {names}"
            if hole["fix_versions"]:
                found.mended.append(f"{text}; mended in {', '.join(hole['fix_versions'])}")
            else:
                found.unmended.append(f"{text}; no release mends it")
    return found


def main(asking: Callable[[Pins], Findings] = ask) -> int:
    """Print what is known; 1 if something is that an upgrade or a higher bound would mend."""
    needed = required()
    code = 0
    for pins, what, remedy in (
        (installed(needed), "installed here", "upgrade it"),
        (oldest(needed), "the oldest allowed", "raise its bound in setup.cfg"),
    ):
        found = asking(pins)
        if found.problem:
            print(f"audit: not done, the index cannot be asked: {found.problem}")
            break
        for text in found.mended:
            print(f"audit: {what}: {text}: {remedy}")
            code = 1
        for text in found.unmended:
            print(f"audit: {what}: {text}")
        if found.unknown:
            print(f"audit: {what}: not known to the index: {', '.join(found.unknown)}")
        known = len(pins) - len(found.unknown)
        if known and not found.mended and not found.unmended:
            print(f"audit: {what}: {known} packages without a known vulnerability")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
