"""Giving up tasks: those that wait, those that run, and those that do not listen."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ipclusterz as ipp
from tests.running import alive, eventually


@pytest.fixture
def rc() -> Iterator[ipp.Client]:
    with ipp.Cluster(n=2) as client:
        yield client


def sleeps(path: str) -> None:
    import time

    open(path, "w").close()
    time.sleep(1000)


def stubborn(path: str) -> None:
    import os
    import time

    with open(path, "w") as file:
        file.write(str(os.getpid()))
    while True:
        try:
            time.sleep(1000)
        except KeyboardInterrupt:
            pass


def test_a_running_task_is_interrupted_and_its_engine_lives(
    rc: ipp.Client, tmp_path: Path
) -> None:
    rc[:].push({"kept": 7}, block=True)
    view = rc.load_balanced_view()
    begun = tmp_path / "begun"
    running = view.apply_async(sleeps, str(begun))
    eventually(begun.exists)
    assert not running.cancel()
    assert running.cancel(running=True)
    with pytest.raises(ipp.TaskAborted, match="cancelled while it ran: it was interrupted"):
        running.get(10)
    assert running.cancelled() and running.metadata.status == "aborted"
    assert rc.ids == [0, 1] and rc[:]["kept"] == [7, 7]
    assert view.map_sync(abs, range(20)) == list(range(20))


def test_one_that_does_not_listen_is_killed_and_its_engine_replaced(
    rc: ipp.Client, tmp_path: Path
) -> None:
    view = rc.load_balanced_view()
    begun = tmp_path / "begun"
    running = view.apply_async(stubborn, str(begun))
    eventually(lambda: begun.exists() and begun.read_text())
    pid = int(begun.read_text())
    others = [view.apply_async(abs, -i) for i in range(50)]
    assert running.cancel(running=True, grace=0.3)
    with pytest.raises(ipp.TaskAborted, match="its engine was killed"):
        running.get(10)
    assert not alive(pid)
    assert [other.get(30) for other in others] == list(range(50))
    # A number is never given out twice.
    eventually(lambda: max(rc.ids) == 2 == len(rc.ids), what="the engine was not replaced")
    assert len(set(rc[:].apply_sync(os.getpid))) == 2


def test_a_map_is_given_up_as_a_whole(rc: ipp.Client, tmp_path: Path) -> None:
    view = rc.load_balanced_view()
    paths = [str(tmp_path / str(i)) for i in range(40)]
    running = view.map_async(sleeps, paths)
    eventually(lambda: len(os.listdir(tmp_path)) >= 2)
    assert running.cancel(running=True)
    assert len(os.listdir(tmp_path)) == 2
    with pytest.raises(ipp.TaskAborted):
        running.get(10)
    assert view.apply_sync(abs, -3) == 3


def test_direct_work(rc: ipp.Client, tmp_path: Path) -> None:
    paths = [str(tmp_path / str(i)) for i in range(2)]
    running = [rc[i].apply_async(sleeps, paths[i]) for i in range(2)]
    eventually(lambda: len(os.listdir(tmp_path)) == 2)
    assert running[0].cancel(running=True)
    assert not running[1].done()
    assert running[1].cancel(running=True)
    code = rc[:].execute("import time; time.sleep(1000)")
    assert code.cancel(running=True)
    assert rc[:].apply_sync(abs, -1) == [1, 1]


def test_what_has_ended_stays(rc: ipp.Client) -> None:
    done = rc.load_balanced_view().apply_async(abs, -1)
    assert done.get(10) == 1
    assert not done.cancel(running=True) and done.get() == 1


def test_another_task_is_never_hit(rc: ipp.Client) -> None:
    view = rc.load_balanced_view()
    good = [view.apply_async(time.sleep, 0.002) for _ in range(300)]
    bad = [view.apply_async(time.sleep, 1000) for _ in range(2)]
    more = [view.apply_async(abs, -i) for i in range(100)]
    for result in bad:
        assert result.cancel(running=True)
    for result in good:
        assert result.get(30) is None
    assert [result.get(30) for result in more] == list(range(100))


def test_an_interrupt_by_signal_is_an_error_of_the_task(rc: ipp.Client, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    running = rc[0].apply_async(sleeps, str(begun))
    eventually(begun.exists)
    rc[0].client.send_signal(signal.SIGINT, targets=0, block=True)
    error = running.exception(10)
    assert isinstance(error, ipp.RemoteError) and error.ename == "KeyboardInterrupt"
