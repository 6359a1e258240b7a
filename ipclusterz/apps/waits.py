"""What ``status`` says of a cluster whose controller's job is in a queue, or has ended there.

Read from the state file, since there is nobody to ask yet, or any more.
"""

from __future__ import annotations

import os
from typing import Any

from msgspec import Struct

from ipclusterz.apps.base import NoSuchCluster
from ipclusterz.cluster import state as states
from ipclusterz.paths import ProfileDir


class Waits(Struct, frozen=True):
    """A cluster that waits for its controller's job."""

    profile: str
    cluster_id: str
    host: str
    jobs: dict[str, str]
    """What its batch system says, by job."""
    problem: str = ""

    @property
    def text(self) -> str:
        """What to tell people."""
        which = f"cluster {self.cluster_id!r}" if self.cluster_id else "the cluster"
        told = "; ".join(self.jobs.values()) or "its job is being submitted"
        text = f"{which} of profile {self.profile!r} waits for its controller: {told}"
        return f"{text}\n{self.problem}" if self.problem else text

    def snapshot(self) -> dict[str, Any]:
        """Return it for programs; the names are those of a cluster that runs."""
        return {
            "cluster_id": self.cluster_id,
            "profile": self.profile,
            "host": self.host,
            "waits": True,
            "problem": self.problem,
            "engines": [],
            "jobs": [{"id": id, "text": text} for id, text in self.jobs.items()],
        }


def look(folder: ProfileDir, cluster_id: str) -> Waits | None:
    """Return what a cluster without a controller waits for; None where one may be asked.

    NoSuchCluster tells why one has ended by itself.
    """
    state = states.read(folder.state_file(cluster_id))
    if state is None:
        return None
    if state.ended:
        raise NoSuchCluster(f"no cluster runs in {folder.path}; it has ended: {state.ended}")
    there = state.controller_pid or os.path.exists(state.client_file)
    if not state.controller_job or there or not (state.elsewhere() or state.alive()):
        return None
    known = state.jobs.get(state.controller_job)
    problem = ""
    if state.here() and state.launcher is not None and not state.launcher.alive():
        problem = (
            f"the process that watched it ({state.launcher.pid}) was ended, so nobody will"
            " submit its engines; cancel it with: ipclusterz stop"
        )
    jobs: dict[str, str] = {}
    if known is not None:
        jobs = {id: f"{known.system} job {id} was submitted" for id in known.ids}
        jobs = dict(known.texts) or jobs
    return Waits(folder.name, cluster_id, state.host, jobs, problem)
