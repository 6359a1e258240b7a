"""Networks that fail between a client or an agent and the controller; histories are judged.

A proxy of ours on the loopback stands for the network: it drops without a word, in one
direction or both, resets, delays, and vanishes.  Connector files say that the controller is
on another host, so nobody takes the way past it through UNIX sockets.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import ipclusterz as ipp
from tests.faults.history import History, judge, read
from tests.faults.seeds import chance
from tests.lab.proxy import Proxy
from tests.running import Running, alive, eventually

Start = Callable[[str], Running]


class Network:
    """A proxy before each port of a controller, and a connector file that leads there."""

    def __init__(self, original: Path, stack: ExitStack) -> None:
        document = json.loads(original.read_text())
        self.proxies: list[Proxy] = []
        addresses: dict[str, list[str]] = {}
        for name, listed in document["addresses"].items():
            port = int(next(a for a in listed if a.startswith("tcp:")).rpartition(":")[2])
            proxy = stack.enter_context(Proxy(("127.0.0.1", port)))
            self.proxies.append(proxy)
            addresses[name] = [f"tcp://127.0.0.1:{proxy.port}"]
        document["addresses"] = addresses
        document["url"] = addresses["registration"][0]
        document["hostid"], document["location"] = "elsewhere", "elsewhere"
        self.file = original.with_name(f"far-{original.name}")
        self.file.touch(0o600)
        self.file.write_text(json.dumps(document))

    def each(self, what: Callable[[Proxy], object]) -> None:
        for proxy in self.proxies:
            what(proxy)

    @property
    def used(self) -> int:
        """How many connections went through it so far."""
        return sum(proxy.accepted for proxy in self.proxies)


class Far:
    """A controller, an agent with two engines and a client; one of these is far away."""

    def __init__(self, start: Start, home: Path, stack: ExitStack, far: str) -> None:
        self.controller = start("ipcontrollerz")
        self.controller.until("^start engines:")
        security = home / "cluster_default" / "security"
        files = {role: security / f"ipcontroller-{role}.json" for role in ("client", "engine")}
        self.network = Network(files[far], stack)
        files[far] = self.network.file
        self.agent = start(f"ipenginez -n 2 --file={files['engine']}")
        for _ in range(2):
            self.agent.until("is ready")
        self.rc = stack.enter_context(ipp.Client(str(files["client"])))
        self.rc.wait_for_engines(2, timeout=20)
        self.pids = self.rc[:].apply_sync(os.getpid)
        assert self.network.used >= 5, "nobody goes through the network"


@contextmanager
def far_away(start: Start, home: Path, far: str) -> Iterator[Far]:
    with ExitStack() as stack:
        yield Far(start, home, stack, far)


FAULTS: dict[str, Callable[[Proxy], object]] = {
    "nothing passes": lambda proxy: proxy.stall(),
    "nothing goes up": lambda proxy: proxy.stall("up"),
    "nothing comes down": lambda proxy: proxy.stall("down"),
    "all is swallowed": lambda proxy: proxy.swallow(),
    "slow": lambda proxy: proxy.delay(0.1),
    "reset": lambda proxy: proxy.reset(),
    "reset in the middle": lambda proxy: proxy.reset_after(3000),
}


def disturb(far: Far, history: History, fault: str, seconds: float) -> None:
    """Work, a fault while it runs, more work meanwhile, then peace; all must end once."""
    view = far.rc.load_balanced_view()
    for index in range(60):
        history.submit(view, 0.01)
        history.submit(far.rc[index % 2])
    history.fault("network", fault)
    far.network.each(FAULTS[fault])
    began = time.monotonic()
    for _ in range(20):
        history.submit(view)
    while time.monotonic() - began < seconds:
        time.sleep(0.02)
    far.network.each(lambda proxy: proxy.resume())
    if fault == "all is swallowed":  # such a connection is never whole again
        far.network.each(lambda proxy: proxy.reset())
    history.receive_all()
    assert far.rc[:].apply_sync(os.getpid) == far.pids, "the same engines"


@pytest.mark.parametrize("side", ["client", "engine"])
def test_faults_of_the_network_lose_nothing_and_run_nothing_twice(
    start: Start, ipython_dir: Path, tmp_path: Path, side: str
) -> None:
    history = History(tmp_path / "history")
    random = chance("network")
    with far_away(start, ipython_dir, side) as far:
        for fault in random.sample(sorted(FAULTS), len(FAULTS)):
            disturb(far, history, fault, 0.3)
        assert far.rc.ids == [0, 1]
    history.close()
    assert judge(read(history.path)) == []


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", ["nothing passes", "nothing goes up", "nothing comes down"])
@pytest.mark.parametrize("side", ["client", "engine"])
def test_a_network_cut_for_thirty_seconds(
    start: Start, ipython_dir: Path, tmp_path: Path, side: str, fault: str
) -> None:
    history = History(tmp_path / "history")
    with far_away(start, ipython_dir, side) as far:
        disturb(far, history, fault, 30)
        assert far.rc.ids == [0, 1]
    history.close()
    assert judge(read(history.path)) == []


def test_a_host_gone_without_a_word_is_known_within_ten_seconds(
    start: Start, ipython_dir: Path
) -> None:
    with far_away(start, ipython_dir, "engine") as far:
        far.network.each(lambda proxy: proxy.stall())

        def silent() -> bool:
            agents = far.rc.session.connection.query("status")["agents"]
            return not any(agent["responding"] for agent in agents)

        eventually(silent, 10 + 10, "nobody notices that the host is gone")
        assert far.rc.ids == [0, 1], "within the lease its engines are only silent"
        far.network.each(lambda proxy: proxy.resume())
        assert far.rc[:].apply_sync(os.getpid) == far.pids
        assert all(alive(pid) for pid in far.pids)
