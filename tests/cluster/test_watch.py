"""The watcher's thread outlives whatever goes wrong in it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from ipclusterz.cluster.watch import Watcher
from ipclusterz.launchers.base import Event, JobState


class Fragile:
    """A job that cannot be looked at once, tells two things, and ends."""

    def __init__(self) -> None:
        self.looks = 0

    def watched(self) -> list[int]:
        return []

    def poll(self) -> JobState:
        self.looks += 1
        if self.looks == 1:
            raise RuntimeError("cannot look")
        return JobState(0)

    def events(self) -> list[Event]:
        return [{"event": "one"}, {"event": "two"}]


def test_it_goes_on_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    told: list[str] = []
    ended = threading.Event()

    def on_event(job: Any, event: Event) -> None:
        told.append(event["event"])
        raise RuntimeError("cannot listen")

    def on_end(job: Any, state: JobState) -> None:
        ended.set()
        raise RuntimeError("cannot note the end")

    watcher = Watcher(on_event, on_end)
    job: Any = Fragile()
    watcher.add(job)
    try:
        assert ended.wait(30) and told == ["one", "two"]
        assert watcher._thread is not None and watcher._thread.is_alive()
    finally:
        watcher.close()
    shown = capfd.readouterr().err
    for words in ("cannot look", "cannot listen", "cannot note the end"):
        assert f"RuntimeError: {words}" in shown
