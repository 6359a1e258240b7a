"""What goes on in a cluster, asked of its hub and its agents, as plain values.

Lives here: the questions, and how the answers are put together.  Must not know: how that is
shown.  The hub knows members and counts; what an engine runs only its agent knows, who is
asked through the control channel, so no question waits behind work.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from ipclusterz.client.locate import NoClusterFound, locate
from ipclusterz.client.way import open_way
from ipclusterz.core import message as m
from ipclusterz.core.addresses import beyond
from ipclusterz.core.connector import Connector, candidates, loopback_elsewhere, parse
from ipclusterz.core.message import Channel, Op
from ipclusterz.error import ControllerLost, KernelError, TimeoutError
from ipclusterz.files import read_private
from ipclusterz.net.host import loopback_id
from ipclusterz.paths import ProfileDir

if TYPE_CHECKING:
    from ipclusterz.net.client import Connection

AGENT_SECONDS = 2.0
"""How long agents may take to answer before their engines count as not responding."""

_COUNTER = (1 << m.COUNTER_BITS) - 1
_decode = msgspec.msgpack.Decoder().decode


class NothingRuns(Exception):
    """There is no such cluster; its text says what was looked for."""


class _Answers:
    """A sink that keeps what agents answer."""

    def __init__(self) -> None:
        self.results: dict[int, m.Result] = {}

    def deliver(self, key: int, result: m.Result) -> None:
        self.results[key] = result


class Watch:
    """A connection to one cluster, from which :meth:`look` takes snapshots.

    Raises NothingRuns where there is no such cluster, and what a client's connection raises.
    """

    def __init__(self, folder: ProfileDir, cluster_id: str, timeout: float) -> None:
        try:
            connector, origin = locate(profile_dir=folder.path, cluster_id=cluster_id)
        except NoClusterFound as error:
            raise NothingRuns(str(error)) from None
        tunnel = None
        if loopback_elsewhere(connector, loopback_id()):
            tunnel = open_way(connector, origin)
        from ipclusterz.net.client import Connection  # 60 ms that an error need not wait for

        try:
            self.connection: Connection = Connection(connector, timeout=timeout, tunnel=tunnel)
        except ControllerLost as error:
            raise NothingRuns(f"{origin}: {error}") from None
        except TimeoutError as error:
            raise TimeoutError(f"{error}{processes(connector)}") from None
        self._connector = connector
        self._folder = folder

    def look(self) -> dict[str, Any]:
        """Return the state of everything, as JSON can have it."""
        connection = self.connection
        told = connection.query("status")
        departed = connection.query("departed")
        answering = [n for n, engine in told["engines"].items() if engine["responding"]]
        known = inspect(connection, answering)
        clients = [c for c in told["clients"] if c["uuid"] != connection.uuid]
        names = {c["number"]: c["uuid"] for c in told["clients"]}
        counts = told["queues"]
        return {
            **_cluster(self._connector, self._folder, told["version"]),
            "engines": [
                _engine(number, told["engines"][number], known.get(number), counts, names)
                for number in sorted(told["engines"])
            ],
            "unassigned": counts["unassigned"],
            "agents": told["agents"],
            "clients": [
                {**{k: c[k] for k in ("host", "pid", "responding")}, "uptime": c["seconds"]}
                for c in clients
            ],
            "schedulers": {
                channel: {
                    "serving": channel in told["schedulers"],
                    "restarts": told["restarts"].get(channel, 0),
                }
                for channel in ("direct", "task", "control", "iopub")
            },
            "departed": [{"id": number, "reason": reason} for number, reason in departed],
            "jobs": [
                {"id": name, "state": state, "text": text}
                for name, (state, text) in told["jobs"].items()
            ],
        }

    def pause(self, seconds: float) -> None:
        """Wait, and notice meanwhile that the controller ends: raises ControllerLost."""
        self.connection.wait(lambda: False, seconds)
        if self.connection.lost is not None:
            raise self.connection.lost

    def close(self) -> None:
        """Leave."""
        self.connection.close()


def inspect(
    connection: Connection, engines: list[int], timeout: float = AGENT_SECONDS
) -> dict[int, dict[str, Any]]:
    """Ask agents about their engines; those that do not answer in time are left out."""
    if not engines:
        return {}
    sink = _Answers()
    key = connection.request(Op.INSPECT, None, [b""], sink, engines, Channel.CONTROL)
    connection.wait(lambda: len(sink.results) == len(engines), timeout)
    found: dict[int, dict[str, Any]] = {}
    for index, engine in enumerate(engines):
        result = sink.results.get(key + index)
        if result is not None and result.status == m.Status.OK:
            found[engine] = _decode(result.data)
    return found


def processes(connector: Connector) -> str:
    """Return what the controller's processes do, as far as this host can tell, or ''."""
    if connector.hostid != loopback_id():
        return ""
    import psutil  # 20 ms, for this trouble only

    try:
        controller = psutil.Process(connector.pid)
        family = [controller, *controller.children()]
        states = [f"{process.pid} {process.status()}" for process in family]
    except psutil.Error:
        return ""
    return (
        f". Its processes (the controller, then hub and schedulers): {', '.join(states)};"
        " one that is stopped keeps the others waiting. See: ipclusterz logs hub controller"
    )


def _cluster(connector: Connector, folder: ProfileDir, version: str) -> dict[str, Any]:
    return {
        "cluster_id": connector.cluster_id,
        "profile": folder.name,
        "profile_dir": folder.path,
        "version": version,
        "host": connector.location,
        "url": connector.url,
        "beyond": _beyond(connector, folder),
        "controller_pid": connector.pid,
        "started": connector.started,
        "uptime": max(time.time() - connector.started, 0.0),
    }


def _beyond(connector: Connector, folder: ProfileDir) -> str:
    """Return where other hosts can come, as the connector files tell it."""
    try:
        path = folder.connector("engine", connector.cluster_id)
        engines = parse(read_private(path).decode(), path)
    except (KernelError, OSError, ValueError):
        return ""  # only the client's file is here
    return beyond(_places(engines), _places(connector))


def _places(connector: Connector) -> list[str]:
    tcp = [a for a in candidates(connector, "registration") if a.startswith("tcp:")]
    return [address[6:].rpartition(":")[0] for address in tcp]


def _engine(
    number: int,
    facts: dict[str, Any],
    known: dict[str, Any] | None,
    counts: dict[str, Any],
    names: dict[int, str],
) -> dict[str, Any]:
    count = counts.get(str(number), {})
    more = known or {}
    running = more.get("running", 0)
    seconds = more.get("seconds", 0.0)
    # Its agent answers for an engine that is stopped (SIGSTOP), and sees that it is.
    absent = known is None or bool(more.get("stopped"))
    state = "not responding" if absent else "running" if running else "idle"
    outstanding = count.get("queue", 0) + count.get("tasks", 0)
    return {
        "id": number,
        "host": facts["host"],
        "pid": facts["pid"],
        "state": state,
        "task": _task(running, names),
        "op": more.get("op", ""),
        "function": more.get("function", ""),
        "seconds": seconds if running else None,
        "since": time.time() - seconds if running else None,
        # The counts are a moment older than what the agent said.
        "waiting": max(outstanding - bool(running), more.get("queue", 0), 0),
        "queue": count.get("queue", 0),
        "tasks": count.get("tasks", 0),
        "completed": count.get("completed", 0),
        "failed": count.get("failed", 0),
        "memory": more.get("memory"),
        "uptime": more.get("uptime"),
        "origin": more.get("origin", ""),
        "cores": more.get("cores", []),
    }


def _task(key: int, names: dict[int, str]) -> str:
    """Return a task's message id; a client that has left is known by its number only."""
    if not key:
        return ""
    client = m.client_of(key)
    return f"{names.get(client) or f'client{client}'}_{key & _COUNTER}"
