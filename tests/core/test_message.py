"""Messages keep their values on the wire, and roles keep foreign messages out."""

from __future__ import annotations

import inspect
import types
import typing
from typing import Any, Union, get_args, get_origin

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipclusterz.core import message as m

MESSAGES: list[type[Any]] = [
    kind
    for name, kind in vars(m).items()
    if inspect.isclass(kind) and issubclass(kind, m.Message) and kind.__name__ == name
][1:]
PARTS: list[type[Any]] = [
    kind
    for kind in vars(m).values()
    if inspect.isclass(kind) and issubclass(kind, m.Part) and kind is not m.Part
]
UNIONS: dict[str, Any] = {
    name: value
    for name, value in vars(m).items()
    if name.startswith(("From", "To")) and name[0].isupper()
}

every_message = pytest.mark.parametrize("kind", MESSAGES, ids=lambda k: k.__name__)
every_struct = pytest.mark.parametrize("kind", MESSAGES + PARTS, ids=lambda k: k.__name__)
every_union = pytest.mark.parametrize("name", UNIONS)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Return values of a field's type."""
    if hint is int:
        return st.integers(-(2**63), 2**64 - 1)
    if hint is bool:
        return st.booleans()
    if hint is float:
        return st.floats(allow_nan=False)
    if hint is str:
        return st.text(max_size=20)
    if hint is bytes:
        return st.binary(max_size=40)
    if hint is type(None):
        return st.none()
    if hint is Any:
        return st.none() | st.integers(0, 9) | st.text(max_size=5) | st.lists(st.integers(0, 3))
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return st.one_of([values(each) for each in arguments])
    if origin is list:
        return st.lists(values(arguments[0]), max_size=4)
    if origin is tuple:
        return st.tuples(*[values(each) for each in arguments])
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    assert issubclass(hint, msgspec.Struct), hint
    return structs(hint)


def structs(kind: type[Any]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind)
    return st.builds(kind, **{name: values(hints[name]) for name in kind.__struct_fields__})


def members(union: Any) -> tuple[type[Any], ...]:
    return get_args(union) or (union,)


@every_struct
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_whatever_is_sent_arrives_as_it_was(kind: type[Any], data: st.DataObject) -> None:
    value = data.draw(structs(kind))
    assert msgspec.msgpack.decode(m.encode(value), type=kind) == value


@every_message
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_messages_arrive_in_batches_of_their_roles(
    kind: type[Any], data: st.DataObject
) -> None:
    value = data.draw(structs(kind))
    for union in UNIONS.values():
        if kind in members(union):
            packet = m.encode([value, value])
            assert msgspec.msgpack.decode(packet, type=list[union]) == [value, value]


def example(kind: type[Any]) -> Any:
    fill: dict[Any, Any] = {int: 1, str: "", bytes: b"", bool: True, float: 0.0, Any: None}
    fields = {}
    hints = typing.get_type_hints(kind)
    for name in kind.__struct_fields__:
        hint = hints[name]
        if hint in fill:
            fields[name] = fill[hint]
        elif get_origin(hint) in (list, dict):
            fields[name] = get_origin(hint)()
        else:
            fields[name] = None
    return kind(**fields)


@every_union
def test_a_role_lets_its_own_messages_in_and_refuses_all_others(name: str) -> None:
    union = UNIONS[name]
    decode = msgspec.msgpack.Decoder(list[union]).decode
    for kind in MESSAGES:
        packet = m.encode([example(kind)])
        if kind in members(union):
            assert decode(packet) == [example(kind)]
        else:
            with pytest.raises(msgspec.ValidationError):
                decode(packet)


def test_tags_are_given_once_and_are_numbers() -> None:
    tags = [kind.__struct_config__.tag for kind in MESSAGES]
    assert len(set(tags)) == len(tags)
    assert all(isinstance(tag, int) for tag in tags)


def test_every_message_belongs_to_some_role() -> None:
    placed = {kind for union in UNIONS.values() for kind in members(union)}
    assert set(MESSAGES) == placed


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("FromClientTask", m.Result),
        ("FromClientTask", m.Request),
        ("FromClientDirect", m.Submit),
        ("FromClientTask", m.RollCall),
        ("FromAgentWork", m.Submit),
        ("FromAgentWork", m.Received),
        ("FromAgentWork", m.Cancel),
        ("ToAgentWork", m.Admit),
        ("FromRegistration", m.Admit),
        ("FromClientQuery", m.EnginesUp),
    ],
)
def test_no_role_speaks_for_another(kind: str, other: type[Any]) -> None:
    assert other not in members(UNIONS[kind])


@every_message
def test_a_message_cut_short_is_refused(kind: type[Any]) -> None:
    packet = m.encode(example(kind))
    for size in range(len(packet)):
        with pytest.raises(msgspec.MsgspecError):
            msgspec.msgpack.decode(packet[:size], type=kind)


def test_a_longer_message_of_a_later_version_is_understood() -> None:
    assert msgspec.msgpack.decode(
        msgspec.msgpack.encode([50, 7, "new"]), type=m.Beat
    ) == m.Beat(7)


# -- keys ----------------------------------------------------------------------------------


@given(st.integers(0, 2**24 - 1), st.integers(0, 2**40 - 1))
def test_keys_hold_a_client_and_a_counter(client: int, counter: int) -> None:
    key = m.make_key(client, counter)
    assert m.client_of(key) == client
    assert key & ((1 << m.COUNTER_BITS) - 1) == counter
    assert 0 <= key < 2**64


def test_keys_of_one_client_follow_each_other() -> None:
    assert m.make_key(5, 1) + 1 == m.make_key(5, 2)
    assert m.make_key(5, 2**40 - 1) + 1 == m.make_key(6, 0)


def test_the_largest_key_fits_a_message() -> None:
    key = m.make_key(2**24 - 1, 2**40 - 1)
    assert msgspec.msgpack.decode(m.encode(m.Cancel([key])), type=m.Cancel).keys == [key]


def test_what_engines_do_and_what_agents_do_is_told_apart() -> None:
    engines = "APPLY MAP EXECUTE PUSH PULL CLEAR CALL".split()
    assert [op.name for op in m.Op if op < 32] == engines
    assert len(m.CHANNELS) == 7
    assert [int(channel) for channel in m.CHANNELS] == list(range(7))


# -- long answers --------------------------------------------------------------------------


@given(st.integers(0, 3 * m.CHUNK), st.text(max_size=10))
@settings(max_examples=20, deadline=None)
def test_an_answer_of_any_length_comes_whole_in_pieces_that_fit(size: int, error: str) -> None:
    value = ["x" * size]
    pieces = m.answers(7, value, error)
    assert all(each.id == 7 and each.error == error for each in pieces)
    assert [each.more for each in pieces] == [True] * (len(pieces) - 1) + [False]
    assert all(len(m.encode(each)) < m.CHUNK + 200 for each in pieces)
    if len(pieces) == 1 and not pieces[0].piece:
        assert pieces[0].value == value
    else:
        assert size > m.CHUNK - 10
        whole = b"".join(each.piece for each in pieces)
        assert msgspec.msgpack.decode(whole) == value


def test_records_are_counted_whatever_they_are() -> None:
    begun = (1, 4, 0, None, 0.0, None, None)
    ended = (1, 1, 0, 0, None, None, 0.0, None, None, None)
    whole = (*begun, 1, 0, 0, None, None, 0.0, None, None, None)
    made = m.Records([begun], [ended], [whole], [(b"d", b"f")] * 2, [(1, 1, "out")] * 3)
    assert made.count == 8 and m.Records().count == 0
