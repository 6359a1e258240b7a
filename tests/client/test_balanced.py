"""Load-balanced views: single tasks, maps, lazy maps."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numpy
import pytest

from ipclusterz import error
from ipclusterz.client.client import Client
from ipclusterz.core.message import Op, Options
from tests.client.fake import FakeConnection


def test_apply(rc: Client) -> None:
    view = rc.load_balanced_view()
    assert view.apply_sync(len, [1, 2]) == 2
    assert view.apply_async(lambda x, y=0: x + y, 1, y=2).get() == 3
    assert view.apply_async(dict).get() == {}
    assert repr(view) == "<LoadBalancedView None>"


def test_flags_become_options(rc: Client, link: FakeConnection) -> None:
    view = rc.load_balanced_view()
    view.apply_async(len, [])
    assert link.sent[-1][1] is None
    assert view.set_flags(retries=2, timeout=1.5, targets=[0, -1]) is view
    view.apply_async(len, [])
    options = link.sent[-1][1]
    assert options is not None
    assert (options.retries, options.timeout, options.engines) == (2, 1.5, [0, 2])
    with pytest.raises(ValueError, match="retries=-1"):
        view.retries = -1
    with pytest.raises(IndexError):
        rc.load_balanced_view([9])


def test_map_in_order_whatever_comes_first(rc: Client, link: FakeConnection) -> None:
    link.order = lambda queue: queue.reverse()
    view = rc.load_balanced_view()
    assert view.map_sync(lambda x: -x, range(5)) == [0, -1, -2, -3, -4]
    assert list(view.map(lambda x: -x, range(5))) == [0, -1, -2, -3, -4]
    assert sorted(view.map(abs, range(5), ordered=False)) == [0, 1, 2, 3, 4]


def test_unordered_maps_yield_as_they_come(rc: Client, link: FakeConnection) -> None:
    view = rc.load_balanced_view()
    result = view.map(abs, range(3), ordered=False)
    link.queue.reverse()
    assert list(result) == [2, 1, 0]
    assert result.get() == [0, 1, 2]


def test_chunks(rc: Client, link: FakeConnection) -> None:
    view = rc.load_balanced_view()
    result = view.map(abs, range(5), chunksize=2)
    assert len(result.msg_ids) == 3 and len(result) == 5
    assert result.progress == 0
    link.step()
    assert result.progress == 2
    assert result[1] == 1 and result[0:2] == [0, 1]
    with pytest.raises(error.TimeoutError):
        result[4]
    assert list(result) == [0, 1, 2, 3, 4] and result[4] == 4 and result[-1] == 4
    assert [op for op, _, _ in link.sent] == [Op.MAP] * 3
    assert view.map_sync(abs, range(1000), chunksize="auto") == list(range(1000))
    with pytest.raises(ValueError, match="chunksize=0"):
        view.map(abs, [1], chunksize=0)


def test_map_errors(rc: Client) -> None:
    view = rc.load_balanced_view()
    with pytest.raises(error.CompositeError, match="ZeroDivisionError"):
        view.map_sync(lambda x: 1 / x, range(3))
    with pytest.raises(ZeroDivisionError):
        list(view.map(lambda x: 1 / x, range(3)))
    for size in (1, 2):
        values = view.map_sync(
            lambda x: 1 / x, [1, 0, 2], return_exceptions=True, chunksize=size
        )
        assert values[0] == 1.0 and values[2] == 0.5
        assert isinstance(values[1], ZeroDivisionError)


def test_values_before_an_error_are_yielded(rc: Client) -> None:
    got = []
    with pytest.raises(ZeroDivisionError):
        for value in rc.load_balanced_view().map(lambda x: 1 / x, [2, 1, 0, 4]):
            got.append(value)
    assert got == [0.5, 1.0]


def test_a_map_that_cannot_be_sent_whole_gives_up_the_rest(
    rc: Client, link: FakeConnection
) -> None:
    with pytest.raises(error.SerializationError):
        rc.load_balanced_view().map(abs, [1, 2, threading.Lock()])
    assert not link.queue and not rc.session.live


def test_an_engine_dying_in_mid_map(rc: Client, link: FakeConnection) -> None:
    result = rc.load_balanced_view().map(abs, range(3))
    link.kill(result.task_keys()[1], "engine 1 was killed by signal 9")
    with pytest.raises(error.EngineError):
        next(itertools.islice(iter(result), 1, None))
    values = result.get(return_exceptions=True)
    assert values[0] == 0 and values[2] == 2 and "signal 9" in str(values[1])


def test_imap_is_lazy_and_bounded(rc: Client, link: FakeConnection) -> None:
    view = rc.load_balanced_view()
    read: list[int] = []

    def endless() -> Any:
        for i in itertools.count():
            read.append(i)
            yield i

    values = view.imap(lambda x: x + 1, endless(), max_outstanding=4)
    assert list(itertools.islice(values, 100)) == list(range(1, 101))
    assert link.highest <= 4 and len(read) <= 105
    values.close()
    assert not rc.session.live and not link.queue
    assert rc.wait(timeout=0)


def test_imap_of_many_items_keeps_nothing(rc: Client, link: FakeConnection) -> None:
    count = 20_000
    values = rc.load_balanced_view().imap(abs, iter(range(count)))
    assert sum(values) == count * (count - 1) // 2
    assert link.highest <= 3 * 256
    assert not values._got and not values._sent and not rc.session.live


@pytest.mark.parametrize("ordered", [True, False])
def test_imap_order(rc: Client, link: FakeConnection, ordered: bool) -> None:
    link.order = lambda queue: queue.reverse()
    values = list(rc.load_balanced_view().imap(abs, range(50), ordered=ordered))
    assert sorted(values) == list(range(50))
    assert (values == list(range(50))) is ordered


def test_imap_errors(rc: Client, link: FakeConnection) -> None:
    view = rc.load_balanced_view()
    values = view.imap(lambda x: 1 / x, [1, 0, 2], return_exceptions=True)
    kinds = [type(value).__name__ for value in values]
    assert kinds == ["float", "ZeroDivisionError", "float"]
    values = view.imap(lambda x: 1 / x, [1, 0, 2], max_outstanding=2)
    assert next(values) == 1.0
    with pytest.raises(ZeroDivisionError):
        next(values)
    with pytest.raises(StopIteration):
        next(values)
    with pytest.raises(error.SerializationError):
        list(view.imap(abs, [threading.Lock()]))
    good_then_bad = view.imap(abs, [-1, threading.Lock()])
    assert next(good_then_bad) == 1
    with pytest.raises(error.SerializationError):
        next(good_then_bad)
    assert list(view.imap(abs, [])) == []
    with pytest.raises(ValueError, match="max_outstanding"):
        view.imap(abs, [], max_outstanding="many")


def test_numbers_of_numpy_are_whole_numbers(rc: Client) -> None:
    view = rc.load_balanced_view(retries=numpy.int64(2))
    two, items = numpy.int64(2), range(-5, 0)
    assert view.retries == 2 and type(view.retries) is int
    assert view.map_sync(abs, items, chunksize=two) == [5, 4, 3, 2, 1]
    assert list(view.imap(abs, items, chunksize=two)) == [5, 4, 3, 2, 1]
    assert list(view.imap(abs, items, max_outstanding=two)) == [5, 4, 3, 2, 1]
    assert list(view.executor.map(abs, items, buffersize=two)) == [5, 4, 3, 2, 1]
    for wrong in (2.0, True, "2", None):
        with pytest.raises(ValueError, match="retries="):
            view.retries = wrong  # type: ignore[assignment]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("chunksize", [1, 2])
def test_a_stop_iteration_of_a_task_does_not_end_a_lazy_map(
    rc: Client, ordered: bool, chunksize: int
) -> None:
    def fail_at_3(i: int) -> int:
        return next(iter(())) if i == 3 else i

    view = rc.load_balanced_view()
    values = view.imap(fail_at_3, range(9), ordered=ordered, chunksize=chunksize)
    with pytest.raises(RuntimeError, match="a task raised StopIteration") as caught:
        list(values)
    assert isinstance(caught.value.__cause__, StopIteration)
    with pytest.raises(RuntimeError, match="a task raised StopIteration"):
        list(view.executor.map(fail_at_3, range(9), buffersize=2))
    kept = list(view.imap(fail_at_3, range(9), return_exceptions=True))
    assert len(kept) == 9 and isinstance(kept[3], StopIteration)


def test_large_functions_travel_with_their_arguments(rc: Client, link: FakeConnection) -> None:
    blob = bytes(100_000)
    view = rc.load_balanced_view()
    assert view.apply_sync(lambda x: len(blob) + x, 1) == 100_001
    assert link.sent[-1][0] is Op.CALL
    assert view.map_sync(lambda x: len(blob) + x, [1, 2]) == [100_001, 100_002]
    assert rc[0].apply_sync(lambda x: len(blob) + x, 1) == 100_001


def test_decorators(rc: Client) -> None:
    view = rc.load_balanced_view()

    @view.remote()
    def same(x: int) -> int:
        return x

    @view.parallel(chunksize=2)
    def more(xs: list[int]) -> list[int]:
        return [x + 1 for x in xs]

    assert same(3).get() == 3
    assert more(range(5)).get() == [1, 2, 3, 4, 5]


def test_flags_of_a_decorator_are_its_own(rc: Client, link: FakeConnection) -> None:
    view = rc.load_balanced_view(retries=1)
    patient = view.remote(block=True, retries=4, label="patient")(abs)
    assert patient(-3) == 3
    assert link.sent[-1][1] == Options(4, None, 0.0, "patient")
    assert view.retries == 1 and view.label is None and not view.block
    assert view.apply_sync(abs, -4) == 4
    assert link.sent[-1][1] == Options(1)
    assert len(view.history) == 2
    with pytest.raises(TypeError, match="no flag 'speed'"):
        view.remote(speed=3)(abs)(-3)


def test_a_view_used_by_threads_remembers_all(rc: Client) -> None:
    view = rc.load_balanced_view()
    names: list[list[str]] = [[] for _ in range(4)]

    def send(into: list[str]) -> None:
        for _ in range(3000):
            into.extend(view.apply_async(len, "").msg_ids)

    threads = [threading.Thread(target=send, args=(into,)) for into in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(view.history) == {name for into in names for name in into}
    assert len(view.history) == 12_000
    # Which thread notes its task first decides how they are cut into ranges.
    remembered, sent = view._past.ranges(), rc.session.connection.task_ranges()
    assert sorted(n for each in remembered for n in each) == [n for each in sent for n in each]
