"""What a map sends: its items in chunks, and its tasks in portions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ipclusterz.client import loads
from ipclusterz.core.message import RUN, Op


def made(n: int) -> Iterator[loads.Load]:
    for i in range(n):
        yield Op.APPLY, None, [i]


def test_items_of_one_sequence_are_cut_as_they_are() -> None:
    assert list(loads.cut([range(5)], 2, 4) or ()) == [[0, 1], [2, 3], [4]]
    assert list(loads.cut([iter("abc")], "auto", 1) or ()) == [["a"], ["b"], ["c"]]


def test_items_of_several_are_tuples_as_far_as_the_shortest_goes() -> None:
    assert list(loads.cut([range(5), "ab"], 9, 4) or ()) == [[(0, "a"), (1, "b")]]
    assert loads.cut([range(5), "ab"], 1, 4) is None
    assert loads.cut([range(5)], 1, 4) is None


@pytest.mark.parametrize("bad", [0, -1, True, 1.5, "many"])
def test_a_chunk_has_a_whole_number_of_items(bad: object) -> None:
    with pytest.raises(ValueError, match="must be a whole number from 1 or 'auto'"):
        loads.cut([range(5)], bad, 4)  # type: ignore[arg-type]


def test_items_that_are_there_go_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "PORTION_SECONDS", 100.0)
    sizes = [len(portion) for portion in loads.portions(made(2 * RUN + 3), sized=True)]
    assert sizes == [RUN, RUN, 3]
    assert list(loads.portions(made(0), sized=True)) == []


def test_what_takes_long_to_pack_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "PORTION_SECONDS", -1.0)
    assert [len(portion) for portion in loads.portions(made(3), sized=True)] == [1, 1, 1]


def test_none_waits_for_an_item_that_has_yet_to_come() -> None:
    taken: list[int] = []

    def slowly() -> Iterator[loads.Load]:
        for i in range(3):
            taken.append(i)
            yield Op.APPLY, None, [i]

    portions = loads.portions(slowly(), sized=False)
    assert len(next(portions)) == 1 and taken == [0]
