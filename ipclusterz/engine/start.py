"""How a process becomes an engine.

Lives here: session, parent death, descriptors, signals, seeds, then the loop.  May know:
the operating system.  Must not know: tasks.  Used by the zygote after its forks and by
:mod:`ipclusterz.engine.spawn` in an interpreter of its own.
"""

from __future__ import annotations

import _thread
import atexit
import faulthandler
import gc
import os
import signal
import socket
import sys
import time

from ipclusterz.core.message import Fork
from ipclusterz.engine.loop import Engine
from ipclusterz.engine.offspring import engine_name
from ipclusterz.engine.page import Page
from ipclusterz.engine.threads import raise_threads

_PR_SET_PDEATHSIG = 1
_ADOPTION = 10.0  # seconds to wait until the agent is our parent
_FIRST_PAUSE = 0.0002
_LAST_WORDS = 2.0  # seconds that an engine which failed has for what is called at its end
_SEEDED = ("random", "numpy.random", "torch")
PRELOADED: list[str] = []
"""What the zygote has imported for all engines."""

_TERMINATION = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD)


def become_engine(fork: Fork, descriptors: list[int], agent: int) -> None:
    """Turn this process into an engine and work until the agent closes the task socket.

    ``descriptors`` are those of :class:`~ipclusterz.core.message.Fork`, ``agent`` the
    process id that must be our parent, now or soon.  Never returns: the process ends with
    status 0, or 1 after writing to standard error why it could not work.
    """
    status = 1
    try:
        task, out, err, page = descriptors
        _take_descriptors(out, err)
        _own_session()
        follow(agent)
        _set_surroundings(fork)
        _reseed()
        engine = Engine(_socket_of(task), fork, Page(page))
        os.close(page)
        _reset_signals()
        engine.install()
        gc.enable()
        engine.run()
        status = 0
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
    _end(status)


def parent_death_signal(number: int) -> bool:
    """Ask the kernel for a signal when our parent ends; False where that cannot be had."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    return bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) == 0)


def _take_descriptors(out: int, err: int) -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for source, target in ((null, 0), (out, 1), (err, 2)):
        os.dup2(source, target, inheritable=True)
    for source in {null, out, err} - {0, 1, 2}:
        os.close(source)


def _own_session() -> None:
    try:
        os.setsid()
    except PermissionError:  # it has one already, by whoever spawned it
        pass


def follow(agent: int) -> None:
    """Wait until the agent is our parent, then die with it."""
    deadline = time.monotonic() + _ADOPTION
    pause = _FIRST_PAUSE
    while os.getppid() != agent:
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"the engine belongs to process {os.getppid()} and not to its agent, process "
                f"{agent}; the agent has ended, or is no child subreaper"
            )
        time.sleep(pause)
        pause = min(2 * pause, 0.01)
    parent_death_signal(signal.SIGKILL)
    if os.getppid() != agent:  # it ended in between, so no signal will come
        raise RuntimeError("the agent ended while the engine started")


def _set_surroundings(fork: Fork) -> None:
    if fork.cores:
        _bind(fork.cores)
    os.environ.update(fork.env)
    if PRELOADED:
        raise_threads(os.environ)
    if fork.cwd:
        os.chdir(fork.cwd)
    sys.argv = ["ipenginez"]
    if sys.path and not sys.flags.safe_path:
        sys.path[0] = ""
    name_process(engine_name(fork.engine))


def _bind(cores: list[int]) -> None:
    """Run on these cores only, and everything we start as well."""
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:  # taken from us since the agent looked
        text = f"this engine cannot be bound to its cores {cores}: {error.strerror}\n"
        os.write(2, text.encode())


def name_process(name: str) -> None:
    """Set what this process is called in lists of processes: 15 bytes of it are kept."""
    try:
        with open("/proc/self/comm", "w") as comm:
            comm.write(name)
    except OSError:  # a name for `ps` and no more
        pass


def _reseed() -> None:
    """Give forked engines random numbers of their own where a preload has a generator.

    That is, the one that each of these modules has for everybody.  Whatever else is called
    so, a file ``random.py`` of the user's for example, is left alone.
    """
    for name in _SEEDED:
        seed = getattr(sys.modules.get(name), "seed", None)
        if callable(seed):
            try:
                seed()
            except TypeError:
                pass  # it wants to be told something: it is not the module we mean


def _socket_of(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)


def _reset_signals() -> None:
    for number in _TERMINATION:
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    # A crash in C code leaves its traceback in standard error, for the death certificate.
    faulthandler.enable(2)


def _end(status: int) -> None:
    if status:
        # The agent waits for the end of a process that it did not tell to end.
        _thread.start_new_thread(_end_late, (status,))
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        pass
    os._exit(status)


def _end_late(status: int) -> None:
    """End also where a function that is called at the end waits for ever: for a child, say."""
    time.sleep(_LAST_WORDS)
    os._exit(status)
