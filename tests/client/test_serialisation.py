"""What can be sent and comes back, over real engines; from a script's __main__ too."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

import ipclusterz as ipp
from tests.running import ROOT


@pytest.fixture(scope="module")
def rc(shared_ipython_dir: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=2) as client:
        yield client


def test_functions_of_every_kind(rc: ipp.Client) -> None:
    view = rc.load_balanced_view()
    k = 10

    def outer(n: int) -> Any:
        def inner(x: int) -> int:
            return x + n + k

        return inner

    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    assert view.apply_sync(outer(5), 1) == 16
    assert view.apply_sync(lambda f, x: f(f(x)), outer(1), 0) == 22
    assert view.map_sync(factorial, range(6)) == [1, 1, 2, 6, 24, 120]
    assert view.map_sync(even, range(4)) == [True, False, True, False]
    assert view.apply_sync(outer, 2)(3) == 15  # a closure comes back
    assert view.apply_sync(lambda *, x, y=2: (x, y), x=1) == (1, 2)
    k = 20
    assert view.apply_sync(outer(5), 1) == 26  # what it captured now, not before


SCRIPT = """
import sys
import threading
import ipclusterz as ipp

class Point:
    scale = 2
    def __init__(self, x): self.x = x
    def __eq__(self, other): return type(other) is Point and other.x == self.x
    def moved(self, by=1): return Point(self.x + by * self.scale)
    @staticmethod
    def origin(): return Point(0)

class Point3(Point):
    def moved(self, by=1): return super().moved(by)

def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
def helper(x): return x + offset
offset = 100
def uses_helper(x): return helper(x)

class Celsius:
    def __init__(self, degrees): self.degrees = degrees

with ipp.Cluster(n=2) as rc:
    view, direct = rc.load_balanced_view(), rc[:]
    moved = view.apply_sync(lambda p: p.moved(), Point(1))
    assert moved == Point(3) and isinstance(moved, Point), moved
    assert view.map_sync(Point.moved, [Point(1), Point(2)]) == [Point(3), Point(4)]
    assert view.apply_sync(Point.origin) == Point(0)
    assert view.apply_sync(Point3(5).moved, by=2).x == 9
    assert view.map_sync(fib, range(8)) == [0, 1, 1, 2, 3, 5, 8, 13]
    assert view.apply_sync(uses_helper, 1) == 101
    offset = 200
    assert view.apply_sync(uses_helper, 1) == 201
    direct.push({"offset": 1}, block=True)  # an engine's own variable wins
    assert direct.apply_sync(uses_helper, 1) == [2, 2]
    direct.push({"p": Point(7)}, block=True)
    assert direct["p"] == [Point(7)] * 2
    direct.execute("q = p.moved()", block=True)
    assert rc[0]["q"] == Point(9)
    ipp.register_serializer(Celsius, lambda c: str(c.degrees), lambda t: Celsius(float(t)))
    back = view.apply_sync(lambda c: Celsius(c.degrees + 1), Celsius(20.5))
    assert type(back) is Celsius and back.degrees == 21.5
    if "dill" in sys.argv:
        direct.use_dill().get()
        assert view.map_sync(fib, range(8)) == [0, 1, 1, 2, 3, 5, 8, 13]
        assert view.apply_sync(lambda p: p.moved(), Point(1)).x == 3
        import dill
        dill.settings["recurse"] = True
        y = 3
        rc.session.functions.clear()
        assert view.apply_sync(lambda x: x + y, 1) == 4
        made = rc[0].apply_sync(lambda: lambda x: x * 2)
        assert made(4) == 8 and type(made).__module__ == "builtins"
        direct.use_cloudpickle().get()
        assert view.apply_sync(uses_helper, 1) == 2
        direct.use_pickle().get()
        assert view.apply_sync(lambda x: x + y, 1) == 4
print("all well")
"""


@pytest.mark.parametrize("with_dill", [False, True])
def test_a_script_sends_what_is_its_own(with_dill: bool, tmp_path: Path) -> None:
    if with_dill:
        pytest.importorskip("dill")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, "dill" if with_dill else ""],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.stdout == "all well\n", done.stdout + done.stderr


def test_arrays_travel_beside_the_stream_and_are_writable(rc: ipp.Client) -> None:
    for array in (
        numpy.arange(200_000.0),
        numpy.asfortranarray(numpy.arange(60_000).reshape(200, 300)),
        numpy.arange(10),
        numpy.arange(3000, dtype="i2")[::3],
    ):
        back = rc[0].apply_sync(lambda a: a, array)
        numpy.testing.assert_array_equal(back, array)
        back[...] = 0
        assert rc[0].apply_sync(change, array) is True
        numpy.testing.assert_array_equal(array[:1], array[:1])
    nested = rc[0].apply_sync(lambda d: d["a"][0], {"a": [numpy.ones(50_000)]})
    nested += 1
    assert nested.sum() == 100_000


def change(array: Any) -> bool:
    array[...] = 1
    return bool(array.flags.writeable)


def test_pandas_goes_and_comes_back(rc: ipp.Client) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {"x": numpy.arange(50_000.0), "y": numpy.arange(50_000), "t": ["ab", "c"] * 25_000}
    )
    back = rc[0].apply_sync(lambda f: f, frame)
    pandas.testing.assert_frame_equal(back, frame)
    back.loc[0, "x"] = -1.0
    assert rc[0].apply_sync(change_frame, frame) == -5.0 and frame.loc[0, "x"] == 0.0


def change_frame(frame: Any) -> float:
    frame.loc[0, "x"] = -5.0
    return float(frame.loc[0, "x"])


class Wave:
    """Cannot be pickled but by what is registered."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples
        self.lock = threading.Lock()


def pack_wave(wave: Wave) -> Any:
    return wave.samples.data  # a memoryview: sent without a copy


def unpack_wave(data: Any) -> Wave:
    return Wave(numpy.frombuffer(data, dtype="f8"))


def twice(wave: Wave) -> Wave:
    wave.samples *= 2
    return Wave(wave.samples)


def test_registered_serialisers(rc: ipp.Client) -> None:
    view = rc.load_balanced_view()
    wave = Wave(numpy.arange(100_000.0))
    with pytest.raises(ipp.SerializationError, match="lock"):
        view.apply_async(twice, wave)
    ipp.register_serializer(Wave, pack_wave, unpack_wave)
    try:
        back = view.apply_sync(twice, wave)  # engines learn it with the first one
        assert type(back) is Wave and back.samples[-1] == 199_998.0
        back.samples[0] = 5.0
        assert wave.samples[1] == 1.0
        small = view.apply_sync(lambda ws: [twice(w) for w in ws], [Wave(numpy.ones(2))])
        assert [w.samples.tolist() for w in small] == [[2.0, 2.0]]
        rc[:].push({"w": wave}, block=True)
        assert rc[1]["w"].samples.sum() == wave.samples.sum()
        ipp.register_serializer(Wave, broken, unpack_wave)
        with pytest.raises(ipp.SerializationError, match="serialiser of Wave failed.*no luck"):
            view.apply_async(twice, wave)
    finally:
        ipp.unregister_serializer(Wave)
    with pytest.raises(ipp.SerializationError):
        view.apply_async(twice, wave)
    for wrong in (3, list, "Wave"):
        with pytest.raises(TypeError, match="a class"):
            ipp.register_serializer(wrong, repr, eval)  # type: ignore[type-var,arg-type]
    with pytest.raises(TypeError, match="loads must be a function"):
        ipp.register_serializer(Wave, pack_wave, 3)  # type: ignore[arg-type]


def broken(wave: Wave) -> Any:
    raise OSError("no luck")


class Made:
    """Made by engines before any was sent to them."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __reduce__(self) -> Any:
        raise TypeError("not so")


def test_engines_can_be_told_beforehand(rc: ipp.Client) -> None:
    with pytest.raises(ipp.RemoteError, match="not so"):
        rc[0].apply_sync(Made, 3)
    try:
        rc[:].register_serializer(Made, lambda m: m.n, lambda n: Made(n)).get()
        assert [made.n for made in rc[:].apply_sync(Made, 3)] == [3, 3]
    finally:
        ipp.unregister_serializer(Made)


def test_text_that_names_a_pickler_is_text(rc: ipp.Client) -> None:
    for text in ("dill._dill", "cloudpickle", "__main__", "Reference"):
        assert rc[0].apply_sync(lambda x: x, [text, text * 1000]) == [text, text * 1000]


@pytest.mark.parametrize("bad", ["closure", "argument", "result"])
def test_what_cannot_be_pickled_is_named(rc: ipp.Client, bad: str) -> None:
    lock = threading.Lock()
    with pytest.raises(ipp.SerializationError, match=f"{bad}|the result|'lock'"):
        if bad == "closure":
            rc[0].apply_async(lambda: lock)
        elif bad == "argument":
            rc[0].apply_async(abs, {"x": [lock]})
        else:
            rc[0].apply_sync(threading.Lock)
    assert rc[0].apply_sync(abs, -1) == 1
