"""The task scheduler: which engine gets which task, and how many ahead of time.

Each engine has a credit, tasks that it may hold at once (:mod:`ipclusterz.core.capacity`).

Like tasks wait as the run that brought them and are given out as shares of it
(:mod:`ipclusterz.core.runs`): what is done once for a hundred need not be fast.  A
:class:`Task` is made of one of them when something out of the ordinary happens to it; what the
queue still has of it is then passed over.  Tasks that may not run just anywhere wait elsewhere
(:mod:`ipclusterz.core.apart`).

Tasks are given out in shares, so that one decision serves many short tasks; the agent may
move a task between its own engines.  When work is misplaced all the same (an engine idles
while another agent holds tasks that have not begun), agents are asked to give some back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import groupby, repeat
from operator import sub
from typing import Any

from msgspec import structs

from ipclusterz.core import deadline, policy
from ipclusterz.core import message as m
from ipclusterz.core.apart import Apart, refusal
from ipclusterz.core.broker import COUNTER, Broker
from ipclusterz.core.capacity import Engine
from ipclusterz.core.deadline import Deadlines
from ipclusterz.core.dependency import Dependencies, Ends, Verdict
from ipclusterz.core.estate import Entry, Estate, Inheritance
from ipclusterz.core.runs import Given, Queued, single
from ipclusterz.core.tasks import Agent, Task

RECALL_AFTER = 0.100
"""Seconds of silence after which an agent's engines are no longer taken for quick."""

LOOK_AFTER = 0.020
"""Seconds between two looks whether engines idle while an agent has more than it can run."""

LOOK_COST = 2e-5
"""The same for each agent: where there are very many, to look takes its time."""

LEAST_SECONDS = 0.0002
"""Seconds of work up to which what is for several engines of an agent is given to one of them:
the agent divides it, and to divide it here costs more than is won."""

NO_ENGINE_AFTER = 60.0
"""Seconds without any engine after which waiting tasks fail instead of waiting on."""


class Balancer(Broker):
    """Gives tasks to engines by a scheme; ``hwm`` above zero fixes each engine's credit."""

    def __init__(
        self, generation: int = 0, scheme: str = "leastload", hwm: int = 0, seed: int = 1
    ) -> None:
        super().__init__(generation)
        self.engines: dict[int, Engine] = {}
        self.tasks: dict[int, Any] = {}  # Task, or what many share: Queued or Given
        self._queue: deque[Any] = deque()  # Task or Queued, and some that wait no more
        self.queued = 0  # how many do
        self._apart = Apart(self.engines)
        self._policy = policy.make(scheme, seed)
        self._hwm = hwm
        self._heard: dict[bytes, float] = {}  # agent -> last result
        self._look_at = 0.0
        self._hoards: set[bytes] = set()  # agents seen to have too much at the last look
        self._recalled: set[bytes] = set()  # agents asked to give back, and not answered
        self._dry_since = -1.0  # when the last engine went while tasks wait
        self._told: set[bytes] = set()  # clients that know that there is no engine
        self._last_loss = ""
        self._ends = Ends()
        self._depending = Dependencies(self._ends)
        self._verdicts: deque[Verdict] = deque()
        self._judging = False
        self._deadlines = Deadlines()
        self.estate = Estate()
        self._handlers[m.Submit] = self._submit
        self._handlers[m.Run] = self._run
        self._handlers[m.Results] = self._results

    @property
    def uneasy(self) -> bool:
        """Whether to settle again after :data:`LOOK_AFTER`, if nothing happens before."""
        return bool(self._hoards)

    # -- entering --------------------------------------------------------------------------

    def _run(self, peer: bytes, run: m.Run, now: float) -> None:
        """Take in like tasks, all at once: this is the way of nearly all."""
        number, data, first = self.clients.get(peer), run.data, run.key
        keys = range(first, first + len(data))
        if not data or {first >> m.COUNTER_BITS, keys[-1] >> m.COUNTER_BITS} != {number}:
            return
        fn = self.functions.own(run.fn)
        if (
            fn != run.fn
            or self._limbo
            or self._recovering
            or (self._generation and first & COUNTER <= self._resumed.get(peer, -1))
            or max(map(len, data)) > m.SMALL
            or not self.tasks.keys().isdisjoint(keys)
            or not self._settling.keys().isdisjoint(keys)
        ):
            for key in keys:
                self._submit(peer, single(run, key), now)
            return
        # One object for all that are equal: memory counts where a million wait.
        run.fn = fn
        if data.count(data[0]) == len(data):
            run.data = [data[0]] * len(data)
        queued = Queued(run, peer, first, keys.stop)
        self.tasks.update(dict.fromkeys(keys, queued))
        self._queue.append(queued)
        self.queued += len(data)
        if self.recorder is not None:
            self.recorder.run(run, now)

    def _submit(self, peer: bytes, message: m.Submit, now: float) -> None:
        if message.key >> m.COUNTER_BITS != self.clients.get(peer):
            return
        task = Task(message.key, peer, message)
        opt = message.opt
        if opt is not None:
            task.retries = opt.retries
            self._deadlines.set(task.key, opt.timeout, now)
        self._enter(task, now)

    def _place(self, task: Task) -> None:
        if not task.free and self._depends(task):
            return
        if self._apart.shuns(task):
            return
        allowed = self._apart.allowed(task)
        if allowed is None:
            task.queued = True
            self.queued += 1
            self._queue.append(task)
        elif not allowed:
            self._fail(task, m.Status.REFUSED, refusal(task))
        else:
            self._apart.keep(task, allowed)

    def _replace(self, task: Task, reason: str) -> None:
        if self._too_late(task):
            return
        if self._apart.allowed(task) is None:
            task.queued = True
            self.queued += 1
            self._queue.appendleft(task)
        else:
            self._place(task)

    def _task(self, key: int) -> Task | None:
        found = self.tasks.get(key)
        if found is None or type(found) is Task:
            return found
        task: Task = found.single(key)
        self.tasks[key] = task
        if (agent := self.agents.get(task.agent)) is not None:
            agent.held[key] = task
        return task

    # -- waiting for other tasks -----------------------------------------------------------

    def _depends(self, task: Task) -> bool:
        """Keep a task that has to wait for others; False when it may go."""
        opt = task.work.opt
        if opt is None or (opt.after is None and opt.follow is None):
            task.free = True
            return False
        verdict = self._depending.enter(task, opt, _Known(self.tasks, self._limbo))
        if verdict is None:
            return True
        if not verdict.why:
            task.free = True
            task.places = verdict.engines
            return False
        self._verdicts.append(verdict)
        self._judge()
        return True

    def _concluded(self, key: int, status: int, engine: int) -> None:
        self._ends.note(key, not status, engine)
        if self.estate.keys:
            self.estate.end(key, not status, engine)
            if self.estate.over:
                self.functions.pinned.clear()
        if self._depending:
            self._verdicts.extend(self._depending.ended(key, not status, engine))
            self._judge()

    def _judge(self) -> None:
        """Carry verdicts out; those that follow from them come after, not inside."""
        if self._judging:
            return
        self._judging = True
        while self._verdicts:
            verdict = self._verdicts.popleft()
            task = verdict.task
            if verdict.why:
                failure = m.Failure("ImpossibleDependency", f"it can never run: {verdict.why}")
                self._fail(task, m.Status.REFUSED, failure)
            else:
                task.free = True
                task.places = verdict.engines
                self._place(task)
        self._judging = False

    def _elsewhere(self, task: Task, result: m.Result) -> bool:
        if task.unmet is None:
            task.unmet = set()
        task.unmet.add(result.engine)
        task.word = result.data
        if not self._too_late(task):
            self._place(task)
        return True

    def _judge_late(self, now: float) -> None:
        """End tasks that were not begun in the time their client allowed."""
        asked: dict[bytes, list[int]] = {}
        for key in self._deadlines.due(now):
            task = self._task(key)
            if task is None or task.work is None:
                continue
            if task.agent:
                self._deadlines.ask(key)
                asked.setdefault(task.agent, []).append(key)
            elif self._depending.drop(task.key):
                seconds = task.work.opt.timeout
                text = f"the tasks it waits for did not end within {seconds:g} s (its timeout)"
                self._fail(task, m.Status.REFUSED, m.Failure("DependencyTimeout", text))
            elif self._drop(task):
                self._fail(task, m.Status.REFUSED, deadline.failure(task))
        for agent, keys in asked.items():
            self.out[agent].append(m.Withdraw(keys))
        self._deadlines.trim(self.tasks)

    def _too_late(self, task: Task) -> bool:
        """End a task that came back unbegun after its time; False if that is not over."""
        missed = self._deadlines.missed(task.key)
        if missed:
            self._fail(task, m.Status.REFUSED, deadline.failure(task))
        return missed

    def _again(self, task: Task) -> None:
        self._deadlines.missed(task.key)  # it had begun in time
        super()._again(task)

    def _drop(self, task: Task) -> bool:
        if task.queued:
            task.queued = False
            self.queued -= 1
            if not self.queued:
                self._queue.clear()
            return True
        if self._depending.drop(task.key) or self._apart.drop(task.key):
            return True
        return self._drop_lacking(task)

    # -- engines ---------------------------------------------------------------------------

    def _engine_came(self, engine: int, agent: Agent) -> None:
        made = Engine(engine, agent, self._hwm)
        made.load = sum(1 for task in agent.held.values() if task.engine == engine)
        self.engines[engine] = made
        self._offer(made)
        for task in self._apart.came():
            self._place(task)

    def _engine_went(self, engine: int) -> None:
        self.engines.pop(engine, None)
        self._policy.withdraw(engine)
        for task in self._apart.went(engine):
            self._place(task)

    def _absence(self, agent: Agent) -> None:
        for engine in agent.engines:
            if agent.absent:
                self._policy.withdraw(engine)
            else:
                self._offer(self.engines[engine])

    def _offer(self, engine: Engine) -> None:
        if engine.has_room:
            self._policy.offer(engine.id, engine.load)
        else:
            self._policy.withdraw(engine.id)

    def _adopted(self, task: Task) -> None:
        engine = self.engines.get(task.engine)
        if engine is not None:
            engine.load += 1
            self._offer(engine)

    # -- giving out ------------------------------------------------------------------------

    def settle(self, now: float) -> None:
        """Give waiting tasks to engines with room."""
        apart = self._apart
        if apart.groups:
            apart.give_confined(self._give_apart)
        if apart.shunning:
            apart.give_shunning(self._policy, self._give_apart)
        if not self.queued:
            if now >= self._look_at and not apart.groups and not apart.shunning:
                self._look(now)
            return
        pick = self._policy.pick
        engines = self.engines
        shares = 2 * len(engines)
        while self.queued:
            chosen = pick()
            if chosen is None:
                return
            engine = engines[chosen]
            share = -(-self.queued // shares)
            if 0 < share * engine.pace < LEAST_SECONDS:
                together = -(-self.queued * len(engine.agent.engines) // shares)
                share = max(share, min(together, int(LEAST_SECONDS / engine.pace)))
            share = min(share, engine.credit - engine.load)
            self._give_some(engine, share)
            self._offer(engine)

    def _give_some(self, engine: Engine, share: int) -> None:
        """Give the next tasks of the queue to an engine."""
        queue = self._queue
        while share:
            head = queue[0]
            if type(head) is Queued:
                share -= self._give_of(head, engine, share)
                if head.next == head.end:
                    queue.popleft()
                continue
            queue.popleft()
            here = self.tasks.get(head.key) is head  # not an older entry of it
            if here and head.queued:
                head.queued = False
                self._give(head, engine, False)
                self.queued -= 1
                share -= 1

    def _give_of(self, queued: Queued, engine: Engine, most: int) -> int:
        """Give the next tasks of a run to an engine; return how many."""
        tasks, run, first = self.tasks, queued.run, queued.next
        keys = range(first, min(first + most, queued.end))
        if len(keys) == 1 and tasks.get(first) is queued:
            self._give_first(queued, engine)
            return 1
        found: list[Any] = list(map(tasks.get, keys))
        if found.count(queued) < len(found):
            # Some ended, or go their own ways: these first, or up to the first of them.
            gone = 0
            for each in found:
                if each is queued or (type(each) is Task and each.queued):
                    break
                gone += 1
            if gone:
                queued.next += gone
                return 0
            task = found[0]
            if task is not queued:
                self._give_alone(queued, task, engine)
                return 1
            keys = keys[: next(i for i, each in enumerate(found) if each is not queued)]
        n = len(keys)
        agent = engine.agent
        self._hand_function(agent, run.fn)
        if not queued.client:
            for key in keys:
                self.estate.hand(key)
        start = first - run.key
        data = run.data if n == len(run.data) else run.data[start : start + n]
        share = m.Share(first, self._base + 1, engine.id, run.op, run.fn, data)
        given = Given(share, queued.client, agent.peer, share.attempt, engine.id)
        held = dict.fromkeys(keys, given)
        tasks.update(held)
        agent.held.update(held)
        self.out[agent.peer].append(share)
        queued.next += n
        engine.load += n
        self.queued -= n
        return n

    def _give_first(self, queued: Queued, engine: Engine) -> None:
        """Give one task of a run; flat, as engines with long tasks get one after the other."""
        run, key, agent = queued.run, queued.next, engine.agent
        fn, client, attempt = run.fn, queued.client, self._base + 1
        if fn not in agent.functions:
            self._hand_function(agent, fn)
        if not client:
            self.estate.hand(key)
        data = run.data[key - run.key]
        work = m.Submit(key, run.op, fn, data)
        task = Task(key, client, work, attempt, agent.peer, engine.id)
        self.tasks[key] = agent.held[key] = task
        queued.next += 1
        self.queued -= 1
        engine.load += 1
        self.out[agent.peer].append(m.Assign(key, attempt, engine.id, False, run.op, fn, data))

    def _give_alone(self, queued: Queued, task: Task, engine: Engine) -> None:
        queued.next += 1
        task.queued = False
        self.tasks[task.key] = task
        self._give(task, engine, False)
        self.queued -= 1

    def _give_apart(self, task: Task, engine: Engine) -> None:
        self._give(task, engine, True)
        self._offer(engine)

    def _give(self, task: Task, engine: Engine, fixed: bool) -> None:
        work = task.work
        agent = engine.agent
        attempt = self._hand(task, agent, engine.id)
        if not task.client:
            self.estate.hand(task.key)
        engine.load += 1
        self.out[agent.peer].append(
            m.Assign(
                task.key, attempt, engine.id, fixed, work.op, work.fn, work.data, work.body
            )
        )

    # -- coming back -----------------------------------------------------------------------

    def _finished(self, task: Task, result: m.Result | None, now: float) -> None:
        engine = self.engines.get(task.engine)
        if engine is None:
            return
        engine.load -= 1
        if result is not None:
            self._heard[engine.agent.peer] = now
            ran = self.engines.get(result.engine, engine)
            ran.learn(result.finished - result.started)
            if ran is not engine:
                self._offer(ran)
        self._offer(engine)

    def _result(self, peer: bytes, result: m.Result, now: float) -> None:
        """Take in what an agent says of one task; flat for one that ended well."""
        key = result.key
        agent, task = self.agents.get(peer), self.tasks.get(key)
        if (
            type(task) is not Task
            or task.agent != peer
            or task.attempt != result.attempt
            or result.status
            or task.client not in self.clients
            or self._early is not None
            or agent is None
        ):
            if result.status == m.Status.ABORTED and self._deadlines.missed(key):
                result = self._missed(key, result)
            super()._result(peer, result, now)
            return
        del self.tasks[key]
        agent.held.pop(key, None)
        self._finished(task, result, now)
        if (count := self.counts.get(result.engine)) is not None:
            count[0] += 1
        if self.recorder is not None:
            self.recorder.ended(result, now)
        self._settling[key] = peer
        self.out[task.client].append(result)
        if self._depending:
            self._concluded(key, 0, result.engine)
        else:
            self._ends.note(key, True, result.engine)

    def _missed(self, key: int, result: m.Result) -> m.Result:
        """Return what is told of a task that its agent ended as its time was over."""
        task = self._task(key)
        if task is None or task.cancelled or task.work is None:
            return result
        task.retries = 0
        data = m.encode(deadline.failure(task))
        return structs.replace(result, status=int(m.Status.REFUSED), data=data)

    def _results(self, peer: bytes, results: m.Results, now: float) -> None:
        """Take in what an agent says of many tasks, all at once."""
        agent = self.agents.get(peer)
        if agent is None or self._early is not None or not results.whole:
            super()._results(peer, results, now)
            return
        keys = results.keys
        # Of whom they are: a Task each, or many of them the same Given.
        found: Iterable[Any] = map(self.tasks.get, keys)
        of = [(given, len(list(same))) for given, same in groupby(found)]
        client = getattr(of[0][0], "client", b"")
        attempt = results.attempt
        if client not in self.clients or any(
            given is None
            or given.agent != peer
            or given.attempt != attempt
            or given.client != client
            for given, _ in of
        ):
            self._results_apart(peer, results, [n for _, n in of], now)
            return
        n = len(keys)
        _forget(self.tasks, keys)
        _forget(agent.held, keys)
        self._heard[peer] = now
        if (count := self.counts.get(results.engine)) is not None:
            count[0] += n
        touched = {results.engine}
        for given, number in of:
            if (engine := self.engines.get(given.engine)) is not None:
                engine.load -= number
                touched.add(given.engine)
        if (ran := self.engines.get(results.engine)) is not None:
            ran.learn_all(list(map(sub, results.finished, results.started)))
        for each in touched:
            if (engine := self.engines.get(each)) is not None:
                self._offer(engine)
        if self.recorder is not None:
            self.recorder.results(results, now)
        self._settling.update(dict.fromkeys(keys, peer))
        self.out[client].append(results)
        if self._depending:
            for key in keys:
                self._concluded(key, 0, results.engine)
        else:
            self._ends.note_all(keys, True, results.engine)

    def _results_apart(
        self, peer: bytes, results: m.Results, sizes: list[int], now: float
    ) -> None:
        """Take in results that do not all go the usual way, as parts of so many."""
        if len(sizes) == 1:
            super()._results(peer, results, now)
            return
        start = 0
        for n in sizes:
            self._results(peer, results.part(start, start + n), now)
            start += n

    def _returned(self, peer: bytes, message: m.Returned, now: float) -> None:
        self._recalled.discard(peer)
        super()._returned(peer, message, now)

    def expel(self, peer: bytes, reason: str, now: float) -> None:
        self._recalled.discard(peer)
        self._heard.pop(peer, None)
        if peer in self.agents:
            self._last_loss = reason
        super().expel(peer, reason, now)

    def _down(self, peer: bytes, message: m.Down, now: float) -> None:
        self._last_loss = message.reason
        super()._down(peer, message, now)

    # -- tasks whose client has left -------------------------------------------------------

    def _client_gone(self, peer: bytes, number: int) -> None:
        super()._client_gone(peer, number)
        under_way = (*self.tasks, *self._limbo)
        own = [key for key in under_way if key >> m.COUNTER_BITS == number]
        self.estate.leave(number, self.uuids.get(number, ""), own)
        self._risky.update(key for key in own if key in self._limbo)
        for key in own:
            (self.tasks.get(key) or self._limbo[key]).client = b""

    def write_down(self) -> None:
        """Write a portion of what clients left into the estate; called before it is carried."""
        for key in self.estate.portion():
            task = self._task(key) or self._limbo.get(key)
            if task is None:
                continue
            if task.work is None:
                continue  # only a roll call told of it: an agent has it, and nobody the rest
            work = task.work
            if work.opt is not None:
                work = structs.replace(work, opt=self._options_left(task))
            handed = bool(task.agent) or key in self._risky
            entry = Entry(work, task.retries, task.deaths, handed)
            function = self.functions.get(work.fn) if work.fn else None
            if function is not None:
                self.functions.pinned[work.fn] = function
            self.estate.enter(entry, function)

    def _options_left(self, task: Task) -> m.Options:
        """Return a task's options with what is known by now of the tasks it waits for."""
        opt: m.Options = task.work.opt
        if task.free:
            engines = opt.engines if task.places is None else task.places
            return structs.replace(opt, engines=engines, after=None, follow=None)
        waits = [
            structs.replace(depend, known=self._depending.known(task.key, depend))
            if depend is not None
            else None
            for depend in (opt.after, opt.follow)
        ]
        return structs.replace(opt, after=waits[0], follow=waits[1])

    def rewrite(self) -> None:
        """Write everything that is left down anew, instead of what was written so far."""
        self.estate.begin_anew()
        while self.estate.coming:
            self.write_down()

    def inherit(self, left: Inheritance, now: float) -> None:
        """Go on with what a scheduler before us wrote down; called before all else."""
        for digest, data in left.codes.items():
            function = self.functions.pinned[digest] = m.Function(digest, data)
            self._function(b"", function, now)
        for key, (success, engine) in left.ends.items():
            self._ends.note(key, success, engine)
        for key, entry in sorted(left.tasks.items()):
            task = Task(key, b"", entry.work)
            task.retries, task.deaths = entry.retries, entry.deaths
            if entry.work.opt is not None:
                self._deadlines.set(key, entry.work.opt.timeout, now)
            if entry.handed:
                self._risky.add(key)
            self._limbo[key] = task
            if self.recorder is not None:
                work, label = entry.work, entry.work.opt.label if entry.work.opt else ""
                self.recorder.begun(key, work.op, work.fn, label, work.data, now)
        self.estate.keys.update(left.tasks)
        self.estate.names.update(left.names)
        self.estate.codes.update(left.codes)

    def _spend(self, task: Task) -> None:
        super()._spend(task)
        self.estate.spend(task.key, task.retries, task.deaths)

    # -- by the clock ----------------------------------------------------------------------

    def tick(self, now: float) -> None:
        super().tick(now)
        if self.estate.coming:
            self.write_down()
        self._judge_dry(now)
        if self._deadlines:
            self._judge_late(now)

    def _judge_dry(self, now: float) -> None:
        """Tell clients when nothing can progress, and end it when it has lasted."""
        reason = self._stuck()
        if not reason or self.engines:
            self._dry_since = -1.0
        if not reason:
            self._tell([client for client in self.clients if client in self._told], "")
            self._told.clear()
            return
        news = [client for client in self.clients if client not in self._told]
        self._tell(news, reason)
        self._told.update(news)
        if self.engines:
            return  # they have until their lease is over
        if self._dry_since < 0:
            self._dry_since = now
        if now - self._dry_since >= NO_ENGINE_AFTER:
            why = reason.partition(";")[1:]
            text = f"no engine for {NO_ENGINE_AFTER:.0f} s, this task never began{''.join(why)}"
            failure = m.Failure("NoEnginesRegistered", text)
            for key in list(self.tasks):
                task = self._task(key)
                if task is not None and task.queued and self._drop(task):
                    self._fail(task, m.Status.REFUSED, failure)

    def _stuck(self) -> str:
        """Return why no task can progress, or ''."""
        if self.queued and not self.engines:
            why = f"; the last one ended: {self._last_loss}" if self._last_loss else ""
            return f"no engine is connected{why}"
        if self.tasks and self.engines and all(e.agent.absent for e in self.engines.values()):
            return "none of the engines takes work: their agents do not answer, or end soon"
        return ""

    def _tell(self, clients: Iterable[bytes], reason: str) -> None:
        for client in clients:
            self.out[client].append(m.Waiting(reason))

    def _look(self, now: float) -> None:
        """Have agents give back what they cannot run yet, if others have nothing to do.

        Of one that goes on working half: by the next look, much of the rest has run.
        """
        self._look_at = now + max(LOOK_AFTER, LOOK_COST * len(self.agents))
        before, self._hoards = self._hoards, set()
        agents = [agent for agent in self.agents.values() if not agent.absent]
        if all(len(agent.held) >= len(agent.engines) for agent in agents):
            return
        for agent in agents:
            surplus = len(agent.held) - len(agent.engines)
            if surplus <= 0 or agent.peer in self._recalled:
                continue
            self._hoards.add(agent.peer)
            if agent.peer in before:
                silent = now - self._heard.get(agent.peer, 0.0)
                wanted = -(-surplus // 2) if silent < LOOK_AFTER else surplus
                self._recalled.add(agent.peer)
                self.out[agent.peer].append(m.Recall(wanted, []))
                if silent >= RECALL_AFTER:
                    self._distrust(agent)

    def _distrust(self, agent: Agent) -> None:
        """Silent for so long, its engines cannot be as quick as they were."""
        for number in agent.engines:
            engine = self.engines[number]
            engine.distrust()
            self._offer(engine)

    def hint(self) -> Any:
        """Return a snapshot for tests and status: engines with (load, credit, pace)."""
        return {e.id: (e.load, e.credit, e.pace) for e in self.engines.values()}


class _Known:
    """The keys of tasks that will end some time."""

    def __init__(self, *tasks: dict[int, Any]) -> None:
        self._tasks = tasks

    def __contains__(self, key: object) -> bool:
        return any(key in tasks for tasks in self._tasks)


def _forget(tasks: dict[int, Any], keys: list[int]) -> None:
    deque(map(tasks.pop, keys, repeat(None)), 0)
