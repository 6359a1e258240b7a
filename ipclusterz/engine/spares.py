"""Files of bodies nobody needs any more, kept for a moment to be written again.

Lives here: what becomes of a body's file that its owner lets go of, and how it becomes
another body.  Must not know: who sends bodies, nor why.

A large body costs the kernel more to make room for than to write: the second body of a size
takes a third of the time where it is written over one before, and a fifth where the writer
has that mapped still.  So the owner of a folder *retires* files, from where whoever writes
in that folder may *take* one; what nobody takes is removed after :data:`SECONDS`.

Readers map a body privately and share what they do not write to, for as long as they like.
Who has a file open or mapped only the kernel knows, which grants a write lease on it to none
but its sole holder.  Where it does not say so of a file that is mapped (it is tried), no
file is ever written again.
"""

from __future__ import annotations

import mmap
import os
import signal
from _thread import allocate_lock
from collections.abc import Callable
from time import monotonic

LEAST = 1 << 20
"""Bytes of a body that is worth it."""

MOST = 512 << 20
MOST_FILES = 8
"""What a folder may have of them, in bytes and in number; owners may allow less."""

SECONDS = 2.0
"""How long a file waits to be written again."""

FOLDER = ".spare"

# A lease of somebody who was stopped just then is not waited for.
_COMMON = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Spares:
    """The spare files of one folder, for its owner or for others who write there.

    With ``hold`` what was written through a map stays mapped: for owners that let go of
    their own bodies, and so know when they are removed.  ``close`` gets the descriptor of
    what is removed; the kernel clears its memory then, which takes it a while.  ``most`` is
    how many bytes may wait.
    """

    def __init__(
        self,
        folder: str,
        hold: bool = False,
        close: Callable[[int], None] = os.close,
        most: int = MOST,
    ) -> None:
        self._bodies = folder
        self._most = most
        self._close = close
        self._folder = os.path.join(folder, FOLDER)
        self._hold = hold
        self._lock = allocate_lock()  # owners retire in one thread and write in another
        self._held: dict[str, tuple[int, mmap.mmap]] = {}  # body -> descriptor and map
        self._waiting: dict[str, tuple[float, int]] = {}  # file -> since when, and its size
        self._sound: bool | None = None

    # -- the owner's -----------------------------------------------------------------------

    def retire(self, body: str, size: int) -> bool:
        """Put the file of a body away, to be written again; False where it is to be removed."""
        if not LEAST <= size <= self._most:
            return False
        with self._lock:
            if not self._is_sound():
                return False
            waiting = self._waiting
            self._count()
            used = sum(has for _, has in waiting.values())
            while waiting and (len(waiting) >= MOST_FILES or used + size > self._most):
                used -= next(iter(waiting.values()))[1]
                self._remove(next(iter(waiting)), self._close)
            name = f"{size}-{body}"
            try:
                os.makedirs(self._folder, 0o700, exist_ok=True)
                os.rename(os.path.join(self._bodies, body), os.path.join(self._folder, name))
            except OSError:
                return False  # it is gone, or in another folder
            waiting[name] = monotonic(), size
            return True

    def trim(self) -> float:
        """Remove what waited for long; return after how many seconds to look again, or 0."""
        with self._lock:
            self._count()
            now = monotonic()
            for name, (since, _) in list(self._waiting.items()):
                if now - since < SECONDS:
                    return since + SECONDS - now
                self._remove(name, self._close)
            return 0.0

    def forget(self, body: str) -> None:
        """A body was removed: it is not held any longer."""
        with self._lock:
            self._let_go(body)

    def close(self) -> None:
        """Let go of everything; the files are the folder's."""
        with self._lock:
            for body in list(self._held):
                self._let_go(body)
            self._waiting.clear()

    def clear(self) -> bool:
        """Remove all, as there is no room; False where there are none."""
        with self._lock:
            found = names(self._bodies)
            for name in found:
                self._remove(name, os.close)  # the room is needed now
            return bool(found)

    def _count(self) -> None:
        """See which ones were taken, or removed as there was no room."""
        if self._waiting:
            left = set(names(self._bodies))
            for name in [name for name in self._waiting if name not in left]:
                del self._waiting[name]
                self._let_go(name.partition("-")[2])

    def _remove(self, name: str, close: Callable[[int], None]) -> None:
        self._waiting.pop(name, None)
        path = os.path.join(self._folder, name)
        try:
            fd = os.open(path, os.O_RDONLY | _COMMON)
        except OSError:
            fd = -1
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass  # it was taken just now
        else:
            self._let_go(name.partition("-")[2])
        if fd >= 0:
            close(fd)

    def _let_go(self, body: str) -> None:
        fd, mapped = self._held.pop(body, (-1, None))
        if mapped is not None:
            try:
                mapped.close()
            except BufferError:
                pass  # a copy to it was interrupted, and a thread of it still runs
            os.close(fd)

    # -- the writer's ----------------------------------------------------------------------

    def take(self, body: str, size: int) -> mmap.mmap | None:
        """Make a spare file the one of ``body`` and map it; None where none will do.

        The map has ``size`` bytes at least; give it back to :meth:`written`.
        """
        if size < LEAST:
            return None
        fitting = [
            (has, name)
            for name in names(self._bodies)
            if size <= (has := int(name.partition("-")[0])) <= 2 * size
        ]
        with self._lock:
            for has, name in sorted(fitting) if fitting and self._is_sound() else ():
                mapped = self._taken(name, has, body, size)
                if mapped is not None:
                    return mapped
        return None

    def _taken(self, name: str, has: int, body: str, size: int) -> mmap.mmap | None:
        former = name.partition("-")[2]
        path = os.path.join(self._folder, name)
        fd, mapped = self._held.get(former, (-1, None))
        try:
            if mapped is None:
                fd = os.open(path, os.O_RDWR | _COMMON)
            # Alone while it has the name under which no reader looks for it: so it stays.
            if not _alone(fd):
                raise OSError("somebody has it")
            if mapped is None:
                flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
                mapped = mmap.mmap(fd, size, flags=flags)
            # The last that may fail: until then it is a spare file as it was.
            os.rename(path, os.path.join(self._bodies, body))
        except (OSError, ValueError):  # ValueError: it was taken meanwhile, and cut
            if former not in self._held and fd >= 0:
                os.close(fd)
            return None
        if has > size:
            os.ftruncate(fd, size)
        self._held.pop(former, None)
        self._waiting.pop(name, None)
        self._held[body] = fd, mapped
        return mapped

    def written(self, body: str) -> None:
        """What was taken is written."""
        if not self._hold:
            with self._lock:
                self._let_go(body)

    def _is_sound(self) -> bool:
        """Whether the kernel tells that a reader has a file; tried once."""
        if self._sound is None:
            try:
                self._sound = _tells(self._bodies)
            except (OSError, ImportError, AttributeError):
                self._sound = False
        return self._sound


def names(folder: str) -> list[str]:
    """Return the names of a folder's spare files."""
    try:
        found = os.listdir(os.path.join(folder, FOLDER))
    except FileNotFoundError:
        return []
    return [name for name in found if name.partition("-")[0].isdigit()]


def _alone(fd: int) -> bool:
    """Whether nobody else has the file, be it mapped and no more."""
    import fcntl  # not on Windows

    try:
        # Who opens the file during the lease has us sent a signal, which by default kills.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True


def _tells(folder: str) -> bool:
    """Try whether a file that is mapped by a reader is told from one that is not."""
    path = os.path.join(folder, f".try-{os.urandom(8).hex()}")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _COMMON, 0o600)
    try:
        os.write(fd, b"?")
        reader = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        mapped = mmap.mmap(reader, 1, access=mmap.ACCESS_COPY)
        os.close(reader)
        seen = not _alone(fd)
        mapped.close()
        return seen and _alone(fd)
    finally:
        os.close(fd)
        os.unlink(path)
