"""Asking a batch system about all jobs of this process at once, ever more slowly.

One thread for each system.  It asks soon after something has happened, and less and less often
while nothing does.  A system that does not answer ends nothing: only a system that says so
does.  What its answers mean for a launch is in :mod:`ipclusterz.launchers.batchjob`.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ipclusterz.error import LaunchError
from ipclusterz.launchers.systems import Silent, System, command

if TYPE_CHECKING:
    from ipclusterz.launchers.batchjob import BatchJob

FIRST_SECONDS = 1.0
PENDING_SECONDS = 60.0
RUNNING_SECONDS = 20.0
"""How often a system is asked: soon at first, then ever more slowly, up to these."""

_SLOWER = 1.4


class Asker:
    """The one thread that asks a system about all jobs of this process."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._jobs: list[BatchJob] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._interval = FIRST_SECONDS
        self._hurry = False

    def add(self, job: BatchJob) -> None:
        """Ask about the jobs of ``job`` from now on."""
        with self._changed:
            self._jobs.append(job)
            self._interval = FIRST_SECONDS / 4
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="ipclusterz-batch", daemon=True
                )
                self._thread.start()

    def remove(self, job: BatchJob) -> None:
        """Ask about it no more."""
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
            self._changed.notify_all()

    def hurry(self) -> None:
        """Ask soon: something has happened, or is about to."""
        with self._changed:
            self._interval = FIRST_SECONDS
            self._hurry = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._jobs:
                    self._thread = None
                    return
                deadline = time.monotonic() + self._interval
                hurried = False
                while self._jobs and (left := deadline - time.monotonic()) > 0:
                    self._changed.wait(left)
                    if self._hurry and not hurried:
                        hurried, self._hurry = True, False
                        deadline = min(deadline, time.monotonic() + FIRST_SECONDS / 4)
                jobs = [job for job in self._jobs if not job.poll().ended]
                limit = min([job.calm for job in jobs], default=PENDING_SECONDS)
                self._interval = min(self._interval * _SLOWER, limit)
            if jobs and self._ask(jobs):
                with self._changed:
                    self._interval = FIRST_SECONDS

    def _ask(self, jobs: list[BatchJob]) -> bool:
        """Ask once about all; tell whether anything has changed."""
        ids = [id for job in jobs for id in job.alive()]
        before = [dict(job.news) for job in jobs]
        try:
            news = self._system.read(command(self._system.queries(ids)))
            for job in jobs:
                job.take(news)  # it may have a question of its own
        except Exception as error:  # without this thread no end would ever be noticed
            known = isinstance(error, (Silent, LaunchError, OSError))
            for job in jobs:
                job.silent(str(error) if known else f"{type(error).__name__}: {error}")
            return False
        return before != [job.news for job in jobs]


_askers: dict[str, Asker] = {}
_lock = threading.Lock()


def asker(system: System) -> Asker:
    """Return the asker of a system, one for each."""
    with _lock:
        return _askers.setdefault(system.name, Asker(system))
