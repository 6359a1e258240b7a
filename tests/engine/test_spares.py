"""Files that are written again: only those nobody has any more, and only by one at a time."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from ipclusterz.core.message import Body
from ipclusterz.engine import bodies, spares
from ipclusterz.engine.bodies import Place
from ipclusterz.engine.spares import LEAST, Spares


@pytest.fixture
def place() -> Iterator[Place]:
    made = bodies.make_folder()
    yield made
    bodies.remove_folder(made[0])


def write(place: Place, fill: int, size: int = LEAST, spare: Spares | None = None) -> Body:
    return bodies.write(*place, [bytes([fill]) * size], spare)


def inode(body: Body) -> int:
    return os.stat(os.path.join(body.folder, body.id.hex())).st_ino


def retire(spare: Spares, body: Body) -> bool:
    return spare.retire(body.id.hex(), bodies.space(body))


def test_a_retired_file_becomes_the_next_body(place: Place) -> None:
    owner, writer = Spares(place[0]), Spares(place[0])
    first = write(place, 1)
    was = inode(first)
    assert retire(owner, first)
    second = write(place, 2, spare=writer)
    assert inode(second) == was
    assert bytes(bodies.read(second)[0]) == b"\2" * LEAST
    assert owner.trim() == 0, "it sees that it was taken"


def test_who_has_mapped_it_keeps_what_it_has(place: Place) -> None:
    owner, writer = Spares(place[0]), Spares(place[0])
    first = write(place, 1)
    was = inode(first)
    part = bodies.read(first)[0][10:20]
    retire(owner, first)
    second = write(place, 2, spare=writer)
    assert inode(second) != was
    assert bytes(part) == b"\1" * 10
    part.release()
    assert inode(write(place, 3, spare=writer)) == was, "nobody has it now"


def test_another_process_that_has_mapped_it_counts_and_so_does_its_child(place: Place) -> None:
    owner, writer = Spares(place[0]), Spares(place[0])
    first = write(place, 1)
    code = (
        "import os, sys\n"
        "from ipclusterz.core import message as m\n"
        "from ipclusterz.engine import bodies\n"
        "body = m.Body(bytes.fromhex(sys.argv[1]), [int(sys.argv[2])], sys.argv[3],"
        " bytes.fromhex(sys.argv[4]))\n"
        "part = bodies.read(body)[0]\n"
        "if os.fork():\n"
        "    os._exit(0)\n"  # the child alone has it now
        "print('mapped', flush=True)\n"
        "sys.stdin.readline()\n"
        "print(bytes(part[:3]).hex(), flush=True)\n"
    )
    words = [first.id.hex(), str(LEAST), place[0], place[1].hex()]
    reader = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdin is not None and reader.stdout is not None
    with reader.stdin, reader.stdout:
        assert reader.stdout.readline() == "mapped\n"
        assert reader.wait(20) == 0
        was = inode(first)
        retire(owner, first)
        assert inode(write(place, 2, spare=writer)) != was
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "010101\n"


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (LEAST, LEAST - 64, False),  # not worth it
        (2 * LEAST, LEAST, True),
        (2 * LEAST + 64, LEAST, False),  # too much of it would lie idle
        (LEAST, LEAST + 64, False),
        (LEAST - 64, LEAST - 64, False),
    ],
)
def test_only_what_fits_is_written_again(
    place: Place, before: int, after: int, same: bool
) -> None:
    owner, writer = Spares(place[0]), Spares(place[0])
    first = write(place, 1, before)
    was = inode(first)
    assert retire(owner, first) == (before >= LEAST)
    second = write(place, 2, after, writer)
    assert (inode(second) == was) == same
    path = os.path.join(place[0], second.id.hex())
    assert os.path.getsize(path) == bodies.space(second), "no more than it needs"
    assert bytes(bodies.read(second)[0]) == b"\2" * after


def test_a_file_that_somebody_else_takes_and_cuts_meanwhile_is_none_of_ours(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, writer, other = Spares(place[0]), Spares(place[0]), Spares(place[0])
    first = write(place, 1, 2 * LEAST)
    assert retire(owner, first)
    real, taken = spares._alone, []

    def alone(fd: int) -> bool:
        if not taken:  # it was opened, and is not looked at yet
            taken.append(write(place, 2, LEAST))
            path = os.path.join(place[0], spares.FOLDER, f"{2 * LEAST}-{first.id.hex()}")
            os.truncate(path, LEAST)
            os.rename(path, os.path.join(place[0], "0" * 32))
        return real(fd)

    assert other._is_sound() and writer._is_sound()
    monkeypatch.setattr(spares, "_alone", alone)
    body = write(place, 3, 2 * LEAST, writer)
    assert taken and bytes(bodies.read(body)[0][:2]) == b"\3\3"
    assert os.path.getsize(os.path.join(place[0], "0" * 32)) == LEAST


def test_a_map_that_is_held_is_written_again_as_well(place: Place) -> None:
    spare = Spares(place[0], hold=True)
    body = write(place, 0, 2 * LEAST)
    was = inode(body)
    for fill, size in ((1, 2 * LEAST), (2, LEAST), (3, LEAST)):
        assert retire(spare, body)
        body = write(place, fill, size, spare)
        assert inode(body) == was
        assert bytes(bodies.read(body)[0]) == bytes([fill]) * size
    spare.close()


def test_a_map_that_is_held_is_not_written_while_a_reader_has_it(place: Place) -> None:
    spare = Spares(place[0], hold=True)
    retire(spare, write(place, 0))
    second = write(place, 1, spare=spare)
    part = bodies.read(second)[0]
    was = inode(second)
    retire(spare, second)
    assert inode(write(place, 2, spare=spare)) != was
    assert bytes(part[:3]) == b"\1\1\1"
    spare.close()


def test_there_are_never_too_many(place: Place) -> None:
    owner = Spares(place[0], most=8 * LEAST)
    made = [write(place, n) for n in range(spares.MOST_FILES + 3)]
    for body in made:
        assert retire(owner, body)
    names = spares.names(place[0])
    assert len(names) == spares.MOST_FILES
    assert f"{LEAST}-{made[-1].id.hex()}" in names, "the first ones went"
    assert retire(owner, write(place, 0, 3 * LEAST))
    sizes = sorted(int(name.partition("-")[0]) for name in spares.names(place[0]))
    assert sizes == [LEAST] * 5 + [3 * LEAST]
    assert not retire(owner, write(place, 0, 8 * LEAST + 64))


def test_what_waits_for_too_long_is_removed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(spares, "monotonic", lambda: now[0])
    owner = Spares(place[0])
    retire(owner, write(place, 1))
    now[0] += 0.5
    retire(owner, write(place, 2))
    assert owner.trim() == pytest.approx(spares.SECONDS - 0.5)
    now[0] += spares.SECONDS - 0.5
    assert owner.trim() == pytest.approx(0.5)
    assert len(spares.names(place[0])) == 1
    now[0] += 0.5
    assert owner.trim() == 0
    assert spares.names(place[0]) == []


@pytest.mark.parametrize("writer", [lambda owner, _: owner, lambda _, other: other])
def test_room_is_made_before_an_object_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch, writer: Callable[[Spares, Spares], Spares]
) -> None:
    owner, other = Spares(place[0], hold=True), Spares(place[0])
    for fill in (1, 2):  # the second is over the first, and held
        retire(owner, write(place, fill, spare=owner))
    assert len(owner._held) == 1
    usual = bodies._reserve

    def reserve(fd: int, total: int) -> None:
        if spares.names(place[0]):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        usual(fd, total)

    monkeypatch.setattr(bodies, "_reserve", reserve)
    body = write(place, 2, 3 * LEAST, writer(owner, other))
    assert bytes(bodies.read(body)[0][:2]) == b"\2\2"
    assert owner.trim() == 0, "it sees that they are gone"
    assert not owner._held, "and lets go of their memory"


@pytest.mark.parametrize("told", [False, True])
def test_where_the_kernel_does_not_tell_readers_apart_nothing_is_kept(
    place: Place, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    monkeypatch.setattr(spares, "_alone", lambda fd: told)
    body = write(place, 1)
    assert not retire(Spares(place[0]), body)
    assert bytes(bodies.read(body)[0][:2]) == b"\1\1", "it is as it was"


def test_what_does_not_belong_there_is_left_alone(place: Place) -> None:
    os.mkdir(os.path.join(place[0], spares.FOLDER))
    for name in ("x", "-1", f"{LEAST}-gone"):
        os.symlink("/nowhere", os.path.join(place[0], spares.FOLDER, name))
    write(place, 1, spare=Spares(place[0]))
    assert len(os.listdir(os.path.join(place[0], spares.FOLDER))) == 3


def test_a_body_that_cannot_be_written_leaves_nothing(place: Place) -> None:
    spare = Spares(place[0], hold=True)
    retire(spare, write(place, 1))

    class Broken:
        pieces = (b"a" * LEAST, 5)

        def __len__(self) -> int:
            return LEAST

    with pytest.raises(TypeError):
        bodies.write(*place, [Broken()], spare)
    assert sorted(os.listdir(place[0])) == [bodies.PROOF, spares.FOLDER]
    assert spares.names(place[0]) == []
    assert not spare._held


def test_a_spare_file_that_cannot_be_mapped_is_in_nobodys_way(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, writer = Spares(place[0]), Spares(place[0])
    assert retire(owner, write(place, 1, LEAST + 4096)) and writer._is_sound()

    def refused(*arguments: object, **how: object) -> None:
        raise OSError(errno.ENOMEM, "no memory to map it")

    with monkeypatch.context() as patch:
        patch.setattr(spares.mmap, "mmap", refused)
        second = write(place, 2, spare=writer)
    assert bytes(bodies.read(second)[0]) == b"\2" * LEAST
    third = write(place, 3, spare=writer)
    assert bytes(bodies.read(third)[0]) == b"\3" * LEAST, "and may still be used"


@pytest.mark.parametrize("cores", [1, 2, 3, 64])
@pytest.mark.parametrize("more", [-1, 0, 1, 63, 64, 12345])
def test_large_parts_are_copied_whole_however_many_copy(
    place: Place, cores: int, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    numpy = pytest.importorskip("numpy")
    monkeypatch.setattr(bodies, "THREADED", LEAST)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    owner, writer = Spares(place[0]), Spares(place[0])
    parts = [b"head", numpy.random.default_rng(more + 2).bytes(LEAST + more), b"tail"]
    first = bodies.write(*place, [bytes(len(part)) for part in parts])
    was = inode(first)
    assert retire(owner, first)
    second = bodies.write(*place, parts, writer)
    assert inode(second) == was
    assert [bytes(part) for part in bodies.read(second)] == parts


def test_a_copy_that_is_interrupted_leaves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    numpy = pytest.importorskip("numpy")
    monkeypatch.setattr(bodies, "THREADED", LEAST)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    copyto, go_on = numpy.copyto, threading.Event()

    def slow(to: object, given: object) -> None:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        go_on.wait(10)
        copyto(to, given)

    monkeypatch.setattr(numpy, "copyto", slow)
    owner, writer = Spares(place[0]), Spares(place[0])
    assert retire(owner, write(place, 1, 2 * LEAST))
    threading.Timer(0.05, go_on.set).start()
    with pytest.raises(KeyboardInterrupt):
        write(place, 2, 2 * LEAST, writer)
    assert spares.names(place[0]) == []
    assert [name for name in os.listdir(place[0]) if not name.startswith(".")] == []


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_many_writers_and_readers_never_see_what_is_not_theirs(place: Place) -> None:
    """Four write, read back, keep some for a while and let go, all over the same files."""
    owner = Spares(place[0])
    wrong: list[str] = []
    taken = [0] * 4

    def work(seed: int) -> None:
        chance = random.Random(seed)
        spare = Spares(place[0])
        kept: list[tuple[memoryview, int]] = []
        for _ in range(60):
            fill = chance.randrange(256)
            before = set(spares.names(place[0]))
            body = write(place, fill, LEAST + 64 * chance.randrange(3), spare)
            taken[seed] += len(before - set(spares.names(place[0]))) > 0
            kept.append((bodies.read(body)[0], fill))
            retire(owner, body)
            while len(kept) > chance.randrange(4):
                part, expected = kept.pop(chance.randrange(len(kept)))
                if bytes(part) != bytes([expected]) * len(part):
                    wrong.append(f"{seed}: {part[0]} for {expected}")
                part.release()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert sum(taken) > 20, "files were written again"
