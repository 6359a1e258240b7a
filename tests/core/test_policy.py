"""The schemes: what each chooses, that it is fair, can be repeated, and does not slow down."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipclusterz.core import policy
from ipclusterz.core.policy import SCHEMES, LeastLoad, LeastRecent, Policy, Rng, make

schemes = pytest.mark.parametrize("scheme", SCHEMES)


def spread(chooser: Policy, n: int, picks: int, room: int = 10**9) -> list[int]:
    """Give ``picks`` tasks out as the balancer does; return how many each engine got."""
    loads = [0] * n
    for engine in range(n):
        chooser.offer(engine, 0)
    for _ in range(picks):
        engine = chooser.pick()
        assert engine is not None
        loads[engine] += 1
        if loads[engine] < room:
            chooser.offer(engine, loads[engine])
        else:
            chooser.withdraw(engine)
    return loads


def test_an_unknown_scheme_names_the_known_ones() -> None:
    with pytest.raises(ValueError) as caught:
        make("roundrobin")
    assert str(caught.value) == (
        "no scheme is named 'roundrobin'; there are leastload, lru, plainrandom, weighted, "
        "twobin, pure"
    )


@schemes
def test_without_room_nobody_is_chosen(scheme: str) -> None:
    chooser = make(scheme)
    assert chooser.pick() is None
    chooser.offer(3, 0)
    assert chooser.pick() == 3
    chooser.withdraw(3)
    chooser.withdraw(3)
    assert chooser.pick() is None
    chooser.offer(3, 5)
    assert chooser.pick() == 3


@schemes
def test_every_engine_is_filled_before_there_is_no_room(scheme: str) -> None:
    chooser = make(scheme)
    assert spread(chooser, 7, 7 * 5, room=5) == [5] * 7
    assert chooser.pick() is None


@schemes
def test_the_same_seed_chooses_the_same(scheme: str) -> None:
    def picks(seed: int) -> list[int | None]:
        chooser = make(scheme, seed)
        for engine in range(10):
            chooser.offer(engine, engine % 3)
        chosen = []
        for turn in range(100):
            engine = chooser.pick()
            assert engine is not None
            chosen.append(engine)
            chooser.offer(engine, turn)
        return chosen

    assert picks(5) == picks(5)
    if scheme in ("plainrandom", "weighted", "twobin"):
        assert picks(5) != picks(6)


@schemes
@settings(max_examples=50, deadline=None)
@given(
    data=st.lists(
        st.tuples(st.sampled_from(["offer", "withdraw", "pick"]), st.integers(0, 9)),
        max_size=80,
    )
)
def test_only_engines_with_room_are_chosen(scheme: str, data: list[tuple[str, int]]) -> None:
    chooser = make(scheme, 3)
    room: dict[int, int] = {}
    for turn, (what, engine) in enumerate(data):
        if what == "offer":
            room[engine] = turn % 4
            chooser.offer(engine, turn % 4)
        elif what == "withdraw":
            room.pop(engine, None)
            chooser.withdraw(engine)
        else:
            chosen = chooser.pick()
            assert (chosen is None) == (not room)
            assert chosen is None or chosen in room
            if scheme == "leastload" and chosen is not None:
                assert room[chosen] == min(room.values())


def test_leastload_takes_the_least_loaded_and_among_equals_the_longest_waiting() -> None:
    chooser = make("leastload")
    for engine, load in ((1, 2), (2, 1), (3, 1), (4, 3)):
        chooser.offer(engine, load)
    assert chooser.pick() == 2
    chooser.offer(2, 2)
    assert chooser.pick() == 3
    chooser.withdraw(3)
    assert chooser.pick() == 1
    chooser.offer(4, 0)
    assert chooser.pick() == 4


def test_leastload_spreads_evenly() -> None:
    loads = spread(make("leastload"), 9, 100)
    assert max(loads) - min(loads) <= 1


@pytest.mark.parametrize("scheme", ["lru", "pure"])
def test_lru_takes_turns_whatever_the_loads(scheme: str) -> None:
    chooser = make(scheme)
    for engine in (4, 2, 9):
        chooser.offer(engine, engine)
    assert [chooser.pick() for _ in range(7)] == [4, 2, 9, 4, 2, 9, 4]
    chooser.offer(4, 0)  # a new load does not change whose turn it is
    assert chooser.pick() == 2


@pytest.mark.parametrize("scheme", ["plainrandom", "twobin", "weighted"])
def test_drawn_schemes_reach_everybody_about_as_often(scheme: str) -> None:
    loads = spread(make(scheme, 11), 10, 5000)
    assert min(loads) > 400 and max(loads) < 600


def test_twobin_is_more_even_than_blind_chance() -> None:
    def unevenness(scheme: str) -> int:
        loads = spread(make(scheme, 4), 100, 10_000)
        return max(loads) - min(loads)

    assert unevenness("twobin") * 3 < unevenness("plainrandom")


def test_weighted_prefers_the_less_loaded_by_the_inverse_of_the_loads() -> None:
    chooser = make("weighted", 8)
    chooser.offer(0, 0)
    chooser.offer(1, 2)
    picks = Counter(chooser.pick() for _ in range(8000))
    # Half of the pairs are of two different engines; of these 3 in 4 go to the idle one.
    assert picks[0] / 8000 == pytest.approx(1 / 4 + 1 / 2 * 3 / 4, abs=0.02)


def test_weighted_never_takes_only_one_of_two_busy_engines() -> None:
    chooser = make("weighted", 8)
    chooser.offer(0, 50)
    chooser.offer(1, 50)
    picks = Counter(chooser.pick() for _ in range(4000))
    assert picks[0] / 4000 == pytest.approx(1 / 2, abs=0.03)


# -- cost, by counting ---------------------------------------------------------------------


def test_leastload_keeps_its_heap_small_and_its_work_logarithmic(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pushed = popped = 0

    def push(heap: list[Any], item: Any) -> None:
        nonlocal pushed
        pushed += 1
        real_push(heap, item)

    def pop(heap: list[Any]) -> Any:
        nonlocal popped
        popped += 1
        return real_pop(heap)

    real_push, real_pop = policy.heappush, policy.heappop
    monkeypatch.setattr(policy, "heappush", push)
    monkeypatch.setattr(policy, "heappop", pop)
    chooser = LeastLoad()
    n, picks = 1000, 20_000
    spread(chooser, n, picks)
    assert pushed == n + picks
    assert popped <= pushed  # each entry leaves the heap at most once
    assert len(chooser._heap) <= 64 + 8 * n + 1


def test_leastload_forgets_stale_entries_of_engines_that_are_never_chosen() -> None:
    chooser = LeastLoad()
    for turn in range(10_000):
        chooser.offer(turn % 5, 10 + turn)
    assert len(chooser._heap) <= 64 + 8 * 5 + 1
    assert chooser.pick() == 0


def test_lru_looks_at_one_engine_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    chooser = LeastRecent()
    for engine in range(1000):
        chooser.offer(engine, 0)
    looked = 0

    class Counting:
        def __init__(self, order: Any) -> None:
            self.order = order

        def __iter__(self) -> Any:
            nonlocal looked
            for engine in self.order:
                looked += 1
                yield engine

        def move_to_end(self, engine: int) -> None:
            self.order.move_to_end(engine)

    monkeypatch.setattr(chooser, "_order", Counting(chooser._order))
    for _ in range(5000):
        chooser.pick()
    assert looked == 5000


@pytest.mark.parametrize("scheme", ["plainrandom", "twobin", "weighted"])
def test_drawn_schemes_keep_their_list_dense(scheme: str) -> None:
    chooser: Any = make(scheme, 2)
    for engine in range(100):
        chooser.offer(engine, 0)
    for engine in range(0, 100, 2):
        chooser.withdraw(engine)
    assert sorted(chooser._list) == list(range(1, 100, 2))
    assert {engine: chooser._list.index(engine) for engine in chooser._list} == chooser._place


# -- the generator -------------------------------------------------------------------------


@given(st.integers(0, 2**70), st.integers(1, 10**6))
def test_the_generator_stays_below_and_repeats(seed: int, n: int) -> None:
    one, two = Rng(seed), Rng(seed)
    drawn = [one.below(n) for _ in range(20)]
    assert drawn == [two.below(n) for _ in range(20)]
    assert all(0 <= number < n for number in drawn)


def test_the_generator_is_even() -> None:
    rng = Rng(1)
    counts = Counter(rng.below(16) for _ in range(16_000))
    assert min(counts.values()) > 850 and max(counts.values()) < 1150
