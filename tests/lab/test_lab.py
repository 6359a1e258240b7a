"""The lab itself: what others prove in it stands on this."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path

import psutil
import pytest

from tests.lab import build
from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.lab.space import LabError, Process
from tests.running import eventually

NAMES = list(build.PLACES)
OTHER_PORT = 5222
TRY = """
import select, socket, sys, time
pending, end = {}, time.monotonic() + 1.5
poll = select.poll()
for place in sys.argv[1:]:
    address, _, port = place.partition(":")
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex((address, int(port)))
    poll.register(s, select.POLLOUT)
    pending[s.fileno()] = place, s
while pending and time.monotonic() < end:
    for number, _ in poll.poll(100):
        place, s = pending.pop(number)
        poll.unregister(number)
        code = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        print(place, "refused" if code else "reached")
for place, s in pending.values():
    print(place, "lost")
"""
LISTEN = f"""
import socket
s = socket.create_server(("0.0.0.0", {OTHER_PORT}))
print("listening", flush=True)
while True:
    s.accept()
"""


def trying(host: Host, places: Iterable[str]) -> Process:
    return host.popen([sys.executable, "-S", "-c", TRY, *places])


def results(process: Process) -> dict[str, str]:
    said, _ = process.communicate(timeout=30)
    return dict(line.split() for line in said.splitlines())


def attempt(host: Host, place: str) -> str:
    """What becomes of a connection from a host to a place: reached, refused or lost."""
    return results(trying(host, [place]))[place]


def ssh(host: Host, *words: str, user: str = "ada") -> subprocess.CompletedProcess[str]:
    return host.run(["ssh", *words], user=user)


def test_who_reaches_whom_and_at_which_port(lab: Lab) -> None:
    others = [lab[name].popen([sys.executable, "-S", "-c", LISTEN]) for name in NAMES]
    try:
        for name in NAMES:
            lab[name].wait_listening(OTHER_PORT)
        pairs = [(a, b, port) for a, b in permutations(NAMES, 2) for port in (22, OTHER_PORT)]
        places = {key: f"{lab.address(key[1], seen_by=key[0])}:{key[2]}" for key in pairs}
        tries = {
            name: trying(lab[name], [place for key, place in places.items() if key[0] == name])
            for name in NAMES
        }
        said = {name: results(process) for name, process in tries.items()}
        found = {key: said[key[0]][place] for key, place in places.items()}
    finally:
        for process in others:
            process.kill()
            process.communicate()
    assert len(found) == 2 * 5 * 4
    reached = {(a, b) for (a, b, port), result in found.items() if result == "reached"}
    assert reached == set(build.ALLOWED)
    assert {found[a, b, 22] for a, b in build.ALLOWED} == {"reached"}
    assert {r for (*_, port), r in found.items() if port == OTHER_PORT} == {"lost"}


def test_each_host_has_a_loopback_and_processes_of_its_own(lab: Lab) -> None:
    process = lab.login.popen([sys.executable, "-S", "-c", LISTEN])
    lab.login.wait_listening(OTHER_PORT)
    place = f"127.0.0.1:{OTHER_PORT}"
    assert attempt(lab.login, place) == "reached"
    assert attempt(lab.nodes[0], place) == "refused"
    listed = lab.nodes[0].run(["ps", "-eo", "args"]).stdout
    assert "create_server" not in listed
    assert "create_server" in lab.login.run(["ps", "-eo", "args"], user="bob").stdout
    process.kill()
    process.communicate()


def test_hosts_differ_in_name_boot_and_folders(lab: Lab) -> None:
    told = set()
    for host in lab.hosts.values():
        boot = "/proc/sys/kernel/random/boot_id"
        told.add(host.run(["sh", "-c", f"hostname; cat {boot}; ls -A /tmp ~ | wc -l"]).stdout)
        for folder in ("/tmp", "/home/ada", "/run/lab", "/dev/shm"):
            host.write(f"{folder}/mine", host.name)
    assert len(told) == 5
    for host in lab.hosts.values():
        for folder in ("/tmp", "/home/ada", "/run/lab", "/dev/shm"):
            assert host.file(f"{folder}/mine").read_text() == host.name
            host.file(f"{folder}/mine").unlink()


def test_the_rest_of_the_machine_cannot_be_written_to(lab: Lab) -> None:
    for place in ("/etc", "/usr", "/var/lib", str(build.CHECKOUT), sys.prefix):
        done = lab.laptop.run(["touch", f"{place}/ipclusterz-lab"], user="root")
        assert "Read-only file system" in done.stderr, place


def test_openssh_goes_from_the_laptop_through_login_to_a_node(lab: Lab) -> None:
    for user in ("ada", "bob"):
        done = ssh(lab.laptop, "node1", "hostname; id -un; echo $SSH_CLIENT", user=user)
        name, who, came_from = done.stdout.splitlines()
        assert (name, who) == ("node1", user)
        assert came_from.split()[0] == lab.login.inside_address
    done = ssh(lab.nodes[2], "login", "hostname")
    assert (done.stdout, done.returncode) == ("login\n", 0)
    assert ssh(lab.laptop, "-o", "ProxyJump=none", "node1", "true").returncode == 255


def test_the_checkout_runs_on_every_host_as_a_user(lab: Lab) -> None:
    code = "import sys, ipclusterz; print(ipclusterz.__file__, sys.prefix)"
    for word in (sys.executable, "python3"):
        done = ssh(lab.laptop, "node1", f"{word} -c '{code}'")
        expected = f"{build.CHECKOUT / 'ipclusterz/__init__.py'} {sys.prefix}\n"
        assert done.stdout == expected, done.stderr
    done = lab.nodes[0].run(["ipclusterz", "--help"], timeout=50)
    assert done.returncode == 0, done.stderr
    assert "start" in done.stdout


def test_input_output_and_exit_code_of_a_command(lab: Lab) -> None:
    done = lab.login.run(["sh", "-c", "cat; echo x >&2; exit 3"], input="text", env={"A": "b"})
    assert (done.stdout, done.stderr, done.returncode) == ("text", "x\n", 3)
    assert lab.login.run(["printenv", "A"], env={"A": "b"}).stdout == "b\n"
    with pytest.raises(LabError, match="login: .*ended with 1"):
        lab.login.run(["false"], check=True)
    with pytest.raises(subprocess.TimeoutExpired):
        lab.login.run(["sleep", "600"], timeout=0.2)
    assert lab.login.processes("ada") == []


def test_a_signal_reaches_the_command_and_not_its_wrapper(lab: Lab) -> None:
    code = "trap 'echo got it; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    process = lab.laptop.popen(["sh", "-c", code])
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=10)
    assert (out, process.returncode) == ("got it\n", 7)


def test_a_cut_is_silent_and_heals(lab: Lab) -> None:
    shell = lab.laptop.popen(["ssh", "login", "cat"], stdin=subprocess.PIPE)
    assert shell.stdin is not None and shell.stdout is not None
    shell.stdin.write("before\n")
    shell.stdin.flush()
    assert shell.stdout.readline() == "before\n"
    place = f"{lab.login.address}:22"
    with lab.cut("laptop", "login"):
        assert attempt(lab.laptop, place) == "lost"
        shell.stdin.write("meanwhile\n")
        shell.stdin.flush()
        assert ssh(lab.login, "node1", "hostname").stdout == "node1\n"  # others are not hit
        assert shell.poll() is None
    assert attempt(lab.laptop, place) == "reached"
    assert shell.stdout.readline() == "meanwhile\n"  # the connection has survived
    shell.stdin.close()
    assert shell.wait(10) == 0
    shell.stdout.close()


def test_a_cut_in_one_direction(lab: Lab) -> None:
    cut = lab.cut("login", "node1", both=False)
    place = f"{lab.address('node1', seen_by='login')}:22"
    assert attempt(lab.login, place) == "lost"
    rules = lab.login.space.run(["nft", "list", "set", "inet", "lab", "cut"])
    assert "elements" not in rules
    cut.heal()
    cut.heal()
    assert attempt(lab.login, place) == "reached"


def test_a_port_can_be_opened_and_shut(lab: Lab) -> None:
    process = lab.login.popen([sys.executable, "-S", "-c", LISTEN])
    lab.login.wait_listening(OTHER_PORT)
    place = f"{lab.login.inside_address}:{OTHER_PORT}"
    lab.open("node1", "login", "5000-6000")
    assert attempt(lab.nodes[0], place) == "reached"
    assert attempt(lab.nodes[1], place) == "lost"
    lab.shut()
    assert attempt(lab.nodes[0], place) == "lost"
    process.kill()
    process.communicate()


def test_a_slow_link_delays_but_loses_nothing(lab: Lab) -> None:
    count = 200_000
    command = f"head -c {count} /dev/zero | wc -c"
    with lab.slow("laptop", "4mbit"):
        shaped = lab.laptop.space.run(["tc", "qdisc", "show", "dev", "eth0"])
        assert "tbf" in shaped and "rate 4Mbit" in shaped
        done = lab.laptop.run(["sh", "-c", f"ssh login head -c {count} /dev/zero | wc -c"])
        assert done.stdout.strip() == str(count), command
    assert "tbf" not in lab.laptop.space.run(["tc", "qdisc", "show", "dev", "eth0"])


def test_forwarding_can_be_refused(lab: Lab) -> None:
    forward = ["-W", f"{lab.nodes[0].address}:22", "login"]
    assert ssh(lab.laptop, *forward).stdout.startswith("SSH-2.0-")
    with lab.login.sshd.options(AllowTcpForwarding="no"):
        done = ssh(lab.laptop, *forward)
        assert "administratively prohibited" in done.stderr
    assert ssh(lab.laptop, *forward).stdout.startswith("SSH-2.0-")


def test_stream_forwarding_can_be_refused(lab: Lab) -> None:
    forward = ["-o", "ExitOnForwardFailure=yes", "-R", "/tmp/lab-test:127.0.0.1:22", "login"]
    with lab.login.sshd.options(AllowStreamLocalForwarding="no"):
        done = ssh(lab.laptop, *forward, "true")
        assert (done.returncode, "forwarding failed" in done.stderr) == (255, True)
    assert ssh(lab.laptop, *forward, "true").returncode == 0
    lab.login.file("/tmp/lab-test").unlink(missing_ok=True)


ASKPASS = """#!/bin/sh
echo "$1" >>~/asked
cat ~/answer
"""


@pytest.mark.parametrize("method", ["password", "keyboard-interactive"])
def test_a_password_opens_where_it_is_allowed(lab: Lab, method: str) -> None:
    asks = str(lab.laptop.write("askpass", ASKPASS, mode=0o700))
    options = "-o BatchMode=no -o NumberOfPasswordPrompts=1"
    options += f" -o PreferredAuthentications={method}"
    env = {"SSH_ASKPASS": asks, "SSH_ASKPASS_REQUIRE": "force"}
    command = ["ssh", *options.split(), "login", "id", "-un"]
    with lab.login.sshd.passwords():
        lab.laptop.write("answer", lab.plan.passwords["ada"] + "\n")
        assert lab.laptop.run(command, env=env).stdout == "ada\n"
        lab.laptop.write("answer", "something else\n")
        done = lab.laptop.run(command, env=env)
        assert (done.returncode, "Permission denied" in done.stderr) == (255, True)
        assert len(lab.laptop.file("asked").read_text().splitlines()) == 2
    lab.laptop.write("answer", lab.plan.passwords["ada"] + "\n")
    assert lab.laptop.run(command, env=env).returncode == 255
    for name in ("askpass", "answer", "asked"):
        lab.laptop.file(name).unlink()


def test_a_one_time_code_opens_once(lab: Lab) -> None:
    asks = str(lab.laptop.write("askpass", "#!/bin/sh\necho 123456\n", mode=0o700))
    env = {"SSH_ASKPASS": asks, "SSH_ASKPASS_REQUIRE": "force"}
    command = "ssh -o BatchMode=no -o NumberOfPasswordPrompts=1 login id -un".split()
    with lab.login.sshd.one_time_codes("ada", ["123456"]) as left:
        assert lab.laptop.run(command, env=env).stdout == "ada\n"
        assert left() == []
        assert lab.laptop.run(command, env=env).returncode == 255
    lab.laptop.file("askpass").unlink()
    assert ssh(lab.laptop, "login", "id", "-un").stdout == "ada\n"


def test_another_host_key_is_refused(lab: Lab) -> None:
    with lab.login.sshd.other_host_key():
        done = ssh(lab.laptop, "login", "true")
        assert done.returncode == 255
        assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in done.stderr
    assert ssh(lab.laptop, "login", "true").returncode == 0


def test_a_stopped_server_refuses_and_keeps_what_is_connected(lab: Lab) -> None:
    shell = lab.laptop.popen(["ssh", "login", "echo in; cat"], stdin=subprocess.PIPE)
    assert shell.stdout is not None
    assert shell.stdout.readline() == "in\n"
    lab.login.sshd.stop()
    assert "Connection refused" in ssh(lab.laptop, "login", "true").stderr
    assert len(lab.login.sshd.sessions()) == 2
    lab.login.sshd.start()
    assert shell.poll() is None
    lab.login.sshd.kill_sessions()
    assert shell.wait(10) == 255
    assert ssh(lab.laptop, "login", "true").returncode == 0
    shell.communicate()


def test_a_full_disk(lab: Lab) -> None:
    with lab.login.full_disk():
        done = ssh(lab.laptop, "login", "head -c 9000 /dev/zero >much")
        assert "No space left on device" in done.stderr
    assert ssh(lab.laptop, "login", "head -c 9000 /dev/zero >much && rm much").returncode == 0


def test_a_start_up_file_that_prints(lab: Lab) -> None:
    with lab.login.greeting("Welcome to the\nmachine"):
        assert ssh(lab.laptop, "login", "echo x").stdout == "Welcome to the\nmachine\nx\n"
    assert ssh(lab.laptop, "login", "echo x").stdout == "x\n"


def test_orphans_are_buried_and_found(lab: Lab) -> None:
    lab.login.run(["sh", "-c", "(setsid sleep 500 & setsid true &) >/dev/null 2>&1"])
    eventually(lambda: [p.name() for p in lab.login.processes("ada")] == ["sleep"])
    (left,) = lab.login.processes("ada")
    assert lab.login.pid_inside(left) < 10_000
    lab.login.kill_users()
    eventually(lambda: not lab.login.processes("ada"))
    zombies = [p for p in lab.login.processes() if p.status() == psutil.STATUS_ZOMBIE]
    assert zombies == []


# -- nothing is left --------------------------------------------------------------------


def traces() -> set[str]:
    """All that a lab could leave on the machine: interfaces, namespaces, mounts, rules."""
    found = {f"interface {name}" for name in os.listdir("/sys/class/net")}
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found |= {f"mount {line.split()[4]}" for line in mounts}
    rules = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True)
    found |= set(rules.stdout.splitlines())
    found |= {f"run {name}" for name in os.listdir("/run")}
    found |= {f"user {line}" for line in Path("/etc/passwd").read_text().splitlines()}
    return found


CHILD = """
import sys, subprocess
from tests.lab.lab import Lab
lab = Lab()
inside = lab.nodes[0].popen(["sh", "-c", "sleep 700 & echo up; wait"])
inside.stdout.readline()
lab.login.run(["sh", "-c", "setsid sleep 700 >/dev/null 2>&1 &"])
pids = [str(p.pid) for host in lab.hosts.values() for p in host.processes()]
pids += [str(s.pid) for s in lab._spaces] + [str(s._holder.pid) for s in lab._spaces]
print(*pids, flush=True)
sys.stdin.read()
"""


@pytest.mark.alone  # other tests mount small disks of their own meanwhile
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, None])
@pytest.mark.usefixtures("lab")  # skipped or failed by the same rule
def test_nothing_is_left_however_the_maker_ends(how: signal.Signals | None) -> None:
    before = traces()
    maker = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        cwd=build.CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert maker.stdout is not None and maker.stdin is not None
    made = {psutil.Process(int(pid)) for pid in maker.stdout.readline().split()}
    assert len(made) >= 4 + 3 + 12
    if how is None:
        maker.stdin.close()
    else:
        maker.send_signal(how)
    maker.wait(20)
    maker.stdin.close()
    maker.stdout.close()
    # Whose parent died first is a zombie until the machine's init looks.
    eventually(lambda: not [p for p in made if running(p)], what=f"left: {made}")
    assert traces() == before


@pytest.mark.alone
def test_close_leaves_nothing(lab: Lab) -> None:
    before = traces()
    with Lab() as second:
        pids = {p for host in second.hosts.values() for p in host.processes()}
        pids |= {psutil.Process(host.space.pid) for host in second.hosts.values()}
        assert ssh(second.laptop, "node3", "hostname").stdout == "node3\n"
        assert traces() == before  # not even while it is up
    assert [p for p in pids if running(p)] == []
    assert traces() == before


def running(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def test_pairs_are_as_the_docs_say() -> None:
    pairs = set(permutations(NAMES, 2))
    assert set(build.ALLOWED) < pairs
    assert all("laptop" not in pair or "login" in pair for pair in build.ALLOWED)
