"""Finding the processes that an engine's user code left behind, to end them with it.

Lives here: one look at ``/proc``.  May know: the marks in an engine's surroundings.  Must
not know: who asks.  Where there is no ``/proc`` nothing is found.

A process is an engine's when it is of its session, descends from it, or carries its mark:
in the environment it was executed with, or, where it was forked only, as its name.  A
daemon that forked twice in a session of its own is found by the latter two.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable

ENGINE_MARK = "IPCLUSTERZ_ENGINE_ID"
"""The environment variable with an engine's number."""

AGENT_MARK = "IPCLUSTERZ_AGENT"
"""The environment variable by which everything of one agent's engines is known."""

TOKEN_SIZE = 16
"""Characters of its value."""

SPACE = "IPCLUSTERZ_EMPTY"
"""A variable as long as that one, whose place it can take.

What the system shows as a process's environment is what it was executed with.  A zygote that
was only forked (:mod:`ipclusterz.engine.early`) writes its mark over this.
"""

_ROUNDS = 5  # they may fork while we look


def space() -> dict[str, str]:
    """Return what to add to the environment of a program that is going to fork a zygote."""
    return {SPACE: "0" * TOKEN_SIZE}


def engine_name(number: int) -> str:
    """Return what an engine is called in lists of processes.

    Without a space: there are programs that take ``/proc/PID/stat`` apart at spaces.  Slurm's
    ``proctrack/linuxproc`` is one, and counts no memory of a process that it cannot read.
    """
    return f"ipenginez-{number}"


class Processes:
    """The living processes of this host: parent, session, name and surroundings of each."""

    def __init__(self) -> None:
        self.facts: dict[int, tuple[int, int, bytes]] = {}
        try:
            names = os.listdir("/proc")
        except OSError:
            return
        for name in names:
            if name.isdigit():
                found = _stat(int(name))
                if found is not None:
                    self.facts[int(name)] = found

    def of_engine(self, number: int, pid: int, agent: int, spare: set[int]) -> set[int]:
        """Return what the engine ``number``, which was process ``pid``, has left behind."""
        name = engine_name(number).encode()
        mark = f"{ENGINE_MARK}={number}".encode()

        def orphan(process: int) -> bool:
            parent, _, called = self.facts[process]
            return parent == agent and (called == name or mark in environment(process))

        first = {
            process
            for process, (_, session, _) in self.facts.items()
            if process not in spare and (session == pid or orphan(process))
        }
        return self._with_descendants(first, spare) - {pid}

    def of_agent(self, token: str, engines: Iterable[int], spare: set[int]) -> set[int]:
        """Return everything that came of an agent's engines, wherever it hangs now."""
        mark = f"{AGENT_MARK}={token}".encode()
        sessions = {pid for pid in engines if pid > 0}  # 0: led from outside of a container
        user = os.getuid()
        first = {
            process
            for process, (_, session, _) in self.facts.items()
            if process not in spare
            and _owner(process) == user
            and (session in sessions or mark in environment(process))
        }
        return self._with_descendants(first, spare)

    def _with_descendants(self, found: set[int], spare: set[int]) -> set[int]:
        grew = True
        while grew:
            more = {
                process
                for process, (parent, _, _) in self.facts.items()
                if parent in found and process not in found and process not in spare
            }
            found = found | more
            grew = bool(more)
        return found


def end(look: Callable[[Processes], set[int]]) -> None:
    """Kill what ``look`` finds, and look again until it finds nothing."""
    for _ in range(_ROUNDS):
        left = look(Processes())
        if not left:
            return
        for process in left:
            try:
                os.kill(process, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass


def environment(process: int) -> list[bytes]:
    """Return the environment a process was executed with; empty when we may not look."""
    try:
        with open(f"/proc/{process}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def _stat(process: int) -> tuple[int, int, bytes] | None:
    """Return (parent, session, name) of a living process."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            head, _, rest = file.read().rpartition(b")")
    except OSError:
        return None
    fields = rest.split()
    if fields[0] in (b"Z", b"X"):
        return None
    return int(fields[1]), int(fields[3]), head.partition(b"(")[2]


def _owner(process: int) -> int:
    try:
        return os.stat(f"/proc/{process}").st_uid
    except OSError:
        return -1
