"""The joblib backend ``ipclusterz``: importing this module makes it known.

>>> import joblib, ipclusterz.joblib
>>> with joblib.parallel_config("ipclusterz"):  # doctest: +SKIP
...     search.fit(X, y)

It uses the cluster that ``ipclusterz start`` started; when there is none, it starts one that
ends with this process.  For a cluster of your own there is ``view.register_joblib_backend``.
Needs joblib (``pip install ipclusterz[joblib]``).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ipclusterz.client.joblibbackend import ViewBackend, register
from ipclusterz.error import ConnectorError, ControllerLost

if TYPE_CHECKING:
    from ipclusterz.client.client import Client
    from ipclusterz.client.views import View

__all__ = ["ViewBackend", "register"]

_client: tuple[int, Client] | None = None  # with the process it belongs to


def _connect() -> View:
    """Return a view of the running cluster, or of one that is started for it."""
    global _client
    if _client is None or _client[0] != os.getpid() or _client[1].session.closed:
        _client = os.getpid(), _find()
    return _client[1].load_balanced_view()


def _find() -> Client:
    from ipclusterz.client.client import Client
    from ipclusterz.cluster import Cluster

    try:
        found = Client()
    except (ConnectorError, ControllerLost):
        return Cluster().start_and_connect_sync()
    found.wait_for_engines(1, timeout=60)
    return found


register("ipclusterz", connect=_connect)
