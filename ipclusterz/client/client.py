"""Client: a connection to a controller, and the engines behind it as a sequence of views.

Finds the controller, holds the session, hands out views, and asks the hub.  How work is
sent and results are kept is the views' and results' business.
"""

from __future__ import annotations

import operator
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import msgspec

from ipclusterz.client import locate, waiting, way
from ipclusterz.client import targets as engines_of
from ipclusterz.client.asyncresult import AsyncResult
from ipclusterz.client.balanced import LoadBalancedView
from ipclusterz.client.daskcluster import Dask
from ipclusterz.client.direct import DirectView
from ipclusterz.client.hubquestions import HubQuestions
from ipclusterz.client.past import Books
from ipclusterz.client.saying import say
from ipclusterz.client.session import Link, Session
from ipclusterz.client.staying import Stays
from ipclusterz.core.message import Op
from ipclusterz.error import AuthenticationError, TimeoutError

if TYPE_CHECKING:
    from ipclusterz.client.broadcast import BroadcastView
    from ipclusterz.client.executor import ViewExecutor
    from ipclusterz.core.connector import Connector
    from ipclusterz.net.tunnel import Tunnel

CONTROL = 10.0
"""Seconds that engines get to answer a control request."""


class Client(Stays, HubQuestions, Books, Dask):
    """A session with a cluster; ``rc[0]``, ``rc[:]``, ``rc[::2]`` are views of its engines.

    ``connection_info`` (or ``url_file``) is the path of a connector file, or its content
    as a dict, or ``ssh://[user@]host[:port]/PROFILE``, which reads the file on that host
    and stores nothing here.  Without it, it is looked for by ``profile`` (default
    ``'default'``) or ``profile_dir``, and ``cluster_id``, below ``ipython_dir`` (default
    ``$IPYTHONDIR`` or ``~/.ipython``).  ``timeout`` is how many seconds connecting may
    take, and as many again for the SSH server; a controller whose job stands in the queue of
    a batch system is waited for as long as it does.  ``cluster`` is the
    :class:`ipclusterz.Cluster` it belongs to, if any.

    ``sshserver`` is ``[user@]host[:port]`` to tunnel through, or several with commas, each
    reached from the one before; None takes the connector's, if the controller is not on
    this host; ``''`` makes no tunnel.  ``sshkey`` is a private key's path, ``password`` is
    given when the server asks for one; ``paramiko=True`` uses paramiko, None OpenSSH where
    there is an ``ssh`` program.  ``context`` and ``debug`` are accepted for compatibility.

    Raises ConnectorError (no file, a damaged or stale one, a controller that cannot be
    reached from here), SSHError, AuthenticationError, ControllerLost,
    ipclusterz.TimeoutError; each says what to do.  Use it in a ``with`` block, or
    ``close()`` it.
    """

    _cannot_travel = (
        "a client belongs to the process that made it: a task that needs one makes its own,"
        " ipclusterz.Client()"
    )
    block: bool = False
    """Whether views made from now on return values rather than AsyncResults."""

    colors: str | None = None
    """Colours of the tracebacks of executed code: an IPython scheme such as ``'linux'``,
    ``'nocolor'`` for plain ones, None for those of the IPython this session runs in, if any."""

    def __init__(
        self,
        connection_info: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        url_or_file: str | os.PathLike[str] | None = None,
        url_file: str | os.PathLike[str] | None = None,
        profile: str | None = None,
        profile_dir: str | None = None,
        ipython_dir: str | None = None,
        cluster_id: str | None = None,
        sshserver: str | None = None,
        sshkey: str | None = None,
        password: str | None = None,
        paramiko: bool | None = None,
        timeout: float = 10.0,
        cluster: Any = None,
        context: Any = None,
        debug: bool = False,
    ) -> None:
        given = [x for x in (connection_info, url_or_file, url_file) if x is not None]
        if len(given) > 1:
            raise TypeError("pass one of connection_info, url_or_file and url_file")
        login = way.Login(sshkey, password, paramiko, timeout)
        if given and str(given[0]).startswith(way.SCHEME):
            origin = str(given[0])
            tunnel: Tunnel | None
            connector, tunnel = way.fetch(origin, cluster_id, login)
        else:
            place = {
                "profile": profile,
                "profile_dir": profile_dir,
                "ipython_dir": ipython_dir,
                "cluster_id": cluster_id,
            }
            try:
                connector, origin = locate.locate(given[0] if given else None, **place)
            except locate.NoClusterFound:
                if given:
                    raise
                from ipclusterz.client import inqueue  # only where there is no controller

                connector, origin = inqueue.await_controller(**place)
            tunnel = way.open_way(connector, origin, sshserver, login)
        connection = _connect(connector, timeout, origin, tunnel)
        self._begin(connection, profile or "default", cluster, origin)

    @classmethod
    def over(cls, connection: Link, cluster: Any = None) -> Client:
        """Make a client of a connection that is there already."""
        self = cls.__new__(cls)
        self._begin(connection, "default", cluster, "")
        return self

    def _begin(self, connection: Link, profile: str, cluster: Any, origin: str) -> None:
        self.session = Session(connection)
        self.profile = profile
        self.cluster = cluster
        self.connection_file = origin
        self.debug = False

    # -- as a sequence of engines ----------------------------------------------------------

    @property
    def ids(self) -> list[int]:
        """The ids of the engines there are now, sorted; ids are never used again."""
        return sorted(self.session.connection.engines)

    def __len__(self) -> int:
        return len(self.session.connection.engines)

    def __bool__(self) -> bool:
        return True  # a client without engines is a client

    def __iter__(self) -> Iterator[DirectView]:
        """Yield a view of each engine."""
        for number in self.ids:
            yield DirectView(self, number)

    def __getitem__(self, key: Any) -> DirectView:
        """Return a view of engines: by id, negative number, slice, or iterable of ids.

        Raises IndexError (NoSuchEngine) for ids that are not there.
        """
        if isinstance(key, str):
            raise TypeError(
                f"rc[{key!r}]: engines are chosen by int, slice or iterable of ints; use"
                " rc.direct_view('all') for whichever there are, view['name'] for variables"
            )
        return DirectView(self, self._choose(key))

    def __repr__(self) -> str:
        if self.session.closed:
            return "<Client: closed>"
        return f"<Client of {len(self)} engines>"

    # -- views -----------------------------------------------------------------------------

    def direct_view(self, targets: Any = "all", **flags: Any) -> DirectView:
        """Return a view of named engines; ``'all'`` is whichever there are at each call."""
        if targets is None or (isinstance(targets, str) and targets == "all"):
            return DirectView(self, "all", **flags)
        return DirectView(self, self._choose(targets), **flags)

    def broadcast_view(
        self, targets: Any = "all", is_coalescing: bool = False, **flags: Any
    ) -> BroadcastView:
        """Return a direct view: see :class:`ipclusterz.BroadcastView`."""
        from ipclusterz.client.broadcast import BroadcastView

        chosen = "all" if targets is None or targets == "all" else self._choose(targets)
        return BroadcastView(self, chosen, is_coalescing=is_coalescing, **flags)

    def load_balanced_view(self, targets: Any = None, **flags: Any) -> LoadBalancedView:
        """Return a view that runs each task on a free engine, of ``targets`` or of all."""
        return LoadBalancedView(self, targets=targets, **flags)

    def executor(self, targets: Any = None) -> ViewExecutor:
        """Return a :class:`concurrent.futures.Executor` over ``targets``, or all engines."""
        return self.load_balanced_view(targets).executor

    def register_joblib_backend(
        self, name: str = "ipclusterz", make_default: bool = False
    ) -> None:
        """Have joblib use all engines: see :meth:`LoadBalancedView.register_joblib_backend`."""
        self.load_balanced_view().register_joblib_backend(name, make_default)

    def activate(self, targets: Any = "all", suffix: str = "") -> DirectView:
        """Return a blocking view of ``targets`` that has IPython's magics, ``%px`` and others.

        See :meth:`DirectView.activate`.
        """
        view = self.direct_view(targets, block=True)
        view.activate(suffix)
        return view

    def _choose(self, spec: Any) -> int | list[int]:
        return engines_of.choose(spec, self.ids, self.session.connection.departed)

    def _view(self, targets: Any) -> DirectView:
        return self.direct_view("all" if targets is None else targets)

    def execute(
        self, code: str, silent: bool = True, targets: Any = "all", block: bool | None = None
    ) -> AsyncResult:
        """Execute code on engines: see :meth:`DirectView.execute`."""
        return self._view(targets).execute(code, silent, block=block)

    def run(
        self, filename: str, targets: Any = "all", block: bool | None = None
    ) -> AsyncResult:
        """Execute a local file on engines: see :meth:`DirectView.run`."""
        return self._view(targets).run(filename, block=block)

    def push(
        self, ns: Mapping[str, Any], targets: Any = "all", block: bool | None = None
    ) -> Any:
        """Set variables on engines: see :meth:`DirectView.push`."""
        return self._view(targets).push(ns, block=block)

    def pull(
        self, names: str | Sequence[str], targets: Any = "all", block: bool | None = None
    ) -> Any:
        """Get variables from engines: see :meth:`DirectView.pull`."""
        return self._view(targets).pull(names, block=block)

    def apply(
        self,
        f: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        targets: Any = "all",
        block: bool | None = None,
    ) -> Any:
        """Call ``f(*args, **kwargs)`` on engines: see :meth:`DirectView.apply`."""
        result = self._view(targets).apply_async(f, *args, **(kwargs or {}))
        return result.get() if (self.block if block is None else block) else result

    def scatter(
        self,
        key: str,
        seq: Iterable[Any],
        dist: str = "b",
        flatten: bool = False,
        targets: Any = "all",
        block: bool | None = None,
    ) -> Any:
        """Deal a sequence over engines: see :meth:`DirectView.scatter`."""
        return self._view(targets).scatter(key, seq, dist, flatten, block=block)

    def gather(
        self, key: str, dist: str = "b", targets: Any = "all", block: bool | None = None
    ) -> Any:
        """Collect a scattered sequence: see :meth:`DirectView.gather`."""
        return self._view(targets).gather(key, dist, block=block)

    def clear(self, targets: Any = None, block: bool | None = None) -> Any:
        """Empty engines' namespaces: an AsyncResult, or None when blocking."""
        return self._view(targets).clear(block=block)

    # -- waiting ---------------------------------------------------------------------------

    def wait(self, jobs: Any = None, timeout: float | None = -1) -> bool:
        """Wait for results; tell whether all are in.

        ``jobs``: an AsyncResult, a message id, or an iterable of them; None: everything
        this client has sent and not got back.  ``timeout`` in seconds; -1: no limit.
        """
        return waiting.results(self.session, jobs, timeout)

    def wait_interactive(
        self, jobs: Any = None, interval: float = 1.0, timeout: float | None = -1.0
    ) -> bool:
        """Wait for results with a progress bar; tell whether all are in."""
        return waiting.results(self.session, jobs, timeout, interval)

    def wait_for_engines(
        self,
        n: int | None = None,
        *,
        timeout: float | None = -1,
        block: bool = True,
        interactive: bool | None = None,
        widget: bool | None = None,
    ) -> Future[None] | None:
        """Wait until there are ``n`` engines (default: the cluster's number, or one).

        ``interactive`` shows a bar.  With ``block=False`` returns a Future at once.  Raises
        ipclusterz.TimeoutError with the number there are, after ``timeout`` seconds.
        """
        if n is None:
            n = getattr(self.cluster, "n", None) or 1
        try:
            n = operator.index(n)
        except TypeError:
            raise TypeError(f"n is {n!r}: it must be a number of engines") from None
        if not block:
            return waiting.engines_future(self.session, n)
        waiting.engines(self.session, n, timeout, interactive, widget)
        return None

    # -- control ---------------------------------------------------------------------------

    def abort(
        self, jobs: Any = None, targets: Any = None, block: bool | None = None
    ) -> Future[None] | None:
        """Give up tasks that have not begun; they end as TaskAborted.

        ``jobs`` as for :meth:`wait`; None: all of this client's, and with ``targets`` all
        that wait at these engines.  Returns a Future that is done, or None when blocking.
        """
        if jobs is None and targets is not None:
            self._control(Op.ABORT, targets)
        else:
            for direct in (False, True):
                keys = [
                    key
                    for sink in waiting.open_sinks(self.session, jobs)
                    if getattr(sink, "_direct", False) is direct
                    for key in sink.task_keys()
                ]
                if keys:
                    self.session.connection.cancel(keys, direct)
        return self._answer(block)

    def send_signal(
        self, sig: int | str, targets: Any = None, block: bool | None = None
    ) -> Future[None] | None:
        """Send a signal, a number or a name, to engines' processes (default: all of them).

        SIGINT interrupts the task that an engine runs, as KeyboardInterrupt in its code; an
        engine without one takes no notice.
        """
        number = _signal(sig)
        if number == signal.SIGINT:
            # As an interrupt of tasks: a plain signal could hit the protocol instead.
            self._control(Op.INTERRUPT, targets)
        else:
            self._control(Op.SIGNAL, targets, msgspec.msgpack.encode(number))
        return self._answer(block)

    def shutdown(
        self,
        targets: Any = "all",
        restart: bool = False,
        hub: bool = False,
        block: bool | None = None,
    ) -> Future[None] | None:
        """End engines, or with ``hub=True`` the controller and with it everything.

        An engine ends after the task it runs.  ``restart`` is not possible yet: stop and
        start them with ``ipclusterz engines``.
        """
        if restart:
            raise NotImplementedError(
                "engines cannot be restarted from a client yet: shutdown() them and start new"
                " ones with: ipclusterz engines -n K"
            )
        if hub:
            self.session.connection.shutdown_controller(CONTROL)
        else:
            self._control(Op.STOP, targets)
        return self._answer(block)

    def queue_status(self, targets: Any = "all", verbose: bool = False) -> dict[Any, Any]:
        """Return what waits: ``{'unassigned': n, id: {'queue', 'completed', 'tasks'}}``.

        ``queue`` counts direct work and ``tasks`` load-balanced work at an engine,
        ``completed`` both.  ``verbose`` is accepted; message ids are not kept yet.
        """
        spec = "all" if targets is None else targets
        chosen = self._choose(spec)
        ids = [chosen] if isinstance(chosen, int) else chosen
        counts = self.session.connection.query("queue_status", ids)
        found: dict[Any, Any] = {"unassigned": counts["unassigned"]}
        for number in ids:
            if str(number) in counts:  # keys are text on the wire
                found[number] = counts[str(number)]
        return found

    def _control(self, op: Op, targets: Any, data: bytes = b"") -> dict[int, Any]:
        chosen = self._choose(targets)
        ids = [chosen] if isinstance(chosen, int) else chosen
        if not ids:
            return {}
        return self.session.connection.control(op, ids, data, timeout=CONTROL)

    def _answer(self, block: bool | None) -> Future[None] | None:
        if self.block if block is None else block:
            return None
        made: Future[None] = Future()
        made.set_result(None)
        return made

    # -- the end ---------------------------------------------------------------------------

    def close(self, linger: float | None = None) -> None:
        """Close the connection; tasks that were sent run on, their results are lost here."""
        self._end_dask()
        self.session.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        import asyncio  # whoever awaits has it

        await asyncio.to_thread(self.close)


def _connect(connector: Connector, timeout: float, origin: str, tunnel: Tunnel | None) -> Link:
    # Sockets and sealing take 60 ms to import, which a Client that finds no file to connect
    # with should not make its user wait for.
    from ipclusterz.net.client import Connection

    started = time.monotonic()
    try:
        return Connection(connector, timeout=timeout, notice=say, tunnel=tunnel)
    except AuthenticationError as error:
        raise AuthenticationError(f"{origin}: {error}") from None
    except TimeoutError as error:
        raise TimeoutError(
            f"{error} (gave up after {time.monotonic() - started:.1f} s; Client(timeout=...)"
            " allows more)"
        ) from None


def _signal(sig: int | str) -> int:
    """Return the number of a signal; ValueError for what is none."""
    try:
        if isinstance(sig, str):
            return int(signal.Signals[sig if sig.startswith("SIG") else f"SIG{sig}"])
        if sig == 0 or sig in signal.valid_signals():
            return int(sig)
    except (KeyError, TypeError):
        pass
    raise ValueError(f"{sig!r} is no signal; one is named as in signal.SIGTERM or 'SIGTERM'")
