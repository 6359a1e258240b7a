"""What an engine can take: its load, its pace, and the credit that follows from these.

Credit is how many tasks an engine may hold at once.  It starts at one, grows by one with each
finished task (so it doubles each round trip, as a congestion window does) and is capped by
what the engine finishes in :data:`AHEAD` seconds at its measured pace.  Long tasks thus go one
at a time and short ones by the hundred.

Lives here: the numbers of one engine of the task scheduler.  Must not know: tasks, messages.
"""

from __future__ import annotations

from ipclusterz.core.tasks import Agent

AHEAD = 0.050
"""Seconds of work an engine may hold."""

MAX_CREDIT = 1000
"""Tasks an engine may hold, however short."""

LONGEST = 3600.0
"""Seconds that a task counts for at most: clocks may lie."""


class Engine:
    """Load and pace of one engine; ``hwm`` above zero fixes its credit."""

    __slots__ = ("_hwm", "agent", "credit", "id", "load", "pace")

    def __init__(self, id: int, agent: Agent, hwm: int) -> None:
        self.id = id
        self.agent = agent
        self._hwm = hwm
        self.credit = hwm or 1
        self.load = 0
        self.pace = -1.0  # seconds per task, smoothed; below zero: not known

    @property
    def has_room(self) -> bool:
        """Whether it may be given another task."""
        return self.load < self.credit and not self.agent.absent

    def learn(self, seconds: float) -> None:
        """Note how long a task of it took."""
        self.pace = smoothed(self.pace, seconds)
        self._more_credit(1)

    def learn_all(self, seconds: list[float]) -> None:
        """Learn from several tasks at once; of what is quick the mean says enough."""
        n = len(seconds)
        if min(seconds) >= 0.0 and max(seconds) <= self.pace:
            mean = sum(seconds) / n
            self.pace = mean + (self.pace - mean) * 0.875**n
        else:
            for each in seconds:
                self.pace = smoothed(self.pace, each)
        self._more_credit(n)

    def _more_credit(self, ended: int) -> None:
        if self._hwm:
            return
        cap = MAX_CREDIT
        if self.pace * MAX_CREDIT > AHEAD:
            cap = max(1, int(AHEAD / self.pace))
        self.credit = min(self.credit + ended, cap)

    def distrust(self) -> None:
        """Begin anew: it cannot be as quick as it was."""
        self.credit = self._hwm or 1


def smoothed(pace: float, seconds: float) -> float:
    """Return an engine's pace after a task that took ``seconds``.

    It rises at once and falls slowly: a wrong guess of "short" hurts, one of "long" costs
    little.
    """
    seconds = min(max(seconds, 0.0), LONGEST)
    if pace < seconds:
        return seconds if pace < 0 else (pace + seconds) / 2
    return pace + (seconds - pace) / 8
