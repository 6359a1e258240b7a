"""What is large, or cannot travel at all: by value, by the error, and by what is left."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

import ipclusterz as ipp
from tests.faults.watch import files, own_place, until

LARGE = 200 << 20


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with own_place() as folder:
        yield folder


@pytest.fixture(scope="module")
def rc(shared_ipython_dir: Path, place: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=2) as client:
        yield client


@pytest.fixture(autouse=True)
def nothing_left(rc: ipp.Client, place: Path) -> Iterator[None]:
    """No body outlives the results that were made of it."""
    yield
    rc[:].execute("import gc; gc.collect()", block=True)
    until(lambda: not files(place), "the bodies to go")


# -- large ---------------------------------------------------------------------------------


def pattern() -> bytes:
    return bytes(range(251)) * (LARGE // 251)


def test_large_bytes_there_and_back(rc: ipp.Client) -> None:
    data = pattern()

    def check(received: bytes, kind: str) -> Any:
        assert type(received).__name__ == kind
        assert received == bytes(range(251)) * (len(received) // 251)
        return received

    view = rc.load_balanced_view()
    assert view.apply_sync(check, data, "bytes") == data
    mutable = view.apply_sync(check, bytearray(data), "bytearray")
    assert type(mutable) is bytearray and mutable == data
    mutable += b"x"  # not bound to a map of fixed size


def test_large_arrays_there_and_back(rc: ipp.Client) -> None:
    array = numpy.arange(LARGE // 8, dtype="i8").reshape(-1, 1024)

    def add(received: Any) -> Any:
        received += 1  # writable, and nobody else's
        return received

    made = rc.load_balanced_view().apply_sync(add, array)
    assert made.shape == array.shape and made.dtype == array.dtype
    assert (made == array + 1).all()
    assert array[0, 0] == 0
    made[0] = 0


def test_a_large_variable_on_every_engine(rc: ipp.Client) -> None:
    data = pattern()
    rc[:].push({"data": data, "text": "é" * 2_000_000}, block=True)
    assert rc[:].apply_sync(len, ipp.Reference("data")) == [len(data)] * 2
    assert [pulled == data for pulled in rc[:].pull("data", block=True)] == [True, True]
    assert rc[0]["text"] == "é" * 2_000_000
    rc[:].execute("del data, text", block=True)


def test_large_data_with_functions_and_references(rc: ipp.Client) -> None:
    rc[:].push({"n": 5}, block=True)
    data = b"7" * 3_000_000

    def use(given: bytes, call: Any, number: int) -> int:
        result: int = call(given) + number
        return result

    made = rc[0].apply_sync(use, data, lambda given: len(given) + 1, ipp.Reference("n"))
    assert made == 3_000_006


def test_sizes_around_the_limits(rc: ipp.Client) -> None:
    view = rc.load_balanced_view()
    for limit in (0, 1024, 65536, 1 << 17, 1 << 20):
        for size in range(max(limit - 100, 0), limit + 101, 25):
            data = os.urandom(size)
            assert view.apply_sync(bytes, data) == data
            array = numpy.frombuffer(data + b"1", "u1")
            assert (view.apply_sync(numpy.array, array) == array).all()


def test_a_large_function(rc: ipp.Client) -> None:
    table = os.urandom(2_000_000)
    view = rc.load_balanced_view()
    assert view.apply_sync(lambda i: table[i], 1_999_999) == table[1_999_999]
    assert view.map_sync(lambda i: table[i], range(20)) == list(table[:20])


def test_bodies_of_results_nobody_asks_for_go(rc: ipp.Client) -> None:
    results = [rc[0].apply_async(bytes, 1_000_000) for _ in range(20)]
    assert len(results[-1].get(timeout=20)) == 1_000_000
    del results


def test_arrays_sent_again_and_again_leave_the_ones_before_as_they_were(
    rc: ipp.Client,
) -> None:
    """Files are written again when nobody has them any more; here somebody always has."""
    n = 300_000
    rc[:].execute("import numpy, os; kept = []", block=True)
    for number in range(12):
        rc[:].push({"a": numpy.full(n, number, "i8")}, block=True)
        if number % 3 == 0:
            rc[:].execute("kept.append(a)", block=True)
        if number == 4:  # in a child alone, which ends when its pipe does
            rc[:].execute(
                "r, w = os.pipe()\n"
                "out, back = os.pipe()\n"
                "child = os.fork()\n"
                "if not child:\n"
                "    os.close(w)\n"
                "    os.read(r, 1)\n"
                "    os.write(back, str(set(a.tolist())).encode())\n"
                "    os._exit(0)\n",
                block=True,
            )
    pulled = [rc[0].pull("a", block=True)]
    for number in range(8):
        rc[:].execute(f"a = numpy.full({n}, {number}, 'i8')", block=True)
        pulled.append(rc[0].pull("a", block=True))
        if number % 2:
            del pulled[-2]
    assert [set(array.tolist()) for array in pulled] == [{11}, {1}, {3}, {5}, {7}]
    seen = rc[:].apply_sync(lambda kept: [set(a.tolist()) for a in kept], ipp.Reference("kept"))
    assert seen == [[{0}, {3}, {6}, {9}]] * 2
    rc[:].execute("os.close(w); told = os.read(out, 99).decode(); os.waitpid(child, 0)")
    assert rc[:]["told"] == ["{4}"] * 2
    rc[:].execute("os.close(r); os.close(out); os.close(back); del a, kept", block=True)


# -- what cannot travel --------------------------------------------------------------------


def test_functions_and_arguments_that_cannot_be_pickled(rc: ipp.Client) -> None:
    lock = threading.Lock()
    view = rc.load_balanced_view()
    with pytest.raises(ipp.SerializationError, match="closure variable 'lock'.*lock"):
        view.apply_async(lambda: lock)
    with pytest.raises(ipp.SerializationError, match=r"argument 1\['a'\].*lock"):
        view.apply_async(print, 0, {"a": lock})
    with pytest.raises(ipp.SerializationError, match="argument 'key'"):
        view.apply_async(print, key=(i for i in range(3)))
    with pytest.raises(ipp.SerializationError, match="item 2"):
        view.map(print, [0, 1, lock, 3], chunksize=4)
    with pytest.raises(ipp.SerializationError, match=r"pushed\['x'\].*lock"):
        rc[:].push({"x": lock})
    assert view.apply_sync(abs, -1) == 1


def test_a_result_that_cannot_be_pickled(rc: ipp.Client) -> None:
    def make() -> Any:
        return {"answer": [1, threading.Lock()]}

    with pytest.raises(ipp.SerializationError) as caught:
        rc.load_balanced_view().apply_sync(make)
    text = str(caught.value)
    assert "make" in text and "the result['answer'][1] (_thread.lock)" in text
    rc[0].execute("import threading; lock = threading.Lock()", block=True)
    with pytest.raises(ipp.SerializationError, match="pull.*lock"):
        rc[0].pull("lock", block=True)


def test_a_module_that_the_engines_do_not_have(rc: ipp.Client, tmp_path: Path) -> None:
    import sys

    (tmp_path / "only_here.py").write_text("class Thing: pass\ndef f(): pass\n")
    sys.path.insert(0, str(tmp_path))
    try:
        import only_here  # type: ignore[import-not-found]

        view = rc.load_balanced_view()
        with pytest.raises(ModuleNotFoundError, match="only_here.*function"):
            view.apply_sync(only_here.f)
        with pytest.raises(ModuleNotFoundError, match="only_here.*arguments"):
            view.apply_sync(id, only_here.Thing())
    finally:
        sys.path.remove(str(tmp_path))


def test_an_exception_that_cannot_be_pickled(rc: ipp.Client) -> None:
    def fail() -> None:
        class Own(ValueError):
            def __init__(self, a: int, b: Any) -> None:
                super().__init__(f"{a} is wrong")
                self.b = b

        raise Own(1, threading.Lock())

    with pytest.raises(ipp.RemoteError, match="Own: 1 is wrong"):
        rc.load_balanced_view().apply_sync(fail)


def test_a_syntax_error_in_execute_shows_where(rc: ipp.Client) -> None:
    with pytest.raises(SyntaxError) as caught:
        rc[0].execute("a = 1\nb = = 2", block=True)
    text = str(caught.value)
    assert "b = = 2" in text and "line 2" in text and "    ^" in text
    with pytest.raises(NameError, match="'a' is not defined"):
        rc[0]["a"]  # nothing of it was run


# -- no room -------------------------------------------------------------------------------


def test_no_room_for_a_result(rc: ipp.Client, place: Path) -> None:
    """A limit on the size of files stands for a full file system."""

    def limit(size: int) -> None:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size < 0 else size, hard))

    rc[0].apply_sync(limit, 100_000)
    try:
        with pytest.raises(OSError, match="no room for an object of 300") as caught:
            rc[0].apply_sync(bytes, 300_000)
        assert "IPCLUSTERZ_BODIES" in str(caught.value)
        assert not files(place)
        assert rc[0].apply_sync(bytes, 70_000) == bytes(70_000)
    finally:
        rc[0].apply_sync(limit, -1)


def test_no_room_for_arguments(
    rc: ipp.Client, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: Any, at: int) -> int:
        raise OSError(28, os.strerror(28))

    view = rc.load_balanced_view()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="no room for an object of 300.*No space left"):
            view.apply_async(len, bytes(300_000))
        assert not files(place)
    assert view.apply_sync(len, bytes(300_000)) == 300_000


def test_a_place_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPCLUSTERZ_BODIES", str(tmp_path))
    with ipp.Cluster(n=1) as rc:
        assert rc[0].apply_sync(bytes, 300_000) == bytes(300_000)
        assert len(list(tmp_path.iterdir())) == 2  # the client's and the agent's
    assert list(tmp_path.iterdir()) == []
