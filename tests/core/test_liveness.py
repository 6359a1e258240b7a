"""Silence is judged by the clock: absent after some beats, gone after the lease."""

from __future__ import annotations

from ipclusterz.core.liveness import SILENT, Liveness


def test_a_peer_that_beats_is_never_silent() -> None:
    liveness = Liveness(1.0, 60.0)
    liveness.watch(b"a", 0.0)
    for second in range(1, 200):
        assert liveness.beat(b"a", float(second)) is False
        assert liveness.judge(second + 0.9) == ([], [])


def test_a_peer_is_silent_after_so_many_intervals_and_told_of_once() -> None:
    liveness = Liveness(2.0, 600.0)
    liveness.watch(b"a", 100.0)
    assert liveness.judge(100.0 + 2.0 * SILENT - 0.01) == ([], [])
    assert not liveness.silent(b"a")
    assert liveness.judge(100.0 + 2.0 * SILENT) == ([b"a"], [])
    assert liveness.silent(b"a")
    assert liveness.judge(150.0) == ([], [])


def test_a_sign_of_life_brings_a_silent_peer_back_once() -> None:
    liveness = Liveness(1.0, 600.0)
    liveness.watch(b"a", 0.0)
    liveness.judge(10.0)
    assert liveness.beat(b"a", 11.0) is True
    assert liveness.beat(b"a", 12.0) is False
    assert not liveness.silent(b"a")
    assert liveness.judge(12.0 + SILENT) == ([b"a"], [])


def test_a_peer_is_gone_when_its_lease_is_over() -> None:
    liveness = Liveness(1.0, 60.0)
    liveness.watch(b"a", 0.0)
    liveness.judge(30.0)
    assert liveness.judge(59.9) == ([], [])
    assert liveness.judge(60.0) == ([], [b"a"])


def test_gone_is_said_until_the_peer_is_forgotten() -> None:
    liveness = Liveness(1.0, 60.0)
    liveness.watch(b"a", 0.0)
    assert liveness.judge(60.0) == liveness.judge(61.0) == ([], [b"a"])
    liveness.forget(b"a")
    assert liveness.judge(62.0) == ([], [])


def test_a_lease_shorter_than_the_silence_goes_first() -> None:
    liveness = Liveness(10.0, 5.0)
    liveness.watch(b"a", 0.0)
    assert liveness.judge(5.0) == ([], [b"a"])


def test_peers_are_judged_each_for_itself() -> None:
    liveness = Liveness(1.0, 20.0)
    for index in range(30):
        liveness.watch(b"%d" % index, float(index))
    silent, gone = liveness.judge(30.0)
    assert gone == [b"%d" % index for index in range(11)]
    assert silent == [b"%d" % index for index in range(11, 25)]


def test_strangers_and_the_forgotten_are_nobody() -> None:
    liveness = Liveness(1.0, 60.0)
    assert liveness.beat(b"a", 1.0) is False
    liveness.watch(b"a", 0.0)
    liveness.judge(10.0)
    liveness.forget(b"a")
    liveness.forget(b"a")
    assert not liveness.silent(b"a")
    assert liveness.beat(b"a", 11.0) is False
    assert liveness.judge(1000.0) == ([], [])


def test_to_be_watched_anew_is_a_fresh_start() -> None:
    liveness = Liveness(1.0, 60.0)
    liveness.watch(b"a", 0.0)
    liveness.judge(10.0)
    liveness.watch(b"a", 59.0)
    assert not liveness.silent(b"a")
    assert liveness.judge(61.0) == ([], [])
