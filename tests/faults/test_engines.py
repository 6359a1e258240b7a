"""Engines that die, are killed or leave processes behind, and what the user sees of it."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ipclusterz as ipp
from ipclusterz.core.config import AgentConfig
from tests.faults.watch import agent_of, alive, gone, own_place, pids, until


@pytest.fixture
def rc() -> Iterator[ipp.Client]:
    with ipp.Cluster(n=3) as client:
        yield client


def crash() -> None:
    import ctypes

    ctypes.string_at(0)


def meet(path: str) -> None:
    """Say on which process this runs, then wait for ever."""
    with open(path + ".part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".part", path)
    signal.pause()


def running_in(path: Path) -> int:
    until(path.exists, "the task to run")
    return int(path.read_text())


# -- deaths --------------------------------------------------------------------------------


def test_killed_while_idle(rc: ipp.Client) -> None:
    known = pids(rc)
    os.kill(known[1], signal.SIGKILL)
    assert rc.session.wait(lambda: rc.ids == [0, 2], 20), "the client heard"
    with pytest.raises(ipp.EngineError, match=r"engine 1 ended: killed by signal SIGKILL"):
        rc[1]
    assert rc[:].apply_sync(os.getpid) == [known[0], known[2]]
    assert rc.load_balanced_view().map_sync(abs, range(100)) == list(range(100))


def test_killed_while_running(rc: ipp.Client, tmp_path: Path) -> None:
    result = rc.load_balanced_view().apply_async(meet, str(tmp_path / "pid"))
    pid = running_in(tmp_path / "pid")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ipp.EngineError, match="died while it ran this task.*SIGKILL") as caught:
        result.get(timeout=20)
    assert rc.session.wait(lambda: len(rc.ids) == 2, 20)
    number = next(n for n in range(3) if n not in rc.ids)
    assert f"engine {number} " in str(caught.value)


def test_what_had_not_begun_goes_to_other_engines(rc: ipp.Client, tmp_path: Path) -> None:
    view = rc.load_balanced_view()
    last = view.apply_async(meet, str(tmp_path / "pid"))
    rest = [view.apply_async(time.sleep, 0.001) for _ in range(300)]
    os.kill(running_in(tmp_path / "pid"), signal.SIGKILL)
    with pytest.raises(ipp.EngineError):
        last.get(timeout=20)
    assert [result.get(timeout=20) for result in rest] == [None] * 300


def test_what_was_meant_for_the_dead_one_fails(rc: ipp.Client, tmp_path: Path) -> None:
    view = rc[1]
    first = view.apply_async(meet, str(tmp_path / "pid"))
    rest = [view.apply_async(abs, -i) for i in range(5)]
    os.kill(running_in(tmp_path / "pid"), signal.SIGTERM)
    with pytest.raises(ipp.EngineError, match="died while it ran this task.*SIGTERM"):
        first.get(timeout=20)
    for result in rest:
        with pytest.raises(ipp.EngineError, match="engine 1 ended before this task began"):
            result.get(timeout=20)


def test_finished_results_survive_the_death_of_their_engine(rc: ipp.Client) -> None:
    view = rc[2]
    view.apply_sync(abs, 0)  # so that the rest goes in batches
    before = [view.apply_async(abs, -i) for i in range(100)]
    death = view.apply_async(os._exit, 7)
    with pytest.raises(ipp.EngineError, match="exited with code 7"):
        death.get(timeout=5)
    assert [result.get(timeout=5) for result in before] == list(range(100))


def test_a_crash_in_c_code_tells_where(rc: ipp.Client) -> None:
    with pytest.raises(ipp.EngineError, match="SIGSEGV") as caught:
        rc[0].apply_async(crash).get(timeout=5)
    text = str(caught.value)
    assert "Fatal Python error: Segmentation fault" in text
    assert f'File "{__file__}", line' in text and "in crash" in text
    assert "\0" not in text and "ipclusterz/engine" not in text


def test_last_words_are_those_of_the_task(rc: ipp.Client) -> None:
    def cry(text: str) -> None:
        import sys

        print(text, file=sys.stderr)
        if text == "help":
            os._exit(1)

    rc[0].apply_sync(cry, "long ago")
    with pytest.raises(ipp.EngineError) as caught:
        rc[0].apply_async(cry, "help").get(timeout=5)
    assert str(caught.value).endswith("exited with code 1; its last words:\nhelp")
    rc[1].apply_sync(cry, "long ago")
    with pytest.raises(ipp.EngineError) as caught:
        rc[1].apply_async(os._exit, 1).get(timeout=5)
    assert str(caught.value).endswith("exited with code 1")


def test_a_signal_without_a_name(rc: ipp.Client) -> None:
    def end() -> None:
        os.kill(os.getpid(), signal.SIGRTMIN + 3)

    with pytest.raises(ipp.EngineError, match="killed by signal 37"):
        rc[0].apply_async(end).get(timeout=5)
    assert rc[1].apply_sync(abs, -1) == 1


def test_exit_by_exception_is_an_error_like_others(rc: ipp.Client) -> None:
    def leave() -> None:
        raise SystemExit("enough")

    known = pids(rc)
    with pytest.raises(ipp.RemoteError, match="SystemExit: enough") as caught:
        rc[0].apply_sync(leave)
    assert not isinstance(caught.value, SystemExit), "it would end the client, without a word"
    with pytest.raises(KeyboardInterrupt):
        rc[0].execute("raise KeyboardInterrupt", block=True)
    assert pids(rc) == known


def test_when_all_are_dead_those_who_wait_are_told(rc: ipp.Client) -> None:
    view = rc.load_balanced_view()
    deaths = [view.apply_async(os._exit, 1) for _ in range(3)]
    rest = [view.apply_async(abs, -i) for i in range(10)]
    for death in deaths:
        with pytest.raises(ipp.EngineError, match="code 1"):
            death.get(timeout=5)
    assert rc.session.wait(lambda: rc.ids == [], 5)
    with pytest.raises(ipp.KernelError):
        rc[:].apply_sync(abs, 1)
    del rest  # they wait for engines that may yet come


def test_code_that_closes_every_descriptor_ends_its_engine_only(rc: ipp.Client) -> None:
    """What the task returned was in the shared page by then, so even that arrives."""
    rc[0].apply_async(os.closerange, 3, 1000).get(timeout=5)
    assert rc.session.wait(lambda: rc.ids == [1, 2], 5)
    with pytest.raises(
        ipp.EngineError, match="(?s)engine 0 ended: exited with code 1.*Bad file"
    ):
        rc[0]


def test_code_that_writes_to_every_descriptor_ends_its_engine_only(rc: ipp.Client) -> None:
    def write() -> None:
        for name in os.listdir("/proc/self/fd"):
            try:
                os.write(int(name), b"garbage")
            except OSError:
                pass
        signal.pause()

    with pytest.raises(ipp.EngineError, match="broke its connection"):
        rc[0].apply_async(write).get(timeout=5)
    assert rc[[1, 2]].apply_sync(abs, -1) == [1, 1]


# -- what engines leave behind -------------------------------------------------------------


def family(folder: str) -> dict[str, int]:
    """Start processes of all kinds that outlive their parent; return their ids by kind."""
    import subprocess

    sleep = ["sleep", "1000"]
    made = {
        "child": subprocess.Popen(sleep).pid,
        "session": subprocess.Popen(sleep, start_new_session=True).pid,
        "bare": subprocess.Popen(sleep, env={}).pid,
    }
    for kind in ("daemon", "exec'd daemon"):
        path = os.path.join(folder, kind)
        middle = os.fork()
        if middle == 0:
            os.setsid()
            pid = os.fork()
            if pid == 0:
                null = os.open(os.devnull, os.O_RDWR)
                for fd in range(3):
                    os.dup2(null, fd)
                if kind != "daemon":
                    os.execvp("sleep", sleep)
                signal.pause()
            with open(path, "w") as file:
                file.write(str(pid))
            os._exit(0)
        os.waitpid(middle, 0)
        with open(path) as file:
            made[kind] = int(file.read())
    return made


def test_an_engines_processes_end_with_it(rc: ipp.Client, tmp_path: Path) -> None:
    other = rc[1].apply_sync(family, _folder(tmp_path, "other"))
    ours = rc[0].apply_sync(family, _folder(tmp_path, "ours"))
    assert all(alive(pid) for pid in [*ours.values(), *other.values()])
    os.kill(pids(rc)[0], signal.SIGKILL)
    until(gone(*ours.values()), f"the end of {ours}")
    assert rc.session.wait(lambda: rc.ids == [1, 2], 20)
    assert all(alive(pid) for pid in other.values()), "those of a living engine live"
    for pid in other.values():
        os.kill(pid, signal.SIGKILL)


def _folder(path: Path, name: str) -> str:
    (path / name).mkdir()
    return str(path / name)


def test_a_clean_stop_leaves_no_process(tmp_path: Path) -> None:
    with ipp.Cluster(n=2) as rc:
        ours = rc[0].apply_sync(family, _folder(tmp_path, "a"))
        ours |= {
            kind + "2": pid for kind, pid in rc[1].apply_sync(family, str(tmp_path)).items()
        }
        engines = pids(rc)
    until(gone(*ours.values(), *engines.values()), f"the end of {ours}")


def test_a_killed_agent_leaves_nothing(tmp_path: Path) -> None:
    with own_place() as place, ipp.Cluster(n=2) as rc:
        engines = list(pids(rc).values())
        assert len(list(place.iterdir())) == 2  # the client's and the agent's
        ours = rc[0].apply_sync(family, str(tmp_path))
        rc[:].push({"x": bytes(3_000_000)}, block=True)
        result = rc[1].apply_async(time.sleep, 1000)
        os.kill(agent_of(rc), signal.SIGKILL)
        until(gone(*engines), "the end of the engines")
        until(gone(*ours.values()), f"the end of {ours}")
        with pytest.raises(ipp.KernelError, match="(?i)agent|engine"):
            result.get(timeout=20)
        assert rc.session.wait(lambda: rc.ids == [], 20)


def test_a_kill_of_the_agents_process_group_leaves_nothing(tmp_path: Path) -> None:
    with ipp.Cluster(n=2) as rc:
        engines = list(pids(rc).values())
        ours = rc[0].apply_sync(family, str(tmp_path))
        os.killpg(os.getpgid(agent_of(rc)), signal.SIGKILL)
        until(gone(*engines, *ours.values()), f"the end of {ours}")


# -- processes that user code may start ----------------------------------------------------


def test_subprocess_and_multiprocessing_work(rc: ipp.Client) -> None:
    def run() -> tuple[str, list[int], list[int]]:
        import multiprocessing
        import subprocess
        from concurrent.futures import ProcessPoolExecutor

        said = subprocess.run(["echo", "hello"], capture_output=True, text=True, check=True)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            forked = pool.map(abs, range(-3, 0))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(2, mp_context=context) as spawned:
            return said.stdout, forked, list(spawned.map(abs, range(-3, 0)))

    assert rc[0].apply_sync(run) == ("hello\n", [3, 2, 1], [3, 2, 1])
    assert rc[0].apply_sync(abs, -1) == 1


def test_a_child_that_returns_from_the_task_is_no_second_engine(rc: ipp.Client) -> None:
    def split() -> Any:
        return os.fork() and os.getpid()

    assert rc[0].apply_sync(split) == pids(rc)[0]
    assert rc[0].map_sync(abs, range(10)) == list(range(10))


# -- engines that cannot start -------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"preload": ["no_such_module"]}, "cannot preload 'no_such_module'.*ModuleNotFound"),
        ({"python": "/no/such/python"}, "cannot run /no/such/python"),
        ({"command": "1/0"}, "start-up code.*ZeroDivisionError"),
        ({"command": "import os; os._exit(9)"}, "ended at its start.*code 9"),
    ],
)
def test_engines_that_cannot_start_say_why(settings: dict[str, Any], reason: str) -> None:
    with (
        own_place(),
        pytest.raises(ipp.KernelError) as caught,
        ipp.Cluster(n=2, agent=AgentConfig(**settings)),
    ):
        pass
    assert re.search(reason, str(caught.value), re.DOTALL), caught.value


def test_engines_that_must_not_be_forked_work_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "left_a_thread.py").write_text(
        "import threading\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with ipp.Cluster(n=2, agent=AgentConfig(preload=["left_a_thread"])) as rc:
        known, agent = pids(rc), agent_of(rc)
        assert len(set(known.values())) == 2
        ours = rc[0].apply_sync(family, str(tmp_path))
        with pytest.raises(ipp.EngineError, match="(?s)SIGSEGV.*Segmentation fault"):
            rc[0].apply_async(crash).get(timeout=5)
        until(gone(*ours.values()), f"the end of {ours}")
        os.kill(agent, signal.SIGKILL)
        until(gone(known[1], agent), "the end of the other engine")
