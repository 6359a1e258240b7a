"""How one task is done: from what was sent to what is sent back.

Lives here: the operations, the cache of functions, interruption.  May know: the shared
page, the namespace, serialisation, bodies.  Must not know: the socket that tasks come by.

:meth:`Runner.run` is the path of every task, so it is flat where style would divide it.
"""

from __future__ import annotations

import builtins
import pickle
from collections.abc import Callable, Sequence
from time import monotonic, time
from types import FrameType
from typing import Any

from ipclusterz.core.message import INLINE, Failure, Op, Outcome, Status, Work, encode
from ipclusterz.engine import bodies, serialize
from ipclusterz.engine.execute import Executor, Reply, no_input
from ipclusterz.engine.failure import ItemError, LoadError, failure
from ipclusterz.engine.fingerprint import is_stateless
from ipclusterz.engine.namespace import Namespace, Shipment
from ipclusterz.engine.page import INTERRUPT, RUNNING, SERIAL
from ipclusterz.engine.reference import Reference, replace
from ipclusterz.engine.spares import Spares
from ipclusterz.error import ImpossibleDependency, SerializationError, UnmetDependency

FUNCTIONS = 4096
"""How many functions an engine keeps; the oldest go first and are asked for again."""

_PAUSE = 0.05  # seconds between two interrupts of one task
_APPLY, _MAP = int(Op.APPLY), int(Op.MAP)
_OK = int(Status.OK)
_loads, _dumps = pickle.loads, pickle.dumps
_NO_ARGS, _NONE, is_simple = serialize.NO_ARGS, serialize.NONE, serialize.is_simple
_RESULT = "the result"
_PLAIN = frozenset({bool, int, float, complex})


class _Function:
    """A function as it was sent, and what it became once it was needed.

    One that tasks may change (a bound method, a closure over a list, a class of the client's)
    is made anew for each: ``call`` stays None, ``stateful`` tells.  ``quick`` tells that its
    last call took less than a millisecond.
    """

    __slots__ = ("call", "data", "name", "quick", "shipment", "stateful")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.call: Callable[..., Any] | None = None
        self.name = ""
        self.stateful = False
        self.shipment: Shipment | None = None
        self.quick = False


class Runner:
    """Does tasks in the calling thread.

    ``words`` are those of the shared page (or any list of eight integers), ``folder`` and
    ``proof`` where results too large for a batch are put.
    """

    def __init__(
        self,
        engine: int,
        namespace: Namespace,
        words: memoryview | list[int],
        folder: str,
        proof: bytes,
    ) -> None:
        self.engine = engine
        self.namespace = namespace
        self.words = words
        self.folder = folder
        self.proof = proof
        self._spares = Spares(folder)
        self.armed = False
        self.functions: dict[bytes, _Function] = {}
        self._interrupted = 0.0
        self._operations: dict[int, Callable[[Work], Any]] = {
            Op.EXECUTE: self._execute,
            Op.PUSH: self._push,
            Op.PULL: self._pull,
            Op.CLEAR: self._clear,
            Op.CALL: self._call,
        }
        self._executor = Executor(namespace)

    def install(self) -> None:
        """Let tasks of this process find a shell, and nobody to ask."""
        builtins.input = no_input
        self._executor.watch()

    # -- functions -------------------------------------------------------------------------

    def add_function(self, digest: bytes, data: bytes) -> None:
        """Keep a pickled function; it is unpickled by the first task that needs it."""
        functions = self.functions
        functions.pop(digest, None)
        if len(functions) >= FUNCTIONS:
            del functions[next(iter(functions))]
        functions[digest] = _Function(data)

    def _load_function(self, function: _Function) -> Callable[..., Any]:
        try:
            call, shipment = self.namespace.receive(function.data)
        except Exception as error:
            raise LoadError("the function", error) from error
        if isinstance(call, Reference):
            call = self._by_name(call)
        elif not function.stateful:
            captured = shipment.captured.values() if shipment is not None else ()
            function.stateful = not is_stateless(call, captured, self.namespace.dict)
        function.call = None if function.stateful else call
        function.name = str(getattr(call, "__qualname__", None) or repr(call))
        function.shipment = shipment
        return call  # type: ignore[no-any-return]

    def _by_name(self, reference: Reference) -> Callable[..., Any]:
        """Return a function that calls whatever the reference means at that time."""

        def call(*args: Any, **kwargs: Any) -> Any:
            return reference.resolve(self.namespace.dict)(*args, **kwargs)

        return call

    # -- tasks -----------------------------------------------------------------------------

    def run(self, work: Work) -> Outcome:
        """Do one task; whatever it does to us, an outcome comes of it.

        The caller has made sure that its function, if it needs any, is here.
        """
        words = self.words
        key = work.key
        words[RUNNING] = key
        words[SERIAL] += 1
        function = None
        value: Any = None
        parts: list[serialize.Part] | None = None
        data = b""
        failed: BaseException | None = None
        started = time()
        # The signal handler raises only while armed.  It may do so in the few instructions
        # between the end of user code and the disarming, also inside of the inner except
        # clause: hence the outer try.  It never raises twice within 50 ms.
        try:
            try:
                self.armed = True
                if words[INTERRUPT] == key:
                    self._raise_interrupt()
                if work.op <= _MAP:
                    function = self.functions[work.fn]
                    call = function.call
                    if call is None:
                        call = self._load_function(function)
                    shipment = function.shipment
                    if shipment is not None and self.namespace.shipped is not shipment:
                        self.namespace.apply(shipment)
                    sent = work.data
                    if work.op == _MAP:
                        items, flags = self._load(work)
                        value = map_items(call, items, **flags)
                    elif sent == _NO_ARGS:
                        value = call()
                    elif is_simple(sent):
                        try:
                            args, kwargs = _loads(sent)
                        except Exception as error:
                            raise LoadError(_WHAT[_APPLY], error) from error
                        value = call(*args, **kwargs) if kwargs else call(*args)
                    else:
                        args, kwargs = self._load(work)
                        value = call(*args, **kwargs)
                else:
                    value = self._operation(work)
                if value is None:
                    data = _NONE
                elif type(value) in _PLAIN:
                    data = _dumps(value, 5)
                    if len(data) >= INLINE:  # an integer has no bounds
                        parts, data = [data], b""
                else:
                    parts = serialize.pack(value, _RESULT)
                    value = None
                self.armed = False
            except BaseException as error:
                self.armed = False
                failed = error
        except KeyboardInterrupt as error:
            self.armed = False
            failed = error
        if failed is not None:
            made = self._failed(work, function, failed, started)
            failed = None  # its frames hold the user's objects
            return made
        finished = time()
        if function is not None:
            function.quick = finished - started < 0.001
        if parts is not None:
            return self._finish(key, parts, started, finished)
        return Outcome(key, _OK, data, None, started, finished)

    def _finish(
        self, key: int, parts: Sequence[serialize.Part], started: float, finished: float
    ) -> Outcome:
        """Make the outcome of a value that is more than a number; ours, so not armed."""
        if serialize.total(parts) < INLINE:
            return Outcome(key, _OK, serialize.join(parts), None, started, finished)
        try:
            body = bodies.write(self.folder, self.proof, parts, self._spares)
        except OSError as error:
            data = encode(failure(error, self.engine))
            return Outcome(key, int(Status.ERROR), data, None, started, finished)
        return Outcome(key, _OK, b"", body, started, finished)

    def _failed(
        self, work: Work, function: _Function | None, error: BaseException, started: float
    ) -> Outcome:
        finished = time()
        if isinstance(error, SerializationError) and str(error).startswith(_RESULT):
            # A new one: how it came about is our own frames and those of the pickler.
            error = SerializationError(f"{_name(work, function)}: {error}")
        data = encode(failure(error, self.engine))
        unmet = isinstance(error, UnmetDependency) and not isinstance(
            error, ImpossibleDependency
        )
        status = int(Status.UNMET if unmet else Status.ERROR)
        return Outcome(work.key, status, data, None, started, finished)

    # -- operations ------------------------------------------------------------------------

    def _operation(self, work: Work) -> Any:
        try:
            operation = self._operations[work.op]
        except KeyError:
            raise ValueError(f"this engine does not know operation {work.op}") from None
        return operation(work)

    def _load(self, work: Work) -> Any:
        """Return what came with a task, references resolved."""
        try:
            parts: Sequence[serialize.Buffer]
            parts = serialize.split(work.data) if work.body is None else bodies.read(work.body)
            value = self.namespace.loads(parts[0], parts[1:])
        except Exception as error:
            raise LoadError(_WHAT.get(work.op, "the data"), error) from error
        if not serialize.plain(parts[0]) and b"Reference" in bytes(parts[0]):
            return self._resolved(work.op, value)
        return value

    def _resolved(self, op: int, value: Any) -> Any:
        names = self.namespace.dict
        if op == Op.APPLY:
            args, kwargs = value
            return (
                tuple(replace(item, names) for item in args),
                {name: replace(item, names) for name, item in kwargs.items()},
            )
        if op == Op.MAP:
            items, flags = value
            if flags.get("single"):
                return [replace(item, names) for item in items], flags
            return [tuple(replace(v, names) for v in item) for item in items], flags
        if op == Op.CALL:
            function, args, kwargs = value
            return (function, *self._resolved(Op.APPLY, (args, kwargs)))
        if op == Op.PUSH:
            return {name: replace(item, names) for name, item in value.items()}
        return value

    def _execute(self, work: Work) -> Reply:
        code, silent, *colors = self._load(work)
        return self._executor.run(code, silent, *colors)

    def _push(self, work: Work) -> None:
        self.namespace.push(self._load(work))

    def _pull(self, work: Work) -> Any:
        names = self._load(work)
        if isinstance(names, str):
            return self.namespace.pull(names)
        return [self.namespace.pull(name) for name in names]

    def _clear(self, work: Work) -> None:
        self.namespace.clear()
        self._executor.cleared()

    def _call(self, work: Work) -> Any:
        function, args, kwargs = self._load(work)
        return function(*args, **kwargs)

    # -- interruption ----------------------------------------------------------------------

    def on_interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        """Handle SIGINT: raise KeyboardInterrupt if, and only if, the agent means this task."""
        __tracebackhide__ = True  # in IPython's tracebacks
        words = self.words
        if self.armed and words[RUNNING] != 0 and words[INTERRUPT] == words[RUNNING]:
            self._raise_interrupt()

    def _raise_interrupt(self) -> None:
        __tracebackhide__ = True
        now = monotonic()
        if now - self._interrupted < _PAUSE:
            return
        self._interrupted = now
        self.words[INTERRUPT] = 0
        raise KeyboardInterrupt("the task was interrupted")


_WHAT = {
    int(Op.APPLY): "the arguments",
    int(Op.MAP): "the items",
    int(Op.EXECUTE): "the code",
    int(Op.PUSH): "the variables",
    int(Op.CALL): "the function or its arguments",
}


def _name(work: Work, function: _Function | None) -> str:
    """Return what people call the task: its function's name or its operation's."""
    if function is None:
        return Op(work.op).name.lower()
    return function.name


def map_items(
    function: Callable[..., Any],
    items: Sequence[Any],
    return_exceptions: bool = False,
    single: bool = False,
) -> list[Any]:
    """Return ``function(*item)`` for each item, ``function(item)`` if ``single``.

    The first exception ends it, wrapped so that its item can be named; with
    ``return_exceptions`` a :class:`~ipclusterz.core.message.Failure` takes the value's place.
    """
    values: list[Any] = []
    append = values.append
    try:
        if return_exceptions:
            for item in items:
                append(_value_or_failure(function, (item,) if single else item))
        elif single:
            for item in items:
                append(function(item))
        else:
            for item in items:
                append(function(*item))
        return values
    except Exception as error:
        raise ItemError(len(values), error) from error


def _value_or_failure(function: Callable[..., Any], item: tuple[Any, ...]) -> Any | Failure:
    try:
        return function(*item)
    except Exception as error:
        return failure(error)
