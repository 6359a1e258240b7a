"""State files: what a running cluster consists of, for commands that come later.

A state file names host and boot id besides process ids: with a home folder shared between
hosts, nobody judges (or signals) the process ids of another host.  Process ids come with
start times, because numbers are used again.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import msgspec
from msgspec.structs import replace

from ipclusterz.error import ClusterError
from ipclusterz.files import quote, remove, way_out
from ipclusterz.launchers.base import is_alive, process_start
from ipclusterz.paths import ProfileDir, boot_id, process_space

TOKEN = "IPCLUSTERZ_CLUSTER"
"""The environment variable that marks all processes of one cluster, engines included."""

_SKEW_SECONDS = 600.0  # by which the clocks of two hosts may differ

FIRST_SECONDS = 3.0
"""How long a controller may take to end before the engines are told to by us."""

_OURS = "ipclusterz-"  # what folders that may be removed begin with


class Process(msgspec.Struct):
    """A process of this host, named for good; ``n`` is its number of engines."""

    pid: int
    start: int
    n: int = 0

    @classmethod
    def of(cls, pid: int, n: int = 0) -> Process:
        """Describe a process that runs now."""
        return cls(pid, process_start(pid), n)

    def alive(self) -> bool:
        """Tell whether it still runs."""
        return is_alive(self.pid, self.start)


class BatchJobs(msgspec.Struct):
    """Jobs of a batch system that one launch submitted, and the command that cancels them."""

    system: str
    ids: list[str]
    cancel: list[str]
    folder: str
    n: int = 0
    texts: dict[str, str] = {}


class State(msgspec.Struct, kw_only=True):
    """One cluster.  ``launcher`` is None where the processes were started by hand.

    ``own`` says that the launcher is a command of ours, which may be told to end; any other
    program that made a cluster is left alone.  ``jobs`` are its batch jobs by engine set;
    ``mode`` and ``options`` the launcher of its engines, for those that are added.
    ``away`` are places on other hosts where a set of engines is, as its launcher knows them.
    ``remote`` is the SSH server of a host that all of it runs on, started from here;
    ``remote_words`` are the options that name it there.
    ``controller_job`` is the entry of ``jobs`` that the controller runs in, '' for a process;
    ``controller_pid`` is its process there, 0 until it has said that it is ready.  ``ended``
    is why such a cluster ended by itself: nothing of it is left then.
    """

    cluster_id: str
    profile_dir: str
    host: str
    boot_id: str
    token: str
    launcher: Process | None = None
    own: bool = False
    controller: Process | None = None
    engine_sets: dict[str, Process] = {}
    jobs: dict[str, BatchJobs] = {}
    mode: str = ""
    options: dict[str, Any] = {}
    runtime: str = ""
    bodies: list[str] = []
    client_file: str = ""
    engine_file: str = ""
    reuse: bool = False
    started: float = 0.0
    space: str = ""
    away: dict[str, list[dict[str, Any]]] = {}
    remote: str = ""
    remote_words: list[str] = []
    controller_job: str = ""
    controller_pid: int = 0
    ended: str = ""

    @property
    def path(self) -> str:
        """Where this state is kept."""
        return ProfileDir(self.profile_dir).state_file(self.cluster_id)

    def here(self) -> bool:
        """Tell whether its processes are (or were) on this host, since its last start.

        Those of a container are not, even of one on this very machine: their numbers mean
        other processes here.
        """
        if self.boot_id:
            same = not self.space or self.space == process_space()
            return self.boot_id == boot_id() and same
        return self.host == socket.gethostname()

    def elsewhere(self) -> bool:
        """Tell whether it may run on a host whose processes cannot be seen from here.

        This host under an earlier boot is not elsewhere: nothing survived that.
        """
        if self.here() or self.ended:
            return False
        return self.host != socket.gethostname() or self.boot_id == boot_id()

    def processes(self) -> list[Process]:
        """Return its processes: controller, then engine sets."""
        found = [self.controller] if self.controller else []
        return found + list(self.engine_sets.values())

    def alive(self) -> bool:
        """Tell whether anything of it runs on this host, or in a job it waits for.

        Where nobody watches a controller's job any more its batch system is asked; one that
        does not answer leaves the job alive.
        """
        if not self.here():
            return False
        if any(process.alive() for process in self.processes()):
            return True
        if not self.controller_job:
            return False
        if self.launcher is not None and self.launcher.alive():
            return True
        from ipclusterz.cluster import queued  # only for controllers in jobs

        return queued.lives(self)


def new(profile: ProfileDir, cluster_id: str, own: bool) -> State:
    """Return the state of a cluster that is about to be started by this process."""
    return State(
        cluster_id=cluster_id,
        profile_dir=profile.path,
        host=socket.gethostname(),
        boot_id=boot_id(),
        token=os.urandom(8).hex(),
        launcher=Process.of(os.getpid()),
        own=own,
        client_file=profile.connector("client", cluster_id),
        engine_file=profile.connector("engine", cluster_id),
        started=time.time(),
        space=process_space(),
    )


def ended(state: State, text: str) -> State:
    """Return what is kept of a cluster that has ended by itself: why, for who asks."""
    return replace(
        state, launcher=None, engine_sets={}, jobs={}, away={}, controller_job="", ended=text
    )


def left(state: State, jobs: dict[str, BatchJobs]) -> State:
    """Return what is kept of a cluster whose jobs its batch system did not cancel."""
    kept = replace(state, launcher=None, controller=None, engine_sets={}, jobs=jobs, away={})
    return replace(kept, runtime="", bodies=[], controller_job="")


def write(state: State) -> None:
    """Write a state file, whole, without waiting for the disk: it is worth nothing later."""
    made = f"{state.path}.{os.urandom(4).hex()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    try:
        with open(os.open(made, flags, 0o600), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(state)))
        os.replace(made, state.path)
    except OSError as error:
        remove(made)
        raise ClusterError(
            f"cannot write {state.path}: {error.strerror}{way_out(error)}"
        ) from None


def to_dict(state: State) -> dict[str, Any]:
    """Return a state as plain values."""
    return dict(msgspec.to_builtins(state))


def from_dict(values: dict[str, Any]) -> State:
    """Undo :func:`to_dict`; ValueError says what is wrong."""
    return msgspec.convert(values, State)


def read(path: str) -> State | None:
    """Read a state file; None if there is none, or it is not readable as one."""
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=State)
    except (OSError, msgspec.DecodeError):
        return None


def reread(state: State) -> State | None:
    """Return what the state file tells now of this very cluster.

    None when it has gone, or is that of a later cluster with the same id.
    """
    found = read(state.path)
    return found if found is not None and found.token == state.token else None


def check(path: str) -> None:
    """Raise ClusterError for a state file that is there and cannot be read as one.

    What it told of may run still, and nobody else knows its processes.
    """
    if not os.path.lexists(path) or read(path) is not None:
        return
    raise ClusterError(
        f"the state file {path} is damaged, so it is not known which processes are the"
        " cluster's; if 'ipclusterz status' shows one, end it with python -c 'import"
        f" ipclusterz; ipclusterz.Client().shutdown(hub=True)'; then: rm {quote(path)}"
    )


def ids(profile: ProfileDir) -> list[str]:
    """Return the ids of all clusters that have a state file in a profile, damaged or not."""
    try:
        names = sorted(os.listdir(profile.pid))
    except OSError:
        return []
    found = (re.fullmatch(r"cluster-(.*)\.json", name) for name in names)
    return [match[1] for match in found if match is not None]


def find(profile: ProfileDir) -> list[State]:
    """Return the states kept in a profile, by cluster id; damaged files are left out."""
    paths = [os.path.join(profile.pid, f"cluster-{name}.json") for name in ids(profile)]
    return [state for path in paths if (state := read(path)) is not None]


@contextmanager
def lock(profile: ProfileDir) -> Iterator[None]:
    """Hold a profile's state files against other commands; for moments only.

    The lock is on the folder itself, so that nothing is left behind.  File systems that
    know no locks go without, and so does a folder that has gone: nothing is in it.  Not to
    be held twice.
    """
    try:
        import fcntl  # not on Windows
    except ImportError:
        yield
        return
    try:
        fd = os.open(profile.pid, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        fd = -1
    if fd < 0:
        yield
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError:
            pass
        yield
    finally:
        os.close(fd)


def end(state: State, grace: float = 10.0) -> None:
    """End a cluster of this host: ask its launcher (if it is ours), then its processes.

    Waits up to ``grace`` seconds for each, then kills, and removes what they left.
    ClusterError for one that was started on another host: its process ids mean nothing here.
    """
    state = reread(state) or state  # others may have added engines and jobs
    if state.elsewhere():
        raise ClusterError(
            f"cluster {state.cluster_id!r} of {state.profile_dir} was started on host"
            f" {state.host}: run 'ipclusterz stop' there"
        )
    launcher = state.launcher
    if launcher and state.own and launcher.alive():
        _signal(launcher, signal.SIGTERM)
        _wait([launcher], grace + 5.0)
    alive = [process for process in state.processes() if process.alive()]
    first = [process for process in alive if process == state.controller]
    for process in first:  # agents and clients hear from it that it ends
        _signal(process, signal.SIGTERM)
    _wait(first, min(grace, FIRST_SECONDS))
    for process in alive[len(first) :]:
        _signal(process, signal.SIGTERM)
    _wait(alive, grace)
    for process in alive:
        _signal(process, signal.SIGKILL)
    if alive:
        _wait(alive, 5.0)
        sweep(state.token)
    clean(reread(state) or state)


def sweep(token: str) -> int:
    """Kill every process of this user that carries the cluster's mark; return how many.

    For what outlived its parents: a process whose parent was killed, a grandchild that
    made a session of its own.  Looks into /proc; elsewhere it finds nothing.
    """
    mark = f"{TOKEN}={token}".encode()
    killed = 0
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if mark not in file.read().split(b"\0"):
                    continue
            os.kill(int(name), signal.SIGKILL)
        except OSError:
            continue
        killed += 1
    return killed


def clean(state: State, kept: State | None = None, *, held: bool = False) -> None:
    """Remove what a dead cluster left: its sockets, shared memory, connector and state file.

    Connector files stay with ``-r``, and when another controller has written them since; the
    state file and the jobs in it when they are a later cluster's.  ``kept`` is written in
    place of the state file, which also stays for jobs that were not cancelled.  ``held`` says
    that the caller holds :func:`lock`.
    """
    refused: dict[str, BatchJobs] = {}
    if state.jobs and reread(state) is not None:
        # Whoever submitted them was killed, or is killed now: it has not cancelled them.
        # Without the lock: a batch system may take a minute to answer.
        refused = cancel_jobs(state)
    if refused:
        # Nobody else knows them: with their names gone they could not be cancelled again.
        kept = left(kept or state, {**(kept.jobs if kept is not None else {}), **refused})
    for folder in (state.runtime, *state.bodies):
        if os.path.basename(folder).startswith(_OURS):
            _remove_folder(folder)
    with nullcontext() if held else lock(ProfileDir(state.profile_dir)):
        if not state.reuse:
            for path in (state.client_file, state.engine_file):
                if _written_by(path, state):
                    remove(path)
        if reread(state) is None:
            return
        if kept is not None:
            write(kept)
        else:
            remove(state.path)


def cancel_jobs(state: State) -> dict[str, BatchJobs]:
    """Cancel the batch jobs that a cluster submitted; say and return what was refused."""
    from ipclusterz.launchers.systems import command, refusal  # only for batch systems

    refused = {}
    for name, made in state.jobs.items():
        words = [*made.cancel, *made.ids]
        try:
            why = refusal(command(words))
        except ClusterError as error:
            why = str(error)
        if why:
            refused[name] = made
            print(
                f"ipclusterz: {made.system} jobs {' '.join(made.ids)} may go on: {why}; cancel"
                f" them when it answers: 'ipclusterz stop' again, or {' '.join(words)}",
                file=sys.stderr,
            )
        if os.path.basename(os.path.dirname(made.folder)) == "jobs":
            _remove_folder(made.folder)
    return refused


def _written_by(path: str, state: State) -> bool:
    try:
        with open(path, "rb") as file:
            document: Any = json.load(file)
    except (OSError, ValueError):
        return False
    if state.controller_job:
        # Its number may not have come through to us before the end.
        known = state.controller_pid or document.get("pid")
        young = float(document.get("started", 0)) > state.started - _SKEW_SECONDS
        return young and document.get("pid") == known
    return state.controller is not None and document.get("pid") == state.controller.pid


def _remove_folder(folder: str) -> None:
    """Remove a folder of files; such folders of ours have no folders inside."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        remove(os.path.join(folder, name))
    try:
        os.rmdir(folder)
    except OSError:
        pass


def _signal(process: Process, signum: int) -> None:
    if process.alive():
        try:
            os.kill(process.pid, signum)
        except OSError:
            pass


def await_end(state: State, timeout: float) -> None:
    """Wait up to ``timeout`` seconds until nothing of a cluster runs any more."""
    if state.here():
        _wait(state.processes(), timeout)


def _wait(processes: list[Process], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    for process in processes:
        # Not our children: there is no event to wait for on every system.
        while process.alive() and time.monotonic() < deadline:
            time.sleep(0.01)
