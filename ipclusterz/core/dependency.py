"""Tasks that wait for other tasks: when they may go, where to, and when never.

``after`` says which tasks must have ended before, ``follow`` on whose engines a task runs.
Each names tasks by key and says how many of them count (all or any) and which ends (success,
failure).  Pure: told what ends, says what may go.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

from ipclusterz.core.message import Depend, Options

KEPT = 25_000
"""Ended tasks that are remembered at least, so that what comes later can depend on them."""

GOOD, BAD, OPEN = 1, 2, 0

End = tuple[bool, int]
"""Whether a task succeeded, and the engine it ended on (-1: none)."""


class Ends:
    """How the latest tasks ended; two halves, because dropping one at a time costs more."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self.latest: dict[int, int] = {}  # as numbers: the small ones take no memory
        self._old: dict[int, int] = {}

    def note(self, key: int, success: bool, engine: int) -> None:
        """A task has ended."""
        self.latest[key] = (engine + 1) << 1 | success
        self._turn()

    def note_all(self, keys: Iterable[int], success: bool, engine: int) -> None:
        """Several tasks have ended alike."""
        self.latest.update(dict.fromkeys(keys, (engine + 1) << 1 | success))
        self._turn()

    def _turn(self) -> None:
        """Forget the oldest, if there are many."""
        if len(self.latest) >= self._kept:
            self._old, self.latest = self.latest, {}

    def get(self, key: int) -> End | None:
        """Return how a task ended, if that is still known."""
        found = self.latest.get(key)
        if found is None:
            found = self._old.get(key)
        return None if found is None else (bool(found & 1), (found >> 1) - 1)


class Waiting:
    """One task that waits, and what it waits for."""

    __slots__ = ("ends", "left", "options", "task")

    def __init__(self, task: Any, options: Options) -> None:
        self.task = task
        self.options = options
        self.ends: dict[int, End] = {}
        self.left: set[int] = set()


class Verdict:
    """What became of a waiting task: it may go (to ``engines``; None: any), or never."""

    __slots__ = ("engines", "task", "why")

    def __init__(self, task: Any, engines: list[int] | None, why: str) -> None:
        self.task = task
        self.engines = engines
        self.why = why


class Dependencies:
    """The tasks that wait for others, by what they wait for."""

    def __init__(self, ends: Ends) -> None:
        self._ends = ends
        self._waiting: dict[int, Waiting] = {}
        self._wanted: dict[int, list[Waiting]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def tasks(self) -> list[Any]:
        """Return the tasks that wait."""
        return [waiting.task for waiting in self._waiting.values()]

    def enter(self, task: Any, options: Options, known: Container[int]) -> Verdict | None:
        """Take in a task; return its verdict, or None when it has to wait.

        ``known`` has the keys of tasks that are under way: nothing else will ever end.
        """
        waiting = Waiting(task, options)
        for depend in (options.after, options.follow):
            if depend is None:
                continue
            for key, success, engine in depend.known:
                waiting.ends[key] = (success, engine)
            for key in depend.keys:
                end = waiting.ends.get(key) or self._ends.get(key)
                if end is not None:
                    waiting.ends[key] = end
                elif key in known or key in self._waiting:
                    waiting.left.add(key)
                else:
                    why = f"it depends on task {key}, of which nothing is known"
                    return Verdict(task, None, why)
        verdict = judge(waiting)
        if verdict is None:
            self._waiting[task.key] = waiting
            for key in waiting.left:
                self._wanted.setdefault(key, []).append(waiting)
        return verdict

    def ended(self, key: int, success: bool, engine: int) -> list[Verdict]:
        """A task has ended; return the verdicts that this brings."""
        verdicts = []
        for waiting in self._wanted.pop(key, ()):
            waiting.left.discard(key)
            waiting.ends[key] = (success, engine)
            verdict = judge(waiting)
            if verdict is not None:
                self._remove(waiting)
                verdicts.append(verdict)
        return verdicts

    def known(self, key: int, depend: Depend) -> list[tuple[int, bool, int]]:
        """Return how those tasks ended that a task waited for and that have ended."""
        waiting = self._waiting.get(key)
        ends = {} if waiting is None else waiting.ends
        found = [(k, ends.get(k) or self._ends.get(k)) for k in depend.keys]
        known = {k: (k, *end) for k, end in found if end is not None}
        return list({**{told[0]: told for told in depend.known}, **known}.values())

    def drop(self, key: int) -> bool:
        """Forget a task that waits; False when it does not."""
        waiting = self._waiting.get(key)
        if waiting is not None:
            self._remove(waiting)
        return waiting is not None

    def _remove(self, waiting: Waiting) -> None:
        del self._waiting[waiting.task.key]
        for key in waiting.left:
            wanted = self._wanted[key]
            wanted.remove(waiting)
            if not wanted:
                del self._wanted[key]


def judge(waiting: Waiting) -> Verdict | None:
    """Return whether a task may go, and where to, or why never; None: not known yet."""
    options, ends = waiting.options, waiting.ends
    engines: list[int] | None = None
    for depend, name in ((options.after, "after"), (options.follow, "follow")):
        if depend is None or not depend.keys:
            continue
        state = met(depend, ends)
        if state == BAD:
            return Verdict(waiting.task, None, _impossible(depend, name, ends))
        if state == OPEN:
            return None
        if name == "follow":
            engines = places(depend, ends)
            if not engines:
                return Verdict(waiting.task, None, _scattered(depend, ends))
    return Verdict(waiting.task, engines, "")


def met(depend: Depend, ends: dict[int, End]) -> int:
    """Return whether a dependency is met (GOOD), can never be (BAD), or is OPEN."""
    good = bad = 0
    for key in depend.keys:
        end = ends.get(key)
        if end is not None:
            if accepts(depend, end[0]):
                good += 1
            else:
                bad += 1
    if depend.all:
        return BAD if bad else GOOD if good == len(depend.keys) else OPEN
    return GOOD if good else BAD if bad == len(depend.keys) else OPEN


def accepts(depend: Depend, success: bool) -> bool:
    """Return whether a task that ended so counts."""
    return depend.success if success else depend.failure


def places(depend: Depend, ends: dict[int, End]) -> list[int]:
    """Return the engines where a task that follows may run; empty: there is none."""
    engines = {
        ends[key][1]
        for key in depend.keys
        if key in ends and accepts(depend, ends[key][0]) and ends[key][1] >= 0
    }
    if depend.all and len(engines) != 1:
        return []
    return sorted(engines)


def _impossible(depend: Depend, name: str, ends: dict[int, End]) -> str:
    wrong = [key for key in depend.keys if key in ends and not accepts(depend, ends[key][0])]
    how = "failed" if depend.success and not depend.failure else "succeeded"
    if not depend.all:
        return f"it runs {name} any of {len(depend.keys)} tasks, and all of them {how}"
    return f"it runs {name} {len(depend.keys)} tasks, and {len(wrong)} of them {how}"


def _scattered(depend: Depend, ends: dict[int, End]) -> str:
    engines = sorted({ends[key][1] for key in depend.keys if key in ends and ends[key][1] >= 0})
    if not engines:
        return "it follows tasks that ran on no engine"
    where = ", ".join(map(str, engines[:20]))
    return f"it follows tasks that ran on different engines ({where}) and must run with all"
