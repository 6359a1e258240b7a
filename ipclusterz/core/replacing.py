"""What is started for what died, how often, and how soon: engines, and whole agents.

Lives here: the count, the pauses between attempts that fail, and what is said.  Knows
neither processes nor clocks: the agent tells :class:`Replacing` of deaths, of the ids that
the hub gave, and of engines that are ready; launchers tell :class:`Agents` of agents.
"""

from __future__ import annotations

from collections import deque
from typing import Any

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 30.0
"""The pause before an attempt that follows one which died at its start, and its limit."""


CRASHED = 70
"""The exit code of an agent that ended by a mistake in it, and not in order."""


_NAMED = 8  # so many engines are named; more are counted


class Restarts:
    """How often something may be started again: ``left`` of the ``allowed`` times."""

    def __init__(self, allowed: int) -> None:
        self.allowed = self.left = allowed
        self._failures = 0  # at the start, in a row

    def pause(self, ready: bool, free: bool = False) -> float | None:
        """Count a death; return after how many seconds the next one starts, None for never.

        ``ready`` says that what died had come up; ``free`` that it takes nothing of the count.
        """
        if not (free or self.left > 0):
            return None
        if not free:
            self.left -= 1
        self._failures = 0 if ready else self._failures + 1
        if not self._failures:
            return 0.0
        return min(FIRST_SECONDS * 2.0 ** (self._failures - 1), LONGEST_SECONDS)

    def remaining(self) -> str:
        """Return how many restarts are left, in words."""
        return f"{self.left} of {_restarts(self.allowed)} left"


class Agents(Restarts):
    """The agents that a launcher starts one after the other, in place of one that died.

    Each has ``n`` engines; ``ids`` are those of the present one, ``origin`` says whom it
    replaces, '' for the first.  One is replaced if it dies when its engines were all ready,
    and not if it ends in order; a successor also if it cannot start.  ``used_up`` says in the
    end why one was not.
    """

    def __init__(self, allowed: int, n: int) -> None:
        super().__init__(allowed)
        self._n = n
        self.ids: list[int] = []
        self.origin = self.used_up = ""
        self._cause = ""
        self._lost: list[int] = []
        self._ready = False

    def heard(self, event: dict[str, Any]) -> str:
        """Note a status event of the present agent; return what is news by it, or ''."""
        kind = event["event"]
        if kind == "engine":
            self.ids.append(int(event["id"]))
        elif kind == "engine_down" and int(event["id"]) in self.ids:
            self.ids.remove(int(event["id"]))
        # It may die before it has said that they are all there.
        if not self._ready and (kind == "engines" or 0 < self._n <= len(self.ids)):
            self._ready = True
            lost, self._lost = self._lost, []
            if self.origin:
                ours = f"{_engines(self.ids)} {'replaces' if len(self.ids) == 1 else 'replace'}"
                return f"{ours} {_engines(lost)}: {self._cause}; {self.remaining()}"
        return ""

    def died(self, code: int, cause: str) -> dict[str, Any] | None:
        """An agent ended with ``code``; return the event of its loss, if another one follows.

        That event has the engines' ``ids``, ``pause`` in seconds, and words.
        """
        dead = code < 0 or code == CRASHED
        failed = bool(self.origin) and not self._ready and code != 0
        if not (failed or (dead and self._ready)):
            return None
        pause = self.pause(self._ready)
        if pause is None:
            are = "is" if self.allowed == 1 else "are"
            used = f"its {_restarts(self.allowed)} (--restart-engines) {are} used up"
            self.used_up = f"it is not replaced: {used}" if self.allowed else ""
            return None
        ids, self.ids = self.ids, []
        self._lost += ids
        self._ready = False
        self._cause = cause
        self.origin = f"its agent replaces one that was lost: {cause}; {self.remaining()}"
        when = f" in {pause:.0f} s" if pause else ""
        with_it = f"; {_engines(ids)} ended with it" if ids else ""
        text = f"{cause}{with_it}; another one is started{when}, {self.remaining()}"
        told = {"event": "agent_lost", "ids": ids, "pause": pause, "cause": cause}
        return {**told, "text": text}


class Lost:
    """An engine that died and is to be replaced."""

    __slots__ = ("cause", "number")

    def __init__(self, number: int, cause: str) -> None:
        self.number = number
        self.cause = cause


class Replacing(Restarts):
    """The replacements of one agent: ``left`` of the ``allowed`` ones may still be started.

    ``asked`` are the dead whose successors have no id yet, the first to die first; ``pausing``
    counts those that wait for the end of a pause.
    """

    def __init__(self, allowed: int) -> None:
        super().__init__(allowed)
        self.asked: deque[Lost] = deque()
        self.pausing = 0
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
        pause = self.pause(ready, free)
        if pause is not None:
            self.pausing += 1
        return pause

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


def _engines(ids: list[int]) -> str:
    """Return engines in words: ``engine 3``, ``engines 0, 1``, ``8 engines``."""
    if len(ids) > _NAMED:
        return f"{len(ids)} engines"
    named = ", ".join(map(str, sorted(ids))) or "(none)"
    return f"engine {named}" if len(ids) == 1 else f"engines {named}"


def _restarts(n: int) -> str:
    return "1 restart" if n == 1 else f"{n} restarts"
