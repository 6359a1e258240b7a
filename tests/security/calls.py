"""What system calls make: each file, folder and socket, with the mode it had from the first.

Reads what ``strace -f`` wrote.  The mode that a call asks for is narrowed by the umask of its
process, which children take over; sockets that are bound have all bits that the umask leaves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

TRACED = (
    "open,openat,openat2,creat,mkdir,mkdirat,mknod,mknodat,bind,chmod,fchmod,fchmodat,"
    "link,linkat,umask,fork,vfork,clone,clone3"
)

_LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\w+)")
_UNFINISHED = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)$")
_PATH = re.compile(r'"((?:[^"\\]|\\.)*)"')
_MODE = re.compile(r", (0[0-7]*)\b")


@dataclass(frozen=True)
class Made:
    """One thing that a call has made or changed: how, where, and the mode it has then."""

    call: str
    path: str
    mode: int


def _whole(text: str) -> Iterator[tuple[int, str, str, str]]:
    """Each call in the order of its end: process, name, arguments, result."""
    begun: dict[tuple[int, str], str] = {}
    for line in text.splitlines():
        if found := _UNFINISHED.match(line):
            begun[int(found[1]), found[2]] = found[3]
            continue
        if found := _RESUMED.match(line):
            pid, name = int(found[1]), found[2]
            line = f"{pid} {name}({begun.pop((pid, name), '')}{found[3]}"
        if found := _LINE.match(line):
            yield int(found[1]), found[2], found[3], found[4]


def _parents(calls: list[tuple[int, str, str, str]]) -> dict[int, int]:
    """Who made which process; threads count as processes and share a umask."""
    return {
        int(result): pid
        for pid, name, _, result in calls
        if name in ("fork", "vfork", "clone", "clone3") and result.isdigit()
    }


def made(text: str, umask: int) -> list[Made]:
    """What a program made which began with this umask."""
    calls = list(_whole(text))
    parents, masks = _parents(calls), dict[int, int]()

    def mask(pid: int) -> int:
        # A child's first call may stand before the end of the call that made it.
        if pid not in masks:
            masks[pid] = mask(parents[pid]) if pid in parents else umask
        return masks[pid]

    found = []
    for pid, name, arguments, result in calls:
        if result.startswith("-"):
            continue
        if name == "umask":
            mask(pid)
            masks[pid] = int(arguments, 8)
            continue
        path = _PATH.search(arguments)
        if path is None:
            continue
        modes = _MODE.findall(arguments)
        if name in ("chmod", "fchmodat") and modes:
            found.append(Made(name, path[1], int(modes[0], 8)))
        elif name == "bind" and "AF_UNIX" in arguments and "sun_path=@" not in arguments:
            found.append(Made(name, path[1], 0o777 & ~mask(pid)))
        elif modes and (name.startswith(("mk", "creat")) or "O_CREAT" in arguments):
            found.append(Made(name, path[1], int(modes[-1], 8) & ~mask(pid)))
        elif name.startswith("link"):
            found.append(Made(name, path[1], 0))
    return found
