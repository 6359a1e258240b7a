"""What ``-r`` keeps, so that connector files copied once stay good: key, ports, address.

The key file is owner-only and lies beside the connector files.  The first start with ``-r``
chooses what was not said and writes it; later ones use it, and refuse settings that
contradict it: half of the copies would silently stop working.

Secrets pass through here and must not appear in any message; keys are told apart by the
first digits of their hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
from typing import Any

from msgspec import Struct

from ipclusterz.cluster.settings import ControllerSettings, SettingError, decide
from ipclusterz.core.config import CHANNEL_NAMES, ControllerConfig
from ipclusterz.error import ClusterError
from ipclusterz.files import quote, read_private, write_private
from ipclusterz.paths import ProfileDir

_SCRYPT_N = 2**15
_SCRYPT_MEMORY = 64 * 1024 * 1024
_LOW, _HIGH = 10000, 32000
"""Kept ports come from below the range the system lends to outgoing connections, so that
none is in use when the controller comes back."""


class Kept(Struct):
    """The content of a key file; ``salt`` is empty for a key that was not the user's own."""

    key: bytes
    salt: bytes
    ip: str
    transport: str
    ports: dict[str, int]


def settle(
    settings: ControllerSettings, profile: ProfileDir, cluster_id: str
) -> ControllerConfig:
    """Turn settings into a complete configuration; with ``-r``, keep it or compare.

    Raises SettingError when a setting cannot be used or contradicts what was kept, and
    ConnectorError when the key file is not private or not readable.
    """
    config = decide(settings)
    config.cluster_id = cluster_id
    config.client_file = profile.connector("client", cluster_id)
    config.engine_file = profile.connector("engine", cluster_id)
    if settings.db == "memory":
        config.db = ":memory:"
    elif settings.db == "sqlite":
        config.db = os.path.join(settings.db_dir or profile.path, "tasks.db")
    if not settings.reuse_files:
        config.ip = config.ip or "127.0.0.1"
        if settings.execkey:
            config.exec_key = stretch(settings.execkey, os.urandom(16))
        return config
    path = profile.key_file(cluster_id)
    kept = load(path)
    if kept is None:
        kept = _choose(config, settings.execkey)
        save(path, kept)
    else:
        _compare(kept, config, settings, path)
    config.ip, config.ports, config.exec_key = kept.ip, dict(kept.ports), kept.key
    return config


def stretch(own: bytes, salt: bytes) -> bytes:
    """Turn a user's own key into 32 bytes, slowly (scrypt, RFC 7914): it may be guessable."""
    return hashlib.scrypt(
        own, salt=salt, n=_SCRYPT_N, r=8, p=1, maxmem=_SCRYPT_MEMORY, dklen=32
    )


def load(path: str) -> Kept | None:
    """Read a key file; None if there is none."""
    try:
        data = read_private(path)
    except FileNotFoundError:
        return None
    try:
        return _decode(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ClusterError(
            f"the key file {path} is damaged; forget what it kept (connector files copied"
            f" elsewhere must then be copied again) with: rm {quote(path)}"
        ) from None


def save(path: str, kept: Kept) -> None:
    """Write a key file, owner-only."""
    document = {
        "key": base64.b64encode(kept.key).decode(),
        "salt": base64.b64encode(kept.salt).decode(),
        "ip": kept.ip,
        "transport": kept.transport,
        "ports": kept.ports,
    }
    write_private(path, json.dumps(document, indent=2).encode() + b"\n")


def fingerprint(key: bytes) -> str:
    """Return a few digits by which people can tell keys apart."""
    return hashlib.blake2b(key, digest_size=6, person=b"ipclusterz").hexdigest()


def _decode(document: dict[str, Any]) -> Kept:
    kept = Kept(
        key=base64.b64decode(document["key"], validate=True),
        salt=base64.b64decode(document["salt"], validate=True),
        ip=str(document["ip"]),
        transport=str(document["transport"]),
        ports={str(name): int(port) for name, port in document["ports"].items()},
    )
    if len(kept.key) < 16 or not set(kept.ports) <= set(CHANNEL_NAMES):
        raise ValueError("no key file")
    return kept


def _choose(config: ControllerConfig, own: bytes) -> Kept:
    salt = os.urandom(16) if own else b""
    key = stretch(own, salt) if own else os.urandom(32)
    ports = _pick(config.ports) if config.transport == "tcp" else {}
    return Kept(key, salt, config.ip or "127.0.0.1", config.transport, ports)


def _pick(given: dict[str, int]) -> dict[str, int]:
    """Add a free port for each channel that has none."""
    ports = dict(given)
    for name in CHANNEL_NAMES:
        if name not in ports:
            ports[name] = _free_port(set(ports.values()))
    return {name: ports[name] for name in CHANNEL_NAMES}


def _free_port(taken: set[int]) -> int:
    for _ in range(1000):
        port = _LOW + int.from_bytes(os.urandom(4), "big") % (_HIGH - _LOW)
        if port in taken:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        return port
    raise ClusterError(f"no free port was found between {_LOW} and {_HIGH}: use --ports")


def _compare(
    kept: Kept, config: ControllerConfig, settings: ControllerSettings, path: str
) -> None:
    said: list[tuple[str, object, object]] = []
    if settings.transport or settings.url:
        said.append(("transport", config.transport, kept.transport))
    if config.ip:
        said.append(("ip", config.ip, kept.ip))
    if settings.execkey:
        own = stretch(settings.execkey, kept.salt)
        said.append(("key (by its hash)", fingerprint(own), fingerprint(kept.key)))
    for name, port in config.ports.items():
        said.append((f"{name} port", port, kept.ports.get(name, "none")))
    for what, new, old in said:
        if new != old:
            raise SettingError(
                f"the {what} is to be {new}, but -r keeps {old} (in {path}), which connector"
                " files copied elsewhere rely on. Leave the setting out to use what is kept,"
                f" or forget that with: rm {quote(path)} {quote(config.client_file)}"
                f" {quote(config.engine_file)}"
            )
    config.transport = kept.transport
