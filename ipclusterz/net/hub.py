"""The hub's shell: three doors, the monitor, and the registry that decides.

Runs as a process of its own, forked by the supervisor (:mod:`ipclusterz.net.controller`).
"""

from __future__ import annotations

import logging
import os
import signal
from collections import deque
from collections.abc import Callable
from socket import socket
from typing import Any

import msgspec
import zmq
from zmq.utils import z85

from ipclusterz.core import message as m
from ipclusterz.core import registry as r
from ipclusterz.core.addresses import is_loopback
from ipclusterz.core.batchjob import controllers_job
from ipclusterz.core.message import Channel, Role
from ipclusterz.net import host, sockets
from ipclusterz.net.door import Door
from ipclusterz.net.gate import Gate
from ipclusterz.net.history import ASKED, History
from ipclusterz.net.journal import Journal
from ipclusterz.net.listening import Listening
from ipclusterz.net.loop import Loop, ZSocket, monotonic, serve
from ipclusterz.net.renewal import ROLES, Renewal
from ipclusterz.net.seal import ClusterKeys
from ipclusterz.net.selftest import SelfTest

JUDGE_SECONDS = 0.5
SELF_TEST_SECONDS = 0.5
"""When the hub tries its own doors: after the start, which is in a hurry."""

RETURN_SECONDS = 5.0
"""How long peers of a controller that was killed, whose process seems to be gone, may take to
come back: it may have another number here, as in a container.  Others have their lease."""

EARLY_SECONDS = 5.0
"""How long a hub that was started again lets peers wait for what schedulers remember."""

GATHER_SECONDS = 1.0
"""How long a question to the task database waits for a scheduler that does not answer."""

SPARE_FILES = 16
"""Open files that must be left for what goes on while another peer is let in."""

FAREWELL_SECONDS = 2.0
"""How long the end waits for peers to take note of it; an agent's engines get half of it."""

HOMEWARD_SECONDS = 4.5
"""The same for agents of a controller that was killed, which may pause before they try again:
the longest pause there is (:mod:`ipclusterz.net.dial`), and some."""

OPEN_GATE = 70
"""Exit code of a hub that found a door open to a wrong key; starting it again is no cure."""


_decode_registration = msgspec.msgpack.Decoder(m.FromRegistration).decode
_decode_monitor = msgspec.msgpack.Decoder(m.FromScheduler).decode
_ROLES = {b"client": Role.CLIENT, b"engine": Role.ENGINE}


class Hub:
    """Carries the registry's decisions; one per controller."""

    def __init__(
        self,
        listening: Listening,
        keys: ClusterKeys,
        log: logging.Logger,
        *,
        desk: socket,
        cluster_id: str,
        lease: float,
        heartbeat: float,
        version: str,
        generation: int,
        journal: str,
        db: str,
        shutdown: Callable[[str], None],
    ) -> None:
        self.loop = loop = Loop()
        self.log = log
        self._shutdown = shutdown
        self._context = context = sockets.context()
        self.gate = Gate(loop, context)
        self._generation = 0  # of role keys; it is part of a connection's user id
        self._current: dict[str, bytes] = {}  # role -> public key
        self._coming: dict[str, bytes] = {}  # the ones that take their place
        self._secrets: dict[str, bytes] = {}  # until connected peers were told
        for role, public in (("client", keys.client_public), ("engine", keys.engine_public)):
            self._current[role] = z85.decode(public)
            self.gate.roles[self._current[role]] = role.encode()
        self._renewal = Renewal(loop, desk, self._both_keys, self._new_keys, self._old_keys)
        self.gate.on_refused = self._refused
        self.registry = r.Registry(
            cluster_id=cluster_id,
            addresses=listening.told(),
            lease=lease,
            heartbeat=heartbeat,
            version=version,
            first_number=_fresh_number() if journal else 1,
        )
        self._host = host.host_id()
        self._client_place = listening.client_place
        self._pidfds: dict[bytes, int] = {}
        self._connections: dict[bytes, bytes] = {}  # registration connection -> peer
        self._near: set[bytes] = set()  # those of clients that came from this host
        self._refusals: dict[str, int] = {}  # mechanism -> connections refused so far
        self._remembering = generation > 0
        self._early: list[tuple[bytes, Role, Any]] = []
        self._asked: deque[tuple[int, Callable[[], None]]] = deque()
        registration = sockets.curved(sockets.router(context), keys.server_secret)
        listening.bind(registration, Channel.REGISTRATION)
        self._registration = ZSocket(loop, registration, self._register_frames, copy=False)

        def door(channel: Channel, call: Callable[[bytes, list[Any]], None]) -> Door:
            socket = sockets.gated(sockets.router(context))
            listening.bind(socket, channel)
            line = listening.line(channel)
            return Door(loop, channel, socket, call, log=log.warning, lines=line)

        self.heartbeat = door(Channel.HEARTBEAT, self._beats)
        self.query = door(Channel.QUERY, self._queries)
        monitor = context.socket(zmq.ROUTER)
        monitor.setsockopt(zmq.LINGER, 0)
        monitor.setsockopt(zmq.SNDHWM, 0)
        monitor.setsockopt(zmq.ROUTER_HANDOVER, 1)
        sockets.bind(monitor, *listening.monitor)
        self._monitor = ZSocket(loop, monitor, self._monitor_frames)
        self.history = History(loop, db, log.warning) if db else None
        self._test: SelfTest | None = None
        self._named = generation > 0  # all clients that the history may hear of
        self._journal: Journal | None = None
        if journal:
            self._journal = Journal(journal, log.warning)
            self._restore(self._journal)
        loop.flush.insert(0, self._carry)
        loop.after(JUDGE_SECONDS, self._judge)
        if generation:
            loop.after(EARLY_SECONDS, self._remembered)
        else:
            doors = [listed[0] for listed in listening.addresses()]
            public = keys.server_public
            loop.after(SELF_TEST_SECONDS, lambda: self._test_doors(public, doors))

    def _restore(self, journal: Journal) -> None:
        """Know again whom the hub before us knew: each may come back, or has ended."""
        restored = self.registry.restore(journal.members, monotonic(), journal.age)
        for peer in restored:
            if self.history is not None and peer.role == Role.CLIENT and peer.uuid:
                self.history.client(peer.admit.number, peer.uuid)
            self._watch(peer)
        if restored:
            self.log.info("%d peers were here before and may come back", len(restored))
            self.loop.after(RETURN_SECONDS, lambda: self._judge_absent(restored))

    def _judge_absent(self, restored: list[r.Peer]) -> None:
        """Of those that did not come back, the ones without a process here are gone."""
        for peer in restored:
            known = self.registry.peers.get(peer.id)
            if known is None or known.connection or peer.boot != self._host:
                continue
            if not host.is_there(peer.pid):
                self.registry.gone(peer.id, f"its process {peer.pid} has ended")

    # -- carrying out ----------------------------------------------------------------------

    def _carry(self) -> None:
        out = self.registry.out
        while out:
            self.registry.out = []
            for kind, where, what in out:
                if kind == r.R_REGISTRATION:
                    self._answer(where, what)
                elif kind == r.R_SCHEDULER:
                    self._tell(where, what)
                elif kind == r.R_QUERY:
                    self.query.send(where, what)
                elif kind == r.R_LOCAL:
                    self._local(what)
                elif kind == r.R_BEAT:
                    self.heartbeat.send(where, what)
                elif kind == r.R_KEEP:
                    if self._journal is not None:
                        self._journal.note(what)
                else:
                    self.log.log(logging.getLevelName(where.upper()), "%s", what)
            out = self.registry.out

    def _answer(self, connection: bytes, message: Any) -> None:
        if connection:
            try:
                self._registration.send([connection, m.encode(message)])
            except zmq.ZMQError:
                pass  # it left while we decided; it will register again

    def _tell(self, channel: int, message: Any) -> None:
        try:
            self._monitor.send([bytes((channel + 1,)), m.encode(message)])
        except zmq.ZMQError:
            pass  # that scheduler is being restarted and will be told everything then

    def _local(self, message: Any) -> None:
        if isinstance(message, m.Admit):
            self.gate.admit(message.peer, message.password)
            self.heartbeat.admit(message.peer, message.session, m.Beat)
            if message.role == Role.CLIENT:
                self.query.admit(message.peer, message.session, m.FromClientQuery)
            return
        self.gate.expel(message.peer)
        self.heartbeat.expel(message.peer)
        self.query.expel(message.peer)
        self._unwatch(message.peer)

    # -- registration ----------------------------------------------------------------------

    def _register_frames(self, frames: list[Any]) -> None:
        if len(frames) != 2:
            return
        connection = frames[0].bytes
        try:
            user = frames[1].get("User-Id").encode()
            role = _ROLES[user.partition(b" ")[0]]
            message = _decode_registration(frames[1].buffer)
        except (KeyError, zmq.ZMQError, *m.UNDECODABLE) as error:
            self.log.warning("ignored a registration that makes no sense: %s", error)
            return
        if isinstance(message, m.Register) and user not in self.gate.roles.values():
            # The connection was made with a key that was renewed meanwhile.
            self._answer(connection, m.Refused("the key of its connector file was revoked"))
            return
        if role == Role.CLIENT and not self._may_come(connection, frames[1], message):
            return
        if self._remembering:
            # The schedulers will tell whom we knew; until then everybody looks new.
            self._early.append((connection, role, message))
        else:
            self._registration_message(connection, role, message)

    def _may_come(self, connection: bytes, frame: Any, message: Any) -> bool:
        """Refuse a client from another host unless it came where such may come."""
        if isinstance(message, m.Goodbye) and connection in self._connections:
            return True  # it has hung up by now: nobody can say any more where it came from
        there, here = sockets.ends_of(frame)
        if not there or is_loopback(there) or there == here:
            self._near.add(connection)
            return True
        if self._client_place(here):
            return True
        if isinstance(message, m.Register):
            self.log.warning(
                "refused a client from %s: at %s only engines are let in from other hosts"
                " (--client-ip)",
                there,
                here,
            )
            text = (
                f"it comes from {there} to {here}, where this controller lets in engines only;"
                " go through SSH (Client(sshserver=...)), or start the controller with"
                f" --client-ip={here}"
            )
            self._answer(connection, m.Refused(text))
        return False

    def _remembered(self) -> None:
        """All schedulers have told what they know, or had the time to."""
        self._remembering = False
        early, self._early = self._early, []
        for connection, role, message in early:
            self._registration_message(connection, role, message)

    def _registration_message(self, connection: bytes, role: Role, message: Any) -> None:
        now = monotonic()
        registry = self.registry
        if isinstance(message, m.Register):
            if connection in self._connections:
                self._answer(connection, m.Refused("it is registered already"))
                return
            if host.files_left() < SPARE_FILES:
                self._no_room(connection)
                return
            minted = r.Minted(os.urandom(16), os.urandom(32), os.urandom(16).hex().encode())
            peer = registry.register(connection, role, message, minted, now)
            if peer is not None:
                self._connections[connection] = peer.id
                self._watch(peer)
                if self.history is not None and role == Role.CLIENT and message.uuid:
                    self.history.client(peer.admit.number, message.uuid)
                who = Role(role).name.lower()
                self.log.info("registered %s on %s, pid %d", who, peer.host, peer.pid)
            return
        peer_id = self._connections.get(connection)
        if peer_id is None:
            return
        registry.beat(peer_id, now)
        if isinstance(message, m.EnginesUp):
            self._remember_engines(peer_id, message.engines)
            registry.engines_up(peer_id, message.engines, now)
        elif isinstance(message, m.EngineDown):
            registry.engine_down(peer_id, message.engine, message.reason)
        elif isinstance(message, m.Allocate):
            registry.allocate(peer_id, message.n)
        elif isinstance(message, m.Goodbye):
            registry.gone(peer_id, message.reason)
        elif isinstance(message, m.Draining):
            registry.draining(peer_id, message.reason)

    def _no_room(self, connection: bytes) -> None:
        """Turn a peer away before descriptors run out: ZeroMQ would spin without them."""
        text = (
            f"it has almost no open files left for connections on {host.host_name()}: raise"
            " the limit where the controller is started (ulimit -n), or close clients"
        )
        self.log.error("turned a peer away: %s", text)
        self._answer(connection, m.Refused(text))

    def _remember_engines(self, peer_id: bytes, engines: list[m.EngineInfo]) -> None:
        peer = self.registry.peers.get(peer_id)
        if self.history is not None and peer is not None:
            for info in engines:
                self.history.engine(info.id, f"{peer_id.hex()}_{info.id}", peer.host)

    def _watch(self, peer: r.Peer) -> None:
        """Learn of the end of a process on this host from the kernel, at once."""
        if peer.boot != self._host or peer.id in self._pidfds:
            return
        fd = host.pidfd(peer.pid)
        if fd >= 0:
            self._pidfds[peer.id] = fd
            self.loop.add(fd, lambda: self._ended(peer.id))

    def _ended(self, peer_id: bytes) -> None:
        peer = self.registry.peers.get(peer_id)
        pid = peer.pid if peer is not None else 0
        self._unwatch(peer_id)
        job = f" (job {peer.job})" if peer is not None and peer.job else ""
        self.registry.gone(peer_id, f"its process {pid} has ended{job}")

    def _unwatch(self, peer_id: bytes) -> None:
        fd = self._pidfds.pop(peer_id, -1)
        if fd >= 0:
            self.loop.remove(fd)
            os.close(fd)
        gone = [c for c, p in self._connections.items() if p == peer_id]
        for connection in gone:
            del self._connections[connection]
            self._near.discard(connection)

    def _refused(self, address: str, mechanism: str) -> None:
        n = self._refusals[mechanism] = self._refusals.get(mechanism, 0) + 1
        if n & (n - 1) == 0:
            kind = "a wrong key" if mechanism == "CURVE" else "no valid password"
            self.log.warning(
                "refused a connection from %s with %s (%d so far)", address, kind, n
            )

    # -- the other doors -------------------------------------------------------------------

    def _beats(self, peer: bytes, messages: list[Any]) -> None:
        self.registry.beat(peer, monotonic())
        self.heartbeat.send(peer, messages[-1])

    def _queries(self, peer: bytes, messages: list[Any]) -> None:
        now = monotonic()
        self.registry.beat(peer, now)
        for message in messages:
            if isinstance(message, m.Query):
                if message.what in ASKED:
                    self._ask(peer, message)
                elif message.what == "revoke":
                    self._revoke(peer, message)
                else:
                    self.registry.query(peer, message, now)
            elif isinstance(message, m.Shutdown):
                self.log.info("a client asked the controller to end: %s", message.reason)
                self._shutdown(message.reason)

    def _ask(self, peer: bytes, message: m.Query) -> None:
        """Put a question to the task database; the answer comes when it has it."""

        def done(value: Any, error: str) -> None:
            for answer in m.answers(message.id, value, error):
                self.query.send(peer, answer)

        history = self.history
        if history is None:
            done(None, "this controller keeps no task database (--nodb)")
            return
        # What schedulers have gathered comes first: who was told that a task has ended must
        # not hear from us that it has not.
        rev = self.registry.collect()
        self._asked.append((rev, lambda: history.ask(message.what, message.arg, done)))
        self.loop.after(GATHER_SECONDS, lambda: self._answer_asked(rev))

    # -- new keys --------------------------------------------------------------------------

    def _revoke(self, asking: bytes, message: m.Query) -> None:
        """Renew role keys, drop the peers that were named, and tell the others the new one."""

        def answer(value: Any, error: str) -> None:
            self.query.send(asking, m.Answer(message.id, value, error))

        peer = self.registry.peers.get(asking)
        if peer is None or peer.connection not in self._near:
            answer(None, "keys are renewed from the controller's own host only")
            return
        try:
            wanted = msgspec.convert(message.arg, m.Revoke)
            roles: list[str] = [role for role in ROLES if role in wanted.roles]
            if not roles or len(roles) != len(wanted.roles):
                raise ValueError(f"there are no such roles: {wanted.roles}")
            named = self.registry.chosen(wanted.engines, wanted.clients, asking)
            if not {Role(p.role).name.lower() for p in named} <= set(roles):
                raise ValueError("who is dropped could come back: renew that role's key too")
        except (ValueError, msgspec.MsgspecError) as error:
            answer(None, str(error))
            return
        dropped = {p.id for p in named}

        def done(error: str) -> None:
            if error:
                self.log.error("keys were not renewed: %s", error)
                answer(None, error)
                return
            answer(self._carry_over(roles, dropped), "")

        self._renewal.ask(roles, done)

    def _carry_over(self, roles: list[str], dropped: set[bytes]) -> dict[str, Any]:
        told: dict[str, Any] = {"roles": roles, "carried": 0, "dropped": []}
        for peer in list(self.registry.peers.values()):
            role = Role(peer.role).name.lower()
            if role not in roles:
                continue
            if peer.id in dropped:
                engines = f" with engines {sorted(peer.engines)}" if peer.engines else ""
                told["dropped"].append(f"{role} {peer.host}:{peer.pid}{engines}")
                self.registry.drop(peer, "it was dropped by 'ipclusterz revoke'")
                continue
            told["carried"] += 1
            # On this link, which outlives connections: who is away for a moment hears of it.
            self.heartbeat.send(peer.id, m.Rekey(self._secrets[role]))
        self._secrets.clear()
        self.log.warning(
            "renewed the keys of %s; %d peers were told, %d dropped",
            " and ".join(roles),
            told["carried"],
            len(told["dropped"]),
        )
        return told

    def _both_keys(self, secrets: dict[str, bytes]) -> None:
        self._generation += 1
        for role, secret in secrets.items():
            public = z85.decode(zmq.curve_public(secret))
            self.gate.roles[public] = b"%s %d" % (role.encode(), self._generation)
            self._coming[role] = public

    def _new_keys(self, secrets: dict[str, bytes]) -> None:
        for role, public in self._coming.items():
            del self.gate.roles[self._current[role]]
            self._current[role] = public
        self._coming.clear()
        self._secrets = dict(secrets)

    def _old_keys(self) -> None:
        for public in self._coming.values():
            del self.gate.roles[public]
        self._coming.clear()

    def _answer_asked(self, late: int = -1) -> None:
        """Go on with the questions for which all schedulers told what they had.

        Those up to ``late`` do not wait for a scheduler that does not answer any longer.
        """
        asked = self._asked
        while asked and (asked[0][0] <= late or self.registry.acknowledged(asked[0][0])):
            asked.popleft()[1]()

    def _monitor_frames(self, frames: list[bytes]) -> None:
        try:
            message = _decode_monitor(frames[1])
        except m.UNDECODABLE as error:
            self.log.error("a scheduler said something that makes no sense: %s", error)
            return
        if isinstance(message, m.Hello):
            self.registry.scheduler(message, monotonic())
            if self.history is not None:
                for number, uuid in message.left:
                    self.history.client(number, uuid)
            for peer in self.registry.peers.values():
                self._local(peer.admit)
            if self.history is not None and not self._named and self.registry.complete:
                self._named = True
                self.history.complete()
            if self._remembering and self.registry.complete:
                self._remembered()
        elif isinstance(message, m.Ack):
            self.registry.ack(message)
            if self._asked:
                self._answer_asked()
        elif isinstance(message, m.Shipment):
            if self.history is not None:
                self.history.note(frames[-1], message.count, message.size)
                if message.serial:
                    written = m.Written(message.serial)
                    channel = frames[0][0] - 1
                    self.history.when_written(lambda: self._tell(channel, written))
        else:
            self.registry.tally(message)

    def _judge(self) -> None:
        now = monotonic()
        self.registry.tick(now)
        if self._journal is not None:
            self._journal.touch(now)
        self.loop.after(JUDGE_SECONDS, self._judge)

    # -- the doors themselves --------------------------------------------------------------

    def _test_doors(self, public: bytes, doors: list[str]) -> None:
        def opened(name: str) -> None:
            self.log.critical("the %s door let in a peer with a wrong key", name)
            os._exit(OPEN_GATE)

        def done(refused: int) -> None:
            if refused < len(doors):
                text = "only %d of %d doors answered the knock with a wrong key"
                self.log.warning(text, refused, len(doors))
            else:
                self.log.info("all %d doors refuse a wrong key", refused)

        self._test = SelfTest(self.loop, self._context, self.gate, public, doors, opened, done)

    # -- ending ----------------------------------------------------------------------------

    def _unaware(self, shipped: int) -> bool:
        """Say whether a peer that answers may not know yet that the controller ends.

        Or whether a scheduler may still have something for the task database.
        """
        registry = self.registry
        if not registry.acknowledged(shipped):
            return True
        for peer in registry.peers.values():
            if registry.liveness.silent(peer.id):
                continue
            if peer.role == Role.CLIENT:
                if self.query.owing(peer.id):
                    return True
            elif peer.connection in self._connections:
                return True
        return False

    def _homeward(self) -> bool:
        """Say whether an agent of the time before a restart is not back to hear of the end."""
        registry = self.registry
        return any(
            peer.role == Role.ENGINE
            and not peer.connection
            and not registry.liveness.silent(peer.id)
            and not (self.heartbeat.connected(peer.id) and not self.heartbeat.owing(peer.id))
            for peer in registry.peers.values()
        )

    def close(self, reason: str) -> None:
        """Tell everybody that the controller ends."""
        self.registry.close(reason)
        # A peer loses what it has not read when its connection ends, so the connections
        # stay until agents have said goodbye and clients have acknowledged.
        began = monotonic()
        shipped = self.registry.collect() if self.history is not None else 0
        self.loop.process([])
        if self._homeward():
            self.log.info("waiting for agents on their way back, which have to hear of the end")
        while (homeward := self._homeward()) or self._unaware(shipped):
            left = began + (HOMEWARD_SECONDS if homeward else FAREWELL_SECONDS) - monotonic()
            if left <= 0:
                break
            self.loop.process(self.loop.wait(self.loop.timeout(left)))
        if self.history is not None:
            self.history.close()  # before anything that may go wrong with sockets
        self.loop.hot.clear()
        if self._test is not None:
            self._test.cancel()  # it may be under way
        self.query.close()
        self.heartbeat.close()
        self._registration.close(200)
        self._monitor.close()
        self.gate.close()
        self._context.destroy(linger=0)  # to wait for a socket that is open is for ever


def _fresh_number() -> int:
    """Return where the clients of a controller that may have come back are counted from.

    Agents may still have results for clients of the one before, which must not reach
    clients of this one; numbers have 24 bits.
    """
    return 1 + (int.from_bytes(os.urandom(3), "little") & 0x7FFFFF)


def run(hub: Hub) -> None:
    """Serve until SIGTERM."""

    def stop(number: int, frame: Any) -> None:
        hub.loop.running = False

    signal.signal(signal.SIGTERM, stop)
    serve(hub.loop)
    hub.close(f"the controller was stopped{controllers_job(os.environ)}")
