"""Tasks that wait for tasks, and functions that choose their engine: with real engines."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import networkx
import pytest

import ipclusterz as ipp
from tests.running import kill


@pytest.fixture(scope="module")
def rc(shared_ipython_dir: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=4) as client:
        yield client


@pytest.fixture
def view(rc: ipp.Client) -> ipp.LoadBalancedView:
    return rc.load_balanced_view()


def until(path: str) -> str:
    import os
    import time

    deadline = time.monotonic() + 60
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.005)
    return path


def test_a_graph_of_a_thousand_tasks_runs_in_order(view: ipp.LoadBalancedView) -> None:
    rng = random.Random(7)
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(1000))
    for node in range(1, 1000):
        for parent in rng.sample(range(node), min(node, rng.randint(0, 3))):
            graph.add_edge(parent, node)
    results: dict[int, ipp.AsyncResult] = {}
    for node in networkx.topological_sort(graph):
        with view.temp_flags(after=[results[p] for p in graph.predecessors(node)]):
            results[node] = view.apply_async(lambda x: x * x, node)
    for node, result in results.items():
        assert result.get(60) == node * node
    for node, result in results.items():
        for parent in graph.predecessors(node):
            assert results[parent].completed <= result.started


def test_follow_runs_where_the_others_ran(rc: ipp.Client, view: ipp.LoadBalancedView) -> None:
    first = [view.apply_async(os.getpid) for _ in range(8)]
    for result in first:
        with view.temp_flags(follow=result):
            follower = view.apply_async(os.getpid)
        assert follower.get(30) == result.get(30)
        assert follower.engine_id == result.engine_id
    by_name = first[3].msg_ids[0]
    with view.temp_flags(follow=by_name, after=first):
        assert view.apply_sync(os.getpid) == first[3].get()
    apart = [rc.load_balanced_view(targets=[i]).apply_async(os.getpid) for i in (0, 1)]
    with view.temp_flags(follow=apart), pytest.raises(ipp.ImpossibleDependency, match="0, 1"):
        view.apply_sync(os.getpid)
    with view.temp_flags(follow=ipp.Dependency(apart, all=False)):
        assert view.apply_sync(os.getpid) in [a.get() for a in apart]


def test_work_of_direct_views_counts_once_it_has_ended(
    rc: ipp.Client, view: ipp.LoadBalancedView, tmp_path: Path
) -> None:
    pushed = rc[1].push({"data": 3})
    late = rc[0].apply_async(until, str(tmp_path / "go"))
    for flags in ({"after": late}, {"follow": ipp.Dependency([late, pushed], all=False)}):
        with (
            view.temp_flags(**flags),
            pytest.raises(ipp.InvalidDependency, match=r"until was sent .*; wait\(\) for it"),
        ):
            view.apply_async(abs, -1)
    pushed.get()
    with view.temp_flags(follow=pushed):
        assert view.apply_sync(abs, ipp.Reference("data")) == 3
    (tmp_path / "go").touch()
    late.get(30)
    with view.temp_flags(after=late):
        assert view.apply_sync(abs, -3) == 3


def test_success_failure_all_and_any(view: ipp.LoadBalancedView, tmp_path: Path) -> None:
    good = view.apply_async(abs, -1)
    bad = view.apply_async(lambda: 1 / 0)
    late = view.apply_async(until, str(tmp_path / "go"))
    with view.temp_flags(after=[good, bad]), pytest.raises(ipp.ImpossibleDependency):
        view.apply_sync(abs, -2)
    with view.temp_flags(after=ipp.Dependency([good, bad], failure=True)):
        assert view.apply_sync(abs, -3) == 3
    with view.temp_flags(after=ipp.Dependency(bad, success=False, failure=True)):
        assert view.apply_sync(abs, -4) == 4
    with view.temp_flags(after=ipp.Dependency([good, late], all=False)):
        assert view.apply_sync(abs, -5) == 5
    with view.temp_flags(after=late):
        waits = view.apply_async(abs, -6)
    assert not waits.wait(0.2)
    (tmp_path / "go").touch()
    assert waits.get(30) == 6 and late.completed <= waits.started
    with pytest.raises(ValueError, match="both False"):
        ipp.Dependency(good, success=False, failure=False)


def test_a_time_limit(view: ipp.LoadBalancedView, tmp_path: Path) -> None:
    late = view.apply_async(until, str(tmp_path / "go"))
    with view.temp_flags(after=late, timeout=0.2):
        waits = view.apply_async(abs, -1)
    with pytest.raises(ipp.DependencyTimeout, match=r"0\.2 s") as caught:
        waits.get(30)
    assert isinstance(caught.value, ipp.TaskTimeout)
    (tmp_path / "go").touch()
    assert late.get(30).endswith("go")


def test_a_time_limit_counts_where_an_agent_has_the_task_already(
    rc: ipp.Client, view: ipp.LoadBalancedView, tmp_path: Path
) -> None:
    def busy(folder: str) -> str:
        with open(f"{folder}/{os.getpid()}", "w"):
            pass
        return until(f"{folder}/go")

    view.map_sync(abs, range(500))  # engines this quick are given tasks ahead of time
    late = rc[:].apply_async(busy, str(tmp_path))
    while len(list(tmp_path.iterdir())) < len(rc):
        assert not late.wait(0.01)
    with view.temp_flags(timeout=0.3, retries=2):
        waiting = [view.apply_async(abs, -n) for n in range(10)]
    for result in waiting:
        with pytest.raises(ipp.TaskTimeout, match=r"no engine was free for it within 0\.3 s"):
            result.get(30)
    (tmp_path / "go").touch()
    assert len(late.get(30)) == len(rc)


def test_maps_wait_as_well(view: ipp.LoadBalancedView) -> None:
    first = view.map_async(lambda x: x + 1, range(20))
    with view.temp_flags(after=first):
        second = view.map_async(lambda x: x * 2, range(20), chunksize=3)
    assert second.get(30) == [2 * x for x in range(20)]
    assert max(first.completed) <= min(second.started)


def test_other_clients_tasks_cannot_be_waited_for(rc: ipp.Client) -> None:
    with ipp.Client(rc.connection_file) as other:
        foreign = other.load_balanced_view().apply_async(abs, -1)
        foreign.get(30)
        with pytest.raises(ValueError, match="same client"):
            rc.load_balanced_view(after=foreign)
    with pytest.raises(TypeError, match="AsyncResults or msg_ids"):
        rc.load_balanced_view(after=7)


# -- functions that choose -----------------------------------------------------------------


def test_depend(rc: ipp.Client, view: ipp.LoadBalancedView) -> None:
    rc[:].scatter("here", rc.ids, flatten=True, block=True)

    @ipp.interactive
    def it_is(wanted: int) -> bool:
        return here == wanted  # noqa: F821

    @ipp.depend(it_is, 2)
    @ipp.interactive
    def where() -> int:
        return here  # noqa: F821

    results = [view.apply_async(where) for _ in range(10)]
    assert [r.get(30) for r in results] == [2] * 10
    assert {r.engine_id for r in results} == {2}
    assert rc[2].apply_sync(where) == 2
    with pytest.raises(ipp.UnmetDependency, match="where cannot run here"):
        rc[1].apply_sync(where)

    @ipp.depend(lambda: False)
    def nowhere() -> None:
        raise AssertionError("never called")

    with pytest.raises(ipp.ImpossibleDependency, match="nowhere cannot run here"):
        view.apply_async(nowhere).get(30)
    with view.temp_flags(targets=[0, 1]), pytest.raises(ipp.ImpossibleDependency):
        view.apply_async(where).get(30)


def test_require(view: ipp.LoadBalancedView) -> None:
    def helper(x: int) -> int:
        return x + 100

    @ipp.require("json", "xml.dom", helper, half=lambda x: x / 2)
    @ipp.interactive
    def uses(text: str) -> object:
        found = json.loads(text)  # noqa: F821
        name = xml.dom.__name__  # noqa: F821
        return found, helper(1), half(3), name  # noqa: F821

    assert view.apply_async(uses, "[1, 2]").get(30) == ([1, 2], 101, 1.5, "xml.dom")

    @ipp.require("no_such_module_anywhere")
    def lacks() -> None:
        raise AssertionError("never called")

    with pytest.raises(ipp.ImpossibleDependency, match="no_such_module_anywhere"):
        view.apply_async(lacks).get(30)
    with pytest.raises(TypeError, match="give it a name"):
        ipp.require(3)


def test_retries_go_to_other_engines_and_are_counted(
    rc: ipp.Client, view: ipp.LoadBalancedView, tmp_path: Path
) -> None:
    def fails_at_first(folder: str, times: int) -> int:
        import os

        done = len(os.listdir(folder))
        open(os.path.join(folder, str(os.getpid())), "w").close()
        if done < times:
            raise OSError(f"attempt {done + 1}")
        return done

    with view.temp_flags(retries=3):
        result = view.apply_async(fails_at_first, str(tmp_path), 2)
    assert result.get(30) == 2
    assert len(os.listdir(tmp_path)) == 3  # each on an engine of its own
    assert result.metadata.attempt == 3
    with view.temp_flags(retries=1):
        spent = view.apply_async(fails_at_first, str(tmp_path), 100)
    with pytest.raises(OSError, match="attempt"):
        spent.get(30)
    assert spent.metadata.attempt == 2


def test_dependencies_outlive_the_scheduler(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    with ipp.Cluster(n=2, notice=events.append) as rc:
        view = rc.load_balanced_view()
        done = view.apply_async(abs, -1)
        done.get(30)
        late = view.apply_async(until, str(tmp_path / "go"))
        with view.temp_flags(after=[done, late]):
            waits = [view.apply_async(abs, -n) for n in range(5)]
        assert view.apply_sync(abs, -7) == 7
        [ready] = [event for event in events if event["event"] == "ready"]
        kill(ready["parts"]["task"])
        (tmp_path / "go").touch()
        assert [w.get(60) for w in waits] == list(range(5))
        assert all(late.completed <= w.started for w in waits)
