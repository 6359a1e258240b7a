"""Other users of ada's host, and another host's root: real ones, in the lab."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.lab.space import Process
from tests.running import eventually
from tests.security import stranger
from tests.ssh.conftest import cluster_on

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
PROFILE = ".ipython/cluster_default"
GROWTH = 10_000_000
KEYLESS = re.compile(r"ipzygote|ipenginez[- ]\d")
"""What engines and the processes they are forked from are called."""
CLIENT = """
import sys
import ipclusterz as ipp
rc = ipp.Client()
rc.wait_for_engines(1, timeout=20)
identity = next(iter(rc.session.connection._dials.values()))._identity
print(identity.peer.hex(), identity.password.hex(), flush=True)
for line in sys.stdin:
    print(rc[:].apply_async(pow, 2, 5).get(timeout=20), flush=True)
"""

ALLOWED = re.compile(
    rb"(?:\xff[\x00-\xff]{8}\x7f(?:\x03[\x00-\xff]{53})?)?"  # a signature, or a greeting
    rb"(?:\x04\x08\x07WELCOME)?"
    rb"(?:\x04[\x00-\xff]\x05READY(?:\x0bSocket-Type\x00\x00\x00\x06ROUTER)?"
    rb"(?:\x08Identity\x00\x00\x00\x00)?)?"
    rb"(?:\x04[\x00-\xff](?:\x05E|\x5e)RROR[\x00-\x10](?:[0-9]{3})?)?"  # as libzmq spells it
    rb"(?:\x00\x01U)?\Z"  # the door: greet first
)
"""All that a stranger may hear: ZMTP's own words, and that it is not known."""


@dataclass
class Attacker:
    """Somebody who runs ``stranger.py`` somewhere, and the address they reach ada's host by."""

    host: Host
    user: str
    address: str
    before: tuple[str, ...] = ()

    def start(self, what: str, told: dict[str, Any]) -> Process:
        text = Path(stranger.__file__).read_text()
        path = self.host.write("/tmp/stranger.py", text, user="root")
        words = [*self.before, "python3", str(path), what]
        pipe = subprocess.PIPE
        made = self.host.popen(words, user=self.user, cwd="/tmp", stdin=pipe, stderr=pipe)
        assert made.stdin is not None
        made.stdin.write(json.dumps(told) + "\n")
        made.stdin.flush()
        return made

    def run(self, what: str, told: dict[str, Any]) -> Any:
        out, err = self.start(what, told).communicate(timeout=100)
        assert out, err
        return json.loads(out)


class Ada:
    """Her cluster on the login node, and her client, which works all the time."""

    def __init__(self, host: Host, text: str) -> None:
        self.host = host
        self.document = json.loads(text)
        self.ports = {
            name: int(next(a for a in listed if a.startswith("tcp:")).rpartition(":")[2])
            for name, listed in self.document["addresses"].items()
        }
        pipe = subprocess.PIPE
        self._client = host.popen(["python3", "-c", CLIENT], stdin=pipe, stderr=None)
        assert self._client.stdout is not None
        self.name, self.password = self._client.stdout.readline().split()

    def works(self) -> None:
        assert self._client.stdin is not None and self._client.stdout is not None
        self._client.stdin.write("\n")
        self._client.stdin.flush()
        assert self._client.stdout.readline() == "[32]\n"

    def newcomer_works(self) -> None:
        done = self.host.run(["python3", "-c", CLIENT], input="\n", check=True)
        assert done.stdout.endswith("[32]\n")

    def processes(self, keyless: bool) -> list[psutil.Process]:
        """The cluster's processes: engines and zygotes, or those that hold keys."""
        found = [each for each in self.host.processes("ada") if self._of_cluster(each)]
        return [each for each in found if bool(KEYLESS.match(each.name())) is keyless]

    @staticmethod
    def _of_cluster(process: psutil.Process) -> bool:
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            return False  # it has just ended
        return "launched.py" in line or "engine.zygote" in line

    def memory(self) -> dict[int, int]:
        return {each.pid: each.memory_info().rss for each in self.processes(keyless=False)}

    def grown(self, before: dict[int, int]) -> dict[int, int]:
        now = self.memory()
        assert now.keys() == before.keys(), "one of them has ended"
        return {pid: size - before[pid] for pid, size in now.items()}

    def told(self) -> dict[str, Any]:
        return {"ports": self.ports, "user": self.name, "password": self.password}

    def close(self) -> None:
        self._client.kill()
        self._client.wait(10)


@contextmanager
def adas(lab: Lab, options: str = "") -> Iterator[Ada]:
    with cluster_on(lab.login, options, n=1) as text:
        ada = Ada(lab.login, text)
        try:
            yield ada
        finally:
            ada.close()


@pytest.fixture(params=["nobody", "another host"])
def attacker(request: pytest.FixtureRequest, lab: Lab) -> Attacker:
    if request.param == "nobody":
        return Attacker(lab.login, "root", "127.0.0.1", tuple(NOBODY))
    lab.open("node1", "login", "1024-65535")
    return Attacker(lab.nodes[0], "root", lab.login.inside_address)


@pytest.mark.timeout(180)
def test_strangers_at_all_ports_hear_nothing_and_hinder_nobody(
    lab: Lab, attacker: Attacker
) -> None:
    options = f"--ip={lab.login.inside_address}" if attacker.host is not lab.login else ""
    with adas(lab, options) as ada:
        assert len(ada.ports) == 7
        ada.works()
        before = ada.memory()
        logs = sum(each.stat().st_size for each in lab.login.file(f"{PROFILE}/log").iterdir())
        heard = attacker.run("knock", {"address": attacker.address, **ada.told()})
        assert heard.keys() == ada.ports.keys()
        for name, answers in heard.items():
            assert len(answers) == 11
            for what, answer in answers.items():
                assert ALLOWED.match(bytes.fromhex(answer)), (name, what, answer)
        # The gate works: only a captured password leads through it, to the door.
        # Who listens for half a second may miss an answer, so at most doors and not at each.
        captured = {"a captured password", "a captured one and a gigabyte"}
        led = 0
        for name in ada.ports.keys() - {"registration"}:
            through = {w for w, a in heard[name].items() if b"WELCOME" in bytes.fromhex(a)}
            assert through <= captured, name
            led += "a captured password" in through
        assert led >= 3
        for name, port in ada.ports.items():
            count = 1000 if name == "task" else 100
            told = {"address": attacker.address, "port": port, "count": count}
            holder = attacker.start("hold", told)
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            ada.works()
            out, err = holder.communicate("\n", timeout=30)
            assert out, err
        ada.newcomer_works()
        eventually(lambda: max(ada.grown(before).values()) < GROWTH, 40, "memory is given back")
        told = sum(each.stat().st_size for each in lab.login.file(f"{PROFILE}/log").iterdir())
        assert told - logs < 20_000
        ada.works()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("who", ["bob", "nobody"])
def test_another_user_reads_and_changes_nothing(lab: Lab, who: str) -> None:
    before = () if who == "bob" else tuple(NOBODY)
    attacker = Attacker(lab.login, "bob" if who == "bob" else "root", "127.0.0.1", before)
    with adas(lab) as ada:
        ada.works()
        found = ada.host.processes("ada")
        pids = [ada.host.pid_inside(each) for each in found]
        assert len(pids) >= 10, (
            "launcher, controller, five parts, agent, zygote, engine, client"
        )
        paths = {}
        for place in ("/home/ada", "/tmp", "/dev/shm", "/run"):
            for path in [ada.host.file(place), *ada.host.file(place).rglob("*")]:
                if path.lstat().st_uid == 40001:
                    paths["/" + str(path).removeprefix(f"{ada.host.space.root}/")] = path
        words = " ".join(paths)
        assert all(word in words for word in ("client.json", "engine.json", "tasks.db", ".log"))
        assert sum(stat.S_ISSOCK(path.lstat().st_mode) for path in paths.values()) >= 8
        outcome = attacker.run("look", {"pids": pids, "paths": sorted(paths)})
        assert outcome["did"] == []
        keys = [ada.document["exec_key"], ada.password, bytes.fromhex(ada.password).decode()]
        assert len(outcome["shown"]) == len(pids)
        assert not [line for line in outcome["shown"] for key in keys if key in line]
        ada.works()
        # She herself can do all this, by the same program: it does what it says.
        path = f"/home/ada/{PROFILE}/tasks.db"
        last = ada.host.pid_inside(ada.processes(keyless=True)[-1])
        told = {"pids": [last], "paths": [path]}
        did = " ".join(Attacker(lab.login, "ada", "127.0.0.1").run("look", told)["did"])
        words = "read /,write,put beside,open up,remove,environ,mem of,fd of,trace,signal"
        for word in words.split(","):
            assert word in did, did


def test_a_cluster_on_loopback_is_not_reached_from_elsewhere(lab: Lab) -> None:
    lab.open("node1", "login", "1024-65535")
    with adas(lab) as ada:
        code = (
            "import socket, sys\n"
            "for port in sys.argv[2:]:\n"
            "    with socket.socket() as made:\n"
            "        made.settimeout(5)\n"
            "        print(made.connect_ex((sys.argv[1], int(port))))\n"
        )
        ports = [*map(str, ada.ports.values())]
        words = ["python3", "-c", code, lab.login.inside_address, *ports]
        done = lab.nodes[0].run(words, check=True)
        assert done.stdout.split() == ["111"] * 7, "refused, each of them"
        ada.works()


@pytest.mark.timeout(120)
def test_what_holds_keys_leaves_no_core_dump(lab: Lab) -> None:
    """The kernel tells by the owner of its files in /proc who may look into a process."""
    with adas(lab) as ada:
        ada.works()
        closed, opened = ada.processes(keyless=False), ada.processes(keyless=True)
        assert len(closed) >= 7 and len(opened) >= 2
        assert {os.stat(f"/proc/{each.pid}/mem").st_uid for each in closed} == {0}
        assert {os.stat(f"/proc/{each.pid}/mem").st_uid for each in opened} == {40001}


CODE = """'open("/tmp/ran", "w").close()'"""


@pytest.mark.timeout(120)
def test_what_another_user_has_put_there_first_is_refused(lab: Lab) -> None:
    """Below a folder that all may write, where bob was first: nothing of his is trusted."""
    host = lab.login
    shell = "umask 000; rm -rf /tmp/open; mkdir -p /tmp/open; chmod 0777 /tmp/open"
    host.run(["sh", "-c", shell], check=True)
    security = "/tmp/open/ipython/cluster_default/security"
    file, startup = f"{security}/ipcontroller-client.json", f"{security}/../startup"
    env = {"IPYTHONDIR": "/tmp/open/ipython"}
    with adas(lab) as ada:
        # A controller of bob's own: her own file stands for it.
        host.write("/tmp/bait.json", json.dumps(ada.document), user="bob", mode=0o644)
        bobs = "umask 000; cd /tmp; rm -rf open/ipython; "
        plans = {
            "folder": f"mkdir -p {security}",
            "symlink": f"mkdir -p /tmp/bobs {security}/..; ln -s /tmp/bobs {security}",
            "config": f"mkdir -p {security}; echo {CODE} >{security}/../ipclusterz_config.py",
            "script": f"mkdir -p {security} {startup}; echo {CODE} >{startup}/a.py",
        }
        for kind, plan in plans.items():
            host.run(["sh", "-c", bobs + plan], user="bob", check=True)
            done = host.run(["ipclusterz", "start", "-n", "1", "--daemon"], env=env)
            assert done.returncode == (2 if kind == "config" else 1), (kind, done.stdout)
            assert "belongs to user 40002" in done.stderr, kind
            assert not host.file("/tmp/ran").exists(), f"{kind}: nothing of his was run"
        words = ["ipenginez", f"--file=/home/ada/{PROFILE}/security/ipcontroller-engine.json"]
        done = host.run([*words, f"--profile-dir={startup}/.."], env=env)
        assert done.returncode == 2 and "belongs to user 40002" in done.stderr, "an engine's"
        assert not host.file("/tmp/ran").exists()
        plans = {
            "file": f"cp /tmp/bait.json {file}; chmod 0644 {file}",
            "symlink": f"ln -s /tmp/bait.json {file}",
            "fifo": f"mkfifo -m 0666 {file}",
            "hers": f"ln -s /home/ada/{PROFILE}/security/ipcontroller-client.json {file}",
        }
        for kind, plan in plans.items():
            host.run(["sh", "-c", f"{bobs}mkdir -p {security}; {plan}"], user="bob", check=True)
            code = f"import ipclusterz as ipp; ipp.Client({file!r})"
            done = host.run(["python3", "-c", code], env=env)
            assert done.returncode == 1, kind
            said = done.stderr.splitlines()[-1]
            assert said.startswith("ipclusterz.error.ConnectorError: "), (kind, done.stderr)
            assert ada.document["exec_key"] not in done.stderr
        ada.works()
    host.run(["sh", "-c", "rm -rf /tmp/open /tmp/bobs /tmp/bait.json"], user="root")
