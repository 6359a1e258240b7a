"""Which file systems are taken for local, and which journal follows from it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from ipclusterz.store import opening, place
from tests.store.helpers import UUID, Desk, began


def table(tmp_path: Path, *mounts: tuple[str, str]) -> str:
    """A mountinfo in which each (mount point, type) stands, after the root."""
    lines = ["22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"]
    for number, (point, kind) in enumerate(mounts):
        escaped = point.replace(" ", "\\040")
        lines.append(f"{30 + number} 22 0:{number} / {escaped} rw master:1 - {kind} srv:/x rw")
    file = tmp_path / "mountinfo"
    file.write_text("\n".join([*lines, "nonsense", ""]))
    return str(file)


@pytest.mark.parametrize(
    "kind",
    [
        *("nfs", "nfs4", "lustre", "gpfs", "cifs", "smb3", "beegfs", "ceph", "afs", "9p"),
        *("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse", "virtiofs", "panfs", ""),
    ],
)
def test_network_file_systems_are_known(kind: str) -> None:
    assert place.is_network(kind)


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "tmpfs", "zfs", "overlay", "apfs", "fuseblk", "f2fs"]
)
def test_local_file_systems_are_known(kind: str) -> None:
    assert not place.is_network(kind)


def test_the_longest_and_last_mount_point_holds(tmp_path: Path) -> None:
    inner = tmp_path / "home" / "ann smith"
    (tmp_path / "homes").mkdir()
    inner.mkdir(parents=True)
    mounts = table(
        tmp_path,
        (str(tmp_path / "home"), "nfs4"),
        (str(inner), "xfs"),
        (str(inner), "lustre"),
    )
    assert place.filesystem(str(tmp_path), mounts) == "ext4"
    assert place.filesystem(str(tmp_path / "homes"), mounts) == "ext4"
    assert place.filesystem(str(tmp_path / "home"), mounts) == "nfs4"
    assert place.filesystem(str(inner), mounts) == "lustre"
    link = tmp_path / "link"
    link.symlink_to(inner)
    assert place.filesystem(str(link), mounts) == "lustre"


def test_what_cannot_be_found_out_is_empty_and_so_not_local(tmp_path: Path) -> None:
    assert place.filesystem(str(tmp_path), str(tmp_path / "no mountinfo here")) == ""
    assert place.filesystem(str(tmp_path / "missing"), table(tmp_path)) == ""


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "fuse.sshfs"])
def test_no_write_ahead_log_where_others_may_have_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "shared" / "tasks.db"
    path.parent.mkdir(mode=0o700)
    with Desk(path) as desk:  # it was local once
        desk.store.note([began(1)])
        assert desk.ask("counts")["journal"] == "wal"
    mounts = table(tmp_path, (str(path.parent), kind))
    find = place.filesystem
    monkeypatch.setattr(place, "filesystem", lambda path: find(path, mounts))
    with Desk(path) as desk:
        desk.store.note([began(2)])
        assert desk.ask("history") == [f"{UUID}_1", f"{UUID}_2"]
        assert desk.ask("counts")["journal"] == "truncate"
        assert len(desk.said) == 1
        assert kind in desk.said[0] and "not local" in desk.said[0]
        assert "--db-dir" in desk.said[0]
        assert not path.with_name("tasks.db-wal").exists()
        desk.store.note([began(i) for i in range(3, 5000)])
        assert desk.close()
    with Desk(path) as desk:
        assert len(desk.ask("history")) == 4999


def test_a_network_file_system_without_locks_is_used_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = opening._attempt

    def lockless(path: str, network: bool, options: str) -> sqlite3.Connection:
        if "nolock" not in options:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_LOCK
            raise error
        return attempt(path, network, options)

    monkeypatch.setattr(opening, "_attempt", lockless)
    monkeypatch.setattr(place, "filesystem", lambda path: "lustre")
    with Desk(tmp_path / "tasks.db") as desk:
        desk.store.note([began(1)])
        assert desk.ask("history") == [f"{UUID}_1"]
        assert "has no locks" in desk.said[0] and "lustre" in desk.said[0]
        assert desk.close()


def test_names_beside_and_aside(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    for _ in range(2):
        path.write_bytes(b"x")
        path.with_name("tasks.db-wal").write_bytes(b"w")
        aside = Path(place.move_aside(str(path), "damaged"))
        assert aside.read_bytes() == b"x" and not path.exists()
        assert Path(f"{aside}-wal").read_bytes() == b"w"
    assert len(list(tmp_path.glob("tasks.db.damaged-*"))) == 4
    assert place.beside("/a/tasks.db", 2) == "/a/tasks-2.db"
