"""Maps over real engines: values, order, memory, deaths and Ctrl-C."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import ipclusterz as ipp
from ipclusterz.client import interrupts
from tests.running import eventually


@pytest.fixture(scope="module")
def rc(shared_ipython_dir: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=3) as client:
        yield client


def held(item: tuple[str, int]) -> int:
    """Wait for a file, then return the number."""
    path, number = item
    for _ in range(6000):
        if not path or os.path.exists(path):
            return number
        time.sleep(0.01)
    raise TimeoutError(path)


@pytest.mark.parametrize("chunksize", [1, 10, "auto", None])
@pytest.mark.parametrize("ordered", [True, False])
def test_values(rc: ipp.Client, chunksize: Any, ordered: bool) -> None:
    view = rc.load_balanced_view()
    result = view.map(pow, range(200), [3] * 150, chunksize=chunksize, ordered=ordered)
    values = list(result)
    expected = [x**3 for x in range(150)]
    assert (values == expected) if ordered else (sorted(values) == expected)
    assert result.get() == expected and len(result) == 150 == result.progress


@pytest.mark.parametrize("chunksize", [1, 10, "auto"])
def test_generators_of_unknown_length(rc: ipp.Client, chunksize: Any) -> None:
    view = rc.load_balanced_view()
    expected = [-x for x in range(3000)]
    result = view.map(lambda x: -x, (x for x in range(3000)), chunksize=chunksize)
    assert result.get(timeout=40) == expected
    assert list(view.imap(lambda x: -x, iter(range(3000)), chunksize=chunksize)) == expected
    assert view.map_sync(abs, iter(())) == [] and list(view.imap(abs, iter(()))) == []
    assert rc[:].map_sync(lambda x: -x, iter(range(3000))) == expected


def test_an_endless_generator(rc: ipp.Client) -> None:
    with rc.load_balanced_view().imap(lambda x: x * x, itertools.count()) as values:
        assert list(itertools.islice(values, 500)) == [x * x for x in range(500)]
    assert rc.wait(timeout=20) and not rc.outstanding


@pytest.mark.parametrize("chunksize", [1, 4])
@pytest.mark.parametrize("lazy", [True, False])
def test_errors_among_the_values(rc: ipp.Client, chunksize: int, lazy: bool) -> None:
    view = rc.load_balanced_view()
    make = view.imap if lazy else view.map
    items = [1, 0, 2, 0, 4, 5, 0]
    values = list(make(lambda x: 8 // x, items, chunksize=chunksize, return_exceptions=True))
    assert [v for v in values if isinstance(v, int)] == [8, 4, 2, 1]
    failed = [i for i, v in enumerate(values) if isinstance(v, ZeroDivisionError)]
    assert failed == [1, 3, 6] and all(values[i].engine_id in rc.ids for i in failed)


def test_results_come_while_others_run(rc: ipp.Client, tmp_path: Path) -> None:
    view = rc.load_balanced_view()
    go = tmp_path / "go"
    items = [(str(go), 0), *(("", i) for i in range(1, 20))]
    for how in ("map", "imap"):
        values: Iterator[int]
        if how == "map":
            values = iter(view.map(held, items, ordered=False))
        else:
            values = view.imap(held, items, ordered=False, max_outstanding=6)
        early = list(itertools.islice(values, 19))
        assert sorted(early) == list(range(1, 20))
        go.touch()
        assert list(values) == [0]
        go.unlink()
    result = view.map(held, [*items[1:], items[0]])
    assert list(itertools.islice(result, 19)) == list(range(1, 20))
    assert not result.done() and result.progress == 19
    go.touch()
    assert result.get(20)[-1] == 0


def rss() -> float:
    return psutil.Process().memory_info().rss / 2**20


@pytest.mark.parametrize(
    "count",
    [100_000, pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(300)])],
)
@pytest.mark.parametrize("chunksize", [1, 100])
def test_many_items_take_bounded_memory(rc: ipp.Client, count: int, chunksize: int) -> None:
    view = rc.load_balanced_view()
    others = psutil.Process().children(recursive=True)
    assert sum(view.imap(abs, iter(range(2000)))) == 1999 * 1000
    before = rss()
    size_of = {p.pid: p.memory_info().rss for p in others}
    total = sum(view.imap(abs, iter(range(count)), chunksize=chunksize))
    assert total == count * (count - 1) // 2
    assert rss() - before < 30
    grown = [p.memory_info().rss - size_of[p.pid] for p in others]
    assert max(grown) < 150 * 2**20  # the hub keeps records until they are written


def die_at(number: int, marker: str) -> int:
    if number == 5 and not os.path.exists(marker):
        Path(marker).touch()
        os._exit(7)
    return number * 2


def test_an_engine_dying_in_mid_map_loses_its_task_only(tmp_path: Path) -> None:
    with ipp.Cluster(n=3) as client:
        view = client.load_balanced_view()
        marker = str(tmp_path / "died")
        result = view.map(die_at, range(40), [marker] * 40, return_exceptions=True)
        values = result.get(timeout=40)
        assert isinstance(values[5], ipp.EngineError) and "code 7" in str(values[5])
        assert [v for i, v in enumerate(values) if i != 5] == [
            2 * i for i in range(40) if i != 5
        ]
        eventually(lambda: len(client) == 2)
        assert view.map_sync(abs, range(10)) == list(range(10))


def press_ctrl_c() -> threading.Timer:
    timer = threading.Timer(0.15, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    return timer


@pytest.mark.parametrize("how", ["get", "iterate", "client", "bar", "lazy"])
def test_ctrl_c_stops_waiting_and_a_second_one_the_work(
    rc: ipp.Client, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    go = tmp_path / "go"
    items = [(str(go), i) for i in range(12)]
    view = rc.load_balanced_view()
    lazy = view.imap(held, items, max_outstanding=12) if how == "lazy" else iter(())
    result = view.map(held, items) if how != "lazy" else view.apply_async(abs, 1)
    waits: dict[str, Any] = {
        "get": result.get,
        "iterate": lambda: next(iter(result)),
        "client": lambda: rc.wait(result),
        "bar": result.wait_interactive,
        "lazy": lambda: next(lazy),
    }
    timer = press_ctrl_c()
    with pytest.raises(KeyboardInterrupt):
        waits[how]()
    timer.join()
    assert "the work goes on" in capsys.readouterr().err
    # The cluster is as before: others work, and nothing was given up.
    assert rc.direct_view().push({"x": 1}).msg_ids
    assert not any(raw is not None for raw in result._raws()) or how == "lazy"
    timer = press_ctrl_c()
    with pytest.raises(KeyboardInterrupt):
        waits[how]()
    timer.join()
    assert "given up" in capsys.readouterr().err
    if how != "lazy":  # whatever ran was interrupted, the rest never began
        values = result.get(timeout=30, return_exceptions=True)
        assert [type(v).__name__ for v in values] == ["TaskAborted"] * 12
    go.touch()
    assert rc.wait(timeout=30)
    assert view.map_sync(abs, range(-5, 0)) == [5, 4, 3, 2, 1]


def test_ctrl_c_long_after_the_first_is_a_first_one(
    rc: ipp.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "SOON", 0.0)
    go = tmp_path / "go"
    result = rc.load_balanced_view().map(held, [(str(go), i) for i in range(6)])
    for _ in range(2):
        timer = press_ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            result.get()
        timer.join()
    go.touch()
    assert result.get(timeout=30) == list(range(6))
