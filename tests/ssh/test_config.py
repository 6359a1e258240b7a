"""What users write into ~/.ssh/config for a host is for their sessions, not for ours."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.running import eventually

HEAD = """
import json, os, socket, subprocess, sys
from ipclusterz.core.ssh import Forward
from ipclusterz.error import SSHError
from ipclusterz.net.ssh import connect
def said(*words, **more):
    try:
        connection = connect(*words, **more)
    except SSHError as error:
        return str(error)
    with_it = connection.run("echo up")
    connection.close()
    return with_it.stdout.decode()
"""

USE = """
with open("config", "w") as file:
    file.write(sys.argv[1] + "\\n" + open(".ssh/config").read())
connection = connect("login", config=os.path.abspath("config"))
try:
    answer = {"run": connection.run("cat", b"read").stdout.decode()}
    connection.forward([Forward(os.path.abspath("near"), "127.0.0.1", 22)])
    with socket.socket(socket.AF_UNIX) as near:
        near.connect("near")
        answer["forward"] = near.recv(8).decode()
    answer["back"] = connection.reverse([Forward("0", "127.0.0.1", 1)])[0] > 0
finally:
    connection.close()
print(json.dumps(answer))
"""


@pytest.fixture
def laptop(lab: Lab) -> Iterator[Host]:
    """The laptop, on which nothing stays: ssh ends a moment after whoever started it."""
    yield lab.laptop
    try:
        eventually(lambda: not lab.laptop.processes("ada"), what="processes outlived it")
    finally:
        lab.laptop.kill_users()


def answered(laptop: Host, body: str, *words: str, **more: Any) -> Any:
    """What a script on the laptop printed last, as JSON."""
    laptop.write("script.py", HEAD + textwrap.dedent(body))
    done = laptop.run(["python3", "script.py", *words], timeout=60, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "option",
    [
        "RemoteForward 22 127.0.0.1:1",  # taken there
        "LocalForward /dev/null/none 127.0.0.1:1",  # impossible here
        "ExitOnForwardFailure yes\nRemoteForward 22 127.0.0.1:1",
        "ForkAfterAuthentication yes",
        "StdinNull yes",
        "SessionType none",
        "RemoteCommand echo no\nRequestTTY force",
        "LogLevel QUIET",
    ],
)
def test_options_of_the_users_sessions(lab: Lab, laptop: Host, option: str) -> None:
    """The fixture sees that no process stays."""
    found = answered(laptop, USE, option)
    assert found == {"run": "read", "forward": "SSH-2.0-", "back": True}


@pytest.mark.parametrize("level", ["QUIET", "DEBUG3"])
def test_whatever_ssh_is_to_print_the_cause_is_told(lab: Lab, laptop: Host, level: str) -> None:
    laptop.write("config", f"LogLevel {level}\n")
    text = answered(laptop, "print(json.dumps(said('bob@login', config='/home/ada/config')))")
    assert "it does not let us in" in text


def test_forwards_of_a_running_connection_are_the_users(lab: Lab, laptop: Host) -> None:
    """They are there after a connection of ours that went over the same one."""
    config = "ControlPath ~/.ssh/own\nLocalForward 127.0.0.1:18080 127.0.0.1:22\n"
    laptop.write("config", config)
    master = laptop.popen(["ssh", "-F", "config", "-M", "-N", "login"])
    try:
        laptop.wait_listening(18080)
        eventually(laptop.file(".ssh/own").exists)
        body = """
        connection = connect("login", config="/home/ada/config")
        connection.forward([Forward("18081", "127.0.0.1", 22)])
        with socket.create_connection(("127.0.0.1", 18081)) as near:
            came = near.recv(8).decode()
        connection.close()
        print(json.dumps(came))
        """
        assert answered(laptop, body) == "SSH-2.0-"
        eventually(lambda: 18081 not in laptop.listening())
        assert 18080 in laptop.listening()
    finally:
        master.terminate()
        master.wait(10)


def by_both(laptop: Host, env: dict[str, str] | None = None, **where: str) -> dict[str, str]:
    """What connecting said, by kind of connection: ``up``, or an error."""
    body = f"""
    both = {{"openssh": False, "paramiko": True}}
    print(json.dumps({{kind: said(paramiko=both[kind], **{where!r}) for kind in both}}))
    """
    return dict(answered(laptop, body, env=env))


def test_a_configuration_is_looked_for_in_the_working_folder(lab: Lab, laptop: Host) -> None:
    """ssh itself looks in ~/.ssh, and says nothing when it finds none."""
    laptop.write("config", "Host other\n    HostName login\n    HostKeyAlias login\n")
    found = by_both(laptop, target="other", config="config")
    assert found == {"openssh": "up\n", "paramiko": "up\n"}
    for text in by_both(laptop, target="login", config="none").values():
        assert "there is no ssh configuration /home/ada/none" in text


MANY_KEYS = """
for i in 1 2 3 4 5 6 7 8; do
    ssh-keygen -q -t ed25519 -N '' -f many && ssh-add -q many && rm many many.pub
done
"""


def test_the_key_that_is_named_comes_before_those_of_an_agent(lab: Lab, laptop: Host) -> None:
    """Servers hang up after some keys, and an agent may have many."""
    key = laptop.file(".ssh/id_ed25519").read_text()
    laptop.write("a 100% key/id", key, mode=0o600)
    laptop.write("config", "IdentityFile none\n")
    sock = {"SSH_AUTH_SOCK": "/home/ada/agent"}
    agent = laptop.popen(["ssh-agent", "-D", "-a", sock["SSH_AUTH_SOCK"]])
    try:
        eventually(laptop.file("agent").exists)
        laptop.run(["sh", "-c", MANY_KEYS], env=sock, check=True)
        for text in by_both(laptop, sock, target="login", config="config").values():
            assert "it gave up after too many keys: name the right one" in text
        found = by_both(laptop, sock, target="login", config="config", key="a 100% key/id")
        assert found == {"openssh": "up\n", "paramiko": "up\n"}
    finally:
        agent.terminate()
        agent.wait(10)


def test_a_tunnel_comes_back_in_another_folder(lab: Lab, laptop: Host) -> None:
    """Paths that were relative when it was made mean what they meant then."""
    body = """
    from ipclusterz.net.tunnel import Settings
    os.environ["IPCLUSTERZ_SSH_CONFIG"] = ".ssh/config"
    settings = Settings("login", key=".ssh/id_ed25519")
    os.chdir("/")
    connection = settings.connect()
    connection.close()
    print(json.dumps("up"))
    """
    assert answered(laptop, body) == "up"


@pytest.mark.parametrize("kind", ["openssh", "paramiko"])
def test_a_command_that_does_not_end_is_told_as_such(lab: Lab, laptop: Host, kind: str) -> None:
    """Not with its text, and not as what that may happen to name."""
    body = """
    connection = connect("login", paramiko=sys.argv[1] == "paramiko")
    try:
        connection.run("sleep 60; : Permission denied", timeout=0.5)
    except SSHError as error:
        print(json.dumps([str(error), error.kind]))
    connection.close()
    """
    text, what = answered(laptop, body, kind)
    assert text.startswith("cannot run a command on login by ssh: no end of it within 0.5 s")
    assert "Permission" not in text and what == ""


def test_what_forwards_met_is_not_why_a_connection_ended(lab: Lab, laptop: Host) -> None:
    body = """
    connection = connect("login")
    connection.forward([Forward(os.path.abspath("near"), "127.0.0.1", 1)])
    with socket.socket(socket.AF_UNIX) as near:
        near.connect("near")
        assert near.recv(1) == b""
    refused = connection.problem()
    print("up", flush=True)
    sys.stdin.readline()
    while connection.alive():
        select.select([], [], [], 0.05)
    print(json.dumps([refused, connection.problem()]))
    connection.close()
    """
    laptop.write("script.py", HEAD + "import select\n" + textwrap.dedent(body))
    pipe = subprocess.PIPE
    script = laptop.popen(["python3", "script.py"], stdin=pipe, stdout=pipe, stderr=pipe)
    assert script.stdout is not None and script.stdout.readline() == "up\n"
    lab.login.sshd.kill_sessions()
    out, errors = script.communicate("\n", timeout=30)
    assert script.returncode == 0, errors
    refused, ended = json.loads(out)
    assert refused == "Connection refused"
    assert "nothing listens on its SSH port" not in ended


def test_a_line_of_known_hosts_that_is_spoilt(lab: Lab, laptop: Host) -> None:
    """ssh passes over it, and so must whoever reads the file in its place."""
    path = laptop.file(".ssh/known_hosts")
    before = path.read_bytes()
    try:
        path.write_bytes(b"login ssh-ed25519 AAA!\nlogin\n\xff\xfe caf\xe9 x\n" + before)
        assert by_both(laptop, target="login") == {"openssh": "up\n", "paramiko": "up\n"}
        path.write_bytes(b"# " + before.replace(b"\n", b"\n# "))
        for text in by_both(laptop, target="login").values():
            assert "its host key is not known here" in text
    finally:
        path.write_bytes(before)
