"""A job whose program is started again when it has died, up to a number of times.

Lives here: :class:`LastingJob`, around the jobs of any launcher that starts one agent a
launch.  What is a death, how often and how soon is decided in
:mod:`ipclusterz.core.replacing`.  Knows nothing of clusters: what must be told to each new
process (the connector) comes from who hears the event ``agent_again``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from msgspec.structs import replace

from ipclusterz.core.replacing import Agents
from ipclusterz.error import LaunchError
from ipclusterz.launchers.base import Event, Job, JobState, LaunchSpec


class LastingJob:
    """Jobs that follow each other as one; see :class:`ipclusterz.launchers.base.Job`.

    ``begin`` starts a launch.  Events besides the program's own: ``agent_lost`` (``ids`` of
    its engines), ``agent_again`` (``pid``; it waits for what the first one was told), and
    ``replaced`` when all engines of the new one are ready.
    """

    def __init__(self, spec: LaunchSpec, begin: Callable[[LaunchSpec], Job]) -> None:
        self.name = spec.name
        self._spec = spec
        self._begin = begin
        self._agents = Agents(spec.restarts, spec.n)
        self._events: list[Event] = []
        self._due = 0.0  # when the next one is to be started; 0 when one is there
        self._end: JobState | None = None
        self._closing = False
        self._job = begin(spec)

    @property
    def pid(self) -> int:
        """The process that is there now, or was the last."""
        return self._job.pid

    def watched(self) -> tuple[int, ...]:
        """Return the descriptors of the present process; none in a pause, to be polled."""
        return () if self._due else self._job.watched()

    def poll(self) -> JobState:
        """Return its state, and start the next process when that is due."""
        if self._end is not None:
            return self._end
        if self._closing:
            return self._job.poll()
        if self._due:
            if time.monotonic() < self._due:
                return JobState()
            self._start()
            if self._due:
                return JobState()
        state = self._end or self._job.poll()
        if not state.ended or self._end:
            return state
        self._hear()
        return self._died(state.code or 0, _short(state), state.text)

    def events(self) -> list[Event]:
        """Return the events of all of them since the last call."""
        self._hear()
        found, self._events = self._events, []
        return found

    def tell(self, text: str) -> None:
        """Write to the present one's standard input; LaunchError when it takes none."""
        self._job.tell(text)

    def signal(self, signum: int) -> None:
        """Send a signal to the present one."""
        self._job.signal(signum)

    def close(self) -> None:
        """Ask it to end; no other one is started."""
        self._closing = True
        self._job.close()

    def wait(self, timeout: float) -> bool:
        """Wait for the end of the present one."""
        return self._job.wait(timeout)

    def stop(self, grace: float = 10.0) -> JobState:
        """End it; no other one is started."""
        self._closing = True
        return self._job.stop(grace)

    def _hear(self) -> None:
        for event in self._job.events():
            self._events.append(event)
            if text := self._agents.heard(event):
                self._events.append({"event": "replaced", "text": text})

    def _died(self, code: int, cause: str, text: str) -> JobState:
        """One has ended: begin the next, or a pause before it; else that was the end."""
        event = self._agents.died(code, cause)
        if event is None:
            used = self._agents.used_up
            self._end = JobState(code, f"{text}\n{used}" if used else text)
            return self._end
        self._events.append(event)
        self._job.stop(0.0)  # lets go of its pipes
        self._due = time.monotonic() + event["pause"]
        if not event["pause"]:
            self._start()
        return self._end or JobState()

    def _start(self) -> None:
        self._due = 0.0
        stdin = with_origin(self._spec.stdin, self._agents.origin)
        try:
            self._job = self._begin(replace(self._spec, stdin=stdin))
        except LaunchError as error:  # as if it had ended at its start
            self._died(1, str(error), str(error))
            return
        self._events.append({"event": "agent_again", "pid": self._job.pid})

    def __repr__(self) -> str:
        return f"<LastingJob {self._job!r}, {self._agents.remaining()}>"


def with_origin(stdin: str, origin: str) -> str:
    """Return an agent's input with the words on whom it replaces among its settings."""
    first, _, rest = stdin.partition("\n")
    told = json.loads(first)
    told["config"]["origin"] = origin
    return f"{json.dumps(told)}\n{rest}"


def _short(state: JobState) -> str:
    """Return in a line how a process ended: what it said itself, if it could."""
    lines = state.text.partition("; its last words")[0].split("\n")
    return lines[-1] if (state.code or 0) < 0 else lines[0]
