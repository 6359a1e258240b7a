"""What a user says of addresses, and what it means on a host."""

from __future__ import annotations

import pytest

from ipclusterz.core.addresses import AddressError, Facts, all_of, beyond, choose, url_host

LOGIN = Facts(
    interfaces={
        "lo": ("127.0.0.1", "::1"),
        "ib0": ("10.1.0.9",),
        "eth0": ("192.0.2.7", "2001:db8::7", "fe80::1%eth0"),
        "docker0": ("172.17.0.1",),
        "wg0": ("10.8.0.1",),
        "tun0": (),
        "six": ("fe80::2%six", "2001:db8::9"),
    },
    outward=("192.0.2.7", "2001:db8::7"),
    down=("eth1",),
)
NAMES = {
    "login": ["127.0.1.1", "192.0.2.7"],
    "laptop": ["127.0.1.1"],
    "elsewhere": ["198.51.100.1"],
}


def means(said: str, facts: Facts = LOGIN) -> list[str]:
    ours = {a for found in facts.interfaces.values() for a in found}
    return choose(
        said,
        facts,
        lambda name: NAMES.get(name, []),
        lambda ip: ip in ours or ip.startswith("127."),
    )


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("10.1.0.9", ["10.1.0.9"]),
        ("127.0.0.2", ["127.0.0.2"]),
        ("localhost", ["127.0.0.1"]),
        ("*", ["0.0.0.0"]),
        ("0.0.0.0", ["0.0.0.0"]),
        ("[2001:db8::7]", ["2001:db8::7"]),
        ("2001:DB8:0::7", ["2001:db8::7"]),
        ("wg0", ["10.8.0.1"]),
        ("eth0", ["192.0.2.7"]),
        ("six", ["2001:db8::9"]),
        ("login", ["192.0.2.7"]),
        ("laptop", ["127.0.1.1"]),
        # The way out first, then what a login node has for its nodes; not for containers.
        ("auto", ["192.0.2.7", "10.1.0.9", "10.8.0.1"]),
    ],
)
def test_what_is_said(said: str, meant: list[str]) -> None:
    assert means(said) == meant


HAS = "this host has lo 127.0.0.1, ::1; ib0 10.1.0.9; eth0 192.0.2.7"


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("10.9.9.9", f"10.9.9.9 is no address of this host; {HAS}"),
        ("fe80::9", "fe80::9 is link-local"),
        ("eth1", f"the interface eth1 is down; {HAS}"),
        ("tun0", f"the interface tun0 has no address; {HAS}"),
        ("nosuch", "'nosuch' is neither an address, nor an interface of this host, nor a name"),
        ("elsewhere", "the name 'elsewhere' means 198.51.100.1, which is not this host; this"),
    ],
)
def test_what_names_no_address_here(said: str, text: str) -> None:
    with pytest.raises(AddressError) as caught:
        means(said)
    assert str(caught.value).startswith(text)
    assert "this host has lo 127.0.0.1" in str(caught.value)


def test_auto_where_there_is_nothing_to_find() -> None:
    alone = Facts({"lo": ("127.0.0.1",)})
    with pytest.raises(AddressError, match="'auto' finds no address"):
        means("auto", alone)
    six = Facts({"eth0": ("2001:db8::7", "2001:db8::8")}, outward=("2001:db8::8",))
    assert means("auto", six) == ["2001:db8::8"]


def test_all_addresses_begin_with_the_likeliest() -> None:
    assert all_of(LOGIN) == [
        *("192.0.2.7", "2001:db8::7"),
        *("10.1.0.9", "172.17.0.1", "10.8.0.1", "2001:db8::9"),
    ]


def test_addresses_in_urls() -> None:
    assert url_host("2001:db8::7") == "[2001:db8::7]"
    assert url_host("192.0.2.7") == "192.0.2.7"


def test_who_can_come_where() -> None:
    assert beyond(["127.0.0.1"], ["127.0.0.1"]) == ""
    only = beyond(["192.0.2.7", "10.1.0.9", "127.0.0.1"], ["127.0.0.1"])
    assert only.startswith("other hosts can come to 192.0.2.7, 10.1.0.9: engines only; ")
    some = beyond(["192.0.2.7", "10.1.0.9"], ["10.1.0.9"])
    assert ": engines, and clients at 10.1.0.9; " in some
    assert ": engines, and clients; " in beyond(["192.0.2.7"], ["192.0.2.7"])
