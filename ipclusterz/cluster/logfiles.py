"""The logs of one cluster: which files they are, and their lines in the order of time.

Lives here: the names of log files, reading whole records from the end of a file or from
where one stopped, across rotation.  Must not know: commands, or how lines are shown.

A record is a line that begins with a time and the lines after it without one.  What engines
print has no times; it counts as said when its file was last written.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator

from msgspec import Struct

PARTS = ("hub", "direct", "task", "control", "iopub")
KINDS = ("launcher", "controller", *PARTS, "agent", "engine")
ROTATED = 3
"""How many older files a log may have: ``.1`` is the latest of them."""

_STAMP = re.compile(rb"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.(\d{3}) ")
_BLOCK = 1 << 16
_LONGEST = 1 << 20  # what has no line end after so many bytes is shown without one


class LogFile(Struct, frozen=True, order=True):
    """One log: ``kind`` is one of :data:`KINDS`, ``number`` the engine's (else -1)."""

    kind: str
    number: int
    path: str

    @property
    def source(self) -> str:
        """What its lines are from, for people."""
        return f"engine {self.number}" if self.number >= 0 else self.kind


class Record(Struct):
    """Some lines of one log, and when they were written (seconds since the epoch)."""

    when: float
    source: str
    lines: list[str]
    stamped: bool = True


def find(folder: str, cluster_id: str) -> list[LogFile]:
    """Return the logs of a cluster in a log folder; rotated ones belong to them."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    found: dict[str, LogFile] = {}
    for name in names:
        name = _current(name)  # the newest may be missing for a moment
        known = classify(name, cluster_id)
        if known is not None:
            found[name] = LogFile(*known, os.path.join(folder, name))
    return sorted(found.values())


def belongs(name: str, cluster_id: str) -> bool:
    """Tell whether a file is a log of a cluster, by its name; rotated ones are."""
    return classify(_current(name), cluster_id) is not None


def _current(name: str) -> str:
    """Return the name of the log that a rotated file once was."""
    return re.sub(r"\.\d\Z", "", name)


def classify(name: str, cluster_id: str) -> tuple[str, int] | None:
    """Return the kind and engine number of a log by its name; None if it is another's."""
    own = f"-{re.escape(cluster_id)}" if cluster_id else ""
    # Sets of engines get names of our making; with a cluster id, any name.
    label = "(?:-.+)?" if cluster_id else r"(?:-e\d+)?"
    patterns = (
        ("launcher", rf"ipclusterz(?:-engines)?{own}\.log"),
        ("controller", rf"ipcontroller{own}\.log|ipcontrollerz{own}\.err"),
        *((part, rf"ipcontroller{own}-{part}\.log") for part in PARTS),
        ("agent", rf"ipenginez{own}-agent-\d+\.log|ipenginez{own}{label}\.err"),
        ("engine", rf"ipenginez{own}-engine-(?P<n>\d+)\.log"),
    )
    for kind, pattern in patterns:
        match = re.fullmatch(pattern, name)
        if match is not None:
            return kind, int(match.groupdict().get("n") or -1)
    return None


def records(data: bytes, source: str, otherwise: float) -> list[Record]:
    """Split text into records; ``otherwise`` is the time of lines that have none."""
    found: list[Record] = []
    for line in data.splitlines():
        match = _STAMP.match(line)
        text = line.decode("utf-8", "replace")
        if match is not None:
            found.append(Record(_seconds(match), source, [text]))
        elif found:
            found[-1].lines.append(text)
        else:
            found.append(Record(otherwise, source, [text], False))
    if len(found) > 1 and not found[0].stamped:
        found[0].when = found[1].when  # the end of a record whose beginning was cut off
    return found


def last(log: LogFile, count: int | None, end: int | None = None) -> list[Record]:
    """Return the records of the last ``count`` lines of a log (None: of all there are).

    Nothing behind ``end`` in the newest file is read.
    """
    pieces: list[bytes] = []
    lines = 0
    for path in generations(log.path):
        if count is not None and lines >= count:
            break
        upto = end if path == log.path else None
        data = _tail(path, None if count is None else count - lines, upto)
        pieces.insert(0, data if data.endswith(b"\n") or not data else data + b"\n")
        lines += pieces[0].count(b"\n")
    return records(b"".join(pieces), log.source, _modified(log.path))


def merge(groups: Iterable[list[Record]], count: int | None = None) -> list[Record]:
    """Put records of several logs in the order of time; keep the last ``count`` lines."""
    joined = [record for group in groups for record in group]
    joined.sort(key=lambda record: record.when)
    if count is None:
        return joined
    left = count
    kept: list[Record] = []
    while joined and left > 0:
        record = joined.pop()
        if len(record.lines) > left:
            record.lines, record.stamped = record.lines[-left:], False
        left -= len(record.lines)
        kept.append(record)
    return kept[::-1]


def generations(path: str) -> list[str]:
    """Return a log's files that there are, the newest first."""
    paths = [path, *(f"{path}.{n}" for n in range(1, ROTATED + 1))]
    return [path for path in paths if os.path.isfile(path)]


class Follower:
    """Reads what is added to one log, wherever rotation moves it."""

    def __init__(self, log: LogFile, from_end: bool) -> None:
        self.log = log
        self._inode = 0
        self._at = 0
        if from_end:  # of what is there now
            try:
                facts = os.stat(log.path)
            except OSError:
                return
            self._inode, self._at = facts.st_ino, facts.st_size

    @property
    def at(self) -> int:
        """How much of the newest file has been read, in bytes."""
        return self._at

    def news(self) -> list[Record]:
        """Return the whole lines that were added since the last call."""
        pieces: list[bytes] = []
        for path in self._unread():
            data = self._read(path)
            if data and not data.endswith(b"\n") and path != self.log.path:
                data += b"\n"
            pieces.append(data)
        whole = b"".join(pieces)
        return records(whole, self.log.source, time.time()) if whole else []

    def _unread(self) -> Iterator[str]:
        """Yield the files that have something new, the oldest first; set where to read."""
        try:
            facts = os.stat(self.log.path)
        except OSError:
            return  # not there yet, or between two names
        if facts.st_ino != self._inode:
            older: list[str] = []
            for path in generations(self.log.path)[1:]:
                older.append(path)
                if self._inode and _inode(path) == self._inode:
                    # The rest of the one that was read, then those after it as a whole.
                    for old in reversed(older):
                        yield old
                        self._at = 0
                    break
            self._inode, self._at = facts.st_ino, 0
        elif facts.st_size < self._at:
            self._at = 0  # emptied
        if facts.st_size > self._at:
            yield self.log.path

    def _read(self, path: str) -> bytes:
        """Read from where we are; of the newest file whole lines only."""
        try:
            with open(path, "rb") as file:
                file.seek(self._at)
                data = file.read()
        except OSError:
            return b""
        if path == self.log.path and not data.endswith(b"\n") and len(data) < _LONGEST:
            data = data[: data.rfind(b"\n") + 1]
        self._at += len(data)
        return data


def _tail(path: str, count: int | None, end: int | None) -> bytes:
    """Return the last ``count`` lines of a file (None: all of it) before ``end``."""
    try:
        with open(path, "rb") as file:
            if count is None:
                return file.read(-1 if end is None else end)
            at = file.seek(0, os.SEEK_END)
            at = at if end is None else min(at, end)
            data = b""
            while at > 0 and data.count(b"\n") <= count:
                step = min(at, _BLOCK)
                at = file.seek(at - step)
                data = file.read(step) + data
    except OSError:
        return b""
    lines = data.splitlines(keepends=True)
    return b"".join(lines[-count:]) if count else b""


def _seconds(match: re.Match[bytes]) -> float:
    # As the log was written: in this host's time zone.
    try:
        whole = time.mktime(time.strptime(match[1].decode(), "%Y-%m-%d %H:%M:%S"))
    except (ValueError, OverflowError):
        return 0.0
    return whole + int(match[2]) / 1000


def _modified(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0
