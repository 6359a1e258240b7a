"""What a user may say about a controller, and what -r keeps of it."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

import pytest

from ipclusterz.cluster import kept
from ipclusterz.cluster.settings import (
    ControllerSettings,
    SettingError,
    decide,
    parse_ports,
    read_key,
    usable_cores,
)
from ipclusterz.core.config import CHANNEL_NAMES
from ipclusterz.error import ClusterError
from ipclusterz.paths import ProfileDir


def test_ports_in_both_forms() -> None:
    expected = dict(zip(CHANNEL_NAMES, range(12345, 12352), strict=True))
    assert parse_ports("12345-12351") == expected
    assert parse_ports("12345,12346,12347 12348 12349,12350,12351") == expected


@pytest.mark.parametrize("text", ["12345", "1-3", "x", "12345-12352", "5-1", ""])
def test_ports_that_are_not_seven(text: str) -> None:
    with pytest.raises(SettingError, match="12345-12351"):
        parse_ports(text)


def test_single_ports_win() -> None:
    config = decide(ControllerSettings(ports="12345-12351", regport=2000, mux=2001, notifier=9))
    assert config.ports["registration"] == 2000
    assert config.ports["direct"] == 2001
    assert config.ports["query"] == 9
    assert config.ports["iopub"] == 12351


def test_a_url_says_three_things() -> None:
    config = decide(ControllerSettings(url="tcp://10.0.0.1:12345"))
    assert (config.transport, config.ip) == ("tcp", "10.0.0.1")
    assert config.ports == {"registration": 12345}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (ControllerSettings(regport=5, hb=5), "port 5 is given to both"),
        (ControllerSettings(regport=70000), "from 1 to 65535"),
        (ControllerSettings(regport=-1), "from 1 to 65535"),
        (ControllerSettings(url="x"), "like tcp://127.0.0.1:12345"),
        (ControllerSettings(url="tcp://a:5", regport=6), "contradicts regport 6"),
        (ControllerSettings(notifier=5, query=6), "notifier 5 contradicts query 6"),
        (ControllerSettings(transport="pgm"), "must be tcp or ipc"),
        (ControllerSettings(transport="ipc", regport=5), "binds no TCP port"),
        (ControllerSettings(ssh="-oProxyCommand=x"), "[user@]host[:port]"),
        (ControllerSettings(scheme="best"), "choose from leastload"),
        (ControllerSettings(ping=1), "at least 10 milliseconds"),
        (ControllerSettings(lease=0), "more than 0 seconds"),
        (ControllerSettings(hwm=-1), "0 (decide) or more"),
    ],
)
def test_misuse_is_named(settings: ControllerSettings, words: str) -> None:
    with pytest.raises(SettingError, match=re.escape(words)):
        decide(settings)


def test_keys_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(SettingError, match="umask 077"):
        read_key(str(path))
    path.touch(0o600)
    path.write_bytes(b"fifteen bytes..\n")
    with pytest.raises(SettingError, match="has 15 bytes: it needs at least 16"):
        read_key(str(path))
    path.write_bytes(b"sixteen bytes...\n")
    assert read_key(str(path)) == b"sixteen bytes..."


def test_cores() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.fixture
def profile(tmp_path: Path) -> ProfileDir:
    return ProfileDir(str(tmp_path / "cluster_x")).create()


def test_without_r_nothing_is_kept(profile: ProfileDir) -> None:
    config = kept.settle(ControllerSettings(), profile, "")
    assert config.ip == "127.0.0.1"
    assert config.exec_key is None
    assert config.client_file == profile.connector("client")
    assert os.listdir(profile.security) == []


def test_r_keeps_what_it_chose(profile: ProfileDir) -> None:
    first = kept.settle(ControllerSettings(reuse_files=True, regport=12345), profile, "a")
    path = Path(profile.key_file("a"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first.ports["registration"] == 12345
    assert len(set(first.ports.values())) == 7
    assert first.exec_key and len(first.exec_key) == 32
    second = kept.settle(ControllerSettings(reuse_files=True), profile, "a")
    assert second == first
    same = ControllerSettings(reuse_files=True, regport=12345, ip="127.0.0.1")
    assert kept.settle(same, profile, "a") == first


def test_a_key_file_of_an_earlier_version_is_read(profile: ProfileDir) -> None:
    first = kept.settle(ControllerSettings(reuse_files=True), profile, "")
    path = Path(profile.key_file())
    document = json.loads(path.read_text())
    assert document.pop("addresses") == ["127.0.0.1"]
    assert document.pop("client_ip") == ""
    path.write_text(json.dumps(document))
    assert kept.settle(ControllerSettings(reuse_files=True), profile, "") == first
    other = ControllerSettings(reuse_files=True, client_ip="127.0.0.3")
    with pytest.raises(SettingError, match="the client_ip is to be 127.0.0.3, but"):
        kept.settle(other, profile, "")


def test_contradictions_name_both_values_and_the_remedy(profile: ProfileDir) -> None:
    kept.settle(ControllerSettings(reuse_files=True, regport=12345), profile, "")
    with pytest.raises(SettingError) as caught:
        kept.settle(ControllerSettings(reuse_files=True, regport=12346), profile, "")
    text = str(caught.value)
    assert "12346" in text and "12345" in text
    command = text[text.index("rm ") + 3 :]
    assert command.split() == [
        profile.key_file(),
        profile.connector("client"),
        profile.connector("engine"),
    ]
    for other in (
        ControllerSettings(reuse_files=True, ip="0.0.0.0"),
        ControllerSettings(reuse_files=True, transport="ipc"),
    ):
        with pytest.raises(SettingError, match="but -r keeps"):
            kept.settle(other, profile, "")
    os.unlink(profile.key_file())
    kept.settle(ControllerSettings(reuse_files=True, regport=12346), profile, "")


def test_another_key_is_refused_without_showing_any(profile: ProfileDir) -> None:
    own = ControllerSettings(reuse_files=True, execkey=b"correct horse battery")
    first = kept.settle(own, profile, "")
    assert kept.settle(own, profile, "") == first
    assert kept.settle(ControllerSettings(reuse_files=True), profile, "") == first
    other = ControllerSettings(reuse_files=True, execkey=b"a very different key")
    with pytest.raises(SettingError, match=r"key \(by its hash\) is to be") as caught:
        kept.settle(other, profile, "")
    assert first.exec_key and first.exec_key.hex() not in str(caught.value)
    assert "horse" not in str(caught.value) and "very different" not in str(caught.value)


def test_a_damaged_key_file_says_how_to_go_on(profile: ProfileDir) -> None:
    kept.settle(ControllerSettings(reuse_files=True), profile, "")
    Path(profile.key_file()).write_text("{")
    with pytest.raises(ClusterError, match="is damaged; forget what it kept"):
        kept.settle(ControllerSettings(reuse_files=True), profile, "")
