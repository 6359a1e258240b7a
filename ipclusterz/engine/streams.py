"""What tasks print: how engines mark it and how agents tell whose it is.

Lives here: both ends of the pipes that are an engine's descriptors 1 and 2.  May know: the
shared page's words.  Must not know: messages, sockets.

Text written by Python goes out in frames (token, key, length, text) of at most PIPE_BUF
bytes, so that what child processes and C code write never falls inside of one.  Bytes
outside of frames belong to the task of the next frame, or, when none follows, to the task
that runs now.  A task that leaves such bytes unread in the pipe, or during which the agent
took such bytes out of it, ends with an empty frame, so that they are not taken for another's:
see :class:`Reader`.

What a task displays (:meth:`Stream.show`) goes the same way and so keeps its place in the
text.  The upper bits of such a frame's length say so, and which frames begin and end one.
"""

from __future__ import annotations

import array
import codecs
import errno
import fcntl
import io
import os
import termios
from _thread import RLock
from collections.abc import Iterable
from time import monotonic
from typing import Any

from ipclusterz.core.message import BEGIN, DISPLAY, END
from ipclusterz.engine.page import RUNNING, TAKEN

TOKEN_SIZE = 8
_HEAD_SIZE = TOKEN_SIZE + 8 + 2
_PIPE_BUF = 4096
_ROOM = _PIPE_BUF - _HEAD_SIZE
_SIZE = 0x0FFF  # the bits of a frame's length; above them, what kind of frame it is
_KIND_SHIFT = 13
_FULL = 4096  # characters that are written at once
_WINDOW = 0.05  # seconds
_BURST = 32  # lines per window that are written at once, before they are gathered


class Stream(io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr`` of an engine.

    ``words`` are the shared page's.  A line is written when it ends; a task that prints
    more than 32 lines within 50 ms has the rest gathered in pieces of 4096 characters.
    """

    encoding = "utf-8"  # whatever the locale: the agent decodes it
    errors = "backslashreplace"
    mode = "w"
    line_buffering = True
    write_through = False

    def __init__(self, fd: int, name: str, token: bytes, words: memoryview) -> None:
        super().__init__()
        self.name = name
        self.buffer = _Raw(self)
        self._fd = fd
        self._token = token
        self._words = words
        self._lock = RLock()  # user code may print from a signal handler
        self._parts: list[str] = []
        self._size = 0
        self._since = 0.0
        self._lines = 0

    def write(self, text: str) -> int:
        """Write ``text``; returns the number of its characters."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        with self._lock:
            self._parts.append(text)
            self._size += len(text)
            if self._size >= _FULL or ("\n" in text and self._may_write()):
                self._drain()
        return len(text)

    def flush(self) -> None:
        """Write what was gathered."""
        if self._parts:
            with self._lock:
                self._drain()

    def flush_task(self) -> None:
        """Write what was gathered, when the task ends; a broken pipe is nobody's concern."""
        self._lines = 0
        try:
            self.flush()
        except OSError:
            self._parts.clear()

    def end_task(self, key: int, taken: int) -> None:
        """Write what was gathered; mark output of children and C code as that of task ``key``.

        ``taken`` is what the agent's count of such output was when the task began.
        """
        if self._lines or self._parts:
            self.flush_task()
        try:
            # In this order: what is no longer in the pipe is in the agent's count, or the
            # count says that the agent is reading.
            if waiting(self._fd) or self._words[TAKEN] != taken:
                self._frame(key, b"")
        except OSError:  # closed by the task; nothing of it will be read
            pass

    def fileno(self) -> int:
        """Return 1 or 2."""
        return self._fd

    def isatty(self) -> bool:
        """Return False: an engine has no terminal."""
        return False

    def writable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Only flush: the next task prints as well."""
        self.flush()

    def reconfigure(self, **_settings: Any) -> None:
        """Accept and ignore: lines are written as they end, in UTF-8."""
        self.flush()

    def write_bytes(self, data: bytes | bytearray | memoryview) -> int:
        """Write bytes, after the text that was written before."""
        with self._lock:
            self._drain()
            self._frames(data)
        return memoryview(data).nbytes

    def show(self, data: bytes) -> None:
        """Write a display, JSON in UTF-8, after the text that was written before."""
        with self._lock:
            self._drain()
            key = self._words[RUNNING]
            for at in range(0, len(data), _ROOM):
                piece = data[at : at + _ROOM]
                kind = DISPLAY | (BEGIN if at == 0 else 0)
                kind |= END if at + _ROOM >= len(data) else 0
                self._frame(key, piece, kind)

    def renew(self) -> None:
        """Start afresh in a forked child: locks may be held and text is the parent's."""
        self._lock = RLock()
        self._parts = []
        self._size = 0

    def _may_write(self) -> bool:
        now = monotonic()
        if now - self._since >= _WINDOW:
            self._since = now
            self._lines = 0
        self._lines += 1
        return self._lines <= _BURST

    def _drain(self) -> None:
        if self._parts:
            text = "".join(self._parts)
            self._parts.clear()
            self._size = 0
            self._frames(text.encode("utf-8", "backslashreplace"))

    def _frames(self, data: bytes | bytearray | memoryview) -> None:
        key = self._words[RUNNING]
        if len(data) <= _ROOM:
            self._frame(key, data)
            return
        view = memoryview(data).cast("B")
        for at in range(0, len(view), _ROOM):
            self._frame(key, view[at : at + _ROOM])

    def _frame(self, key: int, data: bytes | bytearray | memoryview, kind: int = 0) -> None:
        size = len(data) | kind << _KIND_SHIFT
        head = self._token + key.to_bytes(8, "big") + size.to_bytes(2, "big")
        os.write(self._fd, b"".join((head, data)))  # at most PIPE_BUF: all or nothing


class _Raw(io.RawIOBase):
    """The binary side of a :class:`Stream`: ``sys.stdout.buffer``."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream

    def write(self, data: Any) -> int:
        """Write bytes at once."""
        return self._stream.write_bytes(data)

    def flush(self) -> None:
        """Write text that waits."""
        self._stream.flush()

    def fileno(self) -> int:
        """Return the stream's descriptor."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Do nothing: the stream stays open."""


def waiting(fd: int) -> int:
    """Return how many bytes are in a pipe that nobody has read yet."""
    try:
        _ioctl(fd, _FIONREAD, _count)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise
        return 0  # a file in place of the pipe
    return _count[0]


def end_task(out: Stream, err: Stream, key: int, taken: int) -> None:
    """End a task on both streams, as :meth:`Stream.end_task` does; most have written nothing.

    Flat, because each task ends: two system calls are what it costs.
    """
    if not (out._lines or out._parts or err._lines or err._parts):
        try:
            _ioctl(out._fd, _FIONREAD, _count)
            waiting = _count[0]
            _ioctl(err._fd, _FIONREAD, _count)
            if not waiting and not _count[0] and out._words[TAKEN] == taken:
                return
        except OSError:
            pass  # something else is in place of a pipe
    out.end_task(key, taken)
    err.end_task(key, taken)


_ioctl, _FIONREAD = fcntl.ioctl, termios.FIONREAD
_count = array.array("i", [0])  # of bytes in a pipe that nobody has read yet


class Splitter:
    """The agent's end of one pipe: bytes in, (task key, kind, text) out; no input, no output.

    ``kind`` is 0 for text, else what :class:`~ipclusterz.core.message.Stream` calls a piece of
    a display.  ``token`` is what the engine was given at its fork.
    """

    def __init__(self, token: bytes) -> None:
        self._token = token
        self._loose = b""
        self._carry = b""
        self._key = 0
        self._decoder = _decoder("replace")
        self._display_decoder = _decoder("replace")

    def feed(self, data: bytes, running: int | None) -> list[Found]:
        """Take what was read; return texts in order.

        Bytes behind the last frame are those of task ``running`` (0: of none), or wait for
        the next call where it is None.  Neighbouring texts of a task, and pieces of one
        display, come as one; key 0 means that no task can be told.
        """
        data = self._loose + self._carry + data
        self._loose = b""
        found: list[tuple[int, int, bytes]] = []
        at = 0
        while True:
            start = data.find(self._token, at)
            if start < 0:
                break
            if len(data) < start + _HEAD_SIZE:
                break
            key, kind, size = _read_head(data, start)
            end = start + _HEAD_SIZE + size
            if len(data) < end:
                break
            found.append((key, 0, data[at:start]))
            found.append((key, kind, data[start + _HEAD_SIZE : end]))
            at = end
        if start < 0:
            start = len(data) - _partial(data, self._token, at)
        elif len(data) >= start + _HEAD_SIZE:
            running = _read_head(data, start)[0]  # foreign bytes before a frame are its task's
        if running is None:
            self._loose = data[at:start]
        else:
            found.append((running, 0, data[at:start]))
        self._carry = data[start:]
        return self._texts(found)

    @property
    def loose(self) -> bool:
        """Whether there are bytes of which nobody has said yet whose they are."""
        return bool(self._loose)

    def finish(self, running: int = 0) -> list[Found]:
        """Return what is left when the pipe has ended; not the piece of a display."""
        loose, self._loose = self._loose, b""
        rest, self._carry = self._carry, b""
        if rest.startswith(self._token) and len(rest) >= _HEAD_SIZE:
            running, kind, _size = _read_head(rest, 0)
            rest = b"" if kind else rest[_HEAD_SIZE:]
        elif rest.startswith(self._token):
            rest = b""
        texts = self._texts([(running, 0, loose), (running, 0, rest)])
        last = self._decoder.decode(b"", final=True)
        return _merged([*texts, (self._key, 0, last)])

    def _texts(self, found: Iterable[tuple[int, int, bytes]]) -> list[Found]:
        texts: list[Found] = []
        for key, kind, data in found:
            if not data:
                continue
            if kind:
                if kind & BEGIN:
                    self._display_decoder.reset()
                texts.append((key, kind, self._display_decoder.decode(data)))
                continue
            if key != self._key:
                texts.append((self._key, 0, self._decoder.decode(b"", final=True)))
                self._decoder.reset()
                self._key = key
            texts.append((key, 0, self._decoder.decode(data)))
        return _merged(texts)


class Reader:
    """The agent's end of one pipe: reads it and tells whose output it is.

    ``fd`` does not block, ``words`` are the shared page's; the word TAKEN is ours.  It is odd
    while we read, and grows by two with every read that found bytes behind the last frame,
    whose owner only the next frame tells.  Every task looks at it when it ends, after the pipe
    itself.  So such bytes are followed by a frame of their task once that has ended; and
    where no frame is in the pipe, they belong to the task that runs.
    """

    def __init__(self, fd: int, token: bytes, words: memoryview) -> None:
        self._fd = fd
        self._words = words
        self._splitter = Splitter(token)

    def read(self) -> list[Found] | None:
        """Read once, 64 KiB at most; return texts, or None when there is nothing to read.

        Raises EOFError when the pipe has ended.
        """
        words, splitter = self._words, self._splitter
        before = words[RUNNING]
        taken = words[TAKEN]
        words[TAKEN] = taken + 1
        try:
            data = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            words[TAKEN] = taken
            # Whatever ended before has its frame in the pipe, but there was none.
            return splitter.feed(b"", before) if splitter.loose else None
        except OSError:
            data = b""
        found = splitter.feed(data, None)
        loose = splitter.loose
        words[TAKEN] = taken + 2 * loose
        if not data:
            raise EOFError
        if loose and before and words[RUNNING] == before:  # with 0, one may have come and gone
            found = _merged(found + splitter.feed(b"", before))
        return found

    @property
    def loose(self) -> bool:
        """Whether something was read of which nobody has said yet whose it is."""
        return self._splitter.loose

    def settle(self) -> list[Found]:
        """Return what was read and waits for its owner to be told, if that is certain.

        Where more is in the pipe, the next read tells.
        """
        running = self._words[RUNNING]
        # In this order: whoever wrote it and has ended since has its frame in the pipe.
        if waiting(self._fd):
            return []
        return self._splitter.feed(b"", running)

    def finish(self) -> list[Found]:
        """Return what is left when the pipe has ended; not the piece of a display."""
        return self._splitter.finish(self._words[RUNNING])


READ_BYTES = 1 << 16
Found = tuple[int, int, str]
_decoder = codecs.getincrementaldecoder("utf-8")


def _read_head(data: bytes, start: int) -> tuple[int, int, int]:
    at = start + TOKEN_SIZE
    size = int.from_bytes(data[at + 8 : at + 10], "big")
    return int.from_bytes(data[at : at + 8], "big"), size >> _KIND_SHIFT, size & _SIZE


def _partial(data: bytes, token: bytes, at: int) -> int:
    """Return how many bytes at the end of ``data`` may be the beginning of a token."""
    for size in range(min(len(token) - 1, len(data) - at), 0, -1):
        if data.endswith(token[:size]):
            return size
    return 0


def _merged(texts: list[Found]) -> list[Found]:
    made: list[Found] = []
    for key, kind, text in texts:
        if not text and not kind:
            continue
        if made and made[-1][0] == key:
            before = made[-1][1]
            if not before and not kind:
                made[-1] = (key, 0, made[-1][2] + text)
                continue
            if before and kind and not before & END and not kind & BEGIN:
                made[-1] = (key, before | kind, made[-1][2] + text)
                continue
        made.append((key, kind, text))
    return made
