"""One engine process as its agent sees it: socket, pipes, shared page, and its end.

The agent keeps both ends of the engine's task socket.  Its own end talks; with the other it
can take back datagrams that the engine has not read, so that work never sits behind a long
task while another engine idles.

Nothing here decides anything; :class:`ipclusterz.net.agent.Agent` wires it up.
"""

from __future__ import annotations

import array
import os
import signal
import socket
from collections import deque
from collections.abc import Callable

import msgspec

from ipclusterz.core import message as m
from ipclusterz.engine.page import Page, create
from ipclusterz.engine.streams import Found, Reader, waiting
from ipclusterz.net.loop import Loop

SOCKET_BYTES = 1 << 20
READS = 16
"""Reads of one pipe before others have their turn: as much as a pipe can hold."""

DATAGRAM = 1 << 18
LAST_WORDS = 4096
"""Characters of an engine's standard error kept for its death certificate."""

LAST_LINES = 20

_OUR_FRAMES = os.path.join("ipclusterz", "engine") + os.sep
_NOW = socket.MSG_DONTWAIT  # the engine shares its end: no flag of it is to be relied on

_decode_say = msgspec.msgpack.Decoder(m.Say).decode
_decode_batch = msgspec.msgpack.Decoder(m.Batch).decode
_decode_outcome = msgspec.msgpack.Decoder(m.Outcome).decode
_encode = msgspec.msgpack.Encoder().encode


class EngineProcess:
    """Descriptors and memory shared with one engine."""

    def __init__(
        self,
        loop: Loop,
        number: int,
        on_say: Callable[[EngineProcess, m.Say], None],
        on_text: Callable[[EngineProcess, int, int, str], None],
    ) -> None:
        self._loop = loop
        self.number = number
        self.pid = 0
        self.started = False
        self.replace = False  # another one is to be started when it has ended, in any case
        self.asked = False  # to stop; its end is no death
        self.ending = ""
        self._on_say = on_say
        self._on_text = on_text
        self._unsent: deque[bytes] = deque()
        self._last_words = (0, "")
        self._displayed = (0, 0)
        self.closed = False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            _enlarge(end)
        self._ours, self._theirs = ours, theirs
        # No text in UTF-8 has this byte: no line's end looks like the beginning of a token.
        self.token = b"\xff" + os.urandom(7)
        page_fd = create()
        self.page = Page(page_fd)
        out_read, out_write = os.pipe2(os.O_CLOEXEC)
        err_read, err_write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(out_read, False)
        os.set_blocking(err_read, False)
        self._pipes = {1: out_read, 2: err_read}
        self._readers = {
            name: Reader(fd, self.token, self.page.words) for name, fd in self._pipes.items()
        }
        self._given = [out_write, err_write, page_fd]

    def descriptors(self) -> list[int]:
        """Return what the engine is given: socket, standard output and error, page."""
        return [self._theirs.fileno(), *self._given]

    @property
    def unborn(self) -> bool:
        """Whether no process was asked for yet."""
        return bool(self._given)

    def handed_over(self) -> None:
        """The engine has its descriptors: close our copies and begin to listen."""
        for fd in self._given:
            os.close(fd)
        self._given = []
        self._loop.add(self._ours.fileno(), self._ready)
        for name, fd in self._pipes.items():
            self._loop.add(fd, lambda name=name: self.drain(name))  # type: ignore[misc]

    # -- tasks -----------------------------------------------------------------------------

    def send(self, batch: m.Batch) -> None:
        """Send one datagram, later if the socket is full."""
        data = _encode(batch)
        if self._unsent:
            self._unsent.append(data)
        else:
            self._try(data)

    def _try(self, data: bytes) -> bool:
        try:
            self._ours.send(data, _NOW)
        except BlockingIOError:
            self._unsent.appendleft(data)
            self._loop.writable(self._ours.fileno(), True)
            return False
        except OSError:
            pass  # it has ended; its death is on its way to us
        return True

    def _ready(self) -> None:
        """Send what waits and hear a datagram; the loop comes again if there are more."""
        while self._unsent:
            if not self._try(self._unsent.popleft()):
                break
            if not self._unsent:
                self._loop.writable(self._ours.fileno(), False)
        self._hear()

    def read(self) -> None:
        """Hear all that the engine has said."""
        while self._hear():
            pass

    def _hear(self) -> bool:
        """Hear one datagram; False where there is none."""
        try:
            data = self._ours.recv(DATAGRAM, _NOW)
        except OSError:
            return False
        if not data:
            return False
        try:
            say = _decode_say(data)
        except m.UNDECODABLE:  # user code wrote to descriptors that are not its own
            self.ending = "its user code broke its connection to the agent"
            self.kill(signal.SIGKILL)
            return False
        self._on_say(self, say)
        return True

    def reclaim(self) -> tuple[list[int], list[bytes]]:
        """Take back what the engine has not read: task keys and functions' digests."""
        keys: list[int] = []
        functions: list[bytes] = []
        while True:
            try:
                data = self._theirs.recv(DATAGRAM, _NOW)
            except OSError:
                break
            if not data:
                break
            self._undo(data, keys, functions)
        if self._unsent:
            for data in self._unsent:
                self._undo(data, keys, functions)
            self._unsent.clear()
            self._loop.writable(self._ours.fileno(), False)
        return keys, functions

    def _undo(self, data: bytes, keys: list[int], functions: list[bytes]) -> None:
        batch = _decode_batch(data)
        keys.extend(work.key for work in batch.tasks)
        functions.extend(digest for digest, _ in batch.functions)

    def committed(self) -> list[m.Outcome]:
        """Return outcomes that were finished and, if it died, never sent."""
        return [_decode_outcome(record) for record in self.page.committed()]

    # -- output ----------------------------------------------------------------------------

    def drain(self, name: int) -> None:
        """Read what is in a pipe and tell whose it is."""
        reader = self._readers[name]
        for _ in range(READS):
            if self.closed:
                return
            try:
                found = reader.read()
            except EOFError:
                self._loop.remove(self._pipes[name])
                return
            if found is None:
                return
            self._forward(name, found)
        self._forward(name, reader.settle())

    def overtake(self) -> None:
        """Hear what is in the pipes before it is told what the engine has said of its tasks."""
        if self.closed:
            return
        for name, fd in self._pipes.items():
            # To ask costs a fifth of reading in vain.
            if waiting(fd) or self._readers[name].loose:
                self.drain(name)

    def finish_output(self) -> None:
        """Read the rest, and tell of what looked like the beginning of more."""
        for name in self._pipes:
            self.drain(name)
            self._forward(name, self._readers[name].finish())

    def _forward(self, name: int, found: list[Found]) -> None:
        for key, kind, text in found:
            if kind:
                self._on_text(self, key, kind, text)
                continue
            if name == 2:
                last, words = self._last_words
                words = words + text if key in (last, 0) else text
                self._last_words = (key or last, words[-LAST_WORDS:])
            self._on_text(self, key, name, text)

    def displayed(self, key: int, more: int = 0) -> int:
        """Return how many characters of displays task ``key`` has sent, ``more`` included."""
        last, count = self._displayed
        count = more + (count if last == key else 0)
        if more:
            self._displayed = (key, count)
        return count

    def last_words(self) -> str:
        """Return the last lines on standard error, for people.

        Only of the task that runs, or outside of any: what an earlier task wrote is no clue.
        """
        key, words = self._last_words
        if key not in (0, self.page.running):
            return ""
        return last_lines(words)

    # -- signals and the end ---------------------------------------------------------------

    def interrupt(self, key: int) -> None:
        """Interrupt one task (0: the one that runs) if it is still running."""
        wanted = key or self.page.running
        if wanted and self.page.running == wanted:
            self.page.interrupt = wanted
            self.kill(signal.SIGINT)

    def kill(self, number: int) -> None:
        """Send a signal."""
        if self.pid > 0:
            try:
                os.kill(self.pid, number)
            except OSError:
                pass  # it has ended, or is another user's by now

    def hang_up(self) -> None:
        """Close both ends of the task socket: the engine ends when it next reads."""
        if self._ours.fileno() >= 0:
            self._loop.remove(self._ours.fileno())
            self._ours.close()
            self._theirs.close()

    def close(self) -> None:
        """Let go of everything; the process has ended."""
        if self.closed:
            return
        self.finish_output()
        self.closed = True
        self.hang_up()
        for fd in self._pipes.values():
            self._loop.remove(fd)
            os.close(fd)
        for fd in self._given:
            os.close(fd)
        self._given = []
        self.page.close()


def _enlarge(end: socket.socket) -> None:
    for option in (33, 32):  # SO_RCVBUFFORCE and SO_SNDBUFFORCE, for those who may
        try:
            end.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES)
        except OSError:
            end.setsockopt(
                socket.SOL_SOCKET,
                socket.SO_RCVBUF if option == 33 else socket.SO_SNDBUF,
                SOCKET_BYTES,
            )


def send_with_fds(end: socket.socket, data: bytes, fds: list[int]) -> None:
    """Send a datagram with descriptors; raises BlockingIOError when there is no room.

    (socket.send_fds would join several buffers into one message as well, but cannot be told
    not to wait.)
    """
    rights = array.array("i", fds).tobytes()
    end.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], _NOW)


def last_lines(text: str) -> str:
    """Return the end of what a process wrote, without empty lines and frames of our own."""
    lines = (line.rstrip() for line in text.splitlines() if line.strip("\0 \t"))
    return "\n".join([line for line in lines if _OUR_FRAMES not in line][-LAST_LINES:])


def certificate(wait_status: int, last_words: str) -> str:
    """Say how a process ended, in words."""
    code = os.waitstatus_to_exitcode(wait_status)
    if code < 0:
        how = f"killed by signal {_signal_name(-code)}"
        if -code == signal.SIGKILL:
            how += " (by somebody, or by the kernel for want of memory: see dmesg)"
        elif os.WCOREDUMP(wait_status):
            how += ", core dumped"
    else:
        how = f"exited with code {code}"
    if last_words:
        how += "; its last words:\n" + last_words
    return how


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no name but by their distance
        return f"{number}"
