"""The peers: which there are, which program drives each, where it is installed.

Each module beside this one is a program for :func:`benchmarks.protocol.serve`; this file
imports none of them.  A peer's object has ``start(n)``, ``versions()``, ``stop()`` and a
method for each row it takes part in:

- ``tasks(count)``, ``map(count, chunksize)``: seconds taken;
- ``direct(seconds)``, ``balanced(seconds)``, ``apply(seconds)``: a list of seconds, one a
  round trip;
- ``push(megabytes, fill)``, ``pull()``: seconds taken, contents checked afterwards;
- ``everyone()``: the process ids of its engines, where it can tell.

Ours has some more for the rows in which it is alone.  pair and across_hosts are no peers but
the programs that benchmarks.alone.hosts runs on two hosts, and parts says which process of
ours is which.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """One thing to measure.

    ``key`` is its name on the command line; ``program`` a module to run, or none; ``first``
    a script in benchmarks/first, or none.  ``packages`` must be installed in the peers'
    environment; without any it runs with the interpreter that runs the benchmarks.  ``rows``
    are those it takes part in; ``everyone``: it can tell the process ids of its engines.
    """

    key: str
    name: str
    program: str = ""
    first: str = ""
    packages: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    everyone: bool = False
    arguments: tuple[str, ...] = ()


_POOL = ("start", "memory", "tasks", "map", "balanced")
_CLUSTER = ("start", "memory", "tasks", "map", "direct", "balanced", "apply", "array")
_ECHO = ("direct", "balanced", "apply")

OURS = Peer(
    key="ours",
    name="ipclusterz",
    program="benchmarks.peers.ours",
    first="start_ours.py",
    rows=(*_CLUSTER, "wide", "engines", "queue", "hosts", "mixed", "decisions"),
    everyone=True,
)
POOL = Peer(
    key="pool",
    name="ProcessPoolExecutor",
    program="benchmarks.peers.pool",
    first="start_pool.py",
    rows=_POOL,
)
LOKY = Peer(
    key="loky",
    name="loky",
    program="benchmarks.peers.loky_pool",
    first="start_loky.py",
    packages=("loky",),
    rows=_POOL,
)
RAY = Peer(
    key="ray",
    name="ray",
    program="benchmarks.peers.ray_cluster",
    first="start_ray.py",
    packages=("ray", "numpy"),
    rows=_CLUSTER,
)
DASK = Peer(
    key="dask",
    name="dask.distributed",
    program="benchmarks.peers.dask_cluster",
    first="start_dask.py",
    packages=("distributed", "numpy"),
    rows=_CLUSTER,
    everyone=True,
)
IPYPARALLEL = Peer(
    key="ipyparallel",
    name="ipyparallel",
    program="benchmarks.peers.ipyparallel_cluster",
    first="start_ipyparallel.py",
    packages=("ipyparallel", "numpy"),
    rows=_CLUSTER,
    everyone=True,
)
ECHO_IPC = Peer(
    key="echo",
    name="ZeroMQ echo, ipc",
    program="benchmarks.peers.echo",
    rows=_ECHO,
    arguments=("ipc",),
)
ECHO_TCP = Peer(
    key="echo",
    name="ZeroMQ echo, tcp",
    program="benchmarks.peers.echo",
    rows=_ECHO,
    arguments=("tcp",),
)
COPY = Peer(
    key="copy", name="memory copy", program="benchmarks.peers.memory_copy", rows=("array",)
)
IMPORTS = Peer(key="imports", name="imports alone", first="imports.py", rows=("start",))

ALL = (IMPORTS, COPY, ECHO_TCP, ECHO_IPC, OURS, POOL, LOKY, RAY, DASK, IPYPARALLEL)
"""In the order of a round: floors and near peers stand next to ours."""

TABLE_ORDER = (OURS, POOL, LOKY, RAY, DASK, IPYPARALLEL, ECHO_IPC, ECHO_TCP, COPY, IMPORTS)
"""In the order of the tables."""

KEYS = ("ours", "pool", "loky", "ipyparallel", "dask", "ray", "echo", "copy", "imports")
"""Names on the command line."""

QUICK = ("ours", "pool", "loky", "ipyparallel", "echo", "imports")
"""The peers of the short form."""

FLOORS = (ECHO_IPC, ECHO_TCP, COPY, IMPORTS)
"""What is no peer but the least that the parts we stand on take."""
