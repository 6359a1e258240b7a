"""Executors over real engines keep every promise of concurrent.futures."""

from __future__ import annotations

import concurrent.futures as futures
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ipclusterz as ipp
from tests.running import eventually


@pytest.fixture(scope="module")
def rc(shared_ipython_dir: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=2) as client:
        yield client


def wait_for(path: str) -> str:
    """Run until a file is there: a task whose end the test decides."""
    for _ in range(6000):
        if os.path.exists(path):
            return path
        time.sleep(0.01)
    raise TimeoutError(path)


def test_it_is_an_executor_and_gives_futures(rc: ipp.Client) -> None:
    executor = rc.executor()
    assert isinstance(executor, futures.Executor)
    future = executor.submit(pow, 3, 4)
    assert isinstance(future, futures.Future)
    assert future.result(timeout=20) == 81 and future.done() and not future.cancelled()
    failed = executor.submit(divmod, 1, 0)
    assert isinstance(failed.exception(timeout=20), ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        failed.result()
    assert executor.submit(int, "7", base=8).result(20) == 7


def test_targets_are_kept_to(rc: ipp.Client) -> None:
    pids = dict(zip(rc.ids, rc[:].apply_sync(os.getpid), strict=True))
    with rc.executor(targets=1) as executor:
        assert {executor.submit(os.getpid).result(20) for _ in range(8)} == {pids[1]}
    assert rc[:].executor.submit(abs, -2).result(20) == [2, 2]
    assert rc[0].executor.submit(os.getpid).result(20) == pids[0]


def test_a_view_has_one_executor_and_after_its_end_another(rc: ipp.Client) -> None:
    view = rc.load_balanced_view()
    first = view.executor
    assert view.executor is first
    first.shutdown()
    assert view.executor is not first and view.executor.submit(abs, -1).result(20) == 1


def test_wait_and_as_completed(rc: ipp.Client, tmp_path: Path) -> None:
    go = str(tmp_path / "go")
    with rc.executor() as executor:
        slow = executor.submit(wait_for, go)
        quick = [executor.submit(abs, -i) for i in range(20)]
        done, pending = futures.wait([slow, *quick], 20, futures.FIRST_COMPLETED)
        assert done and slow in pending
        done, pending = futures.wait(quick, 20)
        assert done == set(quick) and not pending
        bad = executor.submit(divmod, 1, 0)
        done, pending = futures.wait([slow, bad], 20, futures.FIRST_EXCEPTION)
        assert done == {bad} and pending == {slow}
        with pytest.raises(TimeoutError):
            list(futures.as_completed([slow], timeout=0.05))
        Path(go).touch()
        order = list(futures.as_completed([slow, *quick], 20))
        assert set(order) == {slow, *quick} and slow.result() == go


def test_done_callbacks(rc: ipp.Client) -> None:
    called: list[int] = []
    with rc.executor() as executor:
        future = executor.submit(abs, -5)
        future.add_done_callback(lambda f: called.append(f.result()))
        future.result(20)
        eventually(lambda: called == [5])
        future.add_done_callback(lambda f: called.append(-f.result()))
    assert called == [5, -5]


@pytest.mark.parametrize("chunksize", [1, 7, "auto"])
def test_map(rc: ipp.Client, chunksize: int | str) -> None:
    with rc.executor() as executor:
        values = executor.map(pow, range(50), itertools.repeat(2), chunksize=chunksize)
        assert next(values) == 0
        assert list(values) == [x**2 for x in range(1, 50)]
        assert list(executor.map(abs)) == [] and list(executor.map(abs, [])) == []


def test_map_on_a_direct_view(rc: ipp.Client) -> None:
    with rc[:].executor as executor:
        assert list(executor.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]
        with pytest.raises(ValueError, match="buffersize"):
            executor.map(abs, [1], buffersize=1)


def test_map_sends_at_once_whether_or_not_anyone_asks(rc: ipp.Client, tmp_path: Path) -> None:
    with rc.executor() as executor:
        executor.map(Path.touch, [tmp_path / str(i) for i in range(10)])
    assert len(list(tmp_path.iterdir())) == 10


def test_map_raises_where_the_item_stands(rc: ipp.Client) -> None:
    values = rc.executor().map(lambda x: 1 // x, [1, 2, 0, 4])
    assert next(values) == 1 and next(values) == 0
    with pytest.raises(ZeroDivisionError):
        next(values)


@pytest.mark.parametrize("buffersize", [None, 2])
def test_map_within_a_time(rc: ipp.Client, tmp_path: Path, buffersize: int | None) -> None:
    go = tmp_path / "go"
    executor = rc.executor()
    values = executor.map(wait_for, [str(go)] * 6, timeout=0.2, buffersize=buffersize)
    with pytest.raises(TimeoutError):
        next(values)
    go.touch()
    executor.shutdown()
    assert list(rc.executor().map(abs, [-1], timeout=20)) == [1]


def test_map_reads_endless_inputs_lazily(rc: ipp.Client) -> None:
    read = itertools.count()
    with rc.executor() as executor:
        values = executor.map(lambda x: 2 * x, read, buffersize=5)
        assert list(itertools.islice(values, 40)) == list(range(0, 80, 2))
        assert next(read) <= 46
        executor.shutdown()
        with pytest.raises(RuntimeError, match="shut down"):
            list(values)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="buffersize"):
            rc.executor().map(abs, [1], buffersize=wrong)


def test_shutdown_waits_and_refuses(rc: ipp.Client, tmp_path: Path) -> None:
    go = tmp_path / "go"
    executor = rc.executor()
    future = executor.submit(wait_for, str(go))
    executor.shutdown(wait=False)
    assert not future.done()
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(abs, 1)
    with pytest.raises(RuntimeError, match="shut down"):
        executor.map(abs, [1])
    threading.Timer(0.1, go.touch).start()
    executor.shutdown(wait=True)
    assert future.done() and future.result() == str(go)


def test_shutdown_can_give_up_what_has_not_begun(rc: ipp.Client, tmp_path: Path) -> None:
    go, begun = tmp_path / "go", tmp_path / "begun"
    executor = rc.executor(targets=[0])

    def mark(begun: Path, go: Path) -> str:
        begun.touch()
        while not go.exists():
            time.sleep(0.01)
        return "ran"

    running = executor.submit(mark, begun, go)
    waiting = [executor.submit(mark, begun, go) for _ in range(5)]
    eventually(begun.exists)
    threading.Timer(0.3, go.touch).start()
    executor.shutdown(wait=True, cancel_futures=True)
    assert running.result() == "ran"
    assert all(future.cancelled() for future in waiting)
    for ask in (waiting[0].result, waiting[0].exception):
        with pytest.raises(futures.CancelledError):
            ask()
    done, _ = futures.wait([running, *waiting], 20)
    assert len(done) == 6


def test_a_lost_cluster_breaks_it() -> None:
    cluster = ipp.Cluster(n=1)
    with cluster as client:
        executor = client.executor()
        stuck = executor.submit(time.sleep, 600)
        waiting = executor.submit(abs, -1)
        cluster.stop_cluster_sync()
        with pytest.raises(futures.BrokenExecutor):
            waiting.result(timeout=30)
        with pytest.raises(ipp.ControllerLost):
            waiting.result()
        with pytest.raises((futures.BrokenExecutor, ipp.EngineError)):
            stuck.result(timeout=30)  # whichever end is heard of first
        with pytest.raises(futures.BrokenExecutor):
            executor.submit(abs, 1)
        with pytest.raises(futures.BrokenExecutor):
            executor.map(abs, [1])
        executor.shutdown()
