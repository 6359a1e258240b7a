"""With ``-r`` keys outlive a controller; what was recorded is worthless to the next one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

import ipclusterz as ipp
from tests.faults.conftest import start as start
from tests.running import Running, eventually
from tests.security.attack import Target, paced, replay, shout, tapped


class Kept:
    """What taps need to know of a cluster: its files and ports, which it keeps too."""

    def __init__(self, security: Path) -> None:
        self.files: dict[str, Any] = {
            role: json.loads((security / f"ipcontroller-{role}.json").read_text())
            for role in ("client", "engine")
        }

    port = Target.port

    def keys(self) -> list[str]:
        return [self.files[role]["exec_key"] for role in ("client", "engine")]


@pytest.mark.timeout(120)
def test_a_recording_is_worthless_after_a_restart_with_the_same_keys(
    ipython_dir: Path, tmp_path: Path, start: Callable[[str], Running]
) -> None:
    """The client that was recorded lives on: its session and its password are good again."""
    ran = str(tmp_path / "ran")

    def note(word: str) -> int:
        with open(ran, "a") as file:
            file.write(f"{word}\n")
        return len(word)

    controller = start("ipcontrollerz -r")
    controller.until("^start engines:")
    agent = start("ipenginez -n 1")
    agent.until("is ready")
    (log,) = (ipython_dir / "cluster_default" / "log").glob("ipcontroller-task.log")
    security = ipython_dir / "cluster_default" / "security"
    target = Kept(security)
    taps = tapped(cast(Target, target), tmp_path / "client.json")
    try:
        with ipp.Client(str(tmp_path / "client.json")) as rc:
            rc.wait_for_engines(1, timeout=20)
            assert rc[:].apply_sync(note, "direct") == [6]
            assert rc.load_balanced_view().apply_sync(note, "balanced") == 8
            number = rc.session.connection.facts["number"]
            session = {
                name: [(bytes(sent), bytes(heard)) for sent, heard in tap.recorded if sent]
                for name, tap in taps.items()
            }
            controller.process.kill()
            controller.wait()
            controller = start("ipcontrollerz -r")
            controller.until("^start engines:")
            assert Kept(security).keys() == target.keys(), "so that they might be of use"
            rc.wait_for_engines(1, timeout=30)
            assert rc.load_balanced_view().apply_sync(note, "again") == 5
            assert rc.session.connection.facts["number"] == number
            for name, recorded in session.items():
                for sent, heard in recorded:
                    for victim in session:
                        replay(target.port(victim), paced(sent), 0.1)
                    shout(target.port(name), heard, 0.1)
            eventually(lambda: "a greeting that does not open" in log.read_text())
            assert Path(ran).read_text() == "direct\nbalanced\nagain\n"
            assert rc[:].apply_sync(note, "last") == [4]
    finally:
        for tap in taps.values():
            tap.close()
    assert Path(ran).read_text() == "direct\nbalanced\nagain\nlast\n"
    assert controller.end() == 0
    assert agent.wait(30) == 0
