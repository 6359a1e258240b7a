"""Letting go of bodies: a file goes to the spare ones, or it is removed, and nobody waits.

To clear a gigabyte takes the kernel a tenth of a second; a thread waits for that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from ipclusterz.core.message import Body
from ipclusterz.engine import bodies
from ipclusterz.engine.spares import MOST, Spares
from ipclusterz.net import memory

SLOW = 32 * 1024 * 1024
"""A file of so many bytes takes its time to go."""

SHARE = 32
"""The part of its memory that a process may have in files which wait to be written again.

A batch job or container that uses all it may have would be killed for them.
"""

PLACE_SHARE = 8
"""The part of the file system: others write there too, who cannot have ours removed."""


class Discard:
    """Lets go of the bodies in a folder of ours.

    ``after(seconds, act)`` calls later.  ``hold`` says that this process writes them all,
    see :class:`~ipclusterz.engine.spares.Spares`; it writes over ``spares``.
    """

    def __init__(
        self,
        folder: str,
        after: Callable[[float, Callable[[], None]], object],
        hold: bool = False,
    ) -> None:
        self._after = after
        self._trimming = False
        # What waits to be written again would count within a limit of the folder.
        self._keeps = not bodies.limit_of(folder)[0]
        self.spares = Spares(folder, hold, _clear, _most(folder))

    def drop(self, body: Body) -> None:
        """Let go of a body that nobody needs any more."""
        name = body.id.hex()
        size = bodies.space(body)
        if self._keeps and self.spares.retire(name, size):
            if not self._trimming:
                self._trim()
            return
        self.spares.forget(name)
        if size < SLOW:
            bodies.remove(body)
            return
        try:
            path = os.path.join(body.folder, name)
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return  # it is gone
        bodies.remove(body)
        _clear(fd)

    def _trim(self) -> None:
        left = self.spares.trim()
        self._trimming = bool(left)
        if left:
            self._after(left, self._trim)

    def close(self) -> None:
        """Hold nothing any more."""
        self.spares.close()


def _most(folder: str) -> int:
    """Return how many bytes may wait in a folder to be written again."""
    place = os.statvfs(folder)
    size = place.f_blocks * place.f_frsize or MOST * PLACE_SHARE  # no blocks: no limit
    return min(MOST, memory.allowance() // SHARE, size // PLACE_SHARE)


def _clear(fd: int) -> None:
    """Close the last descriptor of a file that was removed."""
    if os.fstat(fd).st_size < SLOW:
        os.close(fd)
    else:
        threading.Thread(target=os.close, args=(fd,), name="ipclusterz-clear").start()
