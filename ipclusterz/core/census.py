"""What the hub answers when it is asked who is there: plain values, as JSON can have them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ipclusterz.core import message as m
from ipclusterz.core.liveness import Liveness
from ipclusterz.core.message import Channel, Role

if TYPE_CHECKING:
    from ipclusterz.core.registry import Peer


def members(peers: Iterable[Peer], liveness: Liveness, now: float) -> dict[str, Any]:
    """Return agents, clients and engines."""
    every = list(peers)
    agents = [p for p in every if p.role == Role.ENGINE]
    clients = [p for p in every if p.role == Role.CLIENT]
    return {
        "agents": [
            {
                "peer": p.id.hex(),
                "host": p.host,
                "pid": p.pid,
                "responding": not liveness.silent(p.id),
                "engines": sorted(p.engines),
                "seconds": now - p.since,
                "job": p.job,
                "draining": p.draining,
            }
            for p in agents
        ],
        "clients": [
            {
                "host": p.host,
                "pid": p.pid,
                "seconds": now - p.since,
                "number": p.admit.number,
                "uuid": p.uuid,
                "responding": not liveness.silent(p.id),
            }
            for p in clients
        ],
        "engines": {
            e.id: {"host": e.host, "pid": e.pid, "responding": not liveness.silent(e.agent)}
            for p in agents
            for e in p.engines.values()
        },
    }


def queues(engines: Iterable[int], tallies: Iterable[m.Tally]) -> dict[str, Any]:
    """Return counts per engine and how many tasks no engine has yet."""
    counts: dict[str, Any] = {
        str(engine): {"queue": 0, "tasks": 0, "completed": 0, "failed": 0} for engine in engines
    }
    waiting = 0
    for tally in tallies:
        if tally.channel == Channel.CONTROL:
            continue  # questions about work are no work
        waiting += tally.unassigned
        name = "tasks" if tally.channel == Channel.TASK else "queue"
        for engine, held, done, failed in tally.engines:
            row = counts.get(str(engine))
            if row is not None:
                row[name] += held
                row["completed"] += done
                row["failed"] += failed
    counts["unassigned"] = waiting
    return counts
