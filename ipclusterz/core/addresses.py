"""Which addresses a controller listens on, from what the user said and what this host has.

Pure: what the host has is handed in as :class:`Facts`; see :mod:`ipclusterz.net.interfaces`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec import Struct

AUTO = "auto"
ANY = "0.0.0.0"
LOOPBACK = "127.0.0.1"
_ANY = (ANY, "*")
_INTERNAL = ("docker", "virbr", "veth", "br-", "cni", "lxcbr", "lxdbr", "podman", "flannel")
"""Names of interfaces that lead to containers and virtual machines of this host only."""

_LOOPBACKS = ("localhost", "::1", "[::1]")


class Facts(Struct, frozen=True):
    """What a host has: addresses by interface, and those that packets to elsewhere leave by.

    ``interfaces`` lists those that are up; ``down`` names the others.
    """

    interfaces: dict[str, tuple[str, ...]]
    outward: tuple[str, ...] = ()
    down: tuple[str, ...] = ()


class AddressError(ValueError):
    """What was said names no address to listen on; the text tells what there is."""


def is_loopback(ip: str) -> bool:
    """Tell whether an address is of this host alone."""
    return ip.startswith("127.") or ip in _LOOPBACKS


def is_any(ip: str) -> bool:
    """Tell whether it stands for all addresses of a host."""
    return ip in _ANY


def literal(text: str) -> str:
    """Return an IP address in its usual form, without brackets; '' for anything else."""
    from ipaddress import ip_address  # 4 ms, for those who listen beyond loopback

    try:
        return str(ip_address(text.strip("[]")))
    except ValueError:
        return ""


def url_host(ip: str) -> str:
    """Return an address as it stands in a ``tcp://`` url."""
    return f"[{ip}]" if ":" in ip else ip


def choose(
    said: str,
    facts: Facts,
    lookup: Callable[[str], list[str]],
    has: Callable[[str], bool],
) -> list[str]:
    """Return the addresses that ``said`` means, best first; never an empty list.

    ``said`` is an address, an interface, a host name, ``auto`` or ``*``.  ``lookup`` returns
    the addresses of a name (none: unknown), ``has`` tells whether one can be listened on.
    Raises AddressError.
    """
    if is_any(said):
        return [ANY]
    if said == "localhost":
        return [LOOPBACK]
    if address := literal(said):
        return [_usable(address, said, facts, has)]
    if said == AUTO:
        return _auto(facts)
    if said in facts.interfaces or said in facts.down:
        return _of_interface(said, facts)
    found = lookup(said)
    if not found:
        raise AddressError(
            f"{said!r} is neither an address, nor an interface of this host, nor a name that"
            f" can be looked up; {listing(facts)}"
        )
    ours = [address for address in found if has(address)]
    if not ours:
        raise AddressError(
            f"the name {said!r} means {', '.join(found)}, which is not this host;"
            f" {listing(facts)}"
        )
    # Where a host's own name is given a loopback address, the name says nothing else.
    return [a for a in ours if not is_loopback(a)] or ours[:1]


def all_of(facts: Facts) -> list[str]:
    """Return the addresses that other hosts may know this one by, the likeliest first."""
    listed = [a for addresses in facts.interfaces.values() for a in addresses]
    ordered = [*facts.outward, *(a for a in listed if ":" not in a), *listed]
    return list(dict.fromkeys(a for a in ordered if _reachable(a)))


def listing(facts: Facts) -> str:
    """Return this host's addresses, in words."""
    told = [f"{name} {', '.join(found)}" for name, found in facts.interfaces.items() if found]
    return f"this host has {'; '.join(told)}" if told else "no address of this host is known"


def beyond(places: Sequence[str], clients: Sequence[str]) -> str:
    """Return in words where other hosts can come, and who; '' where it is loopback only.

    ``places`` are the addresses that engines may come to, ``clients`` those of clients.
    """
    far = [place for place in places if not is_loopback(place)]
    if not far:
        return ""
    allowed = [place for place in far if place in clients]
    who = "engines only"
    if allowed:
        where = "" if allowed == far else f" at {', '.join(allowed)}"
        who = f"engines, and clients{where}"
    return (
        f"other hosts can come to {', '.join(far)}: {who}; all traffic is sealed, and only"
        " holders of a connector file get in"
    )


def _usable(address: str, said: str, facts: Facts, has: Callable[[str], bool]) -> str:
    if has(address):
        return address
    if _scoped(address):
        raise AddressError(
            f"{said} is link-local, which names no place without its interface: give another"
            f" address; {listing(facts)}"
        )
    raise AddressError(f"{said} is no address of this host; {listing(facts)}")


def _auto(facts: Facts) -> list[str]:
    """Return the addresses by which others may come: a login node has one for each side."""
    listed = [
        address
        for name, found in facts.interfaces.items()
        if not name.startswith(_INTERNAL)
        for address in found
    ]
    found = [a for a in dict.fromkeys([*facts.outward, *listed]) if _reachable(a)]
    found = [a for a in found if ":" not in a] or found[:1]
    if not found:
        raise AddressError(
            "'auto' finds no address that other hosts could reach this one at;"
            f" {listing(facts)}"
        )
    return found


def _of_interface(name: str, facts: Facts) -> list[str]:
    if name in facts.down:
        raise AddressError(f"the interface {name} is down; {listing(facts)}")
    found = [a for a in facts.interfaces[name] if not _scoped(a)]
    if not found:
        raise AddressError(f"the interface {name} has no address; {listing(facts)}")
    return [a for a in found if ":" not in a] or found


def _reachable(address: str) -> bool:
    return not is_loopback(address) and not _scoped(address)


def _scoped(address: str) -> bool:
    """Tell whether an address means something only together with an interface."""
    from ipaddress import ip_address

    return ":" in address and ("%" in address or ip_address(address).is_link_local)
