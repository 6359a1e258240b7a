"""What fault tests log, and the program that judges it.

Clients and engines append a line to one file for all that they submit, begin, end and
receive; whoever breaks something says so too::

    history = History(path)
    result = history.submit(view, n=7)            # runs `work` on an engine, which logs it
    history.fault("engine", pid)
    history.receive(result.key, result)           # its value, or its error
    assert judge(read(path)) == []

``python -m tests.faults.history FILE...`` judges files and ends with 1 if any is bad.

The judge sees nothing but lines: it knows no cluster, and imports nothing of ours.

| line | who | means |
|---|---|---|
| ``submit`` key, retries, value | client | its value will be this |
| ``begin`` key, run | engine | an attempt begins; ``run`` names it |
| ``end`` key, run | engine | and is about to return its value |
| ``got`` key, value, run | client | that was delivered |
| ``got`` key, error | client | or this, the name of an exception |
| ``cancel`` key | client | it need not run |
| ``left`` keys | the test | their client has gone: no outcome is owed to it |
| ``fetched`` key, value, run | another client | what it found of a task |
| ``fault`` kind, about | the test | one thing was broken: may cost at most one task |

Appends below 4 KiB to a local file are whole and in one order, whoever makes them, so "after"
means a later line.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Line = dict[str, Any]

DEADLY = frozenset({"EngineError", "TaskLost"})
"""Errors that need a fault to blame."""


def work(path: str, key: str, value: int, seconds: float = 0.0) -> list[Any]:
    """What engines run: log the beginning and the end of this run; return value and run."""
    import json
    import os
    import time

    run = f"{os.getpid()}-{time.monotonic_ns()}"

    def note(what: str) -> None:
        line = json.dumps({"what": what, "key": key, "run": run}) + "\n"
        log = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(log, line.encode())
        os.close(log)

    note("begin")
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(left)
    note("end")
    return [value, run]


class History:
    """Appends to a history file, which it makes; one per process, any number per file."""

    def __init__(self, path: Path, name: str = "a") -> None:
        self.path = path
        self.name = name
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._count = 0
        self.open: dict[str, Any] = {}

    def note(self, what: str, **fields: Any) -> None:
        """Append one line."""
        os.write(self._fd, (json.dumps({"what": what, **fields}) + "\n").encode())

    def submit(self, view: Any, seconds: float = 0.0, retries: int = 0) -> str:
        """Send one task through a view; its key.  ``view.retries`` is set on the way."""
        self._count += 1
        key, value = f"{self.name}{self._count}", self._count**2
        if hasattr(view, "retries"):
            view.retries = retries
        self.note("submit", key=key, retries=retries, value=value)
        self.open[key] = view.apply_async(work, str(self.path), key, value, seconds)
        return key

    def receive(self, key: str, timeout: float = 60) -> Any:
        """Wait for one outcome and log it; the value, or the exception.

        TimeoutError when there is none, which is not logged: the judge finds it missing.
        """
        result = self.open[key]
        if not result.wait(timeout):
            raise TimeoutError(f"no outcome of task {key} in {timeout} s")
        del self.open[key]
        error = result.exception(0)
        if error is not None:
            self.note("got", key=key, error=type(error).__name__, text=str(error)[:300])
            return error
        value, run = result.get()
        self.note("got", key=key, value=value, run=run)
        return value

    def receive_all(self, timeout: float = 60) -> dict[str, Any]:
        """Wait for what is open, each for at most ``timeout``."""
        return {key: self.receive(key, timeout) for key in list(self.open)}

    def fault(self, kind: str, about: Any = None) -> None:
        """Say what will now be broken."""
        self.note("fault", kind=kind, about=about)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def read(path: Path) -> list[Line]:
    """The lines of a history file; ValueError with the number of one that is torn."""
    lines = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        try:
            lines.append(json.loads(text))
        except ValueError as error:
            raise ValueError(f"{path}:{number}: torn line {text[:100]!r}") from error
    return lines


# -- the judge -------------------------------------------------------------------------------


class _Task:
    def __init__(self) -> None:
        self.submitted: list[Line] = []
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.got: list[Line] = []
        self.fetched: list[Line] = []
        self.cancelled = False
        self.owed = True
        self.late: list[str] = []  # runs that began after the outcome was there


def _gather(lines: Iterable[Line]) -> tuple[dict[str, _Task], Counter[str]]:
    tasks: dict[str, _Task] = {}
    faults: Counter[str] = Counter()
    add: dict[str, Callable[[_Task, Line], object]] = {
        "submit": lambda task, line: task.submitted.append(line),
        "end": lambda task, line: task.ended.append(line["run"]),
        "got": lambda task, line: task.got.append(line),
        "fetched": lambda task, line: task.fetched.append(line),
        "cancel": lambda task, line: setattr(task, "cancelled", True),
    }
    for line in lines:
        what = line["what"]
        if what == "fault":
            faults[line["kind"]] += 1
        elif what == "left":
            for key in line["keys"]:
                tasks.setdefault(key, _Task()).owed = False
        elif what == "begin":
            task = tasks.setdefault(line["key"], _Task())
            if task.got:
                task.late.append(line["run"])
            task.begun.append(line["run"])
        else:
            add[what](tasks.setdefault(line["key"], _Task()), line)
    return tasks, faults


def _judge_task(key: str, task: _Task) -> Iterable[str]:
    if len(task.submitted) != 1:
        yield f"{key}: submitted {len(task.submitted)} times"
        return
    allowed = 1 + task.submitted[0]["retries"]
    if len(task.begun) > allowed:
        yield f"{key}: ran {len(task.begun)} times, and {allowed} are allowed"
    if len(set(task.begun)) < len(task.begun):
        yield f"{key}: one run began twice"
    if task.owed and not task.got:
        yield f"{key}: no outcome"
    if len(task.got) > 1:
        yield f"{key}: {len(task.got)} outcomes"
    for run in task.late:
        yield f"{key}: run {run} began after the outcome was delivered"
    for outcome in (*task.got[:1], *task.fetched):
        yield from _judge_outcome(key, task, outcome)


def _judge_outcome(key: str, task: _Task, outcome: Line) -> Iterable[str]:
    if "error" in outcome:
        if outcome["error"] == "TaskAborted" and not task.cancelled:
            yield f"{key}: aborted, though nobody cancelled it"
        elif outcome["error"] not in DEADLY and outcome["error"] != "TaskAborted":
            yield f"{key}: ended in {outcome['error']}: {outcome.get('text', '')}"
        return
    wanted = task.submitted[0]["value"]
    if outcome["value"] != wanted:
        yield f"{key}: value {outcome['value']!r} instead of {wanted!r}"
    run = outcome["run"]
    if run not in task.begun:
        yield f"{key}: the result is of run {run}, which never began"
    elif run != task.begun[-1]:
        yield f"{key}: run {run} won, though {task.begun[-1]} began after it"
    if run not in task.ended:
        yield f"{key}: the result is of run {run}, which did not end"


def judge(lines: Iterable[Line], costly: Iterable[str] = ("engine",)) -> list[str]:
    """All that is wrong with a history, in words; an empty list if it is right.

    Each fault of a ``costly`` kind may cost one task; other faults none.
    """
    tasks, faults = _gather(lines)
    problems = [text for key, task in tasks.items() for text in _judge_task(key, task)]
    failed = [
        key for key, task in tasks.items() if task.got and task.got[0].get("error") in DEADLY
    ]
    excused = sum(faults[kind] for kind in costly)
    if len(failed) > excused:
        problems.append(f"{len(failed)} tasks failed and {excused} faults excuse it: {failed}")
    return problems


def main(paths: list[str]) -> int:
    """Judge files; print what is wrong; 1 if anything is."""
    bad = 0
    for path in paths:
        try:
            lines = read(Path(path))
            problems = judge(lines)
        except (OSError, ValueError, KeyError) as error:
            lines, problems = [], [f"cannot be judged: {error!r}"]
        outcomes = sum(line["what"] == "got" for line in lines)
        print(f"{path}: {len(lines)} lines, {outcomes} outcomes, {len(problems)} problems")
        for text in problems:
            print(f"  {text}")
        bad += len(problems)
    return 1 if bad or not paths else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
