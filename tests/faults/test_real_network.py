"""Networks that fail between real hosts of the lab: packets dropped by nft, a slow link.

The controller is on the login node, engines on ``node1``, a client on ``node2``; they reach
each other by addresses, and by no tunnel.  Histories are judged as elsewhere.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.faults.far import ANSWER, together
from tests.faults.history import judge
from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.lab.space import Process
from tests.running import eventually

SECURITY = ".ipython/cluster_default/security"
FOLDER = "/home/ada/history"
SIDES = {"engines": "node1", "client": "node2"}


class Far:
    """A controller, two engines and a client, each on a host of its own."""

    def __init__(self, lab: Lab, stack: ExitStack, options: str = "") -> None:
        self.lab = lab
        self._stack = stack
        self.engines, self.client = lab["node1"], lab["node2"]
        inside = lab.login.inside_address
        for host in (self.engines, self.client):
            lab.open(host.name, "login", "1024-65535")
            host.run(["rm", "-rf", FOLDER], check=True)
            host.run(["mkdir", FOLDER], check=True)
        words = f"ipcontrollerz --ip={inside} --client-ip={inside} {options}".split()
        self._start(lab.login, words, "start engines:")
        for role, host in (("engine", self.engines), ("client", self.client)):
            text = lab.login.file(f"{SECURITY}/ipcontroller-{role}.json").read_text()
            host.write(f"{role}.json", text, mode=0o600)
        self.begin_engines()
        command = ["python3", "-m", "tests.faults.far", "client.json", FOLDER]
        self._commands = self._start(self.client, command, '"up"')
        self.pids = self.tell("pids")

    def begin_engines(self) -> None:
        """Start an agent, and wait for its two engines."""
        command = ["ipenginez", "-n", "2", "--file=engine.json"]
        agent = self._start(self.engines, command, "is ready")
        assert agent.stdout is not None
        assert "is ready" in agent.stdout.readline()

    def _start(self, host: Host, command: list[str], until: str) -> Process:
        process = host.popen(command, stdin=subprocess.PIPE)
        self._stack.callback(self._end, process)
        assert process.stdout is not None
        said = ""
        while until not in said.rpartition("\n")[0].rpartition("\n")[2]:
            line = process.stdout.readline()
            assert line, f"{host}: {command} ended: {said}"
            said += line
        return process

    @staticmethod
    def _end(process: Process) -> None:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()

    def tell(self, *command: object) -> Any:
        """Have the client do something; its answer."""
        process = self._commands
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(command) + "\n")
        process.stdin.flush()
        said = ""
        while not said.startswith(ANSWER):
            said = process.stdout.readline()
            assert said, f"the client ended at {command}"
        return json.loads(said.removeprefix(ANSWER))

    def verdict(self, costly: str = "engine") -> list[str]:
        """What the judge finds; each fault of the ``costly`` kind may cost a task."""
        parts = (self.client.file(f"{FOLDER}/client"), self.engines.file(f"{FOLDER}/engine"))
        return judge(together(*parts), [costly])


@pytest.fixture
def far(lab: Lab) -> Iterator[Far]:
    with ExitStack() as stack:
        stack.callback(clear, lab)
        yield Far(lab, stack)


def clear(lab: Lab) -> None:
    for host in lab.hosts.values():
        host.kill_users()
        host.run(["sh", "-c", "rm -rf ~/history ~/*.json ~/.ipython /dev/shm/ipclusterz-*"])


CUTS = {
    "nothing passes": ("login", True),
    "nothing comes down": ("login", False),
    "nothing goes up": ("", False),
}


def cut(far: Far, side: str, fault: str, seconds: float) -> None:
    """Work, packets that are dropped without a word, more work meanwhile, then peace."""
    source, both = CUTS[fault]
    ends = ("login", SIDES[side]) if source else (SIDES[side], "login")
    sent = far.tell("submit", 30, 0.02, 100)
    far.tell("fault", fault)
    with far.lab.cut(*ends, both=both):
        sent += far.tell("submit", 10, 0.0, 100)
        time.sleep(seconds)  # the fault itself
    assert far.tell("receive", 120) == sent
    assert far.tell("pids") == far.pids, "the same engines"


@pytest.mark.timeout(200)
@pytest.mark.parametrize("side", SIDES)
def test_packets_that_are_dropped_for_a_moment(far: Far, side: str) -> None:
    for fault in CUTS:
        cut(far, side, fault, 1.5)
    assert far.verdict() == []


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("fault", CUTS)
@pytest.mark.parametrize("side", SIDES)
def test_packets_that_are_dropped_for_thirty_seconds(far: Far, side: str, fault: str) -> None:
    cut(far, side, fault, 30)
    assert far.tell("ids") == [0, 1]
    assert far.verdict() == []


@pytest.mark.timeout(200)
@pytest.mark.parametrize("side", SIDES)
def test_a_slow_link(far: Far, side: str) -> None:
    """Two megabits a second, for some twenty of them each way; the others are served."""
    with far.lab.slow(SIDES[side], "2mbit"):
        far.tell("fault", "slow")
        sent = far.tell("submit", 10, 0.0, 50_000)
        assert far.tell("responding") == [True]
        assert far.tell("receive", 120) == sent
        assert far.tell("responding") == [True]
    assert far.tell("pids") == far.pids
    assert far.verdict() == []


@pytest.mark.timeout(200)
def test_a_host_that_vanishes_is_silent_within_seconds_and_gone_after_its_lease(
    lab: Lab,
) -> None:
    with ExitStack() as stack:
        stack.callback(clear, lab)
        far = Far(lab, stack, "--lease=14")
        sent = far.tell("submit", 5, 2.0, 10)
        lab.cut("login", "node1")
        began = time.monotonic()
        for _ in range(sent):  # each task may have been there
            far.tell("fault", "host")
        far.engines.kill_users()  # nobody can say goodbye
        eventually(lambda: far.tell("responding") == [False], 20, "nobody notices")
        assert time.monotonic() - began < 10 + 5, "told of within ten seconds, and a bit"
        assert far.tell("ids") == [0, 1], "within the lease its engines are only silent"
        eventually(lambda: far.tell("ids") == [], 40, "the lease does not end")
        lab.heal()
        far.begin_engines()  # for what had not begun
        right = far.tell("receive", 60)
        assert right < sent
        assert far.verdict("host") == []
