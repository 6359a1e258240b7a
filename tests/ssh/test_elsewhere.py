"""A whole cluster on another host, started and stopped from the laptop."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from ipclusterz.apps.elsewhere import passed_on
from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.running import eventually

SECURITY = ".ipython/cluster_default/security"


@pytest.fixture
def laptop(lab: Lab) -> Iterator[Host]:
    """The laptop; afterwards nothing runs anywhere, and the profile is empty."""
    yield lab.laptop
    lab.laptop.run(["ipclusterz", "stop"], timeout=60)
    try:
        for host in lab.hosts.values():
            eventually(lambda host=host: host.processes("ada") == [], what=str(host))
        assert list(lab.laptop.file(SECURITY).glob("*.json")) == []
    finally:
        for host in lab.hosts.values():
            host.kill_users()
            host.run(["sh", "-c", "rm -rf /tmp/ipclusterz-* /dev/shm/ipclusterz-* ~/.ipython"])


def start(laptop: Host, words: str) -> subprocess.CompletedProcess[str]:
    return laptop.run(["ipclusterz", "start", "--controller=ssh", *words.split()], timeout=90)


def names(laptop: Host) -> list[str]:
    body = (
        "import json, socket, ipclusterz as ipp\n"
        "with ipp.Client() as rc: print(json.dumps(rc[:].apply_sync(socket.gethostname)))"
    )
    done = laptop.run(["python3", "-c", body], timeout=60)
    assert done.returncode == 0, done.stderr
    return sorted(json.loads(done.stdout))


def test_a_controller_on_another_host(lab: Lab, laptop: Host) -> None:
    done = start(laptop, "--controller-host=ada@login -n 2")
    assert done.returncode == 0, done.stderr
    assert "ada@login: 2/2 engines" in done.stdout
    assert "connect: import ipclusterz as ipp; rc = ipp.Client()" in done.stdout
    client = json.loads(laptop.file(f"{SECURITY}/ipcontroller-client.json").read_text())
    assert client["ssh"] == "ada@login"
    assert laptop.file(f"{SECURITY}/ipcontroller-client.json").stat().st_mode & 0o777 == 0o600
    assert names(laptop) == ["login", "login"]
    again = laptop.run(["ipclusterz", "start", "-n", "1"], timeout=60)
    assert again.returncode == 10
    assert "was started on ada@login; stop it with 'ipclusterz stop" in again.stderr
    stopped = laptop.run(["ipclusterz", "stop"], timeout=60)
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped the cluster of profile 'default' on ada@login" in stopped.stdout
    assert laptop.run(["ipclusterz", "stop"], timeout=60).returncode == 11


def test_its_engines_are_started_from_there(lab: Lab, laptop: Host) -> None:
    with lab.login.greeting("Welcome!"):
        words = "--controller-host=login --engines=ssh --hosts=node1:2,node2"
        done = start(laptop, words)
        assert done.returncode == 0, done.stderr
        assert names(laptop) == ["node1", "node1", "node2"]
        assert laptop.run(["ipclusterz", "stop"], timeout=60).returncode == 0


def test_one_that_ended_there(lab: Lab, laptop: Host) -> None:
    assert start(laptop, "--controller-host=node1 -n 1").returncode == 0
    assert lab.nodes[0].run(["ipclusterz", "stop"], timeout=60).returncode == 0
    done = laptop.run(["ipclusterz", "stop"], timeout=60)
    assert done.returncode == 11
    assert "on node1: ipclusterz stop: no cluster runs" in done.stderr


@pytest.mark.timeout(120)
def test_ctrl_c_also_ends_what_has_begun_there(lab: Lab, laptop: Host) -> None:
    words = "--controller-host=login --engines=ssh --hosts=node1 --setup".split()
    command = ["ipclusterz", "start", "--controller=ssh", *words, "sleep 60"]
    for others in (False, True):
        if others:  # one that was there before is not ours to stop
            lab.login.run(["ipclusterz", "start", "-n", "1", "--daemon"], check=True)
        starting = laptop.popen(command)
        try:
            eventually(lambda: having(lab.login, "-c", "start", "--daemon"), 30)
            having(laptop, "start", "--controller=ssh")[-1].send_signal(signal.SIGINT)
            assert starting.wait(60) != 0
        finally:
            starting.kill()
            starting.communicate()
        eventually(lambda: not having(lab.login, "-c", "start", "--daemon"), 30)
        listed = lab.login.run(["ipclusterz", "list", "-o", "json"], check=True).stdout
        assert len(json.loads(listed)) == others
    lab.login.run(["ipclusterz", "stop"], check=True, timeout=60)
    lab.nodes[0].kill_users()  # a set-up line is let end


def having(host: Host, *words: str) -> list[psutil.Process]:
    """The programs there, the youngest last, that have these words."""
    found = []
    for process in host.processes("ada"):
        with suppress(psutil.Error):
            if set(words) <= set(process.cmdline()):
                found.append(process)
    return sorted(found, key=lambda process: process.create_time())


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ("-n 1", 2, "needs a host: add --controller-host=[USER@]HOST[:PORT]"),
        ("--controller-host=-oProxyCommand=x", 2, "it must be [USER@]HOST[:PORT]"),
        ("--controller-host=nowhere", 1, "there is no host named nowhere"),
        ("--controller-host=login --engines=ssh --hosts=node9", 1, "on login: "),
        ("--controller-host=login --ip=1.2.3.4", 1, "on login: "),
    ],
)
def test_what_cannot_be_started(laptop: Host, words: str, code: int, text: str) -> None:
    done = start(laptop, words)
    assert (done.returncode, text in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr


def test_which_words_are_meant_for_the_host() -> None:
    words = (
        "--controller=ssh --controller-host login -n 4 --daemon --profile-dir=/x --hosts a:1"
    )
    assert passed_on(words.split()) == ["-n", "4", "--hosts", "a:1"]
