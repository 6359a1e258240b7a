"""The direct and control schedulers (work for named engines), and the iopub relay.

A request names its targets once; each agent gets one message for all of its engines and
fans it out.  Every target answers for itself: target ``i`` under ``key + i``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from ipclusterz.core import message as m
from ipclusterz.core.broker import Broker, Out
from ipclusterz.core.recorder import Recorder
from ipclusterz.core.tasks import Agent, Task

_TEXT = (1, 2)
"""Streams that the task database keeps the beginning of: standard output and error."""


class Relay(Broker):
    """Passes requests to the engines they name, and the answers back."""

    def __init__(self, generation: int = 0) -> None:
        super().__init__(generation)
        self._pending: list[Task] = []
        self._ended: dict[int, str] = {}  # engines that are gone, and why
        self._handlers[m.Request] = self._request

    def _request(self, peer: bytes, message: m.Request, now: float) -> None:
        number = self.clients.get(peer)
        last = message.key + max(len(message.targets) - 1, 0)
        if number != m.client_of(message.key) or number != m.client_of(last):
            return
        for index, target in enumerate(message.targets):
            task = Task(message.key + index, peer, message)
            task.engine = target
            self._enter(task, now)

    def _place(self, task: Task) -> None:
        self._pending.append(task)

    def _replace(self, task: Task, reason: str) -> None:
        failure = m.Failure("EngineError", reason, engine=task.engine)
        self._fail(task, m.Status.DIED, failure)

    def _drop(self, task: Task) -> bool:
        if task in self._pending:
            self._pending.remove(task)
            return True
        return self._drop_lacking(task)

    def _engine_came(self, engine: int, agent: Agent) -> None:
        self._ended.pop(engine, None)

    def _engine_went(self, engine: int) -> None:
        self._ended.setdefault(engine, "it is no longer registered")

    def _down(self, peer: bytes, message: m.Down, now: float) -> None:
        self._ended[message.engine] = message.reason
        super()._down(peer, message, now)

    def expel(self, peer: bytes, reason: str, now: float) -> None:
        agent = self.agents.get(peer)
        for engine in agent.engines if agent is not None else ():
            self._ended[engine] = reason
        super().expel(peer, reason, now)

    def settle(self, now: float) -> None:
        """Send what waits: one message for the targets of a request that share an agent."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        bundles: dict[tuple[int, bytes], list[Task]] = {}
        for task in pending:
            agent = self.engine_agent.get(task.engine)
            if agent is None:
                self._refuse(task)
            else:
                bundles.setdefault((id(task.work), agent.peer), []).append(task)
        for (_, peer), tasks in bundles.items():
            self._send(self.agents[peer], tasks)

    def _refuse(self, task: Task) -> None:
        why = self._ended.get(task.engine)
        if why is None:
            known = sorted(self.engine_agent)
            shown = ", ".join(map(str, known[:20])) + (", ..." if len(known) > 20 else "")
            text = f"there is no engine {task.engine}; there are: {shown or 'none'}"
        else:
            text = f"engine {task.engine} has ended: {why}"
        failure = m.Failure("EngineError", text, engine=task.engine)
        self._fail(task, m.Status.REFUSED, failure)

    def _send(self, agent: Agent, tasks: list[Task]) -> None:
        work = tasks[0].work
        top = max(task.attempt for task in tasks)
        for task in tasks:
            task.attempt = top
            attempt = self._hand(task, agent, task.engine)
        self.out[agent.peer].append(
            m.Fan(
                [t.key for t in tasks],
                attempt,
                [t.engine for t in tasks],
                work.op,
                work.fn,
                work.data,
                work.body,
            )
        )


class StreamRelay:
    """Brings the output of tasks to the clients that asked for them."""

    def __init__(self) -> None:
        self.out: Out = defaultdict(list)
        self.clients: dict[bytes, int] = {}
        self.numbers: dict[int, bytes] = {}
        self.recorder: Recorder | None = None

    def admit(self, peer: bytes, role: int, number: int, uuid: str = "") -> None:
        """Let a peer in."""
        if role == m.Role.CLIENT:
            self.clients[peer] = number
            self.numbers[number] = peer

    def expel(self, peer: bytes, reason: str, now: float) -> None:
        """A peer is gone."""
        number = self.clients.pop(peer, None)
        if number is not None:
            del self.numbers[number]

    def handle(self, peer: bytes, messages: Iterable[Any], now: float) -> None:
        """Pass each piece of text to the client whose task wrote it."""
        numbers = self.numbers
        recorder = self.recorder
        for message in messages:
            if recorder is not None and message.name in _TEXT:
                recorder.output(message.key, message.name, message.text)
            client = numbers.get(message.key >> m.COUNTER_BITS)
            if client is not None:
                self.out[client].append(message)
