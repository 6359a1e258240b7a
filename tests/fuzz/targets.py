"""What is fuzzed: functions of some bytes that return when all is well and raise when not.

Used by hypothesis in each run of the tests (``test_targets.py``) and by atheris by hand
(``python -m tests.fuzz``).  They know neither of the two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec

from ipclusterz.core import message as m
from ipclusterz.core.connector import (
    Connector,
    candidates,
    dump,
    loopback_elsewhere,
    parse,
    valid_address,
    valid_ssh,
)
from ipclusterz.core.link import Link, LinkError
from ipclusterz.core.template import TemplateError, render, used
from ipclusterz.error import ConnectorError
from ipclusterz.net.seal import Opener, Sealer, SealError

KEY = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"
UNIONS = [getattr(m, name) for name in vars(m) if re.match(r"(From|To)[A-Z]", name)]
NAMES: dict[str, int | str | None] = {"n": 8, "queue": "long", "walltime": None}
UNSAFE = re.compile(r"[\s;&|`$<>(){}'\"\\*?!#~^\0]|^-")


@cache
def _decoder(number: int, batch: bool) -> msgspec.msgpack.Decoder[Any]:
    union = UNIONS[number]
    return msgspec.msgpack.Decoder(list[union] if batch else union)


def decoder(data: bytes) -> None:
    """Bytes that open, as messages: what decodes is encoded, and decodes to the same."""
    if not data:
        return
    decode = _decoder(data[0] % len(UNIONS), data[0] >= 128).decode
    try:
        made = decode(data[1:])
    except m.UNDECODABLE:
        return
    again = msgspec.msgpack.encode(made)
    assert msgspec.msgpack.encode(decode(again)) == again


def link(data: bytes) -> None:
    """Packets, each after a byte with its length: never more is taken in than came."""
    end, came, size = Link(m.FromClientTask), 0, 0
    end.put(m.Received([1]))
    packets = end.take()
    sent = sum(map(len, packets))
    while data:
        packet, data = data[1 : 1 + data[0]], data[1 + data[0] :]
        came, size = came + 1, size + len(packet)
        try:
            messages = end.feed(packet)
        except LinkError:
            continue
        assert len(messages) <= size
        end.acknowledgement(force=True)
    assert 0 <= end.received <= came
    assert end.unacknowledged in (0, sent)
    assert len(end.resume(0)) == (1 if end.unacknowledged else 0)


def sealer(data: bytes) -> None:
    """Bytes as a frame never open; as payload they come back, once."""
    seals, opens = Sealer(b"k" * 32), Opener(b"k" * 32)
    try:
        opens.open(data, b"D")
    except SealError:
        pass
    else:
        raise AssertionError("a forged frame was opened")
    frame = seals.seal(data, b"D")
    if data:
        at = data[0] % len(frame)
        for bad in (frame[:at], frame[:at] + bytes((frame[at] ^ 1,)) + frame[at + 1 :]):
            try:
                opens.open(bad, b"D")
            except SealError:
                continue
            raise AssertionError("a damaged frame was opened")
    assert opens.open(frame, b"D") == data


def connector(data: bytes) -> None:
    """Text as a whole file, and as one of its fields."""
    text = data.decode("utf-8", "surrogateescape")
    _connector(text)
    names = list(_GOOD)
    if data:
        value: Any = text[1:]
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            pass
        try:
            whole = json.dumps({**_GOOD, names[data[0] % len(names)]: value})
        except (ValueError, RecursionError):
            return
        _connector(whole)


_GOOD = json.loads(
    dump(Connector(exec_key=KEY, server_key=KEY, role="client", url="tcp://a:1", hostid="b"))
)


def _connector(text: str) -> None:
    try:
        found = parse(text, "the file")
    except ConnectorError as error:
        assert "the file" in str(error) and _without_key(str(error), text)
        return
    assert _without_key(repr(found), text)
    assert not found.ssh or (valid_ssh(found.ssh) and not UNSAFE.search(found.ssh))
    assert parse(dump(found), "the file") == found or found.started != found.started
    loopback_elsewhere(found, "here")
    for channel in range(7):
        for address in candidates(found, channel, "here"):
            assert valid_address(address) and "\0" not in address


def _without_key(told: str, text: str) -> bool:
    """Tell whether a key stands only where a file has it in another field as well."""
    return KEY not in told or text.count(KEY) > 2


def template(data: bytes) -> None:
    """Text as a template: rendered, in bounds, or refused with its line."""
    text = data.decode("utf-8", "surrogateescape")
    used(text)
    try:
        made = render(text, NAMES, "f")
    except TemplateError as error:
        assert str(error).startswith("f, line ")
    else:
        assert len(made) <= 20 * len(text)


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (decoder, link, sealer, connector, template)
}

_PACKET = (1).to_bytes(8, "little") + bytes(8) + msgspec.msgpack.encode([m.Received([1])])
SEEDS: dict[str, list[bytes]] = {
    "decoder": [
        bytes((number,)) + msgspec.msgpack.encode(each)
        for number in range(len(UNIONS))
        for each in (m.Received([1]), m.Query(1, "status"), m.Beat(1))
    ],
    "link": [bytes((len(_PACKET),)) + _PACKET, b"\x10" + bytes(16), b"\x0f" + bytes(15)],
    "sealer": [b"", b"D" * 40, Sealer(b"j" * 32).seal(b"x", b"D")],
    "connector": [
        json.dumps(_GOOD).encode(),
        b"\x06ada@host:22",
        b"\x03tcp://[::1]:5",
        b'\x07{"task": ["ipc:///a/b", "tcp://h:70000"]}',
    ],
    "template": [
        b"#SBATCH -N ${ceil(n/4)} $$HOME $queue\n",
        b"${n//0} ${min(n,3)*2%5}",
        b"{n} ${walltime} ${",
        b"${9**9} ${-n+1} ${floor(n/3)} ${max(1,2,3)}",
    ],
}
"""A few inputs of each kind to begin with."""
