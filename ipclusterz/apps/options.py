"""The short options of controllers and engines, for their own commands and for ``start``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ipclusterz.apps.base import BaseApp

_CONTROLLER = {
    "ip": ("ip", "Listen on this address, interface, name, or auto. [127.0.0.1]"),
    "client-ip": ("client_ip", "Clients from other hosts may come there. [nowhere]"),
    "ports": ("ports", "All seven ports, like 12345-12351."),
    "regport": ("regport", "The port of registration."),
    "hb": ("hb", "The port of heartbeats."),
    "mux": ("mux", "The port of the direct scheduler."),
    "task": ("task", "The port of the task scheduler."),
    "control": ("control", "The port of the control scheduler."),
    "iopub": ("iopub", "The port of the output scheduler."),
    "query": ("query", "The port of queries."),
    "notifier": ("notifier", "As --query: notifications come on that port."),
    "transport": ("transport", "tcp, or ipc: UNIX sockets only, no TCP port at all."),
    "url": ("url", "Transport, address and registration port, tcp://127.0.0.1:12345."),
    "location": ("location", "The host name to write into the connector files."),
    "ssh": ("ssh", "The SSH server for clients, [USER@]HOST[:PORT]."),
    "enginessh": ("enginessh", "The SSH server for engines, [USER@]HOST[:PORT]."),
    "execkey": ("execkey", "A file with the cluster's key, or - to be asked for it."),
    "lease": ("lease", "Seconds that engines outlive a lost controller. [600]"),
    "hang-limit": (
        "hang_limit",
        "Seconds until a part that hangs is started again; 0: never. [30]",
    ),
    "ping": ("ping", "Milliseconds between heartbeats. [1000]"),
    "scheme": ("scheme", "How tasks find engines. [leastload]"),
    "hwm": ("hwm", "Tasks given to an engine ahead; 0: decide. [0]"),
    "db-dir": ("db_dir", "The folder of the task database. [the profile's]"),
}

CONTROLLER_ALIASES: dict[Any, Any] = {
    flag: (f"ControllerApp.{trait}", text) for flag, (trait, text) in _CONTROLLER.items()
}
CONTROLLER_FLAGS: dict[Any, Any] = {
    ("r", "reuse-files"): (
        {"ControllerApp": {"reuse_files": True}},
        "Keep key, ports and connector files for the next start.",
    ),
    "sqlite": ({"ControllerApp": {"db": "sqlite"}}, "Remember tasks in a file (the default)."),
    "memory-db": ({"ControllerApp": {"db": "memory"}}, "Remember tasks in the hub's memory."),
    "nodb": ({"ControllerApp": {"db": "none"}}, "Do not remember tasks."),
}
ENGINE_ALIASES: dict[Any, Any] = {
    "c": ("EngineApp.command", "Code that each engine runs first."),
    "preload": ("EngineApp.preload", "Modules to import once for all, like numpy,pandas."),
    "startup": ("EngineApp.startup", "A script that each engine runs first."),
    "python": ("EngineApp.python", "The interpreter of the engines. [this one]"),
    "shm-limit": ("EngineApp.shm_limit", "Shared memory for large payloads, like 2GB. [all]"),
    "pin-cores": ("EngineApp.pin_cores", "Cores of its own for each engine: auto, 0-7. [any]"),
    "restart-engines": (
        "EngineApp.restart_engines",
        "Engines, and agents, to start for ones that died. [0]",
    ),
}


def value_of(argv: Sequence[str], *names: str) -> str:
    """Return the value that a command line gives to the first of these options it has.

    For what must be known before the line is read: which options it may have.
    """
    for name in names:
        dashed = f"--{name}" if len(name) > 1 else f"-{name}"
        for word, following in zip(argv, [*argv[1:], ""], strict=False):
            if word == dashed:
                return following
            if word.startswith(f"{dashed}="):
                return word.partition("=")[2]
    return ""


def merged(*groups: dict[Any, Any]) -> dict[Any, Any]:
    """Join groups of options with those that every command has."""
    found = dict(BaseApp.aliases)
    for group in groups:
        found.update(group)
    return found
