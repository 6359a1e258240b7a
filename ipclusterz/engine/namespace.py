"""The variables of an engine, and how functions sent to it see them.

Lives here: the user's namespace, and unpickling with it.  May know: cloudpickle's names for
its constructors.  Must not know: messages, descriptors, tasks.

A function from a client's ``__main__`` has the engine's namespace for its globals.  What
the client captured for it is a fallback: it is put there under its name unless the user
has such a variable on the engine.  Fallbacks may replace each other, never a user's
variable.  Functions made in other modules, and sent by value, keep globals of their own.
"""

from __future__ import annotations

import builtins
import io
import pickle
import sys
import types
from collections.abc import Iterable
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

from ipclusterz.engine.custom import DILL, load_dill
from ipclusterz.engine.serialize import plain

Buffer = bytes | bytearray | memoryview

_MARK = b"cloudpickle"
_KEPT = ("__name__", "__doc__", "__package__", "__loader__", "__spec__", "__builtins__")
_CLOUD_MODULES = frozenset({"cloudpickle.cloudpickle", "cloudpickle.cloudpickle_fast"})


class Namespace:
    """The user's variables: the dict of a module that stands as ``__main__``.

    ``shipped`` is the shipment whose fallbacks were applied last; compare with it before
    :meth:`apply` to save the call.
    """

    def __init__(self, name: str = "__main__") -> None:
        self.module = ModuleType(name)
        self.dict: dict[str, Any] = self.module.__dict__
        self.dict["__builtins__"] = builtins
        self.shipped: Shipment | None = None
        self._fallbacks: dict[str, Any] = {}

    def install(self) -> None:
        """Make this the interpreter's ``__main__``."""
        sys.modules["__main__"] = self.module

    def push(self, variables: dict[str, Any]) -> None:
        """Assign variables; they are the user's from now on."""
        self.dict.update(variables)
        self.own(variables)

    def own(self, names: Iterable[str]) -> None:
        """Note that the user assigned ``names``, so that fallbacks leave them alone."""
        if self._fallbacks:
            for name in names:
                self._fallbacks.pop(name, None)

    def own_changed(self) -> None:
        """Note that fallbacks which are no longer there, or others, are the user's."""
        names = self.dict
        kept = self._fallbacks.items()
        self.own([name for name, value in kept if names.get(name) is not value])

    def pull(self, name: str) -> Any:
        """Return a variable; raises NameError when there is none."""
        try:
            return self.dict[name]
        except KeyError:
            raise NameError(f"name {name!r} is not defined", name=name) from None

    def clear(self) -> None:
        """Forget every variable."""
        kept = {name: self.dict[name] for name in _KEPT if name in self.dict}
        self.dict.clear()
        self.dict.update(kept)
        self._fallbacks.clear()
        self.shipped = None

    def apply(self, shipment: Shipment) -> None:
        """Make a shipment's captured globals visible where the user has none of the name."""
        names, fallbacks = self.dict, self._fallbacks
        for name, value in shipment.captured.items():
            if name not in names or (name in fallbacks and names[name] is fallbacks[name]):
                names[name] = fallbacks[name] = value
        self.shipped = shipment

    def loads(self, data: Buffer, buffers: Iterable[Buffer] = ()) -> Any:
        """Unpickle; functions from a client's ``__main__`` get this namespace."""
        if plain(data) or not has_functions(data):
            return pickle.loads(data, buffers=buffers)
        value, shipment = self.receive(data, buffers)
        if shipment is not None:
            self.apply(shipment)
        return value

    def receive(
        self, data: Buffer, buffers: Iterable[Buffer] = ()
    ) -> tuple[Any, Shipment | None]:
        """Unpickle, and return the captured globals instead of applying them (if any)."""
        if not has_functions(data):
            return pickle.loads(data, buffers=buffers), None
        if DILL in bytes(data):
            return load_dill(data, buffers), None
        shipment = Shipment(self.dict)
        value = _Unpickler(data, buffers, shipment).load()
        return value, shipment if shipment.captured else None


class Shipment:
    """The globals that came along with what one pickle holds."""

    __slots__ = ("captured", "names")

    def __init__(self, names: dict[str, Any]) -> None:
        self.names = names
        self.captured: dict[str, Any] = {}

    def make_function(
        self,
        code: CodeType,
        globals: dict[str, Any],
        name: str | None,
        defaults: tuple[Any, ...] | None,
        closure: tuple[CellType, ...] | None,
    ) -> FunctionType:
        """Make a function as its pickle says, in the right globals."""
        if globals.get("__name__") == "__main__":
            globals = self.names
        globals.setdefault("__builtins__", builtins)
        return FunctionType(code, globals, name, defaults, closure)

    def set_state(self, function: FunctionType, state: tuple[dict[str, Any], Any]) -> None:
        """Fill in what a pickle says of a function after making it."""
        attributes, slots = state
        slots = dict(slots)
        function.__dict__.update(attributes)
        captured = slots.pop("__globals__")
        slots.pop("_cloudpickle_submodules", None)  # loading them was their purpose
        if function.__globals__ is self.names:
            self.captured.update(captured)
        else:
            function.__globals__.update(captured)
        for cell, filled in zip(
            function.__closure__ or (), slots.pop("__closure__") or (), strict=False
        ):
            try:
                cell.cell_contents = filled.cell_contents
            except ValueError:  # empty on the client, empty here
                continue
        for name, value in slots.items():
            setattr(function, name, value)


def has_functions(data: Buffer) -> bool:
    """Tell whether a pickle stream may hold functions sent by value."""
    if isinstance(data, memoryview):
        data = bytes(data)  # memoryviews cannot be searched; streams are seldom large
    return _MARK in data or DILL in data


class _Unpickler(pickle.Unpickler):
    """Builds functions by our own means, which also saves importing cloudpickle (27 ms)."""

    def __init__(self, data: Buffer, buffers: Iterable[Buffer], shipment: Shipment) -> None:
        super().__init__(io.BytesIO(data), buffers=buffers)
        self._ours = {
            "_make_function": shipment.make_function,
            "_function_setstate": shipment.set_state,
            "_make_empty_cell": CellType,
            "_make_cell": CellType,
            "_builtin_type": _builtin_type,
            "subimport": _subimport,
        }

    def find_class(self, module: str, name: str, /) -> Any:
        if module in _CLOUD_MODULES:
            found = self._ours.get(name)
            if found is not None:
                return found
        return super().find_class(module, name)


def _builtin_type(name: str) -> type[Any]:
    found: type[Any] = getattr(types, name)
    return found


def _subimport(name: str) -> ModuleType:
    __import__(name)
    return sys.modules[name]
