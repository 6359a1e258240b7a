"""Which part of a controller hangs: each raises a counter, and the supervisor looks.

Counters lie in memory that supervisor and parts share, so a beat costs a store and a look
costs nothing to who is looked at.  A loop beats when it has gone round, busy or idle.

A part that is merely slow must not be taken for one that hangs.  So time is not read off a
clock but counted in looks, of which a supervisor that was itself stopped, or a machine that
slept, makes none; and a look counts only if the part waits or is stopped although it should
have gone round.  One that is ready to run and gets no processor, or waits for a disk, is
left alone for as long as that takes; one that runs is judged by the processor time that it
has used itself.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence

from ipclusterz.net.loop import Loop

LOOKS = 15
"""So many looks must find a part waiting for nothing."""

EARLY = 5
"""After so many without a beat it is said."""

_WAITING = {"S": "it waits for something that does not come", "T": "it is stopped (SIGSTOP)"}
_OTHERS = {
    "R": "it is busy, or gets no processor",
    "D": "it waits for a disk or a file server",
    "t": "it is being debugged",
}

Facts = tuple[str, float]
"""The state of a process's first thread, as the kernel tells it, and its seconds of CPU."""


class Beats:
    """The counters; made before parts are forked."""

    def __init__(self, parts: Sequence[str], limit: float) -> None:
        self.interval = limit / LOOKS
        self._places = {part: number for number, part in enumerate(parts)}
        self._words = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")

    def count(self, part: str) -> int:
        """Return how often a part has beaten."""
        return int(self._words[self._places[part]])

    def keep(self, part: str, loop: Loop) -> None:
        """Have a loop beat for a part from now on."""
        words, place, interval = self._words, self._places[part], self.interval
        due = 0.0

        def beat() -> None:
            nonlocal due
            if loop.now >= due:
                due = loop.now + interval
                words[place] += 1

        def again() -> None:
            loop.after(interval, again)  # going round is what counts

        loop.flush.append(beat)
        again()


class Verdict:
    """What is found of a part: ``text`` to be said; ``hangs``: it is to be ended."""

    __slots__ = ("hangs", "part", "pid", "text")

    def __init__(self, part: str, pid: int, text: str, hangs: bool) -> None:
        self.part = part
        self.pid = pid
        self.text = text
        self.hangs = hangs


class _Seen:
    """A part since its last beat."""

    __slots__ = ("condemned", "count", "cpu", "looks", "pid", "still", "told")

    def __init__(self, pid: int, count: int, cpu: float) -> None:
        self.pid = pid
        self.count = count
        self.cpu = cpu
        self.looks = self.still = 0
        self.told = self.condemned = False


class Watch:
    """The supervisor's view of the counters; ``limit`` in seconds, 0: nothing is judged."""

    def __init__(
        self, beats: Beats, limit: float, facts: Callable[[int], Facts] | None = None
    ) -> None:
        self._beats = beats
        self._limit = limit
        self._facts = facts or facts_of
        self._seen: dict[str, _Seen] = {}
        self._last = 0.0

    def timeout(self, now: float) -> float | None:
        """Return for how many milliseconds the next look has time; None for ever."""
        if not self._limit:
            return None
        return max(self._last + self._beats.interval - now, 0.0) * 1000

    def look(self, now: float, pids: dict[int, str]) -> list[Verdict]:
        """Look, if it is time; ``pids`` are the parts there are."""
        if not self._limit or now - self._last < self._beats.interval:
            return []
        self._last = now
        return [found for pid, part in pids.items() if (found := self._judge(part, pid))]

    def _judge(self, part: str, pid: int) -> Verdict | None:
        count, (state, cpu) = self._beats.count(part), self._facts(pid)
        seen = self._seen.get(part)
        if seen is None or seen.pid != pid or seen.count != count:
            self._seen[part] = _Seen(pid, count, cpu)
            if seen is not None and seen.pid == pid and seen.told:
                text = f"the {part} process (pid {pid}) goes on"
                return Verdict(part, pid, text, False)
            return None
        if seen.condemned:  # what a process looks like while it is killed explains nothing
            return None
        seen.looks += 1
        seen.still += state in _WAITING
        used = cpu - seen.cpu
        silent = seen.looks * self._beats.interval
        if seen.still >= LOOKS or used >= self._limit:
            seen.condemned = True
            what = _WAITING.get(state, f"{used:.0f} s of processor time led nowhere")
            return Verdict(part, pid, f"it did nothing for {silent:.0f} s: {what}", True)
        if seen.looks < EARLY or seen.told:
            return None
        seen.told = True
        what = _WAITING.get(state) or _OTHERS.get(state, "nobody knows why")
        text = (
            f"the {part} process (pid {pid}) has done nothing for {silent:.0f} s: {what}; if it"
            f" hangs, it is ended and started again {self._limit:.0f} s after its last step"
        )
        return Verdict(part, pid, text, False)


def facts_of(pid: int) -> Facts:
    """Return the facts on a process; an unknown state where the system does not tell."""
    try:
        with open(f"/proc/{pid}/task/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return "?", 0.0
    ticks = int(fields[11]) + int(fields[12])
    return fields[0].decode(), ticks / os.sysconf("SC_CLK_TCK")
