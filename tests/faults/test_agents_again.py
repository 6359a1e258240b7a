"""Agents that die and are started again by their launcher: ``--restart-engines``."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ipclusterz as ipp
from ipclusterz.core.config import AgentConfig
from tests.faults.history import History, judge, read
from tests.faults.test_replacing import Heard, status_of, there
from tests.faults.watch import agent_of, alive, gone, pids, until
from tests.running import Running, run

Start = Callable[[str], Running]


def test_another_agent_with_as_many_engines_as_often_as_allowed() -> None:
    heard = Heard()
    with ipp.Cluster(n=2, restart_engines=1, notice=heard.append) as rc:
        old, engines = agent_of(rc), pids(rc)
        os.kill(old, signal.SIGKILL)
        there(rc, 2, 3)
        until(gone(*engines.values()), "the end of its engines")
        assert rc[:].apply_sync(abs, -1) == [1, 1]
        new = agent_of(rc)
        assert new != old
        [text] = heard.texts("agent_lost")
        assert re.fullmatch(
            rf"the engines' process \(e1\) \(process {old}\) was killed by SIGKILL;"
            r" engines 0, 1 ended with it; another one is started, 0 of 1 restart left",
            text,
        )
        [text] = until(lambda: heard.texts("replaced"), "the word of it")
        assert text.startswith("engines 2, 3 replace engines 0, 1: the engines' process (e1)")
        assert text.endswith("was killed by SIGKILL; 0 of 1 restart left")
        seen = json.loads(run(status_of(rc)).stdout)
        [origin] = {engine["origin"] for engine in seen["engines"]}
        assert origin.startswith("its agent replaces one that was lost: the engines' process")
        assert rc.cluster is not None
        [made] = rc.cluster.engine_sets.values()
        assert sorted(made.ready) == [2, 3] and not made.problem
        state = json.loads(Path(rc.cluster.cluster_file).read_text())
        assert state["engine_sets"]["e1"]["pid"] == new == made.job.pid
        # The second one is the last.
        os.kill(new, signal.SIGKILL)
        [end] = until(lambda: heard.of("ended"), "the end of the set")
        assert end["text"].endswith(
            "it is not replaced: its 1 restart (--restart-engines) is used up"
        )
        there(rc)
    assert len(heard.of("agent_lost")) == 1


def test_none_is_the_default() -> None:
    heard = Heard()
    with ipp.Cluster(n=1, notice=heard.append) as rc:
        os.kill(agent_of(rc), signal.SIGKILL)
        [end] = until(lambda: heard.of("ended"), "the end of the set")
        assert "SIGKILL" in end["text"] and "replaced" not in end["text"]
        there(rc)
    assert heard.of("agent_lost") == []


def test_work_goes_on_with_the_new_engines(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    cluster = ipp.Cluster(n=2, restart_engines=2)
    with cluster as rc:
        cluster.start_engines_sync(1)
        rc.wait_for_engines(3, timeout=20)
        view = rc.load_balanced_view()
        for victim, *ids in ((0, 2, 3, 4), (3, 2, 5, 6)):
            for _ in range(60):
                history.submit(view, 0.02, retries=3)
            history.fault("agent", victim)
            os.kill(rc[victim].apply_sync(os.getppid), signal.SIGKILL)
            there(rc, *ids)
            values = history.receive_all().values()
            assert len(values) == 60 and all(type(value) is int for value in values)
    history.close()
    assert judge(read(history.path)) == []


def test_start_up_code_and_engines_own_restarts_are_there_again() -> None:
    heard = Heard()
    agent = AgentConfig(command="ready = 7", env={"MARK": "here"})
    with ipp.Cluster(n=1, agent=agent, restart_engines=1, notice=heard.append) as rc:
        os.kill(agent_of(rc), signal.SIGKILL)
        there(rc, 1)
        assert rc[1]["ready"] == 7 and rc[1].apply_sync(os.getenv, "MARK") == "here"
        os.kill(pids(rc)[1], signal.SIGKILL)
        there(rc, 2)
        assert rc[2]["ready"] == 7
        texts = until(lambda: (t := heard.texts("replaced")) and t[1:] and t, "both words")
        assert texts[1].startswith("engine 2 replaces engine 1, which was lost: killed by")


def test_one_that_ends_in_order_is_not_started_again() -> None:
    heard = Heard()
    cluster = ipp.Cluster(n=2, restart_engines=5, notice=heard.append)
    with cluster as rc:
        os.kill(agent_of(rc), signal.SIGTERM)
        [end] = until(lambda: heard.of("ended"), "its end")
        assert end["code"] == 0
        there(rc)
        name = cluster.start_engines_sync(1)
        rc.wait_for_engines(1, timeout=20)
        rc.shutdown(targets="all", block=True)
        until(lambda: heard.of("ended")[1:], "the end of the second set")
        cluster.stop_engines_sync(name)
    assert heard.of("agent_lost") == []


def test_one_that_cannot_start_is_tried_more_slowly_and_not_for_ever(tmp_path: Path) -> None:
    heard = Heard()
    flag = tmp_path / "now"
    code = f"import os\nif os.path.exists({str(flag)!r}): raise OSError('no licence')"
    agent = AgentConfig(command=code)
    with ipp.Cluster(n=1, agent=agent, restart_engines=3, notice=heard.append) as rc:
        flag.touch()
        os.kill(agent_of(rc), signal.SIGKILL)
        [end] = until(lambda: heard.of("ended"), "the end of all attempts", 40)
        lost = heard.of("agent_lost")
        assert [event["pause"] for event in lost] == [0.0, 1.0, 2.0]
        assert all("no licence" in event["text"] for event in lost[1:])
        assert "no licence" in end["text"]
        assert "its 3 restarts (--restart-engines) are used up" in end["text"]
    assert heard.of("replaced") == []


def test_one_that_cannot_start_once_comes_later(tmp_path: Path) -> None:
    heard = Heard()
    flag = tmp_path / "now"
    code = (
        f"import os\ntry: os.rmdir({str(flag)!r})\nexcept OSError: pass\n"
        "else: raise OSError('not yet')"
    )
    with ipp.Cluster(
        n=1, agent=AgentConfig(command=code), restart_engines=2, notice=heard.append
    ) as rc:
        flag.mkdir()
        os.kill(agent_of(rc), signal.SIGKILL)
        assert rc.session.wait(lambda: len(rc.ids) == 1 and rc.ids != [0], 30), rc.ids
        assert rc[:].apply_sync(abs, -1) == [1]
        [text] = until(lambda: heard.texts("replaced"), "the word of it")
        assert "replaces engine 0: " in text and text.endswith("0 of 2 restarts left")


def test_stopped_in_a_pause_nothing_is_left(tmp_path: Path) -> None:
    heard = Heard()
    flag = tmp_path / "now"
    agent = AgentConfig(command=f"import os\nif os.path.exists({str(flag)!r}): os._exit(3)")
    with ipp.Cluster(n=1, agent=agent, restart_engines=8, notice=heard.append) as rc:
        flag.touch()
        os.kill(agent_of(rc), signal.SIGKILL)
        # Its engine's own restarts are used up first.
        until(lambda: heard.of("agent_lost"), "the loss")
    again = [event["pid"] for event in heard.of("agent_again")]
    assert again and not any(alive(pid) for pid in again)


def test_without_a_controller_the_new_one_waits_and_is_stopped() -> None:
    heard = Heard()
    cluster = ipp.Cluster(n=1, restart_engines=1, notice=heard.append)
    try:
        with cluster.start_and_connect_sync() as rc:
            agent = agent_of(rc)
        os.kill(heard.of("ready")[0]["pid"], signal.SIGKILL)
        until(lambda: any(e["role"] == "controller" for e in heard.of("ended")), "its end")
        os.kill(agent, signal.SIGKILL)
        [again] = until(lambda: heard.of("agent_again"), "the new agent")
        assert alive(again["pid"])
    finally:
        cluster.stop_cluster_sync()
    assert not alive(again["pid"])


# -- by command ----------------------------------------------------------------------------


def agents_of(state: dict[str, Any]) -> list[int]:
    return [process["pid"] for process in state["engine_sets"].values()]


def state_of(ipython_dir: Path) -> Any:
    return json.loads((ipython_dir / "cluster_default/pid/cluster-.json").read_text())


def test_start_in_the_foreground_says_it(start: Start, ipython_dir: Path) -> None:
    started = start("ipclusterz start -n 2 --restart-engines=1")
    started.until("ready in")
    [agent] = agents_of(state_of(ipython_dir))
    os.kill(agent, signal.SIGKILL)
    started.until("was killed by SIGKILL; engines 0, 1 ended with it; another one is started")
    started.until("engines 2, 3 replace engines 0, 1: .*; 0 of 1 restart left")
    [new] = agents_of(state_of(ipython_dir))
    assert new != agent and alive(new)
    os.kill(new, signal.SIGKILL)
    started.until("it is not replaced: its 1 restart .* is used up")
    assert started.end() == 0


def test_start_in_the_background_and_engines_that_are_added(ipython_dir: Path) -> None:
    try:
        assert run("ipclusterz start -n 1 --daemon --restart-engines=1").returncode == 0
        added = run("ipclusterz engines -n 1 --daemon --restart-engines=1")
        assert added.returncode == 0, added.stderr
        with ipp.Client(timeout=20) as rc:
            rc.wait_for_engines(2, timeout=20)
            state = state_of(ipython_dir)
            for agent in agents_of(state):
                os.kill(agent, signal.SIGKILL)
            there(rc, 2, 3)
            assert rc[:].apply_sync(abs, -1) == [1, 1]
            until(lambda: not set(agents_of(state_of(ipython_dir))) & set(agents_of(state)), "")
            new = agents_of(state_of(ipython_dir))
        log = (ipython_dir / "cluster_default/log/ipclusterz.log").read_text()
        assert "replaces engine" in log
    finally:
        assert run("ipclusterz stop").returncode == 0
    assert not any(alive(pid) for pid in new)


@pytest.mark.parametrize("revoked", [False, True], ids=["", "revoked"])
def test_the_new_one_is_given_the_keys_of_now(ipython_dir: Path, revoked: bool) -> None:
    try:
        assert run("ipclusterz start -n 1 --daemon --restart-engines=1").returncode == 0
        if revoked:
            assert run("ipclusterz revoke --role=engine").returncode == 0
        with ipp.Client(timeout=20) as rc:
            [agent] = agents_of(state_of(ipython_dir))
            os.kill(agent, signal.SIGKILL)
            assert rc.session.wait(lambda: rc.ids == [1], 20), rc.ids
            assert rc[1].apply_sync(abs, -1) == 1
    finally:
        assert run("ipclusterz stop").returncode == 0
