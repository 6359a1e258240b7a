"""The task that is measured: nothing at all.

It stands in a module of its own so that every peer ships it by name, the cheapest way each
of them knows.  Standard library only.
"""

from __future__ import annotations

import os
import time


def noop() -> None:
    """Return at once: what remains is the cost of the machinery."""


def meet(folder: str, n: int, patience: float = 30.0) -> int:
    """Wait in ``folder`` until ``n`` processes are in this function; our process id.

    Raises TimeoutError after ``patience`` seconds.
    """
    with open(os.path.join(folder, str(os.getpid())), "x"):
        pass
    deadline = time.monotonic() + patience
    while len(os.listdir(folder)) < n:
        if time.monotonic() > deadline:
            raise TimeoutError(f"fewer than {n} workers within {patience:.0f} s")
        time.sleep(0.001)
    return os.getpid()
