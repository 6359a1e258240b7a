"""What is known about the tasks of a result: when, where, how long, what they printed.

The part of :class:`ipclusterz.client.asyncresult.AsyncResult` that only reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ipclusterz.client import outcome
from ipclusterz.client.outcome import Metadata
from ipclusterz.client.session import limit
from ipclusterz.core.message import Result, Status
from ipclusterz.error import TimeoutError

if TYPE_CHECKING:
    from datetime import datetime

    from ipclusterz.client.output import Texts
    from ipclusterz.client.session import Session

OUTPUT_WAIT = 2.0
"""Seconds that reading ``stdout`` waits for text that is known to be on its way."""

OK = int(Status.OK)


class Facts:
    """Mixin: facts about a result's tasks, one value for a single task, else a list."""

    _session: Session
    _submitted: float
    _received = 0.0
    _single = False
    _label: str | None = None

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
        records = []
        for index, (key, raw) in enumerate(zip(self.task_keys(), self._raws(), strict=False)):
            record = outcome.metadata(
                self._session, key, raw, self._submitted, self._received, self._label
            )
            texts = self._texts(index)
            if texts is not None:
                record["stdout"], record["stderr"] = texts.read(1), texts.read(2)
            if raw is not None and raw.status != OK:
                record["error"] = outcome.error_of(self._session, raw)
            self._add_facts(index, raw, record)
            records.append(record)
        return records

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

    def _output(self, stream: int) -> Any:
        self.wait_for_output(OUTPUT_WAIT)
        found = []
        for index in range(len(self.task_keys())):
            texts = self._texts(index)
            found.append(texts.read(stream) if texts is not None else "")
        return found[0] if self._single else found

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
