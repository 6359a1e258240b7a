"""AsyncResult as a future, a container, and a record of what happened."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import gc
import io
import pickle
import threading
import time
import weakref
from datetime import UTC, datetime
from typing import Any

import pytest

from ipclusterz import AsyncMapResult, AsyncResult, error
from ipclusterz.client import group, parts
from ipclusterz.client.asyncresult import LOCK
from ipclusterz.client.client import Client
from tests.client.fake import FakeConnection


class Engines:
    """Runs what is sent in a thread, as the connection's own thread does."""

    def __init__(self, link: FakeConnection) -> None:
        self._end = threading.Event()
        self._link = link
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._end.is_set():
            if not self._link.step():
                time.sleep(0.001)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def test_types(rc: Client) -> None:
    single = rc.load_balanced_view().apply_async(len, [])
    for result in (single, rc[:].apply_async(len, []), rc[:].map(len, [[]])):
        assert isinstance(result, AsyncResult)
        assert isinstance(result, concurrent.futures.Future)
    assert isinstance(rc[:].map(len, [[]]), AsyncMapResult)
    with pytest.raises(TypeError, match="made by views"):
        AsyncResult()


def test_states(rc: Client) -> None:
    result = rc.load_balanced_view().apply_async(len, [1])
    assert not result.ready() and not result.done() and result.progress == 0
    with pytest.raises(RuntimeError, match="wait"):
        result.successful()
    with pytest.raises(error.TimeoutError, match="len: result not ready"):
        _ = result.serial_time
    assert result.wait() and result.ready() and result.successful()
    assert result.progress == 1 and result.exception() is None
    assert result.result() == result.get() == result.r == 1


def test_timeouts(rc: Client, link: FakeConnection) -> None:
    result = rc.load_balanced_view().apply_async(len, [1])
    link.queue, kept = type(link.queue)(), link.queue
    with pytest.raises(TimeoutError, match=r"after 0\.01 s"):
        result.get(timeout=0.01)
    with pytest.raises(error.TimeoutError):
        result.exception(0)
    assert not result.wait(0)
    link.queue = kept
    assert result.get(timeout=5) == 1


def test_the_same_value_each_time(rc: Client) -> None:
    result = rc.load_balanced_view().apply_async(list, "ab")
    assert result.get() is result.get()
    several = rc[:].apply_async(list, "ab")
    assert several.get() is several.get()


def test_standard_library_waits(rc: Client, link: FakeConnection) -> None:
    view = rc.load_balanced_view()
    with Engines(link):
        futures = [view.apply_async(abs, -i) for i in range(20)]
        done, pending = concurrent.futures.wait(futures, timeout=10)
        assert not pending and {f.result() for f in done} == set(range(20))
        futures = [view.apply_async(abs, -i) for i in range(20)]
        seen = {f.result() for f in concurrent.futures.as_completed(futures, timeout=10)}
        assert seen == set(range(20))
        futures = [view.apply_async(lambda: 1 / 0), *futures]
        done, _ = concurrent.futures.wait(futures, 10, concurrent.futures.FIRST_EXCEPTION)
        assert futures[0] in done


def test_callbacks_run_outside_the_io_lock_and_in_order(
    rc: Client, link: FakeConnection
) -> None:
    view = rc.load_balanced_view()
    seen: list[Any] = []
    finished = threading.Event()
    result = view.apply_async(len, "ab")
    result.add_done_callback(lambda r: seen.append((r.get(), threading.current_thread())))
    result.add_done_callback(lambda r: seen.append(view.apply_sync(len, "abc")))
    result.add_done_callback(lambda r: 1 / 0)  # logged, not raised
    result.add_done_callback(lambda r: finished.set())
    result.get()
    assert finished.wait(10)
    assert seen[0][0] == 2 and seen[0][1] is not threading.current_thread()
    assert seen[1] == 3
    result.add_done_callback(seen.append)
    assert seen[-1] is result


def test_await(rc: Client, link: FakeConnection) -> None:
    view = rc.load_balanced_view()

    async def work() -> Any:
        first = await view.apply_async(len, "ab")
        rest = await asyncio.gather(*[view.apply_async(abs, -i) for i in range(5)])
        wrapped = await asyncio.wrap_future(view.apply_async(len, "abc"))
        several = await rc[:].apply_async(len, "a")
        return first, rest, wrapped, several

    with Engines(link):
        assert asyncio.run(work()) == (2, [0, 1, 2, 3, 4], 3, [1, 1, 1])


def test_await_raises_and_can_be_cancelled(rc: Client, link: FakeConnection) -> None:
    view = rc.load_balanced_view()

    async def fail() -> None:
        await view.apply_async(lambda: 1 / 0)

    with Engines(link), pytest.raises(ZeroDivisionError):
        asyncio.run(fail())

    async def give_up() -> None:
        await asyncio.wait_for(view.apply_async(len, "ab"), 0.01)

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    assert not link.queue  # what had not begun was given up


def test_cancel_before_start(rc: Client, link: FakeConnection) -> None:
    result = rc.load_balanced_view().apply_async(len, [])
    assert result.cancel() and result.cancelled() and result.done()
    assert link.cancelled == [([result.task_keys()[0]], False)]
    with pytest.raises(error.TaskAborted, match="cancelled before it began"):
        result.get()
    assert repr(result) == "<AsyncResult(len): cancelled>"
    done = rc[:].apply_async(len, [])
    done.get()
    assert not done.cancel()
    direct = rc[:].apply_async(len, [])
    direct.abort()
    assert link.cancelled[-1][1] is True
    with pytest.raises(error.TaskAborted):
        direct.get()


def test_engine_death(rc: Client, link: FakeConnection) -> None:
    result = rc.load_balanced_view().apply_async(len, [])
    link.kill(result.task_keys()[0], "engine 1 was killed by signal 9 while it ran len")
    with pytest.raises(error.EngineError, match="signal 9"):
        result.get()
    assert result.status == "died" and result.engine_id == 1


def test_facts(rc: Client) -> None:
    before = datetime.now(UTC)
    result = rc.load_balanced_view(label="mine").apply_async(len, [])
    assert result.metadata["status"] is None and result.engine_id is None
    result.get()
    facts = result.metadata
    assert facts["status"] == facts.status == "ok" and facts["label"] == "mine"
    assert facts["msg_id"] == result.msg_ids[0]
    assert result.msg_ids[0].startswith("f" * 16 + "_")
    assert before <= facts["submitted"] <= facts["received"]
    assert (
        facts["completed"] - facts["started"]
        == result.timedelta(facts["started"], facts["completed"])
        * (facts["completed"] - facts["started"])
        / 0.5
    )
    assert result.serial_time == 0.5
    assert 0 <= result.wall_time == result.elapsed < 60
    assert result["engine_id"] == facts["engine_id"] == result.engine_id
    several = rc[:].apply_async(len, [])
    assert several.engine_id == [None] * 3
    several.get()
    assert several.engine_id == [0, 1, 2] and several.serial_time == 1.5
    assert [m["engine_id"] for m in several.metadata] == several["engine_id"] == [0, 1, 2]
    with pytest.raises(AttributeError, match="no 'colour'"):
        _ = facts.colour


def test_output_comes_with_the_result_or_later(rc: Client, link: FakeConnection) -> None:
    view = rc.load_balanced_view()
    early = view.apply_async(print, "one")
    early.get()
    assert early.stdout == "one\n" and early.stderr == ""
    link.late_output = True
    late = view.apply_async(print, "two")
    late.get()
    assert late.stdout == "two\n"
    assert rc[:].apply_async(print, "x").get() == [None] * 3
    several = rc[:].apply_async(print, "x")
    several.get()
    assert several.stdout == ["x\n"] * 3
    assert not rc.session.outputs.open and not rc.session.outputs._late


def test_forgotten_output_is_not_kept(rc: Client, link: FakeConnection) -> None:
    link.late_output = True
    view = rc.load_balanced_view()
    for _ in range(10):
        view.apply_async(print, "x").get()
    gc.collect()
    rc.wait(timeout=0)
    while link.step():
        pass
    assert not rc.session.outputs.open and not rc.session.outputs._late
    for key in range(1, 5000):  # text of tasks that ended long ago
        link.output(key, 0, 1, "x")
    assert len(rc.session.outputs.open) <= 1024


def test_containers(rc: Client, link: FakeConnection) -> None:
    single = rc.load_balanced_view().apply_async(list, "ab")
    assert len(single) == 1
    with pytest.raises(TypeError, match="not iterable"):
        list(single)
    single.get()
    several = rc[:].apply_async(len, [1])
    with pytest.raises(error.TimeoutError):
        several[0]
    link.step()
    assert several[0] == 1 and several.progress == 1
    with pytest.raises(error.TimeoutError):
        several[0:2]
    assert list(several) == [1, 1, 1] and several[0:2] == [1, 1] and several[-1] == 1
    with pytest.raises(IndexError):
        several[3]
    assert several.get_dict() == several.result_dict == {0: 1, 1: 1, 2: 1}
    assert rc[0].apply_async(len, [1]).get_dict() == {0: 1}
    with pytest.raises(ValueError, match="did 2 of the"):
        rc.load_balanced_view().map(abs, range(5)).get_dict()


def test_return_when(rc: Client, link: FakeConnection) -> None:
    view = rc.load_balanced_view()
    result = view.map(lambda x: 1 / x, [1, 0, 2])
    assert not result.wait(return_when="FIRST_COMPLETED") and result.progress == 1
    assert not result.wait(return_when="FIRST_EXCEPTION") and result.progress == 2
    with pytest.raises(ZeroDivisionError):
        result.get(return_when="FIRST_EXCEPTION")
    assert result.wait()
    with pytest.raises(ValueError, match="return_when='NEVER'"):
        view.apply_async(len, []).wait(return_when="NEVER")


def test_keyboard_interrupt_ends_the_wait_only(
    rc: Client, link: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = rc.load_balanced_view().apply_async(len, "ab")

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(link, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            result.get()
    assert result.get() == 2


def test_waiting_says_why_nothing_progresses(
    rc: Client,
    link: FakeConnection,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("ipclusterz.client.session.SILENCE", 0.01)
    result = rc.load_balanced_view().apply_async(len, [])
    link.queue.clear()
    link.ledger.waiting[4] = "there is no engine"
    with pytest.raises(error.TimeoutError, match="0 of 1 done; there is no engine"):
        result.get(timeout=0.1)
    assert capsys.readouterr().err == "ipclusterz: waiting: there is no engine\n"


class Unwritable(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_wait_goes_on_where_nothing_can_be_said(
    rc: Client, link: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipclusterz.client.session.SILENCE", 0.01)
    monkeypatch.setattr("ipclusterz.client.waiting.JOBS_SECONDS", 0.01)
    closed = io.StringIO()
    closed.close()
    link.jobs = {"1": ["pending", "it waits in the queue"]}
    for stream in (Unwritable(), closed):
        monkeypatch.setattr("sys.stderr", stream)
        result = rc.load_balanced_view().apply_async(len, [])
        link.queue.clear()
        link.ledger.waiting[4] = f"there is no engine for {stream}"
        with pytest.raises(error.TimeoutError, match="0 of 1 done"):
            result.get(timeout=0.1)
        with pytest.raises(error.TimeoutError, match="it waits in the queue"):
            rc.wait_for_engines(9, timeout=0.1)


def test_a_lost_connection_ends_waits(rc: Client, link: FakeConnection) -> None:
    result = rc.load_balanced_view().apply_async(len, [])
    link.queue.clear()
    link.lost = error.ControllerLost("the controller is gone")
    with pytest.raises(error.ControllerLost, match="gone"):
        result.get()


def test_results_are_not_kept_alive(rc: Client) -> None:
    result = rc.load_balanced_view().apply_async(len, [])
    result.get()
    watch = weakref.ref(result)
    del result
    gc.collect()
    assert watch() is None


class Study:
    """A user's object that holds what cannot leave its process."""

    def __init__(self, rc: Client) -> None:
        self.view = rc.load_balanced_view()
        self.result = self.view.map_async(abs, [-1, -2])

    def double(self, x: int) -> int:
        return 2 * x


def test_copies_of_results_are_the_results(rc: Client) -> None:
    study = Study(rc)
    again = copy.deepcopy(study)
    assert again is not study and again.view is study.view
    for result in (again.result, copy.copy(study.result), copy.deepcopy([study.result])[0]):
        assert result is study.result
    assert study.result.get() == [1, 2]
    other = copy.copy(study.view).set_flags(retries=3)
    assert (other.retries, study.view.retries) == (3, 0)
    assert copy.copy(rc)[0].apply_sync(abs, -1) == 1 and copy.deepcopy(rc) is rc


def test_what_stays_in_its_process_says_what_to_send(rc: Client) -> None:
    study = Study(rc)
    study.result.get()
    for thing, text in (
        (rc, r"makes its own, ipclusterz\.Client\(\)"),
        (rc[:], r"makes a Client\(\)"),
        (study.result, r"send its value, ar\.get\(\), or its msg_ids"),
    ):
        with pytest.raises(TypeError, match=text):
            pickle.dumps(thing)
        with pytest.raises(error.SerializationError, match=rf"argument 0 \(.*{text}"):
            rc[0].apply_async(str, thing)
    with pytest.raises(error.SerializationError, match=r"Study\.double.*makes a Client"):
        rc[0].apply_async(study.double, 1)
    with pytest.raises(error.SerializationError, match=r"'rc' \(.*makes its own"):
        rc[0].apply_async(lambda: rc.ids)


def test_two_threads_may_ask_at_once(rc: Client, link: FakeConnection) -> None:
    result = rc[:].apply_async(list, "ab")
    with Engines(link), concurrent.futures.ThreadPoolExecutor(4) as pool:
        values = list(pool.map(lambda _: result.get(), range(8)))
    assert values == [[["a", "b"]] * 3] * 8


class Rival:
    """Runs something in a second thread, at the point where the first one calls ``meet``.

    The first goes on when the second comes there too, or is about to wait for the lock.
    """

    def __init__(self, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self._came = threading.Event()
        self._second = threading.Thread(target=run)
        monkeypatch.setattr(group, "LOCK", self)

    def meet(self) -> None:
        if threading.current_thread() is self._second:
            self._came.set()
        elif self._second.ident is None:
            self._second.start()
            self._came.wait()

    def join(self) -> None:
        self._second.join()

    def __enter__(self) -> None:
        if threading.current_thread() is self._second:
            self._came.set()
        LOCK.acquire()

    def __exit__(self, *_: object) -> None:
        LOCK.release()


def test_two_threads_may_split_at_once(
    rc: Client, link: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = rc.load_balanced_view().map(abs, range(4))
    link.step()
    found: list[Any] = []
    rival = Rival(lambda: found.append(result.split()), monkeypatch)
    make = parts.PartResult.__init__

    def meeting(part: Any, of: Any, index: int) -> None:
        rival.meet()
        make(part, of, index)

    monkeypatch.setattr(parts.PartResult, "__init__", meeting)
    found.append(result.split())
    rival.join()
    first, second = found
    assert first is second and first[0].done() and not first[1].done()
    result.get()
    assert [part.get(timeout=0) for part in first] == [0, 1, 2, 3]


def test_two_threads_may_observe_at_once(
    rc: Client, link: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = rc.load_balanced_view().map(abs, range(4))
    told: list[str] = []
    rival = Rival(lambda: result.observe(second), monkeypatch)

    class Meeting:
        def __call__(self, key: int) -> None:
            told.append("present")

        def __ne__(self, other: object) -> bool:
            rival.meet()
            return True

    def first(key: int) -> None:
        told.append("first")

    def second(key: int) -> None:
        told.append("second")

    result.observe(Meeting())
    result.observe(first)
    rival.join()
    link.step()
    assert sorted(told) == ["first", "present", "second"]


def test_wait_interactive_without_a_terminal(
    rc: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    result = rc.load_balanced_view().map(abs, range(7), chunksize=2)
    assert result.wait_interactive(interval=0.01)
    assert capsys.readouterr().err == ""
    bar = rc.load_balanced_view().map(abs, range(7))
    assert bar.wait_interactive(interval=0.01, widget=True)
