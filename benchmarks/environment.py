"""The environments peers run in: this interpreter's own, and one made for the others.

Peers that ipclusterz does not need are installed by name into ``.bench-venv`` in the
checkout, each by itself: one that cannot be had is named and the rest is measured.
Nothing is ever installed into the environment that runs the benchmarks; if that one lacks
numpy, which only the arrays need, numpy goes into a folder beside.
"""

from __future__ import annotations

import compileall
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""

FOLDER = ROOT / ".bench-venv"

_QUESTION = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"


@dataclass
class PeersEnvironment:
    """``python`` of the environment for peers; ``missing`` says why a package is not in it."""

    python: Path
    missing: dict[str, str] = field(default_factory=dict)


def peers_environment(
    packages: Iterable[str], notice: Callable[[str], None]
) -> PeersEnvironment:
    """Make or complete ``.bench-venv``; a package that cannot be had is in ``missing``."""
    environment = PeersEnvironment(FOLDER / "bin" / "python")
    trouble = _make(environment.python, notice)
    for package in packages:
        if trouble:
            environment.missing[package] = trouble
        elif not _has(environment.python, package):
            notice(f"installing {package} into {FOLDER.name} …")
            reason = _install(environment.python, package)
            if reason:
                environment.missing[package] = reason
    return environment


def compile_checkout() -> None:
    """Compile ipclusterz' modules, as an installation does: the peers' are.

    A checkout in which Python may not write bytecode would be compiled at every start.
    """
    for folder in ("ipclusterz", "launchers"):
        compileall.compile_dir(str(ROOT / folder), quiet=2)


def numpy_beside(notice: Callable[[str], None]) -> tuple[Path | None, str]:
    """A folder with numpy for this interpreter (None: it has its own), and what went wrong."""
    if importlib.util.find_spec("numpy") is not None:
        return None, ""
    folder = FOLDER / "numpy"
    if (folder / "numpy").is_dir():
        return folder, ""
    notice(f"installing numpy into {FOLDER.name} …")
    return folder, _pip("--target", str(folder), "numpy")


def _make(python: Path, notice: Callable[[str], None]) -> str:
    """Make the environment unless it is there for this very Python; why it failed, or ''."""
    if _output([str(python), "-c", "import sys; print(sys.version)"]) == sys.version:
        return ""
    notice(f"making {FOLDER.name}, an environment for the peers …")
    shutil.rmtree(FOLDER, ignore_errors=True)
    # This interpreter's pip serves it: faster, and some systems split ensurepip off.
    reason = _run([sys.executable, "-m", "venv", "--without-pip", str(FOLDER)], timeout=60)
    if not reason:
        (FOLDER / ".gitignore").write_text("*\n", encoding="ascii")
    return reason


def _has(python: Path, package: str) -> bool:
    return _output([str(python), "-c", _QUESTION, package]) is not None


def _install(python: Path, package: str) -> str:
    return _pip(package, python=python)


def _pip(*wanted: str, python: Path | None = None) -> str:
    """Install by this interpreter's pip, for ``python``; '' when it went well, else why not."""
    pip = [sys.executable, "-m", "pip", *(["--python", str(python)] if python else [])]
    options = ["--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
    return _run([*pip, "install", *options, *wanted], timeout=600)


def _output(argv: list[str]) -> str | None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _run(argv: list[str], timeout: float) -> str:
    """Run a command; '' when it went well, else its last line of error."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = (done.stderr or done.stdout).strip().splitlines()
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or [f"exit code {done.returncode}"])[-1]


def variables(
    mark: str, mark_name: str, home: Path, beside: Path | None = None
) -> dict[str, str]:
    """The whole environment of a peer: ours, its mark, this checkout, a throw-away home.

    Nothing of the user is read or touched and nothing is reported to anybody: ``home`` is
    where peers keep their profiles and scratch files.  ``beside`` is one more folder of
    modules.
    """
    path = [str(ROOT), *([str(beside)] if beside else []), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        mark_name: mark,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "PYTHONWARNINGS": "ignore",
        "IPYTHONDIR": str(home),
        "DASK_CONFIG": str(home),
        "DASK_TEMPORARY_DIRECTORY": str(home),
        "RAY_TMPDIR": str(home.parent),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
