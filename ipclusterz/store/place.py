"""Where a database lies: what kind of file system, and whether the file may be opened.

SQLite's write-ahead log needs what network file systems do not give, so the type of the
file system decides the journal.  Unknown is treated as a network: a rollback journal is
right everywhere, only slower.

The file is as private as the tasks in it: mode 0600 from its first instant, in a folder of
mode 0700 when we make it, and never reached through a symbolic link.  Nothing here opens a
file that SQLite has open: closing it again would drop SQLite's locks (POSIX).
"""

from __future__ import annotations

import os
import re
import stat
import time

MOUNTS = "/proc/self/mountinfo"

# Types whose files other hosts may have open as well, or that lack locks or shared memory.
NETWORK = frozenset(
    "9p acfs afs autofs beegfs ceph cifs coda cvmfs dfs exafs gfs gfs2 glusterfs gpfs ibrix"
    " kafs lustre mvfs ncpfs nfs nfs3 nfs4 nfsd ocfs2 orangefs panfs pohmelfs prl_fs pvfs2"
    " quobyte shfs smb2 smb3 smbfs sshfs stnfs vboxsf virtiofs vmhgfs wekafs".split()
)

# Of the file systems in user space, those that are known to be local.
LOCAL_FUSE = frozenset(
    "fuseblk fuse.ext2 fuse.ext4 fuse.fuse-overlayfs fuse.lxcfs fuse.ntfs fuse.ntfs-3g"
    " fuse.exfat".split()
)

_ESCAPE = re.compile(r"\\([0-7]{3})")


class Unsuitable(OSError):
    """The file or its folder cannot be used as it is; the text says why and what to do."""


def is_network(kind: str) -> bool:
    """Tell whether a type of file system is not local, or not known to be."""
    if not kind or kind in NETWORK:
        return True
    return kind.startswith("fuse") and kind not in LOCAL_FUSE


def filesystem(path: str, mounts: str = MOUNTS) -> str:
    """Return the type of the file system that holds ``path`` (it must exist), or ``""``.

    >>> filesystem("/proc/self")
    'proc'
    """
    try:
        os.stat(path)  # an automounter acts now, not after we looked
        with open(mounts, encoding="utf-8", errors="surrogateescape") as lines:
            return _type_of(os.path.realpath(path), lines.read())
    except OSError:
        return ""


def _type_of(path: str, table: str) -> str:
    """proc(5), mountinfo: the longest mount point holds; of equals the last one covers."""
    best, found = -1, ""
    for line in table.splitlines():
        left, _, right = line.partition(" - ")
        fields, facts = left.split(" "), right.split(" ")
        if len(fields) < 5 or not facts[0]:
            continue
        point = _ESCAPE.sub(lambda code: chr(int(code[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:
            best, found = len(point), facts[0]
    return found


def prepare(path: str, notes: list[str]) -> bool:
    """Make folder and file private, or check that they are; True when the file is new.

    What was put right is added to ``notes``.  Raises Unsuitable for a folder that others may
    write to, FileExistsError when something that is no file of ours lies at ``path`` (it may
    be moved aside), and OSError as the system says it.
    """
    folder = os.path.dirname(os.path.abspath(path))
    _folder(folder)
    new = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.close(os.open(path, new, 0o600))
        return True
    except FileExistsError:
        pass
    facts = os.lstat(path)
    if not stat.S_ISREG(facts.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(facts.st_mode) else "not a regular file"
        raise FileExistsError(f"it is {kind}")
    if facts.st_uid != os.geteuid():
        raise FileExistsError(f"it belongs to user {facts.st_uid}")
    if facts.st_mode & 0o077:
        os.chmod(path, 0o600)
        notes.append(
            f"{path} was open to other users (mode {stat.S_IMODE(facts.st_mode):04o}); it is"
            " private now"
        )
    return False


def _folder(folder: str) -> None:
    if not os.path.isdir(folder):
        parent = os.path.dirname(folder)
        if not os.path.isdir(parent):
            _folder(parent)
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            pass
    facts = os.stat(folder)
    if not stat.S_ISDIR(facts.st_mode):
        raise Unsuitable(f"{folder} is in the way: it is no folder")
    if facts.st_mode & 0o022 and not facts.st_mode & stat.S_ISVTX:
        raise Unsuitable(
            f"the folder {folder} can be written to by other users (mode"
            f" {stat.S_IMODE(facts.st_mode):04o}); make it private with: chmod go-w {folder}"
        )


def move_aside(path: str, why: str) -> str:
    """Rename a database and what belongs to it; return the new name of the database."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    made = f"{path}.{why}-{stamp}"
    number = 1
    while os.path.lexists(made):
        number += 1
        made = f"{path}.{why}-{stamp}-{number}"
    os.rename(path, made)
    for suffix in ("-wal", "-shm", "-journal"):
        try:
            os.rename(path + suffix, made + suffix)
        except FileNotFoundError:
            pass
    return made


def beside(path: str, number: int) -> str:
    """Return the name that is taken when another process has the database.

    >>> beside("/home/ann/tasks.db", 2)
    '/home/ann/tasks-2.db'
    """
    root, extension = os.path.splitext(path)
    return f"{root}-{number}{extension}"


def identity(path: str) -> tuple[int, int] | None:
    """Return what tells a file from another that took its name, or None if it is gone."""
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        return None
    return facts.st_dev, facts.st_ino
