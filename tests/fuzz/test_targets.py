"""The targets of the fuzzer under hypothesis, and the inputs it begins with or has found."""

from __future__ import annotations

import gc
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import SEEDS, TARGETS


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_bytes(name: str, data: st.DataObject) -> None:
    seeds = st.sampled_from(SEEDS[name])
    pieces = st.lists(seeds | st.binary(max_size=40), max_size=4).map(b"".join)
    TARGETS[name](data.draw(pieces | st.text(max_size=60).map(str.encode)))


def mutations(name: str, count: int) -> list[bytes]:
    """Seeds with some bytes changed, put in, or left out; the same each time."""
    dice = random.Random(name)
    made = []
    for _ in range(count):
        text = bytearray(dice.choice(SEEDS[name]))
        for _ in range(dice.randrange(1, 6)):
            at = dice.randrange(len(text) + 1)
            text[at : at + dice.randrange(3)] = dice.randbytes(dice.randrange(3))
        made.append(bytes(text))
    return made


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_their_mutations_leave_nothing_behind(name: str) -> None:
    """No crash, and no growth: what is kept after 2,000 inputs is what was kept after 500."""
    run, inputs = TARGETS[name], [*SEEDS[name], *mutations(name, 500)]
    for each in inputs:
        run(each)
    tracemalloc.start()
    try:
        for each in inputs:
            run(each)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(3):
            for each in inputs:
                run(each)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 100_000, f"{grown} bytes stay"
