"""Ending tasks that run: interrupt them, and kill the engines of those that do not listen."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from ipclusterz.core.message import Op
from ipclusterz.error import EngineError, TimeoutError

if TYPE_CHECKING:
    from ipclusterz.client.asyncresult import AsyncResult
    from ipclusterz.client.session import Session

AGAIN = 0.25
"""Seconds after which a task that still runs is interrupted again: it may have begun since."""

ANSWER = 10.0
"""Seconds that engines' agents get to answer, and a killed engine to be buried."""

BRIEFLY = 2.0

PART = 10_000
"""Tasks that are named in one request."""


def end_running(session: Session, result: AsyncResult, grace: float) -> None:
    """Interrupt a result's tasks for ``grace`` seconds, then kill the engines that run them.

    Each round asks all engines: which one runs a balanced task only its agent knows.
    """
    deadline = monotonic() + max(grace, 0.0)
    while not result.done() and monotonic() < deadline:
        _ask(session, result, kill=False)
        result.wait(min(AGAIN, max(deadline - monotonic(), 0.0)))
    deadline = monotonic() + ANSWER
    while not result.done() and monotonic() < deadline:
        _ask(session, result, kill=True)
        result.wait(AGAIN)


def interrupt(session: Session, result: AsyncResult) -> None:
    """Interrupt a result's tasks that run, for two seconds; they may catch it and go on."""
    deadline = monotonic() + BRIEFLY
    while not result.done() and monotonic() < deadline:
        _ask(session, result, kill=False)
        session.wait(result.done, AGAIN)


def _ask(session: Session, result: AsyncResult, kill: bool) -> None:
    pairs = zip(result.task_keys(), result._raws(), strict=False)
    keys = [key for key, raw in pairs if raw is None]
    for first in range(0, len(keys), PART):
        data = msgspec.msgpack.encode((keys[first : first + PART], kill))
        engines = sorted(session.connection.engines)
        try:
            session.connection.control(Op.CANCEL, engines, data, timeout=ANSWER)
        except (EngineError, TimeoutError):
            pass  # an engine went meanwhile; the next round asks those that are there
