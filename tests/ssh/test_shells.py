"""Accounts whose login shell is not a POSIX one: what we say to them must arrive."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.lab.fixtures import required
from tests.lab.host import Host
from tests.lab.lab import Lab
from tests.launchers.test_ssh import ask
from tests.launchers.test_ssh import laptop as laptop  # it looks that nothing stays anywhere
from tests.ssh.conftest import answer, cluster_on, script

SHELLS = {"tcsh": ".tcshrc", "fish": ".config/fish/config.fish", "dash": ".profile"}
"""Each with the file that it reads when it starts; dash reads none when ssh starts it."""


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    """The name of a login shell that is not bash."""
    name = str(request.param)
    if shutil.which(name) is None:
        if required():
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return name


@contextmanager
def logging_in(host: Host, name: str, greeting: str = "") -> Iterator[None]:
    """ada's shell on a host is that one, and its start-up file prints ``greeting``."""
    rc = SHELLS[name]
    with ExitStack() as stack:
        stack.enter_context(host.login_shell(str(shutil.which(name))))
        if greeting:
            host.write(rc, f"echo '{greeting}'\n")
            stack.callback(host.file(rc).unlink)
        yield


def on_laptop(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    return lab.laptop.run(["ipclusterz", *words], timeout=60)


def test_it_is_the_shell(lab: Lab, shell: str) -> None:
    """Without this the others would show nothing."""
    with logging_in(lab.login, shell):
        number = "$fish_pid" if shell == "fish" else "$$"
        done = lab.laptop.run(["ssh", "login", f"readlink /proc/{number}/exe; true"])
    assert done.stdout.strip().endswith(f"/{shell}")


@pytest.mark.timeout(120)
def test_engines(lab: Lab, laptop: Host, shell: str) -> None:
    """With a file and a set-up line that have all that these shells change in quotes."""
    name, line = "it's 100% \\new!7", "export WORD='a\\nb!7'\"'$HOME\""
    laptop.write(name, "data")
    with logging_in(lab.nodes[0], shell, "Welcome!"):
        words = ["start", "--engines=ssh", "--daemon", "--hosts=node1:2"]
        done = on_laptop(lab, *words, f"--setup={line}", f"--send={name}")
        assert (done.returncode, done.stderr) == (0, "")
        found = ask(
            laptop,
            f"""
            def look(name):
                return os.environ["WORD"], open(name).read()
            print(json.dumps(v.apply_sync(look, {name!r})))
            """,
        )
        assert found == [["a\\nb!7'/home/ada", "data"]] * 2
        assert on_laptop(lab, "stop").returncode == 0
    lab.nodes[0].file(name).unlink()


def test_a_host_is_checked(lab: Lab, shell: str) -> None:
    with logging_in(lab.nodes[0], shell):
        done = on_laptop(lab, "ssh", "check", "node1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("  passed  ") == len(done.stdout.splitlines()) - 1


@pytest.mark.timeout(120)
def test_a_client(lab: Lab, shell: str, kind: str) -> None:
    with logging_in(lab.login, shell, "Welcome!"), cluster_on(lab.login):
        body = "print(json.dumps(connect('ssh://login')[:].apply_sync(abs, -2)))"
        done = script(lab.laptop, body, kind)
    assert answer(done) == [2, 2]


@pytest.mark.timeout(120)
def test_a_controller_there(lab: Lab, laptop: Host, shell: str) -> None:
    with logging_in(lab.login, shell, "Welcome!"):
        words = ["start", "--controller=ssh", "--controller-host=login", "-n", "1"]
        done = on_laptop(lab, *words)
        assert done.returncode == 0, done.stderr
        assert ask(laptop, "print(json.dumps(v.apply_sync(socket.gethostname)))") == ["login"]
        assert on_laptop(lab, "stop").returncode == 0
