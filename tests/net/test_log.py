"""Logs that cannot be written: the work goes on, and it is said."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ipclusterz.net.log import open_log

LIMITED = """
import resource, sys
from ipclusterz.net.log import open_log
log = open_log(sys.argv[1], "part")
log.info("before")
size = int(sys.argv[2])
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
for i in range(20):
    log.warning("line %d", i)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
log.info("after")
"""


def test_it_is_said_once_and_when_there_is_room_again(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), "64"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot write the log") == 1
    assert str(tmp_path / "part.log") in done.stderr and "line 0" in done.stderr
    text = (tmp_path / "part.log").read_text()
    assert "before" in text and "INFO after" in text
    assert "20 lines before this one could not be written" in text


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    log = open_log(str(tmp_path), "part")
    log.info("something")
    assert stat.S_IMODE(os.stat(tmp_path / "part.log").st_mode) == 0o600


def test_a_folder_that_cannot_be_had_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    log = open_log(str(tmp_path / "file"), "part")
    log.info("something")
    said = capsys.readouterr().err
    assert f"cannot write the log {tmp_path}/file/part.log" in said and "something" in said
