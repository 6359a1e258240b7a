"""Tells the hub what a batch system says of the jobs that hold engines.

The hub knows agents by their connection; that a job was cancelled, or waits for resources, only
its batch system knows.  Clients ask the hub.  A thread of its own: connecting takes time, and
the watcher must not wait.
"""

from __future__ import annotations

import queue
import threading

from ipclusterz.error import KernelError

JobNews = tuple[str, str, str]
"""A job's name, its state (pending, running, ended), and a text for people."""

_CONNECT_SECONDS = 10.0


class HubTeller:
    """Hands news of jobs to the hub that the connector file ``client_file`` leads to."""

    def __init__(self, client_file: str) -> None:
        self._file = client_file
        self._news: queue.SimpleQueue[JobNews | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def tell(self, news: JobNews) -> None:
        """Pass one piece of news on, soon."""
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
        from ipclusterz.client.client import Client  # slow, and only for batch jobs

        waiting: dict[str, JobNews] = {}
        client: Client | None = None
        closing = False
        while not closing:
            waited = [self._news.get()]
            while not self._news.empty():
                waited.append(self._news.get())
            closing = None in waited
            # Of one job only the latest: what is older has been overtaken.
            waiting.update({news[0]: news for news in waited if news is not None})
            if not waiting:
                continue
            try:
                if client is None:
                    client = Client(self._file, timeout=_CONNECT_SECONDS)
                client.session.connection.query("note_jobs", list(waiting.values()))
                waiting.clear()
            except (KernelError, OSError):
                # The controller is being restarted, or is gone: the next news tries again.
                if client is not None:
                    client.close()
                client = None
        if client is not None:
            client.close()
