"""The schedulers' shell: one door, the monitor to the hub, and a core that decides.

Each of the four schedulers is a process of its own, forked by the supervisor.
"""

from __future__ import annotations

import logging
import signal
import time
from collections import defaultdict
from typing import Any, Union

import msgspec
import zmq

from ipclusterz.core import message as m
from ipclusterz.core.balance import LOOK_AFTER, Balancer
from ipclusterz.core.broker import Unwritten
from ipclusterz.core.message import Channel, Role
from ipclusterz.core.recorder import Recorder
from ipclusterz.core.relay import Relay, StreamRelay
from ipclusterz.net import sockets
from ipclusterz.net.door import Door
from ipclusterz.net.estate import EstateFile
from ipclusterz.net.gate import Gate
from ipclusterz.net.listening import Listening
from ipclusterz.net.loop import Loop, ZSocket, monotonic, serve
from ipclusterz.net.scribe import Scribe
from ipclusterz.net.standin import StandIn

TICK_SECONDS = 0.1
TALLY_SECONDS = 0.05
TALLY_COST = 2e-4
"""Seconds between two counts for the hub, at least, and for each engine: to count them all,
and to read that in the hub, was a tenth of the scheduler's time with a thousand."""

SHIP_SECONDS = 0.1
"""How long what happened to tasks is gathered for the task database."""


_NOTHING = Union[m.Beat]
ACCEPTS: dict[tuple[int, int], Any] = {
    (Channel.TASK, Role.CLIENT): m.FromClientTask,
    (Channel.TASK, Role.ENGINE): m.FromAgentWork,
    (Channel.DIRECT, Role.CLIENT): m.FromClientDirect,
    (Channel.DIRECT, Role.ENGINE): m.FromAgentWork,
    (Channel.CONTROL, Role.CLIENT): m.FromClientDirect,
    (Channel.CONTROL, Role.ENGINE): m.FromAgentWork,
    (Channel.IOPUB, Role.CLIENT): _NOTHING,
    (Channel.IOPUB, Role.ENGINE): m.FromAgentStream,
}
"""What each role may say on each channel; anything else does not decode."""

_decode_hub = msgspec.msgpack.Decoder(m.ToScheduler).decode

Core = Union[Balancer, Relay, StreamRelay]


def make_core(channel: int, generation: int, scheme: str, hwm: int, seed: int) -> Core:
    """Make the core of a channel's scheduler."""
    if channel == Channel.TASK:
        return Balancer(generation, scheme, hwm, seed)
    if channel == Channel.IOPUB:
        return StreamRelay()
    return Relay(generation)


class Scheduler:
    """Carries one core's decisions."""

    def __init__(
        self,
        listening: Listening,
        channel: Channel,
        core: Core,
        generation: int,
        log: logging.Logger,
        record: bool = False,
        estate: str = "",
    ) -> None:
        self.loop = loop = Loop()
        self.log = log
        self.channel = channel
        self.core = core
        self.broker = core if isinstance(core, (Balancer, Relay)) else None
        self._generation = generation
        self._admits: dict[bytes, m.Admit] = {}
        self._lost: tuple[float, str] | None = None  # when an agent went last, and why
        self._ticking = False
        self._looking = False
        self._tallying = False
        self._changed = False  # since the last tally was asked for
        self._shipping = False
        self._serial = 0  # of the last shipment that has results whose client has left
        self._unwritten: dict[int, list[Unwritten]] = {}  # these, by serial
        self._top_number = 0
        self._top_engine = -1
        self.recorder: Recorder | None = None
        if record:
            self.recorder = Recorder(int(channel), time.time() - monotonic())
            core.recorder = self.recorder
        self._estate: EstateFile | None = None
        if estate and isinstance(core, Balancer):
            self._estate = EstateFile(estate, core, log.warning)
            self._inherit(self._estate, core)
        self._context = context = sockets.context()
        self.gate = Gate(loop, context)
        self.gate.on_refused = self._refused
        socket = sockets.gated(sockets.router(context))
        listening.bind(socket, channel)
        self.door = Door(
            loop,
            channel,
            socket,
            self._messages,
            self._renewed,
            log=log.warning,
            lines=listening.line(channel),
        )
        self._stand_in = StandIn(loop, self._answer)
        self._scribe = Scribe()
        monitor = context.socket(zmq.DEALER)
        monitor.setsockopt(zmq.LINGER, 0)
        monitor.setsockopt(zmq.SNDHWM, 0)
        monitor.setsockopt(zmq.RECONNECT_IVL, 20)
        monitor.setsockopt(zmq.IDENTITY, bytes((channel + 1,)))
        events = monitor.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._events = ZSocket(loop, events, lambda frames: self._hello())
        self._monitor = ZSocket(loop, monitor, self._hub_says)
        monitor.connect(listening.monitor[1])
        loop.flush.insert(0, self._carry)

    def _inherit(self, estate: EstateFile, core: Balancer) -> None:
        """Go on with the tasks that a scheduler before us had, and whose clients have left."""
        if not core.revived:
            estate.discard()
            return
        left = estate.read()
        core.inherit(left, monotonic())
        self._top_number = max(left.names, default=0)
        if left.tasks:
            text = "%d tasks of %d clients that have left are taken over"
            self.log.info(text, len(left.tasks), len(left.names))

    # -- the hub ---------------------------------------------------------------------------

    def _hello(self) -> None:
        """The hub is there (again): say what we know, in case it does not."""
        engines: list[tuple[int, bytes]] = []
        if self.broker is not None:
            engines = [(e, agent.peer) for e, agent in self.broker.engine_agent.items()]
        hello = m.Hello(
            self.channel,
            self._generation,
            list(self._admits.values()),
            engines,
            self._top_number,
            self._top_engine,
            self._lost and (monotonic() - self._lost[0], self._lost[1]),
            list(self.core.estate.names.items()) if isinstance(self.core, Balancer) else [],
        )
        self._monitor.send([m.encode(hello)])
        if self.broker is not None:
            self.broker.record_again()
            for results in self._unwritten.values():
                self.broker.record_results(results)
            self._unwritten.clear()

    def _hub_says(self, frames: list[bytes]) -> None:
        message = _decode_hub(frames[-1])
        if isinstance(message, m.Written):
            self._written(message.serial)
            return
        now = monotonic()
        if isinstance(message, m.Admit):
            self._admit(message)
        elif isinstance(message, m.Expel):
            self._expel(message, now)
        elif isinstance(message, m.Join):
            self._top_engine = max(self._top_engine, *message.engines)
            if self.broker is not None:
                self.broker.join(message.agent, message.engines, now)
        elif isinstance(message, m.Ship):
            self._ship()
        elif self.broker is not None:
            if isinstance(message, m.Roster):
                self.broker.roster(message.agents, now, message.lost)
            elif isinstance(message, m.Absent):
                self.broker.absent(message.agent, message.absent, now)
        self._monitor.send([m.encode(m.Ack(self.channel, message.rev))])

    def _admit(self, admit: m.Admit) -> None:
        self._admits[admit.peer] = admit
        self._top_number = max(self._top_number, admit.number)
        self.gate.admit(admit.peer, admit.password)
        accepts = ACCEPTS[(self.channel, Role(admit.role))]
        self.core.admit(admit.peer, admit.role, admit.number, admit.uuid)
        self.door.admit(admit.peer, admit.session, accepts)

    def _expel(self, message: m.Expel, now: float) -> None:
        admit = self._admits.pop(message.peer, None)
        if admit is not None and admit.role == m.Role.ENGINE:
            self._lost = (now, message.reason)
        self.gate.expel(message.peer)
        self._scribe.forget(message.peer)
        self.core.expel(message.peer, message.reason, now)
        if isinstance(self.core, Balancer):
            self.core.write_down()
        self.door.expel(message.peer)

    # -- peers -----------------------------------------------------------------------------

    def _messages(self, peer: bytes, messages: list[Any]) -> None:
        self.core.handle(peer, messages, monotonic())
        self._changed = True

    def _renewed(self, peer: bytes) -> None:
        if self.broker is not None:
            self.broker.renewed(peer)

    def _carry(self) -> None:
        core = self.core
        if self._estate is not None and isinstance(core, Balancer) and core.estate.out:
            self._estate.carry()
        if core.out:
            out, core.out = core.out, defaultdict(list)
            for peer, messages in out.items():
                self.door.send_all(peer, messages)
            self._changed = True
        if self.broker is not None and self.broker.loads:
            loads, self.broker.loads = self.broker.loads, []
            for peer, load in loads:
                kept = self._scribe.keeps(peer, load)
                if kept is None:
                    self.door.load(peer, load)
                else:
                    self.door.send(peer, kept)
        if self.broker is not None and self.broker.fetches:
            fetches, self.broker.fetches = self.broker.fetches, []
            for peer, owner, fetch in fetches:
                if not self._stand_in.takes(peer, owner, fetch):
                    self._scribe.expect(peer, fetch)
                    self.door.send(owner, fetch)
        # Tasks that only wait are counted, too, though nothing is said about them.
        if self._changed and not self._tallying and self.broker is not None:
            self._tallying, self._changed = True, False
            pause = max(TALLY_SECONDS, TALLY_COST * len(self.broker.counts))
            self.loop.after(pause, self._tally)
        recorder = self.recorder
        if recorder is not None and not self._shipping and self._has_news(recorder):
            self._shipping = True
            self.loop.after(SHIP_SECONDS, self._ship)
        if self.broker is not None and not self._ticking and self.broker.tasks:
            self._ticking = True
            self.loop.after(TICK_SECONDS, self._tick)
        if isinstance(core, Balancer) and core.uneasy and not self._looking:
            self._looking = True
            self.loop.after(LOOK_AFTER, self._look)

    def _answer(self, peer: bytes, answer: m.Load | m.Chunk | m.Fetch) -> None:
        if isinstance(answer, m.Load):
            self.door.load(peer, answer)
        else:
            self.door.send(peer, answer)

    def _look(self) -> None:
        self._looking = False
        if self.broker is not None:
            self.broker.settle(monotonic())

    def _has_news(self, recorder: Recorder) -> bool:
        return recorder.waiting or (self.broker is not None and bool(self.broker.unwritten))

    def _tick(self) -> None:
        self._ticking = False
        if self.broker is not None:
            self.broker.tick(monotonic())

    def _ship(self) -> None:
        """Send the hub what happened to tasks since the last time."""
        self._shipping = False
        if self.recorder is not None:
            records = self.recorder.take()
            shipment = m.Shipment(records.count, records.size)
            if self.broker is not None and self.broker.unwritten:
                self._serial = shipment.serial = self._serial + 1
                self._unwritten[self._serial] = self.broker.unwritten
                self.broker.unwritten = []
            self._monitor.send([m.encode(shipment), m.encode(records)])

    def _written(self, serial: int) -> None:
        """Shipments up to this one are on the disk."""
        for done in [s for s in self._unwritten if s <= serial]:
            results = self._unwritten.pop(done)
            if self.broker is not None:
                self.broker.written(results)

    def _tally(self) -> None:
        self._tallying = False
        if self.broker is not None:
            self._monitor.send([m.encode(self.broker.tally(self.channel))])

    def _refused(self, address: str, mechanism: str) -> None:
        n = self.gate.refused
        if n & (n - 1) == 0:
            self.log.warning("refused a connection from %s (%d so far)", address, n)

    def close(self) -> None:
        """Stop."""
        self._carry()
        self.door.flush()
        self.door.close()
        if self._estate is not None:
            self._estate.close()
        self._monitor.socket.disable_monitor()
        self._events.close()
        self._monitor.close()
        self.gate.close()
        self._context.destroy(linger=0)


def run(scheduler: Scheduler) -> None:
    """Serve until SIGTERM."""

    def stop(number: int, frame: Any) -> None:
        scheduler.loop.running = False

    signal.signal(signal.SIGTERM, stop)
    serve(scheduler.loop)
    scheduler.close()
