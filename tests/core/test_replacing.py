"""The count of engines and agents that replace others: who, when, and what is said."""

from __future__ import annotations

import pytest

from ipclusterz.core.replacing import CRASHED, LONGEST_SECONDS, Agents, Replacing


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


# -- agents --------------------------------------------------------------------------------


def came(made: Agents, *ids: int) -> str:
    """All engines of the present agent are ready; what is news by it."""
    said = [made.heard({"event": "engine", "id": number}) for number in ids]
    said.append(made.heard({"event": "engines", "n": len(ids)}))
    news = [text for text in said if text]
    assert len(news) <= 1, "said once"
    return "".join(news)


def test_an_agent_is_followed_by_others_as_often_as_allowed() -> None:
    made = Agents(2, 2)
    assert came(made, 1, 0) == "" and made.origin == ""
    made.heard({"event": "engine_down", "id": 1})
    event = made.died(-9, "killed")
    assert event == {
        "event": "agent_lost",
        "ids": [0],
        "pause": 0.0,
        "cause": "killed",
        "text": "killed; engine 0 ended with it; another one is started, 1 of 2 restarts left",
    }
    assert made.ids == []
    assert came(made, 3, 2) == "engines 2, 3 replace engine 0: killed; 1 of 2 restarts left"
    assert made.died(CRASHED, "a mistake") is not None
    assert made.origin == (
        "its agent replaces one that was lost: a mistake; 0 of 2 restarts left"
    )
    assert came(made, 11, 10).startswith("engines 10, 11 replace engines 2, 3: a mistake")
    assert made.used_up == ""
    assert made.died(-9, "killed") is None
    assert made.used_up == "it is not replaced: its 2 restarts (--restart-engines) are used up"


@pytest.mark.parametrize("code", [0, 1, 2])
def test_an_agent_that_ends_in_order_has_no_successor(code: int) -> None:
    made = Agents(5, 1)
    came(made, 0)
    assert made.died(code, "its lease is over") is None and made.used_up == ""


@pytest.mark.parametrize("code", [-9, 1, CRASHED])
def test_the_first_start_is_not_tried_again(code: int) -> None:
    made = Agents(5, 2)
    made.heard({"event": "engine", "id": 0})
    assert made.died(code, "no such module") is None and made.left == 5


def test_a_successor_that_cannot_start_is_tried_ever_more_slowly() -> None:
    made = Agents(5, 1)
    came(made, 0)
    events = [made.died(-9, "killed")] + [made.died(1, f"no {i}") for i in range(3)]
    assert [event and event["pause"] for event in events] == [0.0, 1.0, 2.0, 4.0]
    assert events[3] is not None
    assert events[3]["text"] == "no 2; another one is started in 4 s, 1 of 5 restarts left"
    assert came(made, 9) == "engine 9 replaces engine 0: no 2; 1 of 5 restarts left"
    again = made.died(-11, "crashed")
    assert again is not None and again["pause"] == 0.0


def test_many_engines_are_counted_and_not_named() -> None:
    made = Agents(1, 10)
    came(made, *range(10))
    event = made.died(-9, "killed")
    assert event and event["text"].startswith("killed; 10 engines ended with it; another one")
    assert came(made, *range(10, 20)).startswith("10 engines replace 10 engines: killed")


def test_one_that_dies_before_it_has_said_that_all_are_there() -> None:
    made = Agents(1, 2)
    for number in (0, 1):
        made.heard({"event": "engine", "id": number})
    assert made.died(-9, "killed") is not None


def test_no_restarts_are_no_words() -> None:
    made = Agents(0, 1)
    came(made, 0)
    assert made.died(-9, "killed") is None and made.used_up == ""
