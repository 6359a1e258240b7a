"""Which engines are started for others that died, how many of them, and how soon.

Lives here: the count, the pauses between attempts that fail, and what is said.  Knows
neither processes nor clocks: the agent tells it of deaths, of the ids that the hub gave, and
of engines that are ready.
"""

from __future__ import annotations

from collections import deque

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 30.0
"""The pause before an attempt that follows one which died at its start, and its limit."""


class Lost:
    """An engine that died and is to be replaced."""

    __slots__ = ("cause", "number")

    def __init__(self, number: int, cause: str) -> None:
        self.number = number
        self.cause = cause


class Replacing:
    """The replacements of one agent: ``left`` of the ``allowed`` ones may still be started.

    ``asked`` are the dead whose successors have no id yet, the first to die first; ``pausing``
    counts those that wait for the end of a pause.
    """

    def __init__(self, allowed: int) -> None:
        self.allowed = self.left = allowed
        self.asked: deque[Lost] = deque()
        self.pausing = 0
        self._failures = 0  # at the start, in a row
        self._successors: dict[int, Lost] = {}
        self._told = False

    @property
    def pending(self) -> bool:
        """Whether an engine will come that has no id yet."""
        return bool(self.asked or self.pausing)

    def may(self, free: bool = False) -> bool:
        """Tell whether an engine that dies now is replaced; ``free``: whatever the count."""
        return free or self.left > 0

    def died(self, number: int, cause: str, ready: bool, free: bool = False) -> float | None:
        """Count a death; return after how many seconds :meth:`due` is to be called.

        None where nothing replaces it.  ``ready`` says that it had come up; ``cause`` is its
        death certificate, of which the first line is kept.
        """
        self._successors.pop(number, None)
        if not self.may(free):
            return None
        if not free:
            self.left -= 1
        self._failures = 0 if ready else self._failures + 1
        self.pausing += 1
        if not self._failures:
            return 0.0
        return min(FIRST_SECONDS * 2.0 ** (self._failures - 1), LONGEST_SECONDS)

    def due(self, number: int, cause: str) -> None:
        """The pause is over: the next id is for the successor of this one."""
        self.pausing -= 1
        self.asked.append(Lost(number, cause.partition("\n")[0].partition("; its last")[0]))

    def give_up(self) -> None:
        """A pause is over, but the agent ends, or drains."""
        self.pausing -= 1

    def granted(self, ids: list[int]) -> list[int]:
        """Return those of the new ids that are needed: an answer may come twice."""
        wanted = ids[: len(self.asked)]
        for number in wanted:
            self._successors[number] = self.asked.popleft()
        return wanted

    def origin(self, number: int) -> str:
        """Return whom an engine replaces and how many may still be; '' for an original."""
        lost = self._successors.get(number)
        if lost is None:
            return ""
        text = f"engine {number} replaces engine {lost.number}, which was lost: {lost.cause}"
        return f"{text}; {self.remaining()}" if self.allowed else text

    def remaining(self) -> str:
        """Return how many restarts are left, in words."""
        return f"{self.left} of {_restarts(self.allowed)} left"

    def used_up(self, number: int) -> str:
        """Return what to say of an engine that is not replaced: once, and '' after that."""
        if self._told or not self.allowed:
            return ""
        self._told = True
        return (
            f"engine {number} is not replaced, nor are those that end after it: this agent's"
            f" {_restarts(self.allowed)} (--restart-engines) "
            f"{'is' if self.allowed == 1 else 'are'} used up"
        )


def _restarts(n: int) -> str:
    return "1 restart" if n == 1 else f"{n} restarts"
