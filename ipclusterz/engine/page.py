"""The page of memory that an engine shares with its agent.

Lives here: the layout of that page and both ends' view of it.  May know: nothing but mmap.
Must not know: what a task or an outcome is; records are bytes here.

It outlives the engine: after a crash the agent reads from it which task was running and
which outcomes were finished but not sent.  All writing is done by the engine, except for
the words :attr:`Page.interrupt` and TAKEN and for setting the one that :meth:`Page.revoke`
sets.

Layout, in 64-bit words: running key, interrupt key, committed bytes, serial, generation,
pid, revoked, taken; then the scratch area of records, each after its length.
"""

from __future__ import annotations

import mmap
import os

RUNNING, INTERRUPT, COMMITTED, SERIAL, GENERATION, PID, REVOKED, TAKEN = range(8)
"""Indices of the words in :attr:`Page.words`."""

HEAD = 64
"""Bytes before the scratch area."""

SCRATCH = 64 * 1024
"""Bytes of the scratch area."""

PAGE_SIZE_TOTAL = HEAD + SCRATCH
"""Bytes of the whole page; memory is taken only for the parts that are written."""

_LENGTH = 4  # bytes of a record's length, little-endian
_TRIES = 64


def create() -> int:
    """Make a page of zeros and return its descriptor (not inherited by exec).

    Raises OSError where memory is short.
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("ipclusterz-page", os.MFD_CLOEXEC)
    else:  # a file that has no name any more serves as well
        import tempfile

        fd, path = tempfile.mkstemp(prefix="ipclusterz-page-")
        os.unlink(path)
    try:
        os.ftruncate(fd, PAGE_SIZE_TOTAL)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Page:
    """One end's view of the page behind ``fd``, which may be closed afterwards.

    ``words`` gives the head as unsigned 64-bit integers, for code that cannot afford a
    property.  Raises OSError or ValueError when ``fd`` is no page.
    """

    __slots__ = ("_map", "_scratch", "words")

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, PAGE_SIZE_TOTAL)
        view = memoryview(self._map)
        self.words = view[:HEAD].cast("Q")
        self._scratch = view[HEAD:]

    @property
    def running(self) -> int:
        """Key of the task that runs now; 0 when none does."""
        return self.words[RUNNING]

    @running.setter
    def running(self, key: int) -> None:
        self.words[RUNNING] = key

    @property
    def interrupt(self) -> int:
        """Key of the task that shall be interrupted; 0 when none shall."""
        return self.words[INTERRUPT]

    @interrupt.setter
    def interrupt(self, key: int) -> None:
        self.words[INTERRUPT] = key

    @property
    def serial(self) -> int:
        """Number of tasks begun so far."""
        return self.words[SERIAL]

    @property
    def pid(self) -> int:
        """Process id of the engine, known from its fork on; 0 before."""
        return self.words[PID]

    def revoke(self) -> None:
        """Have the engine give back what it has not begun of its batch.

        The engine looks here after it has noted each task as running and before it begins
        it.  So whoever sets this and reads :attr:`running` a moment later (stores become
        visible within microseconds) knows that nothing after that task will be begun.
        """
        self.words[REVOKED] = 1

    def commit(self, record: bytes) -> bool:
        """Keep ``record`` beyond the engine's death; False when there is no room for it."""
        words = self.words
        start = words[COMMITTED]
        begin = start + _LENGTH
        end = begin + len(record)
        if end > SCRATCH:
            return False
        self._scratch[start:begin] = len(record).to_bytes(_LENGTH, "little")
        self._scratch[begin:end] = record
        words[COMMITTED] = end  # last: a record counts only when it is whole
        return True

    def reset(self) -> None:
        """Forget the records: they have been sent."""
        words = self.words
        words[GENERATION] += 1
        words[COMMITTED] = 0

    def committed(self) -> list[bytes]:
        """Return the records kept; right even while the engine goes on working.

        Records may also have been sent already: their reader must tell by their keys.
        """
        for _ in range(_TRIES):
            generation = self.words[GENERATION]
            data = bytes(self._scratch[: min(self.words[COMMITTED], SCRATCH)])
            if generation == self.words[GENERATION]:
                return _records(data)
        return []  # an engine this busy sends its outcomes itself

    def close(self) -> None:
        """Unmap the page; using it afterwards raises ValueError."""
        self.words.release()
        self._scratch.release()
        try:
            self._map.close()
        except BufferError:  # someone still looks at it; it goes with the last of them
            pass


def note_pid(fd: int, pid: int) -> None:
    """Write ``pid`` into the page behind ``fd`` without mapping it."""
    os.pwrite(fd, pid.to_bytes(8, "little"), PID * 8)


def noted_pid(fd: int) -> int:
    """Return what :func:`note_pid` wrote; 0 when it has not."""
    return int.from_bytes(os.pread(fd, 8, PID * 8), "little")


def _records(data: bytes) -> list[bytes]:
    found = []
    at = 0
    while at + _LENGTH <= len(data):
        begin = at + _LENGTH
        at = begin + int.from_bytes(data[at:begin], "little")
        if at > len(data):
            break
        found.append(data[begin:at])
    return found
