"""The pure parts: dealing and joining, targets, windows; and the package's lazy names."""

from __future__ import annotations

import doctest
import importlib
import operator
import subprocess
import sys
from array import array
from collections import UserDict, UserList, defaultdict, deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ipclusterz
from ipclusterz.client import mapping, partition

MODULES = ["mapping", "outcome", "partition", "targets", "task"]


@given(st.lists(st.integers()), st.integers(1, 9), st.sampled_from(["b", "r"]))
def test_join_undoes_deal(items: list[int], n: int, dist: str) -> None:
    pieces = partition.deal(items, n, dist)
    assert len(pieces) == n and partition.join(pieces, dist) == items
    lengths = [len(piece) for piece in pieces]
    assert max(lengths) - min(lengths) <= 1 and lengths == sorted(lengths, reverse=True)


class Mapped(defaultdict[Any, int]):
    """Would make an item of any key it is asked for."""


class Old:
    """A sequence by its items only, as before there was iteration."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        return [4, 5, 6][operator.index(index)]


def test_what_cannot_be_sliced_is_dealt_out_as_a_list() -> None:
    mapped = Mapped(int, {"a": 1, "b": 2})
    for seq in (deque("ab"), UserDict(a=1, b=2), mapped, dict.fromkeys("ab").keys()):
        assert partition.sliceable(seq) == ["a", "b"]
    assert len(mapped) == 2
    assert partition.sliceable(Old()) == [4, 5, 6]
    for kept in ("ab", (1,), range(3), b"ab", UserList("ab"), array("d", [1.0])):
        assert partition.sliceable(kept) is kept


def test_windows_follow_the_length_of_tasks() -> None:
    assert mapping.window(4, 10.0) == 8
    assert mapping.window(4, 0.001) == 80
    assert mapping.window(4, 0.0) == 1024
    assert mapping.window(0, 1.0) == 2


def test_automatic_chunks() -> None:
    assert mapping.auto_chunk(100, 4) == 4
    assert mapping.auto_chunk(0, 4) == 1
    assert mapping.auto_chunk(10**7, 4) == 1000


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(f"ipclusterz.client.{name}")
    assert doctest.testmod(module).failed == 0


def test_public_names_exist() -> None:
    assert doctest.testmod(ipclusterz).failed == 0
    for name in ipclusterz.__all__:
        assert getattr(ipclusterz, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        ipclusterz.nonsense  # noqa: B018


def test_importing_the_package_imports_nothing_else_of_it() -> None:
    code = "import sys, ipclusterz; print([m for m in sys.modules if m.startswith('ipcl')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "['ipclusterz._version', 'ipclusterz']", done.stderr
