"""Answers about keys in docs/security.md: what each file is, and how keys are renewed."""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import ipclusterz as ipp
from tests.running import ROOT, eventually, run

PAGE = (ROOT / "docs" / "security.md").read_text()
FILE = re.compile(r"^\| `([\w./*-]+)` \|", re.MULTILINE)
PORT = 23917


@pytest.fixture
def started() -> Iterator[None]:
    line = f"ipclusterz start -n 1 -r --regport {PORT} --daemon"
    done = run(line)
    assert done.returncode == 0, done.stderr
    yield
    run("ipclusterz stop")


def test_renewed_as_documented_old_copies_are_worthless(
    started: None, ipython_dir: Path, tmp_path: Path
) -> None:
    security = ipython_dir / "cluster_default" / "security"
    (commands,) = re.findall(r"```console\n(\$ ipclusterz stop\n.*?)```", PAGE, re.DOTALL)
    stop, folder, remove, start = [line.removeprefix("$ ") for line in commands.splitlines()]
    assert folder.endswith("/".join(security.parts[-2:]))
    old = Path(shutil.copy(security / "ipcontroller-client.json", tmp_path))
    with ipp.Client(str(old)) as thief:
        assert thief[:].apply_sync(pow, 2, 5) == [32]
        assert run(stop).returncode == 0
        with pytest.raises(ipp.ControllerLost):
            thief[:].apply_sync(pow, 2, 5)
    command, *names = remove.split()
    assert command == "rm"
    for name in names:
        (security / name).unlink()
    done = run(f"{start} --regport {PORT} --daemon".replace("-n 4", "-n 1"))
    assert done.returncode == 0, done.stderr
    with pytest.raises(ipp.AuthenticationError, match="does not accept this key"):
        ipp.Client(str(old))
    with ipp.Client() as owner:
        assert owner[:].apply_sync(pow, 2, 5) == [32]


LEFT = "security/ipcontroller.left"  # only while there is work of clients that have left


def test_the_page_tells_of_every_file_of_a_profile(started: None, ipython_dir: Path) -> None:
    profile = ipython_dir / "cluster_default"
    eventually((profile / "tasks.db").exists)
    patterns = FILE.findall(PAGE)
    assert len(patterns) == 8
    for path in profile.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
        name = path.relative_to(profile)
        told = any(name.match(pattern) for pattern in patterns)
        # Beside a database in use lie the journal and its index.
        assert path.is_dir() or told or name.name.startswith("tasks.db-"), name
    missing = [pattern for pattern in patterns if not any(profile.glob(pattern))]
    assert set(missing) <= {LEFT}, "the page tells of files that there are not"
