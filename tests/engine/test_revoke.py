"""Batches that are taken back from real engines: nothing is run twice, nothing is lost."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipclusterz.core.message import Op, Status, Work
from ipclusterz.engine import bodies, serialize
from tests.engine.testagent import TestEngine, Zygote, be_subreaper, until


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    be_subreaper()
    TestEngine.folder = bodies.make_folder()
    made = Zygote()
    yield made
    assert made.close() == 0
    bodies.remove_folder(TestEngine.folder[0])
    be_subreaper(False)


@pytest.fixture(params=["forked", "spawned"])
def engine(request: pytest.FixtureRequest, zygote: Zygote) -> Iterator[TestEngine]:
    source = zygote if request.param == "forked" else None
    made = TestEngine(source, TestEngine.folder).started()
    yield made
    made.close()


def hold(path: str, release: str) -> str:
    """Note that this ran, then run until told to end."""
    import os
    import time

    with open(path, "a") as file:
        file.write("x")
    while release and not os.path.exists(release):
        time.sleep(0.001)
    return path


def batch(engine: TestEngine, calls: list[tuple[str, str]]) -> list[Work]:
    return [engine.work(Op.APPLY, serialize.pack_call(call, {}), hold) for call in calls]


def ran(path: Path) -> int:
    return len(path.read_text()) if path.exists() else 0


def undone(engine: TestEngine) -> list[int]:
    """Wait for the engine to give something back."""
    while not (engine.says and engine.says[-1].undone):
        engine.hear()
    say = engine.says[-1]
    assert say.missing == []
    return say.undone


def test_what_is_behind_a_long_task_comes_back(engine: TestEngine, tmp_path: Path) -> None:
    release = tmp_path / "release"
    calls = [(str(tmp_path / "long"), str(release))]
    calls += [(str(tmp_path / f"short{i}"), "") for i in range(5)]
    works = batch(engine, calls)
    keys = engine.send(works, hold)
    until(lambda: engine.page.running == keys[0], "the long task")
    engine.page.revoke()
    assert engine.page.running == keys[0]
    release.touch()
    assert undone(engine) == keys[1:]
    assert engine.value(keys[0]) == str(tmp_path / "long")
    assert [ran(tmp_path / f"short{i}") for i in range(5)] == [0] * 5
    # Given to it again, they run once; the order is spent.
    engine.send(works[1:])
    assert [engine.value(key) for key in keys[1:]] == [path for path, _ in calls[1:]]
    assert [ran(tmp_path / f"short{i}") for i in range(5)] == [1] * 5


def test_what_ended_before_is_told_and_not_given_back(
    engine: TestEngine, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    paths = [str(tmp_path / name) for name in ("a", "b", "c", "d")]
    works = batch(
        engine, [(path, str(release) if i == 2 else "") for i, path in enumerate(paths)]
    )
    keys = engine.send(works, hold)
    until(lambda: engine.page.running == keys[2], "the third task")
    engine.page.revoke()
    release.touch()
    assert undone(engine) == keys[3:]
    assert [engine.outcome(key).status for key in keys[:3]] == [Status.OK] * 3
    assert [ran(tmp_path / name) for name in "abcd"] == [1, 1, 1, 0]


def test_nothing_behind_the_running_task(engine: TestEngine, tmp_path: Path) -> None:
    """The order stays until the next batch, which comes back whole; then all is as before."""
    release = tmp_path / "release"
    (key,) = engine.send(batch(engine, [(str(tmp_path / "only"), str(release))]), hold)
    until(lambda: engine.page.running == key, "the task")
    engine.page.revoke()
    release.touch()
    assert engine.value(key) == str(tmp_path / "only")
    next_works = batch(engine, [(str(tmp_path / "next"), "")])
    assert engine.send(next_works) == undone(engine)
    assert ran(tmp_path / "next") == 0
    assert engine.value(engine.send(next_works)[0]) == str(tmp_path / "next")


def test_between_batches(engine: TestEngine, tmp_path: Path) -> None:
    assert engine.apply(os.getpid) == engine.pid
    until(lambda: engine.page.running == 0, "the end of the batch")
    engine.page.revoke()
    works = batch(engine, [(str(tmp_path / "a"), ""), (str(tmp_path / "b"), "")])
    keys = engine.send(works, hold)
    assert undone(engine) == keys
    assert ran(tmp_path / "a") == ran(tmp_path / "b") == 0
    assert engine.page.running == 0
    engine.send(works)  # the functions that came with the revoked batch were kept
    assert [engine.value(key) for key in keys] == [str(tmp_path / "a"), str(tmp_path / "b")]


def test_in_a_storm_each_task_runs_once_or_comes_back(engine: TestEngine) -> None:
    """Orders fall on every moment of a batch; what came back is sent again until done."""
    function = int
    left: dict[int, Work] = {}
    for i in range(2000):
        work = engine.work(Op.APPLY, serialize.pack_call((i,), {}), function)
        left[work.key] = work
    values = dict(zip(left, range(2000), strict=True))
    deadline = time.monotonic() + 20
    moments = random.Random(1)
    while left:
        assert time.monotonic() < deadline
        works = list(left.values())[:200]
        sent = set(engine.send(works, function))
        moment = time.monotonic() + moments.uniform(0, 0.003)
        while time.monotonic() < moment:
            pass
        engine.page.revoke()
        while sent:
            say = engine.hear()
            for outcome in say.outcomes:
                sent.remove(outcome.key)
                del left[outcome.key]
            sent -= set(say.undone)
    assert engine.page.serial == 2000
    assert {key: engine.value(key) for key in values} == values
