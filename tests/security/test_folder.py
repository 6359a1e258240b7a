"""The folder of connector files under attack: nothing foreign is read, nothing made wide."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipclusterz import files
from ipclusterz.error import ConnectorError

OURS = b"ours" * 2000
FOREIGN = b"foreign"


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=["000", "022", "077"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    old = os.umask(request.param)
    yield request.param
    os.umask(old)


def test_no_file_or_folder_is_ever_wider(tmp_path: Path, umask: int) -> None:
    """Looked at from another thread all the time, under the private name as well."""
    folder = Path(files.private_dir(str(tmp_path / "a" / "security")))
    wide: list[tuple[str, int]] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            for entry in os.scandir(folder):
                try:
                    mode = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
                except FileNotFoundError:
                    continue
                if mode & 0o177:
                    wide.append((entry.name, mode))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for number in range(200):
            files.write_private(str(folder / "key.json"), OURS + b"%d" % number)
    finally:
        stop.set()
        thread.join()
    assert wide == []
    assert files.read_private(str(folder / "key.json")) == OURS + b"199"
    for path in (folder, folder.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert os.listdir(folder) == ["key.json"]


def place(kind: str, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(FOREIGN)
    if kind == "symlink":
        path.symlink_to(other)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nothing")
    elif kind == "hard link":
        os.link(other, path)
    elif kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "wide":
        path.write_bytes(FOREIGN)
        path.chmod(0o666)


KINDS = ("symlink", "dangling", "hard link", "fifo", "device", "wide")


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_in_the_way_is_not_read_and_not_written_through(
    kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "key.json"
    place(kind, path, tmp_path)
    with pytest.raises(ConnectorError):
        files.read_private(str(path))
    files.write_private(str(path), OURS)
    assert (tmp_path / "other").read_bytes() == FOREIGN
    assert not (tmp_path / "nothing").exists()
    facts = path.lstat()
    assert stat.S_ISREG(facts.st_mode) and stat.S_IMODE(facts.st_mode) == 0o600
    assert files.read_private(str(path)) == OURS


def swapped(path: Path, tmp_path: Path, rounds: int) -> None:
    """Somebody exchanges the file for a link and back, while it is read."""
    foreign = tmp_path / "foreign"
    foreign.write_bytes(FOREIGN)
    foreign.chmod(0o600)
    link, good = tmp_path / "link", tmp_path / "good"
    stop = threading.Event()
    swaps = [0]

    def swap() -> None:
        while not stop.is_set():
            link.symlink_to(foreign)
            os.replace(link, path)
            files.write_private(str(good), OURS)
            os.replace(good, path)
            swaps[0] += 1

    files.write_private(str(path), OURS)
    thread = threading.Thread(target=swap)
    thread.start()
    refused = 0
    try:
        while swaps[0] < rounds:
            try:
                assert files.read_private(str(path)) == OURS
            except ConnectorError:
                refused += 1
    finally:
        stop.set()
        thread.join()
    assert refused


def test_races_gain_nothing(tmp_path: Path) -> None:
    swapped(tmp_path / "key.json", tmp_path, 300)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_races_gain_nothing(tmp_path: Path) -> None:
    swapped(tmp_path / "key.json", tmp_path, 100_000)


def test_in_a_folder_that_all_may_write_only_the_owners_file_counts(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(ConnectorError, match="chmod 700"):
        files.private_dir(str(shared))
    made = files.private_dir(str(shared / "security"))
    assert stat.S_IMODE(os.stat(made).st_mode) == 0o700
    path = shared / "key.json"
    files.write_private(str(path), OURS)
    assert files.read_private(str(path)) == OURS
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
        with pytest.raises(ConnectorError, match="belongs to user 65534"):
            files.read_private(str(path))


WRITE = "from ipclusterz import files; import os; os.umask(0); files.write_private({!r}, b'k')"


def test_the_system_calls_that_make_a_file(
    tmp_path: Path, ipython_dir: Path, which: Callable[[str], str | None]
) -> None:
    strace = which("strace")
    if strace is None:
        assert os.environ.get("IPCLUSTERZ_LAB") != "required" and not os.environ.get("CI")
        pytest.skip("there is no strace here")
    path, told = tmp_path / "key.json", tmp_path / "calls"
    line = [strace, "-f", "-e", "trace=open,openat,creat,chmod,fchmod,fchmodat,link,linkat"]
    script = WRITE.format(str(path))
    done = subprocess.run(
        [*line, "-o", str(told), sys.executable, "-c", script], capture_output=True, timeout=50
    )
    if done.returncode and b"ptrace" in done.stderr:
        pytest.skip("processes may not be traced here")
    assert done.returncode == 0, done.stderr
    made = [call for call in told.read_text().splitlines() if str(tmp_path) in call]
    assert len(made) == 1, made
    for flag in ("O_CREAT", "O_EXCL", "O_NOFOLLOW", "O_CLOEXEC", ", 0600)"):
        assert flag in made[0]


@pytest.fixture
def which() -> Callable[[str], str | None]:
    import shutil

    return shutil.which
