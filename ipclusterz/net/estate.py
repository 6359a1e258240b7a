"""The file in which the task scheduler notes what clients leave behind (core/estate.py).

It holds arguments and functions of tasks and is owner-only.
"""

from __future__ import annotations

from collections.abc import Callable

from ipclusterz import files
from ipclusterz.core import estate
from ipclusterz.core.balance import Balancer
from ipclusterz.core.estate import Inheritance
from ipclusterz.error import KernelError
from ipclusterz.net.recordfile import RecordFile


class EstateFile:
    """Appends what a core's estate collects; ``warn`` is told, once, when that fails."""

    def __init__(self, path: str, core: Balancer, warn: Callable[[str], None]) -> None:
        self._core = core
        self._warn = warn
        self._file = RecordFile(path, self._failed)

    def read(self) -> Inheritance:
        """Return what the scheduler before us wrote, and go on from there."""
        try:
            return estate.read(files.read_private(self._file.path, limit=None))
        except FileNotFoundError:
            return Inheritance()
        except KernelError as error:
            self._warn(f"which tasks clients left is not known: {error}")
            return Inheritance()

    def discard(self) -> None:
        """Forget what another controller may have left here."""
        self._file.remove()

    def carry(self) -> None:
        """Write what was collected; called before anything that follows from it is said."""
        file, kept = self._file, self._core.estate
        if kept.over:
            kept.out = []
            file.remove()
            return
        anew = kept.wasteful
        if anew:
            self._core.rewrite()
        out, kept.out = kept.out, []
        if anew or not (file.failed or file.fd >= 0 or file.resume()):
            file.rewrite(estate.written(out))
        else:
            file.append(estate.written(out))

    def _failed(self, why: str) -> None:
        self._warn(
            f"cannot note what clients left to be done in {self._file.path} ({why}): should"
            " this scheduler be killed, tasks that wait and whose client has left are lost"
        )

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
