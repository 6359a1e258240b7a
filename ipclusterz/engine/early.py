"""A zygote that is forked instead of executed, by a program that has read nothing yet.

Lives here: the fork, and what a process that was executed would have by itself: descriptors,
surroundings, a path for imports.  May know: the zygote.  Must not know: ZeroMQ, messages of
the network; whoever calls :func:`bear` has not been told its keys, nor imported what uses them.

It saves an interpreter's start and its imports, and shares their memory with the caller.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import socket
import sys

import msgspec

import ipclusterz.engine.start as start
from ipclusterz.engine import zygote
from ipclusterz.engine.limits import raise_file_limit
from ipclusterz.engine.offspring import AGENT_MARK, SPACE, TOKEN_SIZE

_TOLD = 1 << 20  # bytes of surroundings and names of modules, at most

_decode = msgspec.msgpack.Decoder(tuple[dict[str, str], list[str]]).decode
_encode = msgspec.msgpack.Encoder().encode


class Early:
    """A zygote that waits to be told what to import: process id, socket, standard error."""

    def __init__(self, pid: int, sock: socket.socket, stderr: int) -> None:
        self.pid = pid
        self.socket = sock
        self.stderr = stderr

    def tell(self, surroundings: dict[str, str], preload: list[str]) -> None:
        """Let it begin, with additions to its environment and modules to import.

        OSError when it has ended; its parent learns how.
        """
        self.socket.send(_encode((surroundings, preload)))

    def close(self) -> None:
        """Let go of it; it ends unless it was told to begin."""
        self.socket.close()
        os.close(self.stderr)


def bear(root: str) -> Early | None:
    """Fork a zygote; None where that is not safe, or cannot be done.

    Not without room for the mark by which all that comes of it is found (``SPACE``).
    ``root`` is the folder that our package lies in, which is put at the end of its path.
    """
    if not sys.platform.startswith("linux") or len(os.environ.get(SPACE, "")) != TOKEN_SIZE:
        return None
    if len(os.listdir("/proc/self/task")) != 1:
        return None
    parent = os.getpid()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read, write = os.pipe2(os.O_CLOEXEC)
    gc.freeze()  # what is here is shared: no collection shall touch it
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        os.close(read)
        return None
    else:
        if pid == 0:
            _live(parent, theirs, write, root)
    finally:
        theirs.close()
        os.close(write)
    del os.environ[SPACE]
    return Early(pid, ours, read)


def _live(parent: int, sock: socket.socket, stderr: int, root: str) -> None:
    """Be the zygote, from the first to the last."""
    status = 1
    try:
        start.parent_death_signal(signal.SIGKILL)
        if os.getppid() == parent:
            status = _begin(parent, sock, stderr, root)
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
    finally:
        os._exit(status)


def _begin(parent: int, sock: socket.socket, stderr: int, root: str) -> int:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(stderr, 2)
    _close_all_but(sock.fileno())
    raise_file_limit()  # as an agent does for its other children
    told = sock.recv(_TOLD)
    if not told:
        return 0  # nobody needs it
    surroundings, preload = _decode(told)
    _surround(surroundings)
    _find_modules(root)
    return zygote.live(sock, parent, preload)


def _close_all_but(kept: int) -> None:
    """Close what belongs to the program that forked us: its pipes would never end."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != kept:
            try:
                os.close(int(name))
            except OSError:
                pass  # the one that this listing was read from


def _surround(more: dict[str, str]) -> None:
    """Take over additions to the environment; what the system shows of it gets the mark."""
    entry = _entry(f"{SPACE}=".encode())
    del os.environ[SPACE]
    mark = f"{AGENT_MARK}={more[AGENT_MARK]}".encode()
    if entry is not None and len(entry[1]) == len(mark):
        ctypes.memmove(entry[0], mark, len(mark))
    os.environ.update(more)


def _entry(name: bytes) -> tuple[int, bytes] | None:
    """Return where an entry of the environment stands in memory, and what it says."""
    listed = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
    at = 0
    while listed and (place := listed[at]):
        said = ctypes.string_at(place)
        if said.startswith(name):
            return place, said
        at += 1
    return None


def _find_modules(root: str) -> None:
    """Have modules found where a program given by ``-c`` finds them, and ours at the end."""
    if sys.path[:1] == [root]:
        del sys.path[0]
    if not sys.flags.safe_path:
        sys.path.insert(0, "")
    sys.path.append(root)
