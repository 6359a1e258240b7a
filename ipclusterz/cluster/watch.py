"""One thread that watches the jobs of a cluster and hands on what they say.

It exists so that status events are read while the user's own thread does something else: an
agent waits for the controller's connector, and a full pipe would block whoever writes it.
Knows jobs only; what events mean is decided by its callbacks, which run in its thread.
"""

from __future__ import annotations

import os
import select
import threading
import traceback
from collections.abc import Callable

from ipclusterz.launchers.base import Event, Job, JobState

_POLL_SECONDS = 1.0  # for jobs that have no descriptors


class Watcher:
    """Watches jobs from :meth:`add` until their end or :meth:`remove`.

    ``on_event(job, event)`` is called for each event and ``on_end(job, state)`` once, after
    a job's last event; what they raise is printed.  The thread starts with the first job and
    ends with :meth:`close`.
    """

    def __init__(
        self,
        on_event: Callable[[Job, Event], None],
        on_end: Callable[[Job, JobState], None],
    ) -> None:
        self._on_event = on_event
        self._on_end = on_end
        self._jobs: list[Job] = []
        self._lock = threading.Lock()  # held while jobs are looked at, never in callbacks
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, job: Job) -> None:
        """Watch ``job`` from now on."""
        with self._lock:
            self._jobs.append(job)
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="ipclusterz-watcher", daemon=True
            )
            self._thread.start()
        else:
            self._wake()

    def remove(self, job: Job) -> None:
        """Stop watching ``job``; afterwards the caller alone may use it."""
        with self._lock:
            if job in self._jobs:
                self._jobs.remove(job)
        self._wake()

    def close(self) -> None:
        """End the thread.  May be called twice, and from a callback."""
        if self._closed:
            return
        self._closed = True
        self._wake()
        if self._thread is None:
            self._free()
        elif self._thread is not threading.current_thread():
            self._thread.join(5.0)

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"!")
        except OSError:  # closed, or full: it will wake in any case
            pass

    def _run(self) -> None:
        while not self._closed:
            well = _safely(self._sleep)
            with self._lock:
                jobs = list(self._jobs)
            for job in jobs:
                well = _safely(self._look, job) and well
            if not well and not self._closed:
                self._pause()  # what went wrong is likely to go wrong again at once
        self._free()

    def _pause(self) -> None:
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        poller.poll(_POLL_SECONDS * 1000)

    def _sleep(self) -> None:
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        timeout = None
        with self._lock:
            for job in self._jobs:
                watched = job.watched()
                if not watched:
                    timeout = _POLL_SECONDS * 1000
                for fd in watched:
                    poller.register(fd, select.POLLIN)
        poller.poll(timeout)
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass

    def _look(self, job: Job) -> None:
        with self._lock:
            if job not in self._jobs:
                return
            # In this order: what is said before the end must be heard before it.
            state = job.poll()
            events = job.events()
            if state.ended:
                self._jobs.remove(job)
        for event in events:
            _safely(self._on_event, job, event)
        if state.ended:
            _safely(self._on_end, job, state)

    def _free(self) -> None:
        os.close(self._wake_read)
        os.close(self._wake_write)


def _safely(function: Callable[..., None], *arguments: object) -> bool:
    """Call what may raise, and tell whether it did not: the other jobs are watched on."""
    try:
        function(*arguments)
    except Exception:
        traceback.print_exc()
        return False
    return True
