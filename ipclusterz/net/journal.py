"""The file in which a hub with ``-r`` notes its members (:mod:`ipclusterz.core.membership`).

It holds the keys of their links and lies, owner-only, beside the key file.  Nothing waits for
the disk: what is written survives the controller, which is all it is for.  A file that cannot
be written is said once; the controller goes on without.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from ipclusterz import files
from ipclusterz.core import membership
from ipclusterz.core.membership import Membership, Record
from ipclusterz.error import KernelError

TOUCH_SECONDS = 20.0
"""How often a hub shows in the file's time of change that it lives."""


def path_of(key_file: str) -> str:
    """Return the journal's path, '' where ``-r`` was not said."""
    return key_file.removesuffix(".key") + ".members" if key_file else ""


def estate_of(key_file: str, runtime: str) -> str:
    """Return the path of what the task scheduler notes; with ``-r`` it outlives us."""
    if not key_file:
        return os.path.join(runtime, "left")
    return key_file.removesuffix(".key") + ".left"


def is_there(path: str) -> bool:
    """Tell whether a controller ended without removing its journal."""
    return bool(path) and os.path.exists(path)


class Journal:
    """Appends records; ``warn`` is told, once, that this is not possible."""

    def __init__(self, path: str, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn = warn
        self._fd = -1
        self._touched = 0.0
        self.members = Membership()
        self.age = 0.0
        """Seconds since the hub before us showed that it lived."""
        try:
            self.age = max(time.time() - os.stat(path).st_mtime, 0.0)
            self.members = membership.read(files.read_private(path))
        except FileNotFoundError:
            pass
        except KernelError as error:
            warn(f"which peers there were is not known: {error}")
        self._rewrite()

    def note(self, record: Record) -> None:
        """Append a record."""
        self.members.note(record)
        if self.members.wasteful:
            self._rewrite()
            return
        if self._fd >= 0:
            try:
                os.write(self._fd, membership.written(record))
            except OSError as error:
                self._fail(error.strerror or str(error))

    def touch(self, now: float) -> None:
        """Show that the hub lives."""
        if self._fd >= 0 and now - self._touched >= TOUCH_SECONDS:
            self._touched = now
            try:
                os.utime(self._fd)
            except OSError:
                pass

    def _rewrite(self) -> None:
        """Write the file anew, with what is true now, and go on from there."""
        self._close()
        records = list(self.members.all())
        self.members = Membership()
        for record in records:
            self.members.note(record)
        try:
            files.write_private(self._path, b"".join(map(membership.written, records)))
            flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
            self._fd = os.open(self._path, flags)
        except (KernelError, OSError) as error:
            self._fail(str(error))

    def _fail(self, why: str) -> None:
        self._close()
        # Half of the truth would be taken for all of it.
        files.remove(self._path)
        self._warn(
            f"cannot note who is connected ({why}): should this controller be killed, clients"
            " that live will not get their results from the next one"
        )

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
