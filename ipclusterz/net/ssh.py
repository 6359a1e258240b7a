"""One SSH connection to one host: commands, and forwards both ways, until it is closed.

:func:`connect` chooses between OpenSSH's programs (:mod:`ipclusterz.net.openssh`), which know
the user's configuration, agent and running connections, and paramiko
(:mod:`ipclusterz.net.paramikossh`) where there is no ``ssh`` program or it is asked for.
Both behave the same and raise :class:`SSHError`, one line that names host and cause.

Whoever is asked for a password is asked once a connection, by ``ask``; unknown host keys are
never accepted.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct

from ipclusterz.core.ssh import Destination, Forward, destination
from ipclusterz.error import ClusterError, SSHError

CONNECT_SECONDS = 10.0
COMMAND_SECONDS = 20.0

TRIES = 6
"""How often a server that hangs up at once is tried before it counts as a failure."""

_FIRST_PAUSE = 0.2

ALIVE_SECONDS = 3
ALIVE_COUNT = 3
"""A server that does not answer that often, that many seconds apart, is gone."""

Ask = Callable[[str], str | None]
"""Answers a question of the server (a password, a code); None: there is no answer."""


class Finished(NamedTuple):
    """What a command did."""

    code: int
    stdout: bytes
    stderr: bytes


class Options(Struct, frozen=True):
    """How to connect: a private key's path, a configuration file, seconds, who is asked.

    ``config`` stands instead of the user's ``~/.ssh/config``; ``home`` is a folder of the
    caller's that is removed should this process be killed; ``unwanted`` tells while a
    connection is made that nobody needs it any more (OpenSSH only).
    """

    key: str = ""
    config: str = ""
    timeout: float = CONNECT_SECONDS
    ask: Ask | None = None
    home: str = ""
    unwanted: Callable[[], bool] | None = None


class Process(Protocol):
    """A command that runs on the host, with pipes."""

    @property
    def stdin(self) -> int:
        """The descriptor of its standard input."""

    @property
    def stdout(self) -> int:
        """The descriptor of its standard output."""

    @property
    def stderr(self) -> int:
        """The descriptor of its standard error."""

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs; 255 when the connection ended."""

    def close_stdin(self) -> None:
        """Let it read the end of its input."""

    def close(self) -> None:
        """Close all pipes and let go; what runs there is told by the end of its input."""


class Connection(Protocol):
    """A connection that is up, or was.

    ``kind`` is ``openssh`` or ``paramiko``; ``local_sockets`` says that :meth:`forward` can
    listen on UNIX sockets here, ``remote_sockets`` that :meth:`reverse` can there.
    """

    target: Destination
    kind: str
    local_sockets: bool
    remote_sockets: bool

    def run(
        self, command: str, stdin: bytes = b"", timeout: float = COMMAND_SECONDS
    ) -> Finished:
        """Run a command by the login shell there and wait for its end."""

    def spawn(self, command: str) -> Process:
        """Start a command by the login shell there."""

    def forward(self, forwards: Sequence[Forward]) -> None:
        """Listen here, and lead what connects to places seen from the host."""

    def reverse(self, forwards: Sequence[Forward]) -> list[int]:
        """Listen there, and lead what connects to places seen from here.

        Returns the ports; one asked for as 0 is chosen by the host.
        """

    def alive(self) -> bool:
        """Tell whether it is up, as far as is known."""

    def watched(self) -> int:
        """Return a descriptor that becomes readable when the connection ends."""

    def problem(self) -> str:
        """Return why it ended, or why the last forward could not be connected; or ''."""

    def fine(self) -> None:
        """Forget what :meth:`problem` would tell of forwards: they work again."""

    def close(self) -> None:
        """End it, with all forwards."""


def connect(
    target: str | Destination,
    *,
    key: str = "",
    config: str = "",
    paramiko: bool | None = None,
    timeout: float = CONNECT_SECONDS,
    ask: Ask | None = None,
    home: str = "",
    unwanted: Callable[[], bool] | None = None,
) -> Connection:
    """Connect to ``[user@]host[:port]``, or through several of them with commas.

    ``key`` is a private key's path, ``config`` a configuration file instead of the user's,
    ``ask`` answers for a password (without it nobody is asked).  ``paramiko`` None chooses
    OpenSSH where there is an ``ssh`` program.  ``home`` is an owner-only folder of the
    caller's with a short path, which goes when this process is killed.  A server that hangs
    up before the login, as one does that has many logins under way, is tried again.  Raises
    SSHError within about ``timeout`` seconds, or soon after ``unwanted()`` (OpenSSH only).
    """
    try:
        place = target if isinstance(target, Destination) else destination(target)
    except ValueError as error:
        raise SSHError(str(error)) from None
    key, config = located(key), located(config)
    if key and not os.path.isfile(key):
        raise SSHError(f"cannot log in to {place.shown}: there is no private key {key}")
    if config and not os.access(config, os.R_OK):  # ssh itself would be silent
        raise SSHError(
            f"cannot log in to {place.shown}: there is no ssh configuration {config}, or it may"
            " not be read: correct --ssh-config or IPCLUSTERZ_SSH_CONFIG"
        )
    if paramiko is None:
        paramiko = shutil.which("ssh") is None
    deadline, pause = time.monotonic() + timeout, _FIRST_PAUSE
    asked = False

    def answer(question: str) -> str | None:
        nonlocal asked
        asked = True  # by a host on the way; nobody types that twice for one connection
        return ask(question) if ask is not None else None

    for left in reversed(range(TRIES)):
        seconds = max(deadline - time.monotonic(), 1.0)
        options = Options(key, config, seconds, ask and answer, home, unwanted)
        try:
            return _connected(place, options, paramiko)
        except (OSError, ClusterError) as error:
            raise of_here(error, "connect to", place) from None
        except SSHError as error:
            late = time.monotonic() + pause > deadline
            if error.kind != "busy" or asked or late or not left:
                raise
        time.sleep(pause * (0.5 + os.urandom(1)[0] / 255))  # not all of them together again
        pause *= 1.7
    raise AssertionError("the last try returns or raises")


def located(path: str) -> str:
    """Return a path that means the same file from other folders; '' stays.

    A connection is made again when the working folder may be another one, and ssh looks for
    a relative configuration in ``~/.ssh``.
    """
    return os.path.abspath(os.path.expanduser(path)) if path else ""


def of_here(error: Exception, what: str, place: Destination) -> SSHError:
    """Return the error for trouble of this host's own: no descriptors, a full disk."""
    why = str(error)
    if isinstance(error, OSError) and error.strerror:
        why = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return SSHError(f"cannot {what} {place.shown} by ssh: {why} (on this host)")


def _connected(place: Destination, options: Options, paramiko: bool) -> Connection:
    if paramiko:
        from ipclusterz.net.paramikossh import ParamikoConnection  # 0.3 s, where it is used

        return ParamikoConnection(place, options)
    if shutil.which("ssh") is None:
        raise SSHError("there is no ssh program on the PATH: install OpenSSH, or paramiko=True")
    from ipclusterz.net.openssh import OpenSSHConnection  # subprocess, where it is used

    return OpenSSHConnection(place, options)
