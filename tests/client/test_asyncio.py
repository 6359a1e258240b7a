"""Results, clusters and clients in coroutines; bars for those who look."""

from __future__ import annotations

import asyncio
import io
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ipclusterz as ipp
from tests.client.test_maps import held


@pytest.fixture(scope="module")
def rc(shared_ipython_dir: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=2) as client:
        yield client


def test_results_are_awaited_and_iterated_over(rc: ipp.Client) -> None:
    view = rc.load_balanced_view()

    async def work() -> None:
        assert await view.apply_async(abs, -3) == 3
        assert await view.map(abs, range(-3, 0)) == [3, 2, 1]
        for chunksize in (1, 7, "auto"):
            result = view.map(abs, range(100), chunksize=chunksize)
            assert [x async for x in result] == list(range(100))
            assert [x async for x in result] == list(range(100))  # again, when all is there
            some = view.map(abs, range(100), chunksize=chunksize, ordered=False)
            assert sorted([x async for x in some]) == list(range(100))
        assert [x async for x in rc[:].apply_async(abs, -1)] == [1, 1]
        joined = ipp.AsyncResult.join(view.apply_async(abs, -5), rc[:].apply_async(abs, -6))
        assert [x async for x in joined] == [5, 6, 6]
        assert [x async for x in view.imap(abs, range(300))] == list(range(300))
        lazy = view.imap(abs, range(300), ordered=False, chunksize=8)
        assert sorted([x async for x in lazy]) == list(range(300))
        with pytest.raises(TypeError, match="await it"):
            async for _ in view.apply_async(abs, -1):
                pass

    asyncio.run(asyncio.wait_for(work(), 50))


def test_the_loop_goes_on_and_items_come_early(rc: ipp.Client, tmp_path: Path) -> None:
    view = rc.load_balanced_view()
    go = tmp_path / "go"
    items = [*(("", i) for i in range(10)), (str(go), 10)]

    async def work(values: Any) -> list[int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.001)
                ticks += 1

        ticking = asyncio.create_task(tick())
        found = []
        async for value in values:
            found.append(value)
            if value == 9:
                before = ticks
                while ticks < before + 5:
                    await asyncio.sleep(0.001)
                go.touch()
        ticking.cancel()
        return found

    for send in (view.map, view.imap):
        values = send(held, items)
        assert asyncio.run(asyncio.wait_for(work(values), 50)) == list(range(11))
        go.unlink()


def test_errors_and_endless_inputs(rc: ipp.Client) -> None:
    view = rc.load_balanced_view()

    async def work() -> list[int]:
        found = []
        with pytest.raises(ZeroDivisionError):
            async for value in view.map(lambda x: 4 // x, [1, 2, 0]):
                found.append(value)
        lazy = view.imap(lambda x: x + 1, itertools.count())
        async for value in lazy:
            found.append(value)
            if value == 50:
                break
        lazy.close()
        return found

    assert asyncio.run(asyncio.wait_for(work(), 50)) == [4, 2, *range(1, 51)]


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
def test_a_task_cannot_end_an_iteration(rc: ipp.Client, kind: type[Exception]) -> None:
    def fail_at_3(i: int) -> int:
        if i == 3:
            raise kind
        return i

    async def read(values: Any) -> list[int]:
        return [value async for value in values]

    view = rc.load_balanced_view()
    for values in (view.imap(fail_at_3, range(9)), view.map_async(fail_at_3, range(9))):
        with pytest.raises(RuntimeError, match=f"raised {kind.__name__}") as caught:
            asyncio.run(read(values))
        assert isinstance(caught.value.__cause__, kind)


def test_clusters_and_clients_are_async_contexts() -> None:
    async def work() -> int:
        cluster = ipp.Cluster(n=1)
        async with cluster as rc, await cluster.connect_client() as other:
            await asyncio.wrap_future(rc.wait_for_engines(1, block=False))  # type: ignore[arg-type]
            value: int = await other[0].apply_async(abs, -4)
        assert not cluster.running and other.session.closed
        return value

    assert asyncio.run(work()) == 4


class Terminal(io.StringIO):
    """Text that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_bars_in_a_terminal(rc: ipp.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    view = rc.load_balanced_view()
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    result = view.map(lambda x: 1 // x, [1, 2, 0, 0, 5], label="my numbers")
    assert result.wait_interactive(interval=0.05, timeout=20)
    shown = screen.getvalue()
    assert "my numbers" in shown and "5/5" in shown and "2 failed" in shown
    several = [view.map(abs, range(4)), view.apply_async(abs, -1), rc[:].apply_async(abs, -1)]
    assert rc.wait_interactive(several, interval=0.05, timeout=20)
    rc.wait_for_engines(2, interactive=True)
    ar = view.apply_async(held, ("", 1))
    assert ar.wait_interactive(timeout=20) and "held" in screen.getvalue()


def test_elsewhere_nothing_is_shown(rc: ipp.Client, capfd: pytest.CaptureFixture[str]) -> None:
    result = rc.load_balanced_view().map(abs, range(10))
    assert result.wait_interactive(timeout=20) and rc.wait_interactive(timeout=20)
    shown = capfd.readouterr()
    assert shown.out == shown.err == ""
