"""Feeding engines: which of an agent's tasks goes to which engine, and when.

An engine is fed batches: as many tasks as are expected to take :data:`BATCH_SECONDS`
together, by what tasks of the same function took before; a task of unknown length goes
alone.  One more batch may wait in the engine's socket while the first runs, as long as both
are short.  Work for a named engine keeps its order and goes before pooled work; pooled work
goes to whichever engine is free.
"""

from __future__ import annotations

from collections import deque
from math import ceil

import msgspec

from ipclusterz.core import actions as do
from ipclusterz.core import message as m
from ipclusterz.core.functions import Functions
from ipclusterz.core.message import Op

BATCH_SECONDS = 0.005
BATCH_TASKS = 200
BATCH_BYTES = 60 * 1024
LEAST_SECONDS = 0.0002
MANY = 16
"""Where so many engines are idle, one gets at least so many seconds of work: to wake another
takes this process 10 to 20 µs, in which those that are awake do more than it would."""

MOST_A_SECOND = 80_000
"""Tasks that are shorter than that have, where many engines are idle, no more of them awake
than do so many tasks a second, or than :attr:`Feeder.enough`.  More tasks than that do not
come, and who has slept finds its memory in no cache.  16 engines do as many of 0.2 ms."""

PREFETCH_SECONDS = 0.020
"""A second batch waits in the socket only while the first is expected to end this soon."""

RECLAIM_AFTER = 0.020
"""Seconds without an outcome after which a waiting batch is taken back for an idle engine."""

OP_NAMES: dict[int, bytes] = {int(op): op.name.encode() for op in Op}


class Item(msgspec.Struct, eq=False, gc=False):
    """One task in custody."""

    key: int
    attempt: int
    channel: int
    engine: int
    fixed: bool
    work: m.Work
    ready: bool = True  # its function and its body are here


class Engine:
    """One engine and the work on its way to it."""

    __slots__ = (
        "batches",
        "began",
        "expected",
        "flight",
        "functions",
        "id",
        "owes",
        "own",
        "progress",
        "revoked",
        "stopping",
        "up",
    )

    def __init__(self, id: int) -> None:
        self.id = id
        self.own: deque[Item] = deque()  # work that must or should run here, in order
        self.flight: dict[int, Item] = {}  # sent, in order of sending
        self.batches: deque[int] = deque()  # tasks of each datagram that is out
        self.expected = 0.0  # seconds the flight should take
        self.functions: set[bytes] = set()
        self.progress = 0.0  # when it last began or ended something, or was looked after
        self.began = 0.0  # when what it runs began
        self.revoked = False  # told to begin nothing more; gets nothing until it says so
        self.owes = False  # it will say so: what comes after its task was taken from it
        self.up = False
        self.stopping = False

    @property
    def waits(self) -> bool:
        """Whether work that must run here could begin."""
        return bool(self.own) and self.own[0].ready


class Feeder:
    """Engines, the work that waits for them, and the pace of work like it.

    What is to be done collects in ``out``, see :mod:`ipclusterz.core.actions`.
    """

    def __init__(self) -> None:
        self.out: list[do.Action] = []
        self.enough = 4
        """So many engines may always be at work; no fewer than this host has cores."""
        self.engines: dict[int, Engine] = {}
        self.pool: deque[Item] = deque()
        self.functions = Functions()
        self._pace: dict[bytes, float] = {}
        self._idle: dict[int, None] = {}  # an ordered set: the longest idle comes first
        self._roomy: dict[int, None] = {}  # running, with room for one more batch
        self._quick: set[int] = set()  # running, and expected to be done with it soon
        self._touched: set[int] = set()

    def _lack(self, item: Item) -> None:
        """Have a task's function brought, and see that the task goes on then."""
        raise NotImplementedError

    # -- giving ----------------------------------------------------------------------------

    def settle(self, now: float) -> None:
        """Feed every engine that has room and for which there is work."""
        while self._touched:  # an engine that was fed may have room for one more batch
            touched, self._touched = self._touched, set()
            for number in touched:
                engine = self.engines.get(number)
                if engine is not None and self._has_room(engine) and engine.waits:
                    self._feed(engine, now)
        while self.pool and self._idle:
            if self._wanting(self.pool[0]) <= 0:
                break
            # Where many are idle, the one whose memory is the warmest.
            order = iter(self._idle) if len(self._idle) < MANY else reversed(self._idle)
            self._feed(self.engines[next(order)], now)
        while self.pool and self._roomy:
            number = next(iter(self._roomy))
            self._feed(self.engines[number], now)

    def _anywhere(self, item: Item) -> bool:
        """Whether any engine is as good as another: many are idle, and the task is short."""
        if len(self._idle) < MANY:
            return False
        work = item.work
        return 0.0 <= self._pace.get(work.fn or OP_NAMES[work.op], -1.0) < LEAST_SECONDS

    def _wanting(self, item: Item) -> int:
        """How many more engines tasks like this one can do with.

        Each that has something slow makes room for another: where tasks are not what they
        seemed to be, twice as many work on them whenever that is noticed.
        """
        idle = len(self._idle)
        if not self._anywhere(item):
            return idle
        quick = len(self._quick)
        slow = len(self.engines) - idle - quick
        pace = self._pace[item.work.fn or OP_NAMES[item.work.op]]
        return max(self.enough, slow, ceil(pace * MOST_A_SECOND)) - quick

    def _has_room(self, engine: Engine) -> bool:
        return engine.id in self._idle or engine.id in self._roomy

    def _feed(self, engine: Engine, now: float) -> None:
        """Send one batch to an engine that has room."""
        self._idle.pop(engine.id, None)
        self._roomy.pop(engine.id, None)
        own, pool = engine.own, self.pool
        idle = len(self._idle)
        least = LEAST_SECONDS if idle >= MANY else 0.0
        if pool and self._anywhere(pool[0]):
            idle = max(self._wanting(pool[0]) - (not engine.batches), 0)
        share = -(-len(pool) // (1 + idle + len(self._roomy)))
        functions: list[tuple[bytes, bytes]] = []
        works: list[m.Work] = []
        size = 0
        seconds = 0.0
        while len(works) < BATCH_TASKS:
            if own and own[0].ready:
                queue = own
            elif pool and (share > 0 or not works or seconds < least):
                queue = pool
            else:
                break
            item = queue[0]
            work = item.work
            size += 48 + len(work.data)
            pace = self._pace.get(work.fn or OP_NAMES[work.op], -1.0)
            if works and (pace < 0 or size > BATCH_BYTES or seconds + pace > BATCH_SECONDS):
                break
            fn = work.fn
            if fn and fn not in engine.functions:
                function = self.functions.get(fn)
                if function is None:  # evicted since it came; ask for it again
                    item.ready = False
                    self._lack(item)
                    if queue is pool or not item.fixed:  # it comes by the pool again
                        queue.popleft()
                    continue
                size += len(function.data)
                if works and size > BATCH_BYTES:
                    break
                engine.functions.add(fn)
                functions.append((fn, function.data))
            queue.popleft()
            if queue is pool:
                share -= 1
                item.engine = engine.id
            works.append(work)
            engine.flight[item.key] = item
            if pace < 0:
                seconds = PREFETCH_SECONDS * 2  # unknown: nothing beside or behind it
                break
            seconds += pace
            if share > 0 and not own:
                seconds, size, n = self._feed_like(engine, works, seconds, pace, size, share)
                share -= n
        if not works:
            self._place_in_sets(engine)
            return
        if not engine.batches:
            engine.progress = engine.began = now
            engine.expected = 0.0
        engine.expected += seconds
        engine.batches.append(len(works))
        self.out.append((do.BATCH, engine.id, functions, works))
        self._place_in_sets(engine)

    def _feed_like(
        self,
        engine: Engine,
        works: list[m.Work],
        seconds: float,
        pace: float,
        size: int,
        most: int,
    ) -> tuple[float, int, int]:
        """Add pooled tasks that are like the last one; flat, for this is the way of most.

        Returns the batch's seconds and bytes, and how many were added.
        """
        pool, flight, number = self.pool, engine.flight, engine.id
        fn = works[-1].fn
        if fn and fn not in engine.functions:
            return seconds, size, 0
        before = len(works)
        for _ in range(min(most, BATCH_TASKS - before, len(pool))):
            item = pool[0]
            work = item.work
            more = size + 48 + len(work.data)
            if work.fn != fn or more > BATCH_BYTES or seconds + pace > BATCH_SECONDS:
                break
            del pool[0]
            size = more
            seconds += pace
            item.engine = number
            works.append(work)
            flight[item.key] = item
        return seconds, size, len(works) - before

    def _place_in_sets(self, engine: Engine) -> None:
        number = engine.id
        self._idle.pop(number, None)
        self._roomy.pop(number, None)
        self._quick.discard(number)
        if not engine.up or engine.stopping:
            return
        if not engine.flight and not engine.owes:
            # Its batch was at its end when it was revoked; should it see the order only in
            # the next one, it gives that back, which costs a moment and harms nothing.
            engine.revoked = False
        if engine.revoked:
            return
        if not engine.batches:
            self._idle[number] = None
        elif engine.expected <= PREFETCH_SECONDS:
            self._quick.add(number)
            if len(engine.batches) > 1:
                return
            self._roomy[number] = None
        else:
            return
        if engine.waits:
            self._touched.add(number)

    # -- pace ------------------------------------------------------------------------------

    def _learn_all(self, items: list[Item], seconds: list[float]) -> None:
        """Note how long tasks took; of like ones that are quick the mean says enough."""
        n = len(items)
        fn = items[0].work.fn
        pace = self._pace.get(fn, -1.0)
        quick = pace >= 0 and (max(seconds) <= 2 * pace or sum(seconds) <= PREFETCH_SECONDS)
        if quick and len({item.work.fn for item in items}) == 1:
            mean = sum(seconds) / n
            self._pace[fn] = mean + (pace - mean) * 0.875**n
            return
        for item, each in zip(items, seconds, strict=True):
            self._learn(item.work, each)

    def _learn(self, work: m.Work, seconds: float) -> None:
        """Note how long a task took, for those that are like it."""
        name = work.fn or OP_NAMES[work.op]
        pace = self._pace.get(name)
        if pace is None:
            if len(self._pace) > 10_000:
                self._pace.clear()
            self._pace[name] = max(seconds, 1e-6)
        else:
            # A long one counts at once, short ones wear it off.
            self._pace[name] = seconds if seconds > 2 * pace else pace + (seconds - pace) / 8

    # -- taking back -----------------------------------------------------------------------

    def _take_back(self, engine: Engine) -> None:
        """Begin to take back whatever an engine has not begun."""
        if len(engine.batches) > 1:
            self.out.append((do.RECLAIM, engine.id, None))
        if engine.batches and engine.batches[0] > 1 and not engine.revoked:
            engine.revoked = True
            self._roomy.pop(engine.id, None)
            self._quick.discard(engine.id)
            self.out.append((do.REVOKE, engine.id, None))

    def _shorten(self, engine: Engine) -> None:
        """After tasks were taken back, only one batch of what is left is out."""
        batches = engine.batches
        while len(batches) > 1:
            batches.pop()
        if batches:
            batches[0] = len(engine.flight)
        if not engine.flight:
            batches.clear()
        engine.expected = PREFETCH_SECONDS * 2  # it is slow: nothing behind it for now
        self._place_in_sets(engine)

    def _note_slow(self, now: float) -> None:
        """Engines that were expected to be done by now are slow until they say something."""
        for number in list(self._quick):
            engine = self.engines[number]
            if now - engine.began >= RECLAIM_AFTER:
                engine.expected = PREFETCH_SECONDS * 2
                self._place_in_sets(engine)

    def _stuck(self, now: float) -> list[Engine]:
        return [e for e in self._waiting() if now - e.progress >= RECLAIM_AFTER]

    def _waiting(self) -> list[Engine]:
        """Engines behind whose running task pooled work waits."""
        busy = [self.engines[number] for number in self.engines.keys() - self._idle.keys()]
        return [
            e
            for e in busy
            if len(e.flight) > 1
            and not e.revoked
            and any(not i.fixed for i in e.flight.values())
        ]
