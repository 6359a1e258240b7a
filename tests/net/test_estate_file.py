"""The file of what clients left: private, appended to, gone when over, and disks that fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ipclusterz import files
from ipclusterz.core import estate
from ipclusterz.core import message as m
from ipclusterz.core.balance import Balancer
from ipclusterz.net.estate import EstateFile
from tests.core.bench import Bench, key, result, submit


class Kept:
    """A scheduler whose client has left two tasks, and its file."""

    def __init__(self, path: Path) -> None:
        self.said: list[str] = []
        self.path = path
        self.core = Balancer()
        self.bench = Bench(self.core)
        self.bench.client()
        self.bench.agent(b"agent", 0)
        self.bench.say(b"client", submit(1), submit(2))
        self.bench.expel(b"client")
        self.core.write_down()
        self.file = EstateFile(str(path), self.core, self.said.append)

    def read(self) -> dict[int, estate.Entry]:
        return EstateFile(str(self.path), self.core, self.said.append).read().tasks


def test_it_is_appended_to_and_gone_when_all_has_ended(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "left")
    old = os.umask(0)
    try:
        kept.file.carry()
    finally:
        os.umask(old)
    assert kept.path.stat().st_mode & 0o777 == 0o600
    assert sorted(kept.read()) == [key(1), key(2)]
    (first,) = kept.bench.assigned()
    kept.bench.say(b"agent", result(first))
    kept.file.carry()
    assert sorted(kept.read()) == [key(2)]
    kept.bench.work()
    kept.file.carry()
    assert not kept.path.exists() and kept.said == []


def test_another_one_goes_on_with_it(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "left")
    kept.file.carry()
    kept.file.close()
    core = Balancer(1)
    file = EstateFile(str(kept.path), core, kept.said.append)
    core.inherit(file.read(), 0.0)
    core.roster([], 0.0, "its host is gone")
    assert len(core.tasks) == 1, "of the one that was given out nobody knows"
    file.carry()
    assert sorted(kept.read()) == [key(2)] and kept.said == []


def test_a_disk_that_fails_is_said_once_and_leaves_no_half_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tmp_path / "left")
    kept.file.carry()
    (first,) = kept.bench.assigned()
    kept.bench.say(b"agent", result(first))

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ipclusterz.net.recordfile.os.write", full)
    kept.file.carry()
    assert not kept.path.exists()
    kept.core.estate.spend(key(2), 0, 0)
    kept.file.carry()
    (said,) = kept.said
    assert "No space left" in said and str(kept.path) in said and "are lost" in said
    assert kept.core.estate.out == []


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "nowhere" / "left")
    kept.file.carry()
    kept.file.carry()
    assert len(kept.said) == 1 and "nowhere" in kept.said[0]


def test_a_file_that_others_could_write_is_not_read(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "left")
    kept.file.carry()
    kept.path.chmod(0o666)
    assert kept.read() == {}
    assert "is not known" in kept.said[0]


def test_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "left")
    assert kept.read() == {} and kept.said == []
    kept.file.discard()


def test_what_clients_left_may_be_large(tmp_path: Path) -> None:
    core = Balancer()
    kept, said = core.estate, list[str]()
    file = EstateFile(str(tmp_path / "left"), core, said.append)
    keys = [key(number) for number in range(1, 101)]
    kept.leave(keys[0] >> m.COUNTER_BITS, "uuid", keys)
    for left in kept.portion():
        work = m.Submit(left, 1, b"", os.urandom(60_000))
        kept.enter(estate.Entry(work, 0, 0, False), None)
    file.carry()
    file.close()
    assert os.path.getsize(file._file.path) > files.LIMIT
    found = EstateFile(file._file.path, Balancer(), said.append).read().tasks
    assert sorted(found) == keys and said == []
