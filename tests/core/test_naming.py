"""What a pickled function is called, for people who look at what runs."""

from __future__ import annotations

import functools
import json
import math
import pickle

import cloudpickle
import pytest

from ipclusterz.core.naming import function_name


def outer(k: int) -> object:
    def inner(x: int) -> int:
        return x + k

    return inner


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (math.sqrt, "math.sqrt"),
        (json.dumps, "json.dumps"),
        (max, "max"),
        (lambda x: x, "test_.*<lambda>|<lambda>"),
        (outer(3), r"outer.<locals>.inner"),
        (functools.partial(json.dumps, indent=1), "json.dumps"),
    ],
)
def test_a_function_is_named_as_people_know_it(function: object, name: str) -> None:
    import re

    assert re.fullmatch(name, function_name(cloudpickle.dumps(function, 5)))


def test_a_class_that_is_called_is_named() -> None:
    assert function_name(pickle.dumps(json.JSONEncoder, 5)) == "json.encoder.JSONEncoder"


@pytest.mark.parametrize("data", [b"", b"junk", b"\x80\x05", bytes(100), pickle.dumps(3, 5)])
def test_what_is_no_function_has_no_name(data: bytes) -> None:
    assert function_name(data) == ""


def test_looking_executes_nothing() -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, ("raise SystemExit",)

    assert function_name(pickle.dumps(Trap(), 5)) == ""


def test_a_long_pickle_is_looked_at_only_at_its_beginning() -> None:
    assert function_name(pickle.dumps([f"x{i}" for i in range(100_000)], 5)) == ""
