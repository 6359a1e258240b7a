"""Dependency: which tasks another one waits for, and what of them counts.

Made by users or of what they give to ``follow`` and ``after``; becomes the wire's Depend.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ipclusterz.client.asyncresult import AsyncResult
from ipclusterz.client.facts import OK
from ipclusterz.core.message import COUNTER_BITS, Depend, make_key
from ipclusterz.error import InvalidDependency

if TYPE_CHECKING:
    from ipclusterz.client.session import Session


class Dependency(set[str]):
    """A set of msg_ids to wait for.

    ``dependencies``: an AsyncResult, a msg_id, or an iterable of these.  ``all``: all of them
    must have ended as wanted, not just any.  ``success`` and ``failure`` say which ends
    count.  Raises ValueError when neither does.
    """

    all = True
    success = True
    failure = False

    def __init__(
        self,
        dependencies: Any = (),
        all: bool = True,
        success: bool = True,
        failure: bool = False,
    ) -> None:
        if not (success or failure):
            raise ValueError("success and failure are both False: no task would ever count")
        super().__init__()
        self.all, self.success, self.failure = bool(all), bool(success), bool(failure)
        self.results: list[AsyncResult] = []
        self._take(dependencies)

    def _take(self, given: Any) -> None:
        if given is None:
            return
        if isinstance(given, str):
            self.add(given)
        elif isinstance(given, AsyncResult):
            self.results.append(given)
            self.update(given.msg_ids)
        elif isinstance(given, Dependency):
            self.results += given.results
            self.update(given)
        elif isinstance(given, Iterable):
            for item in given:
                self._take(item)
        else:
            raise TypeError(
                f"tasks to wait for are AsyncResults or msg_ids, not {type(given).__name__}"
            )

    def check(self, succeeded: set[str], failed: set[str] | None = None) -> bool:
        """Tell whether it is met, given the tasks that ended well and badly."""
        good = self & self._good(succeeded, failed)
        return not self or (len(good) == len(self) if self.all else bool(good))

    def unreachable(self, succeeded: set[str], failed: set[str] | None = None) -> bool:
        """Tell whether it can never be met any more."""
        ended = self & (set(succeeded) | set(failed or ()))
        bad = ended - self._good(succeeded, failed)
        return bool(self) and (bool(bad) if self.all else len(bad) == len(self))

    def _good(self, succeeded: set[str], failed: set[str] | None) -> set[str]:
        good: set[str] = set(succeeded) if self.success else set()
        return good | set(failed or ()) if self.failure else good

    def as_dict(self) -> dict[str, Any]:
        """Return it as a dict of plain values."""
        return {
            "all": self.all,
            "success": self.success,
            "failure": self.failure,
            "dependencies": list(self),
        }

    def __repr__(self) -> str:
        return f"<Dependency on {'all' if self.all else 'any'} of {len(self)} tasks>"


def made(given: Any) -> Dependency | None:
    """Return what users gave as a Dependency; None for nothing."""
    if given is None:
        return None
    dependency = given if isinstance(given, Dependency) else Dependency(given)
    return dependency or None


def check_known(dependency: Dependency | None) -> None:
    """Raise InvalidDependency where it waits for what no scheduler of tasks can tell of."""
    if not dependency:
        return
    for result in dependency.results:
        if result._direct and not result.done():
            raise InvalidDependency(
                f"{result._name} was sent to engines by a direct view and has not ended: a task"
                " can be after it, or follow it, once it has; wait() for it first"
            )


def wired(session: Session, dependency: Dependency | None) -> Depend | None:
    """Return a dependency as it travels, with the ends that are known here.

    Raises ValueError for tasks of another client: only one's own can be waited for.
    """
    if not dependency:
        return None
    connection = session.connection
    number = connection.facts.get("number", 0)
    keys = []
    for name in dependency:
        uuid, _, counter = name.rpartition("_")
        if uuid != connection.uuid or not counter.isdecimal():
            raise ValueError(
                f"{name!r} is no task of this client: a task can wait for tasks that were sent"
                " by the same client"
            )
        keys.append(make_key(number, int(counter)))
    known = [
        (key, raw.status == OK, raw.engine)
        for result in dependency.results
        for key, raw in zip(result.task_keys(), result._raws(), strict=False)
        if raw is not None and key >> COUNTER_BITS == number
    ]
    return Depend(keys, dependency.all, dependency.success, dependency.failure, known)
