"""The file in which the task scheduler notes what clients leave behind (core/estate.py).

It holds arguments and functions of tasks and is owner-only.  Nothing waits for the disk: what
is written survives the scheduler and the controller, which is all it is for.  A file that
cannot be written is said once; the scheduler goes on without.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ipclusterz import files
from ipclusterz.core import estate
from ipclusterz.core.balance import Balancer
from ipclusterz.core.estate import Inheritance
from ipclusterz.error import KernelError


class EstateFile:
    """Appends what a core's estate collects; ``warn`` is told, once, when that fails."""

    def __init__(self, path: str, core: Balancer, warn: Callable[[str], None]) -> None:
        self._path = path
        self._core = core
        self._warn = warn
        self._fd = -1
        self._failed = False

    def read(self) -> Inheritance:
        """Return what the scheduler before us wrote, and go on from there."""
        try:
            found = estate.read(files.read_private(self._path))
        except FileNotFoundError:
            return Inheritance()
        except KernelError as error:
            self._warn(f"which tasks clients left is not known: {error}")
            return Inheritance()
        return found

    def discard(self) -> None:
        """Forget what another controller may have left here."""
        files.remove(self._path)

    def carry(self) -> None:
        """Write what was collected; called before anything that follows from it is said."""
        kept = self._core.estate
        if kept.over:
            self.close()
            kept.out = []
            files.remove(self._path)
            return
        if kept.wasteful:
            self._core.rewrite()
            self._begin()
            return
        if self._fd < 0:
            if self._failed:
                kept.out = []
                return
            if not self._open():
                self._begin()
                return
        out, kept.out = kept.out, []
        try:
            _write_all(self._fd, estate.written(out))
        except OSError as error:
            self._fail(error.strerror or str(error))

    def _open(self) -> bool:
        """Go on with the file that is there; False if there is none."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
        try:
            self._fd = os.open(self._path, flags)
        except OSError:
            return False
        return True

    def _begin(self) -> None:
        """Write a new file with what was collected, and go on from there."""
        self.close()
        kept = self._core.estate
        out, kept.out = kept.out, []
        try:
            files.write_private(self._path, estate.written(out))
        except (KernelError, OSError) as error:
            self._fail(str(error))
        else:
            self._open()

    def _fail(self, why: str) -> None:
        self.close()
        self._failed = True
        # Half of the truth would be taken for all of it.
        files.remove(self._path)
        self._warn(
            f"cannot note what clients left to be done in {self._path} ({why}): should this"
            " scheduler be killed, tasks that wait and whose client has left are lost"
        )

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
