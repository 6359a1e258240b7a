"""What a controller and an agent are told at their start: plain values, already decided.

The applications fill these in from flags and config files; nothing here reads anything.
Structs rather than dataclasses, whose module takes longer to import than all the rest here;
and they travel as JSON, bytes included.
"""

from __future__ import annotations

import msgspec

from ipclusterz.core.ranks import Rank

CHANNEL_NAMES: tuple[str, ...] = (
    "registration",
    "heartbeat",
    "query",
    "direct",
    "task",
    "control",
    "iopub",
)
"""Names of the seven channels, in the order of :class:`ipclusterz.core.message.Channel`."""


class ControllerConfig(msgspec.Struct):
    """A controller: where it listens, what it writes, how long it waits.

    ``ip`` and ``client_ip`` are addresses, interfaces, host names, ``auto`` or ``*``; clients
    from elsewhere are let in at those of ``client_ip`` only, engines at all of both.
    ``ports`` maps channel names to TCP ports; a missing name or 0 means any free port.
    ``transport`` is ``tcp`` (loopback sockets as well) or ``ipc`` (no TCP port at all).
    ``exec_key`` is the cluster's secret of at least 16 bytes, or None for a fresh one;
    ``renewed`` has a salt for each role whose key was renewed, which ``key_file`` (empty:
    none) keeps for later starts.
    ``runtime`` is an existing owner-only folder for UNIX sockets; empty: made and removed.
    ``lease`` and ``heartbeat`` are seconds, and so is ``hang_limit``: a part of the controller
    that did nothing for so long is started again (0: never).  ``hwm`` bounds the tasks given
    to an engine ahead of time; 0 lets measured durations decide.  ``db`` is the task
    database's file, ``:memory:``, or empty for none.
    """

    client_file: str
    engine_file: str
    ip: str = "127.0.0.1"
    client_ip: str = ""
    ports: dict[str, int] = {}
    transport: str = "tcp"
    location: str = ""
    ssh: str = ""
    enginessh: str = ""
    exec_key: bytes | None = None
    renewed: dict[str, bytes] = {}
    key_file: str = ""
    reuse: bool = False
    runtime: str = ""
    log_dir: str = ""
    log_level: str = "INFO"
    cluster_id: str = ""
    lease: float = 600.0
    heartbeat: float = 1.0
    hang_limit: float = 30.0
    scheme: str = "leastload"
    hwm: int = 0
    db: str = ""


class AgentConfig(msgspec.Struct):
    """An agent and its ``n`` engines; one engine, if it is a ``rank`` of an MPI job.

    Either ``connector_text`` holds the engine connector's JSON or ``connector_file`` names
    a file to wait for.  ``python`` is the interpreter of the engines (empty: ours),
    ``preload`` modules imported once before engines are forked, ``command`` code and
    ``startup`` a script that each engine runs first.  ``lease`` (seconds; 0: as the
    controller says) is how long engines outlive a controller that is gone.  ``ssh`` is the
    server to tunnel through (empty: the connector's, if it has one), ``ssh_key`` a private
    key's path; ``paramiko`` None prefers OpenSSH.  ``job`` names the batch job around it,
    which ends in ``ends_in`` seconds (0: unknown); engines begin nothing new in the last
    ``drain`` of them, nor after SIGUSR1 or SIGUSR2, by which batch systems warn.
    ``restart_engines`` is how many engines it starts in all for ones that died;
    ``shm_limit`` bytes of shared memory may hold large payloads (0: no limit).  ``origin``
    says whom it replaces itself.  ``pin_cores`` binds each engine to cores of its own: ``auto``
    or a list of cores; '' binds none.
    """

    connector_text: str | None = None
    connector_file: str = ""
    n: int = 1
    log_dir: str = ""
    log_level: str = "INFO"
    cluster_id: str = ""
    python: str = ""
    preload: list[str] = []
    work_dir: str = ""
    command: str = ""
    startup: str = ""
    lease: float = 0.0
    rank: Rank | None = None
    env: dict[str, str] = {}
    ssh: str = ""
    ssh_key: str = ""
    paramiko: bool | None = None
    job: str = ""
    ends_in: float = 0.0
    drain: float = 60.0
    restart_engines: int = 0
    shm_limit: int = 0
    pin_cores: str = ""
    origin: str = ""
