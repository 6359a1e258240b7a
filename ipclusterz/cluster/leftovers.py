"""What dead clusters left on this host: files, folders, processes; and their removal.

Lives here: the rules by which something is known to be nobody's any more.  They err on the
side of the living:

- a state file is judged on the host it names, by process ids with start times; that of
  another host is named and left alone;
- a connector file goes when its controller, on this host, has ended and did not run with
  ``-r``;
- a folder of sockets goes when nobody listens in it, one of bodies when nobody holds its
  lock; not on network file systems, where another host may;
- a process goes when it carries the mark of a cluster that does not live, and neither it
  nor any of its ancestors is a controller, an agent or a command of ours; where no state
  file tells of that cluster, only when it has been left to init as well.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import Struct, field

from ipclusterz.cluster import state as states
from ipclusterz.cluster.state import State
from ipclusterz.engine import bodies
from ipclusterz.error import LaunchError
from ipclusterz.files import quote
from ipclusterz.launchers.base import is_alive, process_start
from ipclusterz.paths import ProfileDir, boot_id

YOUNG_SECONDS = 60.0
"""What is younger may belong to a cluster that is just starting."""

TERM_SECONDS = 2.0
"""How long a process may take to end by itself."""

_PREFIX = "ipclusterz-"
_OURS = frozenset(("launched.py", "ipclusterz", "ipcontrollerz", "ipenginez"))
_NETWORK = frozenset(
    "nfs nfs4 lustre gpfs beegfs cifs smb3 smbfs ceph afs 9p panfs fuse.sshfs".split()
)
_PROBE_SECONDS = 0.5


class Leftover(Struct):
    """Something that nobody needs: a path, or a process (``pid`` with its ``start``).

    Or jobs of a batch system, which ``command`` cancels; ``failed`` when that was not possible.
    What tells of jobs ``needs`` them to be cancelled first: nothing else would know them.
    """

    kind: str
    name: str
    why: str
    pid: int = 0
    start: int = 0
    command: tuple[str, ...] = ()
    failed: bool = False
    needs: list[Leftover] = []


class Spared(Struct):
    """Something that looks like a leftover but may be somebody's, and why it stays."""

    kind: str
    name: str
    why: str


class Found(Struct):
    """What a search has found, in the order in which it is to be removed."""

    left: list[Leftover] = field(default_factory=list)
    spared: list[Spared] = field(default_factory=list)

    def add(self, kind: str, name: str, why: str, needs: Iterable[Leftover] = ()) -> None:
        """Note a leftover, and what has to be removed before it."""
        if all(name != known.name for known in self.left):
            self.left.append(Leftover(kind, name, why, needs=list(needs)))

    def spare(self, kind: str, name: str, why: str) -> None:
        """Note what is left alone."""
        self.spared.append(Spared(kind, name, why))


def in_profile(profile: ProfileDir, cluster_id: str | None = None) -> Found:
    """Search a profile's state and connector files, and what dead states name.

    With ``cluster_id``, that cluster's only.  Hold :func:`ipclusterz.cluster.state.lock`.
    """
    found = Found()
    living: set[str] = set()
    dead: list[State] = []
    for path in _files(profile.pid, "cluster-", ".json"):
        state = states.read(path)
        if cluster_id is not None and path != profile.state_file(cluster_id):
            continue
        if state is None:
            hint = f"it is not readable as one; if no cluster runs: rm {quote(path)}"
            found.spare("state file", path, hint)
            continue
        problem = verdict(state)
        if problem is None:
            dead.append(state)
        else:
            living.update((state.client_file, state.engine_file))
            if problem:
                found.spare("state file", path, problem)
    jobs = {state.path: _of_dead(state, found) for state in dead}
    for role in ("client", "engine"):
        for path in _files(profile.security, "ipcontroller-", f"{role}.json"):
            own = cluster_id is None or path == profile.connector(role, cluster_id)
            if own and path not in living:
                named = any(path in (state.client_file, state.engine_file) for state in dead)
                _connector(path, found, here=named)
    for state in dead:
        why = f"{_title(state)} has ended"
        if state.reuse and state.jobs:
            found.spare("state file", state.path, "it tells the next controller of these jobs")
        else:
            found.add("state file", state.path, why, jobs[state.path])
    if cluster_id is None:
        for folder, prefix in ((profile.pid, "cluster-"), (profile.security, ".ip")):
            for path in _files(folder, prefix, ".tmp"):
                if _age(path) > YOUNG_SECONDS:
                    found.add("temporary file", path, "whoever wrote it was killed")
    return found


def verdict(state: State) -> str | None:
    """Return None for a dead cluster's state, '' for a living one's, else why it stays."""
    if state.alive():
        return ""
    if state.elsewhere():
        return f"it was started on host {state.host}: run 'ipclusterz clean' there"
    launcher = state.launcher
    busy = state.here() and launcher is not None and launcher.alive()
    if busy and (state.own or time.time() - state.started < YOUNG_SECONDS):
        return ""  # it is starting, or about to tidy up by itself
    return None


def in_shared_places(known: Iterable[State]) -> Found:
    """Search the places for sockets and bodies; ``known`` are all states that there are."""
    found = Found()
    kept = {
        folder
        for state in known
        if verdict(state) is not None
        for folder in (state.runtime, *state.bodies)
    }
    for base in _places():
        for path in _files(base, _PREFIX, ""):
            if path not in kept:
                _folder(path, found, recorded=False)
    return found


def orphans(known: Iterable[State], token: str | None = None) -> Found:
    """Search processes that carry the mark of a cluster that does not live.

    With ``token``, that cluster's only.
    """
    import psutil  # 20 ms that no other command needs

    found = Found()
    known = list(known)
    living = {state.token for state in known if verdict(state) is not None}
    dead = {state.token for state in known} - living
    processes: dict[int, tuple[int, list[str]]] = {}
    for process in psutil.process_iter(["ppid", "cmdline"]):
        processes[process.pid] = (process.info["ppid"] or 0, process.info["cmdline"] or [])
    spared = set(_line(os.getpid(), processes))
    for pid in processes:
        mark = _mark(pid)
        if not mark or pid in spared or mark in living or (token is not None and mark != token):
            continue
        line = list(_line(pid, processes))
        if any(_is_ours(processes[each][1]) for each in line):
            continue
        if mark not in dead and not _left_to_init(line, processes):
            continue
        start = process_start(pid)
        if start:
            command = " ".join(processes[pid][1])[:60]
            why = f"its cluster has ended ({command})"
            found.left.append(Leftover("process", str(pid), why, pid, start))
    return found


def remove(leftover: Leftover) -> str:
    """Remove it; return why that was not possible, or ''."""
    if leftover.pid:
        return _end(leftover.pid, leftover.start)
    if leftover.command:
        from ipclusterz.launchers.systems import command, refusal  # only for batch systems

        try:
            problem = refusal(command(leftover.command))
        except LaunchError as error:
            problem = str(error)
        leftover.failed = bool(problem)
        return problem
    if any(each.failed for each in leftover.needs):
        return "its batch jobs are not cancelled; clean again when the batch system answers"
    try:
        if os.path.isdir(leftover.name) and not os.path.islink(leftover.name):
            bodies.remove_folder(leftover.name)
        else:
            os.unlink(leftover.name)
    except FileNotFoundError:
        pass
    except OSError as error:
        return error.strerror or str(error)
    return ""


# -- profiles ------------------------------------------------------------------------------


def _of_dead(state: State, found: Found) -> list[Leftover]:
    """Add what a dead cluster's state file names; return its jobs that are to be cancelled."""
    jobs = _jobs(state, found)
    for folder in (state.runtime, *state.bodies):
        if os.path.basename(folder).startswith(_PREFIX) and os.path.isdir(folder):
            _folder(folder, found, recorded=True)
    return jobs


def _jobs(state: State, found: Found) -> list[Leftover]:
    """Judge a dead cluster's batch jobs: with ``-r`` their engines wait for the next one."""
    jobs = []
    for made in state.jobs.values():
        name, cancel = f"{made.system} {' '.join(made.ids)}", (*made.cancel, *made.ids)
        if state.reuse:
            why = "their engines wait for the next controller (-r), or: " + " ".join(cancel)
            found.spare("batch jobs", name, why)
            continue
        why = f"{_title(state)} has ended"
        job = Leftover("batch jobs", name, why, command=cancel)
        jobs.append(job)
        found.left.append(job)
        if os.path.basename(os.path.dirname(made.folder)) == "jobs":
            found.add("folder", made.folder, why, [job])
    return jobs


def _connector(path: str, found: Found, *, here: bool) -> None:
    """Judge a connector file; ``here``: its controller was on this host for certain."""
    try:
        with open(path, "rb") as file:
            document: Any = json.load(file)
        pid, started = int(document["pid"]), float(document["started"])
        host, boot = str(document["location"]), str(document["hostid"])
        url, reuse = str(document["url"]), bool(document["reuse"])
    except (OSError, ValueError, KeyError, TypeError):
        found.spare("connector file", path, "it is damaged, or not of our making")
        return
    if reuse:
        return  # -r: it outlives its controller, that is its purpose
    if not here and host != socket.gethostname():
        why = f"its controller was started on host {host}: run 'ipclusterz clean' there"
        found.spare("connector file", path, why)
    elif boot.partition(".")[0] == boot_id() and _same(pid, started):
        return
    elif _answers(url):
        found.spare("connector file", path, f"something listens at {url}")
    else:
        found.add("connector file", path, f"its controller (process {pid}) has ended")


def _same(pid: int, started: float) -> bool:
    """Tell whether a controller that started then may be this process."""
    ticks = process_start(pid)
    if not ticks:
        return not os.path.isdir("/proc/self") and is_alive(pid, 0)
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return booted + ticks / os.sysconf("SC_CLK_TCK") < started + YOUNG_SECONDS


def _answers(url: str) -> bool:
    kind, _, where = url.partition("://")
    if kind == "ipc":
        return _listens(where)
    host, _, port = where.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _PROBE_SECONDS):
            return True
    except (OSError, ValueError):
        return False


# -- shared places -------------------------------------------------------------------------


def _places() -> list[str]:
    """Return where folders of sockets and bodies are made."""
    named = (os.environ.get(name, "") for name in ("XDG_RUNTIME_DIR", "TMPDIR", bodies.PLACE))
    usual = (f"/run/user/{os.getuid()}", "/tmp", "/var/tmp", "/dev/shm", tempfile.gettempdir())
    listed = [*named, *usual]
    found = dict.fromkeys(os.path.realpath(path) for path in listed if path)
    return [path for path in found if os.path.isdir(path)]


def _folder(path: str, found: Found, *, recorded: bool) -> None:
    """Judge a folder of sockets or bodies; ``recorded``: a dead cluster's state names it."""
    try:
        facts = os.lstat(path)
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
            return
        names = os.listdir(path)
    except OSError:
        return
    if _is_network(path):
        found.spare("folder", path, "it is on a network file system, another host may use it")
    elif bodies.PROOF in names:
        if bodies.abandoned(path):
            kind = "shared memory" if path.startswith("/dev/shm") else "large payloads"
            found.add(kind, path, "the process that made it has ended")
    elif any(not _is_socket(os.path.join(path, name), name) for name in names):
        found.spare("folder", path, "there is something in it that is not of our making")
    elif not recorded and _age(path) < YOUNG_SECONDS:
        return  # somebody may be about to listen there
    elif not any(_listens(os.path.join(path, name)) for name in names):
        found.add("runtime folder", path, "nobody listens in it")


def _is_socket(path: str, name: str) -> bool:
    try:
        return name == f"{bodies.PROOF}.new" or stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _listens(path: str) -> bool:
    """Tell whether somebody listens on a UNIX socket; in doubt somebody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def _is_network(path: str) -> bool:
    """Tell whether a path lies on a file system that other hosts may have as well."""
    best, kind = "", ""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as file:
            mounts = [line.split(" ") for line in file]
    except OSError:
        return False
    for mount in mounts:
        point = mount[1].replace("\\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, mount[2]
    return kind in _NETWORK


# -- processes -----------------------------------------------------------------------------


def _mark(pid: int) -> str:
    """Return the mark of the cluster that a process of ours belongs to, or ''."""
    head = f"{states.TOKEN}=".encode()
    try:
        if os.stat(f"/proc/{pid}").st_uid != os.geteuid():
            return ""
        with open(f"/proc/{pid}/environ", "rb") as file:
            for entry in file.read().split(b"\0"):
                if entry.startswith(head):
                    return entry[len(head) :].decode("ascii", "replace")
    except OSError:
        pass
    return ""


def _line(pid: int, processes: dict[int, tuple[int, list[str]]]) -> Iterator[int]:
    """Yield a process and its ancestors."""
    seen: set[int] = set()
    while pid in processes and pid not in seen:
        seen.add(pid)
        yield pid
        pid = processes[pid][0]


def _left_to_init(line: list[int], processes: dict[int, tuple[int, list[str]]]) -> bool:
    """Tell whether the first ancestor without a mark is what adopts orphans."""
    adopter = next((pid for pid in line if not _mark(pid)), 0)
    command = processes[adopter][1] if adopter else []
    return adopter <= 1 or os.path.basename(command[0] if command else "") == "systemd"


def _is_ours(argv: list[str]) -> bool:
    """Tell whether a command line is that of a controller, an agent or a command of ours."""
    for at, word in enumerate(argv[:8]):
        if os.path.basename(word) in _OURS and "/engine/" not in word:
            return True
        if (
            at
            and argv[at - 1] == "-m"
            and (word == "ipclusterz" or word.startswith("ipclusterz.apps"))
        ):
            return True
    return False


def _end(pid: int, start: int) -> str:
    for signum, patience in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, TERM_SECONDS)):
        if not is_alive(pid, start):
            return ""
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            return ""
        except OSError as error:
            return error.strerror or str(error)
        deadline = time.monotonic() + patience
        while is_alive(pid, start) and time.monotonic() < deadline:
            time.sleep(0.01)
    return "it does not end" if is_alive(pid, start) else ""


def _files(folder: str, prefix: str, suffix: str) -> list[str]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return []
    return [
        os.path.join(folder, name)
        for name in names
        if name.startswith(prefix) and name.endswith(suffix)
    ]


def _age(path: str) -> float:
    try:
        return time.time() - os.lstat(path).st_mtime
    except OSError:
        return 0.0


def _title(state: State) -> str:
    return f"cluster {state.cluster_id!r}" if state.cluster_id else "its cluster"
