"""Until when tasks have to be begun, and which of them are overdue.

Lives here: a heap of times, and the tasks that were with an agent when theirs was over: only
that one knows whether an engine has begun them.  Must not know: who ends them, and how
(:mod:`ipclusterz.core.balance`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from heapq import heappop, heappush

from ipclusterz.core import message as m
from ipclusterz.core.tasks import Task

FEW = 64
"""Overdue tasks among which it is not looked for those that have ended."""


class Deadlines:
    """The times of tasks by key; those in ``overdue`` are past theirs, with an agent."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self.overdue: set[int] = set()
        self._most = FEW

    def __bool__(self) -> bool:
        """Whether there is any time to wait for."""
        return bool(self._heap)

    def set(self, key: int, seconds: float, now: float) -> None:
        """Task ``key`` has to be begun in so many seconds; 0: as long as it takes."""
        if seconds > 0:
            heappush(self._heap, (now + seconds, key))

    def due(self, now: float) -> Iterator[int]:
        """Yield those whose time is over, begun or not, each once."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            yield heappop(heap)[1]

    def ask(self, key: int) -> None:
        """The agent that has this one is asked to end it unless it has begun."""
        self.overdue.add(key)

    def trim(self, known: Container[int]) -> None:
        """Forget overdue tasks that have ended: nobody takes out those that had begun."""
        if len(self.overdue) > self._most:
            self.overdue = {key for key in self.overdue if key in known}
            self._most = max(FEW, 2 * len(self.overdue))

    def missed(self, key: int) -> bool:
        """Whether a task that has not begun is past its time; it is forgotten."""
        if key in self.overdue:
            self.overdue.discard(key)
            return True
        return False


def failure(task: Task) -> m.Failure:
    """What is said of a task that no engine has begun in time."""
    text = f"no engine was free for it within {task.work.opt.timeout:g} s (its timeout)"
    return m.Failure("TaskTimeout", text)
