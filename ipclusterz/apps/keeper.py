"""What stands on another host for a launcher: it starts an agent there and keeps its news.

Two processes of this program are on such a host.  The *keeper* has a session of its own, so
it and the agent live on when the SSH connection ends; it starts the agent, remembers what
that says, and removes everything at the end.  A *relay* is what SSH runs: it passes lines
between the launcher and the keeper's socket and ends with its connection; a new one is told
what it missed.

All lines are JSON.  From the launcher: ``{"do": "attach", "from": 3}`` first, then ``start``
(what the agent reads on its standard input, a connector with a key among it: it is passed
through a pipe, never kept or written), ``now``, ``signal``, ``logs``, ``bye``.  To the
launcher: events, numbered by ``seq`` where they are kept.

Knows folders and processes of this host.  Must not know SSH, hosts or clusters, and imports
little: it runs on hosts that belong to computations.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from typing import Any

from ipclusterz.apps.relayed import Client, start_of

LINGER_SECONDS = 60.0
"""How long the end of an agent is kept for a launcher that is not connected."""

MARK = "IPCLUSTERZ_KEEPER"
"""The environment variable by which everything of one keeper is known."""

WAY = "now"
"""The link to the folder with the sockets of the connection that is up."""

_KEPT = 10_000  # events; more of them say nothing new
_TAIL_LINES = 20
_LOG_LIMIT = 1 << 20
_LAUNCHED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "launched.py")
_OURS = "ipclusterz-"


def main(role: str, folder: str, source: int, sink: int) -> int:
    """``begin`` a keeper and be its relay, or ``attach`` to the one in ``folder``.

    ``source`` and ``sink`` are descriptors that lead to the launcher.
    """
    from ipclusterz.net import host  # what the package needs may be missing here

    os.umask(0o077)
    host.no_core_dump()
    if role == "begin":
        try:
            keeper = Keeper(_new_folder())
        except Exception as error:
            _say(sink, {"event": "error", "text": str(error)})
            return 1
        try:
            _say(sink, {"event": "hello", **_facts(), **keeper.facts()})
        except OSError:  # the launcher did not wait
            keeper.clean()
            return 1
        if os.fork() == 0:
            _daemon(keeper, (source, sink))
        folder = keeper.folder
        keeper.forget()
    return relay(folder, source, sink)


def relay(folder: str, source: int, sink: int) -> int:
    """Pass lines between the launcher and a keeper until one of them ends."""
    channel = socket.socket(socket.AF_UNIX)
    try:
        channel.connect(os.path.join(folder, "keeper"))
    except OSError as error:
        _say(sink, {"event": "gone", "text": f"nothing answers in {folder}: {error.strerror}"})
        return 0
    poller = select.poll()
    poller.register(source, select.POLLIN)
    poller.register(channel, select.POLLIN)
    while True:
        for fd, _ in poller.poll():
            data = os.read(fd, 65536)
            if not data:
                return 0
            if fd == source:
                channel.sendall(data)
            else:
                _write(sink, data)


class Keeper:
    """The daemon; makes its socket at once, serves in :meth:`serve`."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(os.path.join(folder, "keeper"))
        self._listener.listen(4)
        self._clients: dict[int, Client] = {}
        self._poller = select.poll()
        self._poller.register(self._listener, select.POLLIN)
        self._events: list[bytes] = []
        self._seq = 0
        self._ways = 0
        self._agent = 0
        self._agent_fd = -1
        self._status = -1
        self._stdin = -1
        self._rest = b""
        self._bodies: list[str] = []
        self._code: int | None = None
        self._alone = time.monotonic()
        self._over = False
        self._met = False  # whether a relay has ever come

    def facts(self) -> dict[str, Any]:
        """Return what its launcher must know to find it, and to clear it by force."""
        return {"folder": self.folder}

    def forget(self) -> None:
        """Let go, in the process that is not the keeper."""
        self._listener.close()

    # -- life ------------------------------------------------------------------------------

    def serve(self) -> None:
        """Serve until the agent has ended and its launcher knows."""
        while not self._over:
            for fd, _ in self._poller.poll(self._patience()):
                if fd == self._listener.fileno():
                    self._accept()
                elif fd == self._status:
                    self._agent_says()
                elif fd in self._clients:
                    self._listen(self._clients[fd])
            if self._agent and self._code is None:
                self._look()
            if self._code is not None or not self._agent:
                self._over = self._over or self._is_left()
        self.clean()

    def _is_left(self) -> bool:
        """Tell whether nobody will come any more; a launcher that gave up at first will not."""
        if self._clients:
            return False
        gave_up = not self._agent and self._met
        return gave_up or time.monotonic() - self._alone > LINGER_SECONDS

    def _patience(self) -> float | None:
        """Return for how many milliseconds nothing but an event matters; None for ever."""
        if self._agent and self._code is None:
            return None if self._agent_fd >= 0 else 1000.0
        return 1000.0 if not self._clients else None

    # -- the launcher ----------------------------------------------------------------------

    def _accept(self) -> None:
        channel, _ = self._listener.accept()
        client = Client(channel)
        self._met = True
        self._clients[channel.fileno()] = client
        self._poller.register(channel, select.POLLIN)

    def _listen(self, client: Client) -> None:
        lines = client.lines()
        for line in lines or ():
            try:
                self._do(client, json.loads(line))
            except (OSError, ValueError, KeyError, TypeError) as error:
                client.say({"event": "error", "text": f"{type(error).__name__}: {error}"})
        if lines is None:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        if self._clients.pop(client.fd, None) is not None:
            self._poller.unregister(client.fd)
            client.channel.close()
        self._alone = time.monotonic()

    def _do(self, client: Client, line: dict[str, Any]) -> None:
        what = line["do"]
        if what == "attach":
            self._attach(client, int(line["from"]), bool(line.get("lost")))
        elif what == "start":
            self._start(line)
        elif what == "now":
            self._lead(str(int(line["way"])))
        elif what == "signal":
            self._signal(int(line["number"]))
        elif what == "logs":
            self._logs(client)
        elif what == "bye":
            self.clean()
            client.say({"event": "bye"})
            self._over = True

    def _attach(self, client: Client, seen: int, lost: bool) -> None:
        """Make a launcher's new connection the one that counts; tell what it missed."""
        for old in [one for one in self._clients.values() if one is not client]:
            if lost:
                old.cut()
            self._drop(old)
        self._ways += 1
        os.mkdir(os.path.join(self.folder, str(self._ways)), 0o700)
        client.say({"event": "attached", "way": self._ways})
        first = self._seq - len(self._events)
        for event in self._events[max(seen - first, 0) :]:
            client.send(event)

    def _lead(self, way: str) -> None:
        """Have the agent find its sockets in the folder of another connection."""
        link = os.path.join(self.folder, WAY)
        made = f"{link}.{way}"
        os.symlink(way, made)
        os.replace(made, link)

    # -- the agent -------------------------------------------------------------------------

    def _start(self, line: dict[str, Any]) -> None:
        if self._agent:
            return
        os.makedirs(os.path.join(self.folder, "log"), 0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        errors = os.open(os.path.join(self.folder, "log", "ipenginez.err"), flags, 0o600)
        stdin, self._stdin = os.pipe()
        self._status, status = os.pipe()
        environment = {**os.environ, **line.get("env", {})}
        environment[MARK] = os.path.basename(self.folder)
        try:
            self._agent = os.posix_spawn(
                sys.executable,
                [sys.executable, "-P", _LAUNCHED, "engine"],
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, stdin, 0),
                    (os.POSIX_SPAWN_DUP2, status, 1),
                    (os.POSIX_SPAWN_DUP2, errors, 2),
                ],
            )
        finally:
            for fd in (stdin, status, errors):
                os.close(fd)
        from ipclusterz.net import host

        self._agent_fd = host.pidfd(self._agent)
        for fd in (self._agent_fd, self._status):
            if fd >= 0:
                self._poller.register(fd, select.POLLIN)
        self._keep({"event": "agent", "pid": self._agent, "start": start_of(self._agent)})
        try:
            _write(self._stdin, "".join(line["lines"]).encode())
        except OSError:
            pass  # it has ended already; how, is told in a moment

    def _agent_says(self) -> None:
        data = os.read(self._status, 65536)
        if not data:
            self._poller.unregister(self._status)
            os.close(self._status)
            self._status = -1
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            self._bodies += event.get("bodies") or []
            self._keep(event)

    def _keep(self, event: dict[str, Any]) -> None:
        """Remember an event, and tell it."""
        self._seq += 1
        data = json.dumps({**event, "seq": self._seq}).encode() + b"\n"
        self._events.append(data)
        del self._events[:-_KEPT]
        for client in list(self._clients.values()):
            client.send(data)

    def _look(self) -> None:
        """See whether the agent has ended."""
        pid, status = os.waitpid(self._agent, os.WNOHANG)
        if pid == 0:
            return
        while self._status >= 0:  # its last words come before its end
            poller = select.poll()  # select() ends at descriptor 1023
            poller.register(self._status, select.POLLIN)
            if not poller.poll(0):
                break
            self._agent_says()
        self._code = os.waitstatus_to_exitcode(status)
        if self._agent_fd >= 0:
            self._poller.unregister(self._agent_fd)
            os.close(self._agent_fd)
            self._agent_fd = -1
        if self._code != 0:
            self._sweep()
        self._keep({"event": "exit", "code": self._code, "text": self._tail()})
        self._alone = time.monotonic()

    def _signal(self, number: int) -> None:
        if self._agent and self._code is None:
            os.kill(self._agent, number)

    def _sweep(self) -> None:
        """End what an agent left that could not do so itself."""
        from ipclusterz.engine import offspring

        mark = f"{MARK}={os.path.basename(self.folder)}".encode()
        us = os.getpid()
        offspring.end(
            lambda found: {
                pid for pid in found.facts if pid != us and mark in offspring.environment(pid)
            }
        )

    # -- what it leaves --------------------------------------------------------------------

    def _tail(self) -> str:
        try:
            with open(os.path.join(self.folder, "log", "ipenginez.err"), "rb") as file:
                file.seek(max(os.fstat(file.fileno()).st_size - 8192, 0))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-_TAIL_LINES:])

    def _logs(self, client: Client) -> None:
        """Send the logs, the end of long ones."""
        import base64

        folder = os.path.join(self.folder, "log")
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), "rb") as file:
                file.seek(max(os.fstat(file.fileno()).st_size - _LOG_LIMIT, 0))
                data = base64.b64encode(file.read()).decode()
            client.say({"event": "log", "name": name, "data": data})
        client.say({"event": "logs"})

    def clean(self) -> None:
        """Remove everything: the agent if it is there, its folders, ours."""
        if self._agent and self._code is None:
            self._signal(signal.SIGKILL)
            os.waitpid(self._agent, 0)
            self._code = -int(signal.SIGKILL)
            self._sweep()
        import shutil

        for folder in (*self._bodies, self.folder):
            if os.path.basename(folder).startswith(_OURS):
                shutil.rmtree(folder, ignore_errors=True)


def _daemon(keeper: Keeper, others: tuple[int, ...]) -> None:
    """Be the keeper, apart from the SSH session; does not return."""
    code = 1
    try:
        os.setsid()
        for fd in others:
            os.close(fd)
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nothing, fd)
        keeper.serve()
        code = 0
    finally:
        os._exit(code)


def _new_folder() -> str:
    from ipclusterz.paths import runtime_dir

    # What lies in it goes with the last session of the user; the engines outlive ours.
    own = os.environ.pop("XDG_RUNTIME_DIR", None)
    try:
        return runtime_dir()
    finally:
        if own is not None:
            os.environ["XDG_RUNTIME_DIR"] = own


def _facts() -> dict[str, Any]:
    from ipclusterz._version import __version__
    from ipclusterz.core.message import PROTOCOL

    return {
        "version": __version__,
        "protocol": PROTOCOL,
        "python": ".".join(map(str, sys.version_info[:3])),
        "host": socket.gethostname(),
    }


def _say(sink: int, event: dict[str, Any]) -> None:
    _write(sink, json.dumps(event).encode() + b"\n")


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
