"""Bad input to a real cluster: a typed error that names the thing, and nothing else is lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ipclusterz as ipp
from ipclusterz.cluster import AlreadyRunning
from tests.faults.watch import until


@pytest.fixture(scope="module")
def rc() -> Iterator[ipp.Client]:
    with ipp.Cluster(n=3) as client:
        client[:].push({"kept": 7}, block=True)
        yield client


def lock() -> Any:
    return threading.Lock()


CASES: dict[str, tuple[Callable[[ipp.Client], Any], type[BaseException], str]] = {
    "engine id": (lambda rc: rc[7], IndexError, r"no such engine: 7 \(there are: 0-2\)"),
    "ids": (lambda rc: rc.direct_view([0, 9]), IndexError, "no such engine: 9"),
    "no targets": (
        lambda rc: rc[[]].apply_sync(abs, 1),
        ipp.NoEnginesRegistered,
        r"these targets name no engine: \[\]",
    ),
    "balanced over none": (
        lambda rc: rc.load_balanced_view([]).apply_sync(abs, 1),
        ipp.NoEnginesRegistered,
        "none of the engines this task may run on is there",
    ),
    "argument": (
        lambda rc: rc[0].apply_sync(abs, lock()),
        ipp.SerializationError,
        r"argument 0 \(_thread.lock\) cannot be pickled",
    ),
    "mapped item": (
        lambda rc: rc.load_balanced_view().map_sync(repr, [1, lock()]),
        ipp.SerializationError,
        r"_thread.lock",
    ),
    "result": (
        lambda rc: rc[0].apply_sync(lambda: __import__("threading").Lock()),
        ipp.SerializationError,
        r"the result \(_thread.lock\) cannot be pickled",
    ),
    "scatter a number": (lambda rc: rc[:].scatter("x", 5), TypeError, "sequence .*not int"),
    "distribution": (lambda rc: rc[:].scatter("x", [1], dist="zz"), ValueError, "'zz'"),
    "gather nothing": (
        lambda rc: rc[:].gather("nothing", block=True),
        NameError,
        "'nothing' is not defined",
    ),
    "name of a variable": (lambda rc: rc[:][3], TypeError, "must be a str, not int: 3"),
    "time": (lambda rc: rc.wait(timeout="a"), TypeError, "timeout is 'a': seconds"),
    "number": (lambda rc: rc.wait_for_engines("a"), TypeError, "'a': it must be a number"),
    "more engines": (
        lambda rc: rc.cluster.start_engines_sync("a"),
        TypeError,
        "n is 'a': it must be a number of engines",
    ),
    "started twice": (
        lambda rc: rc.cluster.start_cluster_sync(),
        AlreadyRunning,
        "is started already; start_engines_sync",
    ),
    "connected twice": (
        lambda rc: rc.cluster.start_and_connect_sync(),
        AlreadyRunning,
        "connect_client_sync",
    ),
    "task to wait for": (lambda rc: rc.wait("zz"), ValueError, "'zz' is no message id"),
    "task to give up": (lambda rc: rc.abort(["zz"]), ValueError, "'zz' is no message id"),
    "task": (lambda rc: rc.get_result("never"), TypeError, "'never' is no msg_id"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_typed_error_names_the_thing(rc: ipp.Client, name: str) -> None:
    act, kind, text = CASES[name]
    with pytest.raises(kind, match=text):
        act(rc)
    assert rc[:].pull("kept", block=True) == [7, 7, 7]
    assert rc.load_balanced_view().map_sync(abs, [-1, -2]) == [1, 2]


def test_a_purged_task_is_said_to_be_unknown(rc: ipp.Client) -> None:
    kept, purged = (rc.load_balanced_view().apply_async(abs, -n) for n in (1, 2))
    assert (kept.get(), purged.get()) == (1, 2)
    rc.purge_results(purged)
    with pytest.raises(ipp.TaskNotFound, match=f"'{purged.msg_ids[0]}': it was purged"):
        rc.get_result(purged.msg_ids[0]).get()
    assert rc.get_result(kept.msg_ids[0]).get() == 1


def test_an_engine_that_dies_in_a_map_takes_one_item_with_it() -> None:
    with ipp.Cluster(n=3) as rc:
        view = rc.load_balanced_view()
        results = view.map_async(
            lambda x: os._exit(3) if x == 5 else -x, range(30), chunksize=1
        )
        found = [r for r in results.get(return_exceptions=True) if isinstance(r, int)]
        assert sorted(found) == sorted(-x for x in range(30) if x != 5)
        with pytest.raises(ipp.EngineError, match=r"engine \d died .* exited with code 3"):
            results.get()
        until(lambda: len(rc) == 2, "the news of its end")  # results may be quicker
        assert view.map_sync(abs, [-3]) == [3]
