"""What both work schedulers do: know peers, keep functions, route results, call the roll.

A broker stands between clients and agents.  It never unpickles anything and never waits.
Results are forwarded once; the agent keeps each until the client has said that it received
it, so whichever of the parts dies in between, one of the others still has the result.

After a restart a broker knows nothing.  Clients send again what is outstanding and say so
(:class:`~ipclusterz.core.message.Resumed`); those tasks stay in limbo until every agent has
called its roll, because an agent may hold or have finished them.  New tasks flow at once.

Subclasses decide where a task goes (:mod:`ipclusterz.core.balance`,
:mod:`ipclusterz.core.relay`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

from ipclusterz.core import message as m
from ipclusterz.core.functions import Functions
from ipclusterz.core.recorder import Recorder
from ipclusterz.core.tasks import Agent, Task

COUNTER = (1 << m.COUNTER_BITS) - 1
"""What of a key counts a client's tasks."""

DEATHS = 3
"""Engines that may die with a task before it is not tried again, whatever its retries."""

Out = defaultdict[bytes, list[Any]]
"""What is to be said, by peer: in order to each; the order among peers does not matter."""

Unwritten = tuple[bytes, int, m.Result | None]
"""An agent, a task's key, and its result unless its client was told of it."""


class Broker:
    """Common state and behaviour of the ``task`` and ``direct`` schedulers.

    ``generation`` counts the starts of this scheduler; attempts of different generations
    never have the same number.  ``out`` collects what is to be said, for the shell.
    """

    def __init__(self, generation: int = 0) -> None:
        self.out: Out = defaultdict(list)
        self.loads: list[tuple[bytes, m.Load]] = []  # pieces of payloads, and to whom
        # Requests for pieces: from whom, to whom; the shell may answer in the owner's stead.
        self.fetches: list[tuple[bytes, bytes, m.Fetch]] = []
        self.clients: dict[bytes, int] = {}
        self.numbers: dict[int, bytes] = {}
        self.uuids: dict[int, str] = {}  # of clients: what the task database calls them
        self.agents: dict[bytes, Agent] = {}
        self.engine_agent: dict[int, Agent] = {}
        self.tasks: dict[int, Any] = {}  # Task, or what a subclass makes one of when needed
        self.functions = Functions()
        self.counts: dict[int, list[int]] = {}  # engine -> [done, failed]
        self._generation = generation
        self.recorder: Recorder | None = None  # set to record what happens to tasks
        self._now = 0.0
        self._base = generation << 20
        # Result sent, not yet received: the agent that keeps it (empty: nobody).  A client
        # that did not know of us may send such a task again before the result arrives there.
        self._settling: dict[int, bytes] = {}
        self._limbo: dict[int, Task] = {}
        self._resumed: dict[bytes, int] = {}  # client -> counters up to here are re-sent
        # Tasks whose function is on its way, by function and by the client that was asked.
        self._lacking: dict[bytes, dict[bytes, list[Task]]] = {}
        # Failures that came before the roll was complete: another try may be under way.
        self._doubtful: list[tuple[bytes, m.Result]] = []
        self._risky: set[int] = set()  # an agent that is gone may have run these
        # Results whose client has left: their agents keep them until they are on the disk.
        self.unwritten: list[Unwritten] = []
        self._roll: set[bytes] = set()  # agents that have not called yet
        self._recovering = generation > 0
        # Results that came after our restart before the hub had told which clients there are.
        self._early: list[tuple[bytes, m.Result]] | None = [] if generation else None
        self._unknown = ""  # an agent was gone before it called the roll: why
        self._cancels: list[tuple[bytes, m.Cancel]] = []  # judged when the roll is complete
        self._handlers: dict[type, Callable[[bytes, Any, float], None]] = {
            m.Function: self._function,
            m.Cancel: self._cancel,
            m.Resumed: self._resume,
            m.Received: self._received,
            m.Result: self._result,
            m.Results: self._results,
            m.Returned: self._returned,
            m.Down: self._down,
            m.RollCall: self._roll_call,
            m.NeedFunction: self._need_function,
            m.Fetch: self._pass_on,
            m.Chunk: self._pass_on,
            m.Load: self._pass_on,
        }

    @property
    def revived(self) -> bool:
        """Whether there was a scheduler before this one."""
        return self._generation > 0

    # -- what the shell calls --------------------------------------------------------------

    def handle(self, peer: bytes, messages: Iterable[Any], now: float) -> None:
        """Act on messages of an admitted peer."""
        self._now = now
        handlers = self._handlers
        for message in messages:
            handlers[type(message)](peer, message, now)
        self.settle(now)

    def settle(self, now: float) -> None:
        """Give out work; called after each batch of messages and at each tick."""

    def tick(self, now: float) -> None:
        """Do what is due by the clock."""
        self.settle(now)

    # -- what the hub says -----------------------------------------------------------------

    def admit(self, peer: bytes, role: int, number: int, uuid: str = "") -> None:
        """Let a peer in."""
        if role == m.Role.CLIENT:
            self.clients[peer] = number
            self.numbers[number] = peer
            self.uuids[number] = uuid
        elif peer not in self.agents:
            self.agents[peer] = Agent(peer)
            if self._recovering:
                self._roll.add(peer)

    def expel(self, peer: bytes, reason: str, now: float) -> None:
        """A peer is gone for good: its engines with it, or its claims to results."""
        number = self.clients.pop(peer, None)
        if number is not None:
            del self.numbers[number]
            self._client_gone(peer, number)
            del self.uuids[number]
        agent = self.agents.pop(peer, None)
        if agent is not None:
            for engine in list(agent.engines):
                self._forget_engine(engine)
            for key in list(agent.held):
                if (task := self._task(key)) is not None:
                    self._lost(task, reason, now)
            for key, keeper in self._settling.items():
                if keeper == peer:
                    self._settling[key] = b""
            if peer in self._roll:
                self._unknown = reason
            self._called(peer, now)
        self.settle(now)

    def join(self, peer: bytes, engines: Iterable[int], now: float) -> None:
        """Engines of an agent that work may be sent to."""
        agent = self.agents.get(peer)
        if agent is None:
            return
        for engine in engines:
            if engine not in agent.engines:
                agent.engines.add(engine)
                self.engine_agent[engine] = agent
                self.counts.setdefault(engine, [0, 0])
                self._engine_came(engine, agent)
        self.settle(now)

    def roster(self, agents: Iterable[bytes], now: float, lost: str = "") -> None:
        """After a restart: these agents exist and are waited for until they call the roll.

        ``lost`` says why an agent went just before; what it had run nobody can say.
        """
        if self._generation:
            self._unknown = self._unknown or lost
        early, self._early = self._early, None
        for peer, result in early or ():
            if peer in self.agents:
                self._result(peer, result, now)
        self._roll = {a for a in agents if a in self.agents and not self.agents[a].called}
        self._recovering = bool(self._roll)
        if not self._recovering:
            self._leave_limbo(now)
        self.settle(now)

    def absent(self, peer: bytes, absent: bool, now: float) -> None:
        """An agent stopped answering, or answers again."""
        agent = self.agents.get(peer)
        if agent is not None and agent.absent != absent:
            agent.absent = absent
            self._absence(agent)
            self.settle(now)

    def renewed(self, peer: bytes) -> None:
        """A peer's link starts afresh: what was in flight on the old one is void."""
        agent = self.agents.get(peer)
        if agent is not None:
            agent.functions.clear()
            agent.wants.clear()

    def record_again(self) -> None:
        """The hub is new: it may never have written which functions there are."""
        if self.recorder is not None:
            self.recorder.forgotten()
            for function in self.functions.all():
                self.recorder.function(function.digest, function.data)

    # -- for subclasses --------------------------------------------------------------------

    def _engine_came(self, engine: int, agent: Agent) -> None:
        raise NotImplementedError

    def _engine_went(self, engine: int) -> None:
        raise NotImplementedError

    def _absence(self, agent: Agent) -> None:
        """React to a change of ``agent.absent``."""

    def _place(self, task: Task) -> None:
        """Send or queue a task that nobody holds."""
        raise NotImplementedError

    def _drop(self, task: Task) -> bool:
        """Remove a waiting task from whatever queue it is in."""
        raise NotImplementedError

    def _finished(self, task: Task, result: m.Result | None, now: float) -> None:
        """An agent no longer holds ``task``."""

    def _concluded(self, key: int, status: int, engine: int) -> None:
        """A task has ended for good."""

    def _elsewhere(self, task: Task, result: m.Result) -> bool:
        """Its function says that the engine does not suit it: True when it is tried again."""
        return False

    # -- tasks -----------------------------------------------------------------------------

    def _task(self, key: int) -> Task | None:
        """Return a task that is under way."""
        return self.tasks.get(key)

    def _enter(self, task: Task, now: float) -> None:
        """Take in a task a client sent; one known already is the same task again."""
        key = task.key
        if key in self.tasks or key in self._settling or key in self._limbo:
            known = self._task(key)
            if known is not None and known.work is None:
                known.work = task.work
                known.client = task.client
                known.retries = task.retries
            return
        if self._generation and (
            (key & COUNTER) <= self._resumed.get(task.client, -1) or key in self._risky
        ):
            if self._recovering:
                self._limbo[key] = task
                self._ask_early(task)
                return
            if self._unknown and not self._survives(task, now):
                return
        self.tasks[key] = task
        work = task.work
        fn = work.fn
        recorder = self.recorder
        if recorder is not None:
            opt = work.opt
            label = opt.label if opt is not None else ""
            recorder.begun(key, work.op, fn, label, work.data, now)
        if fn and fn not in self.functions:
            self._lack(task)
            return
        self._place(task)

    def _ask_early(self, task: Task) -> None:
        """Have the function of a task in limbo sent as long as its client is there."""
        fn = task.work.fn
        if fn and fn not in self.functions and task.client in self.clients:
            asked = self._lacking.setdefault(fn, {})
            if task.client not in asked:
                asked[task.client] = []
                self.out[task.client].append(m.NeedFunction(fn))

    def _lack(self, task: Task) -> None:
        """Keep a task until its client has sent its function."""
        fn, client = task.work.fn, task.client
        if client not in self.clients:
            self._fail_without_function(task)
            return
        asked = self._lacking.setdefault(fn, {})
        if client not in asked:
            asked[client] = []
            self.out[client].append(m.NeedFunction(fn))
        asked[client].append(task)

    def _fail_without_function(self, task: Task) -> None:
        """Nobody has the function of this task any more."""
        failure = m.Failure("TaskLost", "its function is gone, and so is its client")
        self._fail(task, m.Status.LOST, failure)

    def _drop_lacking(self, task: Task) -> bool:
        fn = task.work.fn if task.work is not None else b""
        tasks = self._lacking.get(fn, {}).get(task.client, [])
        if task not in tasks:
            return False
        tasks.remove(task)
        return True

    def _hand(self, task: Task, agent: Agent, engine: int) -> int:
        """Note that ``agent`` holds ``task`` from now on; return the attempt's number."""
        self._hand_function(agent, task.work.fn)
        attempt = task.attempt = max(task.attempt, self._base) + 1
        task.agent = agent.peer
        task.engine = engine
        agent.held[task.key] = task
        return attempt

    def _hand_function(self, agent: Agent, fn: bytes) -> None:
        if fn and fn not in agent.functions:
            function = self.functions.get(fn)
            if function is not None:
                self.out[agent.peer].append(function)
                agent.functions.add(fn)

    def _release(self, task: Task) -> None:
        agent = self.agents.get(task.agent)
        if agent is not None:
            agent.held.pop(task.key, None)
        task.agent = b""

    def _fail(self, task: Task, status: int, failure: m.Failure) -> None:
        """End a task by our own word."""
        self.tasks.pop(task.key, None)
        data = m.encode(failure)
        result = m.Result(task.key, task.attempt, task.engine, status, data, None, 0.0, 0.0, 0)
        if self.recorder is not None:
            self.recorder.ended(result, self._now)
        if task.client in self.clients:
            self._settling[task.key] = b""
            self.out[task.client].append(result)
        self._concluded(task.key, status, task.engine)

    def _lost(self, task: Task, reason: str, now: float) -> None:
        self._release(task)
        self._finished(task, None, now)
        if task.retries > 0 and task.work is not None:
            self._again(task)
            return
        text = f"engine {task.engine} is gone and this task may have run there: {reason}"
        self._fail(task, m.Status.LOST, m.Failure("TaskLost", text, engine=task.engine))

    def _again(self, task: Task) -> None:
        """Try a task anew on another engine, if there is any other."""
        self._spend(task)
        if task.excluded is None:
            task.excluded = set()
        task.excluded.add(task.engine)
        self._place(task)

    def _spend(self, task: Task) -> None:
        """Take one retry, and tell the client before the task goes anywhere."""
        task.retries -= 1
        if task.client in self.clients:
            self.out[task.client].append(m.Retried(task.key, task.retries))

    # -- from clients ----------------------------------------------------------------------

    def _function(self, peer: bytes, message: m.Function, now: float) -> None:
        self.functions.add(message)
        if self.recorder is not None:
            self.recorder.function(message.digest, message.data)
        for tasks in self._lacking.pop(message.digest, {}).values():
            for task in tasks:
                self._place(task)
        for agent in self.agents.values():
            if message.digest in agent.wants:
                agent.wants.discard(message.digest)
                agent.functions.add(message.digest)
                self.out[agent.peer].append(message)

    def _cancel(self, peer: bytes, message: m.Cancel, now: float) -> None:
        forward: dict[bytes, list[int]] = {}
        if self._recovering:
            self._cancels.append((peer, message))
            return
        for key in message.keys:
            task = self._task(key)
            if task is None or task.client != peer:
                continue
            if task.agent:
                task.cancelled = True
                task.retries = 0
                forward.setdefault(task.agent, []).append(key)
            elif self._drop(task):
                self._abort(task)
        for agent, keys in forward.items():
            self.out[agent].append(m.Withdraw(keys))

    def _abort(self, task: Task) -> None:
        text = "cancelled before it began"
        self._fail(task, m.Status.ABORTED, m.Failure("TaskAborted", text))

    def _received(self, peer: bytes, message: m.Received, now: float) -> None:
        self._let_go(message.keys)

    def _let_go(self, keys: list[int]) -> None:
        """Have the agents that keep these results forget them."""
        keepers = list(map(self._settling.pop, keys, repeat(b"")))
        if keepers and keepers.count(keepers[0]) == len(keepers):  # as it is nearly always
            if keepers[0]:
                self.out[keepers[0]].append(m.Received(keys))
            return
        by_agent: dict[bytes, list[int]] = {}
        for key, agent in zip(keys, keepers, strict=True):
            if agent:
                by_agent.setdefault(agent, []).append(key)
        for agent, some in by_agent.items():
            self.out[agent].append(m.Received(some))

    def _resume(self, peer: bytes, message: m.Resumed, now: float) -> None:
        self._resumed[peer] = message.upto

    def _client_gone(self, peer: bytes, number: int) -> None:
        """Let its tasks run (they may matter for what they do), but keep no results."""
        self._resumed.pop(peer, None)
        for asked in self._lacking.values():
            for task in asked.pop(peer, ()):
                self._fail_without_function(task)
        for agent in self.agents.values():
            for digest in list(agent.wants):  # it may have been this client that was asked
                self._need_function(agent.peer, m.NeedFunction(digest), self._now)
        done = [key for key in self._settling if m.client_of(key) == number]
        if self.recorder is None:
            self._let_go(done)
            return
        for key in done:
            keeper = self._settling.pop(key)
            if keeper:
                self.unwritten.append((keeper, key, None))

    # -- from agents -----------------------------------------------------------------------

    def _results(self, peer: bytes, results: m.Results, now: float) -> None:
        for result in results.singly():
            self._result(peer, result, now)

    def _result(self, peer: bytes, result: m.Result, now: float) -> None:
        key = result.key
        if self._early is not None and m.client_of(key) not in self.numbers:
            self._early.append((peer, result))
            return
        task = self._task(key)
        if task is None:
            self._orphan_result(peer, result)
            return
        if task.agent != peer or task.attempt != result.attempt:
            self.out[peer].append(m.Received([key]))
            return
        held = self.agents[peer].held
        held.pop(key, None)
        task.agent = b""
        self._finished(task, result, now)
        status = result.status
        count = self.counts.get(result.engine)
        if count is not None:
            count[0 if status == 0 else 1] += 1
        if status and task.work is not None:
            if status == m.Status.DIED:
                task.deaths += 1
            if status == m.Status.UNMET and self._elsewhere(task, result):
                self.out[peer].append(m.Received([key]))
                return
            if task.retries > 0 and status in _MAY_RETRY and task.deaths < DEATHS:
                self.out[peer].append(m.Received([key]))
                self._again(task)
                return
        del self.tasks[key]
        if self.recorder is not None:
            self.recorder.ended(result, now)
        client = task.client or self.numbers.get(m.client_of(key), b"")
        if client in self.clients:
            self._settling[key] = peer
            self.out[client].append(result)
        else:
            self._leave(peer, result)
        self._concluded(key, status, result.engine)

    def _leave(self, peer: bytes, result: m.Result) -> None:
        """Nobody but the task database wants this result any more."""
        if self.recorder is None:
            self.out[peer].append(m.Received([result.key]))
        else:
            self.unwritten.append((peer, result.key, result))

    def written(self, results: Iterable[Unwritten]) -> None:
        """These of :attr:`unwritten` are on the disk: agents may forget them."""
        keys: dict[bytes, list[int]] = {}
        for peer, key, _ in results:
            if peer in self.agents:
                keys.setdefault(peer, []).append(key)
        for peer, some in keys.items():
            self.out[peer].append(m.Received(some))

    def record_results(self, results: Iterable[Unwritten]) -> None:
        """The hub that was told of these is gone: tell the next one."""
        for peer, key, result in results:
            if self.recorder is not None and result is not None:
                self.recorder.ended(result, self._now)
            self.unwritten.append((peer, key, result))

    def _orphan_result(self, peer: bytes, result: m.Result) -> None:
        """A result of a task unknown here: of the time before our restart, or a late copy."""
        key = result.key
        settling = self._settling.get(key)
        if settling is not None:
            if settling != peer:  # its client has had another's
                self.out[peer].append(m.Received([key]))
            return
        if self._recovering and result.status in _MAY_RETRY:
            self._doubtful.append((peer, result))
            return
        self._limbo.pop(key, None)
        if self.recorder is not None:
            self.recorder.ended(result, self._now)
        client = self.numbers.get(m.client_of(key))
        if client is None:
            self._leave(peer, result)
        else:
            self._settling[key] = peer
            self.out[client].append(result)
        self._concluded(key, result.status, result.engine)

    def _judge_doubtful(self, now: float) -> None:
        """No agent has another try of these under way but what is in ``tasks``."""
        doubtful, self._doubtful = self._doubtful, []
        for peer, result in doubtful:
            if peer not in self.agents:
                continue
            key = result.key
            task = self._limbo.get(key)
            if key in self.tasks:
                self.out[peer].append(m.Received([key]))
            elif task is not None and task.retries > 0 and task.deaths < DEATHS:
                self.out[peer].append(m.Received([key]))
                self.tasks[key] = self._limbo.pop(key)
                task.engine = result.engine
                self._again(task)
            else:
                self._orphan_result(peer, result)

    def _returned(self, peer: bytes, message: m.Returned, now: float) -> None:
        back: list[Task] = []
        for key, attempt in message.tasks:
            task = self._task(key)
            if task is not None and task.agent == peer and task.attempt == attempt:
                self._release(task)
                self._finished(task, None, now)
                back.append(task)
        for task in reversed(back):
            if task.cancelled:  # and given back before the agent heard of it
                self._abort(task)
            elif self._known(task):
                self._replace(task, message.reason)

    def _known(self, task: Task) -> bool:
        """Forget a task that only a roll call told of; its client will send it again."""
        if task.work is None:
            del self.tasks[task.key]
        return task.work is not None

    def _replace(self, task: Task, reason: str) -> None:
        """Find another place for a task that came back unbegun."""
        self._place(task)

    def _down(self, peer: bytes, message: m.Down, now: float) -> None:
        agent = self.agents.get(peer)
        if agent is not None and message.engine in agent.engines:
            self._forget_engine(message.engine)

    def _forget_engine(self, engine: int) -> None:
        agent = self.engine_agent.pop(engine, None)
        if agent is not None:
            agent.engines.discard(engine)
        self._engine_went(engine)

    def _need_function(self, peer: bytes, message: m.NeedFunction, now: float) -> None:
        agent = self.agents.get(peer)
        if agent is None:
            return
        digest = message.digest
        function = self.functions.get(digest)
        if function is not None:
            agent.functions.add(digest)
            self.out[peer].append(function)
            return
        # After our restart its client has not said yet which tasks need it; it will.
        agent.functions.discard(digest)
        agent.wants.add(digest)
        orphans: list[int] = []
        for key, task in agent.held.items():
            if task.work is not None and task.work.fn == digest:
                if task.client in self.clients:
                    self.out[task.client].append(m.NeedFunction(digest))
                    return
                orphans.append(key)
        if orphans:  # nobody has their function any more
            self.out[peer].append(m.Withdraw(orphans))

    def _roll_call(self, peer: bytes, message: m.RollCall, now: float) -> None:
        """An agent says what it holds.

        Tasks that we believe it holds and it does not name are on their way: whatever was
        put into its link is delivered, in order, unless we are the ones who forgot.
        """
        agent = self.agents.get(peer)
        if agent is None:
            return
        for key, attempt, engine in message.held:
            self._adopt(agent, key, attempt, engine)
        if message.more:
            return
        agent.called = True
        for engine in agent.engines.intersection(message.ended):
            self._forget_engine(engine)  # it ended while nobody listened
        # What is another's stays so: engines change hands by the hub's word only.
        own = [e for e in message.engines if self.engine_agent.get(e, agent) is agent]
        self.join(peer, own, now)
        self._called(peer, now)

    def _adopt(self, agent: Agent, key: int, attempt: int, engine: int) -> None:
        task = self._task(key)
        if task is not None:
            if task.agent:
                if task.agent == agent.peer or task.attempt != attempt:
                    # Known, or somebody else has a newer attempt and this one's is stale.
                    return
                self._release(task)
            elif not self._drop(task):
                return
        else:
            client = self.numbers.get(m.client_of(key), b"")
            task = self._limbo.pop(key, None) or Task(key, client, None)
            self.tasks[key] = task
        task.agent = agent.peer
        task.attempt = attempt
        task.engine = engine
        agent.held[key] = task
        self._adopted(task)

    def _adopted(self, task: Task) -> None:
        """An agent turned out to hold ``task``."""

    def _called(self, peer: bytes, now: float) -> None:
        self._roll.discard(peer)
        if self._recovering and not self._roll and self._early is None:
            self._recovering = False
            self._leave_limbo(now)

    def _leave_limbo(self, now: float) -> None:
        """All agents have told what they hold: what is in limbo, nobody has."""
        self._judge_doubtful(now)
        limbo, self._limbo = self._limbo, {}
        for task in limbo.values():
            self._enter(task, now)
        self._risky.clear()
        cancels, self._cancels = self._cancels, []
        for peer, message in cancels:
            self._cancel(peer, message, now)

    def _survives(self, task: Task, now: float) -> bool:
        """An agent was gone before it called the roll, and may have run this task."""
        if task.retries > 0:
            self._spend(task)
            return True
        self.tasks[task.key] = task
        self._lost(
            task, f"a scheduler was restarted, and an agent with it: {self._unknown}", now
        )
        return False

    def _pass_on(self, peer: bytes, message: Any, now: float) -> None:
        """Route a piece of a body, or the request for one, to the other end."""
        told = message.chunk if isinstance(message, m.Load) else message
        key = told.key
        if isinstance(told, m.Chunk):
            told.written = False  # only schedulers say so
        if peer in self.clients:
            task = self._task(key)
            other = task.agent if task is not None else self._settling.get(key, b"")
            if other in self.agents:
                self._hand_on(peer, other, message)
            elif isinstance(message, m.Fetch):
                self._nobody(peer, message, "whoever kept it is gone")
            return
        client = self.numbers.get(m.client_of(key))
        if client is not None:
            self._hand_on(peer, client, message)
        elif isinstance(message, m.Fetch):
            self._nobody(peer, message, "the client that sent it is gone")

    def _hand_on(self, peer: bytes, other: bytes, message: Any) -> None:
        if isinstance(message, m.Load):
            self.loads.append((other, message))
        elif isinstance(message, m.Fetch):
            self.fetches.append((peer, other, message))
        else:
            self.out[other].append(message)

    def _nobody(self, peer: bytes, fetch: m.Fetch, why: str) -> None:
        answer = m.Chunk(fetch.key, fetch.id, fetch.offset, fetch.number, why)
        self.out[peer].append(answer)

    # -- telling ---------------------------------------------------------------------------

    def tally(self, channel: int) -> m.Tally:
        """Return the counts the hub shows."""
        held: dict[int, int] = {}
        for agent in self.agents.values():
            for task in agent.held.values():
                held[task.engine] = held.get(task.engine, 0) + 1
        engines = [
            (engine, held.get(engine, 0), done, failed)
            for engine, (done, failed) in self.counts.items()
        ]
        waiting = len(self.tasks) - sum(held.values()) + len(self._limbo)
        return m.Tally(channel, engines, waiting)


_MAY_RETRY = frozenset(
    (int(m.Status.DIED), int(m.Status.LOST), int(m.Status.ERROR), int(m.Status.REFUSED))
)
