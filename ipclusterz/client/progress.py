"""A progress bar while the caller waits: tqdm's where someone looks, nothing elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ipclusterz.core.message import Result, Status

if TYPE_CHECKING:
    from ipclusterz.client.interrupts import GivesUp
    from ipclusterz.client.session import Session

_OK = int(Status.OK)


def failures(raws: Iterable[Result | None]) -> int:
    """Return how many of the tasks that have ended did not end well."""
    return sum(raw is not None and raw.status != _OK for raw in raws)


def watch(
    session: Session,
    *,
    name: str,
    total: int,
    count: Callable[[], tuple[int, int]],
    done: Callable[[], bool],
    interval: float,
    timeout: float | None,
    widget: bool | None,
    unit: str = "task",
    whose: Iterable[GivesUp] = (),
) -> bool:
    """Wait until ``done()`` and show how far it is all the while; return done().

    ``count()`` returns how many of ``total`` there are, and how many of these failed.
    ``interval`` is the time between two looks in seconds.  ``widget`` asks for a notebook's
    bar (default: in a notebook); where standard error is no terminal nothing is shown.
    Ctrl-C passes through and leaves the bar as it was.
    """
    started = time.monotonic()
    bar = _bar(name, total, unit, widget)
    try:
        while not done():
            left = None if timeout is None else started + timeout - time.monotonic()
            if left is not None and left <= 0:
                break
            _show(bar, count)
            step = max(interval, 0.01) if bar is not None else 3600.0
            session.wait(done, step if left is None else min(step, left), whose)
        finished = done()
        _show(bar, count)
    finally:
        if bar is not None:
            bar.close()
    return finished


def _show(bar: Any, count: Callable[[], tuple[int, int]]) -> None:
    if bar is not None:
        now, failed = count()
        if failed:
            bar.set_postfix_str(f"{failed} failed", refresh=False)
        bar.update(now - bar.n)


def _bar(name: str, total: int, unit: str, widget: bool | None) -> Any:
    notebook = _in_notebook() if widget is None else widget
    if not notebook and not sys.stderr.isatty():
        return None
    # 50 ms, for those who look at a bar only.
    if notebook:
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm
    return tqdm(total=total, desc=name, unit=unit, dynamic_ncols=True, file=sys.stderr)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})
