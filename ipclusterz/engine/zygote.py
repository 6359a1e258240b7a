"""The process that engines are forked from.

Lives here: imports done once for all engines, and forking.  May know: the engine.  Must
not know: a key, ZeroMQ, what an engine does afterwards; see the architecture's page.

``python -m ipclusterz.engine.zygote FD [--preload a,b]``, where FD is a SOCK_SEQPACKET
socket to the agent.  It says once that it is ready, then turns each
:class:`~ipclusterz.core.message.Fork` into an engine: forked twice, so that the agent, as
the nearest subreaper, becomes the engine's parent.

When the agent closes the socket it has ended, perhaps by SIGKILL: the zygote, in a session of
its own, ends what the agent's engines left behind, and itself.
"""

from __future__ import annotations

import array
import gc
import importlib
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Sequence

import msgspec

import ipclusterz.engine.start as start
from ipclusterz.core.message import Fork, Op, Work, ZygoteSay, encode
from ipclusterz.engine import serialize
from ipclusterz.engine.namespace import Namespace
from ipclusterz.engine.offspring import AGENT_MARK, end
from ipclusterz.engine.page import note_pid, noted_pid
from ipclusterz.engine.runner import Runner

_DATAGRAM = 1024 * 1024
_EXERCISES = 20  # calls after which the interpreter has adapted its code
_NAME = "ipzygote"
_ENDING = 0.2  # seconds: a thread that was joined is still there for a moment
DESCRIPTORS = 4


def main(argv: list[str]) -> int:
    """Serve the agent until it closes the socket; returns the exit status."""
    agent = os.getppid()
    sock = socket.socket(fileno=int(argv[0]))
    sock.setblocking(True)
    sock.set_inheritable(False)
    names = argv[2].split(",") if argv[1:2] == ["--preload"] else []
    return live(sock, agent, names)


def live(sock: socket.socket, agent: int, names: list[str]) -> int:
    """Import ``names``, then serve the process ``agent`` until it closes the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the agent's to deal with
    _detach()
    threaded: list[str] = []
    problem = _preload(names, threaded)
    _prepare()
    try:
        _say(sock, problem, threaded)
        if problem:
            return 1
        engines = _serve(sock, agent)
    except ConnectionError:  # the agent has gone
        return 0
    token = os.environ.get(AGENT_MARK)
    if token:
        ours = {os.getpid()}
        end(lambda seen: seen.of_agent(token, engines, ours))
    return 0


def receive_fork(sock: socket.socket) -> tuple[Fork, list[int]] | None:
    """Wait for a :class:`Fork` and its descriptors; None when the agent has gone."""
    space = socket.CMSG_SPACE(DESCRIPTORS * array.array("i").itemsize)
    data, ancillary, _flags, _address = sock.recvmsg(_DATAGRAM, space)
    if not data:
        return None
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) // 4 * 4])
    for fd in descriptors:
        os.set_inheritable(fd, False)
    return msgspec.msgpack.decode(data, type=Fork), list(descriptors)


def _detach() -> None:
    """Outlive a kill of the agent's process group, yet not the agent while we import."""
    try:
        os.setsid()
    except PermissionError:  # we lead one already
        pass
    start.parent_death_signal(signal.SIGKILL)


def _preload(names: list[str], threaded: list[str]) -> str:
    """Import modules that all engines need; returns what went wrong, if anything.

    Names those that left threads running: a fork takes the locks that such threads hold
    along, but not the threads that would release them.
    """
    for name in filter(None, names):
        start.name_process(name)  # for who wonders what takes so long: the agent looks, too
        before = _threads()
        try:
            importlib.import_module(name)
        except BaseException as error:
            return f"cannot preload {name!r}: {type(error).__name__}: {error}"
        start.PRELOADED.append(name)
        if _left_threads(before):
            threaded.append(name)
    return ""


def _left_threads(before: int) -> bool:
    """Tell whether there are more threads than before; those that are ending may do so."""
    deadline = time.monotonic() + _ENDING
    while _threads() > before:
        if time.monotonic() > deadline:
            return True
        time.sleep(0.001)
    return False


def _prepare() -> None:
    """Make memory ready to be shared: what exists now is never looked at by collections."""
    start.parent_death_signal(0)  # from now on we see the agent's end ourselves
    start.name_process(_NAME)
    _exercise()
    gc.collect()
    gc.disable()
    gc.freeze()


def _exercise() -> None:
    """Do some tasks here, so that engines share what Python makes of code that has run."""
    runner = Runner(-1, Namespace("exercise"), [0] * 8, "", b"")
    digest = b"exercise"
    runner.add_function(digest, pickle.dumps(_echo))
    arguments = serialize.join(serialize.pack_call((1,), {}))
    for key in range(1, _EXERCISES):
        for data in (serialize.NO_ARGS, arguments):
            encode(runner.run(Work(key, Op.APPLY, digest, data)))


def _echo(*args: object) -> object:
    return args


def _say(sock: socket.socket, problem: str, threaded: Sequence[str] = ()) -> None:
    sock.send(encode(ZygoteSay(problem, _threads(), len(sys.modules), list(threaded))))


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return -1


def _serve(sock: socket.socket, agent: int) -> list[int]:
    """Fork until the agent is gone; returns the process ids of all engines there were."""
    engines = []
    while (request := _request(sock)) is not None:
        fork, descriptors = request
        problem = _start(sock, agent, fork, descriptors)
        if problem:
            _say(sock, f"engine {fork.engine} could not be forked: {problem}")
        else:
            engines.append(noted_pid(descriptors[3]))
        for fd in descriptors:
            os.close(fd)
    return engines


def _request(sock: socket.socket) -> tuple[Fork, list[int]] | None:
    try:
        return receive_fork(sock)
    except ConnectionError:  # the agent was killed before it heard us
        return None


def _start(sock: socket.socket, agent: int, fork: Fork, descriptors: list[int]) -> str:
    """Fork an engine by way of a child that ends at once; returns what went wrong."""
    if len(descriptors) != DESCRIPTORS:
        return f"{len(descriptors)} descriptors came instead of {DESCRIPTORS}"
    try:
        middle = os.fork()
    except OSError as error:
        return f"{error.strerror}"
    if middle == 0:
        _fork_again(sock, agent, fork, descriptors)
    _pid, status = os.waitpid(middle, 0)
    code = os.waitstatus_to_exitcode(status)
    return os.strerror(code) if code > 0 else f"signal {-code}" if code < 0 else ""


def _fork_again(sock: socket.socket, agent: int, fork: Fork, descriptors: list[int]) -> None:
    """In the middle process: fork the engine, note its pid in the page, end."""
    try:
        pid = os.fork()
        if pid == 0:
            sock.close()
            start.become_engine(fork, descriptors, agent)
        note_pid(descriptors[3], pid)
    except OSError as error:
        os._exit(error.errno or 1)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
