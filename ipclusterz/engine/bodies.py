"""Payloads too large for a batch, as owner-only files in memory.

Lives here: folders of bodies, writing, mapping and removing them.  May know: the message
:class:`~ipclusterz.core.message.Body`.  Must not know: who sends them, nor why.

A folder holds a challenge file with random bytes.  A receiver opens a body only where
that file has the content the sender named, so a path that happens to exist on another
host is never mistaken for the sender's.  Files are opened by bare name, never through
links, and mapped privately: receivers may write to what they got and share the memory of
what they do not write to.

A folder may have a limit, with another folder, on a disk, for what goes beyond it; without a
limit that is for what does not fit.  Both are told by a file in it, so whoever writes bodies
there keeps to it.

The owner keeps the challenge file locked for as long as it lives.  A folder whose file is
not locked belonged to a process that was killed; whoever makes a folder removes those.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import sys
from collections.abc import Sequence
from typing import Any

from ipclusterz.core.message import Body
from ipclusterz.engine import spares
from ipclusterz.engine.spares import Spares
from ipclusterz.error import ClusterError

PLACE = "IPCLUSTERZ_BODIES"
"""The environment variable that names another place than shared memory for bodies."""

THREADED = 16 << 20
COPIERS = 4
"""From how many bytes several threads copy, and how many; a thread costs as much as 1 MB."""

ALIGN = 64
PROOF = ".proof"
LIMIT = ".limit"
LENT = ".lent"
"""A folder in a folder: where bodies are told of that have no file."""

_PROOF_SIZE = 16
_MAX_WRITE = 1 << 30

_PREFIX = "ipclusterz-"
_SHARED = "/dev/shm"

_owned: dict[str, int] = {}  # folder -> descriptor that holds its lock
_trusted: set[tuple[str, bytes]] = set()
_REMEMBERED = 4096

Place = tuple[str, bytes]
"""A folder and its proof."""

_limits: dict[str, tuple[int, Place | None]] = {}  # as read; (0, None) for no limit


def make_folder() -> tuple[str, bytes]:
    """Make a private folder for bodies, in shared memory where there is some with room.

    ``$IPCLUSTERZ_BODIES`` names another place.  Returns its path and the proof to put into
    each Body.  Raises ClusterError naming the places and what was wrong with them.
    """
    problems: list[str] = []
    for base in _places():
        try:
            sweep(base)
            return folder_in(base)
        except OSError as error:
            problems.append(f"{base} ({error.strerror})")
    raise ClusterError(
        f"cannot make a folder for large objects in {' nor in '.join(problems)}; make room"
        f" there, or set {PLACE} to a folder that has some"
    )


def _places() -> list[str]:
    """Return where bodies may lie; a small shared memory that is full is no reason to fail."""
    import tempfile  # 3 ms; engines never come here

    told = os.environ.get(PLACE, "")
    if told:
        return [told]
    usable = os.path.isdir(_SHARED) and os.access(_SHARED, os.W_OK | os.X_OK)
    return [_SHARED] * usable + [tempfile.gettempdir()]


def folder_in(base: str) -> Place:
    """Make a private folder for bodies in a folder; OSError where that cannot be."""
    import tempfile

    folder = tempfile.mkdtemp(prefix=_PREFIX, dir=base)
    try:
        return folder, _prove(folder)
    except OSError:
        remove_folder(folder)
        raise


def _prove(folder: str) -> bytes:
    """Make a folder's challenge file, and hold its lock."""
    proof = os.urandom(_PROOF_SIZE)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    made = os.path.join(folder, PROOF + ".new")
    fd = os.open(made, flags, 0o600)
    _lock(fd)
    _owned[folder] = fd
    os.write(fd, proof)
    # Nobody finds the file under its name before it is locked.
    os.rename(made, os.path.join(folder, PROOF))
    return proof


def sweep(base: str) -> int:
    """Remove the folders in ``base`` whose owners were killed; return how many."""
    removed = 0
    for name in os.listdir(base):
        folder = os.path.join(base, name)
        if name.startswith(_PREFIX) and folder not in _owned and abandoned(folder):
            try:
                remove_folder(folder)
            except OSError:
                continue  # something in it is not of our making
            removed += 1
    return removed


def abandoned(folder: str) -> bool:
    """Tell whether a folder is ours and its owner lives no more; in doubt it lives."""
    try:
        if os.lstat(folder).st_uid != os.geteuid():
            return False
        fd = os.open(os.path.join(folder, PROOF), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.fstat(fd).st_size == _PROOF_SIZE and _lock(fd)
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    """Take a file's lock; False where that is impossible or somebody has it."""
    try:
        import fcntl  # not on Windows, and engines take no locks

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def remove_folder(folder: str) -> None:
    """Remove a folder of bodies with what is left in it; a folder that is gone is fine."""
    _trusted.difference_update({known for known in _trusted if known[0] == folder})
    _limits.pop(folder, None)
    held = _owned.pop(folder, -1)
    if held >= 0:
        os.close(held)
    for place in (*(os.path.join(folder, name) for name in (spares.FOLDER, LENT)), folder):
        try:
            names = os.listdir(place)
        except FileNotFoundError:
            continue
        for name in names:
            try:
                os.unlink(os.path.join(place, name))
            except FileNotFoundError:
                pass
        try:
            os.rmdir(place)
        except FileNotFoundError:
            pass


def write(folder: str, proof: bytes, parts: Sequence[Any], spare: Spares | None = None) -> Body:
    """Write ``parts`` as one new body, each at a multiple of 64 bytes.

    A part is a buffer, or has ``pieces`` that are written one after the other.  A full
    file system is an OSError that says how much was needed; then nothing is left behind.
    With ``spare`` it may be written over one of those.
    """
    name = os.urandom(16)
    sizes = [len(part) for part in parts]
    total = sum(_padded(size) for size in sizes)
    if spare is not None and _rewritten(spare, os.path.join(folder, name.hex()), parts, total):
        return Body(id=name, sizes=sizes, folder=folder, proof=proof)
    folder, proof, fd = claim((folder, proof), name, total, spare)
    path = os.path.join(folder, name.hex())
    try:
        at = 0
        for part, size in zip(parts, sizes, strict=True):
            _write_at(fd, at, getattr(part, "pieces", (part,)))
            at += _padded(size)
    except BaseException as error:
        os.unlink(path)
        if isinstance(error, OSError):
            raise _no_room(error, total, folder) from None
        raise
    finally:
        os.close(fd)
    return Body(id=name, sizes=sizes, folder=folder, proof=proof)


def _rewritten(spare: Spares, path: str, parts: Sequence[Any], total: int) -> bool:
    """Write a body over a spare file, if there is one for it."""
    name = os.path.basename(path)
    mapped = spare.take(name, total)
    if mapped is None:
        return False
    try:
        at = 0
        for part in parts:
            begin = at
            for piece in getattr(part, "pieces", (part,)):
                view = memoryview(piece).cast("B")
                copy(view, mapped, at)
                at += view.nbytes
            at = begin + _padded(at - begin)
    except BaseException:
        os.unlink(path)
        spare.forget(name)
        raise
    spare.written(name)
    return True


def copy(data: memoryview, mapped: mmap.mmap, at: int) -> None:
    """Copy bytes to a place in a map: what is large in several threads, with NumPy's help.

    NumPy lets other threads run meanwhile; who sends large data has it mostly.
    """
    numpy = sys.modules.get("numpy") if data.nbytes >= THREADED else None
    # Files are written again on Linux only, which has this.
    threads = min(len(os.sched_getaffinity(0)), COPIERS) if numpy is not None else 1
    if numpy is None or threads == 1:
        mapped[at : at + data.nbytes] = data
        return
    from threading import Thread  # most engines never come here

    to = numpy.frombuffer(mapped, "u1", data.nbytes, at)
    given = numpy.frombuffer(data, "u1")
    share = -(-data.nbytes // threads // ALIGN) * ALIGN
    others = [
        Thread(target=numpy.copyto, args=(to[i : i + share], given[i : i + share]))
        for i in range(share, data.nbytes, share)
    ]
    try:
        for thread in others:
            thread.start()
        numpy.copyto(to[:share], given[:share])
    finally:
        for thread in others:
            if thread.ident is not None:
                thread.join()


def claim(
    place: Place, name: bytes, total: int, spare: Spares | None = None
) -> tuple[str, bytes, int]:
    """Make the file of a body of ``total`` bytes: its folder, the proof there, descriptor.

    What is ``spare`` makes room for it.  It is in another folder than ``place`` if that has
    a limit and this would be beyond it.
    OSError that says how much was needed and what there is, when it fits nowhere.
    """
    folder, proof = place
    bound, beyond = limit_of(folder)
    fd = _create(folder, name, total)
    try:
        _reserve(fd, total)
        if bound:
            _keep_to(bound, folder, total)
        elif beyond is not None and total:
            # Others write at the same time, and half-way there is no other place any more.
            os.posix_fallocate(fd, 0, total)
        return folder, proof, fd
    except BaseException as error:
        os.close(fd)
        os.unlink(os.path.join(folder, name.hex()))
        if not isinstance(error, OSError):
            raise
        if spare is not None and spare.clear():
            return claim(place, name, total)
        if beyond is None:
            raise _no_room(error, total, folder) from None
    return claim(beyond, name, total)


def _create(folder: str, name: bytes, total: int) -> int:
    path = os.path.join(folder, name.hex())
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        raise OSError(
            error.errno, f"cannot make a file for {total} bytes: {error.strerror}", path
        ) from None


def _no_room(error: OSError, total: int, folder: str) -> OSError:
    return OSError(
        error.errno,
        f"no room for an object of {total} bytes: {error.strerror}; free some space "
        f"there, set {PLACE} to a folder with more before the start, or send the "
        "object in smaller pieces",
        folder,
    )


def limit(folder: str, size: int, beyond: Place | None) -> None:
    """Let the bodies in a folder of ours have ``size`` bytes in all; more go to ``beyond``.

    With 0 it is what does not fit there that goes to ``beyond``.
    """
    lines = [str(size), *((beyond[0], beyond[1].hex()) if beyond is not None else ())]
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(os.path.join(folder, LIMIT), flags, 0o600), "wb") as file:
        file.write(os.fsencode("\0".join(lines)))
    _limits.pop(folder, None)


def limit_of(folder: str) -> tuple[int, Place | None]:
    """Return a folder's limit (0: none) and the place for what goes beyond it."""
    known = _limits.get(folder)
    if known is None:
        try:
            with open(os.path.join(folder, LIMIT), "rb") as file:
                size, *more = os.fsdecode(file.read()).split("\0")
            known = int(size), (more[0], bytes.fromhex(more[1])) if more else None
        except FileNotFoundError:
            known = 0, None
        _limits[folder] = known
    return known


def path_of(folder: str, name: bytes) -> str:
    """Return where a body of a folder lies: there, or where those beyond its limit go."""
    path = os.path.join(folder, name.hex())
    _, beyond = limit_of(folder)
    if beyond is None or os.path.exists(path):
        return path
    return os.path.join(beyond[0], name.hex())


def _keep_to(bound: int, folder: str, total: int) -> None:
    """Raise OSError if the files in a folder, one just made among them, are too much.

    Each has its size before it has memory, so two who write at once see each other: then
    both may go elsewhere, but the limit is kept.
    """
    used = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                used += entry.stat(follow_symlinks=False).st_size if entry.name[0] != "." else 0
            except FileNotFoundError:
                pass  # let go of meanwhile
    if used > bound:
        raise OSError(
            errno.ENOSPC,
            f"the limit of {bound} bytes of shared memory (--shm-limit), of which"
            f" {max(used - total, 0)} are in use",
        )


def read(body: Body) -> list[memoryview]:
    """Map a body and return its parts, writable and private to this process.

    Raises OSError when the folder is not the sender's (another host), is not ours, or the
    file is not there or not as large as it was said to be.
    """
    _trust(body.folder, body.proof)
    path = os.path.join(body.folder, body.id.hex())
    total = space(body)
    if total == 0:
        return [memoryview(b"") for _ in body.sizes]
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        # A file shorter than its map kills the reader with SIGBUS.
        if not stat.S_ISREG(found.st_mode) or found.st_size < total:
            raise OSError(f"{path} has {found.st_size} bytes where {total} were announced")
        whole = _mapped(fd, total)
    finally:
        os.close(fd)
    parts = []
    at = 0
    for size in body.sizes:
        parts.append(whole[at : at + size])
        at += _padded(size)
    return parts


def _mapped(fd: int, total: int) -> memoryview:
    """Map so many bytes of a file, or read them: each map holds a descriptor of its own."""
    try:
        return memoryview(mmap.mmap(fd, total, access=mmap.ACCESS_COPY))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
    whole = memoryview(bytearray(total))
    at = 0
    while at < total:
        read = os.preadv(fd, [whole[at:]], at)
        if not read:
            raise OSError(f"{at} bytes where {total} were announced")
        at += read
    return whole


def space(body: Body) -> int:
    """Return how many bytes a body's file has."""
    return sum(map(_padded, body.sizes))


def remove(body: Body) -> None:
    """Remove a body's file; those who mapped it keep what they have."""
    try:
        os.unlink(os.path.join(body.folder, body.id.hex()))
    except FileNotFoundError:
        pass


def here(body: Body) -> bool:
    """Tell whether the body's folder is one of this host that we may use."""
    return _is_here(body.folder, body.proof)


def beside(folder: str, proof: bytes) -> bool:
    """Tell the same of a folder that is not looked for but where this process has its own.

    For whoever must not be sent to a file system that does not answer, nor through a link
    to one.
    """
    base, name = os.path.split(folder)
    if not name.startswith(_PREFIX) or base not in _places():
        return False
    try:
        found = os.lstat(folder)
    except (OSError, ValueError):
        return False
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return ours and _is_here(folder, proof)


def _is_here(folder: str, proof: bytes) -> bool:
    try:
        _trust(folder, proof)
    except OSError:
        return False
    return True


def _padded(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def _trust(folder: str, proof: bytes) -> None:
    """Raise OSError unless ``folder`` is ours and holds ``proof``; remembers those that do."""
    if (folder, proof) in _trusted:
        return
    path = os.path.join(folder, PROOF)
    # What somebody puts there in its stead must not be waited for.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(path, flags)
    except ValueError as error:
        raise OSError(f"{path!r} is no path: {error}") from None
    try:
        found = os.fstat(fd)
        content = os.read(fd, _PROOF_SIZE + 1)
    finally:
        os.close(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{path} does not belong to this user (uid {os.getuid()})")
    if len(proof) != _PROOF_SIZE or content != proof:
        raise OSError(f"{folder} is not the sender's folder: it is one of another host")
    if len(_trusted) >= _REMEMBERED:
        _trusted.clear()
        _limits.clear()
    _trusted.add((folder, proof))


def _reserve(fd: int, total: int) -> None:
    """Set a file's size; OSError when there is plainly no room for it.

    Not by allocating: that would clear every page just before it is written.  Writing
    notices a full file system as well; only a map of what was never written would not.
    """
    if not total:
        return
    place = os.fstatvfs(fd)
    if place.f_blocks and place.f_bavail * place.f_frsize < total:  # 0 blocks: no limit
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(fd, total)


def _write_at(fd: int, at: int, pieces: Sequence[Any]) -> None:
    for piece in pieces:
        view = memoryview(piece).cast("B")
        done = 0
        while done < view.nbytes:
            done += os.pwrite(fd, view[done : done + _MAX_WRITE], at + done)
        at += view.nbytes
