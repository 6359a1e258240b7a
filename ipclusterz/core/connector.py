"""Connector files as values: what a peer must know to find a controller and prove itself.

Text in, :class:`Connector` out, and back; or a ConnectorError that says what is wrong with
which field of which file.  Everything in a connector file is input from elsewhere: each
field is checked here, once, before anything acts on it.  The ``ssh`` field in particular
becomes part of a command line one day, so it must match a strict pattern.

Pure: reads no file, no clock, no host name.
"""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import msgspec

from ipclusterz.core.config import CHANNEL_NAMES
from ipclusterz.core.message import PROTOCOL
from ipclusterz.error import ConnectorError

ROLES = ("client", "engine")

_DIGITS = (
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
)
_HOST = r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,253}[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]{2,45}\])"
_TCP = re.compile(rf"tcp://{_HOST}:(\d{{1,5}})\Z")
_IPC = re.compile(r"ipc:///[^\x00-\x1f]{1,106}\Z")
_SSH = re.compile(rf"(?:[A-Za-z0-9_][A-Za-z0-9_.-]{{0,63}}@)?{_HOST}(?::(\d{{1,5}}))?\Z")
_LOOPBACK = re.compile(r"tcp://(?:127\.\d+\.\d+\.\d+|localhost|\[::1\]):")


class Connector(msgspec.Struct, kw_only=True, frozen=True):
    """What a connector file holds.

    ``exec_key`` is the role's CURVE secret and ``server_key`` the controller's public key,
    both as 40 characters of Z85.  ``url`` is where to register; ``addresses`` maps channel
    names to candidate addresses, best first.  ``location`` is the controller's host name,
    ``hostid`` its boot id, ``ssh`` the host to tunnel through (``[user@]host[:port]``, or
    '').  ``reuse`` says that the file outlives the controller; ``started`` is in seconds
    since the epoch.
    """

    exec_key: str
    server_key: str
    role: str
    url: str
    location: str = ""
    hostid: str = ""
    ssh: str = ""
    addresses: dict[str, list[str]] = {}
    cluster_id: str = ""
    version: str = ""
    protocol: int = PROTOCOL
    reuse: bool = False
    pid: int = 0
    started: float = 0.0

    def __repr__(self) -> str:
        # Connectors turn up in tracebacks and logs; their keys must not.
        return f"<Connector {self.role} of {self.cluster_id!r} at {self.url}>"


_TYPES: dict[str, tuple[type, ...]] = {
    "exec_key": (str,),
    "server_key": (str,),
    "role": (str,),
    "url": (str,),
    "location": (str,),
    "hostid": (str,),
    "ssh": (str,),
    "addresses": (dict,),
    "cluster_id": (str,),
    "version": (str,),
    "protocol": (int,),
    "reuse": (bool,),
    "pid": (int,),
    "started": (int, float),
}
_REQUIRED = ("exec_key", "server_key", "role", "url")
_KINDS = {str: "text", dict: "an object", int: "a whole number", bool: "true or false"}


def parse(text: str, origin: str) -> Connector:
    """Read a connector from the text of a connector file.

    ``origin`` names the file (or wherever the text came from) in errors.  Unknown fields
    are ignored.  Raises ConnectorError.
    """
    document = _document(text, origin)
    fields = _fields(document, origin)
    connector = Connector(**fields)
    _check(connector, origin)
    return connector


def dump(connector: Connector) -> str:
    """Return the text of a connector file: JSON, indented, ending in a newline."""
    return json.dumps(msgspec.structs.asdict(connector), indent=2) + "\n"


def candidates(
    connector: Connector, channel: int | str, hostid: str | None = None
) -> list[str]:
    """Return the addresses to try for a channel, best first.

    ``channel`` is a name or a :class:`ipclusterz.core.message.Channel`.  With ``hostid``,
    which names the caller's loopback, UNIX sockets are left out where the controller's
    differs.  A connector without one vouches for its addresses: it was written for its
    reader, by a launcher that leads the controller's ports there.
    """
    name = channel if isinstance(channel, str) else CHANNEL_NAMES[channel]
    found = list(connector.addresses.get(name, ()))
    if name == "registration" and connector.url not in found:
        found.append(connector.url)
    if hostid is not None and connector.hostid and hostid != connector.hostid:
        found = [a for a in found if not a.startswith("ipc:")]
    return found


def loopback_elsewhere(connector: Connector, hostid: str) -> bool:
    """Tell whether the controller listens on the loopback of another host only.

    Such a controller cannot be reached without a tunnel (an ``ssh`` server).
    """
    if not connector.hostid or connector.hostid == hostid:
        return False
    return bool(_LOOPBACK.match(connector.url)) or connector.url.startswith("ipc:")


def valid_ssh(text: str) -> bool:
    """Tell whether ``text`` is a safe ``[user@]host[:port]``."""
    match = _SSH.match(text)
    if match is None:
        return False
    return match.group(1) is None or 0 < int(match.group(1)) < 65536


def valid_address(text: str) -> bool:
    """Tell whether ``text`` is a ``tcp://host:port`` or ``ipc:///path`` address."""
    match = _TCP.match(text)
    if match:
        return 0 < int(match.group(1)) < 65536
    return bool(_IPC.match(text))


def z85(text: str) -> bytes:
    """Decode Z85 (ZeroMQ RFC 32); ValueError for what is none."""
    if len(text) % 5:
        raise ValueError("no Z85")
    found = b""
    for at in range(0, len(text), 5):
        value = 0
        for digit in text[at : at + 5]:
            value = value * 85 + _DIGITS.index(digit)
        if value >> 32:
            raise ValueError("no Z85")
        found += value.to_bytes(4, "big")
    return found


def _is_key(text: str) -> bool:
    try:
        return len(z85(text)) == 32
    except ValueError:
        return False


def _document(text: str, origin: str) -> dict[str, Any]:
    if not text.strip():
        _bad(origin, "is empty", "copy it again, or start the controller again")
    try:
        document = json.loads(text)
    except ValueError as error:
        cut = "cut short" if text.lstrip().startswith("{") else "no JSON"
        where = f" ({error})" if cut == "no JSON" else f" after {len(text)} characters"
        _bad(origin, f"is {cut}{where}", "copy it again, or start the controller again")
    except RecursionError:
        _bad(origin, "is nested without end", "copy it again")
    if not isinstance(document, dict):
        _bad(origin, "is JSON but no connector", "name the file the controller wrote")
    return document


def _fields(document: dict[str, Any], origin: str) -> dict[str, Any]:
    for name in _REQUIRED:
        if name not in document:
            _bad(
                origin,
                f"has no {name!r}",
                "copy the whole file again; files of other programs, or of much older"
                " versions, do not work",
            )
    fields = {name: document[name] for name in _TYPES if name in document}
    for name, value in fields.items():
        kinds = _TYPES[name]
        wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
        if wrong:
            want = "a number" if float in kinds else _KINDS[kinds[0]]
            _bad(origin, f"has {name!r} of the wrong type", f"it must be {want}")
    return fields


def _check(connector: Connector, origin: str) -> None:
    if connector.protocol != PROTOCOL:
        _bad(
            origin,
            f"was written by ipclusterz {connector.version or '?'} (protocol"
            f" {connector.protocol})",
            f"this one speaks protocol {PROTOCOL}: use the same version on both sides",
        )
    for name in ("exec_key", "server_key"):
        if not _is_key(getattr(connector, name)):
            # The value itself is a secret and stays out of the message.
            _bad(origin, f"has a {name!r} that is no key", "copy the file again, unchanged")
    if connector.role not in ROLES:
        _bad(origin, f"has the role {connector.role!r}", "it must be 'client' or 'engine'")
    if not valid_address(connector.url):
        _bad(
            origin,
            f"has the url {connector.url!r}",
            "it must be like tcp://127.0.0.1:12345 or ipc:///path/to/socket",
        )
    if connector.ssh and not valid_ssh(connector.ssh):
        _bad(origin, f"has the ssh server {connector.ssh!r}", "it must be [user@]host[:port]")
    _check_addresses(connector.addresses, origin)


def _check_addresses(addresses: dict[str, Any], origin: str) -> None:
    for channel, listed in addresses.items():
        if not isinstance(listed, list):
            _bad(origin, f"has no list of addresses for {channel!r}", "copy the file again")
        for address in listed:
            if not isinstance(address, str) or not valid_address(address):
                _bad(origin, f"has the {channel} address {address!r}", "copy the file again")


def _bad(origin: str, what: str, remedy: str) -> NoReturn:
    raise ConnectorError(f"the connector file {origin} {what}: {remedy}")
