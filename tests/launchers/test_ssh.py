"""Engines on the lab's nodes, started from its laptop through the login node by SSH."""

from __future__ import annotations

import json
import signal
import subprocess
import textwrap
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.running import eventually

CONFIG = ".ipython/cluster_default/ipclusterz_config.py"
LOG = ".ipython/cluster_default/log/ipclusterz.log"
SECURITY = ".ipython/cluster_default/security"


@pytest.fixture
def laptop(lab: Lab) -> Iterator[Host]:
    """The laptop; afterwards nothing of ours is on any host."""
    clear(lab)  # of what was killed by tests of something else
    yield lab.laptop
    lab.heal()
    lab.laptop.run(["ipclusterz", "stop"], timeout=60)
    try:
        for host in lab.hosts.values():
            nothing_on(host)
    finally:
        clear(lab)


def clear(lab: Lab) -> None:
    """End what runs on the hosts, and remove its files."""
    for host in lab.hosts.values():
        host.kill_users()
        host.run(["sh", "-c", "rm -rf /tmp/ipclusterz-* /dev/shm/ipclusterz-* ~/.ipython"])


def nothing_on(host: Host) -> None:
    """Assert that no process and no file of ours is there, after a moment at most."""
    eventually(lambda: host.processes("ada") == [], what=f"{host} has {names(host)}")

    def left() -> list[Path]:
        places = [host.file(place) for place in ("/tmp", "/dev/shm")]
        folders = [path for place in places for path in place.glob("ipclusterz*")]
        return [path for folder in folders for path in (folder, *folder.rglob("*"))]

    try:
        eventually(lambda: left() == [])
    except AssertionError:
        raise AssertionError(f"{host} has {left()}") from None


def names(host: Host) -> list[str]:
    return [line(process)[:80] for process in host.processes("ada")]


def line(process: psutil.Process) -> str:
    """A process's command; empty when it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def start(
    laptop: Host, *options: str, hosts: str = "node1:2,node2:1,node3"
) -> subprocess.CompletedProcess[str]:
    """Start a cluster in the background; ``hosts`` may be empty."""
    words = ["ipclusterz", "start", "--engines=ssh", "--daemon", *options]
    return laptop.run([*words, *(["--hosts", hosts] if hosts else [])], timeout=90)


def ask(laptop: Host, body: str, timeout: float = 60) -> Any:
    """Run Python on the laptop with a client ``rc`` and a direct view ``v``; its last line."""
    head = "import json, os, socket, time\nimport ipclusterz as ipp\n"
    text = f"{head}rc = ipp.Client()\nv = rc[:]\n{textwrap.dedent(body)}\nrc.close()\n"
    done = laptop.run(["python3", "-c", text], timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def agents(host: Host) -> list[psutil.Process]:
    return [p for p in host.processes("ada") if "launched.py" in line(p)]


def keepers(host: Host) -> list[psutil.Process]:
    """Keepers: what runs the keeper's program and is no child of an SSH session."""
    found = [p for p in host.processes("ada") if "keeper.main" in line(p)]
    return [p for p in found if not p.parent().name().startswith("sshd")]


# -- what it is for ------------------------------------------------------------------------


@pytest.mark.timeout(200)
@pytest.mark.parametrize("kind", ["openssh", "paramiko"])
def test_engines_on_three_hosts(lab: Lab, laptop: Host, kind: str) -> None:
    done = start(laptop, *(["--paramiko"] if kind == "paramiko" else []))
    assert done.returncode == 0, done.stderr
    assert "4/4 engines" in done.stdout
    found = ask(
        laptop,
        """
        v["x"] = 41
        names = v.apply_sync(socket.gethostname)
        values = rc.load_balanced_view().map(lambda i: 3 * i, range(10_000)).get()
        data = os.urandom(200_000_000)
        echo = rc[0].apply_sync(lambda b: b, data)
        more = v.apply_sync(lambda: x + 1)
        print(json.dumps([sorted(names), sum(values), echo == data, more]))
        """,
        timeout=150,
    )
    assert found == [["node1", "node1", "node2", "node3"], 3 * 49_995_000, True, [42] * 4]
    no_key_anywhere(lab)
    # Only a loopback is listened on here, and no port at all there (but for paramiko's ways).
    assert set(lab.nodes[0].listening()) == {22} or kind == "paramiko"
    assert laptop.run(["ipclusterz", "stop"], timeout=60).returncode == 0
    for host in lab.hosts.values():
        nothing_on(host)


def no_key_anywhere(lab: Lab) -> None:
    """Assert that no key stands in arguments, environments or files of any host."""
    files = [lab.laptop.file(f"{SECURITY}/ipcontroller-{r}.json") for r in ("client", "engine")]
    keys = [json.loads(file.read_text())["exec_key"].encode() for file in files]
    for host in lab.hosts.values():
        for process in host.processes():
            for name in ("cmdline", "environ"):
                try:
                    data = Path(f"/proc/{process.pid}/{name}").read_bytes()
                except OSError:
                    continue
                assert not any(key in data for key in keys), (host, process, name)
        for place in ("/home/ada", "/tmp", "/dev/shm", "/var/log"):
            for path in host.file(place).rglob("*"):
                if path.is_file() and path not in files:
                    data = path.read_bytes()
                    assert not any(key in data for key in keys), (host, path)


def test_numbers_share_out_engines(lab: Lab, laptop: Host) -> None:
    done = start(laptop, "-n", "3", hosts="node[1-2]")
    assert done.returncode == 0, done.stderr
    assert ask(laptop, "print(json.dumps(sorted(v.apply_sync(socket.gethostname))))") == [
        *("node1", "node1", "node2")
    ]


def test_too_many_are_told_before_anything_starts(lab: Lab, laptop: Host) -> None:
    done = start(laptop, "-n", "5", hosts="node1:2,node2:2")
    assert done.returncode != 0
    assert done.stderr.startswith("ipclusterz start: 5 engines are asked for, but the hosts")
    assert "controller up" not in done.stdout


def test_hosts_of_a_config_file(lab: Lab, laptop: Host) -> None:
    """Each host with settings of its own, and a scheduler's list of hosts."""
    lab.nodes[0].write("work/here.txt", "node1's")
    lab.nodes[0].write("env.sh", "export FROM_SETUP=yes")
    engines = {
        "ada@node1:22": {
            "n": 1,
            "python": "/run/lab/bin/python3",
            "setup": "source ~/env.sh; echo chatter",
            "cwd": "~/work",
            "env": {"FROM_ENV": "also"},
        },
        "node[2-3]": [1, ["--preload=decimal", "-c", "started = 7"]],
    }
    laptop.write(CONFIG, f"c = get_config()\nc.SSHLauncher.engines = {engines!r}\n")
    laptop.run(["ipclusterz", "create"], check=True)
    laptop.write(".ipython/cluster_default/startup/00.py", "profile_says = 'hello'\n")
    done = start(laptop, hosts="")
    assert done.returncode == 0, done.stderr
    found = ask(
        laptop,
        """
        def look():
            import os, socket, sys
            mine = {"preloaded": "decimal" in sys.modules, "started": globals().get("started")}
            if os.path.exists("here.txt"):
                mine["file"] = open("here.txt").read()
            names = ("FROM_SETUP", "FROM_ENV")
            return socket.gethostname(), {**mine, **{n: os.getenv(n) for n in names}}
        look.__module__ = "__main__"
        said = v.apply_sync(lambda: profile_says)
        print(json.dumps([dict(v.apply_sync(look)), said]))
        """,
    )
    assert found[1] == ["hello"] * 3
    one, two = found[0]["node1"], found[0]["node2"]
    assert (one["file"], one["FROM_SETUP"], one["FROM_ENV"]) == ("node1's", "yes", "also")
    assert (two["preloaded"], two["FROM_SETUP"]) == (True, None)
    assert (one["started"], two["started"]) == (None, 7)


def test_engines_are_added(lab: Lab, laptop: Host) -> None:
    """To a cluster that was started otherwise, and that has no TCP port."""
    words = "ipclusterz start -n 1 --transport=ipc --daemon"
    assert laptop.run(words.split(), timeout=60).returncode == 0
    words = "ipclusterz engines --engines=ssh --hosts=node1:2 --daemon"
    done = laptop.run(words.split(), timeout=60)
    assert done.returncode == 0, done.stderr
    script = "rc.wait_for_engines(3)\nprint(json.dumps(rc[:].apply_sync(socket.gethostname)))"
    assert sorted(ask(laptop, script)) == ["laptop", "node1", "node1"]


def test_the_hosts_of_a_job(lab: Lab, laptop: Host) -> None:
    laptop.write("nodes", "node1\nnode1\nnode2\n")
    command = ["ipclusterz", "start", "--engines=ssh", "--daemon"]
    done = laptop.run(command, env={"PBS_NODEFILE": "/home/ada/nodes"}, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "3/3 engines" in done.stdout
    assert laptop.run(["ipclusterz", "stop"], timeout=60).returncode == 0
    done = laptop.run(command, timeout=60)
    assert done.returncode != 0
    assert "no hosts to start engines on: say --hosts node1:4,node2:8" in done.stderr


OLD_SSHX = '#!/bin/sh\nexport HELLO=there\necho some text\n"$@" &> /dev/null &\necho $!\n'


@pytest.mark.parametrize("sshx", [OLD_SSHX, "export HELLO=there\ncat\n"])
def test_the_historic_form(lab: Lab, laptop: Host, sshx: str) -> None:
    laptop.write("sshx.sh", sshx)
    laptop.write("cluster.py", "send_furl = True\nengines = { 'node1' : 1,\n 'node2' : 2 }\n")
    words = "ipclusterz ssh --clusterfile cluster.py --sshx sshx.sh --daemon"
    done = laptop.run(words.split(), timeout=60)
    assert done.returncode == 0, done.stderr
    assert "send_furl in cluster.py means nothing any more" in done.stdout
    assert ask(laptop, "print(json.dumps(v.apply_sync(os.getenv, 'HELLO')))") == ["there"] * 3


def test_files_are_sent_and_logs_fetched(lab: Lab, laptop: Host) -> None:
    laptop.write("data.txt", "x" * 300_000)
    lab.nodes[0].run(["mkdir", "-p", "one", "two dir"], check=True)
    more = ["--send=data.txt", "--send=data.txt:~/there.txt", "--fetch-logs"]
    # Into a folder, as scp does it.
    more += ["--send=data.txt:one/", "--send=data.txt:~/two dir", "--send=there.txt:~"]
    laptop.write("there.txt", "y")
    done = start(laptop, *more, hosts="node1")
    assert done.returncode == 0, done.stderr
    assert lab.nodes[0].file("data.txt").read_text() == "x" * 300_000
    assert lab.nodes[0].file("there.txt").read_text() == "y"
    for folder in ("one", "two dir"):
        (came,) = lab.nodes[0].file(folder).iterdir()
        assert (came.name, came.stat().st_size) == ("data.txt", 300_000)
    assert laptop.run(["ipclusterz", "stop"], timeout=60).returncode == 0
    logs = list(laptop.file(LOG).parent.glob("ssh-node1-ipenginez-agent-*.log"))
    assert len(logs) == 1
    assert "registered; engines 0" in logs[0].read_text()


def test_a_cluster_from_python(lab: Lab, laptop: Host) -> None:
    """What is missing is a warning there; sets are signalled, restarted and stopped."""
    body = """
    import json, os, signal, warnings
    import ipclusterz as ipp
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cluster = ipp.Cluster(
            engines="ssh", options={"engines": {"node1": 2, "node7": 1}}, cluster_id="x")
        rc = cluster.start_and_connect_sync()
    said = [str(w.message) for w in caught]
    values = rc[:].apply_sync(abs, -3)
    import time
    waits = rc[0].apply_async(time.sleep, 60)
    while not rc.queue_status()[0]["tasks"] + rc.queue_status()[0]["queue"]:
        time.sleep(0.05)
    cluster.signal_engines_sync(signal.SIGINT)
    kind = type(waits.exception(20)).__name__
    cluster.restart_engines_sync()
    rc.wait_for_engines(2, timeout=20)
    again = rc[:].apply_sync(abs, -4)
    rc.close()
    cluster.stop_cluster_sync()
    print(json.dumps([said, values, kind, again]))
    """
    done = laptop.run(["python3", "-c", textwrap.dedent(body)], timeout=90)
    assert done.returncode == 0, done.stderr
    said, values, kind, again = json.loads(done.stdout.splitlines()[-1])
    assert len(said) == 1
    assert said[0].startswith("cannot connect to node7 by ssh: ")
    assert (values, kind, again) == ([3, 3], "KeyboardInterrupt", [4, 4])


# -- what breaks ---------------------------------------------------------------------------

MAPS = """
import json, sys
import ipclusterz as ipp
def once(i):
    import os, time
    with open(f"{folder}/{i}-{os.getpid()}", "x"):
        pass
    time.sleep(0.02)
    return i
rc = ipp.Client()
rc[:]["x"] = 17
rc[:]["folder"] = sys.argv[1]
results = rc.load_balanced_view().map_async(once, range(600))
print("up", flush=True)
sys.stdin.readline()
values = results.get(90) == list(range(600))
print(json.dumps([values, rc[:]["x"]]), flush=True)
rc.close()
"""


@contextmanager
def mapping(lab: Lab) -> Iterator[None]:
    """A map over three engines under way; at the end all of it is right, nothing ran twice."""
    done = start(lab.laptop, hosts="node[1-3]")
    assert done.returncode == 0, done.stderr
    lab.laptop.write("maps.py", MAPS)
    name = uuid.uuid4().hex
    for node in lab.nodes:
        node.run(["mkdir", name], check=True)
    maps = lab.laptop.popen(
        ["python3", "maps.py", name], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert maps.stdout is not None
        assert maps.stdout.readline() == "up\n"
        yield
        out, err = maps.communicate("\n", timeout=120)
        assert maps.returncode == 0, err
        assert json.loads(out) == [True, [17, 17, 17]]
        ran = [p.name for node in lab.nodes for p in node.file(name).iterdir()]
        assert sorted(int(name.split("-")[0]) for name in ran) == list(range(600))
    finally:
        maps.kill()
        maps.communicate()


def told(laptop: Host, text: str) -> None:
    """Wait until the launcher has said something."""
    eventually(lambda: text in laptop.file(LOG).read_text(), 40, f"{text!r} was not told")


@pytest.mark.timeout(200)
def test_thirty_seconds_without_a_network(lab: Lab, laptop: Host) -> None:
    with mapping(lab):
        with lab.cut("login", "node1"):
            time.sleep(30)  # the fault itself, not a wait for something
        told(laptop, "reconnected: node1 with 1 engine is back")
    said = laptop.file(LOG).read_text()
    assert "lost: node1 with 1 engine: " in said
    assert "its engines live on" in said


@pytest.mark.timeout(200)
def test_all_connections_are_killed(lab: Lab, laptop: Host) -> None:
    """The programs here, then the servers' sessions there with the servers."""
    with mapping(lab):
        for process in laptop.processes("ada"):
            if line(process).startswith("ssh "):
                with suppress(psutil.NoSuchProcess):  # one ends with another
                    process.kill()
        for node in lab.nodes:
            told(laptop, f"reconnected: {node.name} with 1 engine is back")
        lab.nodes[1].sshd.restart(sessions=True)
        lab.login.sshd.restart(sessions=True)
        eventually(lambda: laptop.file(LOG).read_text().count("reconnected: node2") > 1, 40)


def test_a_relay_is_killed(lab: Lab, laptop: Host) -> None:
    """The process there that SSH runs; the connection stays."""
    with mapping(lab):
        (keeper,) = keepers(lab.nodes[0])
        for process in lab.nodes[0].processes("ada"):
            if "keeper.main" in line(process) and process != keeper:
                process.kill()
        told(laptop, "reconnected: node1")


def test_a_host_that_is_gone_is_told(lab: Lab, laptop: Host) -> None:
    assert start(laptop, hosts="node1:2,node2").returncode == 0
    names = ask(laptop, "print(json.dumps(v.apply_sync(socket.gethostname)))")
    with lab.cut("login", "node1"):
        began = time.monotonic()
        told(laptop, "lost: node1 with 2 engines: it does not answer")
        assert time.monotonic() - began < 15
        other = names.index("node2")
        assert ask(laptop, f"print(json.dumps(rc[{other}].apply_sync(abs, -5)))") == 5
        # It cannot be reached, and is not waited for.
        assert laptop.run(["ipclusterz", "stop"], timeout=60).returncode == 0
    for host in (lab.laptop, lab.nodes[1]):
        nothing_on(host)
    # What is left there ends with its lease; nobody waits for that here.
    assert len(agents(lab.nodes[0])) == 1
    for process in [*agents(lab.nodes[0]), *keepers(lab.nodes[0])]:
        process.terminate()
    lab.nodes[0].kill_users()
    lab.nodes[0].run(["sh", "-c", "rm -rf /tmp/ipclusterz-* /dev/shm/ipclusterz-*"])


def test_an_agent_is_killed(lab: Lab, laptop: Host) -> None:
    assert start(laptop, hosts="node1:2,node2").returncode == 0
    names = ask(laptop, "print(json.dumps(v.apply_sync(socket.gethostname)))")
    (agent,) = agents(lab.nodes[0])
    agent.kill()
    told(laptop, "node1: the engines' process there was killed by signal 9")
    nothing_on(lab.nodes[0])
    other = names.index("node2")
    # Only the launcher knows that it is not just the network, and tells the hub.
    body = "rc.session.wait(lambda: len(rc.ids) == 1, 20)\nprint(json.dumps(rc.ids))"
    assert ask(laptop, body) == [other]
    assert ask(laptop, f"print(json.dumps(rc[{other}].apply_sync(abs, -5)))") == 5


@pytest.mark.timeout(200)
def test_an_agent_is_replaced_where_that_is_allowed(lab: Lab, laptop: Host) -> None:
    """On one host twice, by its own setting; the other host's agent is not touched."""
    engines = "{'node1': {'n': 2, 'args': ['--restart-engines=2']}, 'node2': 1}"
    laptop.write(CONFIG, f"c = get_config()\nc.SSHLauncher.engines = {engines}\n")
    assert start(laptop, hosts="").returncode == 0
    node, other = lab.nodes[0], agents(lab.nodes[1])
    for left in (1, 0):
        (agent,) = agents(node)
        agent.kill()
        told(laptop, f"another one is started, {left} of 2 restarts left")
        told(laptop, f"was killed by signal 9; {left} of 2 restarts left")
        assert ask(laptop, "rc.wait_for_engines(3, timeout=30)\nprint(len(rc.ids))") == 3
        body = "print(json.dumps(sorted(rc[:].apply_sync(socket.gethostname))))"
        assert ask(laptop, body) == ["node1", "node1", "node2"]
        assert len(keepers(node)) == 1
    shown = laptop.run(["ipclusterz", "status"]).stdout
    assert shown.count("its agent replaces one that was lost: node1: the engines' process") == 1
    agents(node)[0].kill()
    told(laptop, "it is not replaced: its 2 restarts (--restart-engines) are used up")
    nothing_on(node)
    assert agents(lab.nodes[1]) == other
    assert ask(laptop, "print(json.dumps(v.apply_sync(socket.gethostname)))") == ["node2"]


@pytest.mark.timeout(200)
def test_a_keeper_and_its_agent_are_replaced(lab: Lab, laptop: Host) -> None:
    """Also where the host cannot be reached at first."""
    done = start(laptop, "--restart-engines=3", hosts="node1")
    assert done.returncode == 0, done.stderr
    lab.nodes[0].sshd.stop()
    for process in (*keepers(lab.nodes[0]), *agents(lab.nodes[0])):
        process.kill()
    told(laptop, "lost: node1 with 1 engine: ")
    lab.nodes[0].sshd.start()
    told(laptop, "another one is started")
    told(laptop, "replaces engine 0: ")
    assert ask(laptop, "rc.wait_for_engines(1, timeout=30)\nprint(len(rc.ids))") == 1
    assert ask(laptop, "print(json.dumps(v.apply_sync(socket.gethostname)))") == ["node1"]


def test_an_agent_that_does_not_answer_is_ended_by_force(lab: Lab, laptop: Host) -> None:
    assert start(laptop, hosts="node1:2").returncode == 0
    (agent,) = agents(lab.nodes[0])
    agent.send_signal(signal.SIGSTOP)
    assert laptop.run(["ipclusterz", "stop"], timeout=60).returncode == 0
    nothing_on(lab.nodes[0])


def test_a_keeper_is_killed(lab: Lab, laptop: Host) -> None:
    assert start(laptop, hosts="node1:2,node2").returncode == 0
    (keeper,) = keepers(lab.nodes[0])
    keeper.kill()
    told(laptop, "node1: its engines ended while there was no connection")
    nothing_on(lab.nodes[0])


@pytest.mark.parametrize("keeper", ["alive", "killed"])
def test_a_launcher_is_killed(lab: Lab, laptop: Host, keeper: str) -> None:
    """Its engines have a lease; 'stop' does not wait for that, with a keeper or without.

    Some hear of the end from the controller, whose last words may still come through.
    """
    assert start(laptop, hosts="node1:2,node2").returncode == 0
    listed = laptop.run(["ipclusterz", "list", "-o", "json"]).stdout
    assert [row["engines"] for row in json.loads(listed)] == [3]
    for process in laptop.processes("ada"):
        if "--daemon" in line(process):
            process.kill()
    eventually(lambda: laptop.processes("ada") == [], what=str(names(laptop)))
    if keeper == "killed":
        keepers(lab.nodes[0])[0].kill()
    done = laptop.run(["ipclusterz", "stop"], timeout=60)
    assert (done.returncode, "is not running any more" in done.stderr) == (11, True)
    said = sorted(done.stdout.splitlines())
    assert said == ["ended engines on node1", "ended engines on node2"]
    for host in lab.hosts.values():
        nothing_on(host)


def test_a_client_ends_it_all(lab: Lab, laptop: Host) -> None:
    assert start(laptop, hosts="node1,node2").returncode == 0
    ask(laptop, "rc.shutdown(hub=True)\nprint(1)")
    for host in lab.hosts.values():
        nothing_on(host)


# -- what is wrong from the start ----------------------------------------------------------


def missing(laptop: Host, *options: str, hosts: str = "node1:2,node2") -> str:
    """Start where one host cannot; the other goes on.  What is said of the first one."""
    done = start(laptop, *options, hosts=hosts)
    assert done.returncode == 0, done.stderr
    assert ask(laptop, "print(json.dumps(v.apply_sync(socket.gethostname)))") == ["node2"]
    (told,) = done.stderr.splitlines()
    return told


@pytest.mark.parametrize("kind", ["openssh", "paramiko"])
def test_a_login_node_that_hangs_up_on_some(lab: Lab, laptop: Host, kind: str) -> None:
    """Twelve hosts at once through one that has room for three logins, and so drops some."""
    names = [f"n{number}" for number in range(12)]
    alias = "Host {}\n HostName node{}\n ProxyJump login\n HostKeyAlias node{}\n"
    text = "".join(alias.format(name, i % 3 + 1, i % 3 + 1) for i, name in enumerate(names))
    config = ".ssh/config"
    before = laptop.file(config).read_text()
    laptop.write(config, text + before, mode=0o600)
    try:
        with lab.login.sshd.options(MaxStartups="3:100:3"):
            done = start(
                laptop,
                *(["--paramiko"] if kind == "paramiko" else []),
                hosts=",".join(names),
            )
    finally:
        laptop.write(config, before, mode=0o600)
    assert (done.returncode, done.stderr) == (0, "")
    assert "12/12 engines" in done.stdout


def test_another_host_key(lab: Lab, laptop: Host) -> None:
    with lab.nodes[0].sshd.other_host_key():
        line = missing(laptop)
    assert "cannot connect to node1 by ssh: its host key is another one" in line


def test_an_unknown_host_key(lab: Lab, laptop: Host) -> None:
    known = laptop.file(".ssh/known_hosts")
    before = known.read_text()
    lines = [line for line in before.splitlines(True) if not line.startswith("node1,")]
    laptop.write(".ssh/known_hosts", "".join(lines))
    try:
        line = missing(laptop)
        assert laptop.file(".ssh/known_hosts").read_text() == "".join(lines)
    finally:
        laptop.write(".ssh/known_hosts", before)
    assert "cannot connect to node1 by ssh: its host key is not known here" in line


def test_a_login_that_is_refused(lab: Lab, laptop: Host) -> None:
    line = missing(laptop, hosts="bob@node1:2,node2")
    assert "cannot connect to bob@node1 by ssh: it does not let us in" in line


def test_no_such_host(lab: Lab, laptop: Host) -> None:
    line = missing(laptop, hosts="node9:2,node2")
    assert line.startswith("cannot connect to node9 by ssh: ")
    assert "finds no host named so" in line


def test_a_closed_port(lab: Lab, laptop: Host) -> None:
    lab.open("login", "node1", 2222)
    line = missing(laptop, hosts="node1:2222:2,node2")
    assert "cannot connect to node1:2222 by ssh: nothing listens on its SSH port" in line


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"python": "/no/such"}, "node1: there is no Python at /no/such: correct 'python'"),
        ({"cwd": "/no/where"}, "node1: there is no folder /no/where (cwd)"),
        ({"setup": "echo 'no module named x' >&2; exit 3"}, "node1: no module named x"),
        ({"python": "~/old"}, "node1: Python 3.9.1 at /old is too old, ipclusterz needs 3.11"),
        (
            {"python": "~/bare"},
            "node1: No module named 'ipclusterz.apps'; 'ipclusterz' is not a package: install"
            " ipclusterz there",
        ),
        ({"python": "~/other"}, "node1: ipclusterz 9.9 there speaks protocol 999, "),
    ],
)
def test_a_wrong_python(lab: Lab, laptop: Host, settings: dict[str, str], words: str) -> None:
    """Missing, old, without our package, with another version of it; no folder; bad set-up."""
    fake = "#!/bin/sh\nexec python3 -c \"{} exec(compile(sys.argv[2], '-', 'exec'))\" \"$@\"\n"
    old = "import sys; sys.argv.pop(0); sys.version_info = (3, 9, 1); sys.executable = '/old';"
    bare = "import sys; sys.argv.pop(0); sys.modules['ipclusterz'] = None;"
    other = (
        "import sys; sys.argv.pop(0); import ipclusterz._version as v, ipclusterz.core.message"
        " as m; v.__version__ = '9.9'; m.PROTOCOL = 999;"
    )
    for file, code in (("old", old), ("bare", bare), ("other", other)):
        lines = fake.format(code).replace("sys.argv[2]", "(sys.argv.pop(0), sys.argv[0])[1]")
        lab.nodes[0].write(file, lines, mode=0o755)
    engines = {"node1": {"n": 2, **settings}, "node2": 1}
    laptop.write(CONFIG, f"c = get_config()\nc.SSHLauncher.engines = {engines!r}\n")
    assert missing(laptop, hosts="").startswith(words)


def test_forwarding_is_off(lab: Lab, laptop: Host) -> None:
    with lab.nodes[0].sshd.options(AllowTcpForwarding="no", AllowStreamLocalForwarding="no"):
        line = missing(laptop)
        assert "cannot open a way back from node1 by ssh: its sshd refuses to forward" in line
        assert "--ip=ADDRESS" in line


def test_sockets_are_refused_and_ports_are_not(lab: Lab, laptop: Host) -> None:
    """The ways back are loopback ports then, the same ones after a drop, and it is said."""
    with lab.nodes[0].sshd.options(AllowStreamLocalForwarding="no"):
        done = start(laptop, hosts="node1:2")
        assert done.returncode == 0, done.stderr
        assert "node1: the way back is by loopback ports" in done.stdout
        assert ask(laptop, "v['x'] = 3\nprint(json.dumps(v['x']))") == [3, 3]
        lab.nodes[0].sshd.kill_sessions()
        told(laptop, "reconnected: node1")
        assert ask(laptop, "print(json.dumps(v['x']))") == [3, 3]


def test_a_direct_connection_where_it_was_allowed(lab: Lab, laptop: Host) -> None:
    """With an address the controller was told to listen on, and no other way."""
    login = lab.login
    with lab.nodes[0].sshd.options(AllowTcpForwarding="no", AllowStreamLocalForwarding="no"):
        lab.open("node1", "login", "1024-65535")
        words = f"ipclusterz start --engines=ssh --hosts node1 --ip={login.inside_address}"
        done = login.run([*words.split(), "--daemon"], timeout=60)
        try:
            assert done.returncode == 0, done.stderr
            assert "its engines connect directly to tcp://" in done.stdout
            assert ask(login, "print(json.dumps(v.apply_sync(socket.gethostname)))") == [
                "node1"
            ]
        finally:
            login.run(["ipclusterz", "stop"], timeout=60)


def test_a_full_disk(lab: Lab, laptop: Host) -> None:
    laptop.write("data.txt", "x" * 300_000)
    with lab.nodes[0].full_disk():
        line = missing(laptop, "--send=data.txt")
    assert line.startswith("node1: cannot write data.txt: ")
    assert "No space left on device" in line
    assert [path.name for path in lab.nodes[0].file(".").glob("*.part")] == []


def test_start_up_files_that_print(lab: Lab, laptop: Host) -> None:
    with lab.nodes[0].greeting('Welcome!\n{"event": "hello", "folder": "/"}'):
        assert start(laptop, hosts="node1").returncode == 0
        assert ask(laptop, "print(json.dumps(v.apply_sync(abs, -2)))") == [2]


def test_all_hosts_are_wrong(lab: Lab, laptop: Host) -> None:
    done = start(laptop, hosts="node8,node9")
    assert done.returncode == 1
    assert "cannot connect to node8 by ssh" in done.stderr
    assert "cannot connect to node9 by ssh" in done.stderr


def test_a_controller_that_cannot_start(lab: Lab, laptop: Host) -> None:
    """What has begun on hosts meanwhile goes again; the fixture looks."""
    laptop.write(
        "taken.py",
        "import socket, time\ns = socket.create_server(('127.0.0.1', 4000))\n"
        "print('up', flush=True)\ntime.sleep(60)\n",
    )
    taken = laptop.popen(["python3", "taken.py"])
    try:
        assert taken.stdout is not None
        assert taken.stdout.readline() == "up\n"
        done = start(laptop, "--regport=4000")
        assert done.returncode == 1
        assert "cannot listen on 127.0.0.1:4000" in done.stderr
    finally:
        taken.kill()
        taken.communicate()
