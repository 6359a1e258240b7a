"""The file in which a hub with ``-r`` notes its members (:mod:`ipclusterz.core.membership`).

It holds the keys of their links and lies, owner-only, beside the key file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from ipclusterz import files
from ipclusterz.core import membership
from ipclusterz.core.membership import Membership, Record
from ipclusterz.error import KernelError
from ipclusterz.net.recordfile import RecordFile

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
        self._warn = warn
        self._file = RecordFile(path, self._failed)
        self._touched = 0.0
        self.members = Membership()
        self.age = 0.0
        """Seconds since the hub before us showed that it lived."""
        try:
            self.age = max(time.time() - os.stat(path).st_mtime, 0.0)
            self.members = membership.read(files.read_private(path, limit=None))
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
        else:
            self._file.append(membership.written(record))

    def touch(self, now: float) -> None:
        """Show that the hub lives."""
        if self._file.fd >= 0 and now - self._touched >= TOUCH_SECONDS:
            self._touched = now
            try:
                os.utime(self._file.fd)
            except OSError:
                pass

    def _rewrite(self) -> None:
        """Write the file anew, with what is true now, and go on from there."""
        records = list(self.members.all())
        self.members = Membership()
        for record in records:
            self.members.note(record)
        self._file.rewrite(b"".join(map(membership.written, records)))

    def _failed(self, why: str) -> None:
        self._warn(
            f"cannot note who is connected ({why}): should this controller be killed, clients"
            " that live will not get their results from the next one"
        )
