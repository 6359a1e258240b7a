"""Where things lie."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ipclusterz import paths
from ipclusterz.error import ClusterError


def test_ipythondir_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    assert paths.ipython_dir() == str(tmp_path)
    assert paths.profile_dir().path == str(tmp_path / "cluster_default")
    monkeypatch.delenv("IPYTHONDIR")
    monkeypatch.setenv("HOME", "/home/someone")
    assert paths.ipython_dir() == "/home/someone/.ipython"


def test_the_old_folder_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(tmp_path)
    old = tmp_path / "clusterz_x"
    old.mkdir()
    assert paths.profile_dir("x", root).path == str(old)
    assert paths.profile_dir("x", root).name == "x"
    (tmp_path / "cluster_x").mkdir()
    for _ in range(2):
        assert paths.profile_dir("x", root).path == str(tmp_path / "cluster_x")
    assert capsys.readouterr().err.count("is ignored") == 1


def test_files_of_a_profile(tmp_path: Path) -> None:
    profile = paths.ProfileDir(str(tmp_path / "cluster_x")).create()
    security = tmp_path / "cluster_x" / "security"
    assert stat.S_IMODE(security.stat().st_mode) == 0o700
    assert profile.connector("client") == str(security / "ipcontroller-client.json")
    assert profile.connector("engine", "b") == str(security / "ipcontroller-b-engine.json")
    assert profile.key_file("b") == str(security / "ipcontroller-b.key")
    assert profile.state_file() == str(tmp_path / "cluster_x" / "pid" / "cluster-.json")
    assert sorted(os.listdir(profile.path)) == ["log", "pid", "security", "startup"]


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-x", ".x", "x" * 65, "a\n"])
def test_bad_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="profile name"):
        paths.profile_dir(name, str(tmp_path))
    if name:
        with pytest.raises(ClusterError, match="cluster id"):
            paths.ProfileDir(str(tmp_path)).connector("client", name)


def test_runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "r"
    base.mkdir(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    monkeypatch.setattr(paths, "SOCKET_PATH_LIMIT", 1000)
    path = paths.runtime_dir()
    assert os.path.dirname(path) == str(base)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    assert paths.runtime_dir() != path


def test_runtime_dir_avoids_open_and_long_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "open"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("long" * 40)))
    path = paths.runtime_dir()
    try:
        assert os.path.dirname(path) == "/tmp"
    finally:
        os.rmdir(path)


def test_runtime_dir_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "SOCKET_PATH_LIMIT", 10)
    with pytest.raises(ClusterError, match="/tmp: the path is too long"):
        paths.runtime_dir()
