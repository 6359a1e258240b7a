"""What users say about pickling: serialisers of their own, and dill instead of cloudpickle.

Lives here: the table of registered types and the choice of the pickler for what the C
pickler cannot do.  Both hold for one process.  May know: error.  Must not know: how calls
travel; :mod:`ipclusterz.engine.serialize` asks here.
"""

from __future__ import annotations

import functools
import pickle
from collections import ChainMap
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ipclusterz.engine.fingerprint import by_reference
from ipclusterz.error import SerializationError

T = TypeVar("T")

Reducer = Callable[[Any], tuple[Any, ...]]

DILL = b"dill._dill"
"""What stands in every stream that needs dill to be read."""

table: dict[type, Reducer] = {}
"""How registered types are pickled; read by the picklers of serialize."""

_OURS = 1024  # bytes from which what dumps gives travels beside the stream, uncopied
_PLAIN = (type(None), bool, int, float, str, complex, bytes, tuple, list, dict, set, frozenset)

_pickler = "cloudpickle"
_cloud: Any = None  # cloudpickle's pickler with our table, made when first needed


# -- registered types ----------------------------------------------------------------------


def register_serializer(
    kind: type[T], dumps: Callable[[T], Any], loads: Callable[[Any], T]
) -> None:
    """Have objects of a type sent by functions of yours, in this process and where they go.

    ``dumps(obj)`` gives bytes, a bytes-like object (from 1 KiB sent without a copy; what
    arrives is writable unless it was ``bytes`` below that) or anything that can be pickled;
    ``loads`` makes an equal object of what arrives.  Holds for exactly this type, not for
    its subclasses, wherever such an object stands in what is sent.  Whoever receives one
    has it registered from then on, so results come back the same way;
    ``view.register_serializer`` tells engines beforehand.  Registering again replaces.

    Raises TypeError when ``kind`` is no class, or a built-in one such as list.
    """
    if not isinstance(kind, type) or kind in _PLAIN:
        raise TypeError(f"a class of objects is needed, which {kind!r} is not")
    for name, function in (("dumps", dumps), ("loads", loads)):
        if not callable(function):
            raise TypeError(f"{name} must be a function, not {type(function).__name__}")

    def reduce(obj: T) -> tuple[Any, ...]:
        return _restore, (kind, dumps, loads, _packed(kind, dumps, obj))

    table[kind] = reduce


def unregister_serializer(kind: type) -> None:
    """Undo :func:`register_serializer` in this process; nothing happens if there was none."""
    table.pop(kind, None)


def _packed(kind: type, dumps: Callable[[Any], Any], obj: Any) -> Any:
    try:
        data = dumps(obj)
    except Exception as error:
        raise SerializationError(
            f"the registered serialiser of {kind.__qualname__} failed:"
            f" {type(error).__name__}: {error}"
        ) from error
    if isinstance(data, memoryview) or (
        isinstance(data, bytes | bytearray) and len(data) >= _OURS
    ):
        return pickle.PickleBuffer(data)
    return data


def _restore(
    kind: type, dumps: Callable[[Any], Any], loads: Callable[[Any], Any], data: Any
) -> Any:
    """Make the object of what arrived, and be ready to send such objects back."""
    if kind not in table:
        register_serializer(kind, dumps, loads)
    return loads(data)


# -- functions in objects of the standard library, which cloudpickle does not know -----------


def _reduce_cache(cache: Any) -> str | tuple[Any, ...]:
    if by_reference(cache):
        return str(cache.__reduce__())
    how = cache.cache_parameters()
    return _cache, (cache.__wrapped__, how["maxsize"], how["typed"])


def _cache(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    """Make what ``functools.lru_cache`` makes of a function, empty."""
    return functools.lru_cache(maxsize, typed)(function)


def _reduce_property(cached: functools.cached_property[Any]) -> tuple[Any, ...]:
    return _property, (cached.func, cached.attrname)


def _property(function: Callable[[Any], Any], name: str | None) -> Any:
    made = functools.cached_property(function)
    made.attrname = name  # told to it by the class that it was made in, and by no other
    return made


_DECORATED: dict[type, Any] = {
    functools._lru_cache_wrapper: _reduce_cache,
    functools.cached_property: _reduce_property,
}


# -- which pickler -------------------------------------------------------------------------


def use(name: str) -> None:
    """Pickle functions, and what else the C pickler cannot, by ``cloudpickle`` or ``dill``.

    Raises ImportError when it is not installed here.
    """
    global _pickler
    if name not in ("cloudpickle", "dill"):
        raise ValueError(f"pickler={name!r} must be 'cloudpickle' or 'dill'")
    __import__(name)
    _pickler = name


def quick(sink: Any, callback: Callable[[pickle.PickleBuffer], bool]) -> pickle.Pickler:
    """Return the C pickler, knowing the registered types."""
    made = pickle.Pickler(sink, 5, buffer_callback=callback)
    if table:
        import copyreg

        tables: list[Any] = [table, copyreg.dispatch_table]
        made.dispatch_table = ChainMap(*tables)
    return made


def thorough(sink: Any, callback: Callable[[pickle.PickleBuffer], bool] | None) -> Any:
    """Return the chosen pickler, for whatever the quick one cannot do."""
    global _cloud
    if _pickler == "dill":
        import copyreg

        import dill

        made = dill.Pickler(sink, 5, buffer_callback=callback)
        made.dispatch_table = ChainMap(table, copyreg.dispatch_table)
        return made
    if _cloud is None:
        import cloudpickle  # type: ignore[import-untyped,unused-ignore]

        # A subclass, since C picklers read their class's table when they are made.
        known = ChainMap(table, _DECORATED, cloudpickle.Pickler.dispatch_table)
        _cloud = type("Pickler", (cloudpickle.Pickler,), {"dispatch_table": known})
    return _cloud(sink, 5, callback)


def load_dill(data: Any, buffers: Iterable[Any]) -> Any:
    """Unpickle a stream that dill wrote, or that has its name in it by chance."""
    import io

    try:
        import dill
    except ImportError:
        return pickle.loads(data, buffers=buffers)

    # Ignoring: a class of the sender's __main__ stays what it was there.
    return dill.Unpickler(io.BytesIO(data), buffers=buffers, ignore=True).load()
