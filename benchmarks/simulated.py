"""What is measured without a cluster: the cores of ipclusterz, under a clock of our own.

:func:`schedule` runs long and short tasks through the client's ledger, the task scheduler's
balancer and the agents' custody on simulated engines (the simulator of the tests); every run
of a seed is the same.  :class:`Decider` drives the task scheduler's core alone, with engines
that answer at once, and measures what it costs.

May know the cores and the simulator of the tests; opens no socket and waits for nothing.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ipclusterz.core import message as m
from ipclusterz.core.balance import Balancer
from tests.core.simulator import World

AGENT_ENGINES = 16
DELAY = 0.0002
"""Seconds that a message takes in the mixed row, about what it takes on a local network."""

FOR_EVER = 1e9

# -- long and short tasks --------------------------------------------------------------------


@dataclass
class Schedule:
    """How long it took, what was the least possible, and how engines idled meanwhile.

    ``bound`` is max(all work / engines, longest task), which no schedule can beat; ``greedy``
    the makespan of giving each task, in the order of submission, to the first free engine at
    no cost.  ``idle`` is the longest time in which an engine did nothing although a task that
    had been submitted had not begun; ``wasted`` the share of all engines' time that this was.
    """

    makespan: float
    bound: float
    greedy: float
    idle: float
    wasted: float


def schedule(lengths: list[float], engines: int, *, warm: int = 0, seed: int = 1) -> Schedule:
    """Run tasks of ``lengths`` (seconds), all submitted at once, in this order.

    ``warm`` short tasks run before, so that the scheduler thinks that all tasks are short.
    """
    world = World(seed, delay=DELAY)
    client = world.add_client()
    for first in range(0, engines, AGENT_ENGINES):
        world.add_agent(min(AGENT_ENGINES, engines - first))
    world.run(30.0, lambda: len(client.engines) == engines and len(client.pipes) == 3)
    for _ in range(warm):
        client.submit_lasting(0.001)
    world.run(FOR_EVER, client.done)
    client.outcomes.clear()
    begun = world.now
    for seconds in lengths:
        client.submit_lasting(seconds)
    world.run(FOR_EVER, client.done)
    results = [ends[0] for ends in client.outcomes.values()]
    if len(results) != len(lengths) or any(result.status for result in results):
        raise ValueError(f"{len(results)} of {len(lengths)} simulated tasks ended well")
    makespan = max(result.finished for result in results) - begun
    gaps = list(_gaps(results, begun, engines))
    return Schedule(
        makespan,
        max(sum(lengths) / engines, max(lengths)),
        greedy(lengths, engines),
        max(gaps, default=0.0),
        sum(gaps) / (makespan * engines),
    )


def _gaps(results: Iterable[m.Result], begun: float, engines: int) -> Iterator[float]:
    """The times in which an engine did nothing, until the last task began anywhere."""
    results = list(results)
    last = max(result.started for result in results)
    busy: dict[int, list[tuple[float, float]]] = {}
    for result in results:
        busy.setdefault(result.engine, []).append((result.started, result.finished))
    for number in range(engines):
        times = [(begun, begun), *sorted(busy.get(number, [])), (last, last)]
        for (_, ended), (started, _) in pairwise(times):
            if min(started, last) > ended:
                yield min(started, last) - ended


def greedy(lengths: Iterable[float], engines: int) -> float:
    """The makespan when each task in turn goes to the engine that is free first."""
    free = [0.0] * engines
    for seconds in lengths:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def mixtures(long: int, short: int, seed: int = 1) -> dict[str, list[float]]:
    """10 s among 1 ms in three orders; the names say which."""
    shuffled = [10.0] * long + [0.001] * short
    random.Random(seed).shuffle(shuffled)
    return {
        "shuffled": shuffled,
        "long ones first": sorted(shuffled, reverse=True),
        "long ones last": sorted(shuffled),
    }


# -- decisions -------------------------------------------------------------------------------

CLIENT = b"client"
_OWN_ENGINES = 100


class Decider:
    """A task scheduler's core with ``engines`` engines, 100 an agent, that end work at once."""

    def __init__(self, engines: int, scheme: str = "leastload") -> None:
        self.core = Balancer(scheme=scheme)
        self.engines = engines
        self.now = 1.0
        self._next = 0
        self._failing: set[int] = set()
        self.core.admit(CLIENT, m.Role.CLIENT, 1)
        for first in range(0, engines, _OWN_ENGINES):
            peer = b"agent %d" % first
            self.core.admit(peer, m.Role.ENGINE, 0)
            self.core.join(peer, range(first, min(engines, first + _OWN_ENGINES)), self.now)

    def run(self, tasks: int) -> float:
        """Put tasks through, twice as many at a time as there are engines.

        Returns the processor seconds of the core alone: making messages does not count.
        """
        return sum(self.wave(min(tasks - done, self.wide)) for done in self._waves(tasks))

    @property
    def wide(self) -> int:
        """How many tasks are under way at once."""
        return 2 * self.engines

    def _waves(self, tasks: int) -> range:
        return range(0, tasks, self.wide)

    def wave(self, tasks: int, failing: bool = False) -> float:
        """Submit so many at once, end what is given out until all are done; seconds.

        ``failing``: each fails at its first try and is tried once more elsewhere.
        """
        first, self._next = self._next, self._next + tasks
        keys = [m.make_key(1, counter) for counter in range(first, first + tasks)]
        self._failing = set(keys) if failing else set()
        op, opt = int(m.Op.APPLY), m.Options(retries=1)
        sent: list[Any] = [m.Submit(key, op, b"", b"", None, opt) for key in keys]
        if not failing:  # as a client sends like tasks
            parts = range(0, tasks, m.RUN)
            sent = [
                m.Run(keys[at], op, b"", [b""] * len(keys[at : at + m.RUN])) for at in parts
            ]
        spent = self._handle(CLIENT, sent)
        done = 0
        while self.core.out:
            answers: dict[bytes, list[Any]] = {}
            received: list[int] = []
            out, self.core.out = self.core.out, defaultdict(list)
            for peer, messages in out.items():
                for message in messages:
                    if isinstance(message, m.Assign):
                        answers.setdefault(peer, []).append(self._end(message))
                    elif isinstance(message, m.Share):
                        answers.setdefault(peer, []).append(self._end_all(message))
                    elif isinstance(message, m.Result):
                        received.append(message.key)
                    elif isinstance(message, m.Results):
                        received.extend(message.keys)
            done += len(received)
            for peer, results in answers.items():
                spent += self._handle(peer, results)
            if received:
                spent += self._handle(CLIENT, [m.Received(received)])
        if done != tasks:
            raise ValueError(f"{done} of {tasks} tasks ended")
        return spent

    def tick(self) -> float:
        """Processor seconds of one tick with nothing to do."""
        self.now += 0.1
        began = time.process_time()
        self.core.tick(self.now)
        return time.process_time() - began

    def _handle(self, peer: bytes, messages: list[Any]) -> float:
        began = time.process_time()
        self.core.handle(peer, messages, self.now)
        return time.process_time() - began

    def _end_all(self, share: m.Share) -> m.Results:
        now, n = self.now, len(share.data)
        keys = list(range(share.key, share.key + n))
        began, over = [now] * n, [now + 0.001] * n
        return m.Results(keys, share.attempt, share.engine, [b""] * n, began, over)

    def _end(self, a: m.Assign) -> m.Result:
        now = self.now
        status = int(m.Status.ERROR if a.key in self._failing else m.Status.OK)
        self._failing.discard(a.key)
        return m.Result(a.key, a.attempt, a.engine, status, b"", None, now, now + 0.001, 0)
