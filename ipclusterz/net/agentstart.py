"""How an agent begins: what it needs before it can be one, from limits to the connector file.

Lives here: the order of the start, and what is told when something is missing.  Then
:class:`ipclusterz.net.agent.Agent` takes over.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ipclusterz import files
from ipclusterz.core.config import AgentConfig
from ipclusterz.core.connector import Connector, parse
from ipclusterz.core.placement import show_cores
from ipclusterz.core.ranks import UNREPLACED
from ipclusterz.engine.limits import raise_file_limit
from ipclusterz.error import LaunchError, SSHError
from ipclusterz.net import host
from ipclusterz.net.agent import Agent
from ipclusterz.net.cores import Binding
from ipclusterz.net.home import StatusCall
from ipclusterz.net.log import open_log
from ipclusterz.net.nursery import Nursery, RankNursery
from ipclusterz.net.route import Tunnel

if TYPE_CHECKING:
    from ipclusterz.engine.early import Early

ConnectorCall = Callable[[], str | None]

FILES, FILES_ENGINE = 64, 6
"""Open files of an agent (48 measured without engines), and for each engine (5 measured)."""

FILE_SECONDS = 0.05


def run(
    config: AgentConfig,
    status: StatusCall,
    stop_fd: int | None,
    connector: ConnectorCall | None = None,
    early: Early | None = None,
    fostered: dict[int, Callable[[int], None]] | None = None,
) -> int:
    """Be an agent with its engines until stopped; return the process's exit code.

    ``connector`` gives the engine connector's JSON, or None when it will never come; it may
    wait, and is called while the interpreter that engines are forked from is starting.
    Without it ``config`` says where the connector is.  ``early`` is a zygote that waits,
    ``fostered`` are children that are none of our business, by process id: when one has ended
    its function is called with the exit code.

    ``status`` is told ``bodies`` (folders to remove should we be killed), ``engine`` (one is
    ready), ``engines`` (all asked for are), ``engine_down``, ``replaced`` (another one took
    the place of one that died), ``waiting``, ``warning`` and ``error``.  Ends on SIGTERM,
    SIGINT, SIGHUP unless that is ignored, when ``stop_fd`` reaches its end, when the
    controller says so or has been gone for the lease.
    """
    if config.rank is not None and config.restart_engines:
        raise LaunchError(UNREPLACED)
    prefix = f"ipenginez-{config.cluster_id}" if config.cluster_id else "ipenginez"
    log = open_log(config.log_dir, f"{prefix}-agent-{os.getpid()}", config.log_level)
    if config.origin:
        log.info("%s", config.origin)
    raise_file_limit()
    engines = "1 engine" if config.n == 1 else f"{config.n} engines"
    host.check_files(
        FILES + FILES_ENGINE * config.n, f"an agent with {engines}", ", or start fewer engines"
    )
    host.no_core_dump()
    host.become_subreaper()

    def warn(text: str) -> None:
        status({"event": "warning", "text": text})

    binding = Binding(config.pin_cores, config.n, config.rank is not None)
    if binding.problem:
        log.warning("%s", binding.problem)
        warn(binding.problem)
    elif binding.shares:
        log.info("engines are bound to cores %s", " ".join(map(show_cores, binding.shares)))
    threads = binding.threads(config.n, {**os.environ, **config.env})
    nursery = _nursery(config, log, warn, early, threads)
    try:
        if connector is not None:
            config.connector_text = connector()
            if config.connector_text is None:
                return 0
        found = _connector(config, status, stop_fd, log)
        if found is None:
            return 0
        tunnel = _tunnel(config, found, log, status)
        try:
            made = Agent(config, found, nursery, status, log, prefix, tunnel)
            made.fostered = fostered or {}
            made.binding, made.threads = binding, threads
            return made.run(stop_fd)
        finally:
            if tunnel is not None:
                tunnel.close()
    finally:
        nursery.close()
        binding.close()


def _nursery(
    config: AgentConfig,
    log: Any,
    notice: Callable[[str], None],
    early: Early | None,
    threads: dict[str, str],
) -> Nursery:
    if config.rank is None:
        return Nursery(config.python, config.preload, log, notice, early, threads)
    return RankNursery(config.python, config.preload, config.rank.size, log, notice, threads)


def _tunnel(
    config: AgentConfig, connector: Connector, log: Any, status: StatusCall
) -> Tunnel | None:
    """Make the tunnel that the user or the connector file asks for, if any."""
    if not config.ssh and not connector.ssh:
        return None
    from ipclusterz.net import tunnel  # threads and processes, where there is one

    server = tunnel.wanted(connector, host.loopback_id(), config.ssh or None)
    if not server:
        return None

    def notice(text: str) -> None:
        log.warning(text)
        status({"event": "waiting", "text": text})

    settings = tunnel.Settings(
        server,
        key=config.ssh_key,
        paramiko=config.paramiko,
        prompt=tunnel.terminal(),
    )
    try:
        made = tunnel.Tunnel(settings, connector, notice=notice)
    except SSHError as error:
        raise LaunchError(str(error)) from None
    log.info("connected to %s by ssh", made.server)
    return made


def _connector(
    config: AgentConfig, status: StatusCall, stop_fd: int | None, log: Any
) -> Connector | None:
    """Read the connector, waiting for its file; None when told to stop meanwhile."""
    import select

    if config.connector_text is not None:
        return parse(config.connector_text, "given by the launcher")
    path = config.connector_file
    told = False
    poller = select.poll()  # select() ends at descriptor 1023
    if stop_fd is not None:
        poller.register(stop_fd, select.POLLIN)
    while True:
        try:
            return parse(files.read_private(path).decode("utf-8", "replace"), path)
        except FileNotFoundError:
            pass
        if not told:
            told = True
            text = f"waiting for the connector file {path} (the controller writes it)"
            log.info(text)
            status({"event": "waiting", "text": text})
        if stop_fd is not None:
            if poller.poll(FILE_SECONDS * 1000) and not os.read(stop_fd, 4096):
                return None
        else:
            time.sleep(FILE_SECONDS)
