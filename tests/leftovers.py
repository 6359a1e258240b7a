"""A pytest plugin: nothing of ours may be left when the suite has ended.

At its start the run gets a name, put into the environment of everything it will start,
and a private place for temporary files and runtime folders.  At its end it looks for

- processes that carry the name, whoever their parent is by then (an orphan is adopted by
  init, its environment stays), and descendants that dropped it;
- ports that those, or pytest itself, still listen on;
- ``ipclusterz*`` in shared memory and in the system's temporary folder that was not
  there before, and anything at all in the private place.

It waits a bounded time for what is just ending, names what is left, ends it by its id,
and makes the run fail.  Shared memory has no owner one could ask: while another cluster
or test run lives on the machine, new entries there are only mentioned.

Where the tests are spread over several processes (pytest-xdist) each of them is such a run
inside the whole one: it looks for its own, and reports to the whole, which looks at what has
no owner when they have ended.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

MARKER = "IPCLUSTERZ_TEST_RUN"
HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Python's own helpers, which end with the interpreter that started them."""


@dataclass(frozen=True)
class Snapshot:
    """What a run could leave: our own listening ports, and files in shared places."""

    ports: frozenset[str]
    files: frozenset[str]


@dataclass
class Findings:
    """What was left (fails the run) and what cannot be laid at its door (does not)."""

    left: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Run:
    """One pytest session: its name, its private place and what was there before it."""

    name: str
    root: Path
    shared: tuple[Path, ...]
    before: Snapshot
    environment: dict[str, str | None]


RUN = pytest.StashKey[Run]()
FINDINGS = pytest.StashKey[Findings]()
REPORTED = pytest.StashKey[list[str]]()
"""What the processes among which the tests were divided have found."""


def start(shared: Iterable[Path], system: str | None = None) -> Run:
    """Name the run, move its temporary files to a private place, look round.

    The private place is made in ``system``, by default the folder for temporary files.
    """
    outer = os.environ.get(MARKER, "")
    name = uuid.uuid4().hex
    system = system or tempfile.gettempdir()
    # Short: UNIX sockets live below it, and their paths end at 107 characters.
    root = Path(tempfile.mkdtemp(prefix="ipcz-", dir=system))
    changes = {
        # A run inside a test of another run belongs to both.
        MARKER: f"{outer}:{name}" if outer else name,
        "TMPDIR": str(root / "tmp"),
        "XDG_RUNTIME_DIR": str(root / "run"),
        "IPYTHONDIR": str(root / "ipython"),
        "PYTEST_DEBUG_TEMPROOT": os.environ.get("PYTEST_DEBUG_TEMPROOT", system),
    }
    for folder in ("tmp", "run", "ipython"):
        (root / folder).mkdir(mode=0o700)
    environment = {key: os.environ.get(key) for key in changes}
    os.environ.update(changes)
    tempfile.tempdir = None
    places = tuple(shared)
    return Run(name, root, places, look([psutil.Process()], places), environment)


def end(run: Run) -> None:
    """Undo :func:`start`."""
    for key, value in run.environment.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value
    tempfile.tempdir = None
    shutil.rmtree(run.root, ignore_errors=True)


def look(processes: Iterable[psutil.Process], shared: Iterable[Path]) -> Snapshot:
    """The ports that ``processes`` listen on and the ``ipclusterz*`` in shared places."""
    ports = set()
    for process in processes:
        try:
            connections = process.net_connections(kind="inet")
        except psutil.Error:
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                ports.add(f"{connection.laddr.ip}:{connection.laddr.port}")
    files = {str(path) for place in shared for path in place.glob("ipclusterz*")}
    return Snapshot(frozenset(ports), frozenset(files))


def marker_of(process: psutil.Process) -> str | None:
    """The run that ``process`` belongs to; None when it has none or cannot be read."""
    try:
        return process.environ().get(MARKER)
    except (psutil.Error, OSError):
        return None


def describe(process: psutil.Process) -> str:
    """One line that lets a reader find the test that started ``process``."""
    try:
        return f"process {process.pid}: {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return f"process {process.pid}"


def alive(process: psutil.Process) -> bool:
    """Whether ``process`` runs; a zombie only waits for its parent to read its status."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def helper(process: psutil.Process) -> bool:
    """Whether ``process`` is one of Python's own that ends with us."""
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return any(name in line for name in HELPERS)


def processes_of(run: Run) -> list[psutil.Process]:
    """All living processes of the run except this one, orphans included."""
    found = {child.pid: child for child in psutil.Process().children(recursive=True)}
    for process in psutil.process_iter():
        if run.name in (marker_of(process) or "").split(":"):
            found[process.pid] = process
    found.pop(os.getpid(), None)
    return [process for process in found.values() if alive(process) and not helper(process)]


def others_live(run: Run) -> bool:
    """Whether a cluster or test run that is not ours lives on this machine."""
    ours = {process.pid for process in processes_of(run)} | {os.getpid()}
    for process in psutil.process_iter():
        if process.pid in ours:
            continue
        if marker_of(process):
            return True
        try:
            if any("ipclusterz" in word for word in process.cmdline()[1:3]):
                return True
        except psutil.Error:
            continue
    return False


def remains(run: Run) -> Iterator[str]:
    """What lies in the run's private place; runtime and temporary files are not results."""
    for folder in ("tmp", "run"):
        for path in sorted((run.root / folder).iterdir()):
            yield f"temporary {'folder' if path.is_dir() else 'file'}: {path}"


def judge(before: Snapshot, after: Snapshot, others: bool) -> Findings:
    """Compare two looks; files in shared places count only when nobody else lives."""
    findings = Findings()
    findings.left += [f"port: {port}" for port in sorted(after.ports - before.ports)]
    files = [f"file: {path}" for path in sorted(after.files - before.files)]
    if others:
        findings.notes += [f"{line} (perhaps of another run)" for line in files]
    else:
        findings.left += files
    return findings


def check(run: Run, patience: float) -> Findings:
    """Look for everything the run left, after ``patience`` seconds at most."""
    _, left = psutil.wait_procs(processes_of(run), timeout=patience)
    left = [process for process in left if alive(process)]
    findings = judge(run.before, look([psutil.Process(), *left], run.shared), others_live(run))
    findings.left[:0] = [describe(process) for process in left]
    findings.left += remains(run)
    for process in left:
        try:
            process.kill()  # psutil compares start times: never a stranger with its number
        except psutil.Error:
            pass
    return findings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("leftover_patience", "seconds granted to what is ending", default="10")


def part_of_a_run(config: pytest.Config) -> bool:
    """Whether this process runs some of the tests for another one."""
    return hasattr(config, "workerinput")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORTED] = []
    if part_of_a_run(config):
        config.stash[RUN] = start([], os.environ["PYTEST_DEBUG_TEMPROOT"])
    else:
        config.stash[RUN] = start([Path("/dev/shm"), Path(tempfile.gettempdir())])


def pytest_unconfigure(config: pytest.Config) -> None:
    run = config.stash.get(RUN, None)
    if run is not None:
        end(run)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Keep what a process that ran a part of the tests has found; one that died says why."""
    node.config.stash[REPORTED] += getattr(node, "workeroutput", {}).get("left", [])


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    run = session.config.stash.get(RUN, None)
    if run is None or session.config.option.collectonly:
        return
    patience = float(session.config.getini("leftover_patience"))
    findings = session.config.stash[FINDINGS] = check(run, patience)
    if part_of_a_run(session.config):
        session.config.workeroutput["left"] = findings.left
    findings.left[:0] = session.config.stash[REPORTED]
    if findings.left and session.exitstatus in (
        pytest.ExitCode.OK,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    findings = config.stash.get(FINDINGS, None)
    if findings is None:
        return
    if findings.left:
        terminalreporter.section("left behind by this run", red=True, bold=True)
    for line in findings.left:
        terminalreporter.write_line(line)
    for line in findings.notes:
        terminalreporter.write_line(f"note: {line}")
    if not findings.left:
        terminalreporter.write_line("nothing left behind: no process, port or file")
