"""Tasks as the hub remembers them: results of other clients, submitting again, forgetting.

What a client did itself it knows better from its own AsyncResults; this is for everything
else.  Asks the hub through the session's connection and never waits longer than told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ipclusterz.client.asyncresult import AsyncResult
from ipclusterz.client.group import GroupResult
from ipclusterz.client.output import Texts
from ipclusterz.client.session import keys_of
from ipclusterz.core import message as m
from ipclusterz.engine.serialize import PackedFunction
from ipclusterz.error import KernelError, ResultNotKept, TaskNotFound

if TYPE_CHECKING:
    from ipclusterz.client.outcome import Metadata
    from ipclusterz.client.session import Session

ANSWER = 60.0
"""Seconds that an answer of the task database may take."""

PORTION = 1000
"""Tasks that are asked for at once."""

_OK = int(m.Status.OK)


class _Names:
    """A session whose keys are places in a list of msg_ids: they belong to other clients."""

    def __init__(self, session: Session, names: Sequence[str]) -> None:
        self._session = session
        self._names = names

    def msg_id(self, key: int) -> str:
        return self._names[key - 1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class AsyncHubResult(GroupResult):
    """The results of tasks that the hub remembers, whoever sent them.

    As any :class:`AsyncResult`, also before the tasks have ended.  A result that was too
    large to be kept raises ResultNotKept, a task nobody knows TaskNotFound; both are
    KeyErrors as well and name the task.
    """

    _shown = "AsyncHubResult"

    def __init__(self, session: Session, names: Sequence[str], single: bool) -> None:
        super().__init__(_Names(session, names), "result of the hub")  # type: ignore[arg-type]
        self._single = single
        self._hub = session.connection
        self._names = names
        self._told: dict[int, dict[str, Any]] = {}
        self._open = {name: index + 1 for index, name in enumerate(names)}
        self.complete(range(1, len(names) + 1))
        if self._open:
            self._await()

    # -- asking; under the I/O lock, but for the first time ----------------------------------

    def _await(self) -> None:
        self._hub.ask("db_await", list(self._open)[:PORTION], self._ended)

    def _ended(self, ended: Any, error: str) -> None:
        if error:
            self._give_up(error)
        else:
            self._hub.ask("db_tasks", ended, self._found)

    def _found(self, records: Any, error: str) -> None:
        if error:
            self._give_up(error)
            return
        for name, record in records.items():
            key = self._open.pop(name, None)
            if key is not None:
                self._take(key, name, record)
        if self._open:
            self._await()

    def _give_up(self, error: str) -> None:
        for name, key in list(self._open.items()):
            del self._open[name]
            self._refuse(key, KernelError(f"the hub cannot tell the result of {name}: {error}"))

    def _take(self, key: int, name: str, record: dict[str, Any] | None) -> None:
        if record is None:
            self._refuse(key, unknown(name))
            return
        self._told[key] = record
        texts = Texts()
        texts.add(1, record["stdout"] or "")
        texts.add(2, record["stderr"] or "")
        self._written[key] = texts
        if record["status"] is None:
            text = f"task {name} has no result: its controller ended before it did"
            self._refuse(key, ResultNotKept(text))
        elif record["result"] is None and record["ename"]:
            failure = m.Failure(record["ename"], record["evalue"] or "")
            record["result"] = m.encode(failure)  # without its traceback, which was too long
            self.deliver(key, self._raw(key, record))
        elif record["result"] is None and record["status"] == _OK:
            text = (
                f"the result of task {name} was not kept: it is larger than 64 KiB, or much"
                " data was under way at the time; its client alone has it"
            )
            self._refuse(key, ResultNotKept(text))
        else:
            self.deliver(key, self._raw(key, record))

    def _raw(self, key: int, record: dict[str, Any]) -> m.Result:
        engine = record["engine"]
        return m.Result(
            key,
            record["attempt"] or 0,
            -1 if engine is None else engine,
            record["status"] if record["status"] is not None else int(m.Status.LOST),
            record["result"] or b"",
            None,
            record["started"] or 0.0,
            record["finished"] or 0.0,
            0,
        )

    def _refuse(self, key: int, error: KernelError) -> None:
        self._errors[key] = error
        raw = self._raw(key, self._told.get(key, _NOTHING))
        raw.status = int(m.Status.LOST)
        self.deliver(key, raw)

    # -- as a result -----------------------------------------------------------------------

    def _error(self) -> BaseException | None:
        return self._settle(0) if self._single else super()._error()

    def _join(self, pieces: list[Any]) -> Any:
        return pieces[0] if self._single else pieces

    def _convert(self, value: Any, raw: m.Result) -> Any:
        record = self._told[raw.key]
        if record["op"] == m.Op.EXECUTE:
            from ipclusterz.client.task import reply

            return reply(raw.engine, value, lambda: self._record(raw.key - 1))
        return value

    def _add_facts(self, index: int, raw: m.Result | None, record: Metadata) -> None:
        from ipclusterz.client.outcome import instant

        told = self._told.get(index + 1)
        record["submitted"] = instant((told or {}).get("submitted") or 0.0)
        record["received"] = instant((told or {}).get("received") or 0.0)
        record["label"] = (told or {}).get("label")
        if index + 1 in self._errors:
            record["error"] = self._errors[index + 1]

    def abort(self) -> None:
        """Not possible: KernelError.  Only the client that sent a task may give it up."""
        raise KernelError(
            f"{self._names[0]}: tasks are given up by the client that sent them"
            " (Client.abort there), or interrupted: Client.send_signal(signal.SIGINT)"
        )


_NOTHING: dict[str, Any] = dict.fromkeys(
    ("attempt", "engine", "status", "result", "started", "finished")
)


def unknown(name: str) -> TaskNotFound:
    """Make the error for a task that the hub does not know."""
    return TaskNotFound(
        f"the hub knows no task {name!r}: it was purged, is older than the task database"
        " keeps, or belongs to another cluster; Client.hub_history() lists those it knows"
    )


def names_of(session: Session, jobs: Any) -> list[str]:
    """Return the msg_ids meant by a msg_id, an AsyncResult, or an iterable of these."""
    if isinstance(jobs, str):
        if "_" not in jobs:
            raise TypeError(f"{jobs!r} is no msg_id: those look like {session.msg_id(1)!r}")
        return [jobs]
    if isinstance(jobs, AsyncResult):
        return list(jobs.msg_ids)
    if not isinstance(jobs, Iterable):
        raise TypeError(f"tasks are named by msg_ids or AsyncResults, not by {jobs!r}")
    return [name for job in jobs for name in names_of(session, job)]


def get_result(session: Session, jobs: Any) -> AsyncResult:
    """Return the result of tasks: our own open one if that is meant, else from the hub."""
    names = names_of(session, jobs)
    if not names:
        raise ValueError("get_result needs at least one msg_id")
    single = isinstance(jobs, str) or (isinstance(jobs, AsyncResult) and jobs._single)
    if isinstance(jobs, AsyncResult) and not jobs.done():
        return jobs
    uuid = session.connection.uuid
    if all(name.rpartition("_")[0] == uuid for name in names):
        for sink in session.live.copy():
            if isinstance(sink, AsyncResult) and list(sink.msg_ids) == names:
                return sink
    return AsyncHubResult(session, names, single)


def status(session: Session, names: list[str]) -> dict[str, Any]:
    """Return ``{'pending': [...], 'completed': [...], 'unknown': [...]}`` of msg_ids."""
    found: dict[str, Any] = {"pending": [], "completed": [], "unknown": []}
    known: dict[str, bool] = {}
    for first in range(0, len(names), PORTION):
        part = names[first : first + PORTION]
        records = session.connection.query(
            "db_query", ({"msg_id": {"$in": part}}, ["msg_id", "received"]), timeout=ANSWER
        )
        known |= {record["msg_id"]: record["received"] is not None for record in records}
    ours = {session.msg_id(key) for key in keys_of(session.live)}
    for name in names:
        if name in ours or known.get(name) is False:
            found["pending"].append(name)
        else:
            found["completed" if name in known else "unknown"].append(name)
    return found


def resubmit(session: Session, names: list[str]) -> AsyncResult:
    """Send finished tasks again, balanced, as tasks of ours; return their result."""
    records = _all(session, names)
    for name in names:
        check_again(name, records[name])
    made = _Single if len(names) == 1 else GroupResult
    result = made(session, "resubmit")
    keys: list[int] = []
    result.sent_as(keys)
    session.live.add(result)
    try:
        for name in names:
            keys.append(_send(session, records[name] or {}, result))
    finally:
        result.complete(keys)
    pairs = [(name, session.msg_id(key)) for name, key in zip(names, keys, strict=True)]
    session.connection.query("db_again", pairs, timeout=ANSWER)
    return result


class _Single(GroupResult):
    """One task's result: its value, not a list of one."""

    _single = True

    def _error(self) -> BaseException | None:
        return self._settle(0)

    def _join(self, pieces: list[Any]) -> Any:
        return pieces[0]


def check_again(name: str, record: dict[str, Any] | None) -> None:
    """Raise unless a task can be sent again."""
    if record is None:
        raise unknown(name)
    if record["received"] is None:
        raise ValueError(f"task {name} has not ended: wait for it, or abort() it first")
    if record["op"] not in _AGAIN:
        what = m.Op(record["op"]).name.lower()
        raise ValueError(f"task {name} was {what!r} on a named engine: ask that engine again")
    if record["work"] is None or (record["fn"] and record["function"] is None):
        raise ResultNotKept(
            f"what task {name} was sent with was not kept (larger than 64 KiB, or much data"
            " was under way at the time): send it anew"
        )


_AGAIN = frozenset(int(op) for op in (m.Op.APPLY, m.Op.MAP, m.Op.EXECUTE, m.Op.CALL))


def _send(session: Session, record: dict[str, Any], sink: Any) -> int:
    fn = None
    if record["fn"]:
        fn = PackedFunction(bytes(record["fn"]), bytes(record["function"]))
    options = m.Options(label=record["label"]) if record["label"] else None
    return session.connection.submit(
        record["op"], fn, [bytes(record["work"])], sink, options=options
    )


def _all(session: Session, names: list[str]) -> dict[str, dict[str, Any] | None]:
    """Ask for everything kept of tasks, as many times as it takes."""
    found: dict[str, dict[str, Any] | None] = {}
    while left := [name for name in dict.fromkeys(names) if name not in found]:
        answer = session.connection.query("db_tasks", left[:PORTION], timeout=ANSWER)
        if not answer:
            raise KernelError("the hub answered nothing about tasks it was asked for")
        found |= answer
    return found


def purge(session: Session, jobs: Any, targets: list[int] | None) -> dict[str, int]:
    """Have the hub forget finished tasks: all (``'all'``), named ones, and those of engines."""
    wanted: list[dict[str, Any]] = []
    if isinstance(jobs, str) and jobs == "all":
        wanted.append({})
    else:
        names = names_of(session, jobs)
        for first in range(0, len(names), PORTION):
            wanted.append({"msg_id": {"$in": names[first : first + PORTION]}})
    if targets:
        wanted.append({"engine_id": {"$in": targets}})
    total = {"purged": 0, "unfinished": 0}
    for where in wanted:
        for name, count in session.connection.query("db_purge", where, timeout=ANSWER).items():
            total[name] += count
        if where and "msg_id" in where and total["unfinished"]:
            raise KernelError(
                f"{total['unfinished']} of these tasks have not ended and stay; the others"
                " were purged"
            )
    return total
