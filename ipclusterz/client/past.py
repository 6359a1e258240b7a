"""What a client or a view has sent: history, and results and facts by msg_id.

Nothing is kept for it but ranges of numbers: tasks are counted upwards, so that what was
sent through one view is a few ranges, however many tasks that is.  Results of the past are
the hub's to remember (see :mod:`ipclusterz.client.remembered`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, overload

from ipclusterz.client import remembered
from ipclusterz.client.session import COUNTER, keys_of
from ipclusterz.error import TaskNotFound

if TYPE_CHECKING:
    from ipclusterz.client.outcome import Metadata
    from ipclusterz.client.session import Session

RUNS = 100_000
"""Ranges that are remembered of one view; the oldest go first."""

FRESH = 4096
"""Keys that are made into ranges together."""


class Past:
    """The keys of tasks sent through one view, as ranges; any thread may add some.

    ``fresh`` takes keys as they come: whoever sends a million tasks may append to it, and
    call :meth:`fold` when it has :data:`FRESH` of them.
    """

    __slots__ = ("_first", "_lock", "_next", "_runs", "fresh")

    def __init__(self) -> None:
        self.fresh: list[int] = []
        self._runs: deque[range] = deque(maxlen=RUNS)
        self._first = self._next = 0  # the last range, which grows
        self._lock = Lock()

    def add(self, key: int, n: int = 1) -> None:
        """Take note of ``n`` tasks with keys in a row."""
        self.fresh.extend(range(key, key + n))
        if len(self.fresh) >= FRESH:
            self.fold()

    def fold(self) -> None:
        """Make ranges of the fresh keys."""
        with self._lock:
            count = len(self.fresh)  # others may append meanwhile
            part = sorted(self.fresh[:count])
            del self.fresh[:count]
            for key in part:
                if key != self._next:
                    if self._next:
                        self._runs.append(range(self._first, self._next))
                    self._first = key
                self._next = key + 1

    def ranges(self) -> list[range]:
        """Return the ranges, in the order of sending."""
        self.fold()
        with self._lock:
            last = [range(self._first, self._next)] if self._next else []
            return [*self._runs, *last]


class History(Sequence[str]):
    """The msg_ids of tasks, in the order of sending; as a list, but made when asked for."""

    def __init__(self, msg_id: Callable[[int], str], ranges: Iterable[range]) -> None:
        self._msg_id = msg_id
        self._ranges = [one for one in ranges if one]
        self._ends: list[int] = []
        total = 0
        for one in self._ranges:
            total += len(one)
            self._ends.append(total)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        places = range(len(self))[index]
        if isinstance(places, range):
            return [self._at(place) for place in places]
        return self._at(places)

    def _at(self, place: int) -> str:
        which = bisect_right(self._ends, place)
        one = self._ranges[which]
        return self._msg_id(one[place - self._ends[which] + len(one)])

    def __iter__(self) -> Iterator[str]:
        for one in self._ranges:
            yield from map(self._msg_id, one)

    def __contains__(self, name: object) -> bool:
        number = name.rpartition("_")[2] if isinstance(name, str) else ""
        if not number.isdigit():
            return False
        for one in self._ranges:
            key = one.start - (one.start & COUNTER) + int(number)
            if key in one and self._msg_id(key) == name:
                return True
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self)) if len(self) <= 20 else f"<History of {len(self)} tasks>"


class _ByTask(Mapping[str, Any]):
    """Something about each finished task of a history, by msg_id; asked of the hub."""

    def __init__(self, session: Session, history: History) -> None:
        self._session = session
        self._history = history

    def _open(self) -> set[str]:
        msg_id = self._session.msg_id
        return {msg_id(key) for key in keys_of(self._session.live)}

    def _check(self, name: str) -> None:
        if not isinstance(name, str) or name not in self:
            raise TaskNotFound(f"{name!r} is no finished task of this client: see history")

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[str]:
        under_way = self._open()
        return (name for name in self._history if name not in under_way)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._history and name not in self._open()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} tasks>"


class Results(_ByTask):
    """The values of finished tasks by msg_id, an exception in place of what failed.

    Asked of the hub: as good as its task database (KernelError without one; ResultNotKept,
    a KeyError, in place of what was not kept).
    """

    def __getitem__(self, name: str) -> Any:
        self._check(name)
        return remembered.get_result(self._session, name).get(return_exceptions=True)


class TaskFacts(_ByTask):
    """The facts about a client's tasks by msg_id, each as an AsyncResult's ``metadata``."""

    def __getitem__(self, name: str) -> Metadata:
        if name not in self._history:
            raise TaskNotFound(f"{name!r} is no task of this client: see history")
        for sink in self._session.live.copy():
            names = getattr(sink, "msg_ids", ())
            if name in names:
                facts: Metadata = sink._records()[list(names).index(name)]  # type: ignore[attr-defined]
                return facts
        result = remembered.get_result(self._session, name)
        result.wait(remembered.ANSWER)
        found: Metadata = result.metadata
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._history)

    def __contains__(self, name: object) -> bool:
        return name in self._history


class Books:
    """Mixin of :class:`ipclusterz.Client`: what it has sent."""

    session: Session

    @property
    def history(self) -> History:
        """The msg_ids of all tasks this client sent, in order."""
        return History(self.session.msg_id, self.session.connection.task_ranges())

    @property
    def results(self) -> Results:
        """The values of finished tasks by msg_id: see :class:`Results`."""
        return Results(self.session, self.history)

    @property
    def metadata(self) -> TaskFacts:
        """The facts about tasks by msg_id, also of those that are under way."""
        return TaskFacts(self.session, self.history)

    @property
    def outstanding(self) -> set[str]:
        """The msg_ids of tasks whose results are not in."""
        msg_id = self.session.msg_id
        return {msg_id(key) for key in keys_of(self.session.live)}

    # ipyparallel's clients must be told to read; ours read by themselves.

    def spin(self) -> None:
        """Do nothing, since results come in by themselves; kept for compatibility."""

    def spin_thread(self, interval: float = 1) -> None:
        """Do nothing: see :meth:`spin`."""

    def stop_spin_thread(self) -> None:
        """Do nothing: see :meth:`spin`."""
