"""Tasks that may not run just anywhere, and so wait apart from all the others.

Some are confined: to engines that their client named, or to those where tasks ran that they
follow.  Others shun a few engines, which failed them or do not suit them.  Each waits with
those that are like it, in the order in which they came, and lets all others pass.

Lives here: which engines a task may run on, and what waits for some of them only.  Must not
know: messages to agents, credit (:mod:`ipclusterz.core.capacity`), the queue of all others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import msgspec

from ipclusterz.core import message as m
from ipclusterz.core.capacity import Engine
from ipclusterz.core.policy import Policy
from ipclusterz.core.tasks import Task

Allowed = tuple[int, ...]
Group = OrderedDict[int, Task]  # by key, in order; any may leave it
Give = Callable[[Task, Engine], None]
"""Give a task to an engine, and offer the engine to others if it has still room."""

_failure = msgspec.msgpack.Decoder(m.Failure)


class Apart:
    """What waits for some of ``engines`` only."""

    def __init__(self, engines: Mapping[int, Engine]) -> None:
        self._engines = engines
        self.groups: dict[Allowed, Group] = {}  # tasks that only some may run
        self.shunning: dict[frozenset[int], Group] = {}  # that any but some may run
        self._loose: set[Allowed] = set()  # groups with tasks that new engines may run, too

    # -- where a task may run --------------------------------------------------------------

    def allowed(self, task: Task) -> Allowed | None:
        """Return the engines a task is confined to, or None for any."""
        opt = task.work.opt
        named = opt.engines if opt is not None else None
        anywhere = named is None and task.places is None and not task.unmet
        if anywhere and not (task.excluded and self._engines):
            return None
        chosen = self._engines if named is None else named
        may = [e for e in chosen if e in self._engines]
        if task.places is not None:
            may = [e for e in may if e in task.places]
        if task.unmet:
            may = [e for e in may if e not in task.unmet]
        if task.excluded:
            # With nowhere else to go, an engine that failed it before is better than none.
            may = [e for e in may if e not in task.excluded] or may
        return tuple(may)

    def _everywhere(self, shunned: frozenset[int]) -> bool:
        """Whether there is no other engine than these."""
        return sum(engine in self._engines for engine in shunned) == len(self._engines)

    # -- what waits ------------------------------------------------------------------------

    def shuns(self, task: Task) -> bool:
        """Keep a task that may run anywhere but on a few engines; False for any other."""
        shunned = _shunned(task)
        if not shunned or self._everywhere(shunned):
            return False
        self.shunning.setdefault(shunned, Group())[task.key] = task
        return True

    def keep(self, task: Task, allowed: Allowed) -> None:
        """Keep a task for some engines."""
        self.groups.setdefault(allowed, Group())[task.key] = task
        if not _confined(task):
            self._loose.add(allowed)

    def drop(self, key: int) -> bool:
        """Let a task go; False where it does not wait here."""
        for group in (*self.groups.values(), *self.shunning.values()):
            if group.pop(key, None) is not None:
                return True
        return False

    def came(self) -> list[Task]:
        """There is another engine: return, and forget, the tasks that may run there, too."""
        loose, self._loose = self._loose, set()
        return [task for each in loose for task in self.groups.pop(each, Group()).values()]

    def went(self, engine: int) -> list[Task]:
        """An engine has gone: return, and forget, the tasks to which that matters."""
        groups = [self.groups.pop(a) for a in [a for a in self.groups if engine in a]]
        left = [s for s in self.shunning if self._everywhere(s)]
        groups += [self.shunning.pop(s) for s in left]
        return [task for group in groups for task in group.values()]

    # -- giving out ------------------------------------------------------------------------

    def give_shunning(self, policy: Policy, give: Give) -> None:
        """Give tasks to the first engine with room that is not among those they shun."""
        for shunned, group in list(self.shunning.items()):
            aside: list[int] = []
            while group and (chosen := policy.pick()) is not None:
                if chosen in shunned:
                    aside.append(chosen)
                    policy.withdraw(chosen)
                    continue
                give(group.popitem(last=False)[1], self._engines[chosen])
            for number in aside:  # they had room, and nothing has become of it
                policy.offer(number, self._engines[number].load)
            if not group:
                del self.shunning[shunned]

    def give_confined(self, give: Give) -> None:
        """Give tasks to the least loaded of the engines that they are confined to."""
        engines = self._engines
        for allowed, group in list(self.groups.items()):
            while group:
                free = [e for e in (engines[i] for i in allowed if i in engines) if e.has_room]
                if not free:
                    break
                give(group.popitem(last=False)[1], min(free, key=lambda e: e.load))
            if not group:
                del self.groups[allowed]


def refusal(task: Task) -> m.Failure:
    """Say why there is no engine on which a task may run."""
    opt = task.work.opt
    named = opt.engines if opt is not None and opt.engines is not None else "any"
    if task.unmet:
        which = ", ".join(map(str, sorted(task.unmet)[:20]))
        text = f"no engine that it may run on suits it (asked: {which}){_last_word(task)}"
        return m.Failure("ImpossibleDependency", text)
    if task.places is not None:
        text = f"it follows tasks that ran on {task.places}, and none of these is there"
        return m.Failure("ImpossibleDependency", text)
    text = f"none of the engines this task may run on is there: {named}"
    return m.Failure("NoEnginesRegistered", text)


def _shunned(task: Task) -> frozenset[int]:
    """Return the few engines where a task that may run anywhere shall not run."""
    if _confined(task):
        return frozenset()
    return frozenset((*(task.excluded or ()), *(task.unmet or ())))


def _confined(task: Task) -> bool:
    """Whether it is said which engines may run a task."""
    opt = task.work.opt
    return task.places is not None or (opt is not None and opt.engines is not None)


def _last_word(task: Task) -> str:
    """Return why the last engine did not suit a task, in the words of its function."""
    try:
        return f": {_failure.decode(task.word).text}"
    except m.UNDECODABLE:
        return ""
