"""A client on another host of the lab, told on standard input what to do; and its work.

``python -m tests.faults.far client.json FOLDER`` writes its part of the history into
``FOLDER/client``, engines theirs into ``FOLDER/engine`` of their own host.  All lines have
the time of the one clock that hosts of the lab share, by which :func:`together` joins them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.faults.history import History, Line

ANSWER = "answer: "
"""Begins an answer; the client's own words are between."""


def work(folder: str, key: str, value: int, seconds: float, data: bytes) -> list[Any]:
    """What engines run: log beginning and end; return value, run, and as much data."""
    run = f"{os.getpid()}-{time.monotonic_ns()}"

    def note(what: str) -> None:
        line = {"what": what, "key": key, "run": run, "at": time.monotonic_ns()}
        with open(os.path.join(folder, "engine"), "ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")

    note("begin")
    time.sleep(seconds)
    note("end")
    return [value, run, data[::-1]]


class FarHistory(History):
    """A history whose lines have a time."""

    def note(self, what: str, **fields: Any) -> None:
        """Append one line, with the time."""
        super().note(what, **fields, at=time.monotonic_ns())


class Commands:
    """One client and what it can be told; each command answers with a line of JSON."""

    def __init__(self, file: str, folder: str) -> None:
        import ipclusterz as ipp

        self._folder = folder
        self._history = FarHistory(Path(folder) / "client")
        self._rc = ipp.Client(file, timeout=30)
        self._rc.wait_for_engines(2, timeout=30)
        self._view = self._rc.load_balanced_view()
        self._open: dict[str, tuple[int, bytes, Any]] = {}

    def submit(self, n: int, seconds: float, size: int) -> int:
        """Send ``n`` tasks to whoever is free, and as many to each engine in turn."""
        for index in range(2 * n):
            view = self._view if index % 2 else self._rc[index // 2 % 2]
            key, value, data = f"t{len(self._open)}", index**2, os.urandom(size)
            self._history.note("submit", key=key, retries=0, value=value)
            result = view.apply_async(work, self._folder, key, value, seconds, data)
            self._open[key] = value, data, result
        return 2 * n

    def fault(self, kind: str) -> None:
        """Note what is about to break."""
        self._history.note("fault", kind=kind)

    def receive(self, timeout: float) -> int:
        """Wait for everything; return how many values were right."""
        right = 0
        for key, (value, data, result) in self._open.items():
            if result is None:
                continue
            error = result.exception(timeout)
            if error is not None:
                text = str(error)[:300]
                self._history.note("got", key=key, error=type(error).__name__, text=text)
            else:
                got, run, back = result.get()
                self._history.note("got", key=key, value=got, run=run)
                right += got == value and back == data[::-1]
            self._open[key] = value, data, None
        return right

    def pids(self) -> list[int]:
        """Ask each engine for its process id."""
        return list(self._rc[:].apply_async(os.getpid).get(timeout=60))

    def responding(self) -> list[bool]:
        """Ask the hub which agents respond."""
        agents = self._rc.session.connection.query("status")["agents"]
        return [bool(agent["responding"]) for agent in agents]

    def ids(self) -> list[int]:
        """Return the engines there are."""
        return list(self._rc.ids)


def together(*parts: Path) -> list[Line]:
    """The parts of one history as one, in the order of time."""
    lines = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    return sorted(lines, key=lambda line: int(line["at"]))


def main() -> None:
    """Do what standard input says until its end."""
    commands = Commands(sys.argv[1], sys.argv[2])
    print(ANSWER + json.dumps("up"), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(ANSWER + json.dumps(getattr(commands, name)(*arguments)), flush=True)


if __name__ == "__main__":
    main()
