"""A dask.distributed cluster on engines: what ``rc.become_dask()`` does.

The scheduler and the workers are children of engines (:mod:`ipclusterz.engine.daskworker`).
They speak TLS with keys made for this one cluster, which travel to the engines as everything
of ours does, encrypted; nobody without them can use it.
"""

from __future__ import annotations

import socket
import weakref
from typing import TYPE_CHECKING, Any

from ipclusterz.error import ClusterError, EngineError, KernelError

if TYPE_CHECKING:
    from ipclusterz.client.client import Client
    from ipclusterz.client.session import Session

_given: weakref.WeakKeyDictionary[Session, Any] = weakref.WeakKeyDictionary()
"""The dask client of each session that has become one."""


class Dask:
    """Mixin of :class:`ipclusterz.Client`."""

    session: Session

    def become_dask(
        self,
        targets: Any = "all",
        port: int = 0,
        nanny: bool = False,
        scheduler_args: dict[str, Any] | None = None,
        **worker_args: Any,
    ) -> Any:
        """Start a dask.distributed cluster on engines; return its ``distributed.Client``.

        A worker for each engine, as a child process of it, with one thread (``nthreads``),
        and a scheduler beside the first one, at ``port`` (0: any).  ``nanny`` has workers
        restarted.  ``scheduler_args`` and other arguments are those of distributed's
        Scheduler and Worker.  Engines remain usable.  Needs distributed here and there
        (``pip install ipclusterz[dask]``).  It ends with :meth:`stop_dask`, and when this
        client is closed; a worker ends with its engine.

        Raises ClusterError when this client has one already, LaunchError with the words of
        what could not be started; nothing is left running then.
        """
        return start(self, targets, port, nanny, scheduler_args or {}, worker_args)  # type: ignore[arg-type]

    def stop_dask(self, targets: Any = "all") -> None:
        """Stop the workers of engines, and with ``'all'`` the scheduler and dask's client."""
        stop(self, targets)  # type: ignore[arg-type]

    def _end_dask(self) -> None:
        """Stop what :meth:`become_dask` started, as far as that is possible still."""
        if self.session in _given and not self.session.closed:
            try:
                stop(self, "all")  # type: ignore[arg-type]
            except KernelError:  # the controller is gone, and the engines with it
                pass

    become_distributed = become_dask
    stop_distributed = stop_dask


def start(
    rc: Client,
    targets: Any,
    port: int,
    nanny: bool,
    scheduler_args: dict[str, Any],
    worker_args: dict[str, Any],
) -> Any:
    """Start scheduler and workers, and connect to them."""
    import distributed

    from ipclusterz.engine import daskworker  # brings subprocess along

    if rc.session in _given:
        raise ClusterError("this client has a dask cluster already: stop_dask() ends it")
    view = rc.direct_view(targets)
    ids, _ = view._engines()
    infos = rc.session.connection.engines
    security = distributed.Security.temporary()
    common: dict[str, Any] = {"security": security, "dashboard_address": "127.0.0.1:0"}
    if {infos[number].host for number in ids} == {socket.gethostname()}:
        common["host"] = "127.0.0.1"  # nobody else needs to reach it
    try:
        options = {**common, "port": port, "dashboard": False, **scheduler_args}
        address = rc[ids[0]].apply_sync(daskworker.start, "scheduler", options)
        kind = "nanny" if nanny else "worker"
        made = [
            rc[number].apply_async(
                daskworker.start,
                kind,
                {
                    "scheduler_ip": address,
                    "nthreads": 1,
                    "name": f"engine-{number}",
                    **common,
                    **({} if nanny else {"dashboard": False}),
                    **worker_args,
                },
            )
            for number in ids
        ]
        for result in made:
            result.get()
        client = distributed.Client(address, security=security)
    except BaseException:
        stop(rc, targets)
        raise
    _given[rc.session] = client
    return client


def stop(rc: Client, targets: Any) -> None:
    """End workers; of all engines, everything."""
    from ipclusterz.engine import daskworker

    everything = isinstance(targets, str) and targets == "all"
    kinds = ("worker", "nanny", "scheduler") if everything else ("worker", "nanny")
    if everything:
        client = _given.pop(rc.session, None)
        if client is not None:
            client.close()
    if not len(rc):
        return
    results = rc.direct_view(targets).apply_async(daskworker.stop, kinds)
    for part in results.split():
        try:
            part.get()
        except EngineError:  # it died, and took them along
            pass
