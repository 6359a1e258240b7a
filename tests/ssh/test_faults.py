"""What goes wrong with SSH: connections that break in mid-work, servers that refuse."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil
import pytest

from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.ssh.conftest import KINDS, answer, cluster_on, script

MAPS = """
import json, sys
import ipclusterz as ipp
def once(i, kind=sys.argv[1]):
    import os, time
    with open(f"ran-{kind}-{i}", "x"):  # a second time would fail
        pass
    time.sleep(0.02)
    return i
rc = ipp.Client("ssh://login", paramiko=sys.argv[1] == "paramiko" or None)
rc[:].apply_sync(abs, 1)
results = rc.load_balanced_view().map_async(once, range(int(sys.argv[2])))
print("up", flush=True)
sys.stdin.readline()
print(json.dumps(results.get(90) == list(range(int(sys.argv[2])))), flush=True)
rc.close()
"""

Finish = Callable[[], str]


@pytest.fixture
def cluster(lab: Lab) -> Iterator[None]:
    """A cluster on the login node, which has not worked yet."""
    with cluster_on(lab.login):
        for left in lab.login.file(".").glob("ran-*"):
            left.unlink()
        yield


@contextmanager
def mapping(lab: Lab, kind: str, n: int) -> Iterator[Finish]:
    """A map on the laptop that is under way; call the value for how it ended."""
    lab.laptop.write("maps.py", MAPS)
    maps = lab.laptop.popen(
        ["python3", "maps.py", kind, str(n)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert maps.stdout is not None
    line = maps.stdout.readline()
    assert line == "up\n", maps.communicate(timeout=30)

    def finish() -> str:
        out, err = maps.communicate("\n", timeout=120)
        assert maps.returncode == 0, err
        assert out == "true\n"
        return str(err)

    try:
        yield finish
    finally:
        maps.kill()
        maps.communicate()


@pytest.mark.timeout(120)
def test_thirty_seconds_without_a_network(lab: Lab, laptop: Host, cluster: None) -> None:
    """For clients of all kinds at once."""
    with ExitStack() as stack:
        finishes = [stack.enter_context(mapping(lab, kind, 400)) for kind in KINDS]
        with lab.cut("laptop", "login"):
            time.sleep(30)  # the fault itself, not a wait for something
        for finish in finishes:
            said = finish()
            assert "lost the SSH connection to login" in said
            assert "the SSH connection to login is back" in said


def test_the_connection_is_killed(lab: Lab, laptop: Host, cluster: None, kind: str) -> None:
    """Twice: the program here, then the server's session."""
    with mapping(lab, kind, 300) as finish:
        for process in laptop.processes("ada"):
            with suppress(psutil.NoSuchProcess):
                if process.name() == "ssh":
                    process.kill()
        lab.login.sshd.restart(sessions=True)
        finish()


SHORTAGE = """
import resource, socket
from ipclusterz.core.config import CHANNEL_NAMES
from ipclusterz.core.connector import Connector
from ipclusterz.net.tunnel import Settings, Tunnel
from tests.running import eventually

def greeting():  # the tunnel leads to the server's own SSH port
    near = socket.socket(socket.AF_UNIX)
    with near:
        near.settimeout(10)
        near.connect(path)
        return near.recv(8) == b"SSH-2.0-"

places = {name: ["tcp://127.0.0.1:22"] for name in CHANNEL_NAMES}
connector = Connector(
    exec_key="0" * 40, server_key="0" * 40, role="client", url="tcp://127.0.0.1:22",
    hostid="elsewhere", addresses=places,
)
tunnel = Tunnel(Settings("login", paramiko=KIND == "paramiko"), connector)
path = tunnel.addresses["query"][0].removeprefix("ipc://")
waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 4, limits[1]))
taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
if KIND == "openssh":
    os.killpg(tunnel._connection._guard.pid, signal.SIGTERM)
    eventually(lambda: "Too many open files" in tunnel.problem)
else:
    for one in waiting:  # the first ones take what was kept for them
        one.connect(path)
    time.sleep(0.2)  # the fault itself, not a wait for something
for fd in taken:
    os.close(fd)
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
eventually(lambda: tunnel.up, 30)
print(json.dumps(greeting()))
tunnel.close()
"""


def test_no_descriptors_for_a_while(lab: Lab, laptop: Host, kind: str) -> None:
    """The tunnel is made again, and leads on, when there are some."""
    assert answer(script(laptop, SHORTAGE, kind)) is True


def test_a_refused_client_file(lab: Lab, laptop: Host, kind: str) -> None:
    """The controller of the file has ended: its port answers the server, not us."""
    with cluster_on(lab.login, "--ssh=login") as text:
        pass
    laptop.write("client.json", text, mode=0o600)
    done = script(laptop, "connect('client.json')", kind)
    assert (
        "ControllerLost: nothing listens for the controller at tcp://127.0.0.1:" in done.stderr
    )
    assert "login cannot reach it: Connection refused" in done.stderr


def said(laptop: Host, where: str, kind: str, **more: str) -> str:
    """The last line of the error of connecting, which comes within ten seconds and a bit."""
    began = time.monotonic()
    done = script(laptop, f"connect({where!r}, **{more!r})", kind)
    assert done.returncode == 1, done.stdout
    assert time.monotonic() - began < 25
    lines = done.stderr.strip().splitlines()
    return lines[-1]


def test_another_host_key(lab: Lab, laptop: Host, kind: str) -> None:
    with lab.login.sshd.other_host_key():
        text = said(laptop, "ssh://login", kind)
        again = said(laptop, "ssh://node1", kind)
    for line in (text, again):
        assert "SSHError: cannot connect to" in line
        assert "its host key is another one than before" in line


def test_an_unknown_host_key(lab: Lab, laptop: Host, kind: str) -> None:
    known = laptop.file(".ssh/known_hosts")
    before = known.read_text()
    laptop.write(".ssh/known_hosts", "", mode=0o600)
    try:
        line = said(laptop, "ssh://login", kind)
        # Also where the user told ssh not to ask.
        config = laptop.file(".ssh/config").read_text()
        laptop.write(".ssh/config", "StrictHostKeyChecking no\n" + config, mode=0o600)
        careless = said(laptop, "ssh://login", kind)
        laptop.write(".ssh/config", config, mode=0o600)
        assert known.read_text() == ""
    finally:
        laptop.write(".ssh/known_hosts", before, mode=0o600)
    for text in (line, careless):
        assert "its host key is not known here: log in once by hand (ssh login)" in text


def test_a_server_that_is_not_there(lab: Lab, laptop: Host, kind: str) -> None:
    assert "there is no host named nowhere" in said(laptop, "ssh://nowhere", kind)
    lab.login.sshd.stop(sessions=True)
    assert "nothing listens on its SSH port" in said(laptop, "ssh://login", kind)
    lab.login.sshd.start()
    with lab.cut("laptop", "login"):
        began = time.monotonic()
        done = script(laptop, "ipp.Client('ssh://login', paramiko=KIND == 'paramiko')", kind)
        assert "it does not answer: it is off, or a firewall" in done.stderr
        assert time.monotonic() - began < 20


def test_a_login_that_is_refused(lab: Lab, laptop: Host, kind: str) -> None:
    text = said(laptop, "ssh://bob@login", kind)
    assert "cannot connect to bob@login by ssh" in text and "it does not let us in" in text
    assert "there is no private key /home/ada/none" in said(
        laptop, "ssh://login", kind, sshkey="none"
    )


def test_a_password(lab: Lab, laptop: Host, kind: str) -> None:
    right = lab.plan.passwords["bob"]
    with cluster_on(lab.login) as text, lab.login.sshd.passwords():
        laptop.write("client.json", text, mode=0o600)
        good = f"rc = connect('client.json', sshserver='bob@login', password={right!r})"
        done = script(laptop, f"{good}\nprint(json.dumps(rc[:].apply_sync(abs, -1)))", kind)
        assert answer(done) == [1, 1]
        before = tries(lab)
        wrong = said(laptop, "client.json", kind, sshserver="bob@login", password="wrong")
        assert "it does not let us in" in wrong
        assert tries(lab) - before == 1, "it was tried again and again"


def tries(lab: Lab) -> int:
    """How many passwords the login node has refused."""
    return len(re.findall("Failed (?:password|keyboard-interactive)", lab.login.sshd.log))


def test_one_time_codes_are_asked_for_once(lab: Lab, laptop: Host, kind: str) -> None:
    with (
        cluster_on(lab.login) as text,
        lab.login.sshd.one_time_codes("bob", ["111", "222"]) as left,
    ):
        laptop.write("client.json", text, mode=0o600)
        body = """
        import getpass
        asked = []
        def ask(prompt="", stream=None):
            asked.append(prompt)
            return "111"
        getpass.getpass = ask
        sys.stdin.isatty = lambda: True
        rc = connect("client.json", sshserver="bob@login")
        rc.load_balanced_view().map_sync(abs, range(10))
        print(json.dumps(len(asked)))
        rc.close()
        """
        assert answer(script(laptop, body, kind)) == 1
        assert left() == ["222"]


def test_forwarding_that_is_refused(lab: Lab, laptop: Host, kind: str) -> None:
    with cluster_on(lab.login), lab.login.sshd.options(AllowTcpForwarding="no"):
        text = said(laptop, "ssh://login", kind)
    assert "SSHError: cannot" in text and "its sshd refuses to forward" in text


@pytest.mark.parametrize(
    "value",
    [
        "-oProxyCommand=touch /tmp/ran",
        "login -oProxyCommand=touch${IFS}/tmp/ran",
        "login;touch /tmp/ran",
        "$(touch /tmp/ran)@login",
        "login\n-oProxyCommand=touch /tmp/ran",
        "`touch /tmp/ran`",
        "ada@-oProxyCommand=touch /tmp/ran",
    ],
)
def test_a_hostile_client_file(lab: Lab, laptop: Host, kind: str, value: str) -> None:
    document = {
        "exec_key": "0" * 40,
        "server_key": "0" * 40,
        "role": "client",
        "url": "tcp://127.0.0.1:1",
        "hostid": "elsewhere",
        "ssh": value,
    }
    laptop.write("evil.json", json.dumps(document), mode=0o600)
    text = said(laptop, "evil.json", kind)
    assert "ConnectorError" in text and "ssh server" in text
    asked = said(laptop, "evil.json", kind, sshserver=value)
    assert "ConnectorError" in asked
    assert not laptop.file("/tmp/ran").exists()
