"""Engines that die and are replaced, as often as ``--restart-engines`` allows."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ipclusterz as ipp
from ipclusterz.cluster import SettingError
from ipclusterz.core.config import AgentConfig
from tests.faults.watch import agent_of, pids, until
from tests.running import Running, children, run


class Heard(list[dict[str, Any]]):
    """The status events of a cluster; those of one kind by name."""

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self if event["event"] == kind]

    def texts(self, kind: str) -> list[str]:
        return [event["text"] for event in self.of(kind)]


def there(rc: ipp.Client, *ids: int) -> None:
    assert rc.session.wait(lambda: rc.ids == list(ids), 20), rc.ids


def test_as_many_as_were_allowed_and_no_more() -> None:
    heard = Heard()
    with ipp.Cluster(n=2, restart_engines=1, notice=heard.append) as rc:
        rc[:].push({"kept": 1}, block=True)
        os.kill(pids(rc)[1], signal.SIGKILL)
        there(rc, 0, 2)
        assert rc[2].apply_sync(abs, -2) == 2
        assert rc[0]["kept"] == 1
        [text] = until(lambda: heard.texts("replaced"), "the word of it")
        assert text.startswith("engine 2 replaces engine 1, which was lost: killed by signal")
        assert text.endswith("; 0 of 1 restart left")
        with pytest.raises(ipp.EngineError, match=r"engine 1 ended: killed by signal SIGKILL"):
            rc[1]
        seen = json.loads(run(status_of(rc)).stdout)
        assert [engine["origin"] for engine in seen["engines"]] == ["", text]
        os.kill(pids(rc)[2], signal.SIGKILL)
        there(rc, 0)
        [text] = until(lambda: heard.texts("warning"), "the word of it")
        assert "engine 2 is not replaced" in text and "1 restart" in text and "used up" in text
        # It still stands when everybody has had the time to do it wrong.
        assert rc.load_balanced_view().map_sync(abs, range(-50, 0)) == list(range(50, 0, -1))
        assert rc.ids == [0]
    assert len(heard.of("replaced")) == 1 and len(heard.texts("warning")) == 1


def status_of(rc: ipp.Client) -> str:
    """The command that shows the cluster of a client."""
    name = Path(rc.connection_file).name
    cluster = name.removeprefix("ipcontroller-").removesuffix("client.json").rstrip("-")
    return f"ipclusterz status -o json --cluster-id={cluster}"


def crash() -> None:
    import ctypes

    ctypes.string_at(0)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("death", "cause"),
    [(lambda: os._exit(3), "exited with code 3"), (crash, "SIGSEGV"), (kill_self, "SIGKILL")],
    ids=["os._exit", "segfault", "SIGKILL"],
)
def test_the_only_engine_is_replaced_whatever_it_died_of(
    death: Callable[[], None], cause: str
) -> None:
    heard = Heard()
    with ipp.Cluster(n=1, restart_engines=2, notice=heard.append) as rc:
        agent = agent_of(rc)
        with pytest.raises(ipp.EngineError, match=cause):
            rc[0].apply_async(death).get(timeout=20)
        there(rc, 1)
        assert agent_of(rc) == agent
        [text] = until(lambda: heard.texts("replaced"), "the word of it")
        assert "engine 1 replaces engine 0" in text and cause in text
        assert text.endswith("; 1 of 2 restarts left")


def test_work_that_may_be_tried_again_goes_to_the_new_engine(tmp_path: Path) -> None:
    def once(path: str) -> int:
        try:
            os.mkdir(path)
        except FileExistsError:
            return os.getpid()
        os._exit(1)

    with ipp.Cluster(n=1, restart_engines=1) as rc:
        old = pids(rc)[0]
        view = rc.load_balanced_view(retries=1)
        new = view.apply_async(once, str(tmp_path / "was")).get(timeout=30)
        assert new not in (old, 0)
        there(rc, 1)  # its agent is quicker with the result than the hub with the news
        assert pids(rc) == {1: new}


def test_one_that_was_asked_to_stop_is_not_replaced() -> None:
    with ipp.Cluster(n=2, restart_engines=5) as rc:
        rc.shutdown(targets=[0], block=True)
        there(rc, 1)
        os.kill(pids(rc)[1], signal.SIGKILL)
        there(rc, 2)  # the next id: nobody was started for engine 0


def test_several_at_once_are_all_replaced() -> None:
    with ipp.Cluster(n=4, restart_engines=3) as rc:
        victims = pids(rc)
        for number in (0, 1, 3):
            os.kill(victims[number], signal.SIGKILL)
        there(rc, 2, 4, 5, 6)
        assert rc[:].apply_sync(abs, -1) == [1] * 4


def test_cancelling_replaces_a_lone_engine_also_where_no_restart_is_allowed(
    tmp_path: Path,
) -> None:
    def stubborn(path: str) -> None:
        import time

        Path(path).touch()
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                pass

    heard = Heard()
    with ipp.Cluster(n=1, notice=heard.append) as rc:
        running = rc[0].apply_async(stubborn, str(tmp_path / "begun"))
        until((tmp_path / "begun").exists, "the task")
        assert running.cancel(running=True, grace=0.2)
        there(rc, 1)
        assert rc[1].apply_sync(abs, -1) == 1
        os.kill(pids(rc)[1], signal.SIGKILL)
        assert rc.session.wait(lambda: rc.ids == [], 20)
        assert heard.texts("replaced") == [
            "engine 1 replaces engine 0, which was lost: killed by signal SIGKILL (by somebody,"
            " or by the kernel for want of memory: see dmesg)"
        ]


# -- deaths at the start -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "raise ValueError('not today')",
            "its start-up code failed with ValueError: not today",
        ),
        ("import os; os._exit(4)", "exited with code 4"),
    ],
    ids=["error", "death"],
)
def test_one_that_fails_at_its_start_counts_and_the_others_live_on(
    code: str, said: str, tmp_path: Path
) -> None:
    heard = Heard()
    flag = tmp_path / "now"
    agent = AgentConfig(command=f"import os\nif os.path.exists({str(flag)!r}): {code}")
    with ipp.Cluster(n=2, agent=agent, restart_engines=2, notice=heard.append) as rc:
        flag.touch()
        os.kill(pids(rc)[0], signal.SIGKILL)
        downs = until(lambda: (d := heard.of("engine_down")) and len(d) >= 3 and d, "two more")
        assert [event["id"] for event in downs] == [0, 2, 3]
        assert all(said in event["reason"] for event in downs[1:])
        later, used_up = until(lambda: (w := heard.texts("warning")) and w[1:] and w, "words")
        assert later == (
            "engine 2 ended at its start; another one is started in 1 s, 0 of 2 restarts left"
        )
        assert "engine 3 is not replaced" in used_up and "2 restarts" in used_up
        assert rc.ids == [1] and rc[1].apply_sync(abs, -1) == 1
        assert heard.of("replaced") == []


def test_a_start_that_goes_wrong_once_is_tried_again(tmp_path: Path) -> None:
    once = f"import os\ntry: os.mkdir({str(tmp_path / 'was')!r})\nexcept OSError: pass\n"
    agent = AgentConfig(command=f"{once}else: os._exit(9)")
    heard = Heard()
    with ipp.Cluster(n=2, agent=agent, restart_engines=1, notice=heard.append) as rc:
        assert len(rc.ids) == 2 and max(rc.ids) == 2
        assert rc[:].apply_sync(abs, -1) == [1, 1]
    assert "exited with code 9" in heard.texts("replaced")[0]


def test_a_start_that_always_goes_wrong_is_an_error_when_restarts_are_used_up() -> None:
    agent = AgentConfig(command="import os; os._exit(4)")
    cluster = ipp.Cluster(n=1, agent=agent, restart_engines=1)
    with pytest.raises(ipp.LaunchError, match=r"exited with code 4.*1 restart .*used up"):
        cluster.start_cluster_sync()
    assert not cluster.running


def test_a_preload_that_fails_is_an_error_at_once_and_tried_once() -> None:
    heard = Heard()
    cluster = ipp.Cluster(
        n=2, preload=["no_such_module"], restart_engines=5, notice=heard.append
    )
    with pytest.raises(ipp.LaunchError, match="cannot preload 'no_such_module'"):
        cluster.start_cluster_sync()
    assert heard.of("replaced") == [] == heard.of("engine")


def test_engines_are_replaced_when_their_zygote_was_killed_as_well(tmp_path: Path) -> None:
    with ipp.Cluster(n=2, restart_engines=3) as rc:
        engines = pids(rc)
        [zygote] = set(children(agent_of(rc))) - set(engines.values())
        os.kill(zygote, signal.SIGKILL)
        os.kill(engines[0], signal.SIGKILL)
        assert rc.session.wait(lambda: len(rc.ids) == 2 and 0 not in rc.ids, 20), rc.ids
        assert rc[:].apply_sync(abs, -1) == [1, 1]
        assert engines[1] in pids(rc).values()


def test_a_preload_that_fails_later_ends_in_a_word_and_not_in_a_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "loaded_once.py"
    module.write_text("x = 1\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    heard = Heard()
    with ipp.Cluster(n=2, preload="loaded_once", restart_engines=2, notice=heard.append) as rc:
        engines = pids(rc)
        [zygote] = set(children(agent_of(rc))) - set(engines.values())
        module.write_text("raise OSError('its file server is gone')\n")
        os.kill(zygote, signal.SIGKILL)
        until(lambda: not os.path.exists(f"/proc/{zygote}"), "the end of the zygote")
        os.kill(engines[0], signal.SIGKILL)
        downs = until(lambda: (d := heard.of("engine_down")) and len(d) >= 3 and d, "two more")
        for event in downs[1:]:
            assert (
                "cannot preload 'loaded_once': OSError: its file server is gone"
                in (event["reason"])
            )
        assert "used up" in until(lambda: heard.texts("warning")[1:], "the last word")[-1]
        assert rc.ids == [1] and rc[1].apply_sync(abs, -1) == 1


# -- where it is said ----------------------------------------------------------------------


def test_by_command(start: Callable[[str], Running]) -> None:
    start("ipcontrollerz").until("^start engines:")
    engines = start("ipenginez -n 2 --restart-engines=1")
    engines.until("engine 0 is ready")
    with ipp.Client(timeout=20) as rc:
        rc.wait_for_engines(2, timeout=20)
        os.kill(pids(rc)[0], signal.SIGKILL)
        engines.until("engine 0 has ended: killed by signal SIGKILL")
        engines.until(r"engine 2 replaces engine 0, which was lost: .*; 0 of 1 restart left")
        os.kill(pids(rc)[1], signal.SIGKILL)
        engines.until("engine 1 is not replaced")


def test_from_the_profile_and_by_start(ipython_dir: Path) -> None:
    assert run("ipclusterz create").returncode == 0
    config = ipython_dir / "cluster_default" / "ipenginez_config.py"
    config.write_text("c = get_config()\nc.EngineApp.restart_engines = 1\n")
    with ipp.Cluster(n=1) as rc:
        os.kill(pids(rc)[0], signal.SIGKILL)
        there(rc, 1)
    started = Running("ipclusterz start -n 1 --restart-engines=2")
    try:
        started.until("ready in")
        with ipp.Client(timeout=20) as rc:
            os.kill(pids(rc)[0], signal.SIGKILL)
        started.until("engine 0 has ended")
        started.until(r"engine 1 replaces engine 0, .*; 1 of 2 restarts left")
    finally:
        assert started.end() == 0


def test_what_cannot_be() -> None:
    with pytest.raises(SettingError, match="restart_engines is -1: it must be 0 or more"):
        ipp.Cluster(n=1, restart_engines=-1)
    done = run("ipenginez --restart-engines=-1")
    assert done.returncode != 0 and "--restart-engines is -1" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="ranks are named by the environment")
def test_a_rank_cannot_be_replaced_and_that_is_said_before_it_starts() -> None:
    env = {**os.environ, "PMI_RANK": "0", "PMI_SIZE": "1"}
    done = run("ipenginez --mpi --restart-engines=1", env=env)
    assert done.returncode != 0
    assert "that has died cannot be replaced, since no process can join MPI" in done.stderr
