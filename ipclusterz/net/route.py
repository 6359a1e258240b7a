"""Which addresses a peer tries, and what a failure means: directly, or through a tunnel.

Shared by clients and agents.  May know connectors and tunnels; must not know sockets.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from ipclusterz.core.config import CHANNEL_NAMES
from ipclusterz.core.connector import Connector, candidates
from ipclusterz.core.message import Channel
from ipclusterz.core.ssh import FORBIDDEN

DOWN = "down"  # no connection; tried again
REFUSED = "refused"  # nothing listens at any address
DENIED = "denied"  # our key is not accepted, or who listens there lacks the controller's
ENDED = "ended"  # the way there is gone for good


class Tunnel(Protocol):
    """What a route needs of a :class:`ipclusterz.net.tunnel.Tunnel`."""

    addresses: dict[str, list[str]]
    ended: str

    @property
    def server(self) -> str:
        """The SSH server, as messages name it."""

    @property
    def up(self) -> bool:
        """Whether the SSH connection is up."""

    @property
    def problem(self) -> str:
        """Why it is down, or why its server cannot reach the controller."""

    def fine(self) -> None:
        """Forget troubles that are over."""

    def close(self) -> None:
        """End it."""


class Route:
    """The way from this process (whose loopback is ``here``) to a controller."""

    def __init__(self, connector: Connector, here: str, tunnel: Tunnel | None = None) -> None:
        self._connector = connector
        self._here = here
        self.tunnel = tunnel
        self._arrived = False

    def registration(self) -> list[str]:
        """Return the addresses at which to register."""
        return self.channel(Channel.REGISTRATION, ())

    def channel(self, channel: Channel, told: Sequence[str], worked: str = "") -> list[str]:
        """Return the addresses of a channel; ``told`` are those the hub named.

        Those on the host that ``worked`` (an address) names come first.
        """
        if self.tunnel is not None:
            return self.tunnel.addresses[CHANNEL_NAMES[channel]]
        # From elsewhere the hub does not know how we came, nor do its sockets lie here.
        if self._here != self._connector.hostid:
            told = ()
        found = [
            a for a in told if a.startswith("tcp:") or os.path.exists(a.partition("://")[2])
        ]
        listed = candidates(self._connector, channel, self._here)
        found += [a for a in listed if a not in found]
        if worked.startswith("tcp:") and len(found) > 1:
            place = worked.rpartition(":")[0] + ":"
            found.sort(key=lambda address: not address.startswith(place))
        return found

    def judge(self, kind: str, text: str, all_tried: bool) -> tuple[str, str]:
        """Return what a state of the registration means, and in which words.

        Through a tunnel every trouble looks like a connection that broke; the tunnel knows
        better.  ``all_tried`` says that no other address is left to try.
        """
        tunnel = self.tunnel
        if tunnel is None:
            return kind, text
        if not kind:
            tunnel.fine()
            self._arrived = True
            return kind, text
        if tunnel.ended:
            return ENDED, tunnel.ended
        problem = tunnel.problem
        if not tunnel.up:
            return DOWN, f"no SSH connection: {problem}"
        if problem == FORBIDDEN and all_tried and not self._arrived:
            return ENDED, f"cannot go through {tunnel.server}: {problem}"
        if problem:
            far = REFUSED if "refused" in problem and all_tried else DOWN
            return far, f"{tunnel.server} cannot reach it: {problem}"
        return (DOWN if kind == REFUSED else kind), f"through {tunnel.server}: {text}"

    def close(self) -> None:
        """End the tunnel, if there is one."""
        if self.tunnel is not None:
            self.tunnel.close()
