"""A connection without a network: what is sent is run in this process, by whoever waits."""

from __future__ import annotations

import io
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import msgspec

from ipclusterz.core.message import EngineInfo, Failure, Op, Options, Result, Status
from ipclusterz.engine import serialize
from ipclusterz.engine.reference import replace


class Ledger:
    """The part of a ledger that clients read."""

    def __init__(self) -> None:
        self.waiting: dict[int, str] = {}


class FakeConnection:
    """``n`` engines in memory.

    Work is queued when sent and run when someone waits, one task at a time and in order
    (``order`` may reorder the queue), so tests decide what has happened.
    """

    def __init__(self, n: int = 3) -> None:
        self.uuid = "f" * 16
        self.engines = {i: EngineInfo(i, "here", 100 + i, b"agent") for i in range(n)}
        self.engines_version = 1
        self.elsewhere: frozenset[int] = frozenset()
        self.lost: BaseException | None = None
        self.departed: dict[int, str] = {}
        self.jobs: dict[str, list[str]] = {}
        self.ledger = Ledger()
        self.facts: dict[str, Any] = {}
        self.output: Callable[[int, int, int, str], None] = lambda *a: None
        self.spaces: dict[int, dict[str, Any]] = {i: {} for i in range(n)}
        self.queue: deque[tuple[int, Op, Any, list[Any], Any, int | None]] = deque()
        self.order: Callable[[deque[Any]], None] = lambda queue: None
        self.sent: list[tuple[Op, Options | None, list[int]]] = []
        self.controls: list[tuple[Op, list[int], bytes]] = []
        self.cancelled: list[tuple[list[int], bool]] = []
        self.late_output = False
        self.highest = 0
        self.released: list[int] = []
        self.watchers: list[Callable[[], None]] = []
        self.closed = 0
        self.idle = 0
        self._counter = 0
        self._lock = threading.RLock()
        self._held: list[tuple[int, int, int, str]] = []

    # -- the client's side -----------------------------------------------------------------

    def submit(
        self, op: Any, fn: Any, parts: Any, sink: Any, *, options: Any = None, loan: Any = None
    ) -> int:
        self.sent.append((Op(op), options, []))
        return self._put(op, fn, parts, sink, None)

    def submit_all(self, loads: Any, sink: Any, options: Any, loan: Any = None) -> int:
        keys = [self.submit(*load, sink, options=options) for load in loads]
        return keys[0]

    def request(
        self, op: Any, fn: Any, parts: Any, sink: Any, targets: list[int], loan: Any = None
    ) -> int:
        self.sent.append((Op(op), None, list(targets)))
        keys = [self._put(op, fn, parts, sink, engine) for engine in targets]
        return keys[0]

    def _put(self, op: Any, fn: Any, parts: Any, sink: Any, engine: int | None) -> int:
        with self._lock:
            self._counter += 1
            key = (7 << 40) | self._counter
            self.queue.append((key, Op(op), fn, parts, sink, engine))
            self.highest = max(self.highest, len(self.queue))
        return key

    def wait(self, done: Callable[[], bool], timeout: float | None) -> bool:
        until = time.monotonic() + (1.0 if timeout is None else timeout)
        while not done():
            if not self.step():
                if self.lost is not None:
                    return False
                if time.monotonic() >= until:
                    self.idle += 1
                    assert self.idle < 100, "waited for what cannot come"
                    return False
                time.sleep(0.001)
        return True

    def control(
        self, op: Any, targets: list[int], data: bytes = b"", *, timeout: float | None
    ) -> dict[int, Any]:
        self.controls.append((Op(op), targets, data))
        return dict.fromkeys(targets)

    def cancel(self, keys: list[int], direct: bool) -> None:
        self.cancelled.append((list(keys), direct))
        for item in [item for item in self.queue if item[0] in keys]:
            self.queue.remove(item)
            self._deliver(item[4], item[0], -1, Status.ABORTED, b"")

    def query(self, what: str, arg: Any = None, *, timeout: float | None = 10) -> Any:
        if what == "jobs":
            return self.jobs
        assert what == "queue_status"
        row = {"queue": 0, "completed": 0, "tasks": 0}
        return {"unassigned": 0, **{str(i): row for i in self.engines}}

    def shutdown_controller(self, timeout: float | None) -> None:
        self.controls.append((Op.STOP, [], b"controller"))

    def task_ranges(self) -> list[range]:
        return [range((7 << 40) + 1, (7 << 40) + self._counter + 1)]

    def on_engines(self, callback: Callable[[], None]) -> None:
        self.watchers.append(callback)

    def load(self, result: Result) -> list[Any]:
        return serialize.split(result.data)

    def release(self, result: Result) -> None:
        self.released.append(result.key)

    def close(self) -> None:
        self.closed += 1

    # -- the engines' side -----------------------------------------------------------------

    def add_engine(self, number: int) -> None:
        self.engines = {**self.engines, number: EngineInfo(number, "here", 1, b"agent")}
        self.spaces[number] = {}
        self.engines_version += 1
        for watcher in self.watchers:
            watcher()

    def remove_engine(self, number: int, reason: str = "it was stopped") -> None:
        self.departed[number] = reason
        self.engines = {k: v for k, v in self.engines.items() if k != number}
        self.engines_version += 1

    def step(self) -> bool:
        """Run one task, or hand over output that was held back; False: nothing to do."""
        with self._lock:
            self.order(self.queue)
            if not self.queue:
                held, self._held = self._held, []
                for entry in held:
                    self.output(*entry)
                return bool(held)
            key, op, fn, parts, sink, engine = self.queue.popleft()
        if engine is None:
            engine = key % len(self.engines)
        text = io.StringIO()
        try:
            with redirect_stdout(text):
                value = self._run(op, fn, parts, self.spaces[engine])
            status, data = Status.OK, serialize.join(serialize.pack(value))
        except BaseException as error:
            failure = Failure(
                type(error).__name__, str(error), "Traceback: ...", engine, _pickled(error)
            )
            status, data = Status.ERROR, msgspec.msgpack.encode(failure)
        self._deliver(sink, key, engine, status, data, text.getvalue())
        return True

    def kill(self, key: int, reason: str) -> None:
        """End a queued task as if its engine had died."""
        for item in [item for item in self.queue if item[0] == key]:
            self.queue.remove(item)
            failure = Failure("EngineError", reason, "", 1)
            self._deliver(item[4], key, 1, Status.DIED, msgspec.msgpack.encode(failure))

    def _deliver(
        self, sink: Any, key: int, engine: int, status: Status, data: bytes, text: str = ""
    ) -> None:
        with self._lock:
            if text and self.late_output:
                self._held.append((key, engine, 1, text))
            elif text:
                self.output(key, engine, 1, text)
            sink.deliver(
                key, Result(key, 0, engine, status, data, None, 100.0, 100.5, len(text))
            )

    def _run(self, op: Op, fn: Any, parts: list[Any], space: dict[str, Any]) -> Any:
        data = serialize.loads(parts[0], parts[1:])
        if op is Op.APPLY:
            args, kwargs = replace(data[0], space), replace(data[1], space)
            return serialize.loads(fn.data)(*args, **kwargs)
        if op is Op.CALL:
            f, args, kwargs = data
            return f(*args, **kwargs)
        if op is Op.MAP:
            return _map(serialize.loads(fn.data), *data)
        if op is Op.EXECUTE:
            code, silent, *_colors = data
            if silent:
                exec(code, space)
                return {}
            shown = repr(eval(code, space))
            return {"data": {"text/plain": shown}, "metadata": {}, "count": 7}
        if op is Op.PUSH:
            space.update(data)
            return None
        if op is Op.PULL:
            return _pull(space, data)
        assert op is Op.CLEAR
        space.clear()
        return None


def _map(f: Callable[..., Any], items: list[Any], flags: dict[str, Any]) -> list[Any]:
    values: list[Any] = []
    for item in items:
        args = (item,) if flags.get("single") else item
        try:
            values.append(f(*args))
        except Exception as error:
            if not flags.get("return_exceptions"):
                raise
            values.append(Failure(type(error).__name__, str(error), "", -1, _pickled(error)))
    return values


def _pull(space: dict[str, Any], names: str | list[str]) -> Any:
    if isinstance(names, list):
        return [_pull(space, name) for name in names]
    if names not in space:
        raise NameError(f"name {names!r} is not defined")
    return space[names]


def _pickled(error: BaseException) -> bytes:
    try:
        return serialize.dumps(error)[0]
    except Exception:
        return b""
