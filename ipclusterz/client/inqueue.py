"""Waiting for a controller whose batch job stands in a queue: for its connector file.

What the job waits for stands in the cluster's state file, where its launcher keeps it up to
date.  Reads that file by itself: a client knows nothing of launchers.
"""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

from ipclusterz import paths
from ipclusterz.client.locate import NoClusterFound, locate
from ipclusterz.client.saying import say
from ipclusterz.core.connector import Connector
from ipclusterz.error import ConnectorError

_LOOK_SECONDS = 0.5


def await_controller(
    *,
    profile: str | None,
    profile_dir: str | None,
    ipython_dir: str | None,
    cluster_id: str | None,
) -> tuple[Connector, str]:
    """Return what ``locate`` does, as soon as a controller's job has written its file.

    Says on standard error what is waited for, whenever that changes.  ConnectorError when
    there is nothing to wait for (any more).
    """
    name = profile or "default"
    folder = (
        paths.ProfileDir(profile_dir) if profile_dir else paths.profile_dir(name, ipython_dir)
    )
    state_file = folder.state_file(cluster_id or "")
    told = ""
    while True:
        facts = _read(state_file)
        try:
            os.listdir(folder.security)  # a network file system looks again
        except OSError:
            pass
        try:
            return locate(
                profile=profile,
                profile_dir=profile_dir,
                ipython_dir=ipython_dir,
                cluster_id=cluster_id,
            )
        except NoClusterFound:
            if not told and not facts.get("controller_job") and not facts.get("ended"):
                raise
        text = _checked(facts, folder)
        if text != told:
            told = text
            say(f"waiting for the controller: {text}")
        time.sleep(_LOOK_SECONDS)


def _checked(facts: dict[str, Any], folder: paths.ProfileDir) -> str:
    """Return what the job does; ConnectorError when it will bring no controller."""
    if facts.get("ended"):
        raise ConnectorError(
            f"no cluster of profile {folder.name!r} is running; it has ended: {facts['ended']}"
        )
    if not facts.get("controller_job"):
        raise ConnectorError(
            f"the cluster of profile {folder.name!r} was stopped while its controller's job"
            f" waited; what its launcher said is in {folder.log}"
        )
    job = facts.get("jobs", {}).get(facts["controller_job"], {})
    text = "; ".join(job.get("texts", {}).values()) or "its job is being submitted"
    if _launcher_gone(facts):
        raise ConnectorError(
            f"the cluster of profile {folder.name!r} has no controller yet, and the process"
            f" that watched its job was ended on {facts['host']}, so no engines will come"
            f" ({text}); cancel it with 'ipclusterz stop' and start the cluster again"
        )
    return text


def _launcher_gone(facts: dict[str, Any]) -> bool:
    """Tell whether the launcher, a process of this host, has ended; elsewhere nobody knows."""
    launcher = facts.get("launcher") or {}
    here = facts.get("boot_id") == paths.boot_id() if facts.get("boot_id") else False
    same = facts.get("host") == socket.gethostname()
    if not (here and same) or facts.get("space", "") not in ("", paths.process_space()):
        return False
    try:
        with open(f"/proc/{launcher.get('pid', 0)}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return os.path.isdir("/proc/self")
    return fields[0] in (b"Z", b"X") or int(fields[19]) != launcher.get("start")


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
