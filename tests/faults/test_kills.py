"""Engines, agents, schedulers and hubs killed under load; each history is judged."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ipclusterz as ipp
from tests.faults.history import History, judge, read
from tests.faults.seeds import chance
from tests.faults.watch import agent_of, alive, gone, pids, until, zygote_of
from tests.running import children, kill


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    made = History(tmp_path / "history")
    yield made
    made.close()


def verdict(history: History, *costly: str) -> list[str]:
    return judge(read(history.path), costly)


# -- engines -------------------------------------------------------------------------------


def kill_engines(history: History, kills: int, n: int = 4) -> list[float]:
    """Kill engines at random moments of running tasks; how late each death was known.

    Half of the tasks may be tried again.  The engine is known to run a task of ours when it
    is killed, or it is not: that is chance.
    """
    random = chance("kill_engines")
    late: list[float] = []
    cluster = ipp.Cluster(n=n)
    with cluster as rc:
        view = rc.load_balanced_view()
        for _ in range(kills):
            for index in range(12):
                history.submit(view, random.random() * 0.05, retries=index % 2 * 3)
            time.sleep(random.random() * 0.1)
            victims = pids(rc) if random.random() < 0.2 else known(rc)
            number = random.choice(sorted(victims))
            history.fault("engine", victims[number])
            killed = time.monotonic()
            os.kill(victims[number], signal.SIGKILL)
            assert rc.session.wait(lambda: number not in rc.ids, 20)  # noqa: B023
            late.append(time.monotonic() - killed)
            others = [pid for other, pid in victims.items() if other != number]
            assert all(alive(pid) for pid in others), "another engine went as well"
            history.receive_all()
            if len(rc.ids) == 1:
                cluster.start_engines_sync(n - 1)
                rc.wait_for_engines(n, timeout=30)
    return sorted(late)


def known(rc: ipp.Client) -> dict[int, int]:
    """Process ids as the hub knows them, without asking engines."""
    engines = rc.session.connection.query("status")["engines"]
    return {int(number): told["pid"] for number, told in engines.items()}


def outcomes(history: History) -> list[dict[str, Any]]:
    return [line for line in read(history.path) if line["what"] == "got"]


def check_kills(history: History, late: list[float]) -> None:
    assert verdict(history, "engine") == []
    errors = [line for line in outcomes(history) if "error" in line]
    assert all("SIGKILL" in line["text"] for line in errors), "a death certificate for each"
    retried = {x["key"] for x in read(history.path) if x["what"] == "submit" and x["retries"]}
    assert not retried.intersection(line["key"] for line in errors), "retries did not help"
    assert late[len(late) // 2] < 1.0, "a second is promised, and half are much quicker"


@pytest.mark.timeout(120)
def test_engines_killed_at_random_moments(history: History) -> None:
    check_kills(history, kill_engines(history, 20))


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_engines_killed_at_random_moments_200_times(history: History) -> None:
    late = kill_engines(history, 200)
    print(f"known after: median {late[100]:.3f} s, 99 % {late[198]:.3f} s")
    check_kills(history, late)


def test_a_task_that_kills_three_engines_is_not_tried_a_fourth_time(tmp_path: Path) -> None:
    def kill_self(path: str) -> None:
        with open(path, "a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)

    with ipp.Cluster(n=5) as rc:
        view = rc.load_balanced_view(retries=10)
        with pytest.raises(ipp.EngineError, match="SIGKILL"):
            view.apply_async(kill_self, str(tmp_path / "runs")).get(timeout=30)
        assert (tmp_path / "runs").read_text() == "xxx"
        assert rc.session.wait(lambda: len(rc.ids) == 2, 20)
        assert view.map_sync(abs, range(-5, 0)) == [5, 4, 3, 2, 1]


def bomb(n: int) -> int:
    """Fork as long as that is possible, ``n`` processes at most; they wait for ever."""
    import signal

    made = 0
    for _ in range(n):
        try:
            if os.fork() == 0:
                signal.pause()
        except BlockingIOError:
            break
        made += 1
    os.kill(os.getpid(), signal.SIGKILL)
    return made


def test_a_heap_of_children_ends_with_its_engine() -> None:
    with ipp.Cluster(n=2) as rc:
        agent = agent_of(rc)
        before = set(children(agent))
        with pytest.raises(ipp.EngineError, match="SIGKILL"):
            rc[0].apply_async(bomb, 200).get(timeout=20)
        until(lambda: set(children(agent)) <= before, "the end of 200 children")
        assert rc[1].apply_sync(abs, -1) == 1


# -- agents and zygotes ----------------------------------------------------------------------


def test_a_killed_agent_takes_its_engines_along_and_no_other(history: History) -> None:
    cluster = ipp.Cluster(n=2)
    with cluster as rc:
        cluster.start_engines_sync(2)
        rc.wait_for_engines(4, timeout=20)
        victims = pids(rc)
        agent = rc[0].apply_sync(os.getppid)
        theirs = {n: pid for n, pid in victims.items() if rc[n].apply_sync(os.getppid) == agent}
        assert len(theirs) == 2
        view = rc.load_balanced_view()
        for _ in range(40):
            history.submit(view, 0.02)
        history.fault("agent", agent)
        history.fault("agent", agent)  # with two engines: two tasks ran
        os.kill(agent, signal.SIGKILL)
        until(gone(*theirs.values()), "the end of its engines", 10)
        history.receive_all()
        assert sorted(rc.ids) == sorted(set(victims) - set(theirs))
        later = [history.submit(view) for _ in range(20)]
        assert len(history.receive_all()) == len(later)
    # Its tasks that had not begun may have run for all that anybody knows: they are lost.
    problems = verdict(history, "agent")
    assert [text for text in problems if " tasks failed and " not in text] == []


def test_engines_outlive_their_zygote() -> None:
    cluster = ipp.Cluster(n=2)
    with cluster as rc:
        engines = pids(rc)
        rc[:].push({"kept": 5}, block=True)
        zygote = zygote_of(agent_of(rc))
        kill(zygote)
        until(gone(zygote), "the end of the zygote")
        assert pids(rc) == engines
        assert rc[:]["kept"] == [5, 5]
        cluster.start_engines_sync(1)
        rc.wait_for_engines(3, timeout=20)
        assert rc[:].apply_sync(abs, -1) == [1, 1, 1]


# -- parts of the controller -----------------------------------------------------------------


def kill_parts(history: History, rounds: int) -> None:
    """Kill hub and schedulers under load, at random; at most ten times, see RESTARTS."""
    random = chance("kill_parts")
    cluster = ipp.Cluster(n=2)
    with cluster as rc:
        view = rc.load_balanced_view()
        agents = {os.getpid(), agent_of(rc)}
        for _ in range(rounds):
            for _ in range(50):
                history.submit(view, random.random() * 0.01)
                history.submit(rc[random.choice([0, 1])], 0.0)
            time.sleep(random.random() * 0.1)
            parts = parts_of(cluster)
            victim = random.choice(parts)
            history.fault("part", victim)
            kill(victim)
            history.receive_all()
            until(lambda: restarted(cluster, victim), "its restart")  # noqa: B023
        assert rc.ids == [0, 1] and agent_of(rc) in agents


def restarted(cluster: ipp.Cluster, victim: int) -> bool:
    parts = parts_of(cluster)
    return victim not in parts and len(parts) == 5


def parts_of(cluster: ipp.Cluster) -> list[int]:
    """The processes below the controller."""
    return children(int(cluster.controller.pid))


def test_parts_killed_under_load(history: History) -> None:
    kill_parts(history, 5)
    assert verdict(history) == []


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_parts_killed_under_load_100_times(history: History) -> None:
    for _ in range(12):  # a part that dies more than ten times a minute ends its controller
        kill_parts(history, 9)
    assert verdict(history) == []
