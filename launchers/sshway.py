"""The way back: the controller's seven ports, led to a host through its SSH connection.

By UNIX sockets in an owner-only folder there, by loopback ports where its server refuses
those, and directly where it refuses all and the user had the controller listen on an address.
"""

from __future__ import annotations

from ipclusterz.core.config import CHANNEL_NAMES
from ipclusterz.core.connector import parse
from ipclusterz.error import SSHError
from ipclusterz.launchers import remote
from ipclusterz.net.ssh import Connection


class WayBack:
    """How one host finds the controller; ``text`` is the connector, ``name`` the host's.

    What the first connection needed is used again by those that follow it, so that the agent
    goes on by the addresses it was given.  ``warning`` is what its user should know.
    """

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self._connector = parse(text, "given by the launcher")
        self._ports: list[int] = []
        self._known = ""  # the connector for the agent, once it is known
        self.direct = False
        self.warning = ""

    def lead(self, connection: Connection, folder: str, way: int) -> str:
        """Make the forwards of a connection; return the connector for the agent.

        The sockets go to the folder ``way`` in ``folder``; agents look through its link
        ``now``.  Raises SSHError when there is no way.
        """
        if self.direct:
            return self._text
        if not self._ports and connection.remote_sockets:
            near = {name: f"{folder}/{way}/{name}" for name in CHANNEL_NAMES}
            try:
                connection.reverse(remote.ways_back(self._connector, near))
            except SSHError:
                if self._known or not connection.alive():
                    raise
            else:
                return self._told({n: f"ipc://{folder}/now/{n}" for n in CHANNEL_NAMES})
        return self._by_ports(connection)

    def _by_ports(self, connection: Connection) -> str:
        wanted = self._ports or [0] * len(CHANNEL_NAMES)
        near = dict(zip(CHANNEL_NAMES, map(str, wanted), strict=True))
        try:
            ports = connection.reverse(remote.ways_back(self._connector, near))
        except SSHError as error:
            if self._known or not connection.alive():
                raise
            return self._without(error)
        if not self._ports:
            self._ports = ports
            self.warning = (
                f"{self._name}: the way back is by loopback ports, not by sockets, which other"
                " users of that host may knock at (they have no key)"
            )
        pairs = zip(CHANNEL_NAMES, self._ports, strict=True)
        return self._told({name: f"tcp://127.0.0.1:{port}" for name, port in pairs})

    def _without(self, error: SSHError) -> str:
        """Do without a way back, if the user allowed an address."""
        if not remote.reachable(self._connector):
            raise SSHError(
                f"{error}; or start the controller with --ip=ADDRESS to let engines connect"
                " directly"
            ) from None
        self.direct = True
        self.warning = f"{error}; its engines connect directly to {self._connector.url}"
        return self._text

    def _told(self, addresses: dict[str, str]) -> str:
        self._known = remote.rewritten(self._connector, addresses)
        return self._known
