"""Where a controller listens, and what it tells clients and engines of it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import ipclusterz as ipp
from ipclusterz.core.config import ControllerConfig
from ipclusterz.error import LaunchError
from ipclusterz.net import interfaces
from ipclusterz.net.listening import Listening
from ipclusterz.paths import runtime_dir


@pytest.fixture
def listening() -> Iterator[Listening]:
    made = Listening()
    yield made
    made.close()


@pytest.fixture
def folder() -> Iterator[str]:
    made = Path(runtime_dir())
    yield str(made)
    for path in made.iterdir():
        path.unlink()
    made.rmdir()


def config(**settings: str) -> ControllerConfig:
    return ControllerConfig("client.json", "engine.json", **settings)  # type: ignore[arg-type]


def hosts(addresses: list[list[str]]) -> set[tuple[str, ...]]:
    return {tuple(a.rpartition(":")[0] for a in listed[1:]) for listed in addresses}


def here(monkeypatch: pytest.MonkeyPatch, **names: list[str]) -> None:
    """A host with these interfaces; all their addresses are loopback's."""
    found = interfaces.Facts({"lo": ("127.0.0.1",), **{k: tuple(v) for k, v in names.items()}})
    monkeypatch.setattr(interfaces, "facts", lambda: found)


def test_each_channel_has_one_port_on_all_addresses(
    listening: Listening, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here(monkeypatch, eth1=["127.0.7.1", "127.0.7.2"])
    listening.open(config(ip="eth1"), folder)
    assert hosts(listening.addresses()) == {("tcp://127.0.7.1", "tcp://127.0.7.2")}
    for listed in listening.addresses():
        assert len({address.rpartition(":")[2] for address in listed[1:]}) == 1


def test_who_may_come_where(listening: Listening) -> None:
    listening.ips = listening.places = ["192.0.2.7", "10.1.0.9", "127.0.0.1"]
    listening.client_ips = frozenset({"10.1.0.9"})
    allowed = [listening.client_place(place) for place in listening.places]
    assert allowed == [False, True, True]
    listening.client_ips = frozenset({"0.0.0.0"})
    assert listening.client_place("192.0.2.7")


def test_an_address_of_another_host(listening: Listening, folder: str) -> None:
    with pytest.raises(LaunchError, match=r"cannot listen: 192\.0\.2\.254 is no address of"):
        listening.open(config(ip="192.0.2.254"), folder)


@pytest.mark.parametrize("ip", ["127.0.0.2", "::1"])
def test_work_over_another_loopback_address(ip: str, tmp_path: Path, ipython_dir: Path) -> None:
    """From a host, as it were, that has none of the controller's sockets."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET) as probe:
            probe.bind((ip, 0))
    except OSError:
        pytest.skip(f"this host cannot listen on {ip}")
    with ipp.Cluster(n=2, controller_ip=ip) as rc:
        document = json.loads(Path(rc.connection_file).read_text())
        copy = tmp_path / "client.json"
        copy.write_text(json.dumps(document | {"hostid": "another"}))
        copy.chmod(0o600)
        with ipp.Client(str(copy), sshserver="") as other:
            assert other[:].apply_sync(pow, 3, 4) == [81, 81]
            shown = f"[{ip}]" if ":" in ip else ip
            address = other.session.connection.facts["address"]  # type: ignore[attr-defined]
            assert address.rpartition(":")[0] == f"tcp://{shown}"
