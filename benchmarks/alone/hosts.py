"""A gigabyte between two hosts, and an array to many engines of one, in network namespaces.

The hosts are those of the lab of the tests: a client and the controller on ``login``, engines
on ``node1``.  In the same round, between the same two, a bare one-way ZeroMQ pair carries as
much, and so does a bare socket whose ends seal, open and keep it.  Needs root on Linux, and
the programs that the lab needs.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from benchmarks import rows
from benchmarks.alone import Found, Setting, Unavailable
from benchmarks.books import Measured
from benchmarks.cases import BARE, PAIR, SEALED
from benchmarks.protocol import PeerError
from tests.lab import build
from tests.lab.host import Host
from tests.lab.lab import Lab

ENGINES = 8
PORT = 5999
INTERFACE = "eth1"
"""Of ``login``: its way to the nodes."""

ENGINE_FILE = ".ipython/cluster_default/security/ipcontroller-engine.json"
LIMIT = 300.0
"""Seconds for each of the programs."""

PATIENCE = 30.0
"""Seconds for the controller to listen."""


def measure(setting: Setting) -> list[Found]:
    """One transfer of each kind, those of the floors just before ours."""
    if reason := build.lacking():
        raise Unavailable(reason)
    plan = setting.plan
    setting.step("two hosts")
    with Lab() as lab:
        lab.open("node1", "login", "1024-65535")
        size = plan.gigabyte
        pair = {way: _bare(lab, setting, "pair", way, size) for way in ("there", "back")}
        bare = {way: _bare(lab, setting, "sealed", way, size) for way in ("there", "back")}
        ours = _ours(lab, setting, size)
    details = {"bytes": size}
    return [
        (PAIR, Measured(rows.HOSTS_THERE, pair["there"], details)),
        (PAIR, Measured(rows.HOSTS_BACK, pair["back"], details)),
        (BARE, Measured(rows.HOSTS_THERE, bare["there"], details)),
        (BARE, Measured(rows.HOSTS_BACK, bare["back"], details)),
        (SEALED, Measured(rows.HOSTS_THERE, ours["there"], details)),
        (SEALED, Measured(rows.HOSTS_BACK, ours["back"], details)),
        (SEALED, Measured(rows.HOSTS_CROSSED, ours["crossed"], {"seconds": ours["shared"]})),
    ]


def _bare(lab: Lab, setting: Setting, floor: str, way: str, size: int) -> float:
    """Bytes a second of a floor; the end on login listens, as the controller does."""
    address = f"{lab.login.inside_address}:{PORT}"
    if floor == "pair":
        address = f"tcp://{address}"
    program = ["python3", "-m", f"benchmarks.peers.{floor}"]
    here, far = ("send", "receive") if way == "there" else ("receive", "send")
    listening = lab.login.popen([*program, here, "bind", address, str(size)], env=setting.mark)
    connected = lab.nodes[0].popen(
        [*program, far, "connect", address, str(size)], env=setting.mark
    )
    outputs = [end.communicate(timeout=LIMIT)[0] for end in (listening, connected)]
    told = "".join(outputs).strip()
    if listening.returncode or connected.returncode or not told:
        raise PeerError(f"the bare {floor} failed {way}: {told or 'it said nothing'}")
    seconds, carried = json.loads(told)
    return float(carried / seconds)


def _ours(lab: Lab, setting: Setting, size: int) -> dict[str, Any]:
    """A controller on login, an agent on node1, and the client's measuring on login."""
    login, node = lab.login, lab.nodes[0]
    started = [login.popen(["ipcontrollerz", f"--ip={INTERFACE}"], env=setting.mark)]
    try:
        file = login.file(ENGINE_FILE)
        deadline = time.monotonic() + PATIENCE
        while not file.exists() and started[0].poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if not file.exists():
            raise PeerError(f"the controller on {login!r} did not listen in {PATIENCE:g} s")
        node.write("engine.json", file.read_text(), mode=0o600)
        agent = ["ipenginez", "-n", str(ENGINES), "--file=engine.json"]
        started.append(node.popen(agent, env=setting.mark))
        shared = int(setting.plan.megabytes * 1e6)
        words = [str(ENGINES), INTERFACE, str(size), str(shared)]
        env = {
            **setting.mark,
            "PYTHONPATH": os.pathsep.join([str(build.CHECKOUT), *setting.modules]),
        }
        return _told(login, ["python3", "-m", "benchmarks.peers.across_hosts", *words], env)
    finally:
        for process in reversed(started):
            process.terminate()
            process.communicate(timeout=LIMIT)


def _told(host: Host, command: list[str], env: dict[str, str]) -> dict[str, Any]:
    """What a program on a host printed last, as JSON."""
    done = host.run(command, timeout=LIMIT, env=env)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise PeerError(f"{' '.join(command[:3])} on {host!r}: {words[-1] if words else '?'}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
