"""The hub's decisions: who is a member, which engines there are, and who must be told.

Order matters more than speed here.  A peer is answered only after every scheduler has said
that it knows the peer, and clients hear of engines only after every scheduler has said that
it knows them; so whoever was told can act at once and is not refused.  Each change that
schedulers must know has a revision; what waits for it is kept until all have acknowledged.

Engine ids and client numbers are never given twice.  A hub that was restarted learns peers
and engines from the schedulers, which outlive it.

Randomness (ids, keys, passwords) comes in with the events.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from ipclusterz.core import census
from ipclusterz.core import message as m
from ipclusterz.core.alike import alike
from ipclusterz.core.batchjob import belongs
from ipclusterz.core.liveness import Liveness
from ipclusterz.core.membership import Brought, Came, Membership, Went
from ipclusterz.core.message import Channel, Role
from ipclusterz.core.ranks import MOST_RANKS, Rank

R_REGISTRATION = 0  # (R_REGISTRATION, connection, message)
R_SCHEDULER = 1  # (R_SCHEDULER, channel, message)
R_QUERY = 2  # (R_QUERY, peer, message)
R_LOCAL = 3  # (R_LOCAL, None, Admit or Expel): for the hub's own doors
R_LOG = 4  # (R_LOG, level, text)
R_BEAT = 6  # (R_BEAT, peer, message): by the heartbeat's link, which outlives connections
R_KEEP = 5  # (R_KEEP, None, record): for the journal, if there is one

Action = tuple[int, Any, Any]

LOST_SECONDS = 10.0
"""For so long a scheduler that is new is told of an agent that went: its clients may not have
heard yet, and may send again what the agent has run."""

_LATE_SECONDS = 60.0  # how much an agent's clock and the journal's time may differ

JOB_ENDED = "ended"
MOST_JOBS = 1000
"""Batch jobs that are remembered, with those that have ended."""

SCHEDULERS: tuple[Channel, ...] = (
    Channel.DIRECT,
    Channel.TASK,
    Channel.CONTROL,
    Channel.IOPUB,
)


class Peer:
    """One member: a client, or an agent with its engines."""

    __slots__ = (
        *("admit", "boot", "connection", "draining", "engines", "host", "id", "job", "pid"),
        *("role", "since", "turn", "uuid", "world"),
    )

    def __init__(self, admit: m.Admit) -> None:
        self.id = admit.peer
        self.role = admit.role
        self.admit = admit
        self.connection = b""
        self.host = ""
        self.boot = ""
        self.pid = 0
        self.uuid = ""
        self.job = ""
        self.world = ""
        self.draining = False
        self.since = 0.0
        self.turn = 0  # of its attempts, the one that counts
        self.engines: dict[int, m.EngineInfo] = {}


class Minted:
    """Fresh secrets for one peer, made by the shell."""

    __slots__ = ("password", "peer", "session")

    def __init__(self, peer: bytes, session: bytes, password: bytes) -> None:
        self.peer = peer
        self.session = session
        self.password = password


class Registry:
    """All members of a cluster; ``out`` collects actions for the shell."""

    def __init__(
        self,
        *,
        cluster_id: str = "",
        addresses: list[list[str]] | None = None,
        lease: float = 600.0,
        heartbeat: float = 1.0,
        version: str = "",
        first_number: int = 1,
    ) -> None:
        self.out: list[Action] = []
        self.peers: dict[bytes, Peer] = {}
        self.engine_peer: dict[int, Peer] = {}
        self.liveness = Liveness(heartbeat, lease)
        self.tallies: dict[int, m.Tally] = {}
        self.departed: deque[tuple[int, str]] = deque(maxlen=1000)
        self.jobs: dict[str, tuple[str, str]] = {}  # batch jobs: state and text, the last last
        self.closing = ""
        self._cluster_id = cluster_id
        self._addresses = addresses or []
        self._version = version
        self._next_number = first_number
        self._next_engine = 0
        self._reserved: dict[int, bytes] = {}  # ids given to an agent, its engine up or not
        self._worlds: dict[str, tuple[int, int, set[int]]] = {}  # MPI jobs that are coming
        self._broken: deque[tuple[str, str]] = deque(maxlen=100)  # MPI jobs, and a lost engine
        self._untold: set[int] = set()  # up, but not every scheduler knows them
        self._now = 0.0  # as last heard: coarse, and enough
        self._lost: tuple[float, str] | None = None  # when an agent last went, and why
        self._rev = 0
        self._generations: dict[int, int] = {}  # how often a scheduler was started again
        self._acked: dict[int, int] = {}  # schedulers that are there: last revision done
        self._untaught: dict[int, None] = {}  # schedulers to be told everything
        self._deferred: deque[tuple[int, Callable[[], None]]] = deque()

    # -- schedulers ------------------------------------------------------------------------

    def scheduler(self, hello: m.Hello, now: float) -> None:
        """A scheduler has come (or come back): exchange what each knows."""
        for admit in hello.peers:
            if admit.peer not in self.peers:
                peer = self._add(admit, now)
                self._next_number = max(self._next_number, admit.number + 1)
                peer.host = admit.label
        for engine, agent in hello.engines:
            self._next_engine = max(self._next_engine, engine + 1)
            self._reserved.setdefault(engine, agent)
            known = self.peers.get(agent)
            if known is not None and not known.connection and engine not in self.engine_peer:
                # Nobody but the agent knows its process id; it will tell.
                known.engines[engine] = m.EngineInfo(engine, known.host, 0, agent)
                self.engine_peer[engine] = known
        if hello.lost is not None and self._lost is None:
            # The hub before us knew, and a scheduler that is new must hear of it.
            self._lost = (now - hello.lost[0], hello.lost[1])
        self._next_number = max(self._next_number, hello.top_number + 1)
        self._next_engine = max(self._next_engine, hello.top_engine + 1)
        self._now = max(self._now, now)
        channel = hello.channel
        self._generations[channel] = hello.generation
        self._acked[channel] = 0
        self._untaught[channel] = None
        if self.complete:
            # Not before: after our own restart each of them may know what we do not yet.
            untaught, self._untaught = self._untaught, {}
            for each in untaught:
                self._teach(each)

    def restore(self, members: Membership, now: float, age: float) -> list[Peer]:
        """Take over the members of a controller that was killed; return those to be watched.

        ``age`` is how many seconds it has been gone: agents end by themselves when that is
        longer than the lease, and what they ran nobody can say.
        """
        restored: list[Peer] = []
        lost = members.lost
        if lost is not None and now - age - lost.at < LOST_SECONDS:
            self._lost = (now, lost.reason)
        late = age > self.liveness.lease + _LATE_SECONDS
        for came in members.peers.values():
            admit = came.admit
            self._next_number = max(self._next_number, admit.number + 1)
            if admit.role == Role.ENGINE and late:
                self._lost = (now, "the controller was away for longer than the lease")
                continue
            peer = self._add(admit, now)
            peer.host, peer.boot, peer.pid = came.host, came.boot, came.pid
            peer.uuid, peer.job, peer.world = came.uuid, came.job, came.world
            restored.append(peer)
            self.out.append((R_LOCAL, None, admit))
        for engine, agent in members.engines.items():
            self._next_engine = max(self._next_engine, engine + 1)
            known = self.peers.get(agent)
            if known is not None:
                self._reserved[engine] = agent
                known.engines[engine] = m.EngineInfo(engine, known.host, 0, agent)
                self.engine_peer[engine] = known
        return restored

    def _teach(self, channel: int) -> None:
        """Tell a scheduler everything, and which agents will call the roll."""
        # Agents first: a client that is let in may ask for any engine it was told of.
        for peer in sorted(self.peers.values(), key=lambda p: p.role == Role.CLIENT):
            self._tell(channel, _at(peer.admit, self._rev))
            if peer.engines:
                self._tell(channel, m.Join(self._rev, peer.id, list(peer.engines)))
            if peer.role == Role.ENGINE and (peer.draining or self.liveness.silent(peer.id)):
                self._tell(channel, m.Absent(self._rev, peer.id, True))
        agents = [p.id for p in self.peers.values() if p.role == Role.ENGINE]
        lost = ""
        if self._lost and self._now - self._lost[0] < LOST_SECONDS:
            lost = self._lost[1]
        self._tell(channel, m.Roster(self._rev, agents, lost))

    @property
    def complete(self) -> bool:
        """Whether all schedulers are there."""
        return len(self._acked) == len(SCHEDULERS)

    def ack(self, message: m.Ack) -> None:
        """A scheduler has acted on all up to a revision."""
        if message.channel in self._acked:
            self._acked[message.channel] = max(self._acked[message.channel], message.rev)
            self._flush()

    def _tell(self, channel: int, message: Any) -> None:
        self.out.append((R_SCHEDULER, channel, message))

    def _announce(self, make: Callable[[int], Any]) -> int:
        """Tell all schedulers of a change; return its revision."""
        self._rev += 1
        message = make(self._rev)
        for channel in self._acked:
            self._tell(channel, message)
        return self._rev

    def _after(self, rev: int, act: Callable[[], None]) -> None:
        """Do ``act`` when all schedulers have acknowledged ``rev``."""
        self._deferred.append((rev, act))
        self._flush()

    def _flush(self) -> None:
        if not self.complete:
            return
        done = min(self._acked.values())
        while self._deferred and self._deferred[0][0] <= done:
            self._deferred.popleft()[1]()

    # -- registration ----------------------------------------------------------------------

    def register(
        self, connection: bytes, role: int, message: m.Register, minted: Minted, now: float
    ) -> Peer | None:
        """A peer asks to be let in; ``role`` is what its key proved.

        Returns the peer, or None when it was refused, or has registered anew meanwhile.
        """
        problem = (
            self._objection(role, message) or self._taken(message) or self._pretended(message)
        )
        if self.closing and not problem:
            # One of ours on its way back ends with us; anybody else has failed to come in.
            problem = f"the controller is ending: {self.closing}"
            if message.peer in self.peers:
                self.out.append((R_REGISTRATION, connection, m.Shutdown(self.closing)))
                return None
        if problem:
            self.out.append((R_REGISTRATION, connection, m.Refused(problem)))
            return None
        peer = self._returning(role, message, minted)
        if peer is not None and message.turn < peer.turn:
            return None  # it has given this connection up, and nobody hears an answer
        if peer is None:
            number = 0
            if role == Role.CLIENT:
                number = self._next_number
                self._next_number += 1
            peer = self._add(_admit(minted, role, number, message), now)
        peer.connection, peer.turn = connection, message.turn
        peer.host, peer.boot, peer.pid = message.host, message.boot, message.pid
        peer.uuid, peer.job, peer.world = message.uuid, message.job, message.world
        peer.since = now
        self.out.append((R_KEEP, None, _came(peer)))
        self.beat(peer.id, now)
        reasons = dict(message.ended)
        for engine in set(peer.engines).difference(message.engines):
            why = reasons.get(engine, "it ended while the hub was away")
            self.engine_down(peer.id, engine, why)
        ids = self._reserve(peer, message) if role == Role.ENGINE else []
        admit = peer.admit
        self.out.append((R_LOCAL, None, admit))
        rev = self._announce(lambda r: _at(admit, r))
        self._after(rev, lambda: self._welcome(peer, ids))
        return peer

    def _objection(self, role: int, message: m.Register) -> str:
        if message.role != role:
            have = "an engine" if role == Role.ENGINE else "a client"
            want = message.role
            return (
                f"this key makes {have} of its holder, not role {want}: engines use "
                f"ipcontroller-engine.json, clients ipcontroller-client.json"
            )
        if message.size and not 0 <= message.rank < message.size <= MOST_RANKS:
            return f"there is no rank {message.rank} of {message.size}"
        if message.protocol != m.PROTOCOL:
            return (
                f"the controller is ipclusterz {self._version} and speaks protocol "
                f"{m.PROTOCOL}; you are {message.version} and speak {message.protocol}: "
                f"install the same version on both sides"
            )
        return ""

    def _taken(self, message: m.Register) -> str:
        """An agent of the time before our restart comes too late to keep its engines' ids."""
        taken = [
            engine
            for engine in message.engines
            if message.peer and self._reserved.get(engine, message.peer) != message.peer
        ]
        if not taken:
            return ""
        return (
            f"the controller was started again, and engines {taken} are others by now: end"
            f" these engines and start new ones"
        )

    def _pretended(self, message: m.Register) -> str:
        """A peer's id is no secret: who returns must have been given its session key."""
        known = self.peers.get(message.peer) if message.peer else None
        if known is not None and not alike(known.admit.session, message.session):
            return "it says that it is a peer which it is not"
        return ""

    def _returning(self, role: int, message: m.Register, minted: Minted) -> Peer | None:
        """Find a peer that was here before; it keeps its id, number and keys."""
        known = self.peers.get(message.peer) if message.peer else None
        return known if known is not None and known.role == role else None

    def _add(self, admit: m.Admit, now: float) -> Peer:
        peer = Peer(admit)
        peer.since = now
        self.peers[peer.id] = peer
        self.liveness.watch(peer.id, now)
        return peer

    def _reserve(self, peer: Peer, message: m.Register) -> list[int]:
        """Give an agent its engine ids: those it has, and new ones for the rest."""
        own = [
            engine
            for engine in message.engines
            if self._reserved.get(engine, peer.id) == peer.id
            and (engine not in self.engine_peer or self.engine_peer[engine] is peer)
        ]
        for engine in own:  # of the time before this controller was started again, perhaps
            self._reserved[engine] = peer.id
        if own:
            self._next_engine = max(self._next_engine, max(own) + 1)
        if message.size and message.n == 1 and not own:
            return [self._id_of(peer, Rank(message.rank, message.size, message.world))]
        return own + self._new_ids(peer, max(message.n - len(own), 0))

    def _id_of(self, peer: Peer, rank: Rank) -> int:
        """Give the ranks of an MPI job ids in their order, whoever comes first.

        All are set aside when the first one comes; where one comes twice, jobs without names
        of their own are told apart by nothing else, and this is the next one.
        """
        block = self._worlds.get(rank.world)
        if block is None or block[1] != rank.size or rank.rank in block[2]:
            block = self._worlds[rank.world] = (self._next_engine, rank.size, set())
            self._next_engine += rank.size
        first, size, given = block
        given.add(rank.rank)
        if len(given) == size:
            del self._worlds[rank.world]
        engine = first + rank.rank
        self._reserved[engine] = peer.id
        return engine

    def _new_ids(self, peer: Peer, n: int) -> list[int]:
        first = self._next_engine
        self._next_engine += n
        ids = list(range(first, first + n))
        for engine in ids:
            self._reserved[engine] = peer.id
        return ids

    def _welcome(self, peer: Peer, ids: list[int]) -> None:
        if self.peers.get(peer.id) is not peer:
            return
        admit = peer.admit
        answer = m.Registered(
            peer.id,
            admit.number,
            admit.session,
            admit.password,
            ids,
            self._addresses,
            self._cluster_id,
            self.liveness.lease,
            self.liveness.interval,
        )
        self.out.append((R_REGISTRATION, peer.connection, answer))
        if peer.role == Role.CLIENT:
            self.out.append((R_QUERY, peer.id, self._all_engines()))

    def allocate(self, peer_id: bytes, n: int) -> None:
        """An agent will start ``n`` more engines."""
        peer = self.peers.get(peer_id)
        if peer is not None:
            ids = self._new_ids(peer, n)
            self.out.append((R_REGISTRATION, peer.connection, m.Allocated(ids)))

    # -- engines ---------------------------------------------------------------------------

    def engines_up(self, peer_id: bytes, engines: Iterable[m.EngineInfo], now: float) -> None:
        """Engines of an agent are ready; tell schedulers first, then clients."""
        peer = self.peers.get(peer_id)
        if peer is None:
            return
        fresh: list[m.EngineInfo] = []
        again: list[int] = []  # the answer was lost with the agent's connection
        for info in engines:
            known = peer.engines.get(info.id)
            if known is not None and known.pid and info.id not in self._untold:
                again.append(info.id)
            if self._reserved.get(info.id) != peer_id or (known is not None and known.pid):
                continue
            made = m.EngineInfo(info.id, peer.host, info.pid, peer_id)
            peer.engines[info.id] = made
            self.engine_peer[info.id] = peer
            if known is None:
                self._untold.add(info.id)
            fresh.append(made)
        if again:
            self.out.append((R_REGISTRATION, peer.connection, m.Known(again)))
        if not fresh:
            return
        ids = [e.id for e in fresh]
        self.out.append((R_KEEP, None, Brought(peer_id, ids)))
        rev = self._announce(lambda r: m.Join(r, peer_id, ids))
        self._after(rev, lambda: self._up(peer, fresh))

    def _up(self, peer: Peer, fresh: list[m.EngineInfo]) -> None:
        """Every scheduler knows these engines; tell clients, unless they have ended since."""
        told = m.Known([info.id for info in fresh])
        self.out.append((R_REGISTRATION, peer.connection, told))
        self._untold.difference_update(info.id for info in fresh)
        left = [info for info in fresh if info.id in self.engine_peer]
        if left:
            self._notify(m.Engines(left, []))

    def engine_down(self, peer_id: bytes, engine: int, reason: str) -> None:
        """An engine has ended; its agent tells the schedulers itself."""
        peer = self.peers.get(peer_id)
        if peer is None or self._reserved.get(engine) != peer_id:
            return
        del self._reserved[engine]
        if peer.world:
            said = reason.partition("; its last words:")[0].partition("\n")[0]
            self._broken.append((peer.world, f"engine {engine}: {said}"))
        self.departed.append((engine, reason))
        if peer.engines.pop(engine, None) is not None:
            self.engine_peer.pop(engine, None)
            self._notify(m.Engines([], [(engine, reason)]))
        self.out.append((R_LOG, "info", f"engine {engine} has ended: {reason}"))

    def _all_engines(self) -> m.Engines:
        engines = (e for p in self.peers.values() for e in p.engines.values())
        return m.Engines([e for e in engines if e.id not in self._untold], [], True)

    def _notify(self, message: m.Engines) -> None:
        for peer in self.peers.values():
            if peer.role == Role.CLIENT:
                self.out.append((R_QUERY, peer.id, message))

    # -- leaving ---------------------------------------------------------------------------

    def gone(self, peer_id: bytes, reason: str) -> None:
        """A peer has left, or is known to be dead: its engines are gone with it."""
        peer = self.peers.pop(peer_id, None)
        if peer is None:
            return
        # A launcher of MPI kills the other ranks when one has died, and tells them nothing.
        cause = next((text for world, text in self._broken if world == peer.world), "")
        if cause and peer.engines:
            reason = f"{reason}, as its MPI job has lost {cause}"
        self.liveness.forget(peer_id)
        agent = peer.role == Role.ENGINE
        self.out.append((R_KEEP, None, Went(peer_id, self._now, reason, agent)))
        if agent:
            self._lost = (self._now, reason)
        down: list[tuple[int, str]] = []
        for engine in [e for e, p in self._reserved.items() if p == peer_id]:
            del self._reserved[engine]
            if engine in peer.engines:
                self.engine_peer.pop(engine, None)
                down.append((engine, reason))
        self.departed.extend(down)
        self.out.append((R_LOCAL, None, m.Expel(self._rev, peer_id, reason)))
        # Agents that end with the controller are no news: its clients are told of that.
        if not self.closing:
            self._announce(lambda r: m.Expel(r, peer_id, reason))
            if down:
                self._notify(m.Engines([], down))
        who = "client" if peer.role == Role.CLIENT else f"agent with {len(down)} engines"
        level = "info" if peer.role == Role.CLIENT or not down else "warning"
        self.out.append((R_LOG, level, f"{who} on {peer.host} (pid {peer.pid}): {reason}"))

    def draining(self, peer_id: bytes, reason: str) -> None:
        """An agent takes no more work; its engines end with what they run."""
        peer = self.peers.get(peer_id)
        if peer is not None and not peer.draining:
            peer.draining = True
            text = f"agent on {peer.host} (pid {peer.pid}) begins nothing new: {reason}"
            self.out.append((R_LOG, "info", text))
            self._announce(lambda r: m.Absent(r, peer_id, True))

    def note_jobs(self, told: Iterable[tuple[str, str, str]]) -> None:
        """A launcher tells of batch jobs: name, state and text; engines of ended ones go."""
        for name, state, text in told:
            for other in [other for other in self.jobs if belongs(name, other)]:
                del self.jobs[other]  # itself, and the array as a whole once parts are known
            self.jobs[name] = (state, text)
            if state == JOB_ENDED:
                for peer in [p for p in self.peers.values() if p.job and belongs(p.job, name)]:
                    self.gone(peer.id, text)
        while len(self.jobs) > MOST_JOBS:
            del self.jobs[next(iter(self.jobs))]

    def note_lost(self, told: Iterable[tuple[int, str]]) -> None:
        """A launcher knows of these engines that their agent has died, and how."""
        for engine, reason in told:
            peer = self.engine_peer.get(engine)
            if peer is not None:
                self.gone(peer.id, reason)

    def collect(self) -> int:
        """Ask schedulers for what they gathered; return the revision they acknowledge."""
        return self._announce(lambda r: m.Ship(r))

    def acknowledged(self, rev: int) -> bool:
        """Whether all schedulers that are there have acted on a revision."""
        return all(done >= rev for done in self._acked.values())

    def close(self, reason: str) -> None:
        """The controller ends: tell everybody, let nobody in."""
        self.closing = reason
        for peer in self.peers.values():
            if peer.role == Role.CLIENT:
                self.out.append((R_QUERY, peer.id, m.Shutdown(reason)))
            elif peer.connection:
                self.out.append((R_REGISTRATION, peer.connection, m.Shutdown(reason)))
            else:  # known from before our restart, and not registered again yet
                self.out.append((R_BEAT, peer.id, m.Shutdown(reason)))

    # -- liveness --------------------------------------------------------------------------

    def beat(self, peer_id: bytes, now: float) -> None:
        """A sign of life."""
        if self.liveness.beat(peer_id, now):
            self._absent(peer_id, False)

    def tick(self, now: float) -> None:
        """Judge silence."""
        self._now = now
        silent, gone = self.liveness.judge(now)
        for peer_id in silent:
            self._absent(peer_id, True)
        for peer_id in gone:
            lease = self.liveness.lease
            self.gone(peer_id, f"it has not answered for {lease:.0f} s (the lease)")

    def _absent(self, peer_id: bytes, absent: bool) -> None:
        peer = self.peers.get(peer_id)
        if peer is None:
            return
        state = "is not responding" if absent else "answers again"
        text = f"{Role(peer.role).name.lower()} on {peer.host} (pid {peer.pid}) {state}"
        self.out.append((R_LOG, "warning", text))
        if peer.role == Role.ENGINE and not peer.draining:
            self._announce(lambda r: m.Absent(r, peer_id, absent))

    # -- renewal of keys -------------------------------------------------------------------

    def chosen(self, engines: list[int], clients: list[str], asking: bytes) -> list[Peer]:
        """Return the peers that are to be dropped: agents by an engine, clients by HOST:PID.

        ``all`` means all clients but the one that asks.  ValueError for what is not there.
        """
        found: dict[bytes, Peer] = {}
        for engine in engines:
            if engine not in self.engine_peer:
                raise ValueError(f"there is no engine {engine}")
            agent = self.engine_peer[engine]
            found[agent.id] = agent
        for name in clients:
            peers = [
                p
                for p in self.peers.values()
                if p.role == Role.CLIENT
                and p.id != asking
                and name in ("all", f"{p.host}:{p.pid}")
            ]
            if not peers and name != "all":
                raise ValueError(f"there is no client {name!r}; 'ipclusterz status' lists them")
            found.update((p.id, p) for p in peers)
        return list(found.values())

    def drop(self, peer: Peer, reason: str) -> None:
        """Send a peer away, and tell it why."""
        self.out.append((R_REGISTRATION, peer.connection, m.Refused(reason)))
        self.gone(peer.id, reason)

    # -- queries ---------------------------------------------------------------------------

    def query(self, peer_id: bytes, message: m.Query, now: float) -> None:
        """Answer a client's question."""
        try:
            value = self.answer(message.what, message.arg, now)
            answer = m.Answer(message.id, value)
        except (KeyError, ValueError, TypeError) as error:
            answer = m.Answer(message.id, None, f"{type(error).__name__}: {error}")
        self.out.append((R_QUERY, peer_id, answer))

    def answer(self, what: str, arg: Any, now: float) -> Any:
        """Return the answer to one question; ValueError for one that is not known."""
        if what == "status":
            names = {channel: Channel(channel).name.lower() for channel in self._acked}
            return {
                "cluster_id": self._cluster_id,
                "version": self._version,
                **census.members(self.peers.values(), self.liveness, now),
                "schedulers": sorted(names.values()),
                "restarts": {names[c]: n for c, n in self._generations.items()},
                "queues": self._queues(),
                "jobs": self._jobs(),
            }
        if what == "queue_status":
            return self._queues()
        if what == "departed":
            return list(self.departed)
        if what == "jobs":
            return self._jobs()
        if what == "note_jobs":
            self.note_jobs([(str(a), str(b), str(c)) for a, b, c in arg])
            return None
        if what == "note_lost":
            self.note_lost([(int(a), str(b)) for a, b in arg])
            return None
        raise ValueError(f"the hub does not know the question {what!r}")

    def _queues(self) -> dict[str, Any]:
        return census.queues(self.engine_peer, self.tallies.values())

    def _jobs(self) -> dict[str, list[str]]:
        return {name: list(told) for name, told in self.jobs.items()}

    def tally(self, message: m.Tally) -> None:
        """A scheduler's counts."""
        self.tallies[message.channel] = message


def _admit(minted: Minted, role: int, number: int, message: m.Register) -> m.Admit:
    keys = (minted.session, minted.password)
    return m.Admit(0, minted.peer, role, number, *keys, message.host, message.uuid)


def _came(peer: Peer) -> Came:
    return Came(peer.admit, peer.host, peer.boot, peer.pid, peer.uuid, peer.job, peer.world)


def _at(admit: m.Admit, rev: int) -> m.Admit:
    return m.Admit(
        rev,
        admit.peer,
        admit.role,
        admit.number,
        admit.session,
        admit.password,
        admit.label,
        admit.uuid,
    )
