"""What a client asks the hub about tasks, its own and others': the part of Client that does.

Thin: the work is done in :mod:`ipclusterz.client.remembered`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ipclusterz.client import remembered
from ipclusterz.client.remembered import ANSWER
from ipclusterz.error import KernelError

if TYPE_CHECKING:
    from ipclusterz.client.asyncresult import AsyncResult
    from ipclusterz.client.session import Session


class HubQuestions:
    """Mixin of :class:`ipclusterz.Client`: the task database, and results of other clients."""

    session: Session
    block: bool

    def hub_history(self) -> list[str]:
        """Return the msg_ids of the tasks the hub remembers, in the order of submission.

        Of all clients of this profile's clusters, also of earlier ones; see docs/database.md.
        Raises KernelError when the controller keeps no task database.
        """
        found: list[str] = self.session.connection.query("hub_history", timeout=ANSWER)
        return found

    def db_query(
        self, query: dict[str, Any] | None = None, keys: list[str] | None = None
    ) -> list[dict[str, Any]]:
        """Return records of tasks that the hub remembers.

        ``query`` is in the manner of MongoDB (``{"engine_id": 0, "completed": None}``; all
        tasks when empty), ``keys`` names what of each record is wanted (default: all).
        Times are aware datetimes.  Raises KernelError for a query that means nothing, with
        the nearest that does.
        """
        asked = (query or {}, keys)
        found: list[dict[str, Any]] = self.session.connection.query(
            "db_query", asked, timeout=ANSWER
        )
        return found

    def get_result(
        self,
        indices_or_msg_ids: Any = None,
        block: bool | None = None,
        owner: bool = True,
    ) -> Any:
        """Return the result of tasks by msg_id, also of other clients' and earlier ones.

        ``indices_or_msg_ids``: a msg_id (as in ``ar.msg_ids`` or :meth:`hub_history`), a
        list of them, an AsyncResult, or an index into :attr:`history` (None: the last).
        Returns an AsyncResult, or the value when blocking.  Getting its value raises
        TaskNotFound (a KeyError) for a task that nobody knows any more, and ResultNotKept
        for a result that was not kept.  ``owner`` is accepted for compatibility.
        """
        result = remembered.get_result(self.session, self._named(indices_or_msg_ids))
        return result.get() if (self.block if block is None else block) else result

    def result_status(self, msg_ids: Any, status_only: bool = True) -> dict[str, Any]:
        """Return which tasks are ``pending``, which ``completed``, and which ``unknown``.

        Values are lists of msg_ids.  Without ``status_only`` the finished ones' records are
        there as well, by msg_id.
        """
        names = remembered.names_of(self.session, self._named(msg_ids))
        found = remembered.status(self.session, names)
        if not status_only:
            for record in self.db_query({"msg_id": {"$in": found["completed"]}}):
                found[record["msg_id"]] = record
        return found

    def resubmit(
        self,
        indices_or_msg_ids: Any = None,
        metadata: dict[str, Any] | None = None,
        block: bool | None = None,
    ) -> Any:
        """Send finished tasks again, to whichever engine is free; return their AsyncResult.

        The new tasks are this client's, whoever sent the old ones; the hub takes down what
        was made of what.  ``metadata`` is accepted for compatibility.  Raises TaskNotFound,
        ResultNotKept (what it was sent with is not there any more) or ValueError (it has
        not ended, or was a push, pull or clear).
        """
        names = remembered.names_of(self.session, self._named(indices_or_msg_ids))
        result: AsyncResult = remembered.resubmit(self.session, names)
        return result.get() if (self.block if block is None else block) else result

    # -- forgetting ------------------------------------------------------------------------

    def purge_hub_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """Have the hub forget finished tasks: named ones, those of engines, or ``'all'``.

        Raises KernelError when a named task has not ended; it stays, others are gone.
        """
        if isinstance(targets, str) and targets == "all":
            jobs = "all"
        chosen = None
        if not isinstance(targets, str) and targets not in (None, (), []):
            chosen = [targets] if isinstance(targets, int) else [int(t) for t in targets]
        if not chosen and not isinstance(jobs, str) and not jobs:
            raise ValueError("name jobs, targets, or 'all': nothing was said to be purged")
        remembered.purge(self.session, jobs, chosen)

    def purge_local_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """Check that tasks are finished; KernelError names how many are not.

        Kept for compatibility: a client holds no results besides its AsyncResults, which go
        when they are no longer referred to.
        """
        open_names = set(self._open_names())
        if not (isinstance(jobs, str) and jobs == "all"):
            open_names &= set(remembered.names_of(self.session, jobs))
        if open_names and not targets:
            raise KernelError(
                f"{len(open_names)} of these tasks have not ended: wait() or abort() first"
            )

    def purge_results(self, jobs: Any = (), targets: Any = ()) -> None:
        """Forget finished tasks here and in the hub: see :meth:`purge_hub_results`."""
        self.purge_local_results(jobs, targets)
        self.purge_hub_results(jobs, targets)

    def purge_everything(self) -> None:
        """Forget all finished tasks, here and in the hub."""
        self.purge_results("all")

    # -- helpers ---------------------------------------------------------------------------

    def _open_names(self) -> Sequence[str]:
        from ipclusterz.client.session import keys_of

        return [self.session.msg_id(key) for key in keys_of(self.session.live)]

    def _named(self, jobs: Any) -> Any:
        """Replace indices into the history by msg_ids."""
        if jobs is None:
            jobs = -1
        if isinstance(jobs, int):
            return self._past()[jobs]
        if isinstance(jobs, list | tuple):
            return [self._past()[job] if isinstance(job, int) else job for job in jobs]
        return jobs

    def _past(self) -> Sequence[str]:
        history: Sequence[str] = getattr(self, "history", ())
        if not history:
            raise IndexError("this client has sent no tasks yet: name them by msg_id")
        return history
