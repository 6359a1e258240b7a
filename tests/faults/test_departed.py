"""Clients that leave before their tasks have run: these go on, whatever is killed meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ipclusterz as ipp
from tests.faults.seeds import chance
from tests.running import Running

Start = Callable[[str], Running]

TASKS = 150


def noted(path: str, index: int, seconds: float) -> int:
    """Leave a line in a file, so that it can be seen how often this ran."""
    import os
    import time

    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, b"%d\n" % index)
    os.close(fd)
    time.sleep(seconds)
    return index * index


def started(start: Start) -> tuple[Running, Running]:
    controller = start("ipcontrollerz -r")
    controller.until("^start engines:")
    engines = start("ipenginez -n 2")
    for _ in range(2):
        engines.until("is ready")
    return controller, engines


def submit_and_leave(path: Path, n: int = TASKS, cluster: str = "") -> list[str]:
    """Ask for tasks of 10 ms and leave at once; their ids."""
    with ipp.Client(cluster_id=cluster) as rc:
        rc.wait_for_engines(2, timeout=20)
        view = rc.load_balanced_view()
        rc[:].apply_async(time.sleep, 0.5)  # none of them ends before we are gone
        return [view.apply_async(noted, str(path), i, 0.01).msg_ids[0] for i in range(n)]


def lines(path: Path) -> Counter[int]:
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


def results(ids: list[str], cluster: str = "") -> list[Any]:
    """What another client is told of them, once all have ended."""
    with ipp.Client(timeout=30, cluster_id=cluster) as rc:
        rc.wait_for_engines(2, timeout=30)
        return rc.get_result(ids).get(timeout=60)


def written(ipython_dir: Path) -> list[Path]:
    """Where the scheduler writes down what clients left."""
    return list(ipython_dir.glob("*/security/*.left"))


def wait_until(what: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


@pytest.mark.timeout(180)
def test_queued_work_outlives_kills_of_the_whole_controller(
    start: Start, tmp_path: Path
) -> None:
    random = chance("departed")
    path = tmp_path / "ran"
    controller, engines = started(start)
    ids = submit_and_leave(path)
    for share in (1, 2, 3):
        wait_until(lambda share=share: len(lines(path)) >= share * TASKS // 5)
        time.sleep(random.random() * 0.05)
        controller.process.kill()
        controller.wait()
        assert len(lines(path)) < TASKS
        controller = start("ipcontrollerz -r")
        controller.until("^start engines:")
    assert results(ids) == [i * i for i in range(TASKS)]
    assert lines(path) == Counter(range(TASKS))
    assert controller.end() == 0
    assert engines.wait(20) == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("part", ["task", "hub"])
def test_queued_work_outlives_a_part(tmp_path: Path, part: str) -> None:
    path = tmp_path / "ran"
    events: list[dict[str, Any]] = []
    with ipp.Cluster(n=2, notice=events.append) as rc:
        name = rc.cluster.cluster_id
        ids = submit_and_leave(path, cluster=name)
        (ready,) = (e for e in events if e["event"] == "ready")
        wait_until(lambda: len(lines(path)) >= TASKS // 4)
        os.kill(ready["parts"][part], signal.SIGKILL)
        wait_until(lambda: any(e["event"] == "restarted" for e in events))
        assert results(ids, name) == [i * i for i in range(TASKS)]
    assert lines(path) == Counter(range(TASKS))


def test_what_depends_on_tasks_that_ended_before_goes_on_too(
    start: Start, tmp_path: Path, ipython_dir: Path
) -> None:
    path = tmp_path / "ran"
    controller, engines = started(start)
    with ipp.Client() as rc:
        rc.wait_for_engines(2, timeout=20)
        view = rc.load_balanced_view()
        first = view.apply_async(noted, str(path), 0, 0.0)
        assert first.get(timeout=20) == 0
        slow = view.apply_async(noted, str(path), 1, 1.0)
        with view.temp_flags(after=[first, slow], retries=2):
            last = view.apply_async(noted, str(path), 2, 0.0)
        ids = [*slow.msg_ids, *last.msg_ids]
        wait_until(lambda: lines(path)[1] == 1)
    wait_until(lambda: any(written(ipython_dir)))
    controller.process.kill()
    controller.wait()
    assert lines(path) == Counter([0, 1])
    controller = start("ipcontrollerz -r")
    controller.until("^start engines:")
    assert results(ids) == [1, 4]
    assert lines(path) == Counter(range(3))
    assert controller.end() == 0
    assert engines.wait(20) == 0


def test_what_is_noted_is_owner_only_and_gone_when_all_has_run(
    start: Start, tmp_path: Path, ipython_dir: Path
) -> None:
    path = tmp_path / "ran"
    controller, _ = started(start)
    ids = submit_and_leave(path, 50)
    wait_until(lambda: any(written(ipython_dir)))
    (file,) = written(ipython_dir)
    assert file.stat().st_mode & 0o777 == 0o600
    assert results(ids) == [i * i for i in range(50)]
    wait_until(lambda: not any(written(ipython_dir)))
    assert controller.end() == 0
