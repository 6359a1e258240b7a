"""The task database in a cluster: what it remembers, for whom, and that it holds nothing up."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ipclusterz as ipp
from ipclusterz.cluster.settings import ControllerSettings
from ipclusterz.error import KernelError
from tests.faults.watch import until


@pytest.fixture(scope="module")
def rc(shared_ipython_dir: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=2) as client:
        yield client


def test_tasks_are_remembered_with_how_they_ended(rc: ipp.Client) -> None:
    view = rc.load_balanced_view()
    good = view.apply_async(pow, 2, 5)
    bad = view.apply_async(divmod, 1, 0)
    named = rc[1].apply_async(os.getpid)
    assert good.get() == 32
    with pytest.raises(ZeroDivisionError):
        bad.get()
    named.get()
    ids = [good.msg_ids[0], bad.msg_ids[0], named.msg_ids[0]]

    def known() -> list[dict[str, Any]]:
        return rc.db_query({"msg_id": {"$in": ids}, "completed": {"$ne": None}})

    for _ in range(200):
        if len(known()) == 3:
            break
        rc.session.connection.wait(lambda: False, 0.05)
    by_id = {record["msg_id"]: record for record in known()}
    assert set(by_id) == set(ids)
    assert by_id[ids[0]]["status"] == "ok"
    assert by_id[ids[0]]["queue"] == "task"
    assert by_id[ids[1]]["status"] == "error"
    assert by_id[ids[1]]["ename"] == "ZeroDivisionError"
    assert by_id[ids[2]]["engine_id"] == 1
    assert by_id[ids[2]]["queue"] == "direct"
    assert by_id[ids[0]]["submitted"] <= by_id[ids[0]]["received"]
    history = rc.hub_history()
    assert sorted(i for i in history if i in ids) == sorted(ids)


def test_another_client_can_ask_and_is_told_what_it_asked_wrongly(rc: ipp.Client) -> None:
    with ipp.Client(rc.cluster.client_file) as other:
        assert other.hub_history() == rc.hub_history()
        with pytest.raises(KernelError, match="did you mean 'engine_id'"):
            other.db_query({"engin_id": 0})
        with pytest.raises(KernelError, match="did you mean"):
            other.db_query({"engine_id": {"$get": 0}})


def test_history_outlives_the_controller() -> None:
    with ipp.Cluster(n=1) as first:
        ids = first.load_balanced_view().apply_async(abs, -1)
        ids.get()
        wanted = ids.msg_ids[0]
    with ipp.Cluster(n=1) as second:
        assert wanted in second.hub_history()


def test_what_ran_when_its_controller_ended_is_not_under_way_for_ever() -> None:
    with ipp.Cluster(n=1) as first:
        runs = first[0].apply_async(time.sleep, 600)
        waits = first[0].apply_async(abs, -1)
        wanted = {"msg_id": {"$in": [*runs.msg_ids, *waits.msg_ids]}}

        def states(rc: ipp.Client) -> list[str | None]:
            return [record["status"] for record in rc.db_query(wanted)]

        until(lambda: states(first) == [None, None], "both on record")
    for result in (runs, waits):
        with pytest.raises(ipp.error.ControllerLost):
            result.get(timeout=0)
    with ipp.Cluster(n=1) as second:
        assert states(second) == ["lost", "lost"]
        again = second.get_result(runs.msg_ids[0])
        with pytest.raises(ipp.error.ControllerLost, match="before it was known how this task"):
            again.get(timeout=20)
        assert second.purge_results("all") is None
        assert second.db_query(wanted) == []


@pytest.mark.parametrize(("db", "kept"), [("memory", True), ("none", False)])
def test_no_file_is_written_where_none_is_wanted(db: str, kept: bool) -> None:
    cluster = ipp.Cluster(n=1, controller=ControllerSettings(db=db))
    with cluster as rc:
        rc.load_balanced_view().apply_sync(abs, -1)
        if kept:
            assert isinstance(rc.hub_history(), list)
        else:
            with pytest.raises(KernelError, match="--nodb"):
                rc.hub_history()
    assert not list(Path(os.environ["IPYTHONDIR"]).rglob("tasks*.db*"))
