"""A small agent for tests: a zygote or spawned engines, and both ends' bookkeeping."""

from __future__ import annotations

import array
import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FunctionType
from typing import Any

import msgspec

from ipclusterz.core.message import (
    Batch,
    Failure,
    Fork,
    Op,
    Outcome,
    Say,
    Status,
    Work,
    ZygoteSay,
    encode,
)
from ipclusterz.engine import bodies, page, serialize, streams

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0
_PR_SET_CHILD_SUBREAPER = 36


def be_subreaper(on: bool = True) -> None:
    """Become the parent of orphaned descendants, as an agent does."""
    assert ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0) == 0


def until(done: Callable[[], Any], what: str) -> Any:
    """Wait for a condition; fail naming it."""
    deadline = time.monotonic() + PATIENCE
    while not (value := done()):
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.002)
    return value


def socketpair() -> tuple[socket.socket, socket.socket]:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    pair[0].settimeout(PATIENCE)
    return pair


class Zygote:
    """A zygote process and our end of its socket."""

    def __init__(self, *options: str, env: dict[str, str] | None = None) -> None:
        self.socket, theirs = socketpair()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ipclusterz.engine.zygote", str(theirs.fileno()), *options],
            pass_fds=[theirs.fileno()],
            cwd=ROOT,
            env={**os.environ, **(env or {})},
        )
        theirs.close()
        self.said = self.hear()

    def hear(self) -> ZygoteSay:
        return msgspec.msgpack.decode(self.socket.recv(1 << 20), type=ZygoteSay)

    def fork(self, request: Fork, descriptors: Sequence[int]) -> None:
        rights = array.array("i", descriptors)
        self.socket.sendmsg([encode(request)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    def close(self) -> int:
        self.socket.close()
        return self.process.wait(PATIENCE)


class TestEngine:
    """One engine and the agent's ends of all that belongs to it."""

    __test__ = False
    folder: tuple[str, bytes] = ("", b"")

    def __init__(
        self,
        zygote: Zygote | None,
        folder: tuple[str, bytes],
        *,
        number: int = 0,
        env: dict[str, str] | None = None,
        cwd: str = "",
        keep: bool = False,
    ) -> None:
        self.number = number
        self.token = os.urandom(streams.TOKEN_SIZE)
        self.socket, theirs = socketpair()
        self.pipes: list[int] = []
        ends = []
        for _ in range(2):
            read, write = os.pipe()
            os.set_blocking(read, False)
            self.pipes.append(read)
            ends.append(write)
        page_fd = page.create()
        self.page = page.Page(page_fd)
        self.functions = serialize.FunctionCache()
        self.known: set[bytes] = set()
        self.readers = [streams.Reader(fd, self.token, self.page.words) for fd in self.pipes]
        self.texts: list[tuple[int, int, str]] = []
        self.outcomes: dict[int, Outcome] = {}
        self.says: list[Say] = []
        self.key = 0
        descriptors = [theirs.fileno(), *ends, page_fd]
        request = Fork(number, number, *folder, self.token, env or {}, cwd)
        self.process: subprocess.Popen[bytes] | None = None
        if zygote is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ipclusterz.engine.spawn", *map(str, descriptors)],
                pass_fds=descriptors,
                cwd=ROOT,
            )
            self.socket.send(encode(request))
        else:
            zygote.fork(request, descriptors)
        for fd in descriptors[1:]:
            os.close(fd)
        self.theirs: socket.socket | None = None
        if keep:
            theirs.setblocking(False)
            self.theirs = theirs
        else:
            theirs.close()
        self.pid = 0

    def started(self) -> TestEngine:
        """Wait for the engine's hello."""
        hello = self.hear()
        self.pid = hello.pid
        assert hello.pid > 0
        assert hello.outcomes == []
        return self

    # -- talking ---------------------------------------------------------------------------

    def hear(self) -> Say:
        data = self.socket.recv(1 << 20)
        assert data, "the engine has closed its socket"
        say = msgspec.msgpack.decode(data, type=Say)
        self.says.append(say)
        for outcome in say.outcomes:
            assert outcome.key not in self.outcomes, "an outcome came twice"
            self.outcomes[outcome.key] = outcome
        return say

    def work(self, op: Op, parts: Sequence[serialize.Buffer], function: Any = None) -> Work:
        """Make a task, not sent yet."""
        self.key += 1
        digest = b"" if function is None else self.functions.pack(function).digest
        if serialize.total(parts) < 65536:
            return Work(self.key, op, digest, serialize.join(parts))
        return Work(self.key, op, digest, b"", bodies.write(*self.folder, parts))

    def send(self, works: Sequence[Work], *functions: Any) -> list[int]:
        packed = [self.functions.pack(function) for function in functions]
        new = [(p.digest, p.data) for p in packed if p.digest not in self.known]
        self.known.update(digest for digest, _ in new)
        self.socket.send(encode(Batch(new, list(works))))
        return [work.key for work in works]

    def outcome(self, key: int) -> Outcome:
        while key not in self.outcomes:
            self.hear()
        return self.outcomes[key]

    def value(self, key: int) -> Any:
        """Return a task's value, or raise the Failure's text."""
        outcome = self.outcome(key)
        if outcome.status != Status.OK:
            raise Failed(msgspec.msgpack.decode(outcome.data, type=Failure))
        if outcome.body is None:
            parts = serialize.split(outcome.data)
        else:
            parts = list(bodies.read(outcome.body))
            bodies.remove(outcome.body)
        return serialize.loads(parts[0], parts[1:])

    def start(self, function: Any, *args: Any, **kwargs: Any) -> int:
        work = self.work(Op.APPLY, serialize.pack_call(args, kwargs), function)
        return self.send([work], function)[0]

    def apply(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return self.value(self.start(function, *args, **kwargs))

    def do(self, op: Op, obj: Any = None) -> Any:
        return self.value(self.send([self.work(op, serialize.pack(obj))])[0])

    def execute(self, code: str, silent: bool = False) -> Any:
        return self.do(Op.EXECUTE, (code, silent))

    def interrupt(self, key: int) -> None:
        self.page.interrupt = key
        os.kill(self.pid, signal.SIGINT)

    # -- output ----------------------------------------------------------------------------

    def drain(self) -> None:
        """Read what is in the pipes now."""
        for number, reader in enumerate(self.readers, 1):
            with suppress(EOFError):
                while (found := reader.read()) is not None:
                    for key, kind, text in found:
                        self.texts.append((kind or number, key, text))

    def text(self, key: int, stream: int = 1) -> str:
        """Return what a finished task wrote."""
        self.outcome(key)
        self.drain()
        return "".join(text for number, k, text in self.texts if (number, k) == (stream, key))

    # -- the end ---------------------------------------------------------------------------

    def reap(self) -> int:
        """Wait for the engine's end; return its exit code (negative: the signal)."""
        pidfd = os.pidfd_open(self.pid)
        try:
            assert select.select([pidfd], [], [], PATIENCE)[0], "the engine did not end"
        finally:
            os.close(pidfd)
        if self.process is not None:
            return self.process.wait(PATIENCE)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        return code

    def close(self) -> None:
        self.socket.close()
        if self.theirs is not None:
            self.theirs.close()
        if self.pid:
            self.reap()
        for fd in self.pipes:
            os.close(fd)
        self.page.close()


class Failed(Exception):
    """A task failed; holds what the engine told."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.name}: {failure.text}")
        self.failure = failure


def user(function: Any, **variables: Any) -> Any:
    """Return ``function`` as if it were defined in the client's ``__main__``."""
    made = FunctionType(
        function.__code__,
        {"__name__": "__main__", "__builtins__": __builtins__, **variables},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    made.__module__ = "__main__"
    made.__kwdefaults__ = function.__kwdefaults__
    return made
