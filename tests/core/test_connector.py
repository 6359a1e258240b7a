"""Connector files as values."""

from __future__ import annotations

import json

import msgspec
import pytest

from ipclusterz.core.connector import (
    Connector,
    candidates,
    dump,
    loopback_elsewhere,
    parse,
    valid_address,
    valid_ssh,
)
from ipclusterz.core.message import PROTOCOL, Channel
from ipclusterz.error import ConnectorError

KEY = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"
GOOD = Connector(
    exec_key=KEY,
    server_key=KEY,
    role="client",
    url="tcp://127.0.0.1:4000",
    location="here",
    hostid="boot",
    addresses={
        "registration": ["ipc:///run/a/registration", "tcp://127.0.0.1:4000"],
        "task": ["ipc:///run/a/task", "tcp://127.0.0.1:4001"],
    },
)


def changed(**fields: object) -> str:
    document = json.loads(dump(GOOD))
    document.update(fields)
    return json.dumps(document)


def test_what_is_dumped_is_parsed() -> None:
    assert parse(dump(GOOD), "x") == GOOD


def test_unknown_fields_are_ignored() -> None:
    assert parse(changed(colour="blue"), "x") == GOOD


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (dump(GOOD)[:60], "cut short after 60 characters"),
        ("hello", "no JSON"),
        ("[1]", "no connector"),
        ("[" * 100_000, "nested without end"),
        (changed(url=3), "'url' of the wrong type: it must be text"),
        (changed(pid=True), "'pid' of the wrong type"),
        (changed(reuse=1), "true or false"),
        (changed(started="x"), "a number"),
        (changed(addresses=[]), "an object"),
        (changed(addresses={"task": "x"}), "no list of addresses for 'task'"),
        (changed(addresses={"task": ["x"]}), "task address 'x'"),
        (changed(exec_key="short"), "'exec_key' that is no key"),
        (changed(exec_key="%nSc1" + KEY[5:]), "'exec_key' that is no key"),
        (changed(server_key=KEY[:35] + "#####"), "'server_key' that is no key"),
        (changed(server_key=KEY[:-1] + "\n"), "'server_key' that is no key"),
        (changed(role="king"), "'king'"),
        (changed(url="http://a"), "tcp://127.0.0.1:12345"),
        (changed(url="tcp://a:99999"), "url 'tcp://a:99999'"),
        (changed(ssh="-oProxyCommand=evil"), "ssh server '-oProxyCommand=evil'"),
        (changed(ssh="host; rm x"), "[user@]host[:port]"),
        (changed(protocol=PROTOCOL + 1), f"protocol {PROTOCOL}"),
    ],
)
def test_damage_is_named(text: str, words: str) -> None:
    with pytest.raises(ConnectorError) as caught:
        parse(text, "/some/file.json")
    assert words in str(caught.value)
    assert "/some/file.json" in str(caught.value)
    assert KEY[:-1] not in str(caught.value)


@pytest.mark.parametrize("name", ["exec_key", "server_key", "role", "url"])
def test_what_is_missing_is_named(name: str) -> None:
    document = json.loads(dump(GOOD))
    del document[name]
    with pytest.raises(ConnectorError, match=f"has no '{name}'"):
        parse(json.dumps(document), "x")


def test_a_connector_never_shows_its_key() -> None:
    assert KEY not in repr(GOOD)


def test_candidates() -> None:
    assert candidates(GOOD, "task") == GOOD.addresses["task"]
    assert candidates(GOOD, Channel.TASK, "boot") == GOOD.addresses["task"]
    assert candidates(GOOD, Channel.TASK, "other") == ["tcp://127.0.0.1:4001"]
    assert candidates(GOOD, "iopub") == []
    ours = msgspec.structs.replace(GOOD, hostid="")
    assert candidates(ours, Channel.TASK, "other") == GOOD.addresses["task"]
    bare = Connector(exec_key=KEY, server_key=KEY, role="engine", url="tcp://a:1")
    assert candidates(bare, Channel.REGISTRATION) == ["tcp://a:1"]


def test_loopback_elsewhere() -> None:
    assert not loopback_elsewhere(GOOD, "boot")
    assert loopback_elsewhere(GOOD, "other")
    open_to_all = parse(changed(url="tcp://10.1.2.3:4000"), "x")
    assert not loopback_elsewhere(open_to_all, "other")


@pytest.mark.parametrize("text", ["host", "me@host.example.com:2222", "u_1@[::1]:22", "a-b"])
def test_good_ssh(text: str) -> None:
    assert valid_ssh(text)


@pytest.mark.parametrize(
    "text", ["", "-host", "me@-host", "-me@host", "a b", "host:0", "host:70000", "h\n", "a@b@c"]
)
def test_bad_ssh(text: str) -> None:
    assert not valid_ssh(text)


def test_addresses() -> None:
    assert valid_address("tcp://[::1]:1")
    assert valid_address("ipc:///run/x")
    assert not valid_address("ipc://relative")
    assert not valid_address("tcp://h:1\n")
    assert not valid_address("tcp://*:1")
