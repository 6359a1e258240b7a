"""The controller's knock at its own doors: silent when they refuse, loud when one does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zmq

from ipclusterz.net.selftest import SelfTest
from tests.net.conftest import over_zeromq
from tests.running import ROOT


def knock(bench: Any) -> tuple[list[str], list[int]]:
    opened: list[str] = []
    done: list[int] = []
    public, _ = zmq.curve_keypair()
    doors = [bench.address] * 7  # the first is no CURVE door and cannot answer as one
    SelfTest(bench.loop, bench.context, bench.gate, public, doors, opened.append, done.append)
    bench.until(lambda: done)
    return opened, done


@over_zeromq
def test_doors_that_refuse_are_counted_and_nobody_is_alarmed(bench: Any) -> None:
    assert knock(bench) == ([], [6])
    assert bench.gate.refused == 0, "the test itself is no attack"
    assert knock(bench) == ([], [6])
    assert bench.gate.refused == 6, "but whoever takes its name later is one"


@over_zeromq
def test_a_door_that_lets_the_test_in_is_told_of(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.gate, "_judge", lambda mechanism, credentials: b"anybody")
    opened, done = knock(bench)
    assert sorted(set(opened)) == sorted("heartbeat query direct task control iopub".split())
    assert done == [0]


RUN = """
config = ControllerConfig(sys.argv[1] + "/client", sys.argv[1] + "/engine", log_dir=sys.argv[1])
sys.exit(controller.run(config, lambda event: print(json.dumps(event), flush=True), None))
"""


def controller(altered: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A controller that keeps all it has in a folder, after some code that alters it."""
    folder.chmod(0o700)
    return subprocess.run(
        [sys.executable, "-c", altered + RUN, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )


OPEN_GATE = """
import json, sys
from ipclusterz.core.config import ControllerConfig
from ipclusterz.net import controller, gate, hub
gate.Gate._judge = lambda self, mechanism, credentials: b"client"
hub.SELF_TEST_SECONDS = 0.0
"""


STOPPED = """
import json, os, signal, socket, sys
from ipclusterz.core.config import ControllerConfig
from ipclusterz.net import controller, hub
class Unanswered(hub.SelfTest):
    def __init__(self, loop, context, gate, key, addresses, *calls):
        listening = socket.create_server(("127.0.0.1", 0))  # accepts nobody
        silent = "tcp://127.0.0.1:%d" % listening.getsockname()[1]
        super().__init__(loop, context, gate, key, [silent] * 7, *calls)
        self.keep = listening
        os.kill(os.getppid(), signal.SIGTERM)
hub.SelfTest, hub.SELF_TEST_SECONDS = Unanswered, 0.0
"""


def test_a_controller_that_is_stopped_while_it_knocks_ends_in_order(tmp_path: Path) -> None:
    done = controller(STOPPED, tmp_path)
    assert done.returncode == 0, done.stderr
    said = "".join(log.read_text() for log in tmp_path.glob("*.log"))
    assert "stopping" in said and "killed" not in said and "refuse" not in said


def test_a_controller_with_an_open_door_ends_with_an_error(tmp_path: Path) -> None:
    done = controller(OPEN_GATE, tmp_path)
    assert done.returncode == 1, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    (error,) = [e for e in events if e["event"] == "error"]
    assert "let in a peer with a wrong key" in error["text"]
    assert "CRITICAL" in (tmp_path / "ipcontroller-hub.log").read_text()
    assert not (tmp_path / "client").exists() and not (tmp_path / "engine").exists()
