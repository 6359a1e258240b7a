"""The tunnel of a client or an agent: all channels of a controller through one SSH connection.

Each channel has a UNIX socket in a folder that is only ours (other users share the loopback),
and paths to the controller that the SSH server may know: its own loopback, and the addresses
in the connector file.  A thread watches the connection, makes it again after a drop with a
growing pause, and ends with its owner.  The sockets keep their names, so that whoever uses
them only has to connect again.

Nothing here knows what the channels carry.  Messages are sealed end to end in any case: the
SSH server's host cannot read them.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from ipclusterz.core.config import CHANNEL_NAMES
from ipclusterz.core.connector import Connector, candidates
from ipclusterz.core.ssh import Destination, Forward, destination
from ipclusterz.error import SSHError
from ipclusterz.net.ssh import Ask, Connection, connect, located
from ipclusterz.paths import runtime_dir

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 15.0
LOOK_SECONDS = 1.0
"""How often a connection is looked at where the system cannot tell of its end."""

LOGINS = 3
"""Refused logins, after a drop, before it is no use to try again."""


_TCP = re.compile(r"tcp://(?P<host>.+):(?P<port>\d+)\Z")
_LOOPBACK = re.compile(r"127\.\d+\.\d+\.\d+|localhost|\[::1\]|0\.0\.0\.0|\*")

Notice = Callable[[str], None]


class Settings:
    """How a tunnel is made: see :func:`ipclusterz.net.ssh.connect`.

    ``server`` is ``[user@]host[:port]``, or several with commas.  ``password`` answers the
    questions for one; ``prompt`` answers others (and is asked again after a drop).
    """

    def __init__(
        self,
        server: str,
        *,
        key: str = "",
        password: str = "",
        config: str = "",
        paramiko: bool | None = None,
        timeout: float = 10.0,
        prompt: Ask | None = None,
    ) -> None:
        self.server = server
        self.key = located(key)
        self.password = password
        self.config = located(config or os.environ.get("IPCLUSTERZ_SSH_CONFIG", ""))
        self.paramiko = paramiko
        self.timeout = timeout
        self.prompt = prompt

    def __repr__(self) -> str:
        return f"<tunnel settings: {self.server}>"  # never the password

    def connect(self, home: str = "") -> Connection:
        """Log in; raises SSHError.  ``home``: a folder that goes if we are killed."""
        asking = bool(self.password) or self.prompt is not None
        return connect(
            self.server,
            key=self.key,
            config=self.config,
            paramiko=self.paramiko,
            timeout=self.timeout,
            ask=self._asked() if asking else None,
            home=home,
        )

    def _asked(self) -> Ask:
        """Return what answers during one login: each question once, so never in a loop."""
        asked: set[str] = set()

        def answer(question: str) -> str | None:
            # The same password may be asked for in two ways, one after the other.
            whose = re.search(r"\S+@[\w.-]+", question.replace("'s", ""))
            secret = re.search(r"password|passphrase", question, re.IGNORECASE)
            what = f"password of {whose[0].strip('()')}" if whose and secret else question
            if what in asked:
                return None
            asked.add(what)
            if self.password and secret:
                return self.password
            return self.prompt(question) if self.prompt is not None else None

        return answer


class Tunnel:
    """A tunnel that is up; see the module.

    ``addresses`` maps each channel's name to the addresses to connect to, in order.  Raises
    SSHError when it cannot be made at first; later troubles are told to ``notice`` and tried
    again, until ``ended`` says why not any more.  ``connection`` is one that is up already,
    in ``folder``.
    """

    def __init__(
        self,
        settings: Settings,
        connector: Connector,
        *,
        notice: Notice | None = None,
        connection: Connection | None = None,
        folder: str = "",
    ) -> None:
        self._settings = settings
        self._notice = notice or (lambda text: None)
        self._folder = folder or runtime_dir()
        self._down = ""
        self._closed = False
        self.ended = ""
        self._waker, self._woken = os.pipe()
        self._lock = threading.Lock()
        self._connection: Connection | None = connection
        try:
            if connection is None:
                self._connection = settings.connect(self._folder)
            self.addresses, self._forwards = self._plan(connector)
            self._establish()
        except BaseException:
            self._release()
            raise
        self._thread = threading.Thread(target=self._watch, name="tunnel", daemon=True)
        self._thread.start()

    @property
    def server(self) -> str:
        """The SSH server, as messages name it."""
        return destination(self._settings.server).shown

    @property
    def problem(self) -> str:
        """Why it is down, or why its server cannot reach the controller; '' if all is well."""
        if self._down:
            return self._down
        connection = self._connection
        return connection.problem() if connection is not None else ""

    @property
    def up(self) -> bool:
        """Whether the SSH connection is up."""
        return not self._down and not self._closed

    def fine(self) -> None:
        """Forget troubles that are over: somebody has just come through."""
        connection = self._connection
        if connection is not None:
            connection.fine()

    def _plan(self, connector: Connector) -> tuple[dict[str, list[str]], list[Forward]]:
        place = destination(self._settings.server)
        assert self._connection is not None
        addresses: dict[str, list[str]] = {}
        forwards = []
        for name in CHANNEL_NAMES:
            addresses[name] = []
            for number, goal in enumerate(goals(connector, name, place)):
                here = f"{name}{number or ''}"
                if self._connection.local_sockets:
                    path = os.path.join(self._folder, here)
                    addresses[name].append(f"ipc://{path}")
                else:
                    path = str(_free_port())
                    addresses[name].append(f"tcp://127.0.0.1:{path}")
                forwards.append(Forward(path, *goal))
        return addresses, forwards

    def _establish(self) -> None:
        assert self._connection is not None
        self._connection.forward(self._forwards)

    # -- the thread ------------------------------------------------------------------------

    def _watch(self) -> None:
        """Wait for the end of the connection, and make it again."""
        while not self._closed and not self.ended:
            connection = self._connection
            if connection is not None and connection.alive():
                told = connection.watched() >= 0
                _readable(
                    connection.watched(), self._waker, timeout=None if told else LOOK_SECONDS
                )
                continue
            self._drop()
            self._again()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None or self._closed:
            return
        self._down = connection.problem() or "the connection ended"
        connection.close()
        self._notice(f"lost the SSH connection to {self.server} ({self._down}); trying again")

    def _again(self) -> None:
        pause, began, refused = FIRST_PAUSE, time.monotonic(), 0
        while not self._closed:
            connection = None
            try:
                connection = self._settings.connect(self._folder)
                connection.forward(self._forwards)
            except SSHError as error:
                if connection is not None:
                    connection.close()
                self._down = str(error)
                refused += error.kind == "login"
                if error.kind == "trust" or refused > self._patience:
                    self._give_up(str(error))
                    return
            else:
                with self._lock:
                    if self._closed:
                        connection.close()
                        return
                    self._connection = connection
                    self._down = ""
                seconds = time.monotonic() - began
                self._notice(
                    f"the SSH connection to {self.server} is back after {seconds:.0f} s"
                )
                return
            _readable(self._waker, timeout=pause * (0.75 + os.urandom(1)[0] / 510))
            pause = min(pause * 2, LONGEST_PAUSE)

    @property
    def _patience(self) -> int:
        """How often a login may be refused: who is asked for passwords is asked once."""
        return 0 if self._settings.password or self._settings.prompt else LOGINS

    def _give_up(self, text: str) -> None:
        """Trying again would be wrong: it locks accounts, or talks to somebody else."""
        self.ended = text
        self._notice(f"{text}; not tried again: make a new connection")

    # -- the end ---------------------------------------------------------------------------

    def close(self) -> None:
        """End the connection and remove the sockets."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        os.write(self._woken, b"x")
        self._thread.join(1.0)
        self._release()

    def _release(self) -> None:
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        if not getattr(self, "_thread", None) or not self._thread.is_alive():
            for fd in (self._waker, self._woken):
                os.close(fd)


class Goal(NamedTuple):
    """A place as seen from the SSH server; with an empty host a UNIX socket's path."""

    host: str
    port: int = 0
    path: str = ""


def goals(connector: Connector, channel: str, server: Destination) -> list[Goal]:
    """Return where a channel may be found as seen from an SSH server, best first.

    A controller that listens beyond its loopback is reached at that address unless the
    server is its own host; the loopback is tried in any case.
    """
    near: list[Goal] = []
    far: list[Goal] = []
    sockets: list[Goal] = []
    for address in candidates(connector, channel):
        found = _TCP.match(address)
        if found is None:
            sockets.append(Goal("", 0, address.removeprefix("ipc://")))
        elif _LOOPBACK.fullmatch(found["host"]):
            near.append(Goal("127.0.0.1", int(found["port"])))
        else:
            far.append(Goal(found["host"].strip("[]"), int(found["port"])))
    own = connector.location in ("", server.host) or server.host == "localhost"
    # Sockets of a controller without any port: OpenSSH can lead there.
    return (near + far if own else far + near) or sockets


def wanted(connector: Connector, loopback: str, said: str | None) -> str:
    """Return the SSH server to go through, or '' for none.

    ``said`` is the user's word ('' is one: none); without it the connector's entry counts,
    unless the controller is on this host (``loopback`` names ours).
    """
    if said is not None:
        return said
    if connector.hostid and connector.hostid == loopback:
        return ""
    return connector.ssh


def terminal() -> Ask | None:
    """Return what asks whoever sits at this process's terminal, or None if nobody does."""
    import sys

    if sys.stdin is None or not (sys.stdin.isatty() or "ipykernel" in sys.modules):
        return None

    def ask(question: str) -> str | None:
        from getpass import getpass  # termios, only when there is a question

        try:
            return getpass(f"{question} ")
        except Exception:  # a closed terminal, Ctrl-D, a notebook's own errors
            return None

    return ask


def _free_port() -> int:
    import socket  # only where there are no UNIX sockets

    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _readable(*fds: int, timeout: float | None = None) -> None:
    poller = select.poll()
    for fd in fds:
        if fd >= 0:
            poller.register(fd, select.POLLIN)
    poller.poll(None if timeout is None else timeout * 1000)
