"""Waiting for results and for engines: what ``Client.wait*`` do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, cast

from ipclusterz.client.asyncresult import AsyncResult
from ipclusterz.client.interrupts import GivesUp
from ipclusterz.client.saying import write
from ipclusterz.client.session import Open, Session, limit
from ipclusterz.error import KernelError, TimeoutError

JOBS_SECONDS = 2.0
"""How often a wait for engines looks whether they are in a queue."""


def open_sinks(session: Session, jobs: Any) -> list[Open]:
    """Return what is meant by ``jobs`` and is not complete yet.

    ``jobs``: an AsyncResult, a message id, an iterable of them, or None for everything.
    Raises ValueError for what is no message id of this client.
    """
    live = session.live.copy()
    if jobs is None:
        return list(live)
    if isinstance(jobs, AsyncResult | str) or not isinstance(jobs, Iterable):
        jobs = [jobs]
    found: list[Open] = []
    for job in jobs:
        if isinstance(job, AsyncResult):
            if not job.done():
                found.append(cast("Open", job))  # every kind that views make is one
        elif isinstance(job, str):
            if not session.sent(job):
                raise ValueError(
                    f"{job!r} is no message id of this client; get_result(id).wait() waits for"
                    " tasks of another one"
                )
            key = session.key_of(job)
            found += [sink for sink in live if key is not None and key in sink.task_keys()]
        else:
            raise TypeError(f"jobs are AsyncResults or message ids, not {job!r}")
    return found


def jobs_of(sinks: Iterable[Open]) -> list[GivesUp]:
    """Return those of ``sinks`` that can be given up: results that views made."""
    return [sink for sink in sinks if hasattr(sink, "abort")]  # type: ignore[misc]


def results(
    session: Session, jobs: Any, timeout: float | None, interval: float | None = None
) -> bool:
    """Wait for results; tell whether all are in.  With ``interval`` (seconds) show a bar."""
    sinks = open_sinks(session, jobs)
    pending = list(sinks)

    def done() -> bool:
        while pending and pending[-1].done():
            pending.pop()
        return not pending

    if interval is None:
        return session.wait(done, limit(timeout), jobs_of(sinks))
    from ipclusterz.client.progress import failures, watch  # tqdm takes 50 ms

    kept = [sink for sink in sinks if isinstance(sink, AsyncResult)]

    def count() -> tuple[int, int]:
        return (
            sum(sink.progress for sink in kept),
            sum(failures(sink._raws()) for sink in kept),
        )

    return watch(
        session,
        name=kept[0]._label or kept[0]._name if len(kept) == 1 else "tasks",
        total=sum(len(sink) for sink in kept),
        count=count,
        done=done,
        interval=interval,
        timeout=limit(timeout),
        widget=None,
        whose=jobs_of(sinks),
    )


def engines(
    session: Session,
    n: int,
    timeout: float | None,
    interactive: bool | None,
    widget: bool | None,
) -> None:
    """Wait until there are ``n`` engines; TimeoutError says how many there are."""
    connection = session.connection

    def enough() -> bool:
        return len(connection.engines) >= n

    if interactive and not enough():
        from ipclusterz.client.progress import watch  # tqdm takes 50 ms

        ready = watch(
            session,
            name="engines",
            total=n,
            count=lambda: (min(n, len(connection.engines)), 0),
            done=enough,
            interval=0.1,
            timeout=limit(timeout),
            widget=widget,
            unit="engine",
        )
    else:
        ready = _wait_telling(session, n, enough, limit(timeout))
    if not ready:
        standing, queued = _jobs(session)
        text = f"{n} engines are not ready after {timeout:g} s: {len(connection.engines)} are."
        if standing:
            text += f" {'; '.join(standing)}."
        if not queued:
            text += (
                " The logs of ipenginez in the profile's log folder say why; ipclusterz engines"
                " -n K starts more"
            )
        raise TimeoutError(text.removesuffix("."))


def _wait_telling(
    session: Session, n: int, enough: Callable[[], bool], seconds: float | None
) -> bool:
    """Wait; where engines come by batch jobs, print what becomes of these."""
    deadline = None if seconds is None else time.monotonic() + seconds
    told: list[str] = []
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        if session.wait(enough, JOBS_SECONDS if left is None else min(left, JOBS_SECONDS)):
            return True
        if left is not None and left <= JOBS_SECONDS:
            return False
        standing, _ = _jobs(session)
        if standing and standing != told:
            told = standing
            have = len(session.connection.engines)
            write(f"waiting for {n} engines, {have} are here: {'; '.join(standing)}")


def _jobs(session: Session) -> tuple[list[str], bool]:
    """Return what the hub was told of batch jobs, the last few; and whether all of it is waits.

    What waits in a queue has no logs that could say why.
    """
    try:
        found = session.connection.query("jobs", timeout=JOBS_SECONDS)
    except KernelError:
        return [], False  # the controller is being restarted, and the wait goes on
    told = [(state, str(text)) for state, text in found.values() if state != "running"][-3:]
    queued = bool(told) and all(state in ("pending", "submitted") for state, _ in told)
    return [text for _, text in told], queued


def engines_future(session: Session, n: int) -> Future[None]:
    """Return a Future that is done when there are ``n`` engines."""
    made: Future[None] = Future()
    connection = session.connection

    def look() -> None:
        if not made.done() and len(connection.engines) >= n:
            try:
                made.set_result(None)
            except Exception:  # another thread was first, or it was cancelled
                pass

    connection.on_engines(look)
    look()
    return made
