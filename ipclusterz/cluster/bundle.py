"""An archive of what helps to understand a cluster's trouble, without its keys.

Lives here: what goes in, and how secrets are taken out.  Every secret in the profile's
connector and key files is looked for in all its usual spellings; where one of those files
cannot be read nobody knows what to look for, and no archive is made.  The finished archive
is searched once more before it gets its name.
"""

from __future__ import annotations

import base64
import importlib.metadata
import io
import json
import os
import platform
import re
import sys
import tarfile
import time
from collections.abc import Iterable

from ipclusterz._version import __version__
from ipclusterz.cluster import logfiles
from ipclusterz.core.connector import z85
from ipclusterz.error import ClusterError, ConnectorError
from ipclusterz.files import quote, read_private
from ipclusterz.paths import ProfileDir

REMOVED = b"<removed>"
LIMIT = 2 << 20
"""So many bytes of the end of one log are taken."""

_PACKAGES = "pyzmq traitlets psutil paramiko cryptography msgspec cloudpickle tqdm rich".split()
_FIELD = re.compile(rb'("(?:exec_key|key|salt)"\s*:\s*)"[^"]*"')
_CONFIGS = ("ipclusterz_config.py", "ipcontrollerz_config.py", "ipenginez_config.py")
_HEAD = """\
Logs, settings and state of {which}, made by 'ipclusterz logs --bundle'.
Keys were replaced by <removed>.  Of each log the last {limit} MiB were taken.
What engines print is in logs/*-engine-*.log: look through it before you pass this on.
"""


def secrets(folder: ProfileDir) -> list[bytes]:
    """Return every secret of a profile in its usual spellings, the longest first.

    Raises ClusterError naming a file that holds one and cannot be read.
    """
    found: set[bytes] = set()
    try:
        names = sorted(os.listdir(folder.security))
    except OSError:
        names = []
    for name in names:
        path = os.path.join(folder.security, name)
        if not name.endswith((".json", ".key", ".tmp")):
            continue  # not of our making
        try:
            document = json.loads(read_private(path))
            values = [
                document[name] for name in ("exec_key", "key", "salt") if name in document
            ]
            if not values or not all(isinstance(value, str) for value in values):
                raise ValueError("no key")
        except FileNotFoundError:
            continue  # its controller has ended meanwhile
        except (ConnectorError, ValueError, TypeError, AttributeError) as error:
            text = str(error) if isinstance(error, ConnectorError) else f"{path} is damaged"
            raise ClusterError(
                f"no bundle was made: which keys to take out is not known, because {text}."
                f" If nothing needs it any more: rm {quote(path)}"
            ) from None
        for value in values:
            found |= _spellings(value)
    found.discard(b"")
    return sorted(found, key=len, reverse=True)


def scrub(data: bytes, known: Iterable[bytes]) -> bytes:
    """Return ``data`` without the known secrets, and without what looks like one of ours."""
    for secret in known:
        if secret in data:
            data = data.replace(secret, REMOVED)
    return _FIELD.sub(rb'\1"' + REMOVED + b'"', data)


def make(folder: ProfileDir, cluster_id: str, target: str) -> list[str]:
    """Write the archive ``target`` (owner-only) of one cluster; return its members' names.

    Raises ClusterError when it cannot be written, or would hold a key.
    """
    known = secrets(folder)
    made = f"{target}.{os.urandom(4).hex()}.tmp"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    names: list[str] = []
    try:
        with open(os.open(made, flags, 0o600), "w+b") as file:
            with tarfile.open(fileobj=file, mode="w:gz") as archive:
                for name, data in _members(folder, cluster_id):
                    names.append(name)
                    _add(archive, name, scrub(data, known))
            file.seek(0)
            _check(file, known)
        os.replace(made, target)
    except OSError as error:
        raise ClusterError(f"cannot write {target}: {error.strerror}") from None
    finally:
        if os.path.exists(made):
            os.unlink(made)
    return names


def _members(folder: ProfileDir, cluster_id: str) -> Iterable[tuple[str, bytes]]:
    which = f"cluster {cluster_id!r}" if cluster_id else "the main cluster"
    text = _HEAD.format(which=f"{which} of {folder.path}", limit=LIMIT >> 20)
    yield "README.txt", text.encode()
    yield "versions.txt", _versions().encode()
    for log in logfiles.find(folder.log, cluster_id):
        for path in reversed(logfiles.generations(log.path)):
            yield f"logs/{os.path.basename(path)}", _end(path)
    for name in _CONFIGS:
        path = os.path.join(folder.path, name)
        if os.path.isfile(path):
            yield f"config/{name}", _end(path)
    for path in (
        folder.state_file(cluster_id),
        folder.connector("client", cluster_id),
        folder.connector("engine", cluster_id),
    ):
        if os.path.isfile(path):
            yield f"state/{os.path.basename(path)}", _end(path)


def _versions() -> str:
    lines = [
        f"ipclusterz {__version__}",
        f"Python {sys.version}",
        f"system {platform.platform()}",
        f"made {time.strftime('%Y-%m-%d %H:%M:%S %z')}",
    ]
    for name in _PACKAGES:
        try:
            lines.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{name} is not installed")
    return "\n".join(lines) + "\n"


def _end(path: str) -> bytes:
    """Return the end of a file, whole lines of it: half a key would not be recognised."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - LIMIT, 0))
            data = file.read()
    except OSError as error:
        return f"(cannot be read: {error.strerror})\n".encode()
    return data[data.find(b"\n") + 1 :] if size > LIMIT else data


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(f"ipclusterz-bundle/{name}")
    entry.size, entry.mode, entry.mtime = len(data), 0o600, time.time()
    archive.addfile(entry, io.BytesIO(data))


def _check(file: io.BufferedRandom, known: list[bytes]) -> None:
    with tarfile.open(fileobj=file, mode="r:gz") as archive:
        for entry in archive:
            content = archive.extractfile(entry)
            data = content.read() if content is not None else b""
            if any(secret in data for secret in known):
                raise ClusterError(f"no bundle was made: a key would stand in {entry.name}")


def _spellings(value: str) -> set[bytes]:
    """Return a key as its file has it, and as it may be written elsewhere."""
    text = value.encode()
    raw = [text]
    try:
        raw.append(base64.b64decode(text, validate=True))
    except ValueError:
        pass
    try:
        raw.append(z85(value))
    except ValueError:
        pass
    found: set[bytes] = set()
    for each in raw:
        if len(each) < 8:
            continue
        found |= {
            each,
            each.hex().encode(),
            each.hex().upper().encode(),
            base64.b64encode(each).rstrip(b"="),
            base64.urlsafe_b64encode(each).rstrip(b"="),
            repr(each)[2:-1].encode(),
            json.dumps(each.decode("latin-1"))[1:-1].encode(),
        }
    return found
