"""SSH as values: whom to connect to, how that is said to OpenSSH, and what its words mean.

Pure: no process is started and no file read here.  A destination comes from command lines,
config files and connector files of others; it is checked once, here, and never becomes part
of a text that a local shell reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from msgspec import Struct

from ipclusterz.core.connector import valid_ssh

_PARTS = re.compile(r"(?:(?P<user>[^@]+)@)?(?P<host>\[[^\]]+\]|[^:\[\]]+)(?::(?P<port>\d+))?\Z")

MOST_HOPS = 8
"""More hosts than this between two are a mistake."""


class Destination(Struct, frozen=True):
    """A host to log in to; '' and 0 leave the choice to the user's ssh configuration.

    ``jump`` are the hosts on the way there, the first one first.
    """

    host: str
    user: str = ""
    port: int = 0
    jump: tuple[Destination, ...] = ()

    def __str__(self) -> str:
        return ",".join([str(hop) for hop in self.jump] + [self._one()])

    def _one(self) -> str:
        user = f"{self.user}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{user}{host}:{self.port}" if self.port else f"{user}{host}"

    @property
    def shown(self) -> str:
        """The host itself, as messages name it."""
        return self._one()

    def arguments(self) -> list[str]:
        """Return what OpenSSH is to be told: options, then ``--``, then the host."""
        found = []
        if self.jump:
            found += ["-J", ",".join(str(hop) for hop in self.jump)]
        if self.user:
            found += ["-l", self.user]
        if self.port:
            found += ["-p", str(self.port)]
        return [*found, "--", self.host]


def destination(text: str) -> Destination:
    """Read ``[user@]host[:port]``, or several with commas: the hosts on the way, then it.

    Raises ValueError.

    >>> destination("ada@login:2222,node1").jump[0].port
    2222
    """
    hops = text.split(",")
    if len(hops) > MOST_HOPS:
        raise ValueError(f"{text!r} has more than {MOST_HOPS} hosts")
    found = [_hop(hop.strip(), text) for hop in hops]
    last = found[-1]
    return Destination(last.host, last.user, last.port, tuple(found[:-1]))


def _hop(text: str, whole: str) -> Destination:
    match = _PARTS.match(text)
    if match is None or not valid_ssh(text):
        raise ValueError(f"{whole!r} is no SSH server: write [user@]host[:port]")
    return Destination(match["host"].strip("[]"), match["user"] or "", int(match["port"] or 0))


class Forward(NamedTuple):
    """A connection's way: what is connected to ``here`` comes out at ``host`` and ``port``.

    ``here`` is the path of a UNIX socket, or a loopback port as a number in text; with an
    empty ``host``, ``path`` is a UNIX socket at the other end.
    """

    here: str
    host: str
    port: int = 0
    path: str = ""

    def spelled(self) -> str:
        """Return it as OpenSSH's ``-L`` and ``-R`` take it."""
        near = f"127.0.0.1:{self.here}" if self.here.isdigit() else self.here
        if self.path:
            return f"{near}:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{near}:{host}:{self.port}"


FORBIDDEN = (
    "its sshd refuses to forward (AllowTcpForwarding, AllowStreamLocalForwarding or PermitOpen"
    " in its sshd_config)"
)
"""What no amount of trying changes."""

_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|[Hh]ost key (?:for .* )?has changed",
        "its host key is another one than before: somebody may be in between. If its owner"
        " says that the key was changed: ssh-keygen -R {host}, then ssh {target} once and"
        " compare the fingerprint",
    ),
    (
        r"No \S+ host key is known for|[Hh]ost key verification failed|not found in known_hosts"
        r"|authenticity of host",
        "its host key is not known here: log in once by hand (ssh {target}), compare the"
        " fingerprint and accept it",
    ),
    (
        r"Could not resolve hostname (?P<what>[^:]*)",
        "there is no host named {what}: correct the name, or add it to ~/.ssh/config",
    ),
    (
        r"open failed: connect failed: (?P<what>[^\r\n]*(?:[Nn]ame|nodename)[^\r\n]*)",
        "the host on the way there finds no host named so ({what}): correct the name",
    ),
    (
        r"[Cc]onnection refused",
        "nothing listens on its SSH port: is sshd running, and is the port right?",
    ),
    (
        r"timed out|[Tt]imeout, server|Operation now in progress",
        "it does not answer: it is off, or a firewall drops the way to it",
    ),
    (r"No route to host|[Nn]etwork is unreachable", "there is no way to it from here"),
    (
        r"UNPROTECTED PRIVATE KEY FILE|bad permissions",
        "the private key's file is open to others: chmod 600 it",
    ),
    (
        r"(?:Identity file|no such identity:) (?P<what>\S+?)(?: not accessible)?:",
        "there is no private key {what}",
    ),
    (
        r"Too many authentication failures",
        "it gave up after too many keys: name the right one (sshkey, or IdentityFile with"
        " IdentitiesOnly in ~/.ssh/config)",
    ),
    (
        r"Permission denied",
        "it does not let us in: install a key there (ssh-copy-id {target}), load it into"
        " ssh-agent, or give the right password",
    ),
    (
        r"administratively prohibited|forwarding.*(?:disabled|refused|denied|not permitted)"
        r"|remote port forwarding failed|Port forwarding failed|forwarding request failed",
        FORBIDDEN,
    ),
    (
        r"[Bb]ad configuration option|terminating, \d+ bad",
        "the ssh configuration has a mistake",
    ),
    (
        r"[Nn]o matching (?P<what>.*?) found",
        "the two sides have no {what} in common",
    ),
    (
        r"Read from remote host|client_loop: send disconnect|Connection to \S+ closed by",
        "the connection was ended by its server, or on the way",
    ),
    (
        r"kex_exchange_identification|Connection (?:closed|reset) by|banner",
        "it, or a host on the way, closed the connection before we could log in: is that port"
        " SSH's, and are there too many connections at once (MaxStartups)?",
    ),
)

_HUNG_UP = re.compile(
    r"kex_exchange_identification: (?:read: )?Connection (?:closed|reset)|SSH protocol banner"
)
"""The server said nothing, so nobody was asked for anything yet."""

_NOISE = re.compile(
    r"^(?:\*\*|@+$|debug\d:|Warning: Permanently added|Pseudo-terminal|mux_client|muxserver"
    r"|Control socket connect|Authorized uses only|X11 forwarding request failed)"
)


def cause(words: str, target: Destination) -> str:
    """Return in one line what the words of ssh mean, and what helps; '' for no words."""
    for pattern, meaning in _CAUSES:
        if found := re.search(pattern, words):
            what = found.groupdict().get("what") or ""
            return meaning.format(host=target.host, target=target.shown, what=what.strip("'\""))
    return " ".join(last_lines(words, 2))


def kind(words: str) -> str:
    """Return what kind of trouble it is, or ''.

    ``'trust'`` with a host's key and ``'login'``, a refusal, do not get better by trying
    again; ``'busy'`` does: a server with many logins under way hangs up on some.
    """
    for number, (pattern, _) in enumerate(_CAUSES):
        if re.search(pattern, words):
            if number < 2:
                return "trust"
            if "kex_exchange" in pattern:
                return "busy" if _HUNG_UP.search(words) else ""
            return "login" if "Permission denied" in pattern else ""
    return ""


def unanswered(target: Destination, timeout: float) -> str:
    """Return the error for a command that did not end; not its text, which may be long."""
    return (
        f"cannot run a command on {target.shown} by ssh: no end of it within {timeout:g} s;"
        f" does a start-up file of the shell there wait for something? ssh {target.shown} true"
    )


def last_lines(words: str, count: int) -> list[str]:
    """Return the last lines that say something."""
    lines = [line.strip() for line in words.splitlines()]
    return [line for line in lines if line and not _NOISE.match(line)][-count:]


def of_connection(words: str) -> str:
    """Return what ssh said of a connection that was up, without what it said of forwards."""
    return re.sub(r"(?m)^channel \d+: open failed: .*$", "", words)


def refused_beyond(words: str) -> str:
    """Return why the server could not connect a forward, as ssh told it; '' if it could."""
    found = re.findall(
        r"open failed: (connect failed|administratively prohibited): (.*)", words
    )
    if not found:
        return ""
    what, why = found[-1]
    return FORBIDDEN if what.startswith("admin") else why.strip()


def quoted(words: Iterable[str]) -> str:
    """Return words as one command for a remote POSIX shell."""
    return " ".join(_quote(word) for word in words)


_ESCAPED = {"\\": "\\0134", "\n": "\\n", "'": "\\0047", "!": "\\0041"}


def in_sh(script: str) -> str:
    """Return a command that runs ``script`` by sh, whatever the login shell is.

    Inside quotes csh takes no line break and no ``!``, fish changes backslashes: where there
    is one of them, or a quote, what is quoted has none of all these.
    """
    if not set(script) & set(_ESCAPED):
        return f"exec sh -c {_quote(script)}"
    escaped = "".join(_ESCAPED.get(letter, letter) for letter in script)
    return f"""exec sh -c 'eval "$(printf %b "$0")"' '{escaped}'"""


def _quote(word: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./-]+", word):
        return word
    return "'" + word.replace("'", "'\"'\"'") + "'"


def ssh_command(server: Destination, ports: Iterable[int]) -> str:
    """Return the command that makes the tunnels by hand, for somebody's terminal."""
    forwards = [f"-L 127.0.0.1:{port}:127.0.0.1:{port}" for port in ports]
    words = [word for word in server.arguments() if word != "--"]
    return " ".join(["ssh -N", *forwards, quoted(words)])
