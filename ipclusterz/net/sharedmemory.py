"""A place for bodies: shared memory, within a limit where one was set or there is little.

Shared memory counts as memory of the batch job or container whose processes wrote it, and
a disk does not.  So what goes beyond the limit needs a folder that is on a disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from ipclusterz.engine import bodies

_MEMORY = frozenset(("tmpfs", "ramfs", "devtmpfs"))


SMALL = 1 << 30
"""Shared memory of less than this is for small things: containers have 64 MB if nobody asks."""


def make(
    limit: int = 0, notice: Callable[[str], None] = lambda text: None
) -> tuple[str, bytes, list[str]]:
    """Make the folder for bodies; return it, its proof, and all folders that were made.

    ``limit`` (bytes; 0: none) holds for what lies in it at one time, if it is in memory.
    What does not fit into shared memory that is small goes to a disk as well, unless the user
    named the place.  ``notice`` is told where no folder on a disk can take what goes beyond a
    limit.
    """
    folder, proof = bodies.make_folder()
    if not (limit or _small(folder)) or not in_memory(folder):
        return folder, proof, [folder]
    for base in disks():
        try:
            bodies.sweep(base)
            beyond = bodies.folder_in(base)
        except OSError:
            continue
        try:
            bodies.limit(folder, limit, beyond)
        except OSError:  # it is full
            bodies.remove_folder(folder)
            return *beyond, [beyond[0]]
        return folder, proof, [folder, beyond[0]]
    if not limit:
        return folder, proof, [folder]
    bodies.limit(folder, limit, None)
    notice(
        f"--shm-limit: no folder for temporary files is on a disk and can be written"
        f" ({', '.join(candidates())}), so objects that do not fit into the limit fail with an"
        " error; set TMPDIR to one"
    )
    return folder, proof, [folder]


def _small(folder: str) -> bool:
    place = os.statvfs(folder)
    told = os.environ.get(bodies.PLACE)
    return not told and 0 < place.f_blocks * place.f_frsize < SMALL


def candidates() -> list[str]:
    """Return where temporary files go, the usual place first."""
    import tempfile  # 3 ms, and only with a limit

    try:
        usual = [tempfile.gettempdir()]
    except OSError:
        usual = []
    return list(dict.fromkeys((*usual, "/var/tmp")))


def disks() -> list[str]:
    """Return those of the candidates that are not in memory themselves."""
    return [base for base in candidates() if os.path.isdir(base) and not in_memory(base)]


def in_memory(path: str) -> bool:
    """Tell whether files in a folder are memory."""
    from ipclusterz.store.place import filesystem  # with a limit only: agents start fast

    return filesystem(path) in _MEMORY
