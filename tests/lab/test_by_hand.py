"""``python -m tests.lab``: what a developer sees of the lab."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import __main__ as console
from tests.lab import build

pytestmark = pytest.mark.usefixtures("lab")  # skipped or failed by the same rule

COMMAND = [sys.executable, "-m", "tests.lab"]


def by_hand(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], cwd=build.CHECKOUT, capture_output=True, text=True, timeout=50
    )


@pytest.fixture(autouse=True)
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A record of this test's own: a developer's lab is not mistaken for it."""
    path = tmp_path / "lab.json"
    monkeypatch.setenv("IPCLUSTERZ_LAB_RECORD", str(path))
    monkeypatch.setattr(console, "RECORD", path)
    return path


def test_enter_brings_a_lab_up_for_itself(record: Path) -> None:
    done = by_hand("enter", "laptop", "--", "ssh", "node2", "hostname; id -un; exit 5")
    assert (done.stdout, done.returncode) == ("node2\nada\n", 5), done.stderr
    assert not record.exists()


def test_several_terminals_share_one_lab(record: Path) -> None:
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
    assert not record.exists()
    assert (
        by_hand("cut", "laptop", "login").stderr == "lab: no lab is up: python -m tests.lab\n"
    )


def test_a_record_of_a_killed_one_is_not_believed(record: Path) -> None:
    record.write_text('{"maker": 1, "since": 0, "hosts": {"laptop": 1}}')
    assert console.pids() == {}


@pytest.mark.parametrize(
    ("env", "code", "word"),
    [
        ({}, 0, "SKIPPED"),
        ({"IPCLUSTERZ_LAB": "required"}, 1, "ERROR"),
        ({"CI": "1"}, 1, "ERROR"),
    ],
)
def test_without_its_programs_tests_are_skipped_or_fail_where_required(
    env: dict[str, str], code: int, word: str
) -> None:
    base = {k: v for k, v in os.environ.items() if k not in ("CI", "IPCLUSTERZ_LAB")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/lab/test_lab.py", "-k", "full_disk"],
        cwd=build.CHECKOUT,
        env={**base, "PATH": "/nonexistent", **env},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == code, done.stdout
    assert word in done.stdout
    assert "apt-get install" in done.stdout and "openssh-client" in done.stdout
