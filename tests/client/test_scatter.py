"""Scatter and gather over real engines: what goes out comes back, of its own kind."""

from __future__ import annotations

from collections import UserDict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

import ipclusterz as ipp

RECORD = numpy.dtype([("name", "U5"), ("x", "f4"), ("at", "M8[s]")])


@pytest.fixture(scope="module")
def rc(shared_ipython_dir: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=3) as client:
        yield client


def arrays() -> Iterator[Any]:
    def case(name: str, value: Any) -> Any:
        return pytest.param(value, id=name)

    for kind in ("?", "i1", "u8", "f2", "f8", "c16", "S3", "U3", "M8[ns]", "m8[s]"):
        yield case(kind, numpy.arange(10).astype("i8").astype(kind))
    yield case("big-endian", numpy.arange(7, dtype=">i4"))
    yield case("2d", numpy.arange(35).reshape(7, 5))
    yield case("4d", numpy.arange(4 * 3 * 2 * 2.0).reshape(4, 3, 2, 2))
    yield case("fortran", numpy.asfortranarray(numpy.arange(5000.0).reshape(50, 100)))
    yield case("strided", numpy.arange(40)[::-3])
    yield case("object", numpy.array([1, "two", None, {"x": [3]}, 5.5], dtype=object))
    yield case("structured", numpy.array([("a", 1, 5), ("b", 2, 6)] * 3, dtype=RECORD))
    yield case("empty", numpy.empty(0, "f4"))
    yield case("empty-2d", numpy.empty((0, 3), "i2"))
    yield case("no-columns", numpy.empty((5, 0)))
    yield case("one", numpy.array([9]))
    yield case("large", numpy.arange(400_000, dtype="f8"))


@pytest.mark.parametrize("dist", ["b", "r"])
@pytest.mark.parametrize("array", list(arrays()))
def test_arrays(rc: ipp.Client, array: Any, dist: str) -> None:
    view = rc[:]
    assert view.scatter("x", array, dist=dist, block=True) is None
    pieces = view["x"]
    assert [type(piece) for piece in pieces] == [numpy.ndarray] * 3
    assert sum(len(piece) for piece in pieces) == len(array)
    back = view.gather("x", dist=dist, block=True)
    assert back.dtype == array.dtype and back.shape == array.shape
    numpy.testing.assert_array_equal(back, array)
    assert back.flags.writeable


def test_blocks_and_turns(rc: ipp.Client) -> None:
    view = rc[:]
    view.scatter("x", list(range(8)), block=True)
    assert view["x"] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    view.scatter("x", list(range(8)), dist="r", block=True)
    assert view["x"] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    rc[[2, 0]].scatter("x", "abcd", block=True)
    assert rc[2]["x"] == "ab" and rc[0]["x"] == "cd"


@pytest.mark.parametrize(
    ("seq", "pieces", "back"),
    [
        ([1, 2, 3, 4], [[1, 2], [3], [4]], [1, 2, 3, 4]),
        ((1, 2, 3, 4), [(1, 2), (3,), (4,)], [1, 2, 3, 4]),
        (range(4), [range(2), range(2, 3), range(3, 4)], [0, 1, 2, 3]),
        ("abcd", ["ab", "c", "d"], ["ab", "c", "d"]),
        (b"abcd", [b"ab", b"c", b"d"], [b"ab", b"c", b"d"]),
        ({"k": 1, "l": 2}, [["k"], ["l"], []], ["k", "l"]),
        (deque([1, 2, 3, 4]), [[1, 2], [3], [4]], [1, 2, 3, 4]),
        (UserDict(k=1, l=2), [["k"], ["l"], []], ["k", "l"]),
        ([7], [[7], [], []], [7]),
        ([], [[], [], []], []),
    ],
    ids=str,
)
def test_sequences(rc: ipp.Client, seq: Any, pieces: list[Any], back: list[Any]) -> None:
    view = rc[:]
    view.scatter("x", seq, block=True)
    assert view["x"] == pieces and view.gather("x", block=True) == back
    view.scatter("x", (item for item in range(5)), block=True)
    assert view["x"] == [[0, 1], [2, 3], [4]]


def test_flatten(rc: ipp.Client) -> None:
    view = rc[:]
    view.scatter("x", [10, 20, 30], flatten=True, block=True)
    assert view["x"] == [10, 20, 30] and view.gather("x", block=True) == [10, 20, 30]
    view.scatter("x", [10, 20, 30, 40], flatten=True, block=True)
    assert view["x"] == [[10, 20], 30, 40] and view.gather("x", block=True) == [10, 20, 30, 40]
    view.scatter("x", numpy.eye(3), flatten=True, block=True)
    assert [row.shape for row in view["x"]] == [(3,)] * 3
    view.scatter("x", [5], flatten=True, block=True)
    assert view["x"] == [5, [], []]


def test_a_masked_array_keeps_its_mask(rc: ipp.Client) -> None:
    array = numpy.ma.masked_greater(numpy.arange(10), 6)
    rc[:].scatter("x", array, block=True)
    back = rc[:].gather("x", block=True)
    assert back.sum() == 21 and back.mask.sum() == 3


def test_engines_may_change_the_lengths(rc: ipp.Client) -> None:
    view = rc[:]
    view.scatter("x", numpy.arange(9), dist="r", block=True)
    rc[1].execute("x = x[:1]", block=True)
    assert view.gather("x", dist="r", block=True).tolist() == [0, 1, 2, 3, 5, 6, 8]


def test_pandas(rc: ipp.Client) -> None:
    pandas = pytest.importorskip("pandas")
    view = rc[:]
    frame = pandas.DataFrame(
        {"n": range(10), "t": list("abcdefghij"), "c": pandas.Categorical(list("xy") * 5)},
        index=range(100, 0, -10),  # positions are not labels
    )
    for dist in ("b", "r"):
        for table in (frame, frame["t"], frame.index, frame.iloc[:0]):
            view.scatter("x", table, dist=dist, block=True)
            back = view.gather("x", dist=dist, block=True)
            assert back.equals(table) and isinstance(table, type(back))
    view.scatter("x", frame.iloc[:3], flatten=True, block=True)
    assert [row.n for row in view["x"]] == [0, 1, 2]
    assert view.apply_sync(getattr, ipp.Reference("x"), "t") == ["a", "b", "c"]


@pytest.mark.parametrize("format", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
def test_scipy_sparse(rc: ipp.Client, format: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    dense = numpy.arange(40).reshape(8, 5) % 3
    makers: list[Callable[[Any], Any]] = [sparse.csr_matrix, sparse.csr_array]
    for make in makers:
        matrix = make(dense).asformat(format)
        for dist in ("b", "r"):
            rc[:].scatter("x", matrix, dist=dist, block=True)
            shapes = rc[:].apply_sync(getattr, ipp.Reference("x"), "shape")
            assert shapes == [(3, 5), (3, 5), (2, 5)]
            back = rc[:].gather("x", dist=dist, block=True)
            assert back.format == format and type(back) is type(matrix)
            numpy.testing.assert_array_equal(back.toarray(), dense)


@pytest.mark.parametrize("wrong", [5, None, numpy.array(3.0)], ids=str)
def test_what_cannot_be_dealt_out(rc: ipp.Client, wrong: Any) -> None:
    with pytest.raises(TypeError, match="dealt out|a sequence is needed"):
        rc[:].scatter("x", wrong)


def test_other_mistakes(rc: ipp.Client) -> None:
    view = rc[:]
    with pytest.raises(ValueError, match="dist='q'"):
        view.scatter("x", [1], dist="q")
    with pytest.raises(TypeError, match="name"):
        view.scatter(3, [1])  # type: ignore[arg-type]
    with pytest.raises(ipp.NoEnginesRegistered):
        rc[:0].scatter("x", [1])
    with pytest.raises(ipp.SerializationError):
        view.scatter("x", [1, 2, (i for i in "ab")])
    view.scatter("x", numpy.zeros((6, 2)), block=True)
    rc[1].execute("x = x.T[:, :1]", block=True)
    with pytest.raises(ValueError, match=r"cannot be joined: .*\(2, 1\)"):
        view.gather("x", block=True)
    view.execute("x = 1", block=True)
    rc[1].execute("del x", block=True)
    with pytest.raises(NameError):
        view.gather("x", block=True)
