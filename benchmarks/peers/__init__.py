"""The peers: which there are, which program drives each, where it is installed.

Each module beside this one is a program for :func:`benchmarks.protocol.serve`; this file
imports none of them.  A peer's object has ``start(n)``, ``tasks(count) -> seconds`` and
``trips(seconds) -> list of seconds``, ``versions()`` and ``stop()``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """One thing to measure.

    ``program`` is a module of benchmarks.peers, ``first`` a script in benchmarks/first (or
    none), ``package`` what must be installed in the peers' environment; without a package
    it runs with the interpreter that runs the benchmarks.
    """

    name: str
    program: str
    first: str = ""
    package: str = ""
    tasks: bool = True
    memory: bool = True
    arguments: tuple[str, ...] = ()


OURS = Peer("ipclusterz", "ours", first="start_ours.py")
POOL = Peer("ProcessPoolExecutor", "pool", first="start_pool.py")
LOKY = Peer("loky", "loky_pool", first="start_loky.py", package="loky")
IPYPARALLEL = Peer(
    "ipyparallel", "ipyparallel_cluster", first="start_ipyparallel.py", package="ipyparallel"
)
ECHO_IPC = Peer("ZeroMQ echo, ipc", "echo", tasks=False, memory=False, arguments=("ipc",))
ECHO_TCP = Peer("ZeroMQ echo, tcp", "echo", tasks=False, memory=False, arguments=("tcp",))

ALL = (OURS, POOL, LOKY, IPYPARALLEL, ECHO_IPC, ECHO_TCP)
