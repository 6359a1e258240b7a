"""Body files: private, checked before they are believed, gone when they are removed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipclusterz.core.message import Body
from ipclusterz.engine import bodies, serialize
from ipclusterz.error import ClusterError


@pytest.fixture
def folder() -> Iterator[tuple[str, bytes]]:
    made = bodies.make_folder()
    yield made
    bodies.remove_folder(made[0])


def test_parts_come_back_as_they_were(folder: tuple[str, bytes]) -> None:
    parts = [b"stream", bytearray(b""), memoryview(b"z" * 100_000), b"", b"\0" * 64]
    body = bodies.write(*folder, parts)
    assert body.sizes == [6, 0, 100_000, 0, 64]
    assert [bytes(part) for part in bodies.read(body)] == [bytes(part) for part in parts]


def test_what_cannot_be_mapped_any_more_is_read(
    folder: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each map holds a descriptor, and whoever keeps a thousand results runs out of them."""
    body = bodies.write(*folder, [b"s", b"z" * 300_000])

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(bodies.mmap, "mmap", full)
    small, large = bodies.read(body)
    assert bytes(small) == b"s" and bytes(large) == b"z" * 300_000
    large[0] = 1
    assert bytes(bodies.read(body)[1][:1]) == b"z"


def test_readers_may_write_and_share_nothing_they_wrote(folder: tuple[str, bytes]) -> None:
    body = bodies.write(*folder, [b"s", b"abc"])
    first, second = bodies.read(body), bodies.read(body)
    first[1][0:1] = b"X"
    assert bytes(first[1]) == b"Xbc"
    assert bytes(second[1]) == bytes(bodies.read(body)[1]) == b"abc"


def test_parts_are_aligned(folder: tuple[str, bytes]) -> None:
    import numpy

    body = bodies.write(*folder, [b"s" * 65, b"abc", b"d"])
    for part in bodies.read(body):
        assert numpy.frombuffer(part, "u1").ctypes.data % bodies.ALIGN == 0


@pytest.mark.parametrize("parts", [[], [b""], [b"", b""]])
def test_nothing_is_a_body_too(folder: tuple[str, bytes], parts: list[bytes]) -> None:
    body = bodies.write(*folder, parts)
    assert [bytes(part) for part in bodies.read(body)] == parts


def test_what_was_read_outlives_the_file(folder: tuple[str, bytes]) -> None:
    body = bodies.write(*folder, [b"kept"])
    parts = bodies.read(body)
    bodies.remove(body)
    bodies.remove(body)
    assert bytes(parts[0]) == b"kept"
    with pytest.raises(FileNotFoundError):
        bodies.read(body)


def test_files_and_folder_are_for_their_owner_only(folder: tuple[str, bytes]) -> None:
    body = bodies.write(*folder, [b"x"])
    assert os.stat(folder[0]).st_mode & 0o777 == 0o700
    for name in (bodies.PROOF, body.id.hex()):
        assert os.stat(os.path.join(folder[0], name)).st_mode & 0o777 == 0o600


def test_another_hosts_folder_is_refused(folder: tuple[str, bytes]) -> None:
    body = bodies.write(*folder, [b"x"])
    body.proof = os.urandom(16)
    assert not bodies.here(body)
    with pytest.raises(OSError, match="another host"):
        bodies.read(body)
    body.folder = "/nowhere"
    assert not bodies.here(body)
    body.proof, body.folder = folder[1], folder[0]
    assert bodies.here(body)


def test_an_empty_proof_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / bodies.PROOF).write_bytes(b"")
    with pytest.raises(OSError):
        bodies.read(Body(os.urandom(16), [1], str(tmp_path), b""))


def test_links_are_not_followed(folder: tuple[str, bytes], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 64)
    body = Body(os.urandom(16), [1], *folder)
    os.symlink(secret, os.path.join(folder[0], body.id.hex()))
    with pytest.raises(OSError):
        bodies.read(body)
    link = tmp_path / "folder"
    link.mkdir()
    os.symlink(os.path.join(folder[0], bodies.PROOF), link / bodies.PROOF)
    body.folder = str(link)
    assert not bodies.here(body)


def test_a_file_shorter_than_announced_is_an_error_and_no_crash(
    folder: tuple[str, bytes],
) -> None:
    body = bodies.write(*folder, [b"x" * 1000])
    os.truncate(os.path.join(folder[0], body.id.hex()), 10)
    with pytest.raises(OSError, match="announced"):
        bodies.read(body)


def test_a_full_file_system_says_so_and_leaves_nothing(
    folder: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="no room for an object of 128 bytes") as caught:
        bodies.write(*folder, [b"a", b"b"])
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(folder[0]) == [bodies.PROOF]


def test_what_plainly_does_not_fit_is_not_begun(
    folder: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Place:
        f_blocks, f_bavail, f_frsize = 100, 3, 4096

    monkeypatch.setattr(os, "fstatvfs", lambda fd: Place)
    monkeypatch.delattr(os, "pwrite")
    with pytest.raises(OSError, match="no room for an object of 12352 bytes"):
        bodies.write(*folder, [bytes(3 * 4096 + 1)])
    assert os.listdir(folder[0]) == [bodies.PROOF]


def test_another_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(bodies.PLACE, str(tmp_path))
    folder, _ = bodies.make_folder()
    assert os.path.dirname(folder) == str(tmp_path)
    bodies.remove_folder(folder)
    monkeypatch.setenv(bodies.PLACE, str(tmp_path / "none"))
    with pytest.raises(ClusterError, match=f"{tmp_path}/none.*set IPCLUSTERZ_BODIES"):
        bodies.make_folder()


def test_a_full_shared_memory_is_not_the_only_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, roomy = tmp_path / "full", tmp_path / "roomy"
    full.mkdir()
    roomy.mkdir()
    monkeypatch.delenv(bodies.PLACE, raising=False)
    monkeypatch.setattr(bodies, "_SHARED", str(full))
    monkeypatch.setenv("TMPDIR", str(roomy))
    monkeypatch.setattr("tempfile.tempdir", None)
    prove = bodies._prove

    def no_room(folder: str) -> bytes:
        if folder.startswith(str(full)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return prove(folder)

    monkeypatch.setattr(bodies, "_prove", no_room)
    folder, _ = bodies.make_folder()
    assert os.path.dirname(folder) == str(roomy) and os.listdir(full) == []
    bodies.remove_folder(folder)
    monkeypatch.setattr(bodies, "_prove", lambda folder: os.rmdir(folder) or no_room(str(full)))
    with pytest.raises(ClusterError, match=rf"{full} \(No space left.* nor in {roomy} \(No sp"):
        bodies.make_folder()


def test_pieces_are_one_part(folder: tuple[str, bytes]) -> None:
    value = {"x": b"1" * 2_000_000, "y": "z"}
    parts = serialize.pack(value)
    assert isinstance(parts[0], serialize.Pieces)
    assert any(piece is value["x"] for piece in parts[0].pieces), "it was not copied"
    body = bodies.write(*folder, [*parts, b"behind"])
    stream, behind = bodies.read(body)
    assert serialize.loads(stream) == value
    assert bytes(behind) == b"behind"
    bodies.remove(body)


def test_a_folder_that_is_gone_names_itself(folder: tuple[str, bytes]) -> None:
    bodies.remove_folder(folder[0])
    bodies.remove_folder(folder[0])
    with pytest.raises(OSError, match="cannot make a file") as caught:
        bodies.write(*folder, [b"a"])
    assert folder[0] in str(caught.value)


def test_the_folder_goes_with_all_that_is_in_it(folder: tuple[str, bytes]) -> None:
    bodies.write(*folder, [b"a"])
    bodies.write(*folder, [b"b"])
    bodies.remove_folder(folder[0])
    assert not os.path.exists(folder[0])


def test_folders_of_killed_owners_are_swept_and_no_others(tmp_path: Path) -> None:
    script = (
        "import sys; from ipclusterz.engine import bodies; bodies._SHARED = sys.argv[1];"
        "made = bodies.make_folder(); bodies.write(*made, [b'x' * 1000]);"
        "print(made[0], flush=True); sys.stdin.read()"
    )
    owners = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    lives, dies = owners
    assert lives.stdout is not None and dies.stdout is not None
    kept, abandoned = lives.stdout.readline().strip(), dies.stdout.readline().strip()
    (tmp_path / "ipclusterz-of-sockets").mkdir()
    try:
        assert bodies.sweep(str(tmp_path)) == 0
        dies.kill()
        dies.wait(10)
        assert bodies.sweep(str(tmp_path)) == 1
        assert not os.path.exists(abandoned)
        assert os.path.isdir(kept) and (tmp_path / "ipclusterz-of-sockets").is_dir()
    finally:
        for owner in owners:
            owner.kill()
            owner.communicate(timeout=10)
