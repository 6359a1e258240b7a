"""Where a controller listens: one descriptor per address, made before anything is forked.

The supervisor makes and keeps them, so a part that was restarted listens where it listened
before, and connections made meanwhile wait in the backlog.
"""

from __future__ import annotations

import os
import socket

import zmq

from ipclusterz.core import message as m
from ipclusterz.core.config import CHANNEL_NAMES, ControllerConfig
from ipclusterz.core.message import CHANNELS, Channel
from ipclusterz.error import LaunchError
from ipclusterz.net import host, sockets

BACKLOG = 4096


class Listening:
    """Descriptors that listen already, per channel, and where peers find them."""

    def __init__(self) -> None:
        self.tcp: dict[int, list[tuple[int, str]]] = {}
        self.ipc: dict[int, tuple[int, str]] = {}
        self.monitor: tuple[int, str] = (-1, "")
        self._sockets: list[socket.socket] = []

    def open(self, config: ControllerConfig, runtime: str) -> None:
        """Listen on everything; LaunchError names the address that cannot be had."""
        for channel in CHANNELS:
            name = CHANNEL_NAMES[channel]
            path = os.path.join(runtime, name)
            self.ipc[channel] = (self._unix(path), f"ipc://{path}")
            if config.transport == "tcp":
                self.tcp[channel] = self._tcp_all(config, name)
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
        found: list[list[str]] = []
        for channel in m.CHANNELS:
            tcp = [address for _, address in self.tcp.get(channel, ())]
            found.append([self.ipc[channel][1], *tcp])
        return found

    def tcp_addresses(self) -> list[str]:
        """Return the addresses that other hosts could reach, were they not on loopback."""
        return [address for channel in CHANNELS for _, address in self.tcp.get(channel, ())]

    def keep_only(self, channels: set[Channel], monitor: bool) -> None:
        """Close, in a forked child, what belongs to the other parts."""
        keep = {self.ipc[channel][0] for channel in channels}
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

    def _unix(self, path: str) -> int:
        if len(path.encode()) > 107:
            raise LaunchError(
                f"the socket path {path} is longer than the 107 bytes a UNIX socket may "
                f"have; set XDG_RUNTIME_DIR or TMPDIR to a shorter folder"
            )
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.bind(path)
        os.chmod(path, 0o600)
        return self._keep(made)

    def _keep(self, made: socket.socket) -> int:
        made.listen(BACKLOG)
        made.setblocking(False)
        self._sockets.append(made)
        return made.fileno()

    def _tcp_all(self, config: ControllerConfig, name: str) -> list[tuple[int, str]]:
        ip = config.ip or "127.0.0.1"
        port = config.ports.get(name, 0)
        wanted = [ip]
        if not is_loopback(ip) and ip not in ("0.0.0.0", "*"):
            wanted.append("127.0.0.1")
        found: list[tuple[int, str]] = []
        for address in wanted:
            fd, port = self._tcp("0.0.0.0" if address == "*" else address, port, name)
            shown = address
            if address in ("0.0.0.0", "*"):
                shown = config.location or host.host_name()
            found.append((fd, f"tcp://{shown}:{port}"))
        return found

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
                f"cannot listen on {ip}:{port} for {name}: {error.strerror}"
                f"{_remedy(name, port)}"
            ) from None
        return self._keep(made), made.getsockname()[1]


def is_loopback(ip: str) -> bool:
    """Tell whether an address is of this host alone."""
    return ip.startswith("127.") or ip in ("localhost", "::1", "[::1]")


def _remedy(name: str, port: int) -> str:
    if not port:
        return ""
    flag = {"registration": "regport", "heartbeat": "hb", "direct": "mux"}.get(name, name)
    return f"; stop what listens there (ss -ltnp 'sport = :{port}'), or choose another --{flag}"
