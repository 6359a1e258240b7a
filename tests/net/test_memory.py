"""How much memory a process may have, told by files laid out as the kernel does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ipclusterz.net import memory

ALL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
MB = 1 << 20


@pytest.mark.parametrize(
    ("listed", "limits", "allowed"),
    [
        ("0::/\n", {}, ALL),
        ("0::/a/b\n", {"memory.max": "max", "a/memory.max": "max"}, ALL),
        ("0::/a/b\n", {"a/b/memory.max": f"{700 * MB}\n"}, 700 * MB),
        ("0::/a/b\n", {"a/memory.max": f"{600 * MB}\n", "a/b/memory.max": "max"}, 600 * MB),
        ("0::/../outside\n", {"memory.max": f"{500 * MB}\n"}, 500 * MB),
        (
            "7:cpu,memory:/job\n6:pids:/x\n0::/\n",
            {"memory/job/memory.limit_in_bytes": f"{400 * MB}"},
            400 * MB,
        ),
        ("7:memory:/job\n", {"memory/job/memory.limit_in_bytes": str(2**63 - 4096)}, ALL),
        ("7:memory:/job\n", {"job/memory.max": str(MB)}, ALL),  # of the other version
        ("nonsense\n\n7:memory\n", {}, ALL),
        (None, {}, 4096 * MB),
    ],
)
def test_the_least_of_all_limits_holds(
    tmp_path: Path, listed: str | None, limits: dict[str, str], allowed: int
) -> None:
    told = tmp_path / "listed"
    if listed is not None:
        told.write_text(listed)
    for name, text in limits.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert memory.allowance(str(tmp_path / "groups"), str(told)) == allowed


def test_here_it_is_no_more_than_the_machine_has() -> None:
    assert 0 < memory.allowance() <= ALL
