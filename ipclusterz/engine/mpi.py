"""An engine that is a rank of an MPI job: an interpreter of its own, in MPI before user code.

Lives here: the command line ``python -m ipclusterz.engine.mpi TASK OUT ERR PAGE SIZE [a,b]``
(four descriptors, the number of ranks, modules to import first).  May know: what
:mod:`ipclusterz.engine.spawn` knows, and mpi4py.

The agent is what ``mpiexec`` started, and never calls MPI.  This process inherits its
environment, by which the MPI library finds its rank; so it must be executed, not forked from
a process that other ranks' engines come of as well.
"""

from __future__ import annotations

import atexit
import importlib
import os
import select
import signal
import socket
import sys
from typing import Any

from ipclusterz.engine import start
from ipclusterz.engine.page import note_pid
from ipclusterz.engine.zygote import receive_fork

FINALIZE_SECONDS = 5
"""Ranks leave MPI together; one that waited so long for the others ends without them."""

_ALONE = "OMPI_MCA_ess_singleton_isolated"  # has Open MPI start no daemon for one process


def main(argv: list[str]) -> int:
    """Become the engine that the agent asks for; returns only if it has gone, or MPI fails."""
    agent = os.getppid()
    task, out, err, page, size = (int(text) for text in argv[:5])
    sock = socket.socket(fileno=task)
    select.select([sock], [], [])  # the agent says whether the socket itself blocks
    request = receive_fork(sock)
    sock.detach()
    if request is None:
        return 0
    note_pid(page, os.getpid())
    start.follow(agent)  # now: the others may keep us waiting in MPI for ever
    preload(",".join(argv[5:]))
    join(size)
    start.become_engine(request[0], [task, out, err, page], agent)
    return 0


def preload(names: str) -> None:
    """Import modules that the user's code will need; SystemExit says which one cannot be."""
    for name in filter(None, names.split(",")):
        try:
            importlib.import_module(name)
        except BaseException as error:
            raise SystemExit(
                f"cannot preload {name!r}: {type(error).__name__}: {error}"
            ) from None


def join(size: int) -> None:
    """Enter MPI together with ``size - 1`` others; SystemExit says in one line why not."""
    # A rank that finds itself alone fails below: it needs no daemon, which would be killed with
    # it and leave its folder of temporary files.  What it starts later is to know nothing.
    alone = size > 1 and _ALONE not in os.environ
    if alone:
        os.environ[_ALONE] = "1"
    try:
        from mpi4py import MPI
    except ImportError:
        raise SystemExit(missing(sys.executable)) from None
    except RuntimeError as error:  # its wheels look for the library when they are imported
        raise SystemExit(
            f"mpi4py finds no MPI library: {error}; install one (Open MPI: libopenmpi3 or"
            " openmpi-bin) or load its module"
        ) from None
    finally:
        if alone:
            del os.environ[_ALONE]
    if not MPI.Is_initialized():
        MPI.Init()
    found = MPI.COMM_WORLD.Get_size()
    if found != size:
        if found == 1:
            MPI.Finalize()  # now, while there is time: the others fail as well
        library = MPI.Get_library_version().splitlines()[0].strip("\0 ,")
        raise SystemExit(
            f"the launcher started {size} ranks, but this one finds {found} in MPI.COMM_WORLD:"
            f" mpi4py uses {library}, which does not belong to that launcher. Start with the"
            " mpiexec of the same MPI (--mpi-cmd), with srun the plugin it knows"
            " (--mpi-args=--mpi=pmix)"
        )
    atexit.register(leave, MPI)


def leave(mpi: Any) -> None:
    """Leave MPI in good order, as mpiexec expects of a rank that ends well."""
    if mpi.Is_finalized():
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(FINALIZE_SECONDS)
    mpi.Finalize()
    signal.alarm(0)


def missing(python: str) -> str:
    """Return what to tell somebody whose interpreter has no mpi4py."""
    return f"{python} has no mpi4py: {python} -m pip install mpi4py"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
