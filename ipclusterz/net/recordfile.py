"""A file of records that is only appended to, owner-only (:mod:`ipclusterz.core.records`).

Nothing waits for the disk: what is written survives its writer, which is all it is for.  A
file that cannot be written is removed, as half of the truth would be taken for all of it, and
that is said once; its writer goes on without.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ipclusterz import files
from ipclusterz.error import KernelError


class RecordFile:
    """The file at ``path``; ``on_failed`` is told, once, why it cannot be written."""

    def __init__(self, path: str, on_failed: Callable[[str], None]) -> None:
        self.path = path
        self.failed = False  # once: what was to be appended since is missing
        self._on_failed = on_failed
        self._fd = -1

    @property
    def fd(self) -> int:
        """The descriptor of the open file, or -1."""
        return self._fd

    def resume(self) -> bool:
        """Go on with the file that is there; False if there is none."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
        try:
            self._fd = os.open(self.path, flags)
        except OSError:
            return False
        return True

    def rewrite(self, data: bytes) -> None:
        """Write the file anew, with all there is to know, and go on from there."""
        self.close()
        try:
            files.write_private(self.path, data, sync=False)
        except (KernelError, OSError) as error:
            self._fail(str(error))
            return
        if not self.resume():
            self._fail("it was removed at once")

    def append(self, data: bytes) -> None:
        """Append to the file, if it is open."""
        if self._fd < 0:
            return
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            self._fail(error.strerror or str(error))

    def remove(self) -> None:
        """Let go of the file and remove it."""
        self.close()
        files.remove(self.path)

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _fail(self, why: str) -> None:
        known, self.failed = self.failed, True
        self.remove()
        if not known:
            self._on_failed(why)
