"""Controllers that are killed, hindered, misused or come back: what users see."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import ipclusterz as ipp
from ipclusterz.cluster import ControllerSettings
from ipclusterz.core.config import CHANNEL_NAMES
from ipclusterz.error import ControllerLost, EngineError, LaunchError
from tests.running import Running, alive, children, eventually, kill, run

Start = Callable[[str], Running]
Event = dict[str, Any]


class Observed:
    """A cluster whose status events are kept."""

    def __init__(self, n: int = 2, **settings: Any) -> None:
        self.events: list[Event] = []
        self.cluster = ipp.Cluster(n=n, notice=self.events.append, **settings)
        self.client = self.cluster.start_and_connect_sync()

    def parts(self) -> dict[str, int]:
        ready = next(e for e in self.events if e["event"] == "ready")
        return dict(ready["parts"])

    def controller(self) -> int:
        return int(next(e["pid"] for e in self.events if e["event"] == "ready"))

    def saw(self, kind: str) -> list[Event]:
        return [e for e in self.events if e["event"] == kind]

    def close(self) -> None:
        self.client.close()
        self.cluster.stop_cluster_sync()


@pytest.fixture
def observe() -> Iterator[Callable[..., Observed]]:
    made: list[Observed] = []

    def begin(**settings: Any) -> Observed:
        made.append(Observed(**settings))
        return made[-1]

    yield begin
    for observed in made:
        observed.close()


def slowly(value: int) -> int:
    import time

    time.sleep(0.005)
    return value


# -- parts of the controller ---------------------------------------------------------------


@pytest.mark.parametrize("part", ["hub", "task", "direct", "control", "iopub"])
def test_a_part_that_is_killed_comes_back_and_no_result_is_lost(
    observe: Callable[..., Observed], part: str
) -> None:
    seen = observe()
    rc = seen.client
    view = rc.load_balanced_view()
    one_by_one = [view.apply_async(slowly, i) for i in range(300)]
    everywhere = [rc[:].apply_async(slowly, i) for i in range(50)]
    one_by_one[30].get(timeout=20)
    kill(seen.parts()[part])
    assert [r.get(timeout=30) for r in one_by_one] == list(range(300))
    assert [r.get(timeout=30) for r in everywhere] == [[i, i] for i in range(50)]
    eventually(lambda: seen.saw("restarted"), what="nobody says that it was started again")
    event = seen.saw("restarted")[0]
    assert (event["part"], event["reason"]) == (part, "signal SIGKILL")
    # And everything works as before: queries, interrupts, output, new engines.
    assert rc.ids == [0, 1]
    eventually(lambda: rc.queue_status() is not None)
    shown = rc[:].apply_async(print, "hello")
    shown.get(timeout=20)
    assert shown.stdout == ["hello\n", "hello\n"]
    seen.cluster.start_engines_sync(1)
    rc.wait_for_engines(3, timeout=20)
    assert rc[:].apply_sync(slowly, 7) == [7, 7, 7]


def test_hub_and_task_scheduler_killed_at_once(observe: Callable[..., Observed]) -> None:
    seen = observe()
    view = seen.client.load_balanced_view()
    tasks = [view.apply_async(slowly, i) for i in range(300)]
    tasks[30].get(timeout=20)
    parts = seen.parts()
    kill(parts["hub"])
    kill(parts["task"])
    assert [r.get(timeout=30) for r in tasks] == list(range(300))
    assert seen.client.ids == [0, 1]


def test_an_engine_that_dies_while_the_hub_is_away_is_not_shown(
    observe: Callable[..., Observed],
) -> None:
    seen = observe()
    pid = seen.client[0].apply_sync(os.getpid)
    kill(seen.parts()["hub"])
    kill(pid)
    eventually(lambda: seen.client.ids == [1])
    assert seen.client[:].apply_sync(slowly, 1) == [1]


def test_engines_that_die_while_their_agent_registers_again_are_not_shown(
    observe: Callable[..., Observed],
) -> None:
    """A hub that stands still has not read a registration which names engines of before."""
    seen = observe(n=6)
    pids = seen.client[:].apply_sync(os.getpid)
    supervisor, parts = seen.controller(), set(seen.parts().values())
    kill(seen.parts()["hub"])
    fresh: list[int] = []

    def appeared() -> bool:
        fresh[:] = set(children(supervisor)) - parts
        return bool(fresh)

    eventually(appeared)
    (hub,) = fresh
    os.kill(hub, signal.SIGSTOP)
    try:
        eventually(lambda: seen.saw("waiting"))
        for gone, pid in enumerate(pids[:5], 1):  # one at least while it waits for the answer
            kill(pid)
            eventually(lambda gone=gone: len(seen.saw("engine_down")) == gone)
    finally:
        os.kill(hub, signal.SIGCONT)
    eventually(lambda: seen.client.ids == [5])
    assert seen.client[:].apply_sync(slowly, 1) == [1]
    why = dict(seen.client.session.connection.query("departed"))
    assert sorted(why) == [0, 1, 2, 3, 4]
    assert seen.client.ids == [5]  # also by what the new hub has told
    causes = {reason.partition("\n")[0] for reason in why.values()}
    assert causes == {
        "killed by signal SIGKILL (by somebody, or by the kernel for want of memory: see dmesg)"
    }


def test_why_the_last_engine_ended_comes_before_that_its_agent_left(
    observe: Callable[..., Observed],
) -> None:
    """The hub is quick to say that an agent has left, and a busy scheduler hears that first."""
    seen = observe(n=1)
    view = seen.client.load_balanced_view()
    pid = view.apply_sync(os.getpid)
    running = view.apply_async(time.sleep, 60)
    eventually(lambda: seen.client.queue_status()[0]["tasks"] == 1)
    task = seen.parts()["task"]
    os.kill(task, signal.SIGSTOP)
    try:
        kill(pid)
        eventually(lambda: seen.saw("engine_down"))
        ask = seen.client.session.connection.query
        deadline = time.monotonic() + 0.5  # the agent waits for longer, though not for ever
        while ask("status")["agents"] and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        os.kill(task, signal.SIGCONT)
    with pytest.raises(EngineError, match="SIGKILL"):
        running.get(timeout=30)


def test_a_part_that_always_dies_ends_the_controller_with_a_reason(
    observe: Callable[..., Observed],
) -> None:
    seen = observe(n=1)
    supervisor = seen.controller()
    doomed = seen.parts()["iopub"]

    def again() -> bool:
        kill(doomed)
        return bool(seen.saw("ended"))

    def find() -> int:
        with_log = Path(seen.cluster.profile.log)
        lines = "".join(p.read_text() for p in with_log.glob("ipcontroller-*.log"))
        return len(re.findall("starting it again", lines))

    deadline = time.monotonic() + 40
    while not again() and time.monotonic() < deadline:
        known = set(seen.parts().values()) - {doomed}
        fresh = [p for p in children(supervisor) if p not in known]
        doomed = fresh[0] if fresh else doomed
        time.sleep(0.02)
    assert find() == 10
    assert any(
        "iopub process ended 11 times in a minute" in e["text"] for e in seen.saw("error")
    )


# -- the controller as a whole -------------------------------------------------------------


def test_a_killed_controller_is_told_of_within_seconds(
    observe: Callable[..., Observed], capfd: pytest.CaptureFixture[str]
) -> None:
    seen = observe()
    rc = seen.client
    waiting = rc.load_balanced_view().apply_async(time.sleep, 60)
    os.kill(seen.controller(), signal.SIGKILL)
    with pytest.raises(ControllerLost, match="cannot come back"):
        waiting.get(timeout=30)
    with pytest.raises(ControllerLost):
        rc[:].apply_sync(os.getpid)
    with pytest.raises(ControllerLost):
        rc.queue_status()
    assert "lost the connection to the controller" in capfd.readouterr().err
    assert any("no connection to the controller" in e["text"] for e in seen.saw("waiting"))
    assert "SIGKILL" in seen.cluster.problem
    assert not any(alive(pid) for pid in seen.parts().values()), "parts outlive the controller"


def test_engines_of_a_killed_controller_end_with_their_lease(start: Start) -> None:
    controller = start("ipcontrollerz --lease=1.5")
    controller.until("^start engines:")
    engine = start("ipenginez -n 2")
    pids = [int(engine.until(r"is ready").split()[-1].rstrip(")\n")) for _ in range(2)]
    controller.process.kill()
    engine.until("no connection to the controller")
    assert engine.wait(20) == 1
    eventually(lambda: not any(alive(pid) for pid in pids))
    assert "lease" in engine.text
    assert run("ipclusterz stop").returncode == 11, "removes what the dead one left"


def test_start_in_the_foreground_ends_with_an_error_and_cleans_up(
    start: Start, ipython_dir: Path
) -> None:
    started = start("ipclusterz start -n 2")
    started.until("ready in")
    profile = ipython_dir / "cluster_default"
    state = json.loads((profile / "pid" / "cluster-.json").read_text())
    below = children(started.process.pid)
    os.kill(state["controller"]["pid"], signal.SIGKILL)
    assert started.wait(30) == 1
    assert "SIGKILL" in started.text and "Traceback" not in started.text
    assert os.listdir(profile / "security") == []
    assert os.listdir(profile / "pid") == []
    assert not os.path.exists(state["runtime"])
    eventually(lambda: not any(alive(pid) for pid in below))


def test_killed_together_with_its_launcher_the_next_start_cleans_up(
    start: Start, ipython_dir: Path
) -> None:
    first = start("ipclusterz start -n 1")
    first.until("ready in")
    state = json.loads((ipython_dir / "cluster_default/pid/cluster-.json").read_text())
    below = children(first.process.pid)
    os.kill(first.process.pid, signal.SIGKILL)
    os.kill(state["controller"]["pid"], signal.SIGKILL)
    first.wait()
    second = start("ipclusterz start -n 1")
    second.until("ready in")
    assert not os.path.exists(state["runtime"])
    assert not any(alive(pid) for pid in below)
    assert second.end() == 0


def test_all_agents_hear_of_a_clean_stop(observe: Callable[..., Observed]) -> None:
    seen = observe(n=1)
    for _ in range(4):
        seen.cluster.start_engines_sync(1)
    os.kill(seen.controller(), signal.SIGTERM)
    eventually(lambda: len(seen.saw("ended")) == 6)
    assert [e["code"] for e in seen.saw("ended")] == [0] * 6
    assert seen.saw("waiting") == []
    with pytest.raises(ControllerLost, match="has ended"):
        seen.client[:].apply_sync(os.getpid)
    logs = Path(seen.cluster.profile.log).glob("ipenginez-*agent*.log")
    endings = [log.read_text() for log in logs]
    assert len(endings) == 5
    assert all("ending: the controller ends: the controller was stopped" in e for e in endings)


# -- starting ------------------------------------------------------------------------------


def a_taken_port() -> tuple[socket.socket, int]:
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    return taken, taken.getsockname()[1]


@pytest.mark.parametrize("command", ["ipcontrollerz", "ipclusterz start -n 1"])
def test_a_taken_port_is_named_with_the_way_out(command: str, ipython_dir: Path) -> None:
    taken, port = a_taken_port()
    with taken:
        done = run(f"{command} --regport={port}")
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port} for registration: Address already" in done.stderr
    assert f"sport = :{port}" in done.stderr and "--regport" in done.stderr
    assert "Traceback" not in done.stderr
    profile = ipython_dir / "cluster_default"
    assert os.listdir(profile / "security") == os.listdir(profile / "pid") == []


def test_two_starts_at_once_make_one_cluster(start: Start) -> None:
    both = [start("ipclusterz start -n 1"), start("ipclusterz start -n 1")]
    codes: list[int | None] = []

    def one_ended() -> bool:
        codes[:] = [each.process.poll() for each in both]
        return any(code is not None for code in codes)

    eventually(one_ended, timeout=30)
    loser, winner = both if codes[0] is not None else reversed(both)
    assert loser.wait() == 10 and "runs already" in loser.text
    winner.until("ready in")
    with ipp.Client() as rc:
        assert len(rc[:].apply_sync(os.getpid)) == 1
    assert winner.end() == 0


def test_ctrl_c_twice_kills(start: Start) -> None:
    started = start("ipclusterz start -n 2")
    started.until("ready in")
    below = children(started.process.pid)
    with ipp.Client() as rc:
        # Code that takes no hint: the engine does not end by itself.
        rc[:].apply_async(_stubborn)
        eventually(lambda: all(q["queue"] for k, q in rc.queue_status().items() if k in (0, 1)))
        started.process.send_signal(signal.SIGINT)
        started.until("stopping")
        began = time.monotonic()
        started.process.send_signal(signal.SIGINT)
        started.wait(20)
    assert time.monotonic() - began < 10
    eventually(lambda: not any(alive(pid) for pid in below))


def _stubborn() -> None:
    import signal
    import time

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(1)


# -- where it listens ----------------------------------------------------------------------


def listening(pid: int) -> set[tuple[str, int]]:
    found = set()
    for each in (pid, *children(pid)):
        for connection in psutil.Process(each).net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                found.add((connection.laddr.ip, connection.laddr.port))
    return found


def test_ipc_binds_no_tcp_port_and_works(observe: Callable[..., Observed]) -> None:
    seen = observe(n=2, controller=ControllerSettings(transport="ipc"))
    assert listening(seen.controller()) == set()
    assert seen.client[:].apply_sync(slowly, 3) == [3, 3]
    document = json.loads(Path(seen.cluster.client_file).read_text())
    assert "tcp://" not in json.dumps(document)


def a_range() -> int:
    """Return the first of seven ports that are free now."""
    for first in range(23001, 31000, 7):
        probes = [socket.socket() for _ in range(7)]
        try:
            for i, probe in enumerate(probes):
                probe.bind(("127.0.0.1", first + i))
            return first
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
    raise AssertionError("no seven free ports in a row")


def test_ports_are_given_in_the_documented_order(observe: Callable[..., Observed]) -> None:
    first = a_range()
    span = f"{first}-{first + 6}"
    seen = observe(n=1, controller=ControllerSettings(ports=span))
    document = json.loads(Path(seen.cluster.client_file).read_text())
    expected = {name: first + i for i, name in enumerate(CHANNEL_NAMES)}
    found = {
        name: int(addresses[-1].rpartition(":")[2])
        for name, addresses in document["addresses"].items()
    }
    assert found == expected
    assert document["url"] == f"tcp://127.0.0.1:{first}"
    assert listening(seen.controller()) == {("127.0.0.1", p) for p in expected.values()}
    assert (
        list(CHANNEL_NAMES) == "registration heartbeat query direct task control iopub".split()
    )


def test_listening_beyond_loopback_is_logged_and_loopback_stays(
    observe: Callable[..., Observed],
) -> None:
    own = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET and not address.address.startswith("127.")
    ]
    if not own:
        pytest.skip("this host has no address but loopback")
    seen = observe(n=1, controller=ControllerSettings(ip=own[0]))
    bound = listening(seen.controller())
    assert len(bound) == 14 and {ip for ip, _ in bound} == {own[0], "127.0.0.1"}
    assert len({port for _, port in bound}) == 7, "the same ports on both"
    (log,) = Path(seen.cluster.profile.log).glob(f"ipcontroller-{seen.cluster.cluster_id}.log")
    assert f"listening beyond loopback, as asked: tcp://{own[0]}:" in log.read_text()
    assert seen.client[:].apply_sync(slowly, 1) == [1]


# -- coming back ---------------------------------------------------------------------------


def test_with_r_files_ports_and_key_stay_good(start: Start, ipython_dir: Path) -> None:
    security = ipython_dir / "cluster_default" / "security"
    first = start("ipclusterz start -n 1 -r")
    first.until("ready in")
    names = ("ipcontroller-client.json", "ipcontroller-engine.json")
    kept = {n: json.loads((security / n).read_text()) for n in names}
    # An engine from elsewhere, with a copy of the file, and a client that stays.
    copy = ipython_dir / "copied-engine.json"
    copy.touch(0o600)
    copy.write_text((security / names[1]).read_text())
    other = start(f"ipenginez --file={copy}")
    other.until("is ready")
    assert first.end() == 0
    assert {n: (security / n).stat().st_mode & 0o777 for n in names} == dict.fromkeys(
        names, 0o600
    )
    assert other.wait(20) == 0, "a controller that says goodbye takes its engines along"

    late = start(f"ipenginez --file={copy}")
    late.until("no connection to the controller|waiting")
    second = start("ipclusterz start -n 1 -r")
    second.until("ready in")
    late.until("is ready")
    for name in names:
        again = json.loads((security / name).read_text())
        for field in ("exec_key", "server_key", "url"):
            assert again[field] == kept[name][field]
    with ipp.Client(str(security / names[0])) as rc:
        rc.wait_for_engines(2, timeout=20)
        assert len(rc[:].apply_sync(os.getpid)) == 2
    assert second.end() == 0

    port = int(kept[names[0]]["url"].rpartition(":")[2])
    done = run(f"ipclusterz start -n 1 -r --regport={port % 60000 + 1}")
    assert done.returncode == 2
    assert str(port) in done.stderr and str(port % 60000 + 1) in done.stderr
    assert f"rm {security}/ipcontroller.key" in done.stderr


def test_with_r_a_killed_controller_may_come_back_to_its_engines_and_clients(
    start: Start,
) -> None:
    first = start("ipcontrollerz -r")
    first.until("^start engines:")
    engine = start("ipenginez -n 2")
    for _ in range(2):
        engine.until("is ready")
    with ipp.Client() as rc:
        rc.wait_for_engines(2, timeout=20)
        pids = rc[:].apply_sync(os.getpid)
        rc[:].push({"kept": 5}, block=True)
        first.process.kill()
        first.wait()
        engine.until("no connection to the controller")
        second = start("ipcontrollerz -r")
        second.until("^start engines:")
    with ipp.Client(timeout=20) as rc:
        rc.wait_for_engines(2, timeout=20)
        assert sorted(rc[:].apply_sync(os.getpid)) == sorted(pids), "the same engines"
        assert rc[:]["kept"] == [5, 5]
    assert second.end() == 0
    assert engine.wait(20) == 0, "it hears of the end"


def test_an_agent_on_its_way_back_hears_that_its_controller_ends(start: Start) -> None:
    first = start("ipcontrollerz -r")
    first.until("^start engines:")
    engine = start("ipenginez")
    engine.until("is ready")
    first.process.kill()
    first.wait()
    engine.until("no connection to the controller")
    engine.process.send_signal(signal.SIGSTOP)  # as one that pauses before it tries again
    try:
        second = start("ipcontrollerz -r --no-log-to-file --log-level=INFO")
        second.until("^start engines:")
        second.process.send_signal(signal.SIGINT)
        second.until("waiting for agents on their way back")
    finally:
        engine.process.send_signal(signal.SIGCONT)
    assert engine.wait(20) == 0
    assert second.wait() == 0


# -- waiting calls -------------------------------------------------------------------------


def test_ctrl_c_during_a_wait_leaves_the_client_usable(
    observe: Callable[..., Observed],
) -> None:
    rc = observe().client
    view = rc.load_balanced_view()
    long = view.apply_async(time.sleep, 1.5)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        long.get()
    timer.join()
    assert view.apply_sync(slowly, 3) == 3
    assert long.get(timeout=20) is None


def test_a_controller_that_cannot_start_a_part_says_so(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="longer than the 107 bytes"):
        from ipclusterz.core.config import ControllerConfig
        from ipclusterz.net import controller

        deep = tmp_path / ("x" * 90)
        deep.mkdir(mode=0o700)
        config = ControllerConfig("client", "engine", runtime=str(deep))
        controller.run(config, lambda event: None, None)


def test_clients_that_close_are_forgotten_at_once(observe: Callable[..., Observed]) -> None:
    """Some have hung up before the hub reads that they leave."""
    seen = observe(n=1)
    rc = seen.client
    hub = psutil.Process(seen.parts()["hub"])
    for again in range(60):
        with ipp.Client(rc.connection_file) as other:
            assert other[:].apply_sync(abs, -again) == [again]
        if again == 9:
            files = hub.num_fds()
    eventually(lambda: len(rc.session.connection.query("status")["clients"]) == 1)
    assert hub.num_fds() <= files + 10, "one each would be 50; the task database has a few"
