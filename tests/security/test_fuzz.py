"""Whatever text or bytes come in: a value or the error that belongs there, and nothing else."""

from __future__ import annotations

import json
import os
import re
import string
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipclusterz.core import message as m
from ipclusterz.core.connector import Connector, candidates, dump, parse, valid_ssh
from ipclusterz.core.link import Link, LinkError
from ipclusterz.core.ssh import destination
from ipclusterz.core.template import TemplateError, render
from ipclusterz.error import ConnectorError, KernelError
from ipclusterz.net.seal import Opener, Sealer, SealError

KEY = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"
GOOD = json.loads(dump(Connector(exec_key=KEY, server_key=KEY, role="client", url="tcp://a:1")))
UNIONS = [getattr(m, name) for name in vars(m) if re.match(r"(From|To)[A-Z]", name)]
SHELL = set(string.whitespace + ";&|`$<>(){}'\"\\*?!#~^%\0")

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats()
    | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=8,
)
evil = st.lists(
    st.sampled_from([*"-@:./;|$`'\"\\ \n\0[]%ax1é", "../", "-oProxyCommand=", "::1"]),
    max_size=12,
).map("".join)


@given(st.sampled_from(sorted(GOOD)), anything | evil)
@settings(max_examples=400)
def test_any_value_in_any_field_of_a_connector(name: str, value: Any) -> None:
    text = json.dumps({**GOOD, name: value})
    try:
        found = parse(text, "the file")
    except ConnectorError as error:
        assert "the file" in str(error) and KEY not in str(error)
        return
    for channel in range(7):
        for address in candidates(found, channel):
            assert address.startswith(("tcp://", "ipc:///")) and "\0" not in address
    assert not found.ssh or valid_ssh(found.ssh)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
def test_any_text_as_a_connector(text: str) -> None:
    with pytest.raises(ConnectorError, match="the file"):
        parse(text, "the file")


@given(evil)
@settings(max_examples=400)
def test_an_ssh_server_is_never_an_option_or_a_command(text: str) -> None:
    if not valid_ssh(text):
        return
    assert not text.startswith("-") and not SHELL & set(text) and ".." not in text.split("/")
    try:
        place = destination(text)
    except (KernelError, ValueError):
        return
    assert not str(place.host).startswith("-")


@given(st.sampled_from(UNIONS), st.binary(max_size=300) | anything.map(msgspec.msgpack.encode))
@settings(max_examples=600)
def test_any_bytes_as_messages(union: Any, data: bytes) -> None:
    for kind in (union, list[union]):
        try:
            made = msgspec.msgpack.decode(data, type=kind)
        except m.UNDECODABLE:
            continue
        msgspec.msgpack.encode(made)


@pytest.mark.parametrize("depth", [1000, 100_000, 5_000_000])
def test_nesting_without_end(depth: int) -> None:
    for union in UNIONS:
        with pytest.raises((msgspec.MsgspecError, RecursionError)):
            msgspec.msgpack.decode(b"\x91" * depth, type=union)
    # An argument of any type, which the hub decodes before it looks.
    head = b"\x94\x28\x01\xa6status"
    with pytest.raises((msgspec.MsgspecError, RecursionError)):
        msgspec.msgpack.decode(head + b"\x91" * depth, type=m.FromClientQuery)


@given(st.binary(max_size=200))
def test_any_bytes_to_the_opener(data: bytes) -> None:
    with pytest.raises(SealError):
        Opener(b"k" * 32).open(data, b"D")


@given(st.lists(st.binary(max_size=60), max_size=8), st.randoms())
def test_sealed_frames_in_any_order_open_at_most_once(data: list[bytes], random: Any) -> None:
    sealer, opener = Sealer(b"k" * 32), Opener(b"k" * 32)
    frames = [sealer.seal(each) for each in data]
    played = frames * 2
    random.shuffle(played)
    opened = []
    for frame in played:
        try:
            opened.append(opener.open(frame))
        except SealError:
            continue
    remaining = iter(data)
    assert all(any(each == other for other in remaining) for each in opened), "in their order"


@pytest.mark.parametrize("inside", [b"\x91\x93\x28\x01\xa4h\xc0re", b"\x91" * 100_000])
def test_what_is_no_text_or_nested_without_end_is_the_peers_fault(inside: bytes) -> None:
    with pytest.raises(LinkError, match="does not belong here"):
        Link(m.FromClientQuery).feed((1).to_bytes(8, "little") + bytes(8) + inside)


@given(st.lists(st.binary(max_size=80), max_size=10))
def test_any_packets_to_a_link(packets: list[bytes]) -> None:
    link = Link(m.FromClientTask)
    for packet in packets:
        try:
            link.feed(packet)
        except LinkError:
            pass
    assert link.received <= len(packets) and link.unacknowledged == 0


@given(st.text(alphabet="${}n/4*()'\"ac\n +-%_.[]x0", max_size=60))
@settings(max_examples=400)
def test_any_template_renders_or_is_explained(text: str) -> None:
    try:
        made = render(text, {"n": 8, "a": "x"}, "f")
    except TemplateError as error:
        assert str(error).startswith("f, line ")
    else:
        assert len(made) <= 20 * len(text)


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9",
        "9" * 199,
        "*".join(["99999"] * 33),
        "__import__('os').system('true')",
        "n.__class__",
        "[n for n in range(10)]",
        "max(*[1])",
        "1 if n else 2",
        "'n' * 9",
        "n" + "\\0",
    ],
)
def test_no_expression_takes_time_or_runs_code(expression: str) -> None:
    with pytest.raises(TemplateError, match="f, line 1"):
        render("${" + expression + "}", {"n": os.getpid() and "x"}, "f")
