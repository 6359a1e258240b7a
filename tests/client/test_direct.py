"""Direct views: what users of ipyparallel write, and what they get."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numpy
import pytest

from ipclusterz import Reference, error
from ipclusterz.client.client import Client
from ipclusterz.client.targets import NoSuchEngine
from ipclusterz.core.message import Op
from tests.client.fake import FakeConnection


def test_indexing_makes_views_by_id_slice_and_list(rc: Client) -> None:
    assert rc.ids == [0, 1, 2] and len(rc) == 3
    assert rc[0].targets == 0 and rc[-1].targets == 2
    assert rc[:].targets == [0, 1, 2] and rc[::2].targets == [0, 2]
    assert rc[[0, 2]].targets == [0, 2] and rc[1, 2].targets == [1, 2]
    assert rc[5:].targets == []
    assert [view.targets for view in rc] == [0, 1, 2]
    assert repr(rc[:]) == "<DirectView [0, 1, 2]>" and repr(rc[1]) == "<DirectView 1>"


@pytest.mark.parametrize("key", [7, -4, [0, 9]])
def test_unknown_engines_are_index_errors_that_name_them(rc: Client, key: object) -> None:
    with pytest.raises(IndexError, match=r"no such engine: (7|-4|9) \(there are: 0-2\)"):
        rc[key]


@pytest.mark.parametrize("key", ["all", 1.5, True, [0, "x"]])
def test_other_keys_are_type_errors(rc: Client, key: object) -> None:
    with pytest.raises(TypeError):
        rc[key]


def test_slices_count_positions_not_ids(rc: Client, link: FakeConnection) -> None:
    link.remove_engine(1)
    link.add_engine(8)
    assert rc.ids == [0, 2, 8]
    assert rc[1:].targets == [2, 8] and rc[-1].targets == 8


def test_one_engine_gives_values_and_several_give_lists(rc: Client) -> None:
    assert rc[0].apply_sync(len, "abc") == 3
    assert rc[:].apply_sync(len, "abc") == [3, 3, 3]
    assert rc[[0]].apply_sync(len, "abc") == [3]
    assert rc[:].apply_sync(os.getpid) == [os.getpid()] * 3


def test_a_broadcast_is_sent_once(rc: Client, link: FakeConnection) -> None:
    rc[:].apply_async(len, [1])
    assert [(op, targets) for op, _, targets in link.sent] == [(Op.APPLY, [0, 1, 2])]


def test_block_decides_between_value_and_result(rc: Client) -> None:
    view = rc[:]
    result = view.apply(len, [1])
    assert repr(result) == "<AsyncResult(len): pending>"
    assert result.get() == [1, 1, 1]
    assert repr(result) == "<AsyncResult(len): finished>"
    view.block = True
    assert view.apply(len, [1]) == [1, 1, 1]
    with view.temp_flags(block=False):
        assert not isinstance(view.apply(len, [1]), list)
    assert view.block


def test_namespaces(rc: Client) -> None:
    view = rc[:]
    view["a"] = 5
    assert view["a"] == [5, 5, 5] and rc[1]["a"] == 5
    assert view.push({"b": 1}, block=True) == [None, None, None]
    assert rc[0].push({"b": 2}, block=True) is None
    assert view.pull("b", block=True) == [2, 1, 1]
    assert view.pull(["a", "b"], block=True) == [[5, 2], [5, 1], [5, 1]]
    assert rc[0].pull(("a", "b"), block=True) == [5, 2]
    assert view.get("b") == [2, 1, 1]
    assert view.update({"q": 1}).get() == [None] * 3
    assert view.clear(block=True) is None
    with pytest.raises(NameError, match="'a' is not defined"):
        rc[0]["a"]


def test_shortcuts_of_the_client(rc: Client) -> None:
    rc.push({"a": 1, "b": 2}, block=True)
    rc.execute("c = a + b", targets=[0, 2], block=True)
    assert rc.pull("c", targets=[0, 2], block=True) == [3, 3]
    assert rc.apply(len, ("ab",), targets=0, block=True) == 2
    with pytest.raises(error.CompositeError):
        rc.pull("c", targets="all", block=True)


def test_execute_returns_replies(rc: Client) -> None:
    result = rc[:].execute("a = 1", block=True)
    assert result.ready() and result.successful()
    shown = rc[0].execute("1 + 2", silent=False, block=True)
    value = {"data": {"text/plain": "3"}, "metadata": {}, "execution_count": 7}
    assert shown.get().execute_result == value and shown.get().text == "3"
    assert repr(shown.get()) == "<ExecuteReply[7]: 3>"
    assert shown.stdout == "" and shown.execute_result == value
    assert shown.metadata["execute_result"] == value and shown.metadata.execute_input == "1 + 2"
    several = rc[:].execute("1 + 2", silent=False)
    assert [reply.engine_id for reply in several.get()] == [0, 1, 2]
    assert [facts["execute_result"] for facts in several.metadata] == [value] * 3
    assert several.get()[1]["engine_id"] == 1 and several.get()[2].status == "ok"
    assert result.get()[0].execute_result is None and result.get()[0].text is None


def test_run_sends_a_files_content(rc: Client, tmp_path: object) -> None:
    path = f"{tmp_path}/script.py"
    with open(path, "w", encoding="latin-1") as file:
        file.write("# -*- coding: latin-1 -*-\nname = 'é'\n")
    rc[:].run(path, block=True)
    assert rc[0]["name"] == "é"
    with pytest.raises(FileNotFoundError):
        rc[:].run(f"{tmp_path}/none.py")


def test_errors_have_their_type(rc: Client) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        rc[0].execute("1/0", block=True)
    assert isinstance(caught.value, error.RemoteError) and caught.value.engine_id == 0
    with pytest.raises(error.CompositeError) as several:
        rc[:].execute("1/0", block=True)
    assert len(several.value.elist) == 3 and "[engines 0-2] ZeroDivisionError" in str(
        several.value
    )
    with pytest.raises(ZeroDivisionError):  # all of one type: that type too
        rc[:].execute("1/0", block=True)


def test_mixed_errors_and_values(rc: Client) -> None:
    rc[1].push({"x": 0}, block=True)
    rc[[0, 2]].push({"x": 1}, block=True)
    result = rc[:].apply_async(lambda x: 1 / x, Reference("x"))
    assert result.exception() is not None
    first, failed, last = result.get(return_exceptions=True)
    assert (first, last) == (1.0, 1.0) and isinstance(failed, ZeroDivisionError)
    assert not result.successful() and repr(result).endswith("failed>")


def test_no_engines(rc: Client, link: FakeConnection) -> None:
    with pytest.raises(error.NoEnginesRegistered, match="name no engine"):
        rc[5:].apply(len, [])
    everyone = rc.direct_view()
    for number in rc.ids:
        link.remove_engine(number)
    with pytest.raises(error.NoEnginesRegistered, match="wait_for_engines"):
        everyone.apply(len, [])


def test_a_view_of_an_engine_that_went_says_so(rc: Client, link: FakeConnection) -> None:
    view, one = rc[:], rc[1]
    view.apply_sync(len, [])
    link.remove_engine(1)
    for gone in (view, one):
        with pytest.raises(NoSuchEngine, match=r"there are: 0, 2\); engine 1 ended: it was"):
            gone.apply(len, [])
    assert rc.direct_view().apply_sync(len, []) == [0, 0]


def test_map_deals_blocks_and_keeps_order(rc: Client, link: FakeConnection) -> None:
    assert rc[:].map_sync(lambda x: x * 2, range(7)) == [0, 2, 4, 6, 8, 10, 12]
    assert rc[:].map_sync(lambda x, y: x * y, range(7), range(3)) == [0, 1, 4]
    result = rc[:].map_async(abs, [-1, -2])
    assert len(result.msg_ids) == 2 and len(result) == 2
    assert list(result) == [1, 2]
    assert rc[:].map_async(abs, []).get() == []
    assert rc[0].map_sync(abs, (x for x in [1, -2])) == [1, 2]
    with pytest.raises(TypeError, match="at least one sequence"):
        rc[:].map(abs)


def test_map_with_errors_in_place(rc: Client) -> None:
    values = rc[:].map_sync(lambda x: 1 / x, [1, 0, 2, 4, 5, 10], return_exceptions=True)
    assert [values[i] for i in (0, 2, 3)] == [1.0, 0.5, 0.25]
    assert isinstance(values[1], error.RemoteError) and values[1].engine_id == 0
    assert isinstance(values[1], ZeroDivisionError)


@pytest.mark.parametrize("dist", ["b", "r"])
@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_scatter_and_gather_are_inverse(rc: Client, dist: str, n: int) -> None:
    view = rc[:]
    assert view.scatter("s", list(range(n)), dist=dist, block=True) is None
    assert view.gather("s", dist=dist, block=True) == list(range(n))
    array = numpy.arange(2 * n, dtype="f4").reshape(n, 2)
    view.scatter("s", array, dist=dist).get()
    back = view.gather("s", dist=dist).get()
    assert back.dtype == array.dtype and back.shape == array.shape
    assert (back == array).all()


def test_scatter_details(rc: Client) -> None:
    view = rc[:]
    view.scatter("s", range(7), block=True)
    assert view["s"] == [range(3), range(3, 5), range(5, 7)]
    view.scatter("s", [1, 2, 3], flatten=True, block=True)
    assert view["s"] == [1, 2, 3] and view.gather("s", block=True) == [1, 2, 3]
    rc[0].scatter("s", range(3), block=True)
    assert rc[0]["s"] == range(3)
    with pytest.raises(ValueError, match="dist='x'"):
        view.scatter("s", [1], dist="x")


def test_what_cannot_be_pickled_is_named_and_nothing_stays(rc: Client) -> None:
    with pytest.raises(error.SerializationError, match="argument 1"):
        rc[:].apply(print, 1, threading.Lock())
    assert not rc.session.live


def test_misuse(rc: Client) -> None:
    with pytest.raises(TypeError, match="dict of names"):
        rc[:].push([1])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name must be a str"):
        rc[:].pull([3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="code as a str"):
        rc[:].execute(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no flag 'retries'"):
        rc[:].set_flags(retries=3)


def test_decorators(rc: Client) -> None:
    view = rc[:]

    @view.remote(block=True)
    def add(x: int, y: int = 1) -> int:
        return x + y

    @view.parallel(block=True)
    def double(xs: list[int]) -> list[int]:
        return [2 * x for x in xs]

    assert add(1) == [2, 2, 2] and add(1, y=5) == [6, 6, 6]
    assert double(range(7)) == [0, 2, 4, 6, 8, 10, 12]
    assert not view.block

    @view.parallel(block=True)
    def negative(x: int) -> int:
        return -x

    assert negative.map(range(4)) == [0, -1, -2, -3]
    with pytest.raises(ValueError, match="different lengths"):
        double([1], [1, 2])


@pytest.mark.parametrize("dist", ["b", "r"])
def test_parallel_functions_are_not_called_with_nothing(
    rc: Client, link: FakeConnection, dist: str
) -> None:
    view = rc[:]
    largest = view.parallel(dist=dist, block=True)(lambda x: [max(x)])
    assert largest([5]) == [5] and largest([5, 3]) == [5, 3]
    assert [targets for _, _, targets in link.sent] == [[0], [0], [1]]
    pairs = view.parallel(dist=dist)(lambda x, y: list(zip(x, y, strict=True)))
    assert pairs("a", numpy.zeros(1)).get() == [("a", 0.0)]
    link.sent.clear()
    assert view.parallel(dist=dist, block=True)(lambda x: [len(x)])([]) == [0]
    assert [targets for _, _, targets in link.sent] == [[0]]
    with pytest.raises(ValueError, match="max"):
        largest([])
    # Scattering sets the variable everywhere all the same.
    view.scatter("s", [5], dist=dist, block=True)
    assert view["s"] == [[5], [], []] and view.gather("s", dist=dist, block=True) == [5]


def test_two_threads_may_call_a_remote_function(rc: Client, link: FakeConnection) -> None:
    view = rc[:]
    double = view.remote(block=True)(lambda x: 2 * x)
    values: dict[int, list[int]] = {}
    blocks: list[bool] = []
    inside = threading.Event()
    wait = link.wait

    def call(x: int) -> None:
        values[x] = double(x)

    def overtaking(done: Callable[[], bool], timeout: float | None) -> bool:
        blocks.append(view.block)
        if threading.current_thread() is first:
            second.start()
            inside.wait()
        else:
            inside.set()
            first.join()
        return wait(done, timeout)

    link.wait = overtaking  # type: ignore[method-assign]
    first, second = (threading.Thread(target=call, args=(x,)) for x in (1, 2))
    first.start()
    first.join()
    second.join()
    assert values == {1: [2, 2, 2], 2: [4, 4, 4]}
    assert blocks == [False, False] and not view.block
    assert len(view.history) == 6
