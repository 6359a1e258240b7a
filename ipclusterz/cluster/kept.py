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
from ipclusterz.core.addresses import LOOPBACK, AddressError
from ipclusterz.core.config import CHANNEL_NAMES, ControllerConfig
from ipclusterz.error import ClusterError
from ipclusterz.files import quote, read_private, write_private
from ipclusterz.net.interfaces import resolve
from ipclusterz.paths import ProfileDir

_SCRYPT_N = 2**15
_SCRYPT_MEMORY = 64 * 1024 * 1024
_LOW, _HIGH = 10000, 32000
"""Kept ports come from below the range the system lends to outgoing connections, so that
none is in use when the controller comes back."""


class Kept(Struct):
    """The content of a key file; ``salt`` is empty for a key that was not the user's own.

    ``ip`` and ``client_ip`` are as they were said, ``addresses`` what they meant.
    ``renewed`` has a salt for each role whose key ``ipclusterz revoke`` renewed.
    """

    key: bytes
    salt: bytes
    ip: str
    transport: str
    ports: dict[str, int]
    client_ip: str = ""
    addresses: list[str] = []
    renewed: dict[str, bytes] = {}


def _check_folder(path: str, name: str) -> None:
    """Make a folder that was asked for, or raise SettingError: later only a log would tell."""
    try:
        os.makedirs(path, 0o700, exist_ok=True)
    except OSError as error:
        raise SettingError(f"{name} is {path}: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise SettingError(f"{name} is {path}: this user may not write there")


def settle(
    settings: ControllerSettings, profile: ProfileDir, cluster_id: str, here: bool = True
) -> ControllerConfig:
    """Turn settings into a complete configuration; with ``-r``, keep it or compare.

    What is said of addresses is looked up on this host, unless the controller will run on
    another one (``here`` is False), which has its own.
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
        if here and settings.db_dir:
            _check_folder(settings.db_dir, "--db-dir")
        config.db = os.path.join(settings.db_dir or profile.path, "tasks.db")
    if not settings.reuse_files:
        config.ip = config.ip or LOOPBACK
        if here:
            _addresses(config)
        if settings.execkey:
            config.exec_key = stretch(settings.execkey, os.urandom(16))
        return config
    path = profile.key_file(cluster_id)
    kept = load(path)
    if kept is None:
        config.ip = config.ip or LOOPBACK
        kept = _choose(config, settings.execkey, _addresses(config))
        save(path, kept)
    else:
        _compare(kept, config, settings, path)
        config.ip, config.client_ip = kept.ip, kept.client_ip
        _same_addresses(kept, config, path)
    config.ports, config.exec_key = dict(kept.ports), kept.key
    config.renewed, config.key_file = dict(kept.renewed), path
    return config


def _addresses(config: ControllerConfig) -> list[str]:
    """Return what ``ip`` and ``client_ip`` mean on this host."""
    found: list[str] = []
    if config.transport != "tcp":
        return found
    for name, said in (("ip", config.ip), ("client_ip", config.client_ip)):
        try:
            found += resolve(said) if said else []
        except AddressError as error:
            raise SettingError(f"{name}: {error}") from None
    return list(dict.fromkeys(found))


def _same_addresses(kept: Kept, config: ControllerConfig, path: str) -> None:
    """Refuse to start where copied connector files would lead to nobody, or to a stranger."""
    now = _addresses(config)
    lost = [address for address in kept.addresses if address not in now]
    if lost:
        raise SettingError(
            f"{' and '.join(filter(None, [kept.ip, kept.client_ip]))!r} meant"
            f" {', '.join(kept.addresses)} when -r kept it (in {path}), and means"
            f" {', '.join(now)} now; connector files copied elsewhere lead to the old"
            f" address. Give this host {lost[0]} back, or forget what was kept, and copy the"
            f" files again, with: rm {_kept_files(path, config)}"
        )


def _kept_files(path: str, config: ControllerConfig) -> str:
    return " ".join(quote(p) for p in (path, config.client_file, config.engine_file))


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
        "client_ip": kept.client_ip,
        "addresses": kept.addresses,
        "renewed": {
            role: base64.b64encode(salt).decode() for role, salt in kept.renewed.items()
        },
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
        # Files of earlier versions have neither.
        client_ip=str(document.get("client_ip", "")),
        addresses=[str(address) for address in document.get("addresses", ())],
        renewed={
            role: base64.b64decode(salt, validate=True)
            for role, salt in document.get("renewed", {}).items()
        },
    )
    if len(kept.key) < 16 or not set(kept.ports) <= set(CHANNEL_NAMES):
        raise ValueError("no key file")
    return kept


def _choose(config: ControllerConfig, own: bytes, addresses: list[str]) -> Kept:
    salt = os.urandom(16) if own else b""
    key = stretch(own, salt) if own else os.urandom(32)
    ports = _pick(config.ports) if config.transport == "tcp" else {}
    return Kept(key, salt, config.ip, config.transport, ports, config.client_ip, addresses)


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
    if config.client_ip:
        said.append(("client_ip", config.client_ip, kept.client_ip or "none"))
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
                f" or forget that with: rm {_kept_files(path, config)}"
            )
    config.transport = kept.transport
