"""Parts of the controller that hang without ending: seen, said, and started again."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import ipclusterz as ipp
from ipclusterz.cluster import ControllerSettings
from tests.faults.history import History, judge, read
from tests.faults.test_replacing import Heard
from tests.faults.watch import alive, until
from tests.running import children, run

LIMIT = 2.0


@contextmanager
def watched(limit: float = LIMIT, n: int = 2) -> Iterator[tuple[ipp.Client, Heard]]:
    heard = Heard()
    settings = ControllerSettings(hang_limit=limit)
    with ipp.Cluster(n=n, controller=settings, notice=heard.append) as rc:
        yield rc, heard


def parts(heard: Heard) -> dict[str, int]:
    return dict(heard.of("ready")[0]["parts"])


@pytest.mark.parametrize("stopped", [("hub",), ("task",), ("direct", "control", "iopub")])
def test_parts_that_are_stopped_are_started_again_and_nothing_is_lost(
    stopped: tuple[str, ...], tmp_path: Path
) -> None:
    history = History(tmp_path / "history")
    with watched() as (rc, heard):
        view = rc.load_balanced_view()
        for index in range(100):
            history.submit(view, 0.01)
            history.submit(rc[index % 2])
        hung = {part: parts(heard)[part] for part in stopped}
        for part, pid in hung.items():
            history.fault(part, pid)
            os.kill(pid, signal.SIGSTOP)
        for _ in range(20):
            history.submit(view)
        until(lambda: len(heard.of("restarted")) == len(hung), "that they are started again")
        texts = heard.texts("warning")
        for part, pid in hung.items():
            early = f"the {part} process (pid {pid}) has done nothing for 1 s: it is stopped"
            assert any(text.startswith(early) for text in texts)
        how = "signal SIGKILL, as it did nothing for 2 s: it is stopped (SIGSTOP)"
        assert {e["part"]: e["reason"] for e in heard.of("restarted")} == dict.fromkeys(
            hung, how
        )
        assert not any(alive(pid) for pid in hung.values())
        history.receive_all()
        assert rc.ids == [0, 1]
        shown = rc[:].apply_async(print, "hello")
        shown.get(timeout=20)
        until(lambda: shown.stdout == ["hello\n", "hello\n"], "the output")
        assert rc.cluster is not None
        log = "".join(p.read_text() for p in Path(rc.cluster.profile.log).glob("*.log"))
        assert all(f"process (pid {pid}) has done nothing" in log for pid in hung.values())
    history.close()
    assert judge(read(history.path)) == []


def test_hub_and_task_scheduler_hang_at_once(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    with watched() as (rc, heard):
        view = rc.load_balanced_view()
        for _ in range(100):
            history.submit(view, 0.01)
        for part in ("hub", "task"):
            history.fault(part)
            os.kill(parts(heard)[part], signal.SIGSTOP)
        until(lambda: len(heard.of("restarted")) == 2, "that both are started again")
        history.receive_all()
        assert rc.ids == [0, 1]
    history.close()
    assert judge(read(history.path)) == []


def test_one_that_goes_on_in_time_is_left_alone() -> None:
    with watched() as (rc, heard):
        pid = parts(heard)["task"]
        for times in (1, 2):
            os.kill(pid, signal.SIGSTOP)
            until(lambda t=times: len(heard.texts("warning")) == 2 * t - 1, "the word")
            os.kill(pid, signal.SIGCONT)
            until(lambda t=times: len(heard.texts("warning")) == 2 * t, "that it goes on")
        assert heard.texts("warning")[1] == f"the task process (pid {pid}) goes on"
        assert rc.load_balanced_view().map_sync(abs, range(-50, 0)) == list(range(50, 0, -1))
        assert alive(pid) and heard.of("restarted") == []


def test_a_machine_that_was_asleep_is_not_taken_for_a_hang() -> None:
    """All of the controller is stopped for thrice the limit, supervisor included."""
    with watched(limit=1.0) as (rc, heard):
        supervisor = heard.of("ready")[0]["pid"]
        everybody = [supervisor, *children(supervisor)]
        for _ in range(2):
            for pid in everybody:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(3)  # the fault itself
            for pid in everybody:
                os.kill(pid, signal.SIGCONT)
            assert rc[:].apply_sync(abs, -1) == [1, 1]
        assert rc.load_balanced_view().map_sync(abs, range(-50, 0)) == list(range(50, 0, -1))
        assert heard.of("restarted") == [] and sorted(everybody) == sorted(
            [supervisor, *children(supervisor)]
        )


def test_heavy_load_is_no_hang() -> None:
    """Twenty thousand tasks at once, with the shortest limit there is."""
    with watched(limit=1.0) as (rc, heard):
        view = rc.load_balanced_view()
        results = [view.apply_async(abs, -i) for i in range(20_000)]
        assert [r.get(timeout=120) for r in results] == list(range(20_000))
        assert heard.of("restarted") == []


def test_never_is_never() -> None:
    with watched(limit=0) as (rc, heard):
        pid = parts(heard)["iopub"]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1)
        os.kill(pid, signal.SIGCONT)
        assert rc[:].apply_sync(abs, -1) == [1, 1]
        assert alive(pid) and heard.texts("warning") == []


def test_what_cannot_be() -> None:
    done = run("ipcontrollerz --hang-limit=0.5")
    assert done.returncode != 0
    assert re.search(r"hang_limit is 0\.5: it must be at least 1 second", done.stderr)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", ["hub", "task"])
def test_with_the_limit_that_everybody_has(part: str) -> None:
    with watched(limit=30.0) as (rc, heard):
        began = time.monotonic()
        os.kill(parts(heard)[part], signal.SIGSTOP)
        until(lambda: heard.texts("warning"), "the first word", 60)
        until(lambda: heard.of("restarted"), "that it is started again", 120)
        assert time.monotonic() - began > 25
        assert rc.load_balanced_view().map_sync(abs, range(-50, 0)) == list(range(50, 0, -1))
