"""The count of engines that replace others: who is replaced, when, and what is said."""

from __future__ import annotations

from ipclusterz.core.replacing import LONGEST_SECONDS, Replacing


def test_none_are_allowed_and_nothing_is_said() -> None:
    made = Replacing(0)
    assert made.died(2, "killed", ready=True) is None
    assert (made.pending, made.used_up(2)) == (False, "")


def test_one_that_is_free_does_not_count() -> None:
    made = Replacing(0)
    assert made.died(2, "killed", ready=True, free=True) == 0.0
    assert made.pending
    made.due(2, "killed")
    assert made.granted([3]) == [3] and not made.pending
    assert made.origin(3) == "engine 3 replaces engine 2, which was lost: killed"
    assert made.died(3, "killed", ready=True) is None


def test_the_count_goes_down_and_its_end_is_said_once() -> None:
    made = Replacing(2)
    for number in (0, 1):
        assert made.died(number, "exited with code 3; its last words:\nno", ready=True) == 0.0
        made.due(number, "exited with code 3; its last words:\nno")
        assert made.granted([number + 2]) == [number + 2]
    assert made.origin(3) == (
        "engine 3 replaces engine 1, which was lost: exited with code 3; 0 of 2 restarts left"
    )
    assert made.died(2, "killed", ready=True) is None and made.origin(2) == ""
    assert "engine 2 is not replaced" in made.used_up(2)
    assert made.died(3, "killed", ready=True) is None and made.used_up(3) == ""


def test_those_that_die_at_their_start_come_ever_more_slowly() -> None:
    made = Replacing(100)
    pauses = [made.died(number, "exited", ready=False) for number in range(8)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_SECONDS, LONGEST_SECONDS, 30.0]
    assert made.died(8, "killed", ready=True) == 0.0
    assert made.died(9, "exited", ready=False) == 1.0
    assert made.left == 90


def test_an_answer_that_comes_twice_brings_no_engine_too_many() -> None:
    made = Replacing(3)
    for number in (0, 1):
        made.died(number, "killed", ready=True)
        made.due(number, "killed")
    assert made.granted([4]) == [4]
    assert made.granted([5, 6]) == [5]
    assert made.granted([7]) == []
    assert [made.origin(n).split(",")[0] for n in (4, 5)] == [
        "engine 4 replaces engine 0",
        "engine 5 replaces engine 1",
    ]


def test_a_pause_that_is_given_up_leaves_nothing_to_wait_for() -> None:
    made = Replacing(1)
    assert made.died(0, "exited", ready=False) == 1.0 and made.pending
    made.give_up()
    assert not made.pending
