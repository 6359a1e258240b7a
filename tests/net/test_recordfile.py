"""Files of records: appended to, private, and gone when they cannot be whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ipclusterz import files
from ipclusterz.core import membership
from ipclusterz.core.membership import Went
from ipclusterz.net.journal import Journal
from ipclusterz.net.recordfile import RecordFile


class Disk:
    """Takes only a few bytes at a time, and fails when it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self._write = os.write
        monkeypatch.setattr("ipclusterz.net.recordfile.os.write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return self._write(fd, bytes(data)[:3])


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_it_is_private_and_appended_to_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    file = RecordFile(str(tmp_path / "records"), said.append)
    assert not file.resume()
    file.append(b"nobody hears")
    file.rewrite(b"first ")
    Disk(monkeypatch)
    file.append(b"second, in several parts")
    assert (tmp_path / "records").read_bytes() == b"first second, in several parts"
    assert (tmp_path / "records").stat().st_mode & 0o777 == 0o600
    file.close()
    again = RecordFile(file.path, said.append)
    assert again.resume()
    again.append(b"!")
    assert (tmp_path / "records").read_bytes().endswith(b"parts!")
    again.remove()
    assert not (tmp_path / "records").exists() and said == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"")
    (tmp_path / "records").symlink_to(tmp_path / "other")
    assert not RecordFile(str(tmp_path / "records"), print).resume()


def test_half_of_the_truth_is_removed_and_that_is_said_once(tmp_path: Path, disk: Disk) -> None:
    said: list[str] = []
    file = RecordFile(str(tmp_path / "records"), said.append)
    file.rewrite(b"first")
    disk.full = True
    file.append(b"second")
    file.append(b"third")
    assert said == ["No space left on device"] and file.failed
    assert not (tmp_path / "records").exists() and file.fd < 0


def test_a_journal_is_whole_again_when_it_is_written_anew(tmp_path: Path, disk: Disk) -> None:
    said: list[str] = []
    journal = Journal(str(tmp_path / "members"), said.append)
    disk.full = True
    journal.note(Went(b"a", 1.0, "left"))
    assert not (tmp_path / "members").exists() and len(said) == 1
    disk.full = False
    for number in range(300):
        journal.note(Went(b"b", float(number), "left"))
    found = membership.read((tmp_path / "members").read_bytes())
    assert found.lost is not None and found.lost.at == 299.0 and len(said) == 1


def test_nothing_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(fd: int) -> None:
        raise AssertionError("a busy disk takes seconds")

    monkeypatch.setattr(os, "fsync", busy)
    file = RecordFile(str(tmp_path / "records"), print)
    file.rewrite(b"first")
    file.append(b" second")
    file.close()
    assert (tmp_path / "records").read_bytes() == b"first second"


def test_members_may_fill_a_large_file(tmp_path: Path) -> None:
    path, said = tmp_path / "members", list[str]()
    record = membership.written(Went(b"a", 1.0, "left" * 1000))
    times = files.LIMIT // len(record) + 1
    files.write_private(str(path), record * times)
    assert Journal(str(path), said.append).members.lost is not None and said == []
