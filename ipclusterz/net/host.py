"""Facts about this host and process that peers tell each other."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
import time

from ipclusterz.error import LaunchError

LINUX = sys.platform.startswith("linux")

PROBE_SECONDS = 1.0
"""How long a loopback port may take to accept; it does so at once or never."""


def host_name() -> str:
    """Return this host's name."""
    return socket.gethostname()


def host_id() -> str:
    """Return what is the same for two processes exactly if they share a host's resources.

    That is process ids, the loopback and the file systems that shared memory lies on.  On
    Linux it is the boot id and the namespaces, for containers on one host share less than
    its boot id.  Elsewhere it is the host's name.
    """
    return f"{loopback_id()}-{_namespace('pid')}.{_namespace('mnt')}"


def loopback_id() -> str:
    """Return what is the same for two processes exactly if they share a loopback.

    Connector files carry it as ``hostid``.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()}.{_namespace('net')}"
    except OSError:
        return host_name()


def _namespace(kind: str) -> str:
    try:
        return f"{os.stat(f'/proc/self/ns/{kind}').st_ino:x}"
    except OSError:
        return ""


def answers(url: str) -> bool:
    """Tell whether something accepts connections at a ``tcp://host:port`` address."""
    place, _, port = url.removeprefix("tcp://").rpartition(":")
    if not url.startswith("tcp://") or not port.isdigit():
        return False
    try:
        socket.create_connection((place.strip("[]"), int(port)), PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def check_files(need: int, who: str, instead: str) -> None:
    """Raise LaunchError unless this process may have ``need`` open files.

    Found out later it is a traceback in the middle of something, or a library that spins.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and limit < need:
        raise LaunchError(
            f"{who} needs up to {need} open files, and {limit} are allowed on"
            f" {host_name()}: raise the limit (ulimit -n {need}, or 'nofile' in"
            f" /etc/security/limits.conf){instead}"
        )


def files_left() -> int:
    """Return how many more files this process may open; a large number if unknown."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        used = len(os.listdir("/proc/self/fd"))
    except OSError:
        return 1 << 20
    return 1 << 20 if limit == resource.RLIM_INFINITY else limit - used


_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> bool:
    if not LINUX:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(option, value, 0, 0, 0) == 0)


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends; end now if it has."""
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(0)


def no_core_dump() -> None:
    """Keep this process's memory, which holds keys, out of core dumps and debuggers."""
    _prctl(_PR_SET_DUMPABLE, 0)


def become_subreaper() -> bool:
    """Become the parent of descendants whose own parents end; False where impossible."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def pidfd(pid: int) -> int:
    """Return a descriptor that is readable when ``pid`` has ended; -1 where impossible."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return -1


def is_there(pid: int) -> bool:
    """Tell whether a process has this number now."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def vitals(pid: int) -> dict[str, float]:
    """Return a process's resident ``memory`` in bytes and ``uptime`` in seconds.

    And ``stopped``, if a signal or a debugger has stopped it.
    What the system does not tell is left out.  Takes a few microseconds: proportional
    memory would be fairer to forked processes, but walks all their pages.
    """
    found: dict[str, float] = {}
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            found["memory"] = int(file.read().split()[1]) * resource.getpagesize()
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        started = int(fields[19])
        if fields[0] in (b"T", b"t"):
            found["stopped"] = 1.0
        ticks = os.sysconf("SC_CLK_TCK")
        found["uptime"] = max(time.clock_gettime(time.CLOCK_BOOTTIME) - started / ticks, 0.0)
    except (OSError, IndexError, ValueError, AttributeError):
        pass
    return found
