"""The zygote from the agent's side: an interpreter that forks engines on request.

It is started first of all, so that it is ready when the controller has answered; it is
exec'd, so that it never holds a key, or was forked before there was one
(:mod:`ipclusterz.engine.early`).  When it must not fork (a module that was preloaded
left threads running), each engine is an interpreter of its own; so is, without any zygote,
the engine of a rank of MPI.

What it writes to standard error is passed on, and quoted when it cannot start.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from ipclusterz.core import message as m
from ipclusterz.core.placement import THREADS
from ipclusterz.engine.offspring import AGENT_MARK, TOKEN_SIZE
from ipclusterz.net.loop import Loop
from ipclusterz.net.process import EngineProcess, certificate, last_lines, send_with_fds

if TYPE_CHECKING:
    from ipclusterz.engine.early import Early

_decode = msgspec.msgpack.Decoder(m.ZygoteSay).decode
_encode = msgspec.msgpack.Encoder().encode

_AGAIN_SECONDS = 0.002
_SLOW_SECONDS = 10.0
"""After this a preload that is still not done is said, for who waits for engines."""

_WORDS = 8192  # bytes of its standard error that are kept


class Nursery:
    """Starts engines; ``pid`` is the zygote's, ``token`` in the environment of all of them."""

    def __init__(
        self,
        python: str,
        preload: list[str],
        log: Any,
        notice: Callable[[str], None],
        early: Early | None = None,
        threads: dict[str, str] | None = None,
    ) -> None:
        """``notice`` is told what users should know of how engines are started.

        ``threads`` are the variables that tell libraries how many threads to start.
        ``early`` is a zygote of this interpreter that waits already; the first one only, for
        we hold keys from now on.
        """
        self._log = log
        self._notice = notice
        self._python = python or sys.executable
        self._preload = preload
        self._loop: Loop | None = None
        self._waiting: deque[tuple[EngineProcess, m.Fork]] = deque()
        self._ready = False
        self._served = False  # it was ready once
        self._spawn = False
        self._problem = ""
        self._words = b""
        self._tell: Callable[[str], None] = lambda problem: None
        self.token = os.urandom(TOKEN_SIZE // 2).hex()
        self._threads = threads or {}
        single = dict.fromkeys(THREADS, "1")
        # One in a zygote: a library that starts more when imported could not be preloaded.
        self._environment = {**single, **os.environ, AGENT_MARK: self.token}
        self.pid = -1
        if early is not None and self._python == sys.executable:
            self._adopt(early)
            return
        if early is not None:
            early.close()
        self._open()

    def _adopt(self, early: Early) -> None:
        """Take the zygote that was forked before anything was read."""
        self.pid, self._socket, self._stderr = early.pid, early.socket, early.stderr
        os.set_blocking(self._stderr, False)
        known = os.environ
        more = {name: said for name, said in self._environment.items() if name not in known}
        try:
            early.tell({**more, AGENT_MARK: self.token}, self._preload)
        except OSError:
            pass  # it has ended, and waitpid tells how

    def _open(self) -> None:
        """Start the zygote."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        self._stderr, stderr = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._stderr, False)
        theirs.set_inheritable(True)
        argv = [*self._program("zygote"), str(theirs.fileno())]
        if self._preload:
            argv += ["--preload", ",".join(self._preload)]
        try:
            self.pid = os.posix_spawn(
                self._python,
                argv,
                self._environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, stderr, 2)],
            )
        except OSError as error:
            self._problem = f"cannot run {self._python}: {error.strerror}"
        finally:
            theirs.close()
            os.close(stderr)

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

    def _alone(self, fds: list[int]) -> list[str]:
        """Return the command of an engine that is an interpreter of its own."""
        return [*self._program("spawn"), *map(str, fds)]

    def attach(self, loop: Loop, tell: Callable[[str], None]) -> None:
        """Listen to the zygote; ``tell`` gets what is wrong with it ('' when it is ready)."""
        self._loop = loop
        self._tell = tell
        self._listen()

    def _listen(self) -> None:
        assert self._loop is not None
        self._loop.add(self._socket.fileno(), self._readable)
        self._loop.add(self._stderr, self._pass_on)
        if self._preload:
            self._loop.after(_SLOW_SECONDS, self._still_busy)
        if self._problem:
            self._loop.after(0.0, lambda: self._tell(self._problem))

    def _renew(self) -> None:
        """Start another zygote: the one before has ended, and an engine is wanted."""
        self._let_go()
        self._problem, self._words = "", b""
        self._open()
        self._listen()

    def _let_go(self) -> None:
        if self._loop is not None:
            self._loop.remove(self._socket.fileno())
            self._loop.remove(self._stderr)
        self._socket.close()
        os.close(self._stderr)

    def _still_busy(self) -> None:
        """Say which module is being imported all the time; the process is named after it."""
        if self._ready or self._problem or self.pid < 0:
            return
        try:
            with open(f"/proc/{self.pid}/comm") as comm:
                name = comm.read().rstrip("\n")
        except OSError:
            name = ""
        modules = [module for module in self._preload if name and module.startswith(name)]
        self._warn(
            f"still importing {' or '.join(modules) or 'modules'} for --preload (process"
            f" {self.pid}); engines start when that is done"
        )

    def _importing(self) -> str:
        """Return what introduces an end that came before the zygote was ready."""
        if not self._preload:
            return ""
        return f"the process that was to import {', '.join(self._preload)} (--preload): "

    def _warn(self, text: str) -> None:
        self._log.warning(text)
        self._notice(text)

    def _readable(self) -> None:
        assert self._loop is not None
        try:
            data = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return self._go_on()
        except OSError:
            data = b""
        if not data:
            self._loop.remove(self._socket.fileno())
            return None  # waitpid tells how it ended
        say = _decode(data)
        if say.threads > 1 and not self._spawn:
            self._spawn = True
            self._warn(
                f"preloading {' and '.join(say.threaded) or 'modules'} left"
                f" {say.threads - 1} threads running, so engines are not forked but each is"
                " started as an interpreter of its own; leave it out of --preload for a quick"
                " start"
            )
        if say.problem:
            self._problem = say.problem
            return self._tell(say.problem)
        self._ready = self._served = True
        self._tell("")
        return self._go_on()

    def _pass_on(self) -> None:
        """Pass on what the zygote writes to standard error, and keep the end of it."""
        assert self._loop is not None
        try:
            data = os.read(self._stderr, _WORDS)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove(self._stderr)
            return
        self._words = (self._words + data)[-_WORDS:]
        try:
            os.write(2, data)
        except OSError:
            pass  # nobody listens; the end of it is kept here

    def fork(self, engine: EngineProcess, request: m.Fork) -> None:
        """Start an engine, now or when the zygote is ready for it."""
        assert self._loop is not None
        self._waiting.append((engine, request))
        if self.pid < 0 and self._served:
            self._renew()
        elif self._problem:
            self._loop.after(0.0, lambda: self._tell(self._problem))
        self._go_on()

    def _go_on(self) -> None:
        """Start what waits, as far as the zygote takes it."""
        assert self._loop is not None
        while self._waiting and self._ready:
            engine, request = self._waiting[0]
            if engine.ending or engine.closed:
                pass  # told to end before it began
            elif self._spawn:
                self._spawn_one(engine, request)
            elif not self._send(engine, request):
                return
            self._waiting.popleft()

    def _send(self, engine: EngineProcess, request: m.Fork) -> bool:
        """Ask for an engine; False when it must be asked for later."""
        assert self._loop is not None
        try:
            send_with_fds(self._socket, _encode(request), engine.descriptors())
        except OSError as error:
            # Full, or more descriptors under way than a process may have at all.
            if error.errno in (errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS):
                self._loop.after(_AGAIN_SECONDS, self._go_on)
                return False
            if not self._problem:  # if it has ended, waitpid tells why
                self._log.warning("the zygote does not take requests: %s", error)
            self._ready = False
            return False
        engine.handed_over()
        return True

    def _spawn_one(self, engine: EngineProcess, request: m.Fork) -> None:
        fds = engine.descriptors()
        argv = self._alone(fds)
        for fd in fds:
            os.set_inheritable(fd, True)
        try:
            pid = os.posix_spawn(
                self._python,
                argv,
                {**self._environment, **self._threads},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, fds[1], 1),
                    (os.POSIX_SPAWN_DUP2, fds[2], 2),
                ],
            )
        except OSError as error:  # no more processes, or no memory
            self._ready = False
            self._problem = f"cannot run {self._python}: {error.strerror}"
            return self._tell(self._problem)
        finally:
            for fd in fds:
                os.set_inheritable(fd, False)
        engine.page.words[5] = pid
        engine.handed_over()
        engine.send(request)  # type: ignore[arg-type]
        return None

    def ended(self, wait_status: int) -> None:
        """The zygote has ended, and how."""
        self.pid = -1
        told = self._problem
        if not told:
            self._readable()  # it may have said why
        was_ready, self._ready = self._ready, False
        if not self._problem:
            self._pass_on()
            words = last_lines(self._words.decode("utf-8", "replace"))
            during = "" if was_ready else self._importing()
            self._problem = f"{during}{certificate(wait_status, words)}"
            self._tell(self._problem)

    def close(self) -> None:
        """End the zygote."""
        if self.pid > 0:
            try:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass
            self.pid = -1
        self._let_go()


class RankNursery(Nursery):
    """Starts the engine of one MPI rank: an interpreter of its own, and no zygote.

    What MPI needs to know comes by the environment of the process that mpiexec started, and
    is good for one process only.
    """

    def __init__(
        self,
        python: str,
        preload: list[str],
        size: int,
        log: Any,
        notice: Callable[[str], None],
        threads: dict[str, str] | None = None,
    ) -> None:
        self._size = size
        super().__init__(python, preload, log, notice, threads=threads)

    def _open(self) -> None:
        self._spawn = self._ready = True

    def _alone(self, fds: list[int]) -> list[str]:
        return [
            *self._program("mpi"),
            *map(str, fds),
            str(self._size),
            ",".join(self._preload),
        ]

    def attach(self, loop: Loop, tell: Callable[[str], None]) -> None:
        """Hear what goes wrong; there is nothing to listen to."""
        self._loop = loop
        self._tell = tell

    def close(self) -> None:
        """Nothing is open."""
