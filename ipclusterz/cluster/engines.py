"""One set of engines, as their launcher's side knows it: an agent's job and what it told.

A plain record with the rules for reading it; the lock that guards it is the cluster's.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ipclusterz.core.batchjob import belongs
from ipclusterz.launchers.base import Job, JobState


class EngineSet(Struct):
    """Engines that one launch brought: ``ready`` maps engine ids to process ids.

    ``jobs`` are batch jobs by name, with state and text.  ``problem`` is the first reason
    why the set is not, or no more, complete.  ``missing`` says which parts of it will not
    come, and why; ``n`` does not count them.  ``generation`` is that of the cluster when it
    was launched.
    """

    id: str
    job: Job
    n: int
    ready: dict[int, int] = {}
    complete: bool = False
    told: bool = False
    problem: str = ""
    jobs: dict[str, tuple[str, str]] = {}
    missing: list[str] = []
    end: JobState | None = None
    generation: int = 0

    def take(self, event: dict[str, Any]) -> None:
        """Note a status event of the agent."""
        kind = event["event"]
        if kind == "engine":
            self.ready[int(event["id"])] = int(event.get("pid", 0))
            self.complete = self.complete or len(self.ready) >= self.n
        elif kind == "engines":
            # In batch jobs there are several agents, and each says it for its own engines.
            self.complete = self.complete or not self.patient
        elif kind == "job":
            for other in [o for o in self.jobs if belongs(event["job"], o)]:
                del self.jobs[other]  # of the array as a whole, until its parts are known
            self.jobs[event["job"]] = (event["state"], event["text"])
        elif kind == "less":
            self._lose(event)
        elif kind == "agent_lost":
            for number in event["ids"]:
                self.ready.pop(int(number), None)
            if self.complete:
                self.problem = ""  # of one that is replaced
        elif kind == "engine_down":
            self.ready.pop(int(event["id"]), None)
            if not self.complete and not event.get("replaced"):
                self.problem = self.problem or (
                    f"engine {event['id']} could not start: {event.get('reason', '')}"
                )
        elif kind == "error":
            self.problem = self.problem or str(event.get("text", ""))

    def _lose(self, event: dict[str, Any]) -> None:
        """One of several hosts fell out; the others are the set from now on."""
        self.n -= int(event["n"])
        self.missing.append(str(event["text"]))
        for number in event["ids"]:
            self.ready.pop(number, None)
        self.complete = self.complete or 0 < self.n <= len(self.ready)

    def ended(self, state: JobState) -> None:
        """Note the end of the agent."""
        self.end = state
        self.ready.clear()
        self.problem = self.problem or state.text

    @property
    def patient(self) -> bool:
        """Whether its engines may come in an hour, or tomorrow."""
        return bool(getattr(self.job, "patient", False))

    @property
    def standing(self) -> str:
        """What its batch jobs wait for, or do; '' without any."""
        texts = [text for state, text in self.jobs.values() if state != "ended"]
        more = f" and {len(texts) - 3} more jobs" if len(texts) > 3 else ""
        return "; ".join(texts[-3:]) + more

    @property
    def failed(self) -> bool:
        """Whether the set will not become complete."""
        return not self.complete and bool(self.problem or self.end)

    @property
    def explanation(self) -> str:
        """Why the set is not complete, in all the words there are."""
        end = self.end.text if self.end else ""
        if not self.problem or self.problem in end:
            return end
        return f"{self.problem}\n{end}" if end else self.problem
