"""What the system allows a process, for controllers, agents and zygotes alike.

May know: the operating system.  Imports nothing of ours: a zygote's memory is every engine's.
"""

from __future__ import annotations

import resource


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one; return the limit before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard or hard == resource.RLIM_INFINITY:
        wanted = hard if hard != resource.RLIM_INFINITY else 1 << 20
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            pass
    return soft
