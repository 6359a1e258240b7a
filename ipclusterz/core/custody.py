"""The agent's custody: tasks its engines have not begun, run, or finished without an answer.

Which engine gets what, and when, is decided in :mod:`ipclusterz.core.feeding`.  When an engine
dies, what it was running is over, what it had not begun is not: pooled tasks go back, and only
work that named this very engine fails.

What the shell is to do collects in ``out``, see :mod:`ipclusterz.core.actions`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import groupby, repeat
from operator import sub
from typing import Any

import msgspec

from ipclusterz.core import actions as do
from ipclusterz.core import message as m
from ipclusterz.core.feeding import (
    OP_NAMES,
    RECLAIM_AFTER,
    Engine,
    Feeder,
    Item,
)
from ipclusterz.core.message import Channel, Op, Status
from ipclusterz.core.naming import function_name

RECALL_ANSWER = 0.050
"""Seconds after which a recall is answered with what there is, whatever engines do."""

LAST_SIGNAL = 64
"""Of Linux; other systems have fewer."""

ROLL_PART = 50_000
"""Tasks named in one message of a roll call: a message must fit a frame."""

_keys = msgspec.msgpack.Decoder(list[int] | None)
_cancel = msgspec.msgpack.Decoder(tuple[list[int], bool])
_failure = msgspec.msgpack.Decoder(m.Failure)
_number = msgspec.msgpack.Decoder(int)


class _Copy:
    """A body that was brought here, and the tasks that use it."""

    __slots__ = ("body", "users")

    def __init__(self, body: m.Body) -> None:
        self.body = body
        self.users: set[int] = set()


class Custody(Feeder):
    """Decides what each engine of one agent runs next; ``lease`` is in seconds."""

    def __init__(self, lease: float = 600.0) -> None:
        super().__init__()
        self.items: dict[int, Item] = {}
        self.finished: dict[int, tuple[int, m.Result | m.Results]] = {}
        self.printed: dict[int, int] = {}
        self.ended: list[int] = []
        self.lease = lease
        self.is_here: Callable[[m.Body], bool] = lambda body: True
        self.observe: Callable[[int], dict[str, Any]] = lambda engine: {}
        self._fetching: dict[bytes, list[Item]] = {}  # body -> tasks that wait for it
        self._copies: dict[bytes, _Copy] = {}  # bodies brought here from another host
        self._lacking: dict[bytes, list[Item]] = {}
        self._withdrawn: set[int] = set()
        self._unwanted: set[int] = set()  # running, and to be ended
        self._recall: tuple[int, int, float] | None = None  # channel, how many, since when
        self._alone_since: float | None = None
        self._draining = False

    # -- engines come ----------------------------------------------------------------------

    def engine_up(self, engine: int, now: float) -> None:
        """An engine is ready for work."""
        made = self.engines.setdefault(engine, Engine(engine))
        made.up = True
        made.progress = now
        self._idle[engine] = None
        self._touched.add(engine)
        if self._draining:
            self._stop(made)
        self.settle(now)

    # -- from the schedulers ---------------------------------------------------------------

    def handle(self, channel: int, messages: Iterable[Any], now: float) -> None:
        """Act on messages of a scheduler."""
        for kind, run in groupby(messages, type):
            for message in run:
                if kind is m.Share:
                    self._share(channel, message)
                elif kind is m.Received:
                    self._received(message.keys)
                else:
                    self._rare(channel, message, now)
        self.settle(now)

    def _rare(self, channel: int, message: Any, now: float) -> None:
        if isinstance(message, m.Assign):
            a = message
            work = m.Work(a.key, a.op, a.fn, a.data, a.body)
            self._accept(Item(a.key, a.attempt, channel, a.engine, a.fixed, work))
        elif isinstance(message, m.Fan):
            if channel == Channel.CONTROL:
                for key, engine in zip(message.keys, message.engines, strict=False):
                    self._control(key, message.attempt, engine, message, now)
            else:
                self._fan(channel, message)
        elif isinstance(message, m.Function):
            self.functions.add(message)
            self._completed(self._lacking.pop(message.digest, ()))
        elif isinstance(message, m.Withdraw):
            self._withdraw(message.keys, now)
        elif isinstance(message, m.Recall):
            self._give_back(channel, message.n, now)
        else:
            self.out.append((do.PIECE, channel, message))

    def _share(self, channel: int, share: m.Share) -> None:
        """Take in like tasks, all at once: this is the way of nearly all."""
        data, fn = share.data, share.fn
        keys = range(share.key, share.key + len(data))
        works = map(m.Work, keys, repeat(share.op), repeat(fn), data)
        attempt, number = repeat(share.attempt), share.engine
        items = list(map(Item, keys, attempt, repeat(channel), repeat(number), _FALSE, works))
        engine = self.engines.get(number)
        if fn not in self.functions or engine is None or engine.stopping:
            for item in items:
                self._accept(item)
            return
        self.items.update(zip(keys, items, strict=True))
        if number in self._idle and items and not self._anywhere(items[0]):
            self._queue(items.pop(0))
        self.pool.extend(items)

    def _fan(self, channel: int, fan: m.Fan) -> None:
        for key, engine in zip(fan.keys, fan.engines, strict=False):
            work = m.Work(key, fan.op, fan.fn, fan.data, fan.body)
            self._accept(Item(key, fan.attempt, channel, engine, True, work))

    def _accept(self, item: Item) -> None:
        self.items[item.key] = item
        item.ready = self._complete(item)
        if item.ready or item.fixed:
            self._queue(item)

    def _complete(self, item: Item) -> bool:
        """Say whether a task's function and body are here; have them brought if not."""
        fn = item.work.fn
        if fn and fn not in self.functions:
            self._lack(item)
            return False
        body = item.work.body
        return body is None or self.is_here(body) or self._bring(item, body)

    def _lack(self, item: Item) -> None:
        lacking = self._lacking.setdefault(item.work.fn, [])
        # Each scheduler is asked for what it sent: another one may not have it.
        if all(other.channel != item.channel for other in lacking):
            self.out.append((do.SEND, item.channel, m.NeedFunction(item.work.fn)))
        lacking.append(item)

    def _completed(self, items: Iterable[Item]) -> None:
        """Something that these tasks waited for has come."""
        for item in items:
            if self.items.get(item.key) is not item or not self._complete(item):
                continue
            item.ready = True
            if item.fixed:  # it has kept its place in its engine's queue
                self._touched.add(item.engine)
            else:
                self._queue(item)

    def _queue(self, item: Item) -> None:
        engine = self.engines.get(item.engine)
        if engine is None or engine.stopping:
            if item.fixed or not self.engines or self._draining:
                self._turn_away(item)
            else:
                self.pool.append(item)
            return
        here = item.engine in self._idle and not engine.own
        if item.fixed or (here and not self._anywhere(item)):
            engine.own.append(item)
            self._touched.add(item.engine)
        else:
            self.pool.append(item)

    def _bring(self, item: Item, body: m.Body) -> bool:
        """See to it that a body of another host comes here once; True when it has."""
        copy = self._copies.get(body.id)
        if copy is not None:
            copy.users.add(item.key)
            item.work.body = copy.body
            return True
        if body.id not in self._fetching:
            self._fetching[body.id] = []
            self.out.append((do.FETCH, item.channel, item.key, body))
        self._fetching[body.id].append(item)
        return False

    def fetched(self, id: bytes, body: m.Body | None, problem: str, now: float) -> None:
        """A body of another host is here as ``body``, or cannot be had."""
        waiting = self._fetching.pop(id, [])
        if body is None:
            for item in waiting:
                if self.items.get(item.key) is item:
                    self._unqueue(item, self.engines.get(item.engine))
                    text = f"its arguments could not be fetched: {problem}"
                    failure = m.Failure("SerializationError", text, engine=item.engine)
                    self._fail(item, Status.ERROR, failure)
        else:
            self._copies[id] = _Copy(body)
            self._completed(waiting)
            self._let_go(id)
        self.settle(now)

    def _let_go(self, id: bytes) -> None:
        """Drop a copy that no task needs any more."""
        copy = self._copies.get(id)
        if copy is not None and not copy.users:
            del self._copies[id]
            self.out.append((do.DROP, copy.body, None))

    def _forget(self, item: Item) -> None:
        """A task leaves our custody."""
        self.items.pop(item.key, None)
        if self._withdrawn or self._unwanted:
            self._withdrawn.discard(item.key)
            self._unwanted.discard(item.key)
        if self._copies:
            for id, copy in list(self._copies.items()):
                if item.key in copy.users:
                    copy.users.discard(item.key)
                    self._let_go(id)

    def _turn_away(self, item: Item) -> None:
        """Give a task back whose engine is not here (any more)."""
        self._forget(item)
        if item.engine not in self.engines:
            # Whoever sent this has not heard, or has forgotten.
            self.out.append((do.SEND, item.channel, m.Down(item.engine, "it has ended")))
        reason = f"engine {item.engine} ended before this task began"
        returned = m.Returned([(item.key, item.attempt)], item.engine, reason)
        self.out.append((do.SEND, item.channel, returned))

    def _received(self, keys: list[int]) -> None:
        pop = self.finished.pop
        for key in keys:
            kept = pop(key, None)
            if kept is not None and kept[1].body is not None:
                self.out.append((do.DROP, kept[1].body, None))

    # -- outcomes --------------------------------------------------------------------------

    def outcomes(self, number: int, outcomes: list[m.Outcome], now: float) -> None:
        """An engine has ended these tasks."""
        engine = self.engines.get(number)
        if engine is None:
            return
        engine.progress = engine.began = now
        flight = engine.flight
        take = flight.pop
        rare = bool(self._copies or self._withdrawn or self._unwanted or self.printed)
        # Those that ended well and are like each other are told of together.
        like = (-1, -1, -1)
        items: list[Item] = []
        ended: list[m.Outcome] = []
        done = 0
        for outcome in outcomes:
            item = take(outcome.key, None)
            if item is None:  # told before, from the page
                continue
            done += 1
            if rare or outcome.status or outcome.body or len(outcome.data) > m.SMALL:
                self._learn(item.work, outcome.finished - outcome.started)
                self._conclude(item, number, outcome)
                continue
            this = (item.attempt, item.channel, item.key >> m.COUNTER_BITS)
            if this != like:
                if items:
                    self._end_well(number, items, ended)
                like, items, ended = this, [], []
            items.append(item)
            ended.append(outcome)
        if items:
            self._end_well(number, items, ended)
        batches = engine.batches
        while done and batches:
            if batches[0] <= done:
                done -= batches.popleft()
            else:
                batches[0] -= done
                done = 0
        if not flight:
            batches.clear()
        if len(batches) <= 1:
            engine.expected = sum(
                self._pace.get(i.work.fn or OP_NAMES[i.work.op], 1.0) for i in flight.values()
            )
        self._place_in_sets(engine)
        if engine.stopping and not flight:
            self.out.append((do.STOP, number, None))

    def _end_well(self, number: int, items: list[Item], ended: list[m.Outcome]) -> None:
        """Keep and tell the results of like tasks that are over, all at once."""
        attempt, channel = items[0].attempt, items[0].channel
        keys = [o.key for o in ended]
        began = [o.started for o in ended]
        over = [o.finished for o in ended]
        self._learn_all(items, list(map(sub, over, began)))
        results: m.Result | m.Results
        if len(keys) == 1:
            (one,) = ended
            begun, end = one.started, one.finished
            results = m.Result(keys[0], attempt, number, 0, one.data, None, begun, end, 0)
        else:
            data = [o.data for o in ended]
            results = m.Results(keys, attempt, number, data, began, over)
        deque(map(self.items.pop, keys), 0)
        self.finished.update(dict.fromkeys(keys, (channel, results)))
        self.out.append((do.SEND, channel, results))

    def _conclude(self, item: Item, number: int, outcome: m.Outcome) -> None:
        if self._unwanted and item.key in self._unwanted and _interrupted(outcome):
            self._cancelled(item, number, "it was interrupted")
            return
        self._answer(
            item,
            number,
            outcome.status,
            outcome.data,
            outcome.body,
            outcome.started,
            outcome.finished,
        )

    def _answer(
        self,
        item: Item,
        number: int,
        status: int,
        data: bytes,
        body: m.Body | None = None,
        started: float = 0.0,
        finished: float = 0.0,
    ) -> None:
        key = item.key
        self._forget(item)
        out = self.printed.pop(key, 0) if self.printed else 0
        result = m.Result(key, item.attempt, number, status, data, body, started, finished, out)
        self.finished[key] = (item.channel, result)
        self.out.append((do.SEND, item.channel, result))

    def _cancelled(self, item: Item, number: int, how: str) -> None:
        text = f"cancelled while it ran: {how}"
        self._fail(item, Status.ABORTED, m.Failure("TaskAborted", text, engine=number))

    def _fail(self, item: Item, status: int, failure: m.Failure) -> None:
        self._answer(item, failure.engine, status, m.encode(failure))

    def undone(self, number: int, missing: list[bytes], undone: list[int], now: float) -> None:
        """An engine gives tasks back: it lacks their functions, or may begin no more."""
        engine = self.engines.get(number)
        if engine is None:
            return
        engine.revoked = engine.owes = False
        engine.functions.difference_update(missing)
        self._take(engine, [key for key in undone if key in engine.flight], keep=bool(missing))
        if not engine.flight:
            engine.batches.clear()
        self._place_in_sets(engine)
        if engine.stopping and not engine.flight:
            self._stop(engine)  # and what came back to it goes elsewhere
        self._finish_recall()
        self.settle(now)

    def _take(self, engine: Engine, keys: list[int], keep: bool = False) -> None:
        """Put tasks that an engine has not begun back to where they came from."""
        pooled: list[Item] = []
        own: list[Item] = []
        for key in keys:
            item = engine.flight.pop(key)
            if key in self._withdrawn:
                self._abort(item, engine.id)
            elif item.fixed or keep:
                own.append(item)
            else:
                pooled.append(item)
        engine.own.extendleft(reversed(own))
        self.pool.extendleft(reversed(pooled))

    # -- an engine dies --------------------------------------------------------------------

    def died(self, number: int, reason: str, running: int, now: float) -> None:
        """An engine is gone; ``running`` is the key of the task it was in (0: none).

        Outcomes that it had committed must have been told before.
        """
        engine = self.engines.pop(number, None)
        if engine is None:
            return
        self.ended.append(number)
        self._idle.pop(number, None)
        self._roomy.pop(number, None)
        self._quick.discard(number)
        item = engine.flight.pop(running, None)
        if item is not None and item.key in self._unwanted:
            self._cancelled(item, number, "its engine was killed")
        elif item is not None:
            text = f"engine {number} died while it ran this task: {reason}"
            self._fail(item, Status.DIED, m.Failure("EngineError", text, engine=number))
        unbegun = list(engine.flight.values()) + list(engine.own)
        self._disown(number, unbegun, reason)
        for channel in (Channel.TASK, Channel.DIRECT, Channel.CONTROL):
            self.out.append((do.SEND, channel, m.Down(number, reason)))
        if not self.engines:
            pooled, self.pool = self.pool, deque()
            self._disown(number, list(pooled), reason)
        self.settle(now)

    def _disown(self, number: int, unbegun: list[Item], reason: str) -> None:
        by_channel: dict[int, list[tuple[int, int]]] = {}
        for item in unbegun:
            if item.key in self._withdrawn:
                self._abort(item, number)
                continue
            self._forget(item)
            by_channel.setdefault(item.channel, []).append((item.key, item.attempt))
        text = f"engine {number} ended before this task began: {reason}"
        for channel, tasks in by_channel.items():
            self.out.append((do.SEND, channel, m.Returned(tasks, number, text)))

    # -- taking back -----------------------------------------------------------------------

    def reclaimed(
        self, number: int, keys: list[int], functions: list[bytes], now: float
    ) -> None:
        """These tasks of an engine were still unread in its socket and are ours again.

        So are ``functions`` that were on their way to it.
        """
        engine = self.engines.get(number)
        if engine is None:
            return
        engine.functions.difference_update(functions)
        self._take(engine, [key for key in keys if key in engine.flight])
        if keys:
            self._shorten(engine)
        self._finish_recall()
        self.settle(now)

    def revoked(self, number: int, running: int, now: float) -> None:
        """An engine that was told to begin nothing more runs ``running``.

        Tasks after that one are ours again, though the engine has read them.  The caller has
        given it time: it looks at the order after it has noted each task it begins.
        """
        engine = self.engines.get(number)
        if engine is None or not engine.revoked or running not in engine.flight:
            return
        work = engine.flight[running].work
        name = work.fn or OP_NAMES[work.op]
        self._pace[name] = max(self._pace.get(name, 0.0), RECLAIM_AFTER)  # so long already
        keys = list(engine.flight)
        later = keys[keys.index(running) + 1 :]
        self._take(engine, later)
        # It will name these when it sees the order, which may come after the outcome of what
        # it runs.  One that it was given anew in between would then be taken, and run, twice.
        engine.owes = engine.owes or bool(later)
        self._shorten(engine)
        self._finish_recall()
        self.settle(now)

    def _give_back(self, channel: int, n: int, now: float) -> None:
        self._recall = (channel, n, now)
        waiting = self._waiting()
        if len(self.pool) < n and waiting:
            for engine in waiting:
                self._take_back(engine)
        else:
            self._finish_recall()

    def _finish_recall(self) -> None:
        if self._recall is None:
            return
        (channel, n, _), self._recall = self._recall, None
        back: list[tuple[int, int]] = []
        kept: list[Item] = []
        while self.pool and len(back) < n:
            item = self.pool.pop()
            if item.channel == channel:
                self._forget(item)
                back.append((item.key, item.attempt))
            else:
                kept.append(item)
        self.pool.extend(reversed(kept))
        back.reverse()
        self.out.append((do.SEND, channel, m.Returned(back, -1, "given back as asked")))

    def _withdraw(self, keys: Iterable[int], now: float) -> None:
        """Abort what has not begun; what is unread in a socket is taken back first."""
        unread: set[int] = set()
        for key in keys:
            item = self.items.get(key)
            if item is None:
                continue
            engine = self.engines.get(item.engine)
            if engine is not None and key in engine.flight:
                self._withdrawn.add(key)
                unread.add(item.engine)
            elif self._unqueue(item, engine):
                self._abort(item, item.engine)
        for number in unread:
            self._take_back(self.engines[number])

    def _unqueue(self, item: Item, engine: Engine | None) -> bool:
        """Take a task out of whatever it waits in; False when it waits nowhere."""
        body = item.work.body
        fetching = self._fetching.get(body.id, []) if body is not None else []
        own = engine.own if engine is not None else deque()
        found = False
        for queue in (self.pool, own, self._lacking.get(item.work.fn, []), fetching):
            if item in queue:
                queue.remove(item)
                found = True
        return found

    def _abort(self, item: Item, number: int) -> None:
        text = "cancelled before it began"
        self._fail(item, Status.ABORTED, m.Failure("TaskAborted", text, engine=number))

    # -- control ---------------------------------------------------------------------------

    def _control(self, key: int, attempt: int, number: int, fan: m.Fan, now: float) -> None:
        work = m.Work(key, fan.op, b"", b"")
        item = Item(key, attempt, int(Channel.CONTROL), number, True, work)
        engine = self.engines.get(number)
        if engine is None:
            text = f"engine {number} is not here (any more)"
            self._fail(item, Status.REFUSED, m.Failure("EngineError", text, engine=number))
            return
        try:
            answer = self._act(engine, fan, now)
        except (ValueError, *m.UNDECODABLE) as error:
            text = f"control request {fan.op} makes no sense: {error}"
            self._fail(item, Status.REFUSED, m.Failure("KernelError", text, engine=number))
            return
        self._answer(item, number, Status.OK, m.encode(answer))

    def _act(self, engine: Engine, fan: m.Fan, now: float) -> Any:
        number = engine.id
        if fan.op == Op.INTERRUPT:
            wanted = set(_keys.decode(fan.data) or () if fan.data else ())
            running = next((k for k in engine.flight if not wanted or k in wanted), 0)
            if running:
                self.out.append((do.INTERRUPT, number, 0 if not wanted else running))
            return bool(running)
        if fan.op == Op.CANCEL:
            return self._end_running(engine, *_cancel.decode(fan.data))
        if fan.op == Op.ABORT:
            keys = _keys.decode(fan.data) if fan.data else None
            self._withdraw(keys or self._keys_of(engine), now)
        elif fan.op == Op.SIGNAL:
            sent = _number.decode(fan.data)
            if not 0 <= sent <= LAST_SIGNAL:
                raise ValueError(f"there is no signal {sent}")
            self.out.append((do.SIGNAL, number, sent))
        elif fan.op == Op.STOP:
            self._stop(engine)
        elif fan.op == Op.INSPECT:
            return self.inspect(number, now)
        else:
            raise ValueError("it is not known")
        return None

    def _end_running(self, engine: Engine, keys: list[int], kill: bool) -> int:
        """Interrupt tasks, or kill the engine that runs one; which one runs the shell sees."""
        found = [key for key in engine.flight if key in set(keys)]
        self._unwanted.update(found)
        act = do.KILL if kill else do.INTERRUPT
        self.out.extend((act, engine.id, key) for key in found)
        return len(found)

    def _keys_of(self, engine: Engine) -> list[int]:
        return [i.key for i in engine.own] + list(engine.flight)[1:]

    def _stop(self, engine: Engine) -> None:
        engine.stopping = True
        self._place_in_sets(engine)
        own, engine.own = engine.own, deque()
        self._disown(engine.id, list(own), "it was asked to stop")
        if not engine.flight:
            self.out.append((do.STOP, engine.id, None))

    def drain(self, now: float) -> None:
        """Begin nothing new: give back what has not begun, stop each engine after its task."""
        self._draining = True
        pooled, self.pool = self.pool, deque()
        for item in pooled:
            self._turn_away(item)
        for engine in self.engines.values():
            if not engine.stopping:
                self._stop(engine)
        self.settle(now)

    def inspect(self, number: int, now: float) -> dict[str, Any]:
        """Return what is known of one engine, and what the shell observes of its process.

        ``running`` is a task's key (0: none), ``seconds`` how long it has run, ``op`` what it
        does and ``function`` the name of what it calls, where that is known.
        """
        engine = self.engines[number]
        found = {
            "queue": len(engine.own) + max(len(engine.flight) - 1, 0),
            "tasks": len(engine.flight),
            "running": 0,
            "seconds": 0.0,
            "op": "",
            "function": "",
            **self.observe(number),
        }
        if found["running"] not in engine.flight:
            found["running"] = next(iter(engine.flight), 0)
        if found["running"]:
            work = engine.flight[found["running"]].work
            function = self.functions.get(work.fn) if work.fn else None
            found["seconds"] = max(now - engine.began, 0.0)
            found["op"] = OP_NAMES[work.op].decode().lower()
            found["function"] = function_name(function.data) if function else ""
        return found

    # -- links -----------------------------------------------------------------------------

    def renewed(self, channel: int) -> None:
        """A scheduler is new to us: tell what is finished, then what is held."""
        for kept in {id(kept): kept for kept in self.finished.values()}.values():
            at, result = kept
            if at == channel:
                if isinstance(result, m.Results):
                    result = result.only([self.finished.get(k) is kept for k in result.keys])
                self.out.append((do.SEND, channel, result))
        held = [
            (item.key, item.attempt, item.engine)
            for item in self.items.values()
            if item.channel == channel
        ]
        up = [number for number, engine in self.engines.items() if engine.up]
        while len(held) > ROLL_PART:
            part, held = held[:ROLL_PART], held[ROLL_PART:]
            self.out.append((do.SEND, channel, m.RollCall([], [], part, True)))
        self.out.append((do.SEND, channel, m.RollCall(up, self.ended, held)))
        for fn, items in self._lacking.items():
            # The scheduler that was asked did not live to answer.
            if any(item.channel == channel for item in items):
                self.out.append((do.SEND, channel, m.NeedFunction(fn)))

    def alone(self, now: float) -> None:
        """The controller does not answer any more."""
        if self._alone_since is None:
            self._alone_since = now

    def together(self) -> None:
        """The controller answers (again)."""
        self._alone_since = None

    # -- by the clock ----------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Take waiting batches back for idle engines, and end when the lease is over."""
        if self._alone_since is not None and now - self._alone_since >= self.lease:
            text = f"the controller has been gone for {self.lease:.0f} s (the lease)"
            self.out.append((do.END, text, None))
            return
        if self._recall is not None and now - self._recall[2] >= RECALL_ANSWER:
            self._finish_recall()  # the engine ended its batch, or ended
        self._note_slow(now)
        if self._idle:  # and none of them is to be woken for what may be in the pool
            for engine in self._stuck(now):
                self._take_back(engine)
                engine.progress = now
        self.settle(now)


_FALSE = repeat(False)


def _interrupted(outcome: m.Outcome) -> bool:
    if outcome.status != Status.ERROR or not outcome.data:
        return False
    try:
        return _failure.decode(outcome.data).name == "KeyboardInterrupt"
    except m.UNDECODABLE:
        return False
