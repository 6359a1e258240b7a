"""What is known about the tasks of a result: when, where, how long, what they printed.

The part of :class:`ipclusterz.client.asyncresult.AsyncResult` that only reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ipclusterz.client import outcome
from ipclusterz.client.outcome import Metadata
from ipclusterz.client.output import Texts
from ipclusterz.client.session import limit
from ipclusterz.core.message import Result, Status
from ipclusterz.error import TimeoutError

if TYPE_CHECKING:
    from datetime import datetime

    from ipclusterz.client.session import Session

OUTPUT_WAIT = 2.0
"""Seconds that reading ``stdout`` waits for text that is known to be on its way."""

OK = int(Status.OK)

_NOTHING = Texts()


class Facts:
    """Mixin: facts about a result's tasks, one value for a single task, else a list."""

    _session: Session
    _submitted: float
    _received = 0.0
    _single = False
    _label: str | None = None
    _sent_to: Sequence[int] | None = None

    # -- what it asks of the result --------------------------------------------------------

    def done(self) -> bool:
        """Tell whether all results are in."""
        raise NotImplementedError

    def task_keys(self) -> Sequence[int]:
        """Return the keys of the tasks, in order."""
        raise NotImplementedError

    def _raws(self) -> list[Result | None]:
        """Return the results that are in, in the order of :meth:`task_keys`."""
        raise NotImplementedError

    def _texts(self, index: int) -> Texts | None:
        """Return the output of one task."""
        raise NotImplementedError

    def _late(self, timeout: float | None) -> TimeoutError:
        """Make the error for what is not ready."""
        raise NotImplementedError

    @property
    def msg_ids(self) -> list[str]:
        """The names of the tasks, in order."""
        return [self._session.msg_id(key) for key in self.task_keys()]

    # -- facts -----------------------------------------------------------------------------

    @property
    def metadata(self) -> Any:
        """Facts about the task, an :class:`ipclusterz.client.outcome.Metadata`."""
        records = self._records()
        return records[0] if self._single else records

    def _records(self) -> list[Metadata]:
        return [self._record(index) for index in range(len(self.task_keys()))]

    def _record(self, index: int) -> Metadata:
        """Return the facts about one task."""
        key, raw = self.task_keys()[index], self._raw_of(index)
        record = outcome.metadata(
            self._session, key, raw, self._submitted, self._received, self._label
        )
        texts = self._texts(index)
        if texts is not None:
            record["stdout"], record["stderr"] = texts.read(1), texts.read(2)
            record["outputs"], record["data"] = texts.displays(), texts.values()
        if raw is not None and raw.status != OK:
            record["error"] = outcome.error_of(self._session, raw)
        self._add_facts(index, raw, record)
        return record

    def _raw_of(self, index: int) -> Result | None:
        """Return one task's result, if it is in."""
        return self._raws()[index]

    def _add_facts(self, index: int, raw: Result | None, record: Metadata) -> None:
        """Hook: add what a kind knows besides."""

    def _fact(self, name: str) -> Any:
        found = [record[name] for record in self._records()]
        return found[0] if self._single else found

    @property
    def engine_id(self) -> Any:
        """The engine it ran on (None before); a list for several tasks."""
        found = [
            raw.engine if raw is not None and raw.engine >= 0 else None for raw in self._raws()
        ]
        return found[0] if self._single else found

    @property
    def status(self) -> Any:
        """``'ok'``, ``'error'``, ``'aborted'``, ...; None before; a list for several."""
        return self._fact("status")

    @property
    def submitted(self) -> Any:
        """When it was sent, as a datetime in UTC; a list for several tasks."""
        return self._fact("submitted")

    @property
    def started(self) -> Any:
        """When it began on its engine, by that host's clock; a list for several tasks."""
        return self._fact("started")

    @property
    def completed(self) -> Any:
        """When it ended on its engine, by that host's clock; a list for several tasks."""
        return self._fact("completed")

    @property
    def received(self) -> Any:
        """When the result came in; a list for several tasks."""
        return self._fact("received")

    @property
    def stdout(self) -> Any:
        """What it printed so far (all of it once ready); a list of texts for several."""
        return self._output(1)

    @property
    def stderr(self) -> Any:
        """What it wrote to standard error; a list of texts for several tasks."""
        return self._output(2)

    @property
    def outputs(self) -> Any:
        """What it displayed so far: dicts with ``'data'`` by MIME type and ``'metadata'``.

        Binary data, such as of ``image/png``, is base64 text.  One list for a single task, a
        list of lists for several.
        """
        return self._of_texts(Texts.displays)

    @property
    def data(self) -> Any:
        """The values it published so far (``publish_data``); a list of dicts for several."""
        return self._of_texts(Texts.values)

    @property
    def execute_result(self) -> Any:
        """The value of the last expression of executed code, or None; a list for several.

        A dict: ``'data'`` by MIME type, ``'metadata'`` and ``'execution_count'``.
        """
        return self._fact("execute_result")

    @property
    def targets(self) -> list[int] | None:
        """The engines it was sent to, one for each task; None where any engine will do."""
        return None if self._sent_to is None else list(self._sent_to)

    def _output(self, stream: int) -> Any:
        return self._of_texts(lambda texts: texts.read(stream))

    def _of_texts(self, read: Callable[[Texts], Any]) -> Any:
        self.wait_for_output(OUTPUT_WAIT)
        found = [read(self._texts(index) or _NOTHING) for index in range(len(self.task_keys()))]
        return found[0] if self._single else found

    def display_outputs(self, groupby: str = "type", result_only: bool = False) -> None:
        """Show what the tasks printed, displayed and gave as values; TimeoutError before.

        What several engines put out alike is shown once, with their ids: ``[stdout:0-3]``.
        ``groupby='type'``: standard output, then errors, displays, values; ``'order'``: of
        the displays, the first of each engine, then the second ones; ``'engine'``: engine by
        engine.  With ``result_only`` the values only.  ValueError for others.
        """
        from ipclusterz.client.display import display_outputs

        display_outputs(self, groupby, result_only)  # type: ignore[arg-type]

    def stream_output(self) -> AbstractContextManager[None]:
        """Return a context manager: within its block, output is shown as it comes.

        From another thread, so the block may do what it likes: ``with ar.stream_output():
        ar.wait()``.  Values are not shown: see :meth:`display_outputs`.
        """
        from ipclusterz.client.display import stream_output

        return stream_output(self)  # type: ignore[arg-type]

    def wait_for_output(self, timeout: float | None = -1) -> bool:
        """Wait for all text of the tasks that are finished; tell whether it is there."""
        if self._output_complete():
            return True
        return self._session.wait(self._output_complete, limit(timeout))

    def _output_complete(self) -> bool:
        for index, raw in enumerate(self._raws()):
            if raw is not None and raw.out:
                texts = self._texts(index)
                if texts is None or texts.received < raw.out:
                    return False
        return True

    @property
    def elapsed(self) -> float:
        """Seconds from sending until the last result came in, or until now."""
        return (self._received if self.done() else time.time()) - self._submitted

    @property
    def wall_time(self) -> float:
        """Seconds from sending until the last result came in; TimeoutError before."""
        if not self.done():
            raise self._late(None)
        return self._received - self._submitted

    @property
    def serial_time(self) -> float:
        """Seconds that the tasks took on their engines in all; TimeoutError before."""
        if not self.done():
            raise self._late(None)
        return sum(raw.finished - raw.started for raw in self._raws() if raw is not None)

    def timedelta(
        self,
        start: datetime | Iterable[datetime],
        end: datetime | Iterable[datetime],
        start_key: Callable[[Iterable[datetime]], datetime] = min,
        end_key: Callable[[Iterable[datetime]], datetime] = max,
    ) -> float:
        """Return the seconds between two times, or between the ends of lists of times.

        ``ar.timedelta(ar.submitted, ar.received)`` is the time it all took.
        """
        first = start_key(start) if isinstance(start, Iterable) else start
        last = end_key(end) if isinstance(end, Iterable) else end
        return (last - first).total_seconds()
