"""What a user may say about a controller, and how that becomes one decided value.

The same settings come from flags, config files and arguments of Cluster; here they are
joined, checked and turned into ports.  ``-r`` and what it keeps are in
:mod:`ipclusterz.cluster.kept`.  Nothing here starts anything or writes a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from msgspec import Struct

from ipclusterz.core.config import CHANNEL_NAMES, ControllerConfig
from ipclusterz.core.connector import valid_address, valid_ssh
from ipclusterz.core.placement import parse_pin
from ipclusterz.core.sizes import parse_size
from ipclusterz.error import ClusterError
from ipclusterz.files import read_private

SCHEMES = ("leastload", "lru", "plainrandom", "weighted", "twobin", "pure")
KEY_BYTES = 16
"""The shortest key of a user's own."""

_PORT_SETTINGS = {
    "registration": "regport",
    "heartbeat": "hb",
    "query": "query",
    "direct": "mux",
    "task": "task",
    "control": "control",
    "iopub": "iopub",
}


DATABASES = ("sqlite", "memory", "none")
"""Where the hub remembers tasks: a file, its memory, or nowhere."""


class SettingError(ClusterError):
    """A setting that cannot be used, alone or together with another one."""


class ControllerSettings(Struct):
    """A controller as a user describes it; empty and 0 mean: decide yourself.

    ``ip`` and ``client_ip`` are addresses, interfaces, host names, ``auto`` or ``*``.
    ``ports`` is seven ports, as ``12345-12351`` or separated by commas, in the order
    registration, heartbeat, query, direct, task, control, iopub; the single ones win over
    it.  ``ping`` is in milliseconds, ``lease`` in seconds, ``execkey`` the user's own key.
    ``hang_limit`` is in seconds; 0: parts that hang are not started again.
    ``db`` is one of :data:`DATABASES`, ``db_dir`` its folder.
    """

    ip: str = ""
    client_ip: str = ""
    ports: str = ""
    regport: int = 0
    hb: int = 0
    query: int = 0
    mux: int = 0
    task: int = 0
    control: int = 0
    iopub: int = 0
    notifier: int = 0
    transport: str = ""
    url: str = ""
    location: str = ""
    ssh: str = ""
    enginessh: str = ""
    reuse_files: bool = False
    execkey: bytes = b""
    lease: float = 600.0
    hang_limit: float = 30.0
    ping: int = 1000
    scheme: str = "leastload"
    hwm: int = 0
    db: str = "sqlite"
    db_dir: str = ""


def split_names(said: str | Iterable[str]) -> list[str]:
    """Return names that were given as a list, or as a text with commas.

    >>> split_names("numpy, pandas")
    ['numpy', 'pandas']
    """
    listed = said.split(",") if isinstance(said, str) else said
    return [name.strip() for name in listed if name.strip()]


def shm_bytes(said: str | int, name: str) -> int:
    """Return a limit of shared memory in bytes; SettingError calls it ``name``."""
    try:
        return parse_size(said)
    except ValueError as error:
        raise SettingError(f"{name}: {error}") from None


def pin(said: object, name: str) -> str:
    """Return how engines are bound to cores; SettingError calls the setting ``name``."""
    try:
        return parse_pin(str(said or ""))
    except ValueError as error:
        raise SettingError(f"{name}: {error}") from None


def no_such_setting(section: str, name: str, known: Iterable[str]) -> str:
    """Return what to say about a setting that does not exist: the nearest that does."""
    where = f"c.{section}." if section else "c."
    return f"there is no setting {where}{name}{_nearest(name, known, where)}"


def no_such_argument(what: str, name: str, known: Iterable[str]) -> str:
    """Return what to say about an argument that does not exist: the nearest that does."""
    return f"{what} has no argument {name!r}{_nearest(name, known, '')}"


def _nearest(name: str, known: Iterable[str], where: str) -> str:
    from difflib import get_close_matches  # only when something is wrong

    found = get_close_matches(name, sorted(known), 1, 0.5)
    return f"; the nearest is {where}{found[0]}" if found else ""


def decide(settings: ControllerSettings) -> ControllerConfig:
    """Turn settings into a configuration, without files, key or what ``-r`` keeps.

    Raises SettingError, naming the setting, its value and what it must be.
    """
    transport, ip, regport = _place(settings)
    ports = _ports(settings, regport)
    if transport == "ipc" and ports:
        raise SettingError("transport 'ipc' binds no TCP port: leave the ports out, or use tcp")
    for name, value in (("ssh", settings.ssh), ("enginessh", settings.enginessh)):
        if value and not valid_ssh(value):
            raise SettingError(f"{name} is {value!r}: it must be [user@]host[:port]")
    if transport == "ipc" and settings.client_ip:
        raise SettingError("transport 'ipc' binds no TCP port: leave client_ip out, or use tcp")
    if settings.scheme not in SCHEMES:
        raise SettingError(f"scheme is {settings.scheme!r}: choose from {', '.join(SCHEMES)}")
    if settings.ping < 10:
        raise SettingError(f"ping is {settings.ping}: it must be at least 10 milliseconds")
    if settings.lease <= 0:
        raise SettingError(f"lease is {settings.lease:g}: it must be more than 0 seconds")
    if settings.hang_limit and settings.hang_limit < 1:
        raise SettingError(
            f"hang_limit is {settings.hang_limit:g}: it must be at least 1 second, or 0 (never)"
        )
    if settings.db not in DATABASES:
        raise SettingError(f"db is {settings.db!r}: choose from {', '.join(DATABASES)}")
    if settings.hwm < 0:
        raise SettingError(f"hwm is {settings.hwm}: it must be 0 (decide) or more")
    return ControllerConfig(
        client_file="",
        engine_file="",
        ip=ip,
        client_ip="0.0.0.0" if settings.client_ip == "*" else settings.client_ip,
        ports=ports,
        transport=transport,
        location=settings.location,
        ssh=settings.ssh,
        enginessh=settings.enginessh,
        reuse=settings.reuse_files,
        lease=settings.lease,
        hang_limit=settings.hang_limit,
        heartbeat=settings.ping / 1000,
        scheme=settings.scheme,
        hwm=settings.hwm,
    )


def parse_ports(text: str) -> dict[str, int]:
    """Read seven ports: ``12345-12351``, or seven numbers separated by commas."""
    span = re.fullmatch(r"\s*(\d{1,5})\s*-\s*(\d{1,5})\s*", text)
    if span:
        found = list(range(int(span[1]), int(span[2]) + 1))
    elif re.fullmatch(r"[\d,\s]+", text):
        found = [int(part) for part in text.replace(",", " ").split() if len(part) < 7]
    else:
        raise SettingError(f"ports is {text!r}: write it like 12345-12351")
    if len(found) != len(CHANNEL_NAMES):
        raise SettingError(
            f"ports is {text!r}, which makes {len(found)}: a controller has"
            f" {len(CHANNEL_NAMES)} ({', '.join(CHANNEL_NAMES)}), like 12345-12351"
        )
    return dict(zip(CHANNEL_NAMES, found, strict=True))


def read_key(path: str) -> bytes:
    """Read a user's own key from an owner-only file; without the line end, if it has one."""
    try:
        key = read_private(os.path.expanduser(path))
    except FileNotFoundError:
        raise SettingError(
            f"there is no key file {path}; make one with: (umask 077; head -c 32 /dev/urandom"
            f" | base64 > {path})"
        ) from None
    return check_key(key.rstrip(b"\r\n"), path)


def check_key(key: bytes, origin: str) -> bytes:
    """Return ``key`` if it is long enough, else raise SettingError."""
    if len(key) < KEY_BYTES:
        raise SettingError(
            f"the key from {origin} has {len(key)} bytes: it needs at least {KEY_BYTES}"
        )
    return key


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity, quota, and batch job's word."""
    from ipclusterz.net.cores import usable  # only when nobody says how many engines

    return usable()


def _place(settings: ControllerSettings) -> tuple[str, str, int]:
    """Join ``url`` with ``transport``, ``ip`` and ``regport``, which it sums up."""
    transport, ip, regport = settings.transport, settings.ip, settings.regport
    if settings.url:
        if not valid_address(settings.url) or not settings.url.startswith("tcp://"):
            raise SettingError(
                f"url is {settings.url!r}: it must be like tcp://127.0.0.1:12345"
            )
        host, _, port = settings.url.removeprefix("tcp://").rpartition(":")
        said = {
            "transport": (transport, "tcp"),
            "ip": (ip, host),
            "regport": (regport, int(port)),
        }
        for name, (given, meant) in said.items():
            if given and given != meant:
                raise SettingError(
                    f"url {settings.url} contradicts {name} {given}: leave one out"
                )
        transport, ip, regport = "tcp", host, int(port)
    if transport not in ("", "tcp", "ipc"):
        raise SettingError(f"transport is {transport!r}: it must be tcp or ipc")
    return transport or "tcp", "0.0.0.0" if ip == "*" else ip, regport


def _ports(settings: ControllerSettings, regport: int) -> dict[str, int]:
    ports = parse_ports(settings.ports) if settings.ports else {}
    single = {name: getattr(settings, flag) for name, flag in _PORT_SETTINGS.items()}
    single["registration"] = regport
    if settings.notifier:
        # Notifications travel on the query connection; the flag is older than that.
        if settings.query and settings.query != settings.notifier:
            raise SettingError(
                f"notifier {settings.notifier} contradicts query {settings.query}:"
                " notifications come on the query port, leave one out"
            )
        single["query"] = settings.notifier
    ports.update({name: port for name, port in single.items() if port})
    for name, port in ports.items():
        if not 0 < port < 65536:
            raise SettingError(f"the {name} port is {port}: it must be from 1 to 65535")
    seen: dict[int, str] = {}
    for name, port in ports.items():
        if port in seen:
            raise SettingError(f"port {port} is given to both {seen[port]} and {name}")
        seen[port] = name
    return ports
