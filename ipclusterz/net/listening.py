"""Where a controller listens: one descriptor per address, made before anything is forked.

The supervisor makes and keeps them, so a part that was restarted listens where it listened
before, and connections made meanwhile wait in the backlog.
"""

from __future__ import annotations

import os
import socket
from itertools import compress

import zmq

from ipclusterz.core import message as m
from ipclusterz.core.addresses import (
    ANY,
    LOOPBACK,
    AddressError,
    all_of,
    is_loopback,
    url_host,
)
from ipclusterz.core.config import CHANNEL_NAMES, ControllerConfig
from ipclusterz.core.message import CHANNELS, Channel
from ipclusterz.error import LaunchError
from ipclusterz.net import lines, sockets
from ipclusterz.net.interfaces import facts, resolve

BACKLOG = 4096
_ATTEMPTS = 20
"""Ports that are tried until one is free on all addresses."""


class Listening:
    """Descriptors that listen already, per channel, and where peers find them."""

    def __init__(self) -> None:
        self.tcp: dict[int, list[tuple[int, str]]] = {}
        self.ips: list[str] = []
        """What TCP listens on, loopback last."""
        self.places: list[str] = []
        """By which addresses other hosts may know us, then our loopback."""
        self.client_ips: frozenset[str] = frozenset()
        """Where clients from elsewhere are let in; see :meth:`client_place`."""
        self._told: dict[int, list[str]] = {}
        self.ipc: dict[int, tuple[int, str]] = {}
        self.lines: dict[int, tuple[int, str]] = {}
        """For peers of this host, besides: not in connector files, which lead elsewhere too."""
        self.monitor: tuple[int, str] = (-1, "")
        self._sockets: list[socket.socket] = []

    def open(self, config: ControllerConfig, runtime: str) -> None:
        """Listen on everything; LaunchError names the address that cannot be had."""
        if config.transport == "tcp":
            self._decide(config)
        for channel in CHANNELS:
            name = CHANNEL_NAMES[channel]
            path = os.path.join(runtime, name)
            self.ipc[channel] = (self._unix(path), f"ipc://{path}")
            if channel != Channel.REGISTRATION:
                path = os.path.join(runtime, line_name(name))
                self.lines[channel] = (self._unix(path), f"{lines.SCHEME}{path}")
            if config.transport == "tcp":
                port = config.ports.get(name, 0)
                self.tcp[channel], self._told[channel] = self._tcp_all(port, name)
        path = os.path.join(runtime, "monitor")
        self.monitor = (self._unix(path), f"ipc://{path}")

    def bind(self, zsocket: zmq.Socket[bytes], channel: int) -> None:
        """Make a ZeroMQ socket listen on everything its channel has."""
        fd, address = self.ipc[channel]
        sockets.bind(zsocket, fd, address)
        for fd, address in self.tcp.get(channel, ()):
            sockets.bind(zsocket, fd, address)

    def addresses(self) -> list[list[str]]:
        """Return every channel's addresses, best first, in channel order."""
        return [[self.ipc[c][1], *self._told.get(c, ())] for c in m.CHANNELS]

    def told(self) -> list[list[str]]:
        """Return what a peer is told when it has registered: lines first."""
        told = self.addresses()
        for channel, (_, address) in self.lines.items():
            told[channel].insert(0, address)
        return told

    def line(self, channel: int) -> int:
        """Return the descriptor on which lines of a channel come, -1 if none do."""
        return self.lines[channel][0] if channel in self.lines else -1

    def client_addresses(self) -> list[list[str]]:
        """Return the same without those to which clients from elsewhere may not come."""
        open_to_clients = [self.client_place(place) for place in self.places]
        return [
            [self.ipc[c][1], *compress(self._told.get(c, ()), open_to_clients)]
            for c in m.CHANNELS
        ]

    def client_place(self, ip: str) -> bool:
        """Tell whether clients may come to an address of ours, wherever they are."""
        return is_loopback(ip) or ip in self.client_ips or ANY in self.client_ips

    def tcp_addresses(self) -> list[str]:
        """Return the addresses that other hosts could reach, were they not on loopback."""
        return [address for channel in CHANNELS for address in self._told.get(channel, ())]

    def keep_only(self, channels: set[Channel], monitor: bool) -> None:
        """Close, in a forked child, what belongs to the other parts."""
        keep = {self.ipc[channel][0] for channel in channels}
        keep.update(self.line(channel) for channel in channels)
        keep.update(fd for channel in channels for fd, _ in self.tcp.get(channel, ()))
        if monitor:
            keep.add(self.monitor[0])
        for made in self._sockets:
            if made.fileno() not in keep:
                os.close(made.fileno())

    def close(self) -> None:
        """Listen no longer."""
        for made in self._sockets:
            made.close()

    def _decide(self, config: ControllerConfig) -> None:
        """Turn what was said of addresses into addresses of this host."""
        try:
            ips = resolve(config.ip or LOOPBACK)
            clients = resolve(config.client_ip) if config.client_ip else []
        except AddressError as error:
            raise LaunchError(f"cannot listen: {error}") from None
        self.client_ips = frozenset(clients)
        found = list(dict.fromkeys([*ips, *clients]))
        if ANY in found:
            self.ips = [ANY]
            self.places = list(
                dict.fromkeys([*filter(None, [config.location]), *all_of(facts()), LOOPBACK])
            )
            return
        if not any(is_loopback(ip) for ip in found):
            found.append(LOOPBACK)
        self.ips = self.places = found

    def _unix(self, path: str) -> int:
        if len(path.encode()) > 107:
            raise LaunchError(
                f"the socket path {path} is longer than the 107 bytes a UNIX socket may "
                f"have; set XDG_RUNTIME_DIR or TMPDIR to a shorter folder"
            )
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)  # its owner's from the first instant: bind takes no mode
        try:
            made.bind(path)
        finally:
            os.umask(before)
        return self._keep(made)

    def _keep(self, made: socket.socket) -> int:
        made.listen(BACKLOG)
        made.setblocking(False)
        self._sockets.append(made)
        return made.fileno()

    def _tcp_all(self, port: int, name: str) -> tuple[list[tuple[int, str]], list[str]]:
        """Listen on a channel's addresses, all at one port; what is bound, what is told."""
        for attempt in range(_ATTEMPTS):
            made = len(self._sockets)
            try:
                return self._tcp_at(port, name)
            except LaunchError:
                # The port that the first address got may be taken on another one.
                if port or attempt == _ATTEMPTS - 1:
                    raise
                for last in self._sockets[made:]:
                    last.close()
                del self._sockets[made:]
        raise AssertionError("not reached")

    def _tcp_at(self, port: int, name: str) -> tuple[list[tuple[int, str]], list[str]]:
        bound: list[tuple[int, str]] = []
        for address in self.ips:
            fd, port = self._tcp(address, port, name)
            bound.append((fd, f"tcp://{url_host(address)}:{port}"))
        return bound, [f"tcp://{url_host(place)}:{port}" for place in self.places]

    def _tcp(self, ip: str, port: int, name: str) -> tuple[int, int]:
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((ip, port))
            made.listen(1)
        except OSError as error:
            made.close()
            raise LaunchError(
                f"cannot listen on {url_host(ip)}:{port} for {name}: {error.strerror}"
                f"{_remedy(name, port)}"
            ) from None
        return self._keep(made), made.getsockname()[1]


def line_name(name: str) -> str:
    """Return what a channel's socket for lines is called."""
    return f"{name}.line"


def _remedy(name: str, port: int) -> str:
    if not port:
        return ""
    flag = {"registration": "regport", "heartbeat": "hb", "direct": "mux"}.get(name, name)
    return f"; stop what listens there (ss -ltnp 'sport = :{port}'), or choose another --{flag}"
