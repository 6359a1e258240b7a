"""One set of engines, as their launcher's side knows it: an agent's job and what it told.

A plain record with the rules for reading it; the lock that guards it is the cluster's.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ipclusterz.launchers.base import Job, JobState


class EngineSet(Struct):
    """Engines that one launch brought: ``ready`` maps engine ids to process ids.

    ``problem`` is the first reason why the set is not, or no more, complete.
    """

    id: str
    job: Job
    n: int
    ready: dict[int, int] = {}
    complete: bool = False
    told: bool = False
    problem: str = ""
    end: JobState | None = None

    def take(self, event: dict[str, Any]) -> None:
        """Note a status event of the agent."""
        kind = event["event"]
        if kind == "engine":
            self.ready[int(event["id"])] = int(event.get("pid", 0))
            self.complete = self.complete or len(self.ready) >= self.n
        elif kind == "engines":
            self.complete = True
        elif kind == "engine_down":
            self.ready.pop(int(event["id"]), None)
            if not self.complete:
                self.problem = self.problem or (
                    f"engine {event['id']} could not start: {event.get('reason', '')}"
                )
        elif kind == "error":
            self.problem = self.problem or str(event.get("text", ""))

    def ended(self, state: JobState) -> None:
        """Note the end of the agent."""
        self.end = state
        self.ready.clear()
        self.problem = self.problem or state.text

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
