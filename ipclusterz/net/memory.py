"""How much memory this process takes and may have, and giving back what it needs no more.

The C library keeps freed memory for later, and what lies between pieces in use for ever.
Whoever knocked at a port a thousand times would be seen in a process's size until it ends.
"""

from __future__ import annotations

import os
import resource
import sys

from ipclusterz.net.loop import Loop

_UNKNOWN = 4 << 30  # where the system does not tell

TIDY_SECONDS = 5.0
TIDY_BYTES = 4_000_000
"""Growth after which memory that is free again is given back.

A connection that said a greeting costs libzmq 14 kB, and one that showed a password 28, until
it is closed.
"""


def allowance(groups: str = "/sys/fs/cgroup", listed: str = "/proc/self/cgroup") -> int:
    """Return how many bytes of memory this process may have.

    That is what the machine has, or what its control group and those above may: of version 2
    (``memory.max``) or 1 (``memory.limit_in_bytes``), see cgroups(7).
    """
    try:
        least = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        with open(listed, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except (OSError, ValueError, AttributeError):
        return _UNKNOWN
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            base, name = groups, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = f"{groups}/memory", "memory.limit_in_bytes"
        else:
            continue
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):
            try:
                with open("/".join([base, *parts[:depth], name]), "rb") as file:
                    least = min(least, int(file.read()))
            except (OSError, ValueError):
                pass  # there is no such group here, or "max"
    return least


def resident() -> int:
    """Return this process's resident memory in bytes; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, IndexError, ValueError):
        return 0


def give_back() -> None:
    """Return what is free to the system; nothing where the C library cannot."""
    if sys.platform.startswith("linux"):
        import ctypes  # few need it

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc, not of musl
        if trim is not None:
            trim(0)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_KEPT = 32 * 1024 * 1024
_kept = False


def keep() -> None:
    """Have the C library keep what pieces of large payloads were in, for the next ones.

    By default it gives each back to the system, which then has to clear the same pages for
    the next one: 500 page faults a megabyte, two thirds of the time that a piece took here.
    """
    global _kept
    if _kept or not sys.platform.startswith("linux"):
        return
    _kept = True
    import ctypes

    option = getattr(ctypes.CDLL(None), "mallopt", None)
    if option is not None:
        option(_M_MMAP_THRESHOLD, _KEPT)
        option(_M_TRIM_THRESHOLD, _KEPT)


class Tidy:
    """Looks now and then whether this process has grown, and if so gives back what is free."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._size = resident()
        self._timer = loop.after(TIDY_SECONDS, self._look)

    def _look(self) -> None:
        size = resident()
        if size > self._size + TIDY_BYTES:
            give_back()
            self._size = resident()
        else:
            self._size = min(self._size, size)
        self._timer = self._loop.after(TIDY_SECONDS, self._look)

    def close(self) -> None:
        """Look no more."""
        self._timer.cancel()
