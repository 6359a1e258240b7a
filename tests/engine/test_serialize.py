"""Objects and calls as bytes: nothing is lost, little is copied, errors name the culprit."""

from __future__ import annotations

import pickle
import sys
import threading
from typing import Any

import numpy
import pytest

from ipclusterz.engine import serialize
from ipclusterz.error import SerializationError


def back(obj: Any) -> Any:
    parts = serialize.split(serialize.join(serialize.pack(obj)))
    return serialize.loads(parts[0], parts[1:])


@pytest.mark.parametrize(
    "obj", [None, True, 1, 2.5, 1j, "é", b"\1", (), [1, {"a": {2}}], ValueError("x")], ids=repr
)
def test_objects_come_back(obj: Any) -> None:
    made = back(obj)
    assert type(made) is type(obj)
    assert repr(made) == repr(obj)


def test_plain_things_need_no_cloudpickle() -> None:
    import subprocess

    code = (
        "import sys\nfrom ipclusterz.engine import serialize as s\n"
        "s.pack([1, {'a': b'x'}]); s.pack_call((1,), {})\n"
        "assert 'cloudpickle' not in sys.modules and 'hashlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_large_buffers_are_not_copied_and_small_ones_stay_in_the_stream() -> None:
    large, small = numpy.zeros(1000), numpy.zeros(3)
    stream, buffers = serialize.dumps([large, small])
    assert len(buffers) == 1
    assert numpy.shares_memory(numpy.frombuffer(buffers[0]), large)
    assert len(stream) < 1000


@pytest.mark.parametrize("count", [3, 1000])
def test_arrays_that_arrive_can_be_written_to(count: int) -> None:
    made = back(numpy.arange(count, dtype="f8"))
    made += 1
    assert made.flags.aligned
    assert made[-1] == count


def test_arrays_of_every_kind() -> None:
    grid = numpy.arange(4000).reshape(40, 100)
    for array in (grid, grid.T, grid[::2, ::3], numpy.array("x"), numpy.zeros((0, 3))):
        assert numpy.array_equal(back(array), array)


def test_a_stream_alone_travels_as_it_is() -> None:
    stream = pickle.dumps([1], 5)
    assert serialize.join([stream]) is stream
    assert serialize.split(stream) == [stream]


@pytest.mark.parametrize("data", [b"", b"x", b"\1", b"\1\0\0\0", b"\1\2\0\0\5\0\0\0"])
def test_damaged_payloads_are_refused(data: bytes) -> None:
    with pytest.raises(SerializationError):
        serialize.split(data)


def test_a_truncated_frame_is_refused() -> None:
    data = serialize.join([b"\x80", b"x" * 100])
    for size in (1, 5, 20, len(data) - 1):
        with pytest.raises(SerializationError):
            serialize.split(data[:size])


def test_total_counts_bytes_not_items() -> None:
    array = memoryview(numpy.zeros(10))
    assert serialize.total([b"abc", array]) == 83


def test_a_call_without_arguments_is_a_constant() -> None:
    assert serialize.pack_call((), {}) == [serialize.NO_ARGS]
    assert serialize.loads(serialize.NO_ARGS) == ((), {})


class Holder:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


@pytest.mark.parametrize(
    ("args", "kwargs", "path", "kind"),
    [
        ((1, threading.Lock()), {}, "argument 1 ", "lock"),
        ((), {"key": (i for i in ())}, "argument 'key' ", "generator"),
        (([0, {"a": sys.stdin.buffer}],), {}, "argument 0[1]['a']", "Buffered"),
        ((Holder(inner=Holder(lock=threading.Lock())),), {}, "argument 0.inner.lock", "lock"),
    ],
)
def test_what_cannot_be_pickled_is_named(
    args: tuple[Any, ...], kwargs: dict[str, Any], path: str, kind: str
) -> None:
    if kind == "Buffered":
        args = ([0, {"a": open(__file__, "rb")}],)  # noqa: SIM115
    with pytest.raises(SerializationError) as caught:
        serialize.pack_call(args, kwargs)
    assert path in str(caught.value)
    assert kind in str(caught.value)
    assert "cannot be pickled" in str(caught.value)


def test_an_object_whose_reduce_raises_is_an_error_too() -> None:
    class Nasty:
        def __reduce__(self) -> Any:
            raise RuntimeError("not me")

    with pytest.raises(SerializationError, match="not me"):
        serialize.pack([Nasty()])


def test_items_name_the_one_that_fails() -> None:
    with pytest.raises(SerializationError, match="item 2"):
        serialize.pack_items([(1,), (2,), (threading.Lock(),)])
    assert back_items([(1,), (2,)]) == ([(1,), (2,)], {})


def back_items(items: list[tuple[Any, ...]]) -> Any:
    return serialize.loads(serialize.pack_items(items)[0])


def test_pack_large_names_function_or_argument() -> None:
    lock = threading.Lock()
    with pytest.raises(SerializationError, match="function.*closure variable 'lock'"):
        serialize.pack_large(lambda: lock, (), {})
    with pytest.raises(SerializationError, match="argument 0"):
        serialize.pack_large(len, (lock,), {})


def test_classes_of_main_travel_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    main = sys.modules["__main__"]
    made: Any = type("Made", (), {"__module__": "__main__", "answer": lambda self: 42})
    monkeypatch.setattr(main, "Made", made, raising=False)
    stream, _ = serialize.dumps(made())
    monkeypatch.delattr(main, "Made")
    assert b"cloudpickle" in stream
    assert serialize.loads(stream).answer() == 42


def test_modules_registered_by_value_travel_by_value() -> None:
    import cloudpickle

    module = sys.modules[__name__]
    assert b"cloudpickle" not in serialize.dumps(Holder)[0]
    cloudpickle.register_pickle_by_value(module)
    try:
        assert b"cloudpickle" in serialize.dumps(Holder)[0]
        assert b"cloudpickle" in serialize.FunctionCache().pack(back_items).data
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert b"cloudpickle" not in serialize.FunctionCache().pack(back_items).data


# -- large ones ----------------------------------------------------------------------------


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value


@pytest.mark.parametrize(
    "kind", [bytes, bytearray, lambda n: "é" * n, lambda n: [b"1" * n] * 2]
)
def test_large_data_come_back_however_deep(kind: Any) -> None:
    value = {"a": [Holder(kind(3_000_000))], "b": 7}
    stream = serialize.pack(value)[0]
    assert isinstance(stream, serialize.Pieces)
    assert len(stream) == len(bytes(stream)) > 3_000_000
    assert serialize.plain(bytes(stream))
    made = serialize.loads(bytes(stream))
    assert made["a"][0].value == value["a"][0].value
    assert type(made["a"][0].value) is type(value["a"][0].value)
    assert made["b"] == 7


def test_large_bytes_are_not_copied() -> None:
    data = bytes(4_000_000)
    (stream,) = serialize.pack_call((1, [data]), {"y": data})
    assert isinstance(stream, serialize.Pieces)
    assert [piece is data for piece in stream.pieces].count(True) == 1


def test_a_large_stream_with_functions_is_not_called_plain() -> None:
    stream = serialize.pack((lambda: 1, b"1" * 2_000_000))[0]
    assert isinstance(stream, serialize.Pieces)
    assert not serialize.plain(bytes(stream))
    refers = serialize.pack((serialize.Reference("x"), b"1" * 2_000_000))[0]
    assert not serialize.plain(bytes(refers))
    assert not serialize.plain(b"\0plain\0")
