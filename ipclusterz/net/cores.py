"""The cores of this host: which of them are ours, and which other agents have bound theirs to.

An agent that binds its engines holds each of their cores, under a name that the kernel gives
to one process of a user at a time and takes back when that ends, however it ends: a second
agent on this host takes other cores, or none.  What is decided from this is decided in
:mod:`ipclusterz.core.placement`.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, Sequence

from ipclusterz.core import placement
from ipclusterz.core.placement import Core
from ipclusterz.error import LaunchError

_TOPOLOGY = "/sys/devices/system/cpu/cpu%d/topology/%s"
_CGROUPS = "/sys/fs/cgroup"


def mask(pid: int = 0) -> list[int]:
    """Return the cores that a process may run on: what Slurm, MPI or taskset left it."""
    try:
        return sorted(os.sched_getaffinity(pid))
    except AttributeError:  # not on Linux
        return list(range(os.cpu_count() or 1))


def usable() -> int:
    """Return how many cores this process may use.

    Its affinity mask bounds them, the quota of its control group, and what a batch system
    that binds nobody says it gave.
    """
    return max(1, min(len(mask()), _limit()))


def usable_by_rank() -> int:
    """Return how many cores are one MPI rank's, if all on this host get as many.

    A mask that is narrower than that of the process which started the ranks is ours, or that
    of a few of us.
    """
    try:
        all_ranks = len(mask(os.getppid()))
    except OSError:
        all_ranks = len(mask())
    together = min(all_ranks, _limit())
    return max(1, min(len(mask()), together // placement.local_ranks(os.environ)))


def _limit() -> int:
    """Return how many cores we were given without being told which."""
    bounds = [_quota(), placement.allotted(os.environ), placement.MOST_CORES]
    return min(bound for bound in bounds if bound is not None)


def _quota() -> int | None:
    """Return the cores that control groups let us use for all of the time, rounded up."""
    found = [_read_quota(os.path.join(_CGROUPS, "cpu.max"))]
    try:
        with open("/proc/self/cgroup", encoding="ascii", errors="replace") as file:
            ours = [line.rstrip("\n").split(":", 2)[2] for line in file if line[:3] == "0::"]
    except (OSError, IndexError):
        ours = []
    for path in ours:
        while path.strip("/"):
            found.append(_read_quota(f"{_CGROUPS}{path}/cpu.max"))
            path = os.path.dirname(path)
    return min((quota for quota in found if quota is not None), default=None)


def _read_quota(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, -(-int(quota) // int(period)))


def _core(number: int) -> Core:
    """Return a core with its place; one whose hardware is not told stands for itself."""
    told = []
    for name in ("physical_package_id", "core_id"):
        try:
            with open(_TOPOLOGY % (number, name), encoding="ascii") as file:
                told.append(int(file.read()))
        except (OSError, ValueError):
            return Core(number, (-1, number))
    return Core(number, (told[0], told[1]))


class Binding:
    """The shares of one agent's engines.

    ``shares`` has one for each engine, or is empty when they are not bound; ``problem`` says
    why, if they were to be.  Closing gives the cores to other agents.
    """

    def __init__(self, pin: str, n: int, rank: bool = False) -> None:
        """``pin`` is as :func:`ipclusterz.core.placement.parse_pin` returns it.

        Raises LaunchError for cores in a list that this process may not use.
        """
        self.usable = usable_by_rank() if rank else usable()
        self.shares: list[list[int]] = []
        self.problem = ""
        self._held: dict[int, socket.socket] = {}
        if not pin:
            return
        if not hasattr(os, "sched_setaffinity"):
            self.problem = f"{sys.platform} binds no process to cores: engines run on any"
        elif pin == placement.AUTO:
            self._divide(n, rank)
        else:
            self.shares = placement.listed(_allowed(placement.parse_cores(pin)), n)

    def threads(self, n: int, environ: Mapping[str, str]) -> dict[str, str]:
        """Return what tells libraries how many threads to start in one of ``n`` engines."""
        if self.shares:
            return placement.threads(len(self.shares[0]), 1, environ)
        return placement.threads(self.usable, n, environ)

    def free(self, taken: Sequence[Sequence[int]]) -> list[int]:
        """Return a share that none of the engines has that have ``taken`` theirs, or []."""
        left = [list(share) for share in self.shares]
        for share in taken:
            if list(share) in left:
                left.remove(list(share))
        return left[0] if left else []

    def close(self) -> None:
        """Hold no core any more."""
        for held in self._held.values():
            held.close()
        self._held.clear()

    def _divide(self, n: int, rank: bool) -> None:
        ours = sorted(map(_core, mask()), key=lambda core: (core.place, core.number))
        if _limit() < len(ours):
            self.problem = (
                f"{_limit()} of {len(ours)} cores are ours, by a quota or a batch system's"
                " word, but which ones is not told: engines are bound to none (--pin-cores)"
            )
            return
        wanted = self.usable if rank else len(ours)
        free: list[Core] = []
        for core in ours:
            if len(free) < wanted and self._hold(core.number):
                free.append(core)
        self.shares = placement.shares(free, n)
        used = {number for share in self.shares for number in share}
        for number in [number for number in self._held if number not in used]:
            self._held.pop(number).close()
        if not self.shares:
            self.problem = (
                f"{n} engines, and {len(free)} of {len(ours)} usable cores are free of engines"
                " of other agents: engines are bound to none (--pin-cores=auto shares no core,"
                " --pin-cores with a list of cores does)"
            )

    def _hold(self, number: int) -> bool:
        """Take a core, unless another agent of this user has it."""
        try:
            held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:  # no file is left
            return False
        try:
            held.bind(f"\0ipclusterz-{os.getuid()}-core-{number}")
        except OSError:
            held.close()
            return False
        self._held[number] = held
        return True


def _allowed(cores: list[int]) -> list[int]:
    ours = mask()
    missing = [number for number in cores if number not in ours]
    if missing:
        raise LaunchError(
            f"--pin-cores: core {placement.show_cores(missing)} is none that may be used here;"
            f" those are {placement.show_cores(ours)}"
        )
    return cores
