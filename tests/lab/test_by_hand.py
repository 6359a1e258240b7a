"""``python -m tests.lab``: what a developer sees of the lab."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.lab import build
from tests.lab.__main__ import RECORD, pids

pytestmark = pytest.mark.usefixtures("lab")  # skipped or failed by the same rule

COMMAND = [sys.executable, "-m", "tests.lab"]


def by_hand(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], cwd=build.CHECKOUT, capture_output=True, text=True, timeout=50
    )


@pytest.fixture(autouse=True)
def _no_other() -> None:
    if pids():
        pytest.skip("a lab is up by hand on this machine")


def test_enter_brings_a_lab_up_for_itself() -> None:
    done = by_hand("enter", "laptop", "--", "ssh", "node2", "hostname; id -un; exit 5")
    assert (done.stdout, done.returncode) == ("node2\nada\n", 5), done.stderr
    assert not RECORD.exists()


def test_several_terminals_share_one_lab() -> None:
    up = subprocess.Popen(COMMAND, cwd=build.CHECKOUT, stdout=subprocess.PIPE, text=True)
    assert up.stdout is not None
    try:
        said = ""
        while "Ctrl-C" not in said:
            line = up.stdout.readline()
            assert line, said
            said += line
        assert "198.18.1.1" in said
        by_hand("enter", "login", "--user", "bob", "--", "touch", "mine")
        listed = by_hand("enter", "login", "--user", "bob", "--", "ls")
        assert listed.stdout == "mine\n"
        assert "already" in by_hand().stderr
        login = ["enter", "laptop", "--", "ssh", "-o", "ConnectTimeout=2", "login", "hostname"]
        assert by_hand("cut", "laptop", "login").returncode == 0
        assert "timed out" in by_hand(*login).stderr
        assert by_hand("heal", "laptop", "login").returncode == 0
        assert by_hand(*login).stdout == "login\n"
    finally:
        up.send_signal(signal.SIGINT)
        code = up.wait(20)
        up.stdout.close()
    assert code == 0
    assert not RECORD.exists()
    assert (
        by_hand("cut", "laptop", "login").stderr == "lab: no lab is up: python -m tests.lab\n"
    )


def test_a_record_of_a_killed_one_is_not_believed() -> None:
    RECORD.write_text('{"maker": 1, "since": 0, "hosts": {"laptop": 1}}')
    try:
        assert pids() == {}
    finally:
        RECORD.unlink()
