"""``ipclusterz ssh check`` on hosts that are well, and on hosts with one trouble each."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import pytest

from ipclusterz.apps.sshcheck import SSHCheckApp
from ipclusterz.core import sshcheck
from ipclusterz.core.sshcheck import CHECKS, FAILED, PASSED, SKIPPED
from tests.lab.host import Host
from tests.lab.lab import Lab

Lines = dict[str, dict[str, str]]


def check(host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    return host.run(["ipclusterz", "ssh", "check", *words], timeout=60)


def found(host: Host, *words: str) -> dict[str, Lines]:
    done = check(host, "-o", "json", *words)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["passed"] == (done.returncode == 0)
    return {
        entry["host"]: {line["check"]: line for line in entry["checks"]}
        for entry in document["hosts"]
    }


def states(lines: Lines) -> dict[str, list[str]]:
    assert list(lines) == list(CHECKS)
    told: dict[str, list[str]] = {}
    for line in lines.values():
        told.setdefault(line["state"], []).append(line["check"])
    return told


def test_hosts_that_are_well(lab: Lab) -> None:
    """Several at once, and one that is reached through another."""
    hosts = found(lab.laptop, "login", "node[1-2]")
    assert list(hosts) == ["login", "node1", "node2"]
    for name, lines in hosts.items():
        assert states(lines) == {PASSED: list(CHECKS)}, (name, lines)
    done = check(lab.laptop, "login")
    assert done.returncode == 0
    assert done.stdout.startswith("login\n  passed      name ")
    assert check(lab.laptop, "login", "--quiet").stdout == ""


def test_by_paramiko(lab: Lab) -> None:
    (lines,) = found(lab.laptop, "login", "--paramiko").values()
    assert states(lines).get(FAILED) is None, lines
    assert lines["authentication"]["text"] == "let in, by paramiko"


def trouble(lab: Lab, *words: str) -> dict[str, str]:
    """The one line of the login node that failed."""
    (lines,) = found(lab.laptop, *(words or ("login",))).values()
    (failed,) = states(lines)[FAILED]
    assert lines[failed]["remedy"]
    return lines[failed]


def test_no_such_host_and_no_server(lab: Lab) -> None:
    assert trouble(lab, "nosuchhost.invalid")["check"] == "name"
    lab.login.sshd.stop()
    try:
        line = trouble(lab)
        assert (line["check"], line["text"]) == ("port", "22: Connection refused")
    finally:
        lab.login.sshd.start()
    with lab.cut("laptop", "login"):
        line = trouble(lab, "login", "--timeout=1")
        assert (line["check"], line["text"]) == ("port", "22 does not answer")


def test_host_keys(lab: Lab) -> None:
    """An unknown one is not accepted; a changed one stops what comes after it, too."""
    known = lab.laptop.file(".ssh/known_hosts")
    before = known.read_text() if known.exists() else None
    with lab.login.sshd.other_host_key():
        began = found(lab.laptop, "login", "node1", "--parallel=1")
        line = began["login"]["host key"]
        assert line["state"] == FAILED and "another one than before" in line["text"]
        assert "ssh-keygen -R login" in line["remedy"]
        assert began["node1"]["name"]["state"] == SKIPPED
        assert began["node1"]["name"]["text"] == (
            "the host key of login has changed, which stops everything"
        )
    assert (known.read_text() if known.exists() else None) == before


def test_a_host_key_that_is_not_known(lab: Lab) -> None:
    where = "UserKnownHostsFile ~/known\nGlobalKnownHostsFile ~/known\n"
    lab.laptop.write("strange", f"StrictHostKeyChecking no\n{where}")
    command = ["ipclusterz", "ssh", "check", "-o", "json", "login"]
    done = lab.laptop.run(command, env={"IPCLUSTERZ_SSH_CONFIG": "/home/ada/strange"})
    assert done.returncode == 1, done.stderr
    lines = {line["check"]: line for line in json.loads(done.stdout)["hosts"][0]["checks"]}
    assert states(lines)[FAILED] == ["host key"]
    assert lines["host key"]["text"] == "its host key is not known here"
    assert "ssh login" in lines["host key"]["remedy"]
    assert not lab.laptop.file("known").exists()


def test_a_login_that_is_refused(lab: Lab) -> None:
    with lab.login.sshd.options(PubkeyAuthentication="no"):
        (lines,) = found(lab.laptop, "login").values()
        assert states(lines)[PASSED] == ["name", "port", "host key"]
        assert lines["authentication"]["text"] == "it does not let us in"


def test_forwarding_is_refused(lab: Lab) -> None:
    with lab.login.sshd.options(AllowTcpForwarding="no"):
        (lines,) = found(lab.laptop, "login").values()
        failed = states(lines)[FAILED]
        assert "forward tcp" in failed and "back tcp" in failed
        assert lines["back tcp"]["remedy"].endswith("AllowTcpForwarding yes")
    with lab.login.sshd.options(AllowStreamLocalForwarding="no"):
        (lines,) = found(lab.laptop, "login").values()
        assert states(lines)[FAILED] == ["forward unix", "back unix"]


def test_a_shell_that_prints(lab: Lab) -> None:
    with lab.login.greeting("Welcome to login"):
        line = trouble(lab)
        assert line["check"] == "shell" and "'Welcome to login'" in line["text"]


def test_a_shell_that_waits(lab: Lab) -> None:
    """It is told, and what to do, also to those who only want to know what failed."""
    with lab.login.greeting(""):
        lab.login.write(".bashrc", "sleep 40\n")
        done = check(lab.laptop, "-q", "login")
    assert done.returncode == 1
    assert "  shell           it did not answer within 15 s" in done.stdout
    assert "-> do start-up files wait for something? ssh login true" in done.stdout
    lab.login.kill_users()


@pytest.mark.parametrize("quiet", [False, True])
def test_why_nothing_more_was_tested(capsys: pytest.CaptureFixture[str], quiet: bool) -> None:
    """Also when nothing of the host itself has failed."""
    app = SSHCheckApp(quiet=quiet)
    lines = [sshcheck.passed("name", "found")]
    app._show("node1", sshcheck.rest(lines, "the host key of login has changed"))
    shown = capsys.readouterr().out
    assert shown.startswith("node1\n") and shown.count("-> the host key of login") == 1
    app._show("node1", [sshcheck.passed(check, "well") for check in CHECKS])
    assert bool(capsys.readouterr().out) is not quiet


def test_python_that_is_not_there_or_not_ours(lab: Lab) -> None:
    line = trouble(lab, "login", "--python=/no/python")
    assert line["check"] == "PATH" and line["text"].startswith("there is no /no/python on ")
    lab.login.write("bare", '#!/bin/sh\nexec python3 -I -S "$@"\n', mode=0o755)
    (lines,) = found(lab.laptop, "login", "--python=~/bare").values()
    assert states(lines)[FAILED] == ["ipclusterz", "cloudpickle"]
    lab.login.write("wrong", "#!/bin/sh\necho broken >&2; exit 3\n", mode=0o755)
    line = trouble(lab, "login", "--python=~/wrong")
    assert (line["check"], line["text"]) == ("python", "it does not run: broken")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "which hosts? ipclusterz ssh check HOST"),
        (("-o", "yaml", "login"), "it must be json"),
        (("--", "-oProxyCommand=touch hacked"), "a host is [user@]host[:port]"),
        (("a b",), "a host is [user@]host[:port]"),
    ],
)
def test_mistakes(lab: Lab, words: tuple[str, ...], said: str) -> None:
    done = check(lab.laptop, *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in " ".join(done.stderr.split())
    assert not lab.laptop.file("hacked").exists()


OURS: dict[str, Any] = {
    "python": "3.11.4",
    "ipclusterz": "0.1",
    "protocol": 3,
    "cloudpickle": "3.1.0",
}


def judged(**there: Any) -> list[tuple[str, str]]:
    facts = {**OURS, "executable": "/usr/bin/python3", **there}
    return [(line.check, line.state) for line in sshcheck.python(facts, OURS)]


def test_versions() -> None:
    good = [("python", PASSED), ("ipclusterz", PASSED), ("cloudpickle", PASSED)]
    assert judged(python="3.11.9", ipclusterz="0.2", cloudpickle="3.9") == good
    assert judged(python="3.12.4")[0] == ("python", FAILED)
    assert judged(protocol=2)[1] == ("ipclusterz", FAILED)
    assert judged(ipclusterz=None)[1] == ("ipclusterz", FAILED)
    assert judged(cloudpickle="2.2")[2] == ("cloudpickle", FAILED)
    assert judged(cloudpickle=None)[2] == ("cloudpickle", FAILED)


def test_clocks_and_limits() -> None:
    now = time.time()
    assert sshcheck.clock(now + 4, now, now + 1).state == PASSED
    assert sshcheck.clock(now + 0.5, now, now + 1).state == PASSED
    ahead = sshcheck.clock(now + 91, now, now + 1)
    assert (ahead.state, ahead.text[:14]) == (FAILED, "it is 90 s ahe")
    assert sshcheck.clock(now - 60, now, now + 1).text.startswith("it is 60 s behind")
    assert sshcheck.limits(-1, -1).text == "open files no limit, processes no limit"
    low = sshcheck.limits(256, 100)
    assert low.state == FAILED and "256 open files" in low.text and "100 proc" in low.text


@pytest.mark.parametrize("program", ["ssh", "ssh (paramiko)"])
def test_a_failed_connection_is_parted_into_cause_and_remedy(program: str) -> None:
    line = sshcheck.connection("login", f"cannot connect to n by {program}: no entry: a key")
    assert (line.check, line.text, line.remedy) == ("authentication", "no entry", "a key")


def test_what_a_failure_keeps_from_being_tested_is_one_line(lab: Lab) -> None:
    done = check(lab.laptop, "nowhere")
    lines = done.stdout.splitlines()
    assert (done.returncode, len(lines), lines[0]) == (1, 4, "nowhere")
    assert lines[3].split("  ")[1:] == ["not tested", ", ".join(CHECKS[1:])]
