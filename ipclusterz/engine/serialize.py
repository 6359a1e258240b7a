"""How Python objects become bytes and back, for clients and engines alike.

Lives here: pickling with out-of-band buffers, the framing of small payloads, packing of
calls and of functions.  May know: error, :class:`~ipclusterz.core.message.Body`'s limit.
Must not know: sockets, tasks, the engine's namespace.

An object is pickled by the C pickler and protocol 5; only what that cannot do (functions
and classes of ``__main__``, lambdas, closures) is done again by cloudpickle, which is
imported when it is first needed (27 ms).
"""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

from ipclusterz.core.message import INLINE
from ipclusterz.engine import custom
from ipclusterz.engine.fingerprint import Fingerprint, by_reference, by_value_registered
from ipclusterz.engine.reference import Reference
from ipclusterz.error import SerializationError

Buffer = bytes | bytearray | memoryview

TINY = 24
"""Bytes of a pickle that is no more than a few numbers: nothing of ours or of others that
needs care has a name so short."""

LARGE = 1 << 20
"""Streams of this many bytes are not made into one block: they go as :class:`Pieces`."""

SMALL = 1024
"""Buffers below this many bytes stay inside the pickle stream."""

NO_ARGS = pickle.dumps(((), {}), 5)
"""What :func:`pack_call` makes of a call without arguments; known to engines by heart."""

NONE = pickle.dumps(None, 5)

FEW = 64
"""Values up to this many are looked at one by one, whether the C pickler alone is enough."""

FUNCTIONS = 4096
"""How many functions a :class:`FunctionCache` remembers; recursive ones only go this way."""

_PLAIN_END = b"\0plain\0"  # after a stream's last opcode, where unpicklers do not look
_FRAME = 1 << 17  # no frame of a pickle stream is longer; longer pieces are the user's data
_PICKLE = 0x80  # the first byte of every pickle stream since protocol 2
_PICKLED = bytes((_PICKLE,))
_FRAMED = b"\x01"
_ALIGN = 16
_DILL = custom.DILL
_NO_KWARGS: dict[str, Any] = {}
_PLAIN = frozenset({type(None), bool, int, float, str, complex})


# -- objects -------------------------------------------------------------------------------


class Pieces:
    """A large pickle stream as the pickler wrote it: long bytes in it were not copied.

    Its length is that of the whole, in bytes.
    """

    __slots__ = ("_size", "pieces")

    def __init__(self, pieces: list[Any], size: int) -> None:
        self.pieces = pieces
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces)


Part = Buffer | Pieces


class _Sink(list[Any]):
    """A file for the pickler, which hands long buffers to a file as they are."""

    write = list.append

    def found(self, *words: bytes) -> bool:
        """Tell whether one of the words is in what the pickler itself wrote."""
        written = [piece for piece in self if type(piece) is bytes and len(piece) < _FRAME]
        return any(word in piece for piece in written for word in words)

    def stream(self) -> bytes | Pieces:
        """Return what was written, in one block unless that would copy much."""
        if len(self) == 1:
            return bytes(self[0])
        size = sum(memoryview(piece).nbytes for piece in self)
        if size < LARGE:
            return b"".join(self)
        if not self.found(b"cloudpickle", b"Reference", custom.DILL):
            self.append(_PLAIN_END)
            size += len(_PLAIN_END)
        return Pieces(self, size)


def plain(data: Buffer) -> bool:
    """Tell whether a large stream is known to hold no functions and no references.

    Its sender saw to that without reading all of it, which we could not.
    """
    return len(data) >= LARGE and bytes(data[-len(_PLAIN_END) :]) == _PLAIN_END


def dumps(obj: Any, what: str = "the object") -> tuple[bytes | Pieces, list[memoryview]]:
    """Pickle ``obj``: the stream, and its buffers of at least 1 KiB, which are not copied.

    The buffers look into the object's own memory.  Raises SerializationError, which calls
    the object ``what`` and names the part that cannot be pickled.
    """
    if is_plain(obj):
        stream = pickle.dumps(obj, 5)
        if len(stream) < LARGE:
            return stream, []
    buffers: list[memoryview] = []
    try:
        sink = _Sink()
        custom.quick(sink, _collector(buffers)).dump(obj)
        if not sink.found(b"__main__") and not by_value_registered():
            return sink.stream(), buffers
    except Exception:
        pass
    buffers.clear()
    try:
        return _cloud_stream(obj, buffers), buffers
    except Exception as error:
        raise SerializationError(_explain(obj, what, error)) from error


def is_plain(obj: Any) -> bool:
    """Tell whether ``obj`` is a number, a text or None, or a few of these in a row.

    For such the C pickler alone is right, at a tenth of the cost.
    """
    kind = type(obj)
    if kind is tuple or kind is list:
        return len(obj) <= FEW and _PLAIN.issuperset(map(type, obj))
    return kind in _PLAIN


def loads(data: Buffer, buffers: Iterable[Buffer] = ()) -> Any:
    """Return the object that :func:`dumps` pickled; raises what unpickling raises."""
    if not plain(data) and custom.DILL in bytes(data):
        return custom.load_dill(data, buffers)
    return pickle.loads(data, buffers=buffers)


def pack(obj: Any, what: str = "the object") -> list[Part]:
    """Pickle ``obj`` into parts: the stream first, then its buffers."""
    stream, buffers = dumps(obj, what)
    return [stream, *buffers]


def _collector(buffers: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    def collect(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < SMALL:
            return True  # keep it in the stream
        buffers.append(raw)
        return False

    return collect


def _cloud_dumps(obj: Any) -> bytes:
    return bytes(_cloud_stream(obj, None))


def _cloud_stream(obj: Any, buffers: list[memoryview] | None) -> bytes | Pieces:
    callback = None if buffers is None else _collector(buffers)
    sink = _Sink()
    custom.thorough(sink, callback).dump(obj)
    return sink.stream()


def _explain(obj: Any, what: str, error: Exception) -> str:
    path, culprit = _culprit(obj, 4)
    kind = type(culprit)
    name = (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else (f"{kind.__module__}.{kind.__qualname__}")
    )
    return f"{what}{path} ({name}) cannot be pickled: {_reason(error)}"


def _reason(error: Exception) -> str:
    said = isinstance(error, TypeError | pickle.PicklingError | SerializationError)
    return f"{error}" if said else repr(error)


def _culprit(obj: Any, depth: int) -> tuple[str, Any]:
    """Find the innermost part of ``obj`` that cannot be pickled, and the path to it."""
    if depth == 0:
        return "", obj
    for path, part in _parts_of(obj):
        try:
            _cloud_stream(part, [])
        except Exception:
            deeper, found = _culprit(part, depth - 1)
            return path + deeper, found
    return "", obj


def _parts_of(obj: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(obj, dict):
        return [(f"[{key!r:.40}]", value) for key, value in obj.items()]
    if isinstance(obj, list | tuple | set | frozenset):
        return [(f"[{i}]", value) for i, value in enumerate(obj)]
    attributes = getattr(obj, "__dict__", None)
    if type(obj) in custom.table or hasattr(type(obj), "_cannot_travel"):
        return []  # its serialiser, or it itself, has said what is wrong
    if isinstance(attributes, dict) and not isinstance(obj, type):
        return [(f".{name}", value) for name, value in attributes.items()]
    return []


# -- small payloads ------------------------------------------------------------------------


def join(parts: Sequence[Part]) -> bytes:
    """Make one payload of a stream and its buffers; a stream alone is left as it is.

    For small ones: all is copied.
    """
    if len(parts) == 1:
        return bytes(parts[0])
    pieces: list[Any] = [_FRAMED, len(parts).to_bytes(3, "little")]
    pieces.extend(len(part).to_bytes(4, "little") for part in parts)
    at = 4 + 4 * len(parts)
    for part in parts:
        gap = -at % _ALIGN
        pieces.append(bytes(gap))
        pieces.append(part)
        at += gap + len(part)
    return b"".join(pieces)


def is_small(data: bytes) -> bool:
    """Tell whether a payload is one short pickle that needs nothing of :func:`loads`."""
    return data[:1] == _PICKLED and len(data) < LARGE and _DILL not in data


def is_simple(data: bytes) -> bool:
    """Tell whether, besides, it has nothing that means something else on an engine."""
    if len(data) <= TINY:
        return data[:1] == _PICKLED
    return (
        data[:1] == _PICKLED
        and len(data) < LARGE
        and _DILL not in data
        and b"cloudpickle" not in data
        and b"Reference" not in data
    )


def split(data: Buffer) -> list[Buffer]:
    """Undo :func:`join`; the buffers are writable copies, aligned for numpy.

    Raises SerializationError when the payload is damaged.
    """
    if len(data) and data[0] == _PICKLE:
        return [data]
    if data[:1] != _FRAMED:
        raise SerializationError(f"a payload of {len(data)} bytes is neither pickle nor frame")
    whole = memoryview(bytearray(data))
    count = int.from_bytes(whole[1:4], "little")
    at = 4 + 4 * count
    parts: list[Buffer] = []
    for i in range(count):
        size = int.from_bytes(whole[4 + 4 * i : 8 + 4 * i], "little")
        at += -at % _ALIGN
        parts.append(whole[at : at + size])
        at += size
    if count == 0 or at != len(data):
        raise SerializationError(f"a payload of {len(data)} bytes is cut short or damaged")
    return parts


def one_block(obj: Any) -> bytes:
    """Pickle ``obj`` into one stream, buffers and all."""
    return _cloud_dumps(obj)


def total(parts: Sequence[Part]) -> int:
    """Return the bytes of all parts together: what is compared with ``INLINE``."""
    return sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)


# -- calls ---------------------------------------------------------------------------------


def pack_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Part]:
    """Pickle the arguments of a call into parts (Op.APPLY)."""
    if not kwargs:
        if not args:
            return [NO_ARGS]
        if len(args) <= FEW and _PLAIN.issuperset(map(type, args)):
            data = pickle.dumps((args, _NO_KWARGS), 5)
            if len(data) < LARGE:
                return [data]
    try:
        return pack((args, kwargs))
    except SerializationError:
        _blame(args, kwargs)
        raise


def pack_items(
    items: Sequence[Any], *, single: bool = False, return_exceptions: bool = False
) -> list[Part]:
    """Pickle a chunk of argument tuples into parts (Op.MAP); if ``single``, of arguments.

    With ``return_exceptions`` an item that fails gives a
    :class:`~ipclusterz.core.message.Failure` in its place of the list of values; otherwise
    the first failure is the whole chunk's.
    """
    flags = {"return_exceptions": True} if return_exceptions else {}
    if single:
        flags["single"] = True
    values = items if single else chain.from_iterable(items)
    if len(items) <= FEW and _PLAIN.issuperset(map(type, values)):
        data = pickle.dumps((list(items), flags), 5)
        if len(data) < LARGE:
            return [data]
    try:
        return pack((list(items), flags))
    except SerializationError:
        for i, item in enumerate(items):
            pack(item, f"item {i}")
        raise


def pack_large(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Part]:
    """Pickle function and arguments together (Op.CALL): for functions too large to cache."""
    try:
        return pack((function, args, kwargs))
    except SerializationError:
        try:
            pack(function)
        except SerializationError as error:
            raise SerializationError(_explain_function(function, error)) from error
        _blame(args, kwargs)
        raise


def pack_large_items(
    function: Callable[..., Any],
    items: Sequence[tuple[Any, ...]],
    *,
    return_exceptions: bool = False,
) -> list[Part]:
    """The same as :func:`pack_items` for a function too large to cache (Op.CALL)."""
    from ipclusterz.engine.runner import map_items  # only engines need it otherwise

    return pack_large(map_items, (function, list(items), return_exceptions), {})


def _blame(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise SerializationError for the first argument that cannot be pickled."""
    for i, value in enumerate(args):
        pack(value, f"argument {i}")
    for name, value in kwargs.items():
        pack(value, f"argument {name!r}")


# -- functions -----------------------------------------------------------------------------


class PackedFunction:
    """A pickled function and the 16-byte digest by which it is known everywhere.

    ``large`` says that it does not fit a batch and must travel with its arguments
    (:func:`pack_large`).
    """

    __slots__ = ("data", "digest", "large")

    def __init__(self, digest: bytes, data: bytes) -> None:
        self.digest = digest
        self.data = data
        self.large = len(data) >= INLINE

    def __repr__(self) -> str:
        return f"<PackedFunction {self.digest.hex()[:8]} of {len(self.data)} bytes>"


class _Entry:
    __slots__ = ("by_value", "fingerprint", "function", "packed")

    def __init__(
        self,
        function: weakref.ref[Any],
        packed: PackedFunction,
        fingerprint: Fingerprint | None,
        by_value: frozenset[str],
    ) -> None:
        self.function = function
        self.packed = packed
        self.fingerprint = fingerprint
        self.by_value = by_value


class FunctionCache:
    """Packs functions, each once for as long as what its pickle captured stays the same.

    A function that can be imported elsewhere is pickled by name, once.  Others are pickled
    by value; the pickle is used again only while a cheap comparison shows that code,
    defaults, closure and the globals it uses are what they were.  Where that cannot be
    known (a global list, say), it is pickled anew each time, so that a change is seen.
    All are pickled anew when the modules change that cloudpickle was told to pickle by value.
    """

    def __init__(self) -> None:
        from hashlib import blake2b  # loads OpenSSL: engines must not pay 4 MB for it

        self._hash = blake2b
        self._entries: dict[int, _Entry] = {}
        self._last = PackedFunction(b"", b"")

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Forget all: another pickler was chosen."""
        self._entries.clear()

    def pack(self, function: Callable[..., Any]) -> PackedFunction:
        """Return ``function`` pickled, with its digest.

        Raises SerializationError naming the function and the part that cannot be pickled,
        TypeError when it cannot be called.
        """
        entry = self._entries.get(id(function))
        if (
            entry is not None
            and entry.function() is function
            and entry.by_value == by_value_registered()
        ):
            fingerprint = entry.fingerprint
            if fingerprint is None or fingerprint.holds(function):
                return entry.packed
        return self._pack(function)

    def _pack(self, function: Callable[..., Any]) -> PackedFunction:
        if not callable(function) and not isinstance(function, Reference):
            raise TypeError(f"a function is needed, not {type(function).__name__}")
        by_value = frozenset(by_value_registered())  # before pickling, as below
        named = by_reference(function)
        if named:
            data, fingerprint = pickle.dumps(function, 5), None
        else:
            fingerprint = Fingerprint.of(function)  # before pickling: a change between is seen
            data = self._by_value(function)
        packed = self._last
        digest = self._hash(data, digest_size=16).digest()
        if packed.digest != digest or packed.data != data:
            packed = self._last = PackedFunction(digest, data)
        if named or fingerprint is not None:
            self._remember(function, packed, fingerprint, by_value)
        return packed

    def _by_value(self, function: Callable[..., Any]) -> bytes:
        try:
            stream, buffers = dumps(function)
            if not buffers and isinstance(stream, bytes):
                return stream
            return one_block(function)  # a function is one block: buffers go in-band
        except Exception as error:
            raise SerializationError(_explain_function(function, error)) from error

    def _remember(
        self,
        function: Any,
        packed: PackedFunction,
        fingerprint: Fingerprint | None,
        by_value: frozenset[str],
    ) -> None:
        number = id(function)
        entries = self._entries

        def forget(dead: weakref.ref[Any]) -> None:
            entry = entries.get(number)
            if entry is not None and entry.function is dead:
                del entries[number]

        try:
            reference = weakref.ref(function, forget)
        except TypeError:  # some callables cannot be watched; they are pickled each time
            return
        if len(entries) >= FUNCTIONS:
            del entries[next(iter(entries))]
        entries[number] = _Entry(reference, packed, fingerprint, by_value)


def _explain_function(function: Any, error: Exception) -> str:
    """Say which captured variable keeps a function from being pickled."""
    what = f"the function {_name(function)}"
    for kind, name, value in _captured(function):
        try:
            _cloud_dumps(value)
        except Exception as reason:
            return (
                f"{what} cannot be pickled: {_explain(value, f'its {kind} {name!r}', reason)}"
            )
    if isinstance(error, SerializationError):
        error = error.__cause__ if isinstance(error.__cause__, Exception) else error
    return f"{what} ({type(function).__name__}) cannot be pickled: {_reason(error)}"


def _captured(function: Any) -> Iterable[tuple[str, str, Any]]:
    code = getattr(function, "__code__", None)
    if code is None:
        return
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield "closure variable", name, cell.cell_contents
        except ValueError:  # an empty cell
            continue
    for name in code.co_names:
        if name in function.__globals__:
            yield "global variable", name, function.__globals__[name]
    for name, value in zip(
        reversed(code.co_varnames[: code.co_argcount]),
        reversed(function.__defaults__ or ()),
        strict=False,
    ):
        yield "default of", name, value


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
