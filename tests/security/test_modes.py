"""File modes of whole runs, as the kernel saw them: umask 000, a parent that all may write."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ipclusterz as ipp
from tests.running import ROOT, arguments, eventually, kill
from tests.security.calls import TRACED, Made, made

DEVICES = ("/dev/null", "/dev/tty", "/dev/pts")
CALLS = """\
10 umask(077) = 000
10 openat(AT_FDCWD, "/a/file", O_WRONLY|O_CREAT|O_EXCL, 0666) = 3
10 clone(child_stack=NULL, flags=CLONE_CHILD_SETTID <unfinished ...>
11 mkdir("/a/folder", 0777) = 0
10 <... clone resumed>, child_tidptr=0x7f) = 11
10 openat(AT_FDCWD, "/a/read", O_RDONLY) = 4
10 openat(AT_FDCWD, "/a/no", O_WRONLY|O_CREAT, 0600) = -1 EEXIST (File exists)
11 bind(3, {sa_family=AF_UNIX, sun_path="/a/socket"}, 110) = 0
11 chmod("/a/file", 0644) = 0
12 mkdir("/a/wide", 0777) = 0
"""


def test_calls_are_read_with_the_umask_of_each_process() -> None:
    assert made(CALLS, 0o022) == [
        Made("openat", "/a/file", 0o600),
        Made("mkdir", "/a/folder", 0o700),
        Made("bind", "/a/socket", 0o700),
        Made("chmod", "/a/file", 0o644),
        Made("mkdir", "/a/wide", 0o755),
    ]


@pytest.fixture
def strace() -> str:
    found = shutil.which("strace")
    if found is None:
        assert os.environ.get("IPCLUSTERZ_LAB") != "required" and not os.environ.get("CI")
        pytest.skip("there is no strace here")
    return found


@pytest.mark.timeout(120)
def test_nothing_is_ever_wider_than_its_owner(
    strace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole cluster with -r: logs, keys, database, sockets, payloads, and its end."""
    everybodys = tmp_path / "everybodys"
    everybodys.mkdir()
    everybodys.chmod(0o777)
    home = everybodys / "ipython"
    monkeypatch.setenv("IPYTHONDIR", str(home))
    told = tmp_path / "calls"
    words = [strace, "-f", "-qq", "-s", "300", "-e", f"trace={TRACED}", "-o", str(told)]
    begin = (
        "import os, sys; os.umask(0); os.execv(sys.argv[1], sys.argv[1:])",
        *arguments("ipclusterz start -n 1 -r"),
    )
    process = subprocess.Popen(
        [*words, sys.executable, "-c", *begin],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        file = home / "cluster_default" / "security" / "ipcontroller-client.json"
        eventually(lambda: file.exists() or process.poll() is not None, 60)
        assert process.poll() is None, process.stderr and process.stderr.read()
        with ipp.Client() as rc:
            rc.wait_for_engines(1, timeout=60)
            big = os.urandom(300_000)
            assert rc[0].apply_sync(lambda data: data[::-1], big) == big[::-1]
            rc[0].execute("print('out')", block=True)
        state = home / "cluster_default" / "pid"
        assert list(state.iterdir())
        subprocess.run(arguments("ipclusterz stop"), cwd=ROOT, check=True, timeout=60)
        process.communicate(timeout=60)
    finally:
        kill(process.pid)
        process.wait(10)
    calls = [
        each
        for each in made(told.read_text(), 0o022)
        if not each.path.startswith(("/proc/", *DEVICES))
    ]
    for word in ("client.json", "ipcontroller.key", "tasks.db", ".log", "security", "/task"):
        assert any(word in each.path for each in calls), word
    assert any(each.call == "bind" for each in calls)
    assert any("/dev/shm/" in each.path for each in calls), "a payload"
    wide = {f"{each.call} {each.path} {each.mode:o}" for each in calls if each.mode & 0o077}
    assert wide == set()
    left = [home, *home.rglob("*")]
    assert [path for path in left if path.lstat().st_mode & 0o077] == []
