"""A progress bar while the caller waits: tqdm's where someone looks, a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipclusterz.client.interrupts import GivesUp
    from ipclusterz.client.session import Session


def watch(
    session: Session,
    *,
    name: str,
    total: int,
    count: Callable[[], int],
    done: Callable[[], bool],
    interval: float,
    timeout: float | None,
    widget: bool | None,
    whose: Iterable[GivesUp] = (),
) -> bool:
    """Wait until ``done()`` and show ``count()`` of ``total`` all the while; return done().

    ``interval`` is the time between two looks in seconds.  ``widget`` asks for a notebook's
    bar (default: in a notebook).  Where output is no terminal, one line is printed at the
    end.  Ctrl-C passes through and leaves the bar as it was.
    """
    started = time.monotonic()
    bar = _bar(name, total, widget)
    try:
        while not done():
            left = None if timeout is None else started + timeout - time.monotonic()
            if left is not None and left <= 0:
                break
            _show(bar, count())
            step = max(interval, 0.01)
            session.wait(done, step if left is None else min(step, left), whose)
        finished = done()
        _show(bar, count())
    finally:
        if bar is not None:
            bar.close()
    if bar is None:
        seconds = time.monotonic() - started
        print(f"{name}: {count()}/{total} done in {seconds:.1f} s", file=sys.stderr)
    return finished


def _show(bar: Any, count: int) -> None:
    if bar is not None:
        bar.update(count - bar.n)


def _bar(name: str, total: int, widget: bool | None) -> Any:
    notebook = _in_notebook() if widget is None else widget
    if not notebook and not sys.stderr.isatty():
        return None
    # 50 ms, for those who look at a bar only.
    if notebook:
        from tqdm.auto import tqdm
    else:
        from tqdm import tqdm
    return tqdm(total=total, desc=name, unit="tasks", dynamic_ncols=True, file=sys.stderr)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})
