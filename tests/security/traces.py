"""Where a key could leave a trace, and the search for it there."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
from zmq.utils import z85

import ipclusterz as ipp
from tests.leftovers import MARKER

Trace = tuple[str, bytes]
"""A place, for people, and what is to be seen there."""


def spellings(key: bytes) -> list[bytes]:
    """A key as it is, and as it is likely to be written."""
    return [key, key.hex().encode(), base64.b64encode(key), repr(key)[2:-1].encode()]


def secrets(files: Iterable[str], rc: ipp.Client) -> list[bytes]:
    """The keys of connector files and of one client's session, in all spellings."""
    found: list[bytes] = []
    for file in files:
        written = json.loads(Path(file).read_text())["exec_key"].encode()
        found += [written, *spellings(z85.decode(written))]
    identity = next(iter(rc.session.connection._dials.values()))._identity
    assert identity is not None
    return [*found, *spellings(identity.session), *spellings(identity.password)]


def processes() -> list[psutil.Process]:
    """Everything that this run of the tests has started, whoever its parent is; and itself."""
    wanted = os.environ[MARKER]
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER) == wanted:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return [*found, psutil.Process()]


def seen_from_outside(listed: Iterable[psutil.Process]) -> Iterator[Trace]:
    """Arguments and environments of processes."""
    for process in listed:
        for name in ("cmdline", "environ"):
            try:
                yield (
                    f"/proc/{process.pid}/{name}",
                    Path(f"/proc/{process.pid}/{name}").read_bytes(),
                )
            except OSError:
                continue  # it has ended


def memory(pid: int) -> Iterator[Trace]:
    """What a core dump of a process would hold: each part of its memory that can be written."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if not found or line.endswith(("[vvar]", "[vsyscall]")):
                continue
            start, end = (int(each, 16) for each in found.groups())
            pieces = []
            try:
                file.seek(start)
                while start < end and (piece := file.read(min(end - start, 1 << 24))):
                    pieces.append(piece)
                    start += len(piece)
            except OSError:
                pass  # given back to the system meanwhile
            yield f"memory of {pid}: {line.split()[-1]}", b"".join(pieces)


def lying(*folders: str | Path) -> Iterator[Trace]:
    """Each file in some folders; of a profile not what is in ``security``."""
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and path.parent.name != "security":
                yield str(path), path.read_bytes()


def hits(keys: Iterable[bytes], traces: Iterable[Trace]) -> tuple[int, list[str]]:
    """How many places were looked at, and those that hold a key."""
    wanted, places, found = list(keys), 0, []
    for where, content in traces:
        places += 1
        if any(key in content for key in wanted):
            found.append(where)
    return places, found
