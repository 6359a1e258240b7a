"""An agent's way to its controller: where it registers, its channels, what it says of them.

Lives here: connecting, again and again for the lease, and telling the user why it does not
work.  May know: sockets, routes, the registration.  Must not know: engines and their tasks,
which are its :class:`Resident`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ipclusterz.core import message as m
from ipclusterz.core.config import AgentConfig
from ipclusterz.core.connector import Connector, loopback_elsewhere
from ipclusterz.core.message import Channel
from ipclusterz.error import LaunchError, ranges
from ipclusterz.net import host, sockets
from ipclusterz.net.dial import Dial, Identity
from ipclusterz.net.loop import Loop, monotonic
from ipclusterz.net.register import Registrar
from ipclusterz.net.route import DENIED, ENDED, Route, Tunnel

HAND_OVER_SECONDS = 1.0
"""How long schedulers may take to confirm what an agent has said last."""

StatusCall = Callable[[dict[str, Any]], None]

WORK = (Channel.DIRECT, Channel.TASK, Channel.CONTROL)

LEASE_SECONDS = 600.0
"""How long to try as long as nobody has said it."""


class Resident(Protocol):
    """What the way to the controller asks of who goes it."""

    def registration(self, known: m.Registered | None) -> m.Register:
        """Return what to register with; ``known`` is the answer of the time before."""

    def entered(self, registered: m.Registered, first: bool) -> None:
        """The controller has let us in, for the first time or again."""

    def told(self, message: Any) -> None:
        """The hub says something."""

    def work(self, channel: Channel, messages: list[Any]) -> None:
        """A scheduler says something."""

    def renewed(self, channel: Channel) -> None:
        """A scheduler's link began anew: what was on its way is lost."""

    def connected(self, since: float | None) -> None:
        """The hub is there (None), or not since a monotonic time."""

    def fail(self, text: str) -> None:
        """There is no way, for good."""


class Home:
    """Registration and channels of one agent.

    LaunchError where the controller listens on another host's loopback only and nothing
    leads there.
    """

    def __init__(
        self,
        loop: Loop,
        config: AgentConfig,
        connector: Connector,
        tunnel: Tunnel | None,
        resident: Resident,
        status: StatusCall,
        log: Any,
    ) -> None:
        self._loop = loop
        self._config = config
        self._connector = connector
        self._resident = resident
        self._status = status
        self._log = log
        self.registered: m.Registered | None = None
        self.problem = ""
        self.lease = config.lease or LEASE_SECONDS
        here = host.loopback_id()
        self._route = Route(connector, here, tunnel)
        # Something that answers there is a tunnel that the user made.
        unreachable = tunnel is None and loopback_elsewhere(connector, here)
        if unreachable and not host.answers(connector.url):
            raise LaunchError(
                f"the controller at {connector.url} listens on the loopback of "
                f"{connector.location} only, and nothing answers there on {host.host_name()}: "
                f"go through SSH (ipenginez --ssh={connector.location or 'HOST'}, or start it "
                f"with --enginessh), or start it with --ip (an address this host can reach) "
                f"and copy the file again"
            )
        self._context = sockets.context()
        self._registrar = Registrar(
            loop,
            self._context,
            connector,
            self._route.registration(),
            lambda: resident.registration(self.registered),
            self._from_hub,
            self._hub_state,
        )
        self.dials = {
            channel: self._dial(channel)
            for channel in (Channel.HEARTBEAT, Channel.IOPUB, *WORK)
        }

    def _dial(self, channel: Channel) -> Dial:
        work, resident = channel in WORK, self._resident

        def messages(received: list[Any]) -> None:
            if work:
                resident.work(channel, received)
            else:
                self._registrar.heartbeat(received)

        return Dial(
            self._loop,
            self._context,
            channel,
            m.ToAgentWork if work else m.ToPeerHeartbeat,
            messages,
            on_state=lambda problem: self._channel_state(channel, problem),
            on_renewed=(lambda: resident.renewed(channel)) if work else None,
            on_unknown=self._registrar.renew,
        )

    def start(self) -> None:
        """Connect, and never stop to try."""
        self._registrar.start()

    def tell(self, message: Any) -> None:
        """Tell the hub, if it is there: what it must know it asks for when it is back."""
        self._registrar.send(message)

    def say(self, channel: int, message: Any) -> None:
        """Send to a scheduler, in this turn; kept until it is there."""
        self.dials[channel].say(message)  # type: ignore[index]

    def hand_over(self) -> None:
        """Wait until schedulers have what was said: the hub may be quicker to say we left."""
        deadline = monotonic() + HAND_OVER_SECONDS
        self._loop.process([])
        while any(self.dials[channel].owing for channel in WORK):
            left = deadline - monotonic()
            if left <= 0:
                return
            self._loop.process(self._loop.wait(self._loop.timeout(left)))

    def close(self, reason: str) -> None:
        """Say goodbye, and leave."""
        self._registrar.send(m.Goodbye(reason))
        for dial in self.dials.values():
            dial.close()
        self._registrar.close()

    def end(self) -> None:
        """Wait until what was said last has left."""
        self._context.destroy(linger=0)

    # -- what comes ------------------------------------------------------------------------

    def _from_hub(self, message: Any) -> None:
        if isinstance(message, m.Registered):
            self._enter(message)
        else:
            self._resident.told(message)

    def _enter(self, registered: m.Registered) -> None:
        first = self.registered is None
        self.registered = registered
        self.lease = self._config.lease or registered.lease
        self._resident.connected(None)
        identity = Identity(registered.peer, registered.session, registered.password)
        worked = self._registrar.address
        for channel, dial in self.dials.items():
            told = registered.addresses[channel]
            dial.identify(identity, self._route.channel(channel, told, worked))
        if first:
            engines = ranges(registered.engines) or "none"
            self._log.info("registered; engines %s, at %s", engines, worked)
            self._loop.after(registered.heartbeat, self._beat)
        self._resident.entered(registered, first)

    def _beat(self) -> None:
        assert self.registered is not None
        self.dials[Channel.HEARTBEAT].send(m.Beat(0))
        self._loop.after(self.registered.heartbeat, self._beat)

    # -- what breaks -----------------------------------------------------------------------

    def _hub_state(self, kind: str, text: str) -> None:
        registrar = self._registrar
        kind, text = self._route.judge(kind, text, registrar.all_tried)
        if not kind:
            if self.problem:
                self._log.info("connected to the controller again")
            self.problem = ""
            self._resident.connected(None)
            return
        self._resident.connected(monotonic())
        if kind == DENIED and self.registered is None:
            self._denied(text)
            return
        if kind == ENDED:
            self._resident.fail(f"the way to the controller is closed: {text}")
            return
        if kind != self.problem and (not self.problem or registrar.all_tried):
            self.problem = kind
            if self._route.tunnel is None and registrar.all_tried:
                text = registrar.tried
            what = (
                f"no connection to the controller ({text}); trying again for {self.lease:.0f} s"
            )
            self._log.warning(what)
            self._status({"event": "waiting", "text": what})

    def _denied(self, text: str) -> None:
        """A launcher hears of it as an error; a file may yet be of a controller to come."""
        file = self._config.connector_file
        what = (
            f"the controller at {self._connector.url} does not accept this key ({text}): "
            f"{file or 'the connector'} is of another controller or was revoked; copy "
            f"ipcontroller-engine.json again"
        )
        if not file:
            self._resident.fail(what)
        elif self.problem != DENIED:
            self.problem = DENIED
            self._log.error(what)
            self._status({"event": "waiting", "text": f"{what}; trying again meanwhile"})

    def _channel_state(self, channel: Channel, problem: str) -> None:
        if not problem:
            self._registrar.hurry()
            for dial in self.dials.values():
                dial.hurry()
        else:
            self._log.debug("%s: %s", channel.name.lower(), problem)
