"""A whole cluster in one thread: the cores and the links, under a clock of our own.

Nothing here opens a socket or waits.  Messages travel as the packets they would be, with
delays drawn from a seed; connections break and lose what is in flight; engines crash in the
middle of a task; agents vanish; schedulers are restarted and know nothing.  The same seed
gives the same run.

``World.check`` holds the promises: each submitted task ends in exactly one delivered
outcome, a task without retries runs at most once, values are right, and what failed has a
fault to blame.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Any

import msgspec

from ipclusterz.core import actions as do
from ipclusterz.core import estate, membership
from ipclusterz.core import message as m
from ipclusterz.core import registry as r
from ipclusterz.core.balance import LOOK_AFTER, Balancer
from ipclusterz.core.custody import Custody
from ipclusterz.core.functions import Functions
from ipclusterz.core.ledger import Ledger, task
from ipclusterz.core.link import Link
from ipclusterz.core.message import Channel, Op, Role, Status
from ipclusterz.core.registry import Minted, Registry
from ipclusterz.core.relay import Relay

WORK = (Channel.TASK, Channel.DIRECT, Channel.CONTROL)
RECONNECT = 0.05
NOTHING = object()
"""What an event returns after which nobody has anything to send; most are such ticks."""


class World:
    """Clock, events, network and all members of one simulated cluster."""

    def __init__(self, seed: int, *, delay: float = 0.002, scheme: str = "leastload") -> None:
        self.random = random.Random(seed)
        self.hub_since = 0.0
        self.now = 0.0
        self.delay = delay
        self.duplicates = 0.0  # the share of packets that arrive twice
        self.scheme = scheme
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0
        self.registry = Registry(lease=30.0, heartbeat=1.0)
        self.journal = b""
        self.estate = b""  # what the task scheduler wrote of clients that left
        self.left: list[ClientNode] = []
        self.orphans: dict[int, ClientNode] = {}  # their tasks that had not ended
        self.recorded: dict[int, list[m.Result]] = defaultdict(list)
        self.keeps = False  # whether the controller was started with -r
        self.schedulers: dict[int, SchedulerNode] = {}
        self.agents: list[AgentNode] = []
        self.clients: list[ClientNode] = []
        self.by_connection: dict[bytes, Any] = {}
        self.by_peer: dict[bytes, Any] = {}
        self.runs: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        for channel in (*WORK, Channel.IOPUB):
            self.schedulers[channel] = SchedulerNode(self, channel, 0)

    # -- time ------------------------------------------------------------------------------

    def later(self, delay: float, act: Callable[[], object]) -> None:
        """Do something after a delay; it may return ``NOTHING`` when nothing came of it."""
        self._count += 1
        heapq.heappush(self._events, (self.now + delay, self._count, act))

    def lag(self) -> float:
        return self.delay * (0.2 + self.random.random())

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        settled = False  # something may have been asked since the last event
        while self._events and not done():
            when, _, act = self._events[0]
            if when > until:
                break
            heapq.heappop(self._events)
            self.now = max(self.now, when)
            if act() is not NOTHING or not settled:
                self.settle()
                settled = True

    def settle(self) -> None:
        """Carry what the cores left; messages between processes take their time."""
        # Nearly always there is nothing: what costs most is to find that out.
        if self.registry.out:
            self._carry_hub()
        for scheduler in self.schedulers.values():
            if scheduler.busy():
                scheduler.carry()
        for agent in self.agents:
            agent.carry()
        for client in self.clients:
            client.carry()

    # -- the hub ---------------------------------------------------------------------------

    def _carry_hub(self) -> None:
        while self.registry.out:
            out, self.registry.out = self.registry.out, []
            for kind, where, what in out:
                if kind == r.R_REGISTRATION:
                    node = self.by_connection.get(where)
                    if node is not None:
                        self.later(self.lag(), lambda n=node, w=what: n.from_hub(w))
                elif kind == r.R_SCHEDULER:
                    self.schedulers[where].tell(what)
                elif kind == r.R_QUERY:
                    node = self.by_peer.get(where)
                    if isinstance(node, ClientNode):
                        self.later(self.lag(), lambda n=node, w=what: n.from_hub(w))
                elif kind == r.R_KEEP:
                    self.journal += membership.written(what)

    def register(
        self,
        node: Any,
        role: Role,
        n: int,
        *,
        engines: list[int] | None = None,
        peer: bytes = b"",
    ) -> None:
        if not peer:
            node.wanted = n
        if not self.registry.complete:
            # A hub hears nobody before the schedulers have told it what they know.
            again: Any = {"engines": engines, "peer": peer}
            self.later(RECONNECT, lambda: self.register(node, role, n, **again))
            return
        connection = self.random.randbytes(5)
        self.by_connection[connection] = node
        minted = Minted(self.random.randbytes(16), b"s" * 32, b"p")
        register = m.Register(int(role), m.PROTOCOL, "sim", "host", "", 1, n)
        register.engines, register.peer = engines or [], peer
        if peer in self.registry.peers:
            register.session = self.registry.peers[peer].admit.session
        self.registry.register(connection, int(role), register, minted, self.now)

    # -- members ---------------------------------------------------------------------------

    def add_agent(self, engines: int) -> AgentNode:
        node = AgentNode(self)
        self.agents.append(node)
        self.register(node, Role.ENGINE, engines)
        return node

    def add_client(self) -> ClientNode:
        node = ClientNode(self)
        self.clients.append(node)
        self.register(node, Role.CLIENT, 0)
        return node

    # -- faults ----------------------------------------------------------------------------

    def restart_scheduler(self, channel: Channel) -> None:
        self.faults["scheduler"] += 1
        old = self.schedulers[channel]
        old.dead = True
        self.schedulers[channel] = SchedulerNode(self, channel, old.generation + 1)
        for node in (*self.agents, *self.clients):
            pipe = node.pipes.get(channel)
            if pipe is not None:
                pipe.cut()

    def restart_hub(self) -> None:
        """The hub ends; the next one learns from schedulers, then peers come back to it."""
        self.faults["hub"] += 1
        self.hub_since = self.now
        self.registry = Registry(lease=30.0, heartbeat=1.0)
        if self.keeps:
            self.registry.restore(membership.read(self.journal), self.now, 0.0)
        for scheduler in self.schedulers.values():
            scheduler.greet()
        for node in (*self.agents, *self.clients):
            self.later(RECONNECT * (1 + self.random.random()), lambda n=node: self._back(n))

    def restart_controller(self, away: float) -> None:
        """All of it is killed, and started again with ``-r``: only the journal is left."""
        self.faults["controller"] += 1
        self.hub_since = self.now
        members = membership.read(self.journal)
        self.registry = Registry(lease=30.0, heartbeat=1.0, first_number=100_000 + self._count)
        self.registry.restore(members, self.now, away)
        era = self.random.getrandbits(30) + 1
        for channel, old in list(self.schedulers.items()):
            old.dead = True
            self.schedulers[channel] = SchedulerNode(self, Channel(channel), era)
        for node in (*self.agents, *self.clients):
            for pipe in node.pipes.values():
                pipe.cut()
            pause = away + RECONNECT * (1 + self.random.random())
            self.later(pause, lambda n=node: self._back(n))

    def _back(self, node: Any) -> None:
        if node.dead:
            return
        role = Role.ENGINE if isinstance(node, AgentNode) else Role.CLIENT
        if not node.peer:  # the old hub did not live to answer
            self.register(node, role, node.wanted)
            return
        engines = sorted(node.engines) if role == Role.ENGINE else []
        self.register(node, role, len(engines), engines=engines, peer=node.peer)

    def leave(self, node: ClientNode) -> None:
        """A client says goodbye, whatever it has under way."""
        self.faults["client"] += 1
        node.dead = True
        self.clients.remove(node)
        self.left.append(node)
        for pipe in node.pipes.values():
            pipe.close()
        self._bury(node)

    def silence(self, node: AgentNode, seconds: float) -> None:
        """The hub hears nothing of an agent for a while, though its links may work."""
        self.faults["silence"] += 1
        self.registry._absent(node.peer, True)

        def back() -> None:
            if not node.dead:
                self.registry._absent(node.peer, False)

        self.later(seconds, back)

    def forget_functions(self) -> None:
        """Caches are full: every scheduler and agent evicts all functions it has."""
        self.faults["functions"] += 1
        for channel in WORK:
            core = self.schedulers[channel].core
            pinned, core.functions = core.functions.pinned, Functions()
            core.functions.pinned = pinned
        for agent in self.agents:
            agent.custody.functions = Functions()

    def kill_agent(self, node: AgentNode) -> None:
        self.faults["agent"] += 1
        node.dead = True
        for pipe in node.pipes.values():
            pipe.close()
        self.agents.remove(node)
        self.later(self.lag(), lambda: self._bury(node))

    def _bury(self, node: Any) -> None:
        """Stand in for the lease: a hub that was restarted meanwhile may know it again."""
        known = node.peer in self.registry.peers or not self.registry.complete
        if self.registry.complete:
            self.registry.gone(node.peer, "killed")
        if known or self.now < self.hub_since + 5.0:
            self.later(0.5, lambda: self._bury(node))

    # -- the verdict -----------------------------------------------------------------------

    def check(self) -> None:
        for client in self.clients:
            for key in client.submitted:
                outcomes = client.outcomes.get(key, [])
                assert len(outcomes) == 1, f"task {key:x} has {len(outcomes)} outcomes"
                self._check_outcome(client, key, outcomes[0])
        for key, client in self.orphans.items():
            ends = self.recorded[key]
            assert ends, f"task {key:x}, whose client left, did not end"
            # An end of which a scheduler did not live to tell the client may be followed by
            # another one; a value is the last word.
            told = [end.status != Status.OK for end in ends]
            assert told.count(False) <= 1 and all(told[:-1]), f"task {key:x}: {told}"
            self._check_outcome(client, key, ends[-1])
        core = self.schedulers[Channel.TASK].core
        assert core.estate.over, f"{len(core.estate.keys)} tasks are left"

    def peaceful(self) -> bool:
        """Whether nothing is under way any more."""
        if not all(client.done() for client in self.clients):
            return False
        return all(self.recorded[key] for key in self.orphans)

    def _check_outcome(self, client: ClientNode, key: int, result: m.Result) -> None:
        runs = self.runs[key]
        retries = client.submitted[key]
        assert runs <= 1 + retries, f"task {key:x} ran {runs} times"
        if result.status == Status.OK:
            assert result.data == value_of(key), f"task {key:x} has a foreign value"
            assert runs >= 1
            self._check_dependency(client, key, result)
        elif client.impossible(key, result, self.recorded):
            assert runs == 0, f"task {key:x} ran though it could not"
        elif result.status in (Status.DIED, Status.REFUSED, Status.LOST):
            faults = self.faults["engine"] or self.faults["agent"] or self._unknown(client)
            assert faults, f"{key:x}: {result.data!r}"
        else:
            assert result.status == Status.ABORTED
            assert key in client.cancelled or self._unknown(client)
            # With retries, an earlier attempt may have run and died.
            assert runs <= retries, f"task {key:x} ran though it was cancelled before it began"

    def _unknown(self, client: ClientNode) -> bool:
        """Whether functions may have gone before the client did that could send them again.

        A scheduler that is new asks for them, and its client may leave instead of answering.
        """
        gone = ("functions", "scheduler", "controller")
        return client.dead and any(self.faults[fault] for fault in gone)

    def _check_dependency(self, client: ClientNode, key: int, result: m.Result) -> None:
        depend = client.after.get(key)
        if depend is None:
            return
        ends = client.ends(depend, self.recorded)
        good = [e for e in ends if (depend.success if not e.status else depend.failure)]
        # A task that did not run to its end has no time of its own.
        before = [e for e in good if e.finished <= result.started + 1e-9]
        if depend.all:
            assert len(before) == len(depend.keys), f"task {key:x} did not wait"
        else:
            assert before, f"task {key:x} waited for none"


def value_of(key: int) -> bytes:
    return b"value of %x" % key


class Pipe:
    """A link between a peer and whichever scheduler serves a channel."""

    def __init__(
        self,
        world: World,
        channel: Channel,
        peer: bytes,
        accepts: Any,
        on_messages: Callable[[list[Any]], None],
        on_renewed: Callable[[], None],
    ) -> None:
        self.world = world
        self.channel = channel
        self.peer = peer
        self.link = Link(accepts)
        self.link_id = -1
        self.up = False
        self.queued = False
        self._on_messages = on_messages
        self._on_renewed = on_renewed
        self._connection = 0
        self._closed = False
        self._last = [0.0, 0.0]  # packets of one direction stay in order
        world.later(world.lag(), self._connect)

    def cut(self) -> None:
        """The connection breaks: what is in flight is lost."""
        self._connection += 1
        self.up = False
        if not self._closed:
            self.world.later(RECONNECT * self.world.random.random() * 4, self._connect)

    def close(self) -> None:
        self._closed = True
        self._connection += 1
        self.up = False

    def _connect(self) -> None:
        if self._closed or self.up:
            return
        scheduler = self.world.schedulers[self.channel]
        member = scheduler.members.get(self.peer)
        if member is None:
            self.world.later(RECONNECT, self._connect)
            return
        self._connection += 1
        resumed = self.link_id == member.link_id
        received, theirs = (member.link.received, self.link.received) if resumed else (0, 0)
        if not resumed and member.link.received:
            member.link.reset()
        member.pipe = self
        if not resumed:
            scheduler.core.renewed(self.peer)
        for packet, _ in member.link.resume(theirs):
            self._travel(packet, to_peer=True)
        again: list[bytes] = []
        if resumed:
            again = [packet for packet, _ in self.link.resume(received)]
        else:
            if self.link_id >= 0:
                self.link.reset()
            self.link_id = member.link_id
        self.up = True
        for packet in again:
            self._travel(packet, to_peer=False)
        if not resumed:
            self._on_renewed()

    def _travel(self, packet: bytes, to_peer: bool) -> None:
        connection = self._connection
        at = max(self.world.now + self.world.lag(), self._last[to_peer])
        self._last[to_peer] = at + 1e-9

        def arrive() -> None:
            if connection != self._connection:
                return
            if to_peer:
                messages = self.link.feed(packet)
                if messages:
                    self._on_messages(messages)
                    self.world.later(0.1, self._acknowledge)
            else:
                self.world.schedulers[self.channel].receive(self, packet)

        self.world.later(at - self.world.now, arrive)
        if self.world.duplicates and self.world.random.random() < self.world.duplicates:
            self._last[to_peer] += 1e-4  # a copy, before anything else
            self.world.later(at + 1e-4 - self.world.now, arrive)

    def _acknowledge(self) -> None:
        packet = self.link.acknowledgement(force=True) if self.up else None
        if packet is not None:
            self._travel(packet, to_peer=False)

    def put(self, message: Any) -> None:
        self.queued = True
        self.link.put(message)

    def pump(self) -> None:
        if self.up:
            for packet in self.link.take():
                self._travel(packet, to_peer=False)
            self.queued = bool(self.link.waiting)

    def to_peer(self, packet: bytes) -> None:
        if self.up:
            self._travel(packet, to_peer=True)


class Member:
    """A scheduler's side of one link."""

    def __init__(self, accepts: Any, link_id: int) -> None:
        self.link = Link(accepts)
        self.link_id = link_id
        self.pipe: Pipe | None = None


class SchedulerNode:
    """A scheduler process with its core and its half of the links."""

    def __init__(self, world: World, channel: Channel, generation: int) -> None:
        self.world = world
        self.channel = channel
        self.generation = generation
        self.dead = False
        self.looking = False
        self.members: dict[bytes, Member] = {}
        self.queued: dict[bytes, Member] = {}  # for whom something waits
        self.core: Any = (
            Balancer(generation, world.scheme, seed=world.random.randrange(1 << 30))
            if channel == Channel.TASK
            else Relay(generation)
        )
        if channel == Channel.TASK:
            self.core.recorder = EndRecorder(world)
            if generation:
                self.core.inherit(estate.read(world.estate), world.now)
        self._last = 0.0
        self.admits: dict[bytes, m.Admit] = {}
        self.lost: tuple[float, str] | None = None
        self.greet()
        world.later(0.1, self._tick)

    def greet(self) -> None:
        """Tell the hub that is there, or will be, what we know."""
        registry = self.world.registry

        def say() -> None:
            if not self.dead and registry is self.world.registry:
                known = getattr(self.core, "engine_agent", {}).items()
                engines = [(engine, agent.peer) for engine, agent in known]
                admits = list(self.admits.values())
                hello = m.Hello(self.channel, self.generation, admits, engines)
                if self.lost is not None:
                    hello.lost = (self.world.now - self.lost[0], self.lost[1])
                registry.scheduler(hello, self.world.now)

        self.world.later(self.world.lag(), say)

    def _tick(self) -> object:
        if not self.dead:
            self.core.tick(self.world.now)
            self.world.later(0.1, self._tick)
        return None if self.busy() else NOTHING

    def tell(self, message: Any) -> None:
        at = max(self.world.now + self.world.lag(), self._last)
        self._last = at + 1e-9
        registry = self.world.registry
        self.world.later(at - self.world.now, lambda: self._told(message, registry))

    def _told(self, message: Any, registry: Registry) -> None:
        if self.dead or registry is not self.world.registry:
            return
        core, now = self.core, self.world.now
        if isinstance(message, m.Admit):
            self.admits[message.peer] = message
            if message.peer not in self.members:
                accepts = m.FromAgentWork if message.role else m.FromClientTask
                if self.channel != Channel.TASK and not message.role:
                    accepts = m.FromClientDirect
                link_id = self.world.random.randrange(1 << 60)
                self.members[message.peer] = Member(accepts, link_id)
            core.admit(message.peer, message.role, message.number)
        elif isinstance(message, m.Expel):
            admit = self.admits.pop(message.peer, None)
            if admit is not None and admit.role == Role.ENGINE:
                self.lost = (now, message.reason)
            if admit is not None and self.channel == Channel.TASK:
                self._note_left(admit)
            core.expel(message.peer, message.reason, now)
            if self.channel == Channel.TASK:
                core.write_down()
            self.members.pop(message.peer, None)
            self.queued.pop(message.peer, None)
        elif isinstance(message, m.Join):
            core.join(message.agent, message.engines, now)
        elif isinstance(message, m.Roster):
            core.roster(message.agents, now, message.lost)
        elif isinstance(message, m.Absent):
            core.absent(message.agent, message.absent, now)
        ack = m.Ack(self.channel, message.rev)
        self.world.later(self.world.lag(), lambda: registry.ack(ack))

    def receive(self, pipe: Pipe, packet: bytes) -> None:
        member = self.members.get(pipe.peer)
        if member is None or member.pipe is not pipe:
            return
        messages = member.link.feed(packet)
        if messages:
            self.core.handle(pipe.peer, messages, self.world.now)
            self.world.later(0.1, lambda: self._acknowledge(member))

    def _acknowledge(self, member: Member) -> None:
        if self.dead or member.pipe is None or not member.pipe.up:
            return
        packet = member.link.acknowledgement(force=True)
        if packet is not None:
            member.pipe.to_peer(packet)

    def _look(self) -> None:
        self.looking = False
        if not self.dead:
            self.core.settle(self.world.now)

    def _note_left(self, admit: m.Admit) -> None:
        """A client leaves: what the scheduler has of it must come to an end."""
        client = self.world.by_peer.get(admit.peer)
        if isinstance(client, ClientNode):
            for key, task in (*self.core.tasks.items(), *self.core._limbo.items()):
                if m.client_of(key) == admit.number and getattr(task, "work", task) is not None:
                    self.world.orphans[key] = client

    def _carry_estate(self) -> None:
        kept = self.core.estate
        if kept.over:
            kept.out, self.world.estate = [], b""
        elif kept.wasteful:
            self.core.rewrite()
            self.world.estate = b""
        out, kept.out = kept.out, []
        self.world.estate += estate.written(out)

    def busy(self) -> bool:
        """Whether there is anything to carry."""
        core = self.core
        if core.out or self.queued or core.unwritten:
            return True
        return self.channel == Channel.TASK and bool(core.estate.out)

    def carry(self) -> None:
        if self.dead:
            return
        if self.core.unwritten:
            results, self.core.unwritten = self.core.unwritten, []
            self.world.later(0.1, lambda: self.core.written(results))
        if self.channel == Channel.TASK and self.core.estate.out:
            self._carry_estate()
        if self.channel == Channel.TASK and self.core.uneasy and not self.looking:
            self.looking = True
            self.world.later(LOOK_AFTER, self._look)
        if self.core.out:
            out, self.core.out = self.core.out, defaultdict(list)
            for peer, messages in out.items():
                member = self.members.get(peer)
                if member is not None and messages:
                    member.link.extend(messages)
                    self.queued[peer] = member
        if self.queued:
            self._send()

    def _send(self) -> None:
        """Send what waits for those who are connected."""
        for peer, member in list(self.queued.items()):
            if member.pipe is not None and member.pipe.up:
                for packet in member.link.take():
                    member.pipe.to_peer(packet)
            if not member.link.waiting:
                del self.queued[peer]


class EndRecorder:
    """Stands for the task database: what was recorded is never lost."""

    def __init__(self, world: World) -> None:
        self._recorded = world.recorded

    def run(self, *told: Any) -> None:
        pass

    def results(self, results: m.Results, now: float) -> None:
        for result in results.singly():
            self.ended(result, now)

    def begun(self, *told: Any) -> None:
        pass

    def function(self, digest: bytes, data: bytes) -> None:
        pass

    def ended(self, result: m.Result, now: float) -> None:
        told = self._recorded[result.key]
        if result not in told:  # an agent tells a scheduler that is new again
            told.append(result)


class AgentNode:
    """An agent with its custody and simulated engines."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.peer = b""
        self.wanted = 0
        self.dead = False
        self.custody = Custody(lease=1000.0)
        self.engines: dict[int, SimEngine] = {}
        self.pipes: dict[int, Pipe] = {}

    def from_hub(self, message: Any) -> None:
        if self.dead or not isinstance(message, m.Registered):
            return
        if self.peer:
            self._announce(sorted(self.engines))  # a hub that was restarted
            return
        self.peer = message.peer
        self.world.by_peer[self.peer] = self
        for channel in WORK:
            self.pipes[channel] = Pipe(
                self.world,
                channel,
                self.peer,
                m.ToAgentWork,
                lambda messages, ch=channel: self.custody.handle(ch, messages, self.world.now),
                lambda ch=channel: self.custody.renewed(ch),
            )
        for number in message.engines:
            self.world.later(0.01 * self.world.random.random(), lambda n=number: self._up(n))
        self.world.later(0.02, self._tick)

    def _up(self, number: int) -> None:
        if self.dead:
            return
        self.engines[number] = SimEngine(self, number)
        self.custody.engine_up(number, self.world.now)
        self._announce([number])

    def _announce(self, numbers: list[int]) -> None:
        infos = [m.EngineInfo(n, "host", n + 100, self.peer) for n in numbers]
        self._tell_hub(lambda: self.world.registry.engines_up(self.peer, infos, 0.0))

    def _tell_hub(self, act: Callable[[], None]) -> None:
        self.world.later(self.world.lag(), act)

    def _tick(self) -> object:
        if not self.dead:
            self.custody.tick(self.world.now)
            self.world.later(0.02, self._tick)
        return None if self.custody.out else NOTHING

    def carry(self) -> None:
        while self.custody.out and not self.dead:
            out, self.custody.out = self.custody.out, []
            for action in out:
                kind = action[0]
                if kind == do.SEND:
                    pipe = self.pipes.get(action[1])
                    if pipe is not None:
                        pipe.put(action[2])
                    continue
                engine = self.engines.get(action[1]) if kind != do.DROP else None
                if engine is None:
                    continue
                if kind == do.BATCH:
                    engine.give(action[2], action[3])
                elif kind == do.RECLAIM:
                    engine.reclaim()
                elif kind == do.REVOKE:
                    engine.revoke()
                elif kind == do.STOP:
                    engine.crash("asked to stop")
        for pipe in self.pipes.values():
            if pipe.queued:
                pipe.pump()


class SimEngine:
    """An engine: unread datagrams, a batch it runs, and a crash now and then."""

    def __init__(self, agent: AgentNode, number: int) -> None:
        self.agent = agent
        self.world = agent.world
        self.number = number
        self.unread: deque[tuple[list[tuple[bytes, bytes]], list[m.Work]]] = deque()
        self.functions: set[bytes] = set()
        self.batch: deque[m.Work] = deque()
        self.committed: list[m.Outcome] = []
        self.running = 0
        self.started = 0.0
        self.dead = False
        self.revoked = False

    def give(self, functions: list[tuple[bytes, bytes]], works: list[m.Work]) -> None:
        self.unread.append((functions, works))
        if not self.running and not self.batch:
            self.world.later(1e-5, self._read)

    def _read(self) -> None:
        if self.dead or self.running or self.batch or not self.unread:
            return
        functions, works = self.unread.popleft()
        self.functions.update(digest for digest, _ in functions)
        self.batch.extend(works)
        self._next()

    def _next(self) -> None:
        if not self.batch:
            outcomes, self.committed = self.committed, []
            self.agent.custody.outcomes(self.number, outcomes, self.world.now)
            self.world.later(0.0, self._read)
            return
        if self.revoked:
            self.revoked = False
            undone = [work.key for work in self.batch]
            self.batch.clear()
            outcomes, self.committed = self.committed, []
            self.agent.custody.outcomes(self.number, outcomes, self.world.now)
            self.agent.custody.undone(self.number, [], undone, self.world.now)
            self.world.later(0.0, self._read)
            return
        work = self.batch.popleft()
        assert not work.fn or work.fn in self.functions, "a function the engine was not given"
        self.running = work.key
        self.started = self.world.now
        self.world.runs[work.key] += 1
        self.world.later(duration_of(work, self.world), lambda: self._end(work))

    def _end(self, work: m.Work) -> None:
        if self.dead or self.running != work.key:
            return
        self.running = 0
        data = value_of(work.key)
        now = self.world.now
        self.committed.append(
            m.Outcome(work.key, int(Status.OK), data, None, self.started, now)
        )
        self._next()

    def reclaim(self) -> None:
        keys = [work.key for _, works in self.unread for work in works]
        functions = [digest for fs, _ in self.unread for digest, _ in fs]
        self.unread.clear()
        self.agent.custody.reclaimed(self.number, keys, functions, self.world.now)

    def revoke(self) -> None:
        self.revoked = True

        def look() -> None:
            if not self.dead and self.running:
                custody = self.agent.custody
                custody.outcomes(self.number, self.committed, self.world.now)
                custody.revoked(self.number, self.running, self.world.now)

        self.world.later(0.002, look)

    def crash(self, reason: str = "simulated crash") -> None:
        if self.dead:
            return
        self.dead = True
        agent, now = self.agent, self.world.now
        del agent.engines[self.number]
        agent.custody.outcomes(self.number, self.committed, now)
        agent.custody.died(self.number, reason, self.running, now)
        number = self.number
        agent._tell_hub(lambda: self.world.registry.engine_down(agent.peer, number, reason))


def duration_of(work: m.Work, world: World) -> float:
    """Return how long a task takes: the first byte of its data says in which class.

    ``t`` and a number are that many seconds.
    """
    kind = work.data[:1]
    if kind == b"t":
        return float(work.data[1:])
    if kind == b"l":
        return 0.5 + world.random.random()
    if kind == b"m":
        return 0.01 * world.random.random()
    return 1e-5


class Packed:
    """A function for the simulation."""

    def __init__(self, name: bytes) -> None:
        self.digest = name.ljust(16, b"_")
        self.data = b"code of " + name


class ClientNode:
    """A client with its ledger; submits and remembers what came."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.peer = b""
        self.wanted = 0
        self.dead = False
        self.owes = False  # an acknowledgement that is about to leave
        self.ledger = Ledger()
        self.pipes: dict[int, Pipe] = {}
        self.engines: set[int] = set()
        self.submitted: dict[int, int] = {}  # key -> retries
        self.cancelled: set[int] = set()
        self.after: dict[int, m.Depend] = {}
        self.balanced: set[int] = set()
        self.outcomes: dict[int, list[m.Result]] = {}
        self.functions = [Packed(b"f%d" % i) for i in range(3)]
        self.inbox: list[Any] = []  # tasks that are to be entered

    def from_hub(self, message: Any) -> None:
        if isinstance(message, m.Engines):
            if message.full:
                self.engines.clear()
            self.engines.update(e.id for e in message.up)
            self.engines.difference_update(e for e, _ in message.down)
        elif isinstance(message, m.Registered) and not self.peer:
            self.peer = message.peer
            self.world.by_peer[self.peer] = self
            self.ledger = Ledger(message.number)
            for channel in WORK:
                self.pipes[channel] = Pipe(
                    self.world,
                    channel,
                    self.peer,
                    m.ToClientWork,
                    lambda messages, ch=channel: self.ledger.handle(ch, messages),
                    lambda ch=channel: self.ledger.renewed(ch),
                )

    def deliver(self, key: int, result: m.Result) -> None:
        self.outcomes.setdefault(key, []).append(result)

    def ends(self, depend: m.Depend, recorded: dict[int, list[m.Result]]) -> list[m.Result]:
        """How the tasks of a dependency ended, as it was told or written down."""
        told = (self.outcomes.get(k) or recorded.get(k) for k in depend.keys)
        return [ends[-1] for ends in told if ends]

    def impossible(
        self, key: int, result: m.Result, recorded: dict[int, list[m.Result]]
    ) -> bool:
        """Whether it ended because a task it waited for did not end as wanted."""
        if result.status != Status.REFUSED or key not in self.after:
            return False
        failure = msgspec.msgpack.decode(result.data, type=m.Failure)
        if failure.name != "ImpossibleDependency":
            return False
        depend = self.after[key]
        ends = self.ends(depend, recorded)
        good = [e for e in ends if (depend.success if not e.status else depend.failure)]
        assert len(good) < len(depend.keys) if depend.all else not good, failure.text
        return True

    def submit(
        self,
        kind: bytes = b"s",
        retries: int = 0,
        after: m.Depend | None = None,
        fn: Any = None,
    ) -> int:
        key = self.ledger.reserve()
        fn = fn or self.world.random.choice(self.functions)
        opt = m.Options(retries=retries) if retries else None
        if after is not None:
            self.after[key] = after
            known = [(k, self.outcomes[k][0]) for k in after.keys if k in self.outcomes]
            after.known = [(k, not end.status, end.engine) for k, end in known]
            opt = m.Options(retries=retries, after=after)
        self.submitted[key] = retries
        self.balanced.add(key)
        self.inbox.append(task(key, int(Op.APPLY), fn, kind, None, opt, self))
        return key

    def _enter(self) -> None:
        entries, self.inbox = self.inbox, []
        self.ledger.enter(entries)

    def submit_lasting(self, seconds: float) -> int:
        """Submit a task that takes this long."""
        return self.submit(b"t%r" % seconds)

    def request(self, targets: list[int], kind: bytes = b"s") -> int:
        key = self.ledger.reserve(len(targets))
        fn = self.world.random.choice(self.functions)
        for index in range(len(targets)):
            self.submitted[key + index] = 0
        channel = int(Channel.DIRECT)
        self._enter()
        self.ledger.request(key, channel, int(Op.APPLY), fn, kind, None, targets, self)
        return key

    def cancel(self, keys: list[int]) -> None:
        self.cancelled.update(keys)
        self._enter()
        self.ledger.cancel(keys)

    def done(self) -> bool:
        return not self.ledger.pending and not self.inbox

    def _acknowledge(self) -> None:
        self.owes = False
        self.ledger.acknowledge()

    def carry(self) -> None:
        if self.inbox:
            self._enter()
        if self.ledger.received and not self.owes:
            if self.world.random.random() < 0.3:
                self.ledger.acknowledge()
            else:
                self.owes = True
                self.world.later(0.02, self._acknowledge)
        out, self.ledger.out = self.ledger.out, defaultdict(list)
        for channel, messages in out.items():
            for message in messages:
                self.pipes[channel].put(message)
        for pipe in self.pipes.values():
            if pipe.queued:
                pipe.pump()
