"""Owner-only files and folders: written whole or not at all, read only when private.

A connector file is as good as a password, so it gets the care an SSH key gets: a folder of
mode 0700, a file that was never readable by anyone else for an instant, and readers that
refuse one that is open to others rather than trust it.

Knows the file system only: neither what the bytes mean nor which folder is whose.
"""

from __future__ import annotations

import errno
import os
import stat

from ipclusterz.error import ConnectorError

LIMIT = 4 * 1024 * 1024
"""The largest file that is read, in bytes, unless a reader says otherwise."""

_NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
_NONBLOCK: int = getattr(os, "O_NONBLOCK", 0)  # opening a fifo must not wait for a writer
_CLOEXEC: int = getattr(os, "O_CLOEXEC", 0)
_POSIX = os.name == "posix"


def way_out(error: OSError) -> str:
    """Return what helps against an error of a profile folder's file system, or ''."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "; make room there, or put the profile elsewhere: --profile-dir or $IPYTHONDIR"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "; put the profile where you can write: --profile-dir or $IPYTHONDIR"
    return ""


def write_private(path: str, data: bytes, sync: bool = True) -> None:
    """Write ``data`` to ``path`` so that readers find the old file or the whole new one.

    The file is made under a private name in the same folder with mode 0600, flushed to
    disk and renamed.  Without ``sync`` nothing waits for the disk: the file survives its
    writer, but perhaps no power failure.  Raises ConnectorError naming ``path`` when it
    cannot be written.
    """
    folder, name = os.path.split(path)
    made = os.path.join(folder, f".{name}.{os.urandom(8).hex()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _CLOEXEC
    try:
        fd = os.open(made, flags, 0o600)
    except OSError as error:
        help = way_out(error) or f"; the folder {folder or '.'} must exist and be yours"
        raise ConnectorError(f"cannot write {path}: {error.strerror}{help}") from None
    try:
        try:
            _write_all(fd, data)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(made, path)
    except OSError as error:
        remove(made)
        raise ConnectorError(f"cannot write {path}: {error.strerror}{way_out(error)}") from None


def read_private(path: str, limit: int | None = LIMIT) -> bytes:
    """Return the content of ``path``, refusing a file that others could read or replace.

    Raises FileNotFoundError when there is none (callers know what that means), and
    ConnectorError when it is a link, no regular file, another user's, or open to others;
    the message holds the command that puts it right.  So it does when the file has more
    than ``limit`` bytes; None is for files that grow with what is done.
    """
    try:
        fd = os.open(path, os.O_RDONLY | _NOFOLLOW | _NONBLOCK | _CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ConnectorError(
                f"{path} is a symbolic link, which is not followed for a file that holds a"
                f" key: name the file itself{_aim(path)}"
            ) from None
        raise ConnectorError(f"cannot read {path}: {error.strerror}") from None
    try:
        _check_file(path, os.fstat(fd))
        return _read_all(fd, path, limit)
    except OSError as error:
        raise ConnectorError(f"cannot read {path}: {error.strerror}") from None
    finally:
        os.close(fd)


def private_dir(path: str) -> str:
    """Make the folder ``path`` (and missing parents) with mode 0700, or check that it is so.

    Returns ``path``; raises ConnectorError when it is another user's or open to others.
    """
    missing: list[str] = []
    probe = os.path.abspath(path)
    while not os.path.isdir(probe):
        missing.append(probe)
        parent = os.path.dirname(probe)
        if parent == probe:
            break
        probe = parent
    for folder in reversed(missing):
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise ConnectorError(f"{folder} is in the way: it is no folder") from None
        except OSError as error:
            raise ConnectorError(
                f"cannot make {folder}: {error.strerror}{way_out(error)}"
            ) from None
    _check_folder(path)
    return path


def planted(folder: str) -> str:
    """Return why code in ``folder`` may be somebody else's, or '' if it cannot be.

    It is run as us, so the folder must be ours or the system's, and others must not write it.
    """
    try:
        facts = os.stat(folder)
    except OSError:
        return ""
    if not _POSIX:
        return ""
    if facts.st_uid not in (os.geteuid(), 0):
        return (
            f"the folder {folder} belongs to user {facts.st_uid}, not to you (user"
            f" {os.geteuid()}), and what is in it would run as you: choose another profile, or"
            " copy what you trust into a folder of your own"
        )
    if facts.st_mode & 0o002:
        return (
            f"all users may write in the folder {folder}, and what is in it would run as you:"
            f" look at it, then chmod o-w {quote(folder)}"
        )
    return ""


def remove(path: str) -> bool:
    """Delete ``path`` if it is there; tell whether it was."""
    try:
        os.unlink(path)
    except OSError:
        return False
    return True


def quote(text: str) -> str:
    """Return ``text`` as a shell takes it literally, for commands shown in messages."""
    safe = "@%+=:,./-_"
    if text and all(c.isascii() and (c.isalnum() or c in safe) for c in text):
        return text
    return "'" + text.replace("'", "'\"'\"'") + "'"


def _aim(path: str) -> str:
    """Return where a link leads, for a message, unless it has been exchanged meanwhile."""
    try:
        return f" ({os.path.realpath(path)})"
    except OSError:
        return ""


def _check_file(path: str, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise ConnectorError(f"{path} is not a regular file: name the connector file itself")
    if not _POSIX:
        return
    if facts.st_uid != os.geteuid():
        raise ConnectorError(
            f"{path} belongs to user {facts.st_uid}, not to you (user {os.geteuid()}): copy it"
            " into your own security folder if you trust where it comes from"
        )
    if facts.st_mode & 0o077:
        raise ConnectorError(
            f"{path} is open to other users (mode {stat.S_IMODE(facts.st_mode):04o}) and"
            f" holds a key; make it private with: chmod 600 {quote(path)}"
        )


def _check_folder(path: str) -> None:
    facts = os.stat(path)
    if not _POSIX:
        return
    if facts.st_uid != os.geteuid():
        raise ConnectorError(
            f"the folder {path} belongs to user {facts.st_uid}, not to you (user"
            f" {os.geteuid()}): move it away, or choose another profile"
        )
    if facts.st_mode & 0o077:
        raise ConnectorError(
            f"the folder {path} is open to other users (mode"
            f" {stat.S_IMODE(facts.st_mode):04o}); make it private with:"
            f" chmod 700 {quote(path)}"
        )


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read_all(fd: int, path: str, limit: int | None) -> bytes:
    pieces: list[bytes] = []
    total = 0
    while piece := os.read(fd, 65536):
        total += len(piece)
        if limit is not None and total > limit:
            raise ConnectorError(f"{path} has more than {limit} bytes: that is no file of ours")
        pieces.append(piece)
    return b"".join(pieces)
