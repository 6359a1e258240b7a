"""The zygote from the agent's side: an interpreter that forks engines on request.

It is started first of all, so that it is ready when the controller has answered; it is
exec'd, so that it never holds a key.  When it must not fork (a module that was preloaded
left threads running), each engine is an interpreter of its own.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from ipclusterz.core import message as m
from ipclusterz.net.loop import Loop
from ipclusterz.net.process import EngineProcess, certificate, send_with_fds

_decode = msgspec.msgpack.Decoder(m.ZygoteSay).decode
_encode = msgspec.msgpack.Encoder().encode


class Nursery:
    """Starts engines; ``pid`` is the zygote's."""

    def __init__(self, python: str, preload: list[str], log: Any) -> None:
        self._log = log
        self._python = python or sys.executable
        self._loop: Loop | None = None
        self._waiting: deque[tuple[EngineProcess, m.Fork]] = deque()
        self._ready = False
        self._spawn = False
        self._tell: Callable[[str], None] = lambda problem: None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        theirs.set_inheritable(True)
        argv = [*self._program("zygote"), str(theirs.fileno())]
        if preload:
            argv += ["--preload", ",".join(preload)]
        try:
            self.pid = os.posix_spawn(self._python, argv, os.environ)
        finally:
            theirs.close()
        ours.setblocking(False)

    def _program(self, module: str) -> list[str]:
        """Return the command of a module of the engine package.

        The interpreter may be another one, so the folder of this package is put at the end
        of its path; not by an environment variable, which user code would inherit.
        """
        here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        code = (
            "import sys; sys.path.append(sys.argv.pop(1)); "
            f"from ipclusterz.engine.{module} import main; sys.exit(main(sys.argv[1:]))"
        )
        return [self._python, "-c", code, here]

    def attach(self, loop: Loop, tell: Callable[[str], None]) -> None:
        """Listen to the zygote; ``tell`` gets what is wrong with it ('' when it is ready)."""
        self._loop = loop
        self._tell = tell
        loop.add(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        assert self._loop is not None
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove(self._socket.fileno())
            return  # waitpid tells how it ended
        say = _decode(data)
        self._ready = True
        if say.threads > 1:
            self._spawn = True
            self._log.warning(
                "what was preloaded left %d threads running, so engines are not forked but "
                "started one by one",
                say.threads - 1,
            )
        if say.problem:
            self._tell(say.problem)
            return
        self._tell("")
        while self._waiting:
            self._start(*self._waiting.popleft())

    def fork(self, engine: EngineProcess, request: m.Fork) -> None:
        """Start an engine, now or when the zygote is ready."""
        if self._ready:
            self._start(engine, request)
        else:
            self._waiting.append((engine, request))

    def _start(self, engine: EngineProcess, request: m.Fork) -> None:
        if self._spawn:
            self._spawn_one(engine, request)
            return
        self._socket.setblocking(True)
        try:
            send_with_fds(self._socket, _encode(request), engine.descriptors())
        except OSError as error:
            self._tell(f"the zygote does not take requests: {error}")
            return
        finally:
            self._socket.setblocking(False)
        engine.handed_over()

    def _spawn_one(self, engine: EngineProcess, request: m.Fork) -> None:
        fds = engine.descriptors()
        argv = [*self._program("spawn"), *map(str, fds)]
        for fd in fds:
            os.set_inheritable(fd, True)
        try:
            pid = os.posix_spawn(self._python, argv, os.environ)
        finally:
            for fd in fds:
                os.set_inheritable(fd, False)
        engine.page.words[5] = pid
        engine.handed_over()
        engine.send(request)  # type: ignore[arg-type]

    def ended(self, wait_status: int) -> None:
        """The zygote has ended, and how."""
        self.pid = -1
        self._ready = False
        self._tell(certificate(wait_status, ""))

    def close(self) -> None:
        """End the zygote."""
        if self._loop is not None and self._socket.fileno() >= 0:
            self._loop.remove(self._socket.fileno())
        self._socket.close()
        if self.pid > 0:
            try:
                os.kill(self.pid, signal.SIGTERM)
                os.waitpid(self.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
            self.pid = -1
