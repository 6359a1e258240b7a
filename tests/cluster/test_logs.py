"""Log folders do not grow for ever."""

from __future__ import annotations

import os
from pathlib import Path

from ipclusterz.cluster import logs


def test_the_oldest_go(tmp_path: Path) -> None:
    for i in range(10):
        path = tmp_path / f"{i}.log"
        path.touch()
        os.utime(path, (i, i))
    (tmp_path / "folder").mkdir()
    logs.prune(str(tmp_path), 8)
    assert sorted(os.listdir(tmp_path)) == [*(f"{i}.log" for i in range(2, 10)), "folder"]
    logs.prune(str(tmp_path / "missing"))


def test_empty_ones_of_one_cluster_go(tmp_path: Path) -> None:
    for name, text in (("a-x.log", ""), ("b-x.log", "text"), ("a-y.log", "")):
        (tmp_path / name).write_text(text)
    logs.forget_empty(str(tmp_path), "x")
    assert sorted(os.listdir(tmp_path)) == ["a-y.log", "b-x.log"]
