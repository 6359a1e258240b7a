"""Clients and engines through real SSH servers, on hosts that only let SSH through."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.running import ROOT, eventually
from tests.ssh.conftest import answer, cluster_on, script

WORK = """
view = rc.load_balanced_view()
total = sum(view.map_sync(lambda x: 3 * x, range(10_000)))
import numpy as np
array = np.arange(25_000_000, dtype="f8")
rc[0].push({"array": array}, block=True)
same = rc[0].apply_sync(lambda: float(array.sum())) == float(array.sum())
back = rc[0].pull("array", block=True)
hosts = rc[:].apply_sync(lambda: __import__("socket").gethostname())
print(json.dumps([total, array.nbytes, same, bool((back == array).all()), sorted(hosts)]))
rc.close()
"""


def expected(*hosts: str) -> list[object]:
    return [3 * 49_995_000, 200_000_000, True, True, list(hosts)]


def test_the_entry_in_the_client_file(lab: Lab, laptop: Host, kind: str) -> None:
    with cluster_on(lab.login, "--ssh=ada@login") as text:
        assert json.loads(text)["ssh"] == "ada@login"
        laptop.write("client.json", text, mode=0o600)
        done = script(laptop, "rc = connect('client.json')" + WORK, kind)
    assert answer(done) == expected("login", "login")


def test_a_controller_on_a_node_behind_the_login_node(
    lab: Lab, laptop: Host, kind: str
) -> None:
    with cluster_on(lab.nodes[0]) as text:
        laptop.write("client.json", text, mode=0o600)
        # ProxyJump stands in ~/.ssh/config there.
        done = script(laptop, "rc = connect('client.json', sshserver='node1')" + WORK, kind)
        assert answer(done) == expected("node1", "node1")
        hops = script(
            laptop,
            """
            rc = connect('client.json', sshserver='ada@login,ada@node1')
            print(json.dumps(rc[:].apply_sync(os.getppid) != []))
            """,
            kind,
        )
        assert answer(hops) is True


def test_no_file_is_copied(lab: Lab, laptop: Host, kind: str) -> None:
    with cluster_on(lab.nodes[1]), lab.nodes[1].greeting('{"welcome": true}'):
        before = laptop.run(["find", ".", "-name", "*.json"]).stdout
        done = script(laptop, "rc = connect('ssh://ada@node2')" + WORK, kind)
        assert answer(done) == expected("node2", "node2")
        assert laptop.run(["find", ".", "-name", "*.json"]).stdout == before
        path = "/home/ada/.ipython/cluster_default/security/ipcontroller-client.json"
        for url in (f"ssh://node2/{path}", f"ssh://node2/{path.removeprefix('/home/ada/')}"):
            done = script(laptop, f"print(len(connect({url!r})))", kind)
            assert answer(done) == 2
        missing = script(laptop, "connect('ssh://node2/night')", kind)
    assert "there is no /home/ada/.ipython/cluster_night/security/" in missing.stderr


def test_an_engine_by_hand_through_ssh(lab: Lab, laptop: Host, kind: str) -> None:
    """From a copied file, on a host that can only reach the login node's SSH port."""
    node = lab.nodes[2]
    flag = ["--paramiko"] if kind == "paramiko" else []
    with cluster_on(lab.login, n=1):
        path = ".ipython/cluster_default/security/ipcontroller-engine.json"
        node.write("engine.json", lab.login.file(path).read_text(), mode=0o600)
        command = ["ipenginez", "--file=engine.json", "--ssh=ada@login", *flag]
        engine = node.popen(command)
        try:
            done = script(
                lab.login,
                "rc = connect(None)\nrc.wait_for_engines(2, timeout=60)" + WORK,
                kind,
            )
            assert answer(done) == expected("login", "node3")
        finally:
            engine.terminate()
            engine.communicate(timeout=30)
        eventually(lambda: node.processes("ada") == [], 20, "something of the engine stays")


def test_the_entry_in_the_engine_file(lab: Lab) -> None:
    node = lab.nodes[0]
    with cluster_on(lab.login, "--enginessh=ada@login", n=1):
        path = ".ipython/cluster_default/security/ipcontroller-engine.json"
        node.write("engine.json", lab.login.file(path).read_text(), mode=0o600)
        engine = node.popen(["ipenginez", "-n", "2", "--file=engine.json"])
        try:
            body = """
            rc = connect(None)
            rc.wait_for_engines(3, timeout=60)
            hosts = rc[:].apply_sync(lambda: __import__("socket").gethostname())
            print(json.dumps(sorted(hosts)))
            """
            assert answer(script(lab.login, body, "openssh")) == ["login", "node1", "node1"]
        finally:
            engine.terminate()
            engine.communicate(timeout=30)


def test_the_examples_of_the_page(lab: Lab, laptop: Host) -> None:
    page = (ROOT / "docs" / "ssh.md").read_text()
    blocks = re.findall(r"^```python\n(rc = .*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    with cluster_on(lab.login, "--ssh=ada@login") as text:
        lab.login.run(["ipclusterz", "start", "-n", "1", "--profile=work", "--daemon"])
        laptop.write("ipcontroller-client.json", text, mode=0o600)
        lines = [line for block in blocks for line in block.splitlines()]
        body = "".join(f"{line}\nfound.append(len(rc))\n" for line in lines)
        done = script(laptop, f"found = []\n{body}print(json.dumps(found))", "openssh")
        assert answer(done) == [2, 1, 2]
        lab.login.run(["ipclusterz", "stop", "--profile=work"], check=True)


def test_tunnels_by_hand(lab: Lab, laptop: Host) -> None:
    with cluster_on(lab.login, "--ports=12345-12351") as text:
        laptop.write("client.json", text, mode=0o600)
        done = script(laptop, "connect('client.json')", "openssh")
        assert "listens on the loopback of login only" in done.stderr
        said = lab.login.run(["ipclusterz", "status", "--ssh-command"], check=True).stdout
        command = said.strip()
        assert command.startswith(
            "ssh -N -L 127.0.0.1:12345:127.0.0.1:12345 -L 127.0.0.1:12346:"
        )
        tunnel = laptop.popen(command.split())
        try:
            laptop.wait_listening(12351)
            rc = "rc = connect('client.json', sshserver='')"
            assert answer(script(laptop, rc + WORK, "openssh")) == expected("login", "login")
        finally:
            tunnel.terminate()
            tunnel.communicate(timeout=30)


def test_a_running_connection_of_the_users_is_used(lab: Lab, laptop: Host) -> None:
    """No second login, and nothing of ours stays in it."""
    laptop.run(["mkdir", "-p", "control"], check=True)
    shared = ["-o", "ControlPath=/home/ada/control/%C"]
    with cluster_on(lab.login):
        config = laptop.file(".ssh/config")
        before = config.read_text()
        laptop.write(".ssh/config", "ControlPath /home/ada/control/%C\n" + before, mode=0o600)
        master = laptop.popen(["ssh", "-M", "-N", *shared, "login"])
        try:
            eventually(lambda: any(laptop.file("control").iterdir()), 20, "no master")
            logins = lab.login.sshd.log.count("Accepted publickey")
            body = """
            rc = connect('ssh://login')
            print(json.dumps(rc.load_balanced_view().map_sync(abs, range(-3, 0))))
            rc.close()
            """
            done = script(laptop, body, "openssh")
            assert answer(done) == [3, 2, 1]
            killed = script(
                laptop,
                "rc = connect('ssh://login')\nprint(len(rc))\nos.kill(os.getpid(), 9)",
                "openssh",
            )
            assert killed.returncode == -9
            if logins:  # a server that logs what it accepts
                assert lab.login.sshd.log.count("Accepted publickey") == logins
            assert master.poll() is None
        finally:
            laptop.write(".ssh/config", before, mode=0o600)
            master.terminate()
            master.communicate(timeout=30)
        eventually(lambda: laptop.processes("ada") == [], 20, "our guard stays")


@pytest.mark.parametrize("how", ["close", "exit", "kill"])
def test_nothing_of_a_tunnel_stays(lab: Lab, laptop: Host, kind: str, how: str) -> None:
    ends = {"close": "rc.close()", "exit": "sys.exit()", "kill": "os.kill(os.getpid(), 9)"}
    folders = ["find", "/tmp", "-maxdepth", "1", "-name", "ipclusterz-*"]
    with cluster_on(lab.login):
        before = laptop.run(folders).stdout
        body = f"rc = connect('ssh://login')\nrc[:].apply_sync(abs, 1)\n{ends[how]}"
        done = script(laptop, body, kind)
        assert done.returncode == (-9 if how == "kill" else 0), done.stderr
        eventually(lambda: laptop.processes("ada") == [], 20, "an ssh process stays")
        if kind == "paramiko" and how == "kill":  # its sockets are ours, and so killed
            # Not at once: somebody may be about to listen in a folder that is new.
            laptop.run(["sh", "-c", "touch -d '1 day ago' /tmp/ipclusterz-*"], check=True)
            laptop.run(["ipclusterz", "clean"], check=True)
        assert laptop.run(folders).stdout == before


def ps_of(host: Host) -> str:
    """All arguments and environments of the host's processes."""
    found = []
    for process in host.processes():
        for name in ("cmdline", "environ"):
            try:
                with open(f"/proc/{process.pid}/{name}", "rb") as file:
                    found.append(file.read().decode(errors="replace"))
            except OSError:
                continue
    return "\n".join(found)


def test_no_key_is_seen(lab: Lab, laptop: Host, kind: str) -> None:
    with cluster_on(lab.login) as text:
        key = json.loads(text)["exec_key"]
        laptop.write("wait.py", WAITS)
        waiting = laptop.popen(["python3", "wait.py", kind], stdin=subprocess.PIPE)
        try:
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == "up\n"
            for host in (lab.laptop, lab.login):
                assert key not in ps_of(host)
                found = host.run(["grep", "-rlF", "--", key, "/home/ada", "/tmp", "/var/log"])
                files = [f for f in found.stdout.split() if "/security/" not in f]
                assert files == [], "the key lies about"
        finally:
            waiting.communicate("\n", timeout=30)


WAITS = """
import sys
import ipclusterz as ipp
rc = ipp.Client("ssh://login", paramiko=sys.argv[1] == "paramiko" or None)
rc[:].apply_sync(abs, 1)
print("up", flush=True)
sys.stdin.readline()
"""


LENDING = """
from ipclusterz.engine import bodies
import numpy as np
payloads = rc.session.connection._payloads
bodies.write = None  # no room for a file
asked = []
serve = payloads._carrier.serve
payloads._carrier.serve = lambda *args: (asked.append(1), serve(*args))
array = np.arange(6_000_000, dtype="f8")
engines = rc.session.connection.engines
view = rc[[number for number, info in engines.items() if info.host == THERE]]
view.push({"array": array}, block=True)
same = view.apply_sync(lambda a: bool((a == array).all()), array)
print(json.dumps([same, bool(asked), os.listdir(payloads.folder)]))
rc.close()
"""


def test_a_blocking_call_needs_no_room_where_it_is_made(
    lab: Lab, laptop: Host, kind: str
) -> None:
    """The scheduler beside a client reads its memory; of one elsewhere it asks for pieces."""
    node = lab.nodes[0]
    with cluster_on(lab.login, "--ssh=ada@login --enginessh=ada@login", n=1) as text:
        path = ".ipython/cluster_default/security/ipcontroller-engine.json"
        node.write("engine.json", lab.login.file(path).read_text(), mode=0o600)
        engine = node.popen(["ipenginez", "-n", "2", "--file=engine.json"])
        try:
            wait = "rc.wait_for_engines(3, timeout=60)\n"
            lending = wait + LENDING.replace("THERE", repr("node1"))
            beside = script(lab.login, "rc = connect(None)\n" + lending, kind)
            same, asked, left = answer(beside)
            assert same == [True, True] and not asked and set(left) <= {".proof", ".lent"}
            laptop.write("client.json", text, mode=0o600)
            away = script(laptop, "rc = connect('client.json')\n" + lending, kind)
            same, asked, left = answer(away)
            assert same == [True, True] and asked and set(left) <= {".proof", ".lent"}
        finally:
            engine.terminate()
            engine.communicate(timeout=30)
