"""``ipclusterz status`` as its users meet it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ipclusterz as ipp
from ipclusterz.apps.status import duration, plain, size
from tests.running import Running, arguments, eventually, run


@pytest.fixture
def cluster(ipython_dir: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=2, cluster_id="look", profile="seen") as rc:
        yield rc


def look(more: str = "") -> dict[str, object]:
    done = run(f"ipclusterz status -o json --profile=seen --cluster-id=look {more}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def nap(path: str) -> None:
    import os
    import time

    while not os.path.exists(path):
        time.sleep(0.01)


def test_what_runs_is_named_with_its_task_and_its_time(
    cluster: ipp.Client, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    cluster[:].apply_sync(os.getpid)
    before = time.time()
    first = cluster[0].apply_async(nap, str(go))
    second = cluster[0].apply_async(nap, str(go))
    try:

        def seen() -> bool:
            found = look()
            busy, _ = found["engines"]  # type: ignore[misc]
            return bool(busy["state"] == "running" and busy["waiting"] == 1)

        eventually(seen, 20)
        found = look()
        busy, idle = found["engines"]  # type: ignore[misc]
        assert busy["task"] == first.msg_ids[0]
        assert busy["function"].endswith("nap")
        assert 0 <= busy["seconds"] <= time.time() - before
        assert abs(busy["since"] - before) < 10
        assert (idle["state"], idle["task"], idle["since"]) == ("idle", "", None)
        assert busy["pid"] != idle["pid"]
        for engine in (busy, idle):
            assert 5e6 < engine["memory"] < 5e8
            assert 0 < engine["uptime"] < 60
            assert (engine["completed"], engine["failed"]) == (1, 0), "asking is no work"
        (client,) = found["clients"]  # type: ignore[misc]
        assert client["pid"] == os.getpid(), "not the command itself"
        assert all(s["serving"] for s in found["schedulers"].values())  # type: ignore[attr-defined]
        text = run("ipclusterz status --profile=seen --cluster-id=look").stdout
        assert "2 engines: 1 running, 1 idle" in text
        assert f"_{first.msg_ids[0].rpartition('_')[2]})" in text
        assert "\x1b" not in text, "no colours in a pipe"
    finally:
        go.write_text("")
    first.get(10)
    second.get(10)


def test_engines_that_do_not_answer_and_those_that_ended_are_named(
    cluster: ipp.Client,
) -> None:
    (agent,) = look()["agents"]  # type: ignore[misc]
    with pytest.raises(ipp.EngineError):
        cluster[1].apply_sync(lambda: os.kill(os.getpid(), signal.SIGKILL))
    eventually(lambda: len(look()["engines"]) == 1)  # type: ignore[arg-type]
    (gone,) = look()["departed"]  # type: ignore[misc]
    assert gone["id"] == 1 and "SIGKILL" in gone["reason"]
    os.kill(agent["pid"], signal.SIGSTOP)
    try:
        (engine,) = look()["engines"]  # type: ignore[misc]
        assert engine["state"] == "not responding"
        assert engine["memory"] is None
        assert (
            "1 not responding"
            in run("ipclusterz status --profile=seen --cluster-id=look").stdout
        )
    finally:
        os.kill(agent["pid"], signal.SIGCONT)
    eventually(lambda: look()["engines"][0]["state"] == "idle")  # type: ignore[index]


def test_a_scheduler_that_was_started_again_is_told(cluster: ipp.Client) -> None:
    from tests.running import children

    state = json.loads(Path(cluster.cluster.cluster_file).read_text())
    parts = children(state["controller"]["pid"])
    os.kill(sorted(parts)[-1], signal.SIGKILL)  # the last one forked: iopub

    def again() -> bool:
        return any(s["restarts"] for s in look()["schedulers"].values())  # type: ignore[attr-defined]

    eventually(again, 20)
    text = run("ipclusterz status --profile=seen --cluster-id=look").stdout
    assert "(started again: 1)" in text


def test_a_scheduler_that_hangs_is_found(cluster: ipp.Client) -> None:
    from tests.running import children

    state = json.loads(Path(cluster.cluster.cluster_file).read_text())
    part = sorted(children(state["controller"]["pid"]))[2]
    os.kill(part, signal.SIGSTOP)
    try:
        done = run("ipclusterz status --timeout=1 --profile=seen --cluster-id=look")
    finally:
        os.kill(part, signal.SIGCONT)
    assert done.returncode == 1
    assert f"{part} stopped" in done.stderr and "ipclusterz logs hub" in done.stderr


def test_watch_shows_again_until_ctrl_c(cluster: ipp.Client) -> None:
    watching = Running(
        "ipclusterz status --watch --interval=0.1 --profile=seen --cluster-id=look"
    )
    try:
        for _ in range(3):
            watching.until("2 engines")
        assert watching.end(signal.SIGINT) == 0
        assert "Traceback" not in watching.text
    finally:
        if watching.process.poll() is None:
            watching.end(signal.SIGKILL)


def test_in_a_terminal_it_redraws(cluster: ipp.Client) -> None:
    ours, theirs = pty.openpty()
    line = "ipclusterz status -w --interval=0.1 --profile=seen --cluster-id=look"
    process = subprocess.Popen(
        arguments(line),
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "140", "LINES": "40"},
    )
    os.close(theirs)
    shown = b""

    def read() -> None:
        nonlocal shown
        try:
            while data := os.read(ours, 4096):
                shown += data
        except OSError:
            pass

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        eventually(lambda: shown.count(b"2 engines: 2 idle") >= 3, 20)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait(10)
        thread.join(10)
        os.close(ours)
    assert b"\x1b[2K" in shown and b"\x1b[?25h" in shown, "lines redrawn, cursor shown again"
    assert b"Traceback" not in shown


def test_watching_ends_with_the_cluster(ipython_dir: Path) -> None:
    with ipp.Cluster(n=1, cluster_id="brief"):
        watching = Running("ipclusterz status --watch --interval=0.1 --cluster-id=brief")
        watching.until("1 engine")
    assert watching.wait() == 1
    assert "the controller" in watching.text and "Traceback" not in watching.text


def test_where_no_cluster_is_it_says_so(ipython_dir: Path) -> None:
    done = run("ipclusterz status --cluster-id=none")
    assert done.returncode == 12
    assert "no cluster" in done.stderr and "ipclusterz start" in done.stderr


def test_a_killed_cluster_is_no_cluster(ipython_dir: Path) -> None:
    done = run("ipclusterz start -n 1 --daemon")
    assert done.returncode == 0, done.stderr
    (file,) = ipython_dir.glob("cluster_default/pid/*.json")
    state = json.loads(file.read_text())
    launcher, controller = state["launcher"]["pid"], state["controller"]["pid"]
    os.kill(launcher, signal.SIGSTOP)  # it would tidy up
    os.kill(controller, signal.SIGKILL)
    os.kill(launcher, signal.SIGKILL)
    done = run("ipclusterz status")
    assert done.returncode == 12, done.stderr
    assert "ended" in done.stderr
    run("ipclusterz stop")


@pytest.mark.parametrize(
    ("line", "words"),
    [("-o xml", "must be json"), ("--interval=0", "more than 0"), ("now", "no such argument")],
)
def test_misuse_is_a_usage_error(line: str, words: str) -> None:
    done = run(f"ipclusterz status {line}")
    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((None, "-"), (0.04, "0.0s"), (9.94, "9.9s"), (12.9, "12s"), (185, "3m05s")),
        *((7380, "2h03m"), (183600, "2d03h")),
    ],
)
def test_time_spans_for_people(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *((None, "-"), (0, "0.0K"), (2048, "2.0K"), (13848576, "13M")),
        *((1.4 * 2**30, "1.4G"), (1023.9 * 2**20, "1.0G")),
    ],
)
def test_sizes_for_people(count: float | None, text: str) -> None:
    assert size(count) == text


def test_a_cluster_without_engines_says_how_to_add_some() -> None:
    empty = {
        "cluster_id": "",
        "profile": "default",
        "version": "1",
        "host": "h",
        "controller_pid": 1,
        "uptime": 3.0,
        "engines": [],
        "unassigned": 0,
        "clients": [],
        "schedulers": {"task": {"serving": False, "restarts": 2}},
        "departed": [],
        "jobs": [],
        "beyond": "other hosts can come to 192.0.2.7: engines only",
    }
    text = plain(empty)
    assert "ipclusterz engines -n 2" in text
    assert "\nother hosts can come to 192.0.2.7: engines only\n" in text
    assert "task does not serve (started again: 2)" in text
