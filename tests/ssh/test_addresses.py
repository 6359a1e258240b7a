"""Controllers that other hosts come to without SSH: who is let in where, and what is said."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.ssh.conftest import cluster_on, script

SECURITY = ".ipython/cluster_default/security"
CONNECT = """
rc = ipp.Client('client.json', sshserver='', timeout=20)
print(json.dumps([rc[:].apply_sync(abs, -3), rc.session.connection.facts['address']]))
rc.close()
"""


def said_by(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stdout + done.stderr).split())


def client_on(host: Host, text: str) -> subprocess.CompletedProcess[str]:
    host.write("client.json", text, mode=0o600)
    return script(host, CONNECT, "openssh")


@pytest.fixture
def node(lab: Lab) -> Host:
    """A node that may connect to any port of the login node."""
    lab.open("node1", "login", "1024-65535")
    return lab.nodes[0]


def test_engines_come_to_an_interface_and_clients_do_not(lab: Lab, node: Host) -> None:
    """Neither with the client's file as it is, nor with one made to lead there."""
    inside = lab.login.inside_address
    with cluster_on(lab.login, "--ip=eth1", n=1) as text:
        engines = lab.login.file(f"{SECURITY}/ipcontroller-engine.json").read_text()
        listed = json.loads(engines)["addresses"]["task"]
        assert [a.rpartition(":")[0] for a in listed[1:]] == [
            f"tcp://{inside}",
            "tcp://127.0.0.1",
        ]
        node.write("engine.json", engines, mode=0o600)
        engine = node.popen(["ipenginez", "--file=engine.json"])
        try:
            lab.login.run(["python3", "-c", WAIT], check=True, timeout=60)
        finally:
            engine.terminate()
            engine.wait(timeout=20)
        done = client_on(node, text)
        assert done.returncode != 0
        assert "--client-ip" in said_by(done)
        forged = json.loads(text) | {"url": json.loads(engines)["url"]}
        forged["addresses"] = json.loads(engines)["addresses"]
        refused = said_by(client_on(node, json.dumps(forged)))
        assert f"refused this client: it comes from {node.inside_address} to" in refused
        assert f"start the controller with --client-ip={inside}" in refused
        status = lab.login.run(["ipclusterz", "status"], check=True).stdout
        assert f"other hosts can come to {inside}: engines only; all traffic" in status
        log = lab.login.run(["ipclusterz", "logs", "hub"], check=True).stdout
        assert f"refused a client from {node.inside_address}: at {inside} only" in log


WAIT = """
import ipclusterz as ipp
with ipp.Client() as rc:
    rc.wait_for_engines(2, timeout=30)
    hosts = rc[:].apply_sync(lambda: __import__('socket').gethostname())
assert sorted(hosts) == ['login', 'node1'], hosts
"""


def test_clients_come_where_client_ip_says(lab: Lab, node: Host) -> None:
    inside = lab.login.inside_address
    with cluster_on(lab.login, f"--ip=auto --client-ip={inside}", n=2) as text:
        done = client_on(node, text)
        assert done.returncode == 0, said_by(done)
        answer, address = json.loads(done.stdout.splitlines()[-1])
        assert answer == [3, 3]
        assert address.startswith(f"tcp://{inside}:")


def test_a_silent_address_does_not_hide_a_good_one(lab: Lab, node: Host) -> None:
    inside = lab.login.inside_address
    with cluster_on(lab.login, f"--ip={inside} --client-ip={inside}", n=1) as text:
        document = json.loads(text)
        for listed in document["addresses"].values():
            # Nothing has that address: what is sent there is lost without a word.
            listed.insert(1, "tcp://10.255.255.1:" + listed[1].rpartition(":")[2])
        document["url"] = document["addresses"]["registration"][1]
        done = client_on(node, json.dumps(document))
        assert done.returncode == 0, said_by(done)
        assert json.loads(done.stdout.splitlines()[-1])[1].startswith(f"tcp://{inside}:")
        lab.shut()
        failed = said_by(client_on(node, json.dumps(document)))
        assert "could not register with the controller at" in failed
        for address in ("10.255.255.1", inside, "127.0.0.1"):
            assert f"tcp://{address}:" in failed.partition("within")[2]
        assert "SSH gets through: Client(sshserver=...)" in failed


def test_an_address_that_is_not_of_this_host(lab: Lab) -> None:
    for said, words in (
        ("--ip=10.99.0.1", "10.99.0.1 is no address of this host"),
        ("--ip=wg7", "'wg7' is neither an address, nor an interface of this host"),
        ("--ip=node1", "which is not this host"),
        ("--client-ip=wg7", "client_ip: 'wg7' is neither"),
    ):
        for command in ("ipcontrollerz", "ipclusterz start -n 1 --daemon"):
            done = lab.login.run([*command.split(), said], timeout=60)
            assert done.returncode == 2, said_by(done)
            assert words in said_by(done)
            assert f"eth1 {lab.login.inside_address}" in said_by(done)


def test_kept_files_lead_to_nobody_after_the_address_changed(lab: Lab) -> None:
    login = lab.login
    with cluster_on(login, "--ip=eth1 -r", n=1):
        pass
    try:
        path = f"{SECURITY}/ipcontroller.key"
        kept = json.loads(login.file(path).read_text())
        assert (kept["ip"], kept["addresses"]) == ("eth1", [login.inside_address])
        login.write(path, json.dumps(kept | {"addresses": ["10.77.0.1"]}), mode=0o600)
        done = login.run(["ipcontrollerz", "-r"], timeout=60)
        assert done.returncode == 2
        assert "'eth1' meant 10.77.0.1 when -r kept it" in said_by(
            done
        ) and f"and means {login.inside_address} now" in said_by(done)
    finally:
        login.run(["sh", "-c", f"rm -f {SECURITY}/*"], check=True)
