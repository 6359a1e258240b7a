"""Owner-only files."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from ipclusterz import files
from ipclusterz.error import ConnectorError


def test_written_files_are_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    old = os.umask(0)
    try:
        files.write_private(str(path), b"one")
        files.write_private(str(path), b"two" * 100_000)
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert files.read_private(str(path)) == b"two" * 100_000
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path = tmp_path / "a.json"
    path.symlink_to(victim)
    files.write_private(str(path), b"key")
    assert victim.read_text() == "mine"
    assert not path.is_symlink()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConnectorError, match="must exist"):
        files.write_private(str(tmp_path / "no" / "a"), b"")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(ConnectorError, match="cannot write"):
        files.write_private(str(tmp_path / "a"), b"")
    assert os.listdir(tmp_path) == ["a"]


def test_missing_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.read_private(str(tmp_path / "a"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_open_files_are_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "my file"
    files.write_private(str(path), b"key")
    path.chmod(mode)
    with pytest.raises(ConnectorError) as caught:
        files.read_private(str(path))
    assert f"chmod 600 '{path}'" in str(caught.value)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    link = tmp_path / "link"
    files.write_private(str(tmp_path / "real"), b"key")
    link.symlink_to(tmp_path / "real")
    with pytest.raises(ConnectorError, match="not a regular file"):
        files.read_private(str(fifo))
    with pytest.raises(ConnectorError, match="not a regular file"):
        files.read_private(str(tmp_path))
    with pytest.raises(ConnectorError, match="symbolic link"):
        files.read_private(str(link))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.write_private(str(path), b"key")
    os.chown(path, 12345, 12345)
    with pytest.raises(ConnectorError, match="belongs to user 12345"):
        files.read_private(str(path))


def test_huge_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.write_private(str(path), b"")
    os.truncate(path, files.LIMIT + 1)
    with pytest.raises(ConnectorError, match="no file of ours"):
        files.read_private(str(path))


def test_private_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    assert files.private_dir(str(path)) == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    files.private_dir(str(path))
    path.chmod(0o750)
    with pytest.raises(ConnectorError, match="chmod 700"):
        files.private_dir(str(path))


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(ConnectorError, match="no folder"):
        files.private_dir(str(tmp_path / "a" / "b"))


def test_folders_made_at_the_same_time(tmp_path: Path) -> None:
    path = str(tmp_path / "a" / "b" / "c")
    problems: list[ConnectorError] = []

    def make() -> None:
        try:
            files.private_dir(path)
        except ConnectorError as error:
            problems.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


def test_quote() -> None:
    assert files.quote("/a/b-c.d") == "/a/b-c.d"
    assert files.quote("it's") == "'it'\"'\"'s'"


def test_code_is_taken_from_folders_only_that_others_cannot_write(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert files.planted(str(tmp_path)) == ""
    assert files.planted(str(tmp_path / "missing")) == "", "then nothing is there to run"
    assert files.planted("/") == "", "the system's own"
    tmp_path.chmod(0o777)
    assert f"chmod o-w {tmp_path}" in files.planted(str(tmp_path))
    tmp_path.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(tmp_path, 65534, 65534)
        assert "belongs to user 65534, not to you (user 0)" in files.planted(str(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a folder another user's")
def test_what_is_code_in_another_users_folder_is_not_run(tmp_path: Path) -> None:
    from ipclusterz.cluster import SettingError, fileconfig
    from ipclusterz.paths import ProfileDir

    ran = tmp_path / "ran"
    profile = tmp_path / "cluster_default"
    profile.mkdir(mode=0o755)
    (profile / "ipclusterz_config.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    os.chown(profile, 65534, 65534)
    with pytest.raises(SettingError, match="belongs to user 65534"):
        fileconfig.read(ProfileDir(str(profile)))
    assert not ran.exists()
    from ipclusterz.error import LaunchError
    from ipclusterz.launchers.base import launcher_class

    (profile / "launcher_moon.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    with pytest.raises(LaunchError, match="belongs to user 65534"):
        launcher_class("moon", str(profile))
    assert not ran.exists()
    os.chown(profile, 0, 0)
    fileconfig.read(ProfileDir(str(profile)))
    assert ran.exists()


def test_a_large_file_is_read_by_those_who_say_that_it_may_be_large(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    data = b"x" * (files.LIMIT + 1)
    files.write_private(path, data, sync=False)
    with pytest.raises(ConnectorError, match=f"more than {files.LIMIT} bytes"):
        files.read_private(path)
    with pytest.raises(ConnectorError, match="more than 5 bytes"):
        files.read_private(path, limit=5)
    assert files.read_private(path, limit=None) == data
