"""Functions that are kept: which go first, and which stay."""

from __future__ import annotations

from ipclusterz.core import message as m
from ipclusterz.core.functions import Functions


def function(name: bytes, size: int = 10) -> m.Function:
    return m.Function(name, name * size)


def test_functions_are_kept_up_to_a_limit_the_least_used_go_first() -> None:
    kept = Functions(limit=100)
    for name in (b"a", b"b", b"c"):
        kept.add(function(name, 30))
    assert kept.get(b"a") is not None
    kept.add(function(b"d", 30))
    assert b"b" not in kept and b"a" in kept
    assert len(kept) == 3
    kept.add(function(b"c", 30))  # known: counts as used
    kept.add(function(b"e", 30))
    assert kept.get(b"a") is None
    assert {n for n in (b"a", b"b", b"c", b"d", b"e") if n in kept} == {b"c", b"d", b"e"}


def test_a_function_larger_than_the_limit_is_kept_alone() -> None:
    kept = Functions(limit=10)
    kept.add(function(b"a", 5))
    kept.add(function(b"b", 50))
    assert b"b" in kept and len(kept) == 1
    kept.add(function(b"c", 5))
    assert b"c" in kept and len(kept) == 1


def test_one_that_is_pinned_stays_and_is_counted_apart() -> None:
    kept = Functions(limit=10)
    pinned = kept.pinned[b"p"] = function(b"p", 50)
    kept.add(function(b"a", 5))
    kept.add(function(b"b", 9))
    assert kept.get(b"p") is pinned and b"p" in kept
    assert [each.digest for each in kept.all()] == [b"p", b"b"]
    assert len(kept) == 1


def test_a_digest_is_kept_once_in_memory() -> None:
    kept = Functions()
    first = function(b"digest")
    kept.add(first)
    other = bytes(bytearray(b"digest"))
    assert other is not first.digest
    assert kept.own(other) is first.digest
    assert kept.own(b"unknown") == b""
