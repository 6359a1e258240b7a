"""One task at a time, in this process: operations, failures, bodies, interruption."""

from __future__ import annotations

import builtins
import errno
import functools
import linecache
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy
import pytest

from ipclusterz import error
from ipclusterz.client import outcome
from ipclusterz.client.outcome import composite
from ipclusterz.core.message import INLINE, Failure, Op, Outcome, Status, Work
from ipclusterz.engine import bodies, runner, serialize
from ipclusterz.engine.failure import failure
from ipclusterz.engine.namespace import Namespace
from ipclusterz.engine.page import INTERRUPT, RUNNING, SERIAL
from ipclusterz.engine.reference import Reference
from ipclusterz.engine.runner import Runner
from ipclusterz.error import CompositeError, RemoteError, SerializationError, remote_error
from tests.engine.testagent import user


class Bench:
    """A runner and the client's part of what it needs."""

    def __init__(self, folder: tuple[str, bytes]) -> None:
        self.folder = folder
        self.words = [0] * 8
        self.runner = Runner(7, Namespace(), self.words, *folder)
        self.cache = serialize.FunctionCache()
        self.key = 100

    def outcome(
        self, op: Op, parts: Sequence[serialize.Buffer], function: Any = None
    ) -> Outcome:
        self.key += 1
        digest = b""
        if function is not None:
            packed = self.cache.pack(function)
            digest = packed.digest
            if digest not in self.runner.functions:
                self.runner.add_function(digest, packed.data)
        if serialize.total(parts) < INLINE:
            work = Work(self.key, op, digest, serialize.join(parts))
        else:
            work = Work(self.key, op, digest, b"", bodies.write(*self.folder, parts))
        return self.runner.run(work)

    def value(self, op: Op, parts: Sequence[serialize.Buffer], function: Any = None) -> Any:
        outcome = self.outcome(op, parts, function)
        if outcome.status == Status.ERROR:
            raise remote_error(msgspec.msgpack.decode(outcome.data, type=Failure))
        assert outcome.status == Status.OK
        assert 0 < outcome.started <= outcome.finished
        got = (
            serialize.split(outcome.data) if outcome.body is None else bodies.read(outcome.body)
        )
        return serialize.loads(got[0], got[1:])

    def apply(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return self.value(Op.APPLY, serialize.pack_call(args, kwargs), function)

    def do(self, op: Op, obj: Any) -> Any:
        return self.value(op, serialize.pack(obj))

    def failed(
        self, op: Op, parts: Sequence[serialize.Buffer], function: Any = None
    ) -> Failure:
        outcome = self.outcome(op, parts, function)
        assert outcome.status == Status.ERROR
        assert len(outcome.data) < INLINE
        return msgspec.msgpack.decode(outcome.data, type=Failure)

    def apply_failed(self, function: Any, *args: Any) -> Failure:
        return self.failed(Op.APPLY, serialize.pack_call(args, {}), function)


@pytest.fixture
def bench() -> Iterator[Bench]:
    folder = bodies.make_folder()
    yield Bench(folder)
    bodies.remove_folder(folder[0])


@pytest.fixture(autouse=True)
def _keep_builtins() -> Iterator[None]:
    yield
    vars(builtins).pop("_", None)


def test_calls(bench: Bench) -> None:
    assert bench.apply(os.getpid) == os.getpid()
    assert bench.apply(lambda *a, **k: (a, k), 1, b=2) == ((1,), {"b": 2})
    for value in (None, True, 3, 2.5, "x", [1], {"a": (1, {2})}):
        made = bench.apply(lambda x: x, value)
        assert made == value
        assert type(made) is type(value)


class Config:
    rate = 1


class Adder:
    def __init__(self) -> None:
        self.total = 0

    def add(self, n: int) -> int:
        self.total += n
        return self.total


def seen_in_class() -> int:
    return Config.rate


def counted(seen: list[int] = []) -> int:  # noqa: B006 - that is the point
    seen.append(1)
    return len(seen)


@pytest.mark.parametrize(
    "function",
    [Adder().add, counted, functools.partial(Adder().add)],
    ids=["method", "default", "partial"],
)
def test_what_a_task_changes_in_its_function_is_not_seen_by_the_next(
    bench: Bench, function: Any
) -> None:
    changed = user(function) if function is counted else function
    arguments = () if function is counted else (1,)
    assert [bench.apply(changed, *arguments) for _ in range(3)] == [1, 1, 1]


def test_a_class_is_what_it_was_when_the_function_was_sent(bench: Bench) -> None:
    """Also when it was the same before, and another function with it came in between."""
    look = user(seen_in_class)
    look.__globals__["Config"] = config = type("Config", (), {"__module__": "__main__"})
    try:
        found = []
        for rate in (1, 2, 1, 3, 2):
            config.rate = rate  # type: ignore[attr-defined]
            found.append(bench.apply(look))
        assert found == [1, 2, 1, 3, 2]
    finally:
        look.__globals__["Config"] = Config


def test_functions_without_state_are_made_once(bench: Bench) -> None:
    base = 5
    for function in (abs, os.getpid, user(eval("lambda x: x + 1")), lambda x: x + base, int):
        for _ in range(2):
            bench.apply(function, *(() if function is os.getpid else (1,)))
    kept = [found.call for found in bench.runner.functions.values()]
    assert len(kept) == 5 and None not in kept


def test_an_integer_that_is_too_large_for_a_batch_is_a_body(bench: Bench) -> None:
    outcome = bench.outcome(Op.APPLY, serialize.pack_call((4_000_000,), {}), _large)
    assert outcome.body is not None and outcome.data == b""
    assert bench.apply(_large, 4_000_000) == 1 << 4_000_000


def _large(bits: int) -> int:
    return 1 << bits


def test_the_page_tells_what_runs(bench: Bench) -> None:
    seen: list[int] = []
    words = bench.words
    bench.runner.functions[b"peek"] = runner._Function(b"")
    bench.runner.functions[b"peek"].call = lambda: seen.append(words[RUNNING])
    for key in (5, 6):
        bench.runner.run(Work(key, Op.APPLY, b"peek", serialize.NO_ARGS))
    assert seen == [5, 6]
    assert words[SERIAL] == 2


def test_map(bench: Bench) -> None:
    parts = serialize.pack_items([(1, 2), (3, 4)])
    assert bench.value(Op.MAP, parts, lambda a, b: a * b) == [2, 12]
    assert bench.value(Op.MAP, serialize.pack_items([]), len) == []


def test_map_of_one_sequence_needs_no_tuples(bench: Bench) -> None:
    one_sequence = [(1, 2), [3], {4: 5}]
    parts = serialize.pack_items(one_sequence, single=True)
    assert bench.value(Op.MAP, parts, user(eval("lambda x: x"))) == one_sequence
    told = bench.failed(Op.MAP, serialize.pack_items([1, 0], single=True), lambda x: 1 / x)
    assert told.text == "division by zero (item 1 of the chunk)"
    parts = serialize.pack_items([1, 0], single=True, return_exceptions=True)
    good, bad = bench.value(Op.MAP, parts, lambda x: 1 / x)
    assert good == 1.0 and isinstance(bad, Failure)
    bench.do(Op.PUSH, {"a": 5})
    parts = serialize.pack_items([Reference("a"), 1], single=True)
    assert bench.value(Op.MAP, parts, user(eval("lambda x: -x"))) == [-5, -1]
    many = list(range(3000))
    assert bench.value(Op.MAP, serialize.pack_items(many, single=True), abs) == many


def test_map_names_the_item_that_failed(bench: Bench) -> None:
    told = bench.failed(Op.MAP, serialize.pack_items([(1,), (0,), (2,)]), lambda x: 1 / x)
    assert told.name == "ZeroDivisionError"
    assert told.text == "division by zero (item 1 of the chunk)"
    assert "1 / x" in told.traceback
    assert isinstance(remote_error(told), ZeroDivisionError)


def test_map_may_return_exceptions_as_values(bench: Bench) -> None:
    parts = serialize.pack_items([(1,), (0,), (2,)], return_exceptions=True)
    one, two, three = bench.value(Op.MAP, parts, lambda x: 1 / x)
    assert (one, three) == (1.0, 0.5)
    assert isinstance(two, Failure)
    assert isinstance(remote_error(two), ZeroDivisionError)


def test_large_functions_travel_with_their_arguments(bench: Bench) -> None:
    text = "x" * INLINE
    assert bench.value(Op.CALL, serialize.pack_large(lambda n: len(text) + n, (1,), {})) == (
        INLINE + 1
    )
    parts = serialize.pack_large_items(lambda n: text[n], [(0,), (1,)])
    assert bench.value(Op.CALL, parts) == ["x", "x"]


def test_push_pull_clear(bench: Bench) -> None:
    assert bench.do(Op.PUSH, {"a": 1, "b": [2]}) is None
    assert bench.do(Op.PULL, "a") == 1
    assert bench.do(Op.PULL, ["b", "a"]) == [[2], 1]
    with pytest.raises(NameError, match="'c' is not defined"):
        bench.do(Op.PULL, ["a", "c"])
    bench.do(Op.CLEAR, None)
    with pytest.raises(NameError):
        bench.do(Op.PULL, "a")


def test_references(bench: Bench) -> None:
    bench.do(Op.PUSH, {"a": 5, "f": abs})
    r = Reference("a")
    assert bench.apply(lambda *a, **k: (a, k), r, [r, 1], k={"x": r}) == (
        (5, [5, 1]),
        {"k": {"x": 5}},
    )
    assert bench.value(
        Op.MAP, serialize.pack_items([(r,), (1,)]), user(eval("lambda x: -x"))
    ) == [
        -5,
        -1,
    ]
    assert bench.apply(Reference("f"), -3) == 3
    bench.do(Op.PUSH, {"f": lambda x: "new"})
    assert bench.apply(Reference("f"), -3) == "new"
    bench.do(Op.PUSH, {"alias": r})
    assert bench.do(Op.PULL, "alias") == 5
    with pytest.raises(NameError, match="nothing"):
        bench.apply(abs, Reference("nothing"))


# -- execute -------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_ipython(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process there is to be no shell; test_shell.py has one, on an engine."""
    monkeypatch.setattr("ipclusterz.engine.execute.Executor.start_shell", lambda self: None)


def shown(text: str, count: int) -> dict[str, Any]:
    return {"data": {"text/plain": text}, "metadata": {}, "count": count}


def test_execute_returns_its_last_expression(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.do(Op.EXECUTE, ("a = 2\na * 21", False)) == shown("42", 1)
    assert bench.do(Op.EXECUTE, ("a; None", False)) == {"count": 2}
    assert bench.do(Op.EXECUTE, ("a * 21", True)) == {}
    assert bench.do(Op.EXECUTE, ("", False)) == {"count": 3}
    assert bench.do(Op.EXECUTE, ("_ + 1", False)) == shown("43", 4)
    assert capsys.readouterr().out == ""


def test_execute_awaits(bench: Bench) -> None:
    code = "import asyncio\nasync def later(x):\n    await asyncio.sleep(0)\n    return x\n"
    assert bench.do(Op.EXECUTE, (code + "await later(5)", False)) == shown("5", 1)
    assert (
        bench.do(Op.EXECUTE, ("task = asyncio.create_task(later(6))\nawait task", True)) == {}
    )
    assert bench.do(Op.EXECUTE, ("task.result()", False)) == shown("6", 2)
    told = bench.failed(Op.EXECUTE, serialize.pack(("await later(1 / 0)", True)))
    assert told.name == "ZeroDivisionError" and "execute.py" not in told.traceback


def test_types_that_tasks_make_anew_are_not_kept_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(error, "KINDS", 20)
    error._mixed.clear()
    outcome._composites.clear()
    for number in range(50):
        kind = type(f"Error{number}", (ValueError,), {})
        told = remote_error(failure(kind("no")))
        assert isinstance(told, ValueError) and isinstance(told, RemoteError)
        composite("name", [(0, told), (1, told)])
    assert len(error._mixed) <= error.KINDS and len(outcome._composites) <= error.KINDS


def test_tracebacks_may_be_coloured(bench: Bench) -> None:
    told = bench.failed(Op.EXECUTE, serialize.pack(("1 / 0", True, "linux")))
    assert "\x1b[31mZeroDivisionError: division by zero\x1b[0m" in told.traceback
    assert isinstance(remote_error(told), ZeroDivisionError)
    for colors in ("", "nocolor"):
        told = bench.failed(Op.EXECUTE, serialize.pack(("1 / 0", True, colors)))
        assert "\x1b" not in told.traceback and "ZeroDivisionError" in told.traceback


def test_execute_and_functions_share_their_variables(bench: Bench) -> None:
    bench.do(Op.EXECUTE, ("def double(x): return 2 * x\nn = 4", False))
    assert bench.apply(user(eval("lambda: double(n)"))) == 8
    assert bench.apply(user(eval("lambda: n"), n=1)) == 4


def test_what_execute_assigns_is_the_users(bench: Bench) -> None:
    assert bench.apply(user(eval("lambda: n"), n=1)) == 1
    bench.do(Op.EXECUTE, ("n = 1", False))
    assert bench.apply(user(eval("lambda: n"), n=2)) == 1


def test_tracebacks_show_the_executed_lines_and_none_of_ours(bench: Bench) -> None:
    told = bench.failed(Op.EXECUTE, serialize.pack(("def f():\n    return 1 / 0\nf()", False)))
    lines = told.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].startswith('  File "<execute 1>", line 3')
    assert "    return 1 / 0" in lines
    assert "runner.py" not in told.traceback
    assert "execute.py" not in told.traceback
    assert told.engine == 7


def test_syntax_errors_come_with_their_caret(bench: Bench) -> None:
    told = bench.failed(Op.EXECUTE, serialize.pack(("x = 1\ny = = 2", False)))
    assert told.name == "SyntaxError"
    assert told.traceback.splitlines() == [
        '  File "<execute 1>", line 2',
        "    y = = 2",
        "        ^",
        "SyntaxError: invalid syntax",
    ]
    error = remote_error(told)
    assert isinstance(error, SyntaxError)
    # What IPython shows of one.
    assert (error.msg, error.lineno, error.text) == ("invalid syntax", 2, "y = = 2\n")


def test_sources_are_not_kept_for_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ipclusterz.engine.execute._KEPT_SOURCES", 3)
    for _ in range(10):
        bench.do(Op.EXECUTE, ("1", True))
    assert len([name for name in linecache.cache if name.startswith("<execute ")]) <= 3 + 3


# -- failures ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "members"),
    [
        (MemoryError("much"), {}),
        (RecursionError("deep"), {}),
        (FileNotFoundError(2, "no such", "/x"), {"errno": 2, "filename": "/x"}),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "odd"), {"reason": "odd", "end": 1}),
        (ExceptionGroup("g", [ValueError(1), KeyError(2)]), {"message": "g"}),
        (StopIteration(7), {"value": 7}),
        (ImportError("gone", name="n"), {"name": "n"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_types_written_in_c_come_back_with_what_they_hold(
    error: Exception, members: dict[str, Any]
) -> None:
    told = Failure(type(error).__name__, str(error), "Traceback", pickled=pickle.dumps(error))
    made = remote_error(told)
    assert isinstance(made, type(error)) and repr(made.args) == repr(error.args)
    assert {name: getattr(made, name) for name in members} == members
    if isinstance(made, ExceptionGroup):
        assert [type(each) for each in made.exceptions] == [ValueError, KeyError]


def test_exceptions_come_back_as_their_own_type(bench: Bench) -> None:
    told = bench.apply_failed(user(eval("lambda: {}['key']")))
    assert (told.name, told.text) == ("KeyError", "'key'")
    assert isinstance(remote_error(told), KeyError)
    assert "Traceback" in told.traceback
    assert "ipclusterz" not in told.traceback


class Picky(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__("picky")


class Guarded(Exception):
    @property
    def traceback(self) -> str:
        return "its own"


class Frozen(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("frozen")


class Final(Exception):
    def __init_subclass__(cls) -> None:
        raise RuntimeError("no children")


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def throw(error: Any) -> None:
    raise error


def throw_kind(kind: str) -> None:
    if kind == "picky":
        raise Picky(1, 2)
    if kind == "mute":
        raise Mute()
    if kind in ("guarded", "frozen", "final"):
        raise {"guarded": Guarded, "frozen": Frozen, "final": Final}[kind]("as it was")
    if kind == "lock":
        raise ValueError(threading.Lock())
    if kind == "long":
        raise ValueError("x" * 1_000_000)
    if kind == "notes":
        error = ValueError("noted")
        error.add_note("see here")
        raise error
    if kind == "chain":
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer") from inner
    if kind == "deep":
        throw_kind(kind)
    sys.exit(3)


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        ("picky", "Picky", "picky"),
        ("mute", "Mute", "<no text: its __str__ raised RuntimeError>"),
        ("guarded", "Guarded", "as it was"),
        ("frozen", "Frozen", "as it was"),
        ("final", "Final", "as it was"),
        ("lock", "ValueError", "lock"),
        ("long", "ValueError", "bytes left out"),
        ("notes", "ValueError", "noted"),
        ("chain", "ValueError", "outer"),
        ("deep", "RecursionError", "recursion"),
        ("exit", "SystemExit", "3"),
    ],
)
def test_odd_exceptions_still_tell(bench: Bench, kind: str, name: str, text: str) -> None:
    told = bench.apply_failed(throw_kind, kind)
    assert told.name == name
    assert text in told.text
    error = remote_error(told)
    assert name in str(error)
    assert isinstance(error, RemoteError) and not isinstance(error, SystemExit)
    several = composite("x", [(0, error), (1, error)])
    assert isinstance(several, CompositeError) and name in str(several)
    if kind == "notes":
        assert "see here" in told.traceback
    if kind == "chain":
        assert "KeyError: 'inner'" in told.traceback
    assert bench.apply(abs, -1) == 1


def test_what_a_function_remembers_is_kept_for_the_next_task(bench: Bench) -> None:
    draw = functools.lru_cache(user(lambda n: n + os.urandom(8).hex(), os=os))
    first = bench.apply(draw, "a")
    assert bench.apply(draw, "a") == first != bench.apply(draw, "b")


class Demanding(Exception):
    def __init__(self, path: str, *, line: int) -> None:
        super().__init__(f"{path}:{line}")
        self.path, self.line = path, line
        self.held = threading.Lock()


def throw_made(kind: str) -> None:
    if kind == "demanding":
        raise Demanding("data.csv", line=3)
    if kind == "long":
        raise subprocess.CalledProcessError(2, ["make"], output="x" * 100_000)
    if kind == "text":
        raise ValueError("x" * 100_000)
    raise OSError(errno.ENOENT, "no such", "data.csv", None, threading.Lock())


@pytest.mark.parametrize(
    ("kind", "original", "facts"),
    [
        ("demanding", Demanding, {"path": "data.csv", "line": 3, "args": ("data.csv:3",)}),
        ("long", subprocess.CalledProcessError, {"returncode": 2, "cmd": ["make"]}),
        ("text", ValueError, {}),
        ("lock", OSError, {}),
    ],
)
def test_what_cannot_travel_of_an_error_does_not_hide_its_type(
    bench: Bench, kind: str, original: type[Exception], facts: dict[str, Any]
) -> None:
    told = bench.apply_failed(throw_made, kind)
    assert len(told.pickled) < 16 * 1024
    error = remote_error(told)
    assert isinstance(error, original) and isinstance(error, RemoteError)
    assert {name: getattr(error, name) for name in facts} == facts
    assert isinstance(composite("x", [(0, error), (1, error)]), original)


def test_arguments_that_cannot_be_loaded_say_so(bench: Bench) -> None:
    data = serialize.dumps(((1,), {}))[0]
    lost = data.replace(b"K\x01", b"cnowhere_at_all\nthing\n")
    told = bench.failed(Op.APPLY, [lost], abs)
    assert told.name == "ModuleNotFoundError"
    assert told.text == (
        "No module named 'nowhere_at_all' (the arguments could not be loaded on the engine)"
    )


def test_functions_that_cannot_be_loaded_say_so_each_time(bench: Bench) -> None:
    bench.runner.add_function(b"d", b"\x80\x05cnowhere_at_all\nthing\n.")
    for key in (1, 2):
        outcome = bench.runner.run(Work(key, Op.APPLY, b"d", serialize.NO_ARGS))
        told = msgspec.msgpack.decode(outcome.data, type=Failure)
        assert "(the function could not be loaded on the engine)" in told.text
        assert isinstance(remote_error(told), ImportError)


def test_results_that_cannot_be_pickled_name_type_and_function(bench: Bench) -> None:
    def counting() -> Any:
        return {"gen": (i for i in ())}

    told = bench.apply_failed(counting)
    assert told.name == "SerializationError"
    assert "counting: the result['gen'] (generator) cannot be pickled" in told.text
    assert isinstance(remote_error(told), SerializationError)
    bench.do(Op.EXECUTE, ("g = (i for i in ())", True))
    told = bench.failed(Op.PULL, serialize.pack("g"))
    assert told.text.startswith("pull: the result (generator)")


def test_unknown_operations_are_errors(bench: Bench) -> None:
    outcome = bench.runner.run(Work(1, 31, b"", b""))
    assert outcome.status == Status.ERROR
    assert b"does not know operation 31" in outcome.data


def test_a_failure_always_fits_a_batch() -> None:
    class Big(Exception):
        def __str__(self) -> str:
            return "é" * 1_000_000

    told = failure(Big("x" * 1_000_000), 3)
    assert len(msgspec.msgpack.encode(told)) < INLINE


# -- large values --------------------------------------------------------------------------


def test_large_arguments_and_results_are_bodies(bench: Bench) -> None:
    array = numpy.arange(100_000.0)
    outcome = bench.outcome(Op.APPLY, serialize.pack_call((array,), {}), lambda x: x + 1)
    assert outcome.data == b""
    assert outcome.body is not None
    assert sum(outcome.body.sizes) >= INLINE
    got = bodies.read(outcome.body)
    assert numpy.array_equal(serialize.loads(got[0], got[1:]), array + 1)


def test_arguments_may_be_written_to_and_the_senders_copy_stays(bench: Bench) -> None:
    array = numpy.zeros(100_000)
    body = bodies.write(*bench.folder, serialize.pack_call((array,), {}))

    def fill(x: Any) -> float:
        x[:] = 1
        return float(x.sum())

    packed = bench.cache.pack(fill)
    bench.runner.add_function(packed.digest, packed.data)
    for key in (1, 2):
        outcome = bench.runner.run(Work(key, Op.APPLY, packed.digest, b"", body))
        assert serialize.loads(outcome.data) == 100_000.0
    assert not any(bytes(bodies.read(body)[1]))


def test_large_text_is_a_body_too(bench: Bench) -> None:
    assert bench.apply(lambda n: "x" * n, INLINE * 2) == "x" * INLINE * 2


def test_no_room_for_a_result_is_an_error_with_its_size(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        os, "pwrite", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
    )
    told = bench.apply_failed(lambda n: b"x" * n, INLINE)
    assert told.name == "OSError"
    assert "no room for an object of" in told.text


# -- functions -----------------------------------------------------------------------------


def test_old_functions_make_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "FUNCTIONS", 3)
    for i in range(5):
        bench.runner.add_function(bytes([i]), b"")
    assert list(bench.runner.functions) == [bytes([i]) for i in (2, 3, 4)]
    bench.runner.add_function(bytes([2]), b"")


def test_quick_functions_are_known_as_such(bench: Bench) -> None:
    bench.apply(abs, -1)
    assert bench.runner.functions[bench.cache.pack(abs).digest].quick


# -- interruption --------------------------------------------------------------------------


@pytest.fixture
def handled(bench: Bench) -> Iterator[Bench]:
    before = signal.signal(signal.SIGINT, bench.runner.on_interrupt)
    yield bench
    signal.signal(signal.SIGINT, before)


def interrupt_self(bench: Bench, key: int) -> None:
    bench.words[INTERRUPT] = key
    signal.raise_signal(signal.SIGINT)


def local(bench: Bench, function: Any) -> Work:
    """A task for a function of this very process."""
    bench.runner.add_function(b"local", b"")
    bench.runner.functions[b"local"].call = function
    bench.key += 1
    return Work(bench.key, Op.APPLY, b"local", serialize.NO_ARGS)


def test_the_running_task_is_interrupted(handled: Bench) -> None:
    work = local(handled, lambda: interrupt_self(handled, handled.key))
    outcome = handled.runner.run(work)
    told = msgspec.msgpack.decode(outcome.data, type=Failure)
    assert told.name == "KeyboardInterrupt"
    assert handled.words[INTERRUPT] == 0


def test_another_tasks_interrupt_is_ignored(handled: Bench) -> None:
    work = local(handled, lambda: interrupt_self(handled, 1))
    assert handled.runner.run(work).status == Status.OK


def test_a_signal_without_a_task_is_ignored(handled: Bench) -> None:
    signal.raise_signal(signal.SIGINT)
    handled.words[RUNNING] = handled.words[INTERRUPT] = 5
    signal.raise_signal(signal.SIGINT)  # not armed: no user code runs


def test_an_interrupt_that_came_before_the_task_holds(handled: Bench) -> None:
    ran: list[int] = []
    work = local(handled, lambda: ran.append(1))
    handled.words[INTERRUPT] = work.key
    outcome = handled.runner.run(work)
    assert outcome.status == Status.ERROR
    assert b"KeyboardInterrupt" in outcome.data
    assert ran == []


def test_a_task_may_catch_its_interrupt(handled: Bench) -> None:
    def stubborn() -> str:
        try:
            interrupt_self(handled, handled.key)
        except KeyboardInterrupt:
            return "cleaned up"
        return "missed"

    outcome = handled.runner.run(local(handled, stubborn))
    assert serialize.loads(outcome.data) == "cleaned up"


def test_loading_and_pickling_can_be_interrupted_too(handled: Bench) -> None:
    class Slow:
        def __reduce__(self) -> Any:
            interrupt_self(handled, handled.key)
            return (int, ())

    outcome = handled.runner.run(local(handled, Slow))
    assert outcome.status == Status.ERROR
    assert b"KeyboardInterrupt" in outcome.data
