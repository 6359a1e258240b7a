"""Tells the hub what launchers know of the agents that hold engines, and it cannot see.

The hub knows agents by their connection; that a job was cancelled, or waits for resources, only
its batch system knows, and that an agent on another host has died, only who started it.
Clients ask the hub.  A thread of its own: connecting takes time, and the watcher must not
wait.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable
from typing import Any

from ipclusterz.error import KernelError

JobNews = tuple[str, str, str]
"""A job's name, its state (pending, running, ended), and a text for people."""

_News = tuple[str, Any]  # a question to the hub, and one item of its argument

_CONNECT_SECONDS = 10.0


class HubTeller:
    """Hands news of jobs to the hub that the connector file ``client_file`` leads to."""

    def __init__(self, client_file: str) -> None:
        self._file = client_file
        self._news: queue.SimpleQueue[_News | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def tell(self, news: JobNews) -> None:
        """Pass one piece of news of a batch job on, soon."""
        self._put(("note_jobs", news))

    def tell_lost(self, ids: Iterable[int], reason: str) -> None:
        """Say that the agent of these engines has died."""
        for number in ids:
            self._put(("note_lost", (number, reason)))

    def _put(self, news: _News) -> None:
        self._news.put(news)
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="ipclusterz-jobs", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Tell nothing more; does not wait long for what is under way."""
        self._news.put(None)
        if self._thread is not None:
            self._thread.join(2.0)

    def _run(self) -> None:
        from ipclusterz.client.client import Client  # slow, and not for local engines

        waiting: dict[tuple[str, str | int], Any] = {}
        client: Client | None = None
        closing = False
        while not closing:
            waited = [self._news.get()]
            while not self._news.empty():
                waited.append(self._news.get())
            closing = None in waited
            # Of one job only the latest: what is older has been overtaken.
            news = [(what, item) for what, item in filter(None, waited)]
            waiting.update({(what, item[0]): item for what, item in news})
            if not waiting:
                continue
            try:
                if client is None:
                    client = Client(self._file, timeout=_CONNECT_SECONDS)
                for question in {what for what, _ in waiting}:
                    told = [item for (what, _), item in waiting.items() if what == question]
                    client.session.connection.query(question, told)
                waiting.clear()
            except (KernelError, OSError):
                # The controller is being restarted, or is gone: the next news tries again.
                if client is not None:
                    client.close()
                client = None
        if client is not None:
            client.close()
