"""A view as a backend of joblib, and thereby of scikit-learn.

Batches of calls go to the view as single tasks, whose futures joblib waits for.  Imported
by who asks for it only: joblib takes 100 ms.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from joblib.parallel import (
    AutoBatchingMixin,
    ParallelBackendBase,
    parallel_config,
    register_parallel_backend,
)

from ipclusterz.client.direct import DirectView
from ipclusterz.error import NoEnginesRegistered

if TYPE_CHECKING:
    from ipclusterz.client.asyncresult import AsyncResult
    from ipclusterz.client.views import View


class ViewBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """joblib's backend over a view; ``connect`` gives the view when it is first needed.

    Each call runs on one engine; a direct view stands for the engines it names.
    ``n_jobs`` is at most the number of engines, and all of them by default (-1).
    """

    supports_retrieve_callback = True
    supports_sharedmem = False
    uses_threads = False
    default_n_jobs = -1

    def __init__(
        self, view: View | None = None, connect: Callable[[], View] | None = None, **more: Any
    ) -> None:
        super().__init__(**more)
        self._view = None if view is None else _pool(view)
        self._connect = connect
        self._open: weakref.WeakSet[AsyncResult] = weakref.WeakSet()

    @property
    def view(self) -> View:
        """The view that work goes to."""
        if self._view is None or self._view.client.session.closed:
            if self._connect is None:
                raise RuntimeError("this joblib backend's client is closed: register it anew")
            self._view = _pool(self._connect())
        return self._view

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many of ``n_jobs`` can run at a time: no more than there are engines."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        view = self.view
        targets = getattr(view, "targets", None)
        engines = len(view.client) if targets in (None, "all") else len(targets)
        if engines == 0:
            raise NoEnginesRegistered(
                "there is no engine for joblib to use: start some (ipclusterz engines -n 4)"
            )
        if n_jobs is None or n_jobs == -1:
            return engines
        if n_jobs < 0:
            return max(1, engines + 1 + n_jobs)
        return min(n_jobs, engines)

    def submit(self, func: Callable[[], Any], callback: Any = None) -> AsyncResult:
        """Send a batch of calls; have ``callback(future)`` called at its end."""
        # As an argument, not as a function: engines need not remember it.
        future = self.view.apply_async(operator.call, func)
        self._open.add(future)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    apply_async = submit

    def retrieve_result_callback(self, out: AsyncResult) -> Any:
        """Return a finished batch's values, or raise what it raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Give up the batches that have not begun."""
        for future in list(self._open):
            if not future.done():
                future.abort()


def register(
    name: str,
    view: View | None = None,
    connect: Callable[[], View] | None = None,
    make_default: bool = False,
) -> None:
    """Have joblib know a view under ``name``; ``make_default`` uses it from now on."""
    if view is not None:
        view = _pool(view)  # once, so that its history is that of all calls

    def factory(**more: Any) -> ViewBackend:
        return ViewBackend(view, connect, **more)

    register_parallel_backend(name, factory)
    if make_default:
        parallel_config(backend=name)


def _pool(view: View) -> View:
    """Return a view that runs each call once: of a direct view's engines one of its own."""
    if not isinstance(view, DirectView):
        return view
    # Those of 'all' may be still to come; other targets that name no engine are an error.
    everyone = isinstance(view.targets, str)
    targets = view.targets if everyone else list(view._addressed(None))
    return view.client.load_balanced_view(targets, label=view.label)
