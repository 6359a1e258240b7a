"""The cache of functions: packed once while unchanged, anew when anything captured changed."""

from __future__ import annotations

import colorsys
import gc
import json
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache, partial
from types import ModuleType
from typing import Any

import cloudpickle
import pytest

from ipclusterz.core.message import INLINE
from ipclusterz.engine import fingerprint, serialize
from ipclusterz.engine.fingerprint import Fingerprint
from ipclusterz.engine.reference import Reference
from ipclusterz.engine.serialize import FunctionCache
from ipclusterz.error import SerializationError
from tests.engine.testagent import user


@pytest.fixture
def cache() -> FunctionCache:
    return FunctionCache()


@pytest.fixture
def pickled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts by-value pickling."""
    count = [0]
    dump = serialize._cloud_stream

    def counting(*args: Any) -> bytes:
        count[0] += 1
        return dump(*args)

    monkeypatch.setattr(serialize, "_cloud_stream", counting)
    yield count


def named(x: int) -> int:
    return x + 1


def test_an_importable_function_goes_by_name(cache: FunctionCache) -> None:
    packed = cache.pack(named)
    assert pickle.loads(packed.data) is named
    assert len(packed.digest) == 16
    assert cache.pack(named) is packed
    assert cache.pack(os.getpid) is cache.pack(os.getpid)
    assert pickle.loads(cache.pack(dict).data) is dict


def test_a_lambda_is_pickled_once(cache: FunctionCache, pickled: list[int]) -> None:
    function = user(lambda x: x + 1)
    packed = cache.pack(function)
    for _ in range(5):
        assert cache.pack(function) is packed
    assert pickled == [1]
    assert pickle.loads(packed.data)(1) == 2


def test_equal_functions_have_one_digest(cache: FunctionCache) -> None:
    digests = {cache.pack(function).digest for function in [user(lambda x: x) for _ in "ab"]}
    assert len(digests) == 1


def changed_global(f: Any) -> None:
    f.__globals__["K"] = 2


def changed_default(f: Any) -> None:
    f.__defaults__ = (7,)


def changed_keyword_default(f: Any) -> None:
    f.__kwdefaults__["k"] = 7


def changed_code(f: Any) -> None:
    f.__code__ = (lambda x=1, *, k=1: 99).__code__


def changed_attribute(f: Any) -> None:
    f.note = "new"


def changed_helper(f: Any) -> None:
    f.__globals__["helper"].__globals__["DEEP"] = 5


def new_name_over_builtin(f: Any) -> None:
    f.__globals__["len"] = 3


@pytest.mark.parametrize(
    "change",
    [
        changed_global,
        changed_default,
        changed_keyword_default,
        changed_code,
        changed_attribute,
        changed_helper,
        new_name_over_builtin,
    ],
    ids=lambda change: change.__name__,
)
def test_a_change_is_seen(
    cache: FunctionCache, pickled: list[int], change: Callable[[Any], None]
) -> None:
    helper = user(eval("lambda: DEEP"), DEEP=4)
    function = user(eval("lambda x=1, *, k=1: (K, helper(), len, k, x)"), K=1, helper=helper)
    first = cache.pack(function)
    assert cache.pack(function) is first
    assert pickled == [1]
    change(function)
    second = cache.pack(function)
    assert second.digest != first.digest
    assert cache.pack(function) is second
    assert pickled == [2]


def test_a_changed_closure_is_seen(cache: FunctionCache) -> None:
    count = 1

    def read() -> int:
        return count

    first = cache.pack(read)
    assert cache.pack(read) is first
    count = 2
    second = cache.pack(read)
    assert second.digest != first.digest
    assert pickle.loads(second.data)() == 2
    count = 1
    assert cache.pack(read).digest == first.digest


def test_mutable_captures_are_looked_at_each_time(
    cache: FunctionCache, pickled: list[int]
) -> None:
    items = [1]
    function = user(eval("lambda: items"), items=items)
    first = cache.pack(function)
    assert cache.pack(function) is first  # the same bytes, so nothing is sent again
    items.append(2)
    second = cache.pack(function)
    assert second.digest != first.digest
    assert pickle.loads(second.data)() == [1, 2]
    assert pickled == [3]


def test_recursive_and_mutual_functions(cache: FunctionCache, pickled: list[int]) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(
        "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n and even(n - 1)", names
    )
    packed = cache.pack(names["even"])
    assert cache.pack(names["even"]) is packed
    assert pickled == [1]
    assert pickle.loads(packed.data)(10)


def test_captured_modules_classes_and_tuples_are_no_obstacle() -> None:
    function = user(
        eval("lambda: (json, os, kind, call, pair)"),
        json=json,
        os=os,
        kind=dict,
        call=named,
        pair=(1, ("a", frozenset({2}))),
    )
    fingerprint = Fingerprint.of(function)
    assert fingerprint is not None
    assert fingerprint.holds(function)
    for mutable in ([], {}, {1}, object(), (1, [])):
        function.__globals__["pair"] = mutable
        assert not fingerprint.holds(function)
        assert Fingerprint.of(function) is None


def test_functions_go_when_their_owner_lets_go(cache: FunctionCache) -> None:
    for _ in range(100):
        cache.pack(user(lambda: 1))
    gc.collect()
    assert len(cache) == 0


def test_recursive_functions_do_not_pile_up(
    cache: FunctionCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serialize, "FUNCTIONS", 10)
    for _ in range(30):
        names: dict[str, Any] = {"__name__": "__main__"}
        exec("def again(): return again", names)
        cache.pack(names["again"])
    assert len(cache) <= 10


def test_callables_that_are_no_functions(cache: FunctionCache) -> None:
    assert pickle.loads(cache.pack(partial(named, 1)).data)() == 2
    assert pickle.loads(cache.pack("abc".upper).data)() == "ABC"
    assert pickle.loads(cache.pack(Reference("f")).data).name == "f"
    with pytest.raises(TypeError, match="not int"):
        cache.pack(3)  # type: ignore[arg-type]


def test_functions_with_a_cache(cache: FunctionCache, pickled: list[int]) -> None:
    known = fingerprint.global_names
    assert (
        cache.pack(known) is cache.pack(known) and pickle.loads(cache.pack(known).data) is known
    )
    negate = lru_cache(maxsize=7, typed=True)(user(lambda x: -x))
    made = pickle.loads(cache.pack(negate).data)
    assert made(2) == -2 and made.cache_parameters() == {"maxsize": 7, "typed": True}
    assert made.cache_info().currsize == 1 and negate.cache_info().currsize == 0
    pickled[0] = 0
    caller = user(lambda x: negate(x), negate=negate)
    assert cache.pack(caller) is cache.pack(caller) and pickled == [1]
    names: dict[str, Any] = {"__name__": "__main__", "lru_cache": lru_cache}
    exec("@lru_cache\ndef fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)", names)
    assert pickle.loads(cache.pack(names["fib"]).data)(50) == 12586269025


def test_classes_with_cached_properties(cache: FunctionCache) -> None:
    class Square:
        def __init__(self, side: int) -> None:
            self.side = side

        @cached_property
        def area(self) -> int:
            return self.side**2

    Square.__module__ = "__main__"
    assert pickle.loads(serialize.dumps(Square(3))[0]).area == 9
    made = pickle.loads(cache.pack(lambda x: Square(x).area).data)
    assert made(4) == 16


def test_large_functions_say_so(cache: FunctionCache) -> None:
    assert not cache.pack(named).large
    text = "x" * INLINE
    assert cache.pack(lambda: text).large


def test_large_arrays_stay_inside_the_function(cache: FunctionCache) -> None:
    import numpy

    array = numpy.arange(10_000)
    assert pickle.loads(cache.pack(lambda: array).data)().sum() == array.sum()


@pytest.mark.parametrize("kind", ["closure", "global", "default"])
def test_what_keeps_a_function_from_travelling_is_named(
    cache: FunctionCache, kind: str
) -> None:
    lock = threading.Lock()
    function = {
        "closure": lambda: lock,
        "global": user(eval("lambda: lock"), lock=lock),
        "default": user(eval("lambda lock=lock: lock", {"lock": lock})),
    }[kind]
    with pytest.raises(SerializationError, match=rf"<lambda>.*{kind}.*'lock'.*lock.*pickle"):
        cache.pack(function)


def test_our_pickles_are_cloudpickles(cache: FunctionCache) -> None:
    """Whoever has cloudpickle can read them: the format is not ours."""
    packed = cache.pack(user(lambda x: x * 2))
    assert cloudpickle.loads(packed.data)(4) == 8


def test_a_module_registered_by_value_later(cache: FunctionCache) -> None:
    captures = user(eval("lambda: convert(1, 0, 0)"), convert=colorsys.rgb_to_hsv)
    for function in (colorsys.rgb_to_hsv, captures):
        before = cache.pack(function)
        assert cache.pack(function) is before and b"maxc" not in before.data
        cloudpickle.register_pickle_by_value(colorsys)
        try:
            # By value it holds the code of what it names, constants and all.
            assert b"maxc" in cache.pack(function).data
        finally:
            cloudpickle.unregister_pickle_by_value(colorsys)
        assert cache.pack(function).data == before.data


def test_modules_by_value_while_cloudpickle_is_being_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    partial_module = ModuleType("cloudpickle.cloudpickle")
    monkeypatch.setattr(fingerprint, "_registry", None)
    monkeypatch.setitem(sys.modules, "cloudpickle", ModuleType("cloudpickle"))
    monkeypatch.setitem(sys.modules, "cloudpickle.cloudpickle", partial_module)
    assert fingerprint.by_value_registered() == set()
    partial_module.list_registry_pickle_by_value = lambda: {"colorsys"}  # type: ignore[attr-defined]
    assert fingerprint.by_value_registered() == {"colorsys"}
    assert not fingerprint.by_reference(colorsys.rgb_to_hsv)
