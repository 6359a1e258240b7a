"""Whose variables a function sees: the engine's first, what the client captured otherwise."""

from __future__ import annotations

import sys
from typing import Any

import cloudpickle
import pytest

from ipclusterz.engine import serialize
from ipclusterz.engine.namespace import Namespace, has_functions
from ipclusterz.engine.reference import Reference, replace
from ipclusterz.engine.serialize import FunctionCache
from tests.engine.testagent import user


@pytest.fixture
def names() -> Namespace:
    return Namespace()


def ship(names: Namespace, source: str, **captured: Any) -> Any:
    """Send a function of the client's ``__main__``; return what an engine calls."""
    data = FunctionCache().pack(user(eval(source), **captured)).data
    call, shipment = names.receive(data)

    def run(*args: Any) -> Any:
        if shipment is not None and names.shipped is not shipment:
            names.apply(shipment)
        return call(*args)

    return run


def test_captured_globals_are_a_fallback(names: Namespace) -> None:
    run = ship(names, "lambda: a", a=1)
    assert run() == 1
    names.push({"a": 10})
    assert run() == 10


def test_what_the_user_has_wins_from_the_start(names: Namespace) -> None:
    names.push({"a": 10})
    assert ship(names, "lambda: a", a=1)() == 10


def test_fallbacks_replace_each_other_and_come_back(names: Namespace) -> None:
    first = ship(names, "lambda: a", a=1)
    second = ship(names, "lambda: a", a=2)
    assert [first(), second(), first(), second()] == [1, 2, 1, 2]


def test_names_nobody_captured_are_looked_up_on_the_engine(names: Namespace) -> None:
    run = ship(names, "lambda: later")
    with pytest.raises(NameError):
        run()
    names.push({"later": 5})
    assert run() == 5


def test_a_pushed_value_equal_to_a_fallback_is_the_users(names: Namespace) -> None:
    assert ship(names, "lambda: a", a=1)() == 1
    names.push({"a": 1})
    assert ship(names, "lambda: a", a=2)() == 1


def test_functions_may_assign_globals_on_the_engine(names: Namespace) -> None:
    scope: dict[str, Any] = {"__name__": "__main__", "n": 0}
    exec("def count():\n    global n\n    n += 1\n    return n", scope)
    call, shipment = names.receive(FunctionCache().pack(scope["count"]).data)
    names.apply(shipment)  # type: ignore[arg-type]
    assert [call(), call()] == [1, 2]
    other = ship(names, "lambda: n", n=0)
    assert other() == 2  # the function assigned it, so it is the engine's


def test_helpers_and_modules_come_along(names: Namespace) -> None:
    import json

    helper = user(eval("lambda x: x + step"), step=3)
    run = ship(names, "lambda x: json.dumps(helper(x))", helper=helper, json=json)
    assert run(1) == "4"


def test_closures_defaults_and_attributes_survive(names: Namespace) -> None:
    base = 5

    def add(x: int, y: int = 1, *, z: int = 2) -> int:
        """Adds."""
        return base + x + y + z

    add.note = "kept"  # type: ignore[attr-defined]
    made, _ = names.receive(FunctionCache().pack(add).data)
    assert made(1) == 9
    assert made.__doc__ == "Adds."
    assert made.note == "kept"
    assert made.__qualname__ == add.__qualname__
    assert made.__annotations__ == add.__annotations__


def test_recursive_closures(names: Namespace) -> None:
    def outer() -> Any:
        def fact(n: int) -> int:
            return 1 if n == 0 else n * fact(n - 1)

        return fact

    made, _ = names.receive(FunctionCache().pack(outer()).data)
    assert made(5) == 120


def test_an_unbound_closure_variable_stays_unbound(names: Namespace) -> None:
    def outer() -> Any:
        if not outer:
            never = 1
        return lambda: never

    made, _ = names.receive(FunctionCache().pack(outer()).data)
    with pytest.raises(NameError):
        made()


def test_functions_of_other_modules_keep_globals_of_their_own(names: Namespace) -> None:
    scope: dict[str, Any] = {"__name__": "elsewhere", "a": 1}
    function = eval("lambda: a", scope)
    made, shipment = names.receive(FunctionCache().pack(function).data)
    names.push({"a": 10})
    assert shipment is None
    assert made() == 1


def test_functions_among_arguments_see_the_namespace_too(names: Namespace) -> None:
    data = serialize.dumps([user(eval("lambda: a + b"), b=1)])[0]
    names.push({"a": 1})
    (made,) = names.loads(data)
    assert made() == 2


def test_classes_by_value_and_their_methods(names: Namespace) -> None:
    made: Any = type("Made", (), {"__module__": "__main__"})
    made.get = user(eval("lambda self: a"), a=7)
    arrived = names.loads(cloudpickle.dumps(made()))
    assert arrived.get() == 7
    assert names.loads(cloudpickle.dumps(made())).__class__ is arrived.__class__


def test_plain_pickles_do_not_take_the_slow_way() -> None:
    assert not has_functions(serialize.dumps({"a": [1]})[0])
    assert has_functions(memoryview(serialize.dumps(lambda: 1)[0]))


def test_functions_need_no_cloudpickle_on_the_engine() -> None:
    import subprocess

    data = (
        FunctionCache().pack(user(eval("lambda x: (json, x)"), json=sys.modules["json"])).data
    )
    code = (
        "import sys\nfrom ipclusterz.engine.namespace import Namespace\n"
        f"n = Namespace(); f, s = n.receive({data!r}); n.apply(s)\n"
        "assert f(2)[1] == 2 and 'cloudpickle' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_clear_forgets_variables_but_not_what_makes_a_module(names: Namespace) -> None:
    run = ship(names, "lambda: a", a=1)
    run()
    names.push({"b": 2})
    names.clear()
    assert "b" not in names.dict
    assert names.dict["__name__"] == "__main__"
    assert run() == 1


def test_pull_names_what_is_missing(names: Namespace) -> None:
    names.push({"a": None})
    assert names.pull("a") is None
    with pytest.raises(NameError, match="'b' is not defined"):
        names.pull("b")


# -- references ----------------------------------------------------------------------------


def test_references_are_resolved_one_container_deep() -> None:
    space = {"a": 1, "b": [1, 2]}
    r = Reference("a")
    assert replace(r, space) == 1
    assert replace([r, (r,), [(r,)]], space) == [1, (1,), [(r,)]]
    assert replace([r, 2], space) == [1, 2]
    assert replace((r, 2), space) == (1, 2)
    assert replace({"k": r}, space) == {"k": 1}
    assert Reference("b[1] + a").resolve(space) == 3


def test_containers_without_references_are_the_same_objects() -> None:
    for value in ([1], (1,), {"a": 1}, "x"):
        assert replace(value, {}) is value


def test_unknown_references_are_name_errors() -> None:
    with pytest.raises(NameError):
        Reference("nothing").resolve({})
    with pytest.raises(TypeError, match="needs a name"):
        Reference(3)  # type: ignore[arg-type]


def test_references_are_values() -> None:
    assert Reference("a") == Reference("a") != Reference("b")
    assert hash(Reference("a")) == hash(Reference("a"))
    assert repr(Reference("a")) == "<Reference: 'a'>"
    assert serialize.loads(serialize.dumps(Reference("a"))[0]) == Reference("a")
