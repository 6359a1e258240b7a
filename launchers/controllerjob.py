"""A controller in a batch job: submitted at once, and heard through the files of its folder.

What differs from a job of engines: it waits for nobody, there is one process on one node, and
what it says at its end is the reason for the end of the cluster.  Its configuration lies in the
owner-only folder beside the script, as that of agents does; what it writes there holds no key.
"""

from __future__ import annotations

import json

from ipclusterz.error import LaunchError
from ipclusterz.launchers.base import Event, JobState
from ipclusterz.launchers.batchjob import BatchJob


class ControllerJob(BatchJob):
    """The one job of a controller; submitted by :meth:`submit`."""

    def submit(self) -> None:
        """Submit; LaunchError when that fails, and nothing is left."""
        self._submit_all({**json.loads(self._spec.stdin), "walltime": self._walltime})

    def tell(self, text: str) -> None:
        """Refuse: a controller needs nothing that its launcher does not know beforehand."""
        raise LaunchError("a controller in a job cannot be told anything: it has no input")

    def _event(self, id: str, state: str, text: str) -> Event:
        return super()._event(id, state, f"(the controller) {text}")

    def _certificate(self) -> JobState:
        name = f"{self.system.name} job"
        ends = [f"{name} {id} (the controller) {value.text}" for id, value in self.news.items()]
        return JobState(super()._certificate().code, "\n".join(ends))
