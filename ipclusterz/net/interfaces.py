"""What addresses this host has, asked of its kernel; no packet is sent.

Only a name is looked up in ways that may use the network, as the system's resolver does.
"""

from __future__ import annotations

import socket

from ipclusterz.core.addresses import LOOPBACK, Facts, choose, is_any, is_loopback, literal

_OUTSIDE = (
    (socket.AF_INET, ("192.0.2.1", 9)),
    (socket.AF_INET6, ("2001:db8::1", 9)),
)
"""Addresses of documentation (RFC 5737, RFC 3849): routed like any that is far away."""


def facts() -> Facts:
    """Return this host's interfaces with their addresses, and where its routes lead out."""
    import psutil  # 20 ms, for those who listen beyond loopback

    stats = psutil.net_if_stats()
    up: dict[str, tuple[str, ...]] = {}
    down = []
    for name, found in psutil.net_if_addrs().items():
        if name in stats and not stats[name].isup:
            down.append(name)
            continue
        families = (socket.AF_INET, socket.AF_INET6)
        up[name] = tuple(a.address for a in found if a.family in families)
    return Facts(up, tuple(_outward()), tuple(down))


def resolve(said: str) -> list[str]:
    """Return the addresses that ``said`` means here; AddressError tells what there is."""
    if said == LOOPBACK:
        return [LOOPBACK]
    if is_any(said) or said == "localhost" or is_loopback(literal(said)):
        return choose(said, Facts({}), _lookup, lambda address: True)
    return choose(said, facts(), _lookup, has)


def has(address: str) -> bool:
    """Tell whether this host can listen on an address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _lookup(name: str) -> list[str]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _outward() -> list[str]:
    """Return the addresses that the default routes use: connecting UDP sends nothing."""
    found = []
    for family, far in _OUTSIDE:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(far)
                found.append(str(probe.getsockname()[0]))
        except OSError:
            pass
    return found
