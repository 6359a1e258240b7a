"""The tasks that are measured: they do nothing, or next to nothing.

They stand in a module of their own so that every peer ships them by name, the cheapest way
each of them knows.  Standard library only.
"""

from __future__ import annotations

import os
import time
from typing import Any


def noop() -> None:
    """Return at once: what remains is the cost of the machinery."""


def same(item: int) -> int:
    """Return ``item``: that each item of a map got its own result can then be checked."""
    return item


def own_pid() -> int:
    """Our process id; a function in Python for those who cannot send built-in ones."""
    return os.getpid()


def told(array: Any) -> list[float]:
    """Size in bytes, first and last value: what shows that an array is there, and which."""
    return [float(array.nbytes), float(array[0]), float(array[-1])]


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


def wait_for(path: str, patience: float = 900.0) -> None:
    """Wait until there is a file ``path``; raises TimeoutError after ``patience`` seconds.

    That we wait is told by a file of our own beside it.
    """
    with open(f"{path}-{os.getpid()}", "x"):
        pass
    deadline = time.monotonic() + patience
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            raise TimeoutError(f"there was no {path} within {patience:.0f} s")
        time.sleep(0.01)
