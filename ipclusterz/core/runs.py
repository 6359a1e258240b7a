"""Like tasks in the task scheduler, which wait and are given out together.

Lives here: the structures that many keys of :attr:`Balancer.tasks` share, and how one task
leaves them.  Must not know: who decides about them (:mod:`ipclusterz.core.balance`).
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from ipclusterz.core import message as m
from ipclusterz.core.tasks import Task


class Queued(msgspec.Struct, eq=False, gc=False):
    """Like tasks that wait for any engine; those before ``next`` do not wait here any more."""

    run: m.Run
    client: bytes
    next: int  # a key
    end: int

    agent: ClassVar[bytes] = b""  # nobody holds it

    def single(self, key: int) -> Task:
        """Return one of them, to go its own way."""
        return Task(key, self.client, single(self.run, key), queued=True)


class Given(msgspec.Struct, eq=False, gc=False):
    """Like tasks that were given to an engine together; the names are those of a Task."""

    work: m.Share
    client: bytes
    agent: bytes
    attempt: int
    engine: int

    def single(self, key: int) -> Task:
        """Return one of them, to go its own way."""
        work = single(self.work, key)
        return Task(key, self.client, work, self.attempt, self.agent, self.engine)


def single(run: m.Run | m.Share, key: int) -> m.Submit:
    """Return the message that would have brought one task of a run by itself."""
    return m.Submit(key, run.op, run.fn, run.data[key - run.key])
