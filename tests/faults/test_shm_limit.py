"""What happens beyond ``--shm-limit``: payloads go to a disk, or fail by name."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ipclusterz as ipp
from ipclusterz.cluster import SettingError
from ipclusterz.core import message as m
from ipclusterz.engine import bodies
from ipclusterz.net import sharedmemory
from ipclusterz.net.seal import PieceOpener
from ipclusterz.net.transfer import Carrier
from tests.faults.watch import files, until
from tests.running import ROOT, run

MB = 1 << 20


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """A place in shared memory and one for temporary files that no other run uses."""
    if not sharedmemory.in_memory("/dev/shm") or not sharedmemory.disks():
        pytest.skip("needs /dev/shm in memory and temporary files on a disk")
    with (
        tempfile.TemporaryDirectory(prefix="limit-", dir="/dev/shm") as memory,
        tempfile.TemporaryDirectory(prefix="limit-", dir=sharedmemory.disks()[0]) as disk,
    ):
        monkeypatch.setenv(bodies.PLACE, memory)
        monkeypatch.setenv("TMPDIR", disk)
        monkeypatch.setattr(tempfile, "tempdir", disk)
        yield Path(memory), Path(disk)
        assert os.listdir(memory) == []
        assert [name for name in os.listdir(disk) if name.startswith("ipclusterz-")] == []


def kept(place: Path) -> int:
    total = 0
    for path in files(place):
        with contextlib.suppress(FileNotFoundError):  # let go of meanwhile
            total += path.stat().st_size
    return total


# -- without a limit -----------------------------------------------------------------------

_IN_A_CONTAINER = """
import os, sys
import numpy as np
import ipclusterz as ipp

def made(n):
    import numpy as np
    return np.full(n, 7.0)

def total(array):
    return float(array.sum())

n = 1_000_000  # eight megabytes: one of them has no room
with ipp.Cluster(2) as rc:
    view = rc[:]
    array = np.ones(2 * n)
    assert view.apply_sync(total, array) == [2.0 * n] * 2
    assert view.apply_async(total, array).get(60) == [2.0 * n] * 2
    assert all((found == 7).all() for found in view.apply_sync(made, n))
    # Each has room by itself, and not all of them together.
    parts = [view.apply_async(made, n // 4) for _ in range(20)]
    assert all((found == 7).all() for part in parts for found in part.get(60))
    assert view.apply_sync(total, np.ones(n // 4)) == [n / 4] * 2, "the small is where it was"
    print(sum(name.startswith("ipclusterz-") for name in os.listdir(sys.argv[1])))
print(len(os.listdir("/dev/shm")))
"""


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="to mount needs root on Linux"
)
def test_what_a_small_shared_memory_has_no_room_for_goes_to_a_disk(tmp_path: Path) -> None:
    """A container has 64 MB of it if nobody asks for more; here it is 4."""
    if sharedmemory.in_memory(str(tmp_path)):
        pytest.skip("needs temporary files on a disk")
    place = tmp_path / "disk"
    place.mkdir()
    script = tmp_path / "container.py"
    script.write_text(_IN_A_CONTAINER)
    environment = {name: value for name, value in os.environ.items() if name != bodies.PLACE}
    done = subprocess.run(
        [
            *("unshare", "-m", "sh", "-c"),
            'mount -t tmpfs -o size=4m tmpfs /dev/shm && exec "$0" "$@"',
            *(sys.executable, str(script), str(place)),
        ],
        env={**environment, "TMPDIR": str(place), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "0"], "the client's and the agent's folder, and none"
    assert [name for name in os.listdir(place) if name.startswith("ipclusterz-")] == []


def test_a_small_shared_memory_that_is_full_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    memory, disk = tmp_path / "memory", tmp_path / "disk"
    memory.mkdir()
    disk.mkdir()
    monkeypatch.delenv(bodies.PLACE, raising=False)
    monkeypatch.setattr(bodies, "_SHARED", str(memory))
    monkeypatch.setattr(sharedmemory, "_small", lambda folder: True)
    monkeypatch.setattr(sharedmemory, "in_memory", lambda path: path.startswith(str(memory)))
    monkeypatch.setattr(sharedmemory, "candidates", lambda: [str(disk)])

    def full(folder: str, size: int, beyond: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(bodies, "limit", full)
    folder, proof, made = sharedmemory.make()
    assert made == [folder] and os.path.dirname(folder) == str(disk)
    body = bodies.write(folder, proof, [b"x" * 100])
    assert [bytes(part) for part in bodies.read(body)] == [b"x" * 100]
    bodies.remove_folder(folder)
    assert os.listdir(memory) == os.listdir(disk) == []


# -- folders -------------------------------------------------------------------------------


@pytest.fixture
def bounded(tmp_path: Path) -> Iterator[tuple[bodies.Place, bodies.Place]]:
    here, beyond = (bodies.folder_in(str(tmp_path)) for _ in range(2))
    bodies.limit(here[0], MB, beyond)
    yield here, beyond
    for folder, _ in (here, beyond):
        bodies.remove_folder(folder)
    assert os.listdir(tmp_path) == []


def test_what_does_not_fit_goes_elsewhere_until_there_is_room(
    bounded: tuple[bodies.Place, bodies.Place],
) -> None:
    here, beyond = bounded
    first = bodies.write(*here, [b"a" * (MB - 640)])
    second = bodies.write(*here, [b"b" * 704, b"c"])
    third = bodies.write(*here, [b"d" * 640])
    assert [body.folder for body in (first, second, third)] == [here[0], beyond[0], here[0]]
    assert second.proof == beyond[1] and bodies.here(second)
    assert [bytes(part) for part in bodies.read(second)] == [b"b" * 704, b"c"]
    bodies.remove(first)
    assert bodies.write(*here, [b"e" * 704]).folder == here[0]


def test_both_places_are_served_to_other_hosts(
    bounded: tuple[bodies.Place, bodies.Place],
) -> None:
    here, beyond = bounded
    said: list[Any] = []
    carrier = Carrier(*here, lambda channel, message: said.append(message), _never)
    for size, folder in ((1000, here[0]), (2 * MB, beyond[0])):
        body = bodies.write(*here, [b"x" * size])
        assert body.folder == folder
        carrier.serve(1, fetch(body.id))
        opened = memoryview(bytearray(640))
        PieceOpener(SECRET, body.id).open(1, 0, said[-1].data, opened)
        assert (said[-1].chunk.problem, bytes(opened)) == ("", b"x" * 640)


SECRET = b"s" * 32


def fetch(name: bytes) -> Any:
    return m.Fetch(7, name, 0, 640, 1, SECRET)


def _never(name: bytes, body: Any, problem: str) -> None:
    raise AssertionError(problem)


def test_without_a_disk_the_error_has_limit_and_size(tmp_path: Path) -> None:
    here = bodies.folder_in(str(tmp_path))
    try:
        bodies.limit(here[0], MB, None)
        kept = bodies.write(*here, [b"a" * 1000])
        with pytest.raises(OSError, match="no room for an object of 1048640 bytes") as caught:
            bodies.write(*here, [b"b" * (MB + 1)])
        assert f"the limit of {MB} bytes of shared memory (--shm-limit)" in str(caught.value)
        assert "of which 1024 are in use" in str(caught.value)
        assert len(files(tmp_path)) == 1
        assert bytes(bodies.read(kept)[0]) == b"a" * 1000
    finally:
        bodies.remove_folder(here[0])


def test_a_folder_without_a_limit_has_none(tmp_path: Path) -> None:
    here = bodies.folder_in(str(tmp_path))
    assert bodies.limit_of(here[0]) == (0, None)
    assert bodies.write(*here, [b"a" * (2 * MB)]).folder == here[0]
    bodies.remove_folder(here[0])


# -- clusters ------------------------------------------------------------------------------


@pytest.fixture
def came(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """For each body that the client maps: where it lies, and what lies in memory then."""
    found: list[tuple[str, int]] = []
    usual = bodies.read

    def noted(body: m.Body) -> list[memoryview]:
        found.append((os.path.dirname(body.folder), kept(places[0])))
        return usual(body)

    monkeypatch.setattr(bodies, "read", noted)
    return found


def test_results_beyond_the_limit_come_by_way_of_the_disk(
    places: tuple[Path, Path], came: list[tuple[str, int]]
) -> None:
    memory, disk = places
    with ipp.Cluster(n=2, shm_limit="2MB") as rc:
        assert rc[:].apply_async(bytes, 5 * MB).get(timeout=30) == [bytes(5 * MB)] * 2
        assert [place for place, _ in came] == [str(disk)] * 2
        assert rc[0].apply_async(bytes, MB).get(timeout=30) == bytes(MB)
        assert came[2][0] == str(memory)
        until(lambda: not files(memory) and not files(disk), "their files to go")


def test_the_limit_is_kept_by_all_engines_together(
    places: tuple[Path, Path], came: list[tuple[str, int]]
) -> None:
    memory, disk = places

    def fill(n: int) -> bytes:
        return bytes([n]) * 900_000

    with ipp.Cluster(n=4, shm_limit=2 * MB) as rc:
        view = rc.load_balanced_view()
        with view.temp_flags(block=False):
            waiting = [view.apply_async(fill, n) for n in range(40)]
        assert [each.get(timeout=30) for each in waiting] == [fill(n) for n in range(40)]
    assert len(came) == 40 and {place for place, _ in came} <= {str(memory), str(disk)}
    assert max(size for _, size in came) <= 2 * MB + 4 * 900_032  # of sizes not yet refused


def mapped(x: Any) -> tuple[Any, list[str]]:
    with open("/proc/self/maps") as lines:
        found = {line.split()[5] for line in lines if "/ipclusterz-" in line}
    return x[::-1], sorted(found)


def test_payloads_of_another_host_keep_to_it_as_well(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another host is staged by a proof that the agent cannot find."""
    memory, disk = places
    with ipp.Cluster(n=1, shm_limit="1MB") as rc:
        payloads = rc.session.connection._payloads
        monkeypatch.setattr(payloads, "proof", b"y" * len(payloads.proof))
        monkeypatch.setattr(bodies, "here", lambda body: False)
        for size, place in ((3 * MB, disk), (MB // 2, memory)):
            sent = np.frombuffer(os.urandom(size), "u1")
            data, paths = rc[0].apply_async(mapped, sent).get(timeout=30)
            assert np.array_equal(data, sent[::-1])
            assert [path.startswith(str(place)) for path in paths] == [True]


def test_without_any_disk_it_is_said_and_the_task_fails_by_name(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharedmemory, "disks", list)
    said: list[str] = []
    folder, _, folders = sharedmemory.make(MB, said.append)
    try:
        assert folders == [folder] and bodies.limit_of(folder) == (MB, None)
        assert "--shm-limit: no folder for temporary files is on a disk" in said[0]
        assert "set TMPDIR" in said[0] and len(said) == 1
    finally:
        bodies.remove_folder(folder)


def test_a_place_on_a_disk_needs_no_limit(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, disk = places
    monkeypatch.setenv(bodies.PLACE, str(disk))
    folder, _, folders = sharedmemory.make(1, lambda text: None)
    try:
        assert folders == [folder] and bodies.limit_of(folder) == (0, None)
    finally:
        bodies.remove_folder(folder)


# -- settings ------------------------------------------------------------------------------


def test_from_the_profile(places: tuple[Path, Path], ipython_dir: Path) -> None:
    assert run("ipclusterz create").returncode == 0
    config = ipython_dir / "cluster_default" / "ipenginez_config.py"
    for said, meant in (("'1MB'", MB), ("1048576", MB), ("0", 0)):
        config.write_text(f"c = get_config()\nc.EngineApp.shm_limit = {said}\n")
        assert ipp.Cluster(n=1)._deployed.plan.agent.shm_limit == meant
    config.write_text("c = get_config()\nc.EngineApp.shm_limit = 'much'\n")
    with pytest.raises(SettingError, match=r"c\.EngineApp\.shm_limit: 'much' is no amount"):
        ipp.Cluster(n=1)


def test_by_command(places: tuple[Path, Path]) -> None:
    memory, _ = places
    started = run("ipclusterz start -n 1 --daemon --shm-limit=1MB")
    assert started.returncode == 0, started.stderr
    try:
        with ipp.Client(timeout=20) as rc:
            limits = list(memory.glob(f"*/{bodies.LIMIT}"))
            assert [path.read_text().split("\0")[0] for path in limits] == [str(MB)]
            assert rc[0].apply_sync(bytes, 3 * MB) == bytes(3 * MB)
    finally:
        assert run("ipclusterz stop").returncode == 0
    done = run("ipenginez --shm-limit=much")
    assert done.returncode != 0 and "--shm-limit: 'much' is no amount of memory" in done.stderr
