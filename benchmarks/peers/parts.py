"""Which process of a cluster of ours is which part of it."""

from __future__ import annotations

import os
from typing import Any

import psutil


def controller_parts(rc: Any) -> dict[str, int]:
    """Process ids of the hub and the four schedulers, as ``{"task scheduler": ...}``.

    Only the controller's own first words say which of its processes is which part.
    """
    parts: dict[str, int] = rc.cluster._deployed.ready["parts"]
    return {name if name == "hub" else f"{name} scheduler": pid for name, pid in parts.items()}


def roles(rc: Any) -> dict[int, str]:
    """What each process of the cluster of ``rc`` is, and this one."""
    here = os.getpid()
    found = {here: "client"} | {pid: name for name, pid in controller_parts(rc).items()}
    for process in psutil.Process().children(recursive=True):
        name = process.name()
        if process.pid in found:
            continue
        if process.pid == rc.cluster._deployed.ready["pid"]:
            found[process.pid] = "supervisor"
        elif name.startswith("ipenginez"):
            found[process.pid] = "engines"
        elif name == "ipzygote":
            found[process.pid] = "zygote"
        elif process.ppid() == here:
            found[process.pid] = "agent"
    return found
