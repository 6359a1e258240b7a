"""DirectView: named engines, each doing the same work; and their namespaces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import repeat
from typing import TYPE_CHECKING, Any

from ipclusterz.client import partition
from ipclusterz.client import targets as engines_of
from ipclusterz.client.asyncresult import AsyncResult
from ipclusterz.client.group import AsyncMapResult, DirectResult, ExecuteGroup, GroupResult
from ipclusterz.client.loads import of_call
from ipclusterz.client.pickling import Pickling
from ipclusterz.client.saying import ipython
from ipclusterz.client.task import ExecuteResult, TaskResult, name_of
from ipclusterz.client.views import View
from ipclusterz.core.message import Op
from ipclusterz.engine import serialize
from ipclusterz.error import NoEnginesRegistered

if TYPE_CHECKING:
    from ipclusterz.client.client import Client
    from ipclusterz.client.session import Loan, Session
    from ipclusterz.client.views import Send
    from ipclusterz.engine.serialize import PackedFunction


class DirectTask(TaskResult):
    """The result of work on one named engine."""

    _direct = True


class DirectExecute(ExecuteResult):
    """The result of executing code on one named engine."""

    _direct = True


class DirectView(View, Pickling):
    """Engines by id; work sent through it runs on each of them.

    ``targets`` is an id (results are values), a list of ids (results are lists in its
    order) or ``'all'`` (those that are there when work is sent).  Items are the engines'
    variables: ``view['x'] = 1``, ``view['x']``.
    """

    _flag_names = (*View._flag_names, "targets")

    def __init__(self, client: Client, targets: Any = "all", **flags: Any) -> None:
        self.targets = targets
        self._known: tuple[Any, int, list[int], bool] | None = None
        super().__init__(client, **flags)

    def __repr__(self) -> str:
        shown = self.targets
        if isinstance(shown, list) and len(shown) > 8:
            shown = f"[{', '.join(map(str, shown[:8]))}, ... {len(shown)} engines]"
        return f"<{type(self).__name__} {shown}>"

    def __len__(self) -> int:
        return len(self._engines()[0])

    # -- which engines ---------------------------------------------------------------------

    def _engines(self, targets: Any = None) -> tuple[list[int], bool]:
        """Return ids for one call, and whether one engine was asked for by its number."""
        spec = self.targets if targets is None else targets
        connection = self._session.connection
        version = connection.engines_version
        known = self._known
        if known is not None and known[0] is spec and known[1] == version:
            return known[2], known[3]
        there = sorted(connection.engines)
        if targets is None and isinstance(spec, list):
            gone = [number for number in spec if number not in connection.engines]
            if gone:
                raise engines_of.missing(gone, there, connection.departed)
            chosen: int | list[int] = list(spec)
        else:
            chosen = engines_of.choose(spec, there, connection.departed)
        ids = [chosen] if isinstance(chosen, int) else chosen
        if not ids:
            if connection.lost is not None:
                raise connection.lost
            raise NoEnginesRegistered(
                "there is no engine to send to: start some (ipclusterz engines -n 4), then"
                " rc.wait_for_engines()"
                if not there
                else f"these targets name no engine: {spec!r} (there are {len(there)})"
            )
        if targets is None and not isinstance(spec, list):
            self._known = (spec, version, ids, isinstance(chosen, int))
        return ids, isinstance(chosen, int)

    def _addressed(self, targets: Any) -> Iterable[int]:
        return self._engines(targets)[0]

    def _own_targets(self, targets: Any) -> Any:
        return self.targets if targets is None else targets

    # -- sending ---------------------------------------------------------------------------

    def _send(
        self,
        op: Op,
        fn: PackedFunction | None,
        parts: list[Any],
        targets: Any,
        name: str,
        one: type[TaskResult] = DirectTask,
        many: type[GroupResult] = DirectResult,
        loan: Loan | None = None,
    ) -> TaskResult | GroupResult:
        ids, single = self._engines(targets)
        session = self._session
        result: TaskResult | GroupResult
        result = one(session, name) if single else many(session, name, len(ids))
        result._sent_to = ids
        if self.label:
            result._label = self.label
        with _listed(session, result):
            first = session.connection.request(op, fn, parts, result, ids, loan=loan)
        self._past.add(first, len(ids))
        if isinstance(result, TaskResult):
            result._key = first
        else:
            result.sent_as(range(first, first + len(ids)))
        return result

    def _blocking(self, block: bool | None) -> bool:
        return self.block if block is None else block

    def apply_async(self, f: Callable[..., Any], /, *args: Any, **kwargs: Any) -> AsyncResult:
        """Send ``f(*args, **kwargs)`` to each engine; return its AsyncResult at once."""
        op, fn, parts = of_call(self._session.functions.pack, f, args, kwargs)
        return self._send(op, fn, parts, None, name_of(f))

    def _sender(
        self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Send:
        op, fn, parts = of_call(self._session.functions.pack, f, args, kwargs)
        return lambda loan: self._send(op, fn, parts, None, name_of(f), loan=loan)

    def execute(
        self,
        code: str,
        silent: bool = True,
        targets: Any = None,
        block: bool | None = None,
        label: str | None = None,
    ) -> AsyncResult:
        """Execute ``code`` in the engines' namespaces; return its AsyncResult.

        Its values are :class:`ExecuteReply`.  With ``silent=False`` they hold the value of a
        last expression, by MIME type.  Where the engine has IPython, code may be as in a
        notebook: magics, ``!commands``, displays, top-level ``await``.  When blocking, the
        result is finished, and what the code raised is raised, its traceback in
        :attr:`Client.colors`.
        """
        if not isinstance(code, str):
            raise TypeError(f"execute needs code as a str, not {type(code).__name__}")
        parts = serialize.pack((code, silent, *_colors(self.client)))
        result = self._send(
            Op.EXECUTE, None, parts, targets, "execute", DirectExecute, ExecuteGroup
        )
        if isinstance(result, ExecuteResult | ExecuteGroup):
            result._code = code
        if label:
            result._label = label
        if self._blocking(block):
            result.get()
        return result

    def run(
        self,
        filename: str,
        targets: Any = None,
        block: bool | None = None,
        label: str | None = None,
    ) -> AsyncResult:
        """Execute the content of a file of this host: see :meth:`execute`."""
        import tokenize  # knows how Python files declare their encoding; few need it

        with tokenize.open(filename) as file:
            code = file.read()
        return self.execute(code, targets=targets, block=block, label=label)

    def activate(self, suffix: str = "") -> None:
        """Let IPython's ``%px``, ``%%px``, ``%autopx``, ``%pxresult``, ``%pxconfig`` use it.

        ``suffix`` is added to their names, so that several views can have magics.  Warns
        where no IPython runs.
        """
        shell = ipython()
        if shell is None:
            import warnings

            text = "%px and its like need IPython, which does not run here"
            warnings.warn(text, stacklevel=2)
            return
        from ipclusterz.client.magics import register

        register(shell, self, suffix)

    # -- namespaces ------------------------------------------------------------------------

    def push(
        self,
        ns: Mapping[str, Any],
        targets: Any = None,
        block: bool | None = None,
        track: bool | None = None,
    ) -> Any:
        """Set variables on the engines: a result of None from each.

        When blocking, large values for engines on other hosts are read where they are until
        then; other threads must not change them meanwhile.
        """
        if not isinstance(ns, Mapping):
            raise TypeError(f"push needs a dict of names and values, not {type(ns).__name__}")
        for name in ns:
            _check_name(name)
        parts = serialize.pack(dict(ns), "what is pushed")

        def send(loan: Loan | None = None) -> AsyncResult:
            return self._send(Op.PUSH, None, parts, targets, "push", loan=loan)

        return self._await(send, targets) if self._blocking(block) else send()

    def pull(
        self,
        names: str | Sequence[str],
        targets: Any = None,
        block: bool | None = None,
    ) -> Any:
        """Get variables from the engines: the value of a name, a list for several names.

        A name that an engine does not have is a NameError.
        """
        if not isinstance(names, Iterable):
            _check_name(names)
        wanted = names if isinstance(names, str) else list(names)
        for name in [wanted] if isinstance(wanted, str) else wanted:
            _check_name(name)
        result = self._send(Op.PULL, None, serialize.pack(wanted), targets, "pull")
        return result.get() if self._blocking(block) else result

    def update(self, ns: Mapping[str, Any]) -> Any:
        """Set variables, as :meth:`push` does."""
        return self.push(ns, track=self.track)

    def get(self, key_s: str | Sequence[str]) -> Any:
        """Return variables' values, waiting for them."""
        return self.pull(key_s, block=True)

    def __getitem__(self, key: str) -> Any:
        return self.get(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self.push({key: value}, block=True)

    def clear(self, targets: Any = None, block: bool | None = None) -> Any:
        """Empty the engines' namespaces."""
        result = self._send(Op.CLEAR, None, serialize.pack(None), targets, "clear")
        if not self._blocking(block):
            return result
        result.get()
        return None

    # -- modules ---------------------------------------------------------------------------

    def sync_imports(
        self, local: bool = True, quiet: bool = False
    ) -> AbstractContextManager[None]:
        """Return a context manager: what its block imports is imported on the engines too.

        Under the same names, ``as`` included.  With ``local=False`` on the engines only;
        here the names stand for nothing.  ``quiet`` says nothing about it.  Leaving the
        block waits for the engines and raises what importing raised there.
        """
        import sys

        from ipclusterz.client.imports import synchronised  # few import so

        return synchronised(self, sys._getframe(1), local, quiet)

    @property
    def importer(self) -> AbstractContextManager[None]:
        """Short for ``sync_imports(local=True)``."""
        import sys

        from ipclusterz.client.imports import synchronised

        return synchronised(self, sys._getframe(1), True, False)

    # -- sequences -------------------------------------------------------------------------

    def scatter(
        self,
        key: str,
        seq: Iterable[Any],
        dist: str = "b",
        flatten: bool = False,
        targets: Any = None,
        block: bool | None = None,
        track: bool | None = None,
    ) -> Any:
        """Deal a sequence over the engines, as variable ``key``; None when blocking.

        Lists, tuples, arrays (along the first axis), pandas frames and series (by position)
        and scipy sparse matrices (by rows) arrive as their own kind; other iterables as
        lists.  With fewer items than engines the last ones get empty pieces.  ``dist``:
        ``'b'`` contiguous blocks, ``'r'`` round robin.  With ``flatten`` an engine that
        gets one item gets the item itself.
        """
        _check_name(key)
        ids, _ = self._engines(targets)
        pieces = partition.deal(partition.sliceable(seq), len(ids), dist)
        if flatten:
            pieces = [partition.flat(piece) for piece in pieces]
        loads = [serialize.pack({key: piece}, "what is scattered") for piece in pieces]

        def send(loan: Loan | None = None) -> DirectResult:
            result = DirectResult(self._session, "scatter")
            self._send_each(result, Op.PUSH, None, zip(ids, loads, strict=True), loan)
            return result

        if not self._blocking(block):
            return send()
        self._await(send, targets)
        return None

    def gather(
        self, key: str, dist: str = "b", targets: Any = None, block: bool | None = None
    ) -> Any:
        """Collect the pieces of variable ``key`` into one array, frame, matrix or list.

        The inverse of :meth:`scatter` with the same ``dist`` and targets.  Raises
        ValueError for arrays whose shapes do not fit together.
        """
        _check_name(key)
        dist = partition.dist_of(dist)
        ids, _ = self._engines(targets)
        result = AsyncMapResult(
            self._session,
            "gather",
            direct=True,
            join=lambda pieces: partition.join(pieces, dist),
        )
        self._send_each(result, Op.PULL, None, zip(ids, repeat(serialize.pack(key))))
        return result.get() if self._blocking(block) else result

    def send_map(
        self,
        f: Callable[..., Any],
        sequences: Sequence[Any],
        chunksize: int | str | None,
        ordered: bool,
        return_exceptions: bool,
        loan: Loan | None = None,
    ) -> AsyncMapResult:
        """Send a map: one block of items to each engine, none to those without items."""
        ids, _ = self._engines()
        items = list(zip(*sequences, strict=False))
        pieces = [piece for piece in partition.deal(items, len(ids)) if piece]
        op, fn = Op.MAP, self._session.functions.pack(f)
        if fn.large:
            op = Op.CALL
            loads = [
                serialize.pack_large_items(f, piece, return_exceptions=return_exceptions)
                for piece in pieces
            ]
        else:
            loads = [
                serialize.pack_items(piece, return_exceptions=return_exceptions)
                for piece in pieces
            ]
        result = AsyncMapResult(
            self._session,
            name_of(f),
            sizes=[len(piece) for piece in pieces],
            ordered=ordered,
            return_exceptions=return_exceptions,
            direct=True,
        )
        sent = None if op is Op.CALL else fn
        self._send_each(result, op, sent, zip(ids, loads, strict=False), loan)
        return result

    def imap(self, f: Callable[..., Any], *sequences: Any, **kwargs: Any) -> Iterator[Any]:
        """Return an iterator over the map's values, as they come in order."""
        return iter(self.map_async(f, *sequences, **kwargs))

    def piece_count(self, length: int, chunksize: int | None) -> int:
        """Return the number of engines: each gets one piece."""
        return len(self._engines()[0])

    def send_pieces(
        self,
        f: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        join: Callable[[list[Any]], Any],
    ) -> AsyncMapResult:
        """Send the i-th call to the i-th engine, none of empty pieces unless all are."""
        ids, _ = self._engines()
        sent = [pair for pair in zip(ids, calls, strict=False) if any(map(_has_items, pair[1]))]
        # What a function makes of no items, only the function knows.
        sent = sent or list(zip(ids, calls[:1], strict=False))
        packed = [of_call(self._session.functions.pack, f, args, {}) for _, args in sent]
        result = AsyncMapResult(self._session, name_of(f), direct=True, join=join)
        if packed:
            op, fn, _parts = packed[0]
            loads = [(pair[0], load[2]) for pair, load in zip(sent, packed, strict=True)]
            self._send_each(result, op, fn, loads)
        return result

    def _send_each(
        self,
        result: GroupResult,
        op: Op,
        fn: PackedFunction | None,
        loads: Iterable[tuple[int, list[Any]]],
        loan: Loan | None = None,
    ) -> None:
        """Send each engine a load of its own, all for one result."""
        request = self._session.connection.request
        keys: list[int] = []
        if self.label:
            result._label = self.label
        with _listed(self._session, result):
            for engine, parts in loads:
                keys.append(request(op, fn, parts, result, [engine], loan=loan))
                self._past.add(keys[-1])
        result.complete(keys)


@contextmanager
def _listed(session: Session, result: TaskResult | GroupResult) -> Iterator[None]:
    """Have the books list a result from before it is sent; not if that fails."""
    session.live.add(result)
    try:
        yield
    except BaseException:
        session.live.discard(result)
        raise


def _has_items(piece: Any) -> bool:
    return partition.length(piece) > 0


def _colors(client: Client) -> list[str]:
    """Return the colours that tracebacks are to have, as IPython calls them, or nothing."""
    colors = client.colors
    if colors is None:
        colors = getattr(ipython(), "colors", "nocolor")
    colors = str(colors).lower()
    return [] if colors in ("", "nocolor") else [colors]


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a variable's name must be a str, not {type(name).__name__}: {name!r}")
