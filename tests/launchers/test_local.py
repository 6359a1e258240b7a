"""Processes on this host."""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path

import pytest

from ipclusterz.error import LaunchError
from ipclusterz.launchers.base import LaunchSpec
from ipclusterz.launchers.local import LocalJob, LocalLauncher

ECHO = """
import json, sys
for line in sys.stdin:
    print(json.dumps({"event": "got", "line": line.strip()}), flush=True)
"""


def spec(code: str, **fields: object) -> LaunchSpec:
    return LaunchSpec(argv=(sys.executable, "-c", code), name="the child", **fields)  # type: ignore[arg-type]


def next_events(job: LocalJob) -> list[dict[str, object]]:
    while watched := job.watched():  # a line may come in pieces
        ready, _, _ = select.select(watched, [], [], 10)
        assert ready, "no event within 10 s"
        if events := job.events():
            return events
    raise AssertionError(job.poll())


def test_text_goes_in_and_events_come_out() -> None:
    job = LocalLauncher().start(spec(ECHO, stdin="one\n"))
    try:
        assert next_events(job) == [{"event": "got", "line": "one"}]
        job.tell("two\n")
        assert next_events(job) == [{"event": "got", "line": "two"}]
        assert not job.poll().ended
    finally:
        state = job.stop()
    assert state.code == 0
    assert job.watched() == ()
    assert repr(job).endswith("code=0>")


def test_closing_its_input_ends_it() -> None:
    job = LocalLauncher().start(spec(ECHO))
    job.close()
    assert job.wait(10)
    assert job.poll().code == 0
    with pytest.raises(LaunchError, match="was told to end"):
        job.tell("x")
    job.stop()


def test_an_early_end_quotes_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("from an earlier run\n")
    job = LocalLauncher().start(spec("raise SystemExit('no such thing')", log=str(log)))
    assert job.wait(10)
    state = job.poll()
    assert state.code == 1
    assert state.text.endswith("no such thing")
    assert str(log) in state.text and "earlier" not in state.text
    assert log.stat().st_mode & 0o777 & ~0o644 == 0
    job.stop()


def test_an_error_event_is_the_reason() -> None:
    code = """print('{"event": "error", "text": "the port is taken"}'); raise SystemExit(3)"""
    job = LocalLauncher().start(spec(code))
    assert job.wait(10)
    assert job.poll().text.startswith("the port is taken\nthe child (process")
    assert "ended with code 3" in job.poll().text
    with pytest.raises(LaunchError, match="port is taken"):
        job.tell("x" * 100)
    job.stop()


def test_output_that_is_no_event_is_left_out() -> None:
    job = LocalLauncher().start(spec("print('hello'); print('[1]'); print('{\"event\": 3}')"))
    assert job.wait(10)
    assert job.events() == []
    job.stop()


def test_a_stubborn_child_is_killed() -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        ' print(\'{"event": "up"}\', flush=True); time.sleep(60)'
    )
    job = LocalLauncher().start(spec(code))
    next_events(job)
    state = job.stop(grace=0.05)
    assert state.code == -signal.SIGKILL
    assert "killed by SIGKILL" in state.text


def test_signals_arrive() -> None:
    job = LocalLauncher().start(spec(ECHO))
    job.signal(signal.SIGTERM)
    assert job.wait(10)
    assert job.poll().code == -signal.SIGTERM
    job.signal(signal.SIGTERM)  # nothing happens
    job.stop()


def test_what_cannot_start_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"cannot start x: .*: /no/such/program"):
        LocalLauncher().start(LaunchSpec(argv=("/no/such/program",), name="x"))
    with pytest.raises(LaunchError, match="cannot write the log"):
        LocalLauncher().start(spec(ECHO, log=str(tmp_path / "no" / "log")))


def test_environment_and_folder(tmp_path: Path) -> None:
    code = "import json, os; print(json.dumps({'event': os.environ['A'], 'at': os.getcwd()}))"
    job = LocalLauncher().start(spec(code, env={"A": "b"}, cwd=str(tmp_path)))
    assert next_events(job) == [{"event": "b", "at": str(tmp_path)}]
    job.stop()


def test_children_have_a_session_of_their_own() -> None:
    code = 'import os; print(\'{"event": "sid", "sid": %d}\' % os.getsid(0))'
    job = LocalLauncher().start(spec(code))
    assert next_events(job)[0]["sid"] == job.pid != os.getsid(0)
    job.stop()


def test_empty_logs_do_not_stay(tmp_path: Path) -> None:
    job = LocalLauncher().start(spec(ECHO, log=str(tmp_path / "log")))
    assert (tmp_path / "log").exists()
    job.stop()
    assert not (tmp_path / "log").exists()
