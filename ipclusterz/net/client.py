"""The client's connection: seven sockets, the ledger, and whichever thread drives them.

A call that waits drives the sockets itself (the leader); other waiting calls follow and take
over when it leaves; a thread of ours drives when nobody waits.  That saves two thread
switches a round trip.  Everything that touches sockets or the ledger happens under
``_lock``; submitting does not take it, unless the connection has been quiet and the task can
leave at once from the caller's own thread.

While the main thread drives, Ctrl-C is noted and raised between two turns, never inside one:
an interrupted wait leaves the connection whole.
"""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

import msgspec

from ipclusterz._version import __version__
from ipclusterz.core import message as m
from ipclusterz.core.connector import Connector, candidates
from ipclusterz.core.ledger import Ledger, Sink
from ipclusterz.core.message import Channel, Options, Role
from ipclusterz.engine import bodies, serialize
from ipclusterz.error import (
    AuthenticationError,
    ControllerLost,
    EngineError,
    KernelError,
    TimeoutError,
)
from ipclusterz.net import host, register, sockets
from ipclusterz.net.dial import Dial, Identity
from ipclusterz.net.loop import Loop, monotonic
from ipclusterz.net.register import Registrar
from ipclusterz.net.transfer import Carrier

Notice = Callable[[str], None]

WORK = (Channel.DIRECT, Channel.TASK, Channel.CONTROL)
BURST_SECONDS = 0.0005
"""A submission this long after the one before leaves from the caller's own thread."""

PARK_SECONDS = 0.005
"""How long our own thread stays away after a caller drove the sockets."""

FOLLOW_SECONDS = 0.05
ACK_KEYS = 1000
ACK_SECONDS = 0.05
"""Results are acknowledged with the next task, or when so many or so old."""

GONE_SECONDS = 3.0
"""How long nothing may listen at a controller that cannot come back before we say so."""

# The function underneath: turning numbers into enums and back costs 4 us a call.
_set_handler: Callable[[int, Any], Any] = getattr(signal.signal, "__wrapped__", signal.signal)
_get_handler: Callable[[int], Any] = getattr(signal.getsignal, "__wrapped__", signal.getsignal)
_SIGINT = int(signal.SIGINT)
_COUNTER = (1 << m.COUNTER_BITS) - 1

_msgpack = msgspec.msgpack.Decoder()
_failure = msgspec.msgpack.Decoder(m.Failure)


class Loaded(m.Body):
    """A body that was mapped: its parts live exactly as long as the result does."""

    parts: list[Any] = []  # noqa: RUF012 - msgspec copies a struct's default


class _Collect:
    """A sink that keeps the answers of a control request."""

    def __init__(self) -> None:
        self.results: dict[int, m.Result] = {}

    def deliver(self, key: int, result: m.Result) -> None:
        self.results[key] = result


class Connection:
    """One client's connection to a controller.

    ``timeout`` (seconds) bounds the connecting.  ``notice`` is told, in words for people,
    when the connection is lost or found.  Raises AuthenticationError (the key is not this
    controller's), ControllerLost (nothing listens there) or TimeoutError.
    """

    def __init__(
        self, connector: Connector, *, timeout: float = 10.0, notice: Notice | None = None
    ) -> None:
        self.uuid = uuid.uuid4().hex
        self.engines: dict[int, m.EngineInfo] = {}
        self.engines_version = 0
        self.departed: dict[int, str] = {}
        self.lost: BaseException | None = None
        self.output: Callable[[int, int, int, str], None] = lambda *_: None
        self._notice = notice or (lambda text: None)
        self._connector = connector
        self._hostid = host.boot_id()
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._lock = threading.Lock()
        self._keys = threading.Lock()
        self._progress = threading.Condition(threading.Lock())
        self._followers = 0
        self._drivers = 0
        self._drove_at = 0.0
        self._sent_at = 0.0
        self._woken = False
        self._ack_due = False
        self._parked = False
        self._baton = threading.Semaphore(0)
        self._engine_calls: list[Callable[[], None]] = []
        self._engines_changed = False
        self._answers: dict[int, m.Answer | None] = {}
        self._next_query = 0
        self._closed = False
        self._problem = ("", "")
        self._gone_since = -1.0
        self._ever_up = False
        self._announced = False
        self._pid = os.getpid()
        self._main = threading.main_thread().ident
        self._coming: dict[bytes, tuple[int, m.Result]] = {}
        self._folder, self._proof = bodies.make_folder()
        self._carrier = Carrier(
            self._folder,
            self._proof,
            lambda channel, message: self.ledger.out.append((channel, message)),
            self._brought,
        )
        self.facts: dict[str, Any] = {}
        self.ledger = Ledger()
        self._loop = loop = Loop()
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        loop.add(self._eventfd, self._signalled)
        self._context = sockets.context()
        self._registered: m.Registered | None = None
        self._refused = ""
        self._registrar = Registrar(
            loop,
            self._context,
            connector,
            candidates(connector, Channel.REGISTRATION, self._hostid),
            self._register,
            self._from_hub,
            self._hub_state,
        )
        self._dials = {c: self._dial(c) for c in m.CHANNELS if c != Channel.REGISTRATION}
        self._task_dial = self._dials[Channel.TASK]
        loop.flush.insert(0, self._flush)
        self._thread = threading.Thread(target=self._run, name="ipclusterz-io", daemon=True)
        try:
            self._connect(timeout)
        except BaseException:
            self._release_all()
            raise
        self._thread.start()

    # -- connecting ------------------------------------------------------------------------

    def _dial(self, channel: Channel) -> Dial:
        accepts: dict[int, Any] = {
            Channel.HEARTBEAT: m.Beat,
            Channel.QUERY: m.ToClientQuery,
            Channel.IOPUB: m.Stream,
        }
        handlers: dict[int, Callable[[list[Any]], None]] = {
            Channel.HEARTBEAT: lambda messages: None,
            Channel.QUERY: self._from_query,
            Channel.IOPUB: self._from_iopub,
        }
        work = channel in WORK
        if work:
            handlers[channel] = lambda messages: self._from_work(channel, messages)
        return Dial(
            self._loop,
            self._context,
            channel,
            m.ToClientWork if work else accepts[channel],
            (lambda messages: self._from_work(channel, messages))
            if work
            else handlers[channel],
            on_state=lambda problem: self._channel_state(channel, problem),
            on_renewed=(lambda: self._renew(channel)) if work else None,
            on_unknown=self._unknown,
        )

    def _connect(self, timeout: float) -> None:
        deadline = monotonic() + timeout
        self._registrar.start()
        while not self._complete():
            self._check_start()
            left = deadline - monotonic()
            if left <= 0:
                raise TimeoutError(self._start_problem(timeout))
            self._loop.process([])
            if self._complete():
                break
            self._loop.process(self._loop.wait(self._loop.timeout(left)))
        self._ever_up = True

    def _complete(self) -> bool:
        """Say whether all channels are up and the hub has told which engines there are."""
        up = self._registered is not None and all(d.up for d in self._dials.values())
        return up and self.engines_version > 0

    def _check_start(self) -> None:
        kind, text = self._problem
        where = f"the controller at {self._connector.url}"
        if self._refused:
            raise AuthenticationError(f"{where} refused this client: {self._refused}")
        if kind == register.DENIED:
            raise AuthenticationError(
                f"{where} does not accept this key ({text}): the connector file is of another "
                f"controller or was revoked; copy ipcontroller-client.json again"
            )
        if kind == register.REFUSED:
            raise ControllerLost(
                f"nothing listens for {where} any more ({text}): it has ended, and its "
                f"connector file is stale; start a cluster (ipclusterz start), or remove the "
                f"file (ipclusterz stop)"
            )

    def _start_problem(self, timeout: float) -> str:
        where = f"the controller at {self._connector.url}"
        if self._registered is None:
            text = self._problem[1] or "no answer"
            return f"could not register with {where} within {timeout:g} s: {text}"
        down = [f"{c.name.lower()} ({d.problem})" for c, d in self._dials.items() if not d.up]
        missing = ", ".join(down) or "the list of engines"
        return f"{where} answers, but not on {missing}, within {timeout:g} s"

    def _register(self) -> m.Register:
        known = self._registered
        return m.Register(
            int(Role.CLIENT),
            m.PROTOCOL,
            __version__,
            host.host_name(),
            host.host_id(),
            os.getpid(),
            peer=known.peer if known is not None else b"",
            uuid=self.uuid,
        )

    def _from_hub(self, message: Any) -> None:
        if isinstance(message, m.Refused):
            self._refused = message.text
            if self._ever_up:
                self._give_up(AuthenticationError(f"the controller says: {message.text}"))
        elif isinstance(message, m.Registered):
            self._enter(message)
        elif isinstance(message, m.Shutdown):
            self._give_up(ControllerLost(f"the controller has ended: {message.reason}"))

    def _enter(self, registered: m.Registered) -> None:
        old, self._registered = self._registered, registered
        if old is None:
            self.ledger = Ledger(registered.number)
            self.ledger.claim = self._claim
            self.ledger.piece = self._piece
            self.facts = {
                "cluster_id": registered.cluster_id,
                "url": self._connector.url,
                "location": self._connector.location,
                "number": registered.number,
                "heartbeat": registered.heartbeat,
                "lease": registered.lease,
            }
            self._loop.after(registered.heartbeat, self._beat)
        elif old.number != registered.number:
            text = "the controller was restarted and does not know this client any more"
            self._give_up(ControllerLost(text))
            return
        identity = Identity(registered.peer, registered.session, registered.password)
        for channel, dial in self._dials.items():
            if not dial.up:
                dial.identify(identity, self._addresses(channel, registered))

    def _addresses(self, channel: Channel, registered: m.Registered) -> list[str]:
        """Return the doors of a channel: the hub's word first, then the connector file's."""
        here = self._hostid == self._connector.hostid
        told = [
            a
            for a in registered.addresses[channel]
            if a.startswith("tcp:") or (here and os.path.exists(a[6:]))
        ]
        if not self._registrar.address.startswith("ipc:") and not here:
            told = []  # a tunnel or another route: the hub does not know how we came
        listed = candidates(self._connector, channel, self._hostid)
        return told + [a for a in listed if a not in told]

    def _hub_state(self, kind: str, text: str) -> None:
        self._problem = (kind, text)
        if not self._ever_up:
            return
        if kind == "":
            self._gone_since = -1.0
            if self._announced:
                self._announced = False
                self._notice("connected to the controller again")
            return
        if not self._announced:
            self._announced = True
            self._notice(f"lost the connection to the controller ({text}); trying again")
        if kind == register.DENIED:
            error = "the controller does not accept our key any more: it was replaced"
            self._give_up(AuthenticationError(error))
        elif kind == register.REFUSED and not self._connector.reuse:
            now = monotonic()
            if self._gone_since < 0:
                self._gone_since = now
            elif now - self._gone_since >= GONE_SECONDS:
                self._give_up(
                    ControllerLost(
                        f"the controller at {self._connector.url} is gone: nothing listens "
                        f"there, and it was started without -r, so it cannot come back"
                    )
                )

    def _channel_state(self, channel: Channel, problem: str) -> None:
        """A door closed or opened; the registration's state decides what it means."""

    def _unknown(self) -> None:
        if self._ever_up and self.lost is None:
            self._registrar.start()

    def _beat(self) -> None:
        if not self._closed and self.lost is None:
            self._dials[Channel.HEARTBEAT].send(m.Beat(0))
            self._loop.after(self.facts["heartbeat"], self._beat)

    def _give_up(self, error: KernelError) -> None:
        """The controller is gone for good: everything outstanding ends with that."""
        if self.lost is not None:
            return
        self.lost = error
        if self.engines:
            self.engines = {}
            self._engines_changed = True
            self.engines_version += 1
        self._flush()
        self.ledger.give_up(m.Failure(type(error).__name__, str(error)))

    # -- receiving -------------------------------------------------------------------------

    def _from_work(self, channel: Channel, messages: list[Any]) -> None:
        self.ledger.handle(channel, messages)

    def _from_iopub(self, messages: list[m.Stream]) -> None:
        for s in messages:
            self.output(s.key, s.engine, s.name, s.text)

    def _from_query(self, messages: list[Any]) -> None:
        for message in messages:
            if isinstance(message, m.Engines):
                self._engines(message)
            elif isinstance(message, m.Answer):
                if message.id in self._answers:
                    self._answers[message.id] = message
            elif isinstance(message, m.Shutdown):
                self._give_up(ControllerLost(f"the controller has ended: {message.reason}"))

    def _engines(self, delta: m.Engines) -> None:
        engines = {} if delta.full else dict(self.engines)
        for info in delta.up:
            engines[info.id] = info
        for number, reason in delta.down:
            engines.pop(number, None)
            self.departed[number] = reason
        self.engines = engines
        self.engines_version += 1
        self._engines_changed = True

    def _claim(self, channel: int, result: m.Result) -> bool:
        """Map a result's body before anybody is told, so that its owner may let go of it."""
        body = result.body
        assert body is not None
        if not bodies.here(body):
            self._coming[body.id] = (channel, result)
            self._carrier.bring(channel, result.key, body)
            return False
        self._map(result, body)
        return True

    def _map(self, result: m.Result, body: m.Body) -> None:
        loaded = Loaded(body.id, body.sizes, body.folder, body.proof)
        try:
            loaded.parts = bodies.read(body)
        except OSError as error:
            self._spoil(result, f"cannot be mapped: {error}")
        else:
            result.body = loaded

    def _spoil(self, result: m.Result, why: str) -> None:
        text = f"the result of task {result.key & _COUNTER} {why}"
        result.status = int(m.Status.ERROR)
        result.data = m.encode(m.Failure("SerializationError", text, engine=result.engine))
        result.body = None

    def _brought(self, id: bytes, body: m.Body | None, problem: str) -> None:
        """A result's body came from another host, or did not."""
        channel, result = self._coming.pop(id)
        if body is None:
            self._spoil(result, f"could not be fetched: {problem}")
        else:
            self._map(result, body)
            bodies.remove(body)
        self.ledger.deliver(channel, result)

    def _piece(self, channel: int, message: Any) -> None:
        if isinstance(message, m.Fetch):
            self._carrier.serve(channel, message)
        else:
            self._carrier.came(message)

    def _renew(self, channel: int) -> None:
        self.ledger.renewed(channel)
        self._carrier.renewed(channel)

    # -- sending ---------------------------------------------------------------------------

    def submit(
        self,
        op: int,
        fn: Any,
        parts: list[Any],
        sink: Sink,
        *,
        options: Options | None = None,
    ) -> int:
        """Send a task for whichever engine is free; return its key."""
        body = None
        if len(parts) == 1 and len(parts[0]) <= m.INLINE:
            data = parts[0]
        else:
            data, body = self._payload(parts)
        ledger = self.ledger
        with self._keys:
            key = ledger.reserve()
        self._inbox.append((ledger.submit, (key, op, fn, data, body, options, sink)))
        if not self._woken:
            self._leave()
        return key

    def request(
        self,
        op: int,
        fn: Any,
        parts: list[Any],
        sink: Sink,
        targets: list[int],
        channel: int = Channel.DIRECT,
    ) -> int:
        """Send work to named engines; target ``i`` answers under the returned key + ``i``."""
        data, body = self._payload(parts)
        ledger = self.ledger
        with self._keys:
            key = ledger.reserve(len(targets))
        arguments = (key, int(channel), op, fn, data, body, targets, sink)
        self._inbox.append((ledger.request, arguments))
        if not self._woken:
            self._leave()
        return key

    def _payload(self, parts: list[Any]) -> tuple[bytes, m.Body | None]:
        total = sum(len(part) for part in parts)
        if total <= m.INLINE - 64 * len(parts):
            return serialize.join(parts), None
        return b"", bodies.write(self._folder, self._proof, parts)

    def cancel(self, keys: list[int], direct: bool) -> None:
        """Say that these are no longer wanted; each still ends with an outcome."""
        self._inbox.append((self.ledger.cancel, (keys,)))
        self._leave()

    def _leave(self) -> None:
        """See to it that the inbox is sent: here and now if that is cheap, else by a nudge."""
        if self.lost is not None:
            with self._lock:
                self._flush()
                failure = m.Failure(type(self.lost).__name__, str(self.lost))
                self.ledger.give_up(failure)
            return
        now = monotonic()
        quiet = now - self._sent_at > BURST_SECONDS
        self._sent_at = now
        if quiet and not self._lock.locked():
            with _Guard(self._main):
                if self._lock.acquire(False):
                    try:
                        self._loop.process([])
                    finally:
                        self._lock.release()
                    self._after_turn()
                    return
        self._woken = True
        self._wake()

    def _wake(self) -> None:
        try:
            os.eventfd_write(self._eventfd, 1)
        except OSError:
            return  # closed meanwhile
        if self._parked:
            self._baton.release()

    def _signalled(self) -> None:
        try:
            os.eventfd_read(self._eventfd)
        except BlockingIOError:
            pass

    def _flush(self) -> None:
        """Move what callers left and what the ledger says onto the links."""
        inbox = self._inbox
        if inbox:
            self._woken = False
            pop = inbox.popleft
            while inbox:
                call, arguments = pop()
                call(*arguments)
        ledger = self.ledger
        if ledger.received:
            self._ride(ledger)
        if ledger.out:
            out, ledger.out = ledger.out, []
            dials = self._dials
            for channel, message in out:
                dials[channel].link.put(message)  # type: ignore[index]
        if ledger.dropped:
            dropped, ledger.dropped = ledger.dropped, []
            for body in dropped:
                bodies.remove(body)

    def _ride(self, ledger: Ledger) -> None:
        """Let acknowledgements go with what goes anyway; alone only when many or late."""
        going = {channel for channel, _ in ledger.out}
        for channel, keys in list(ledger.received.items()):
            if channel in going or len(keys) >= ACK_KEYS:
                ledger.acknowledge(channel)
        if ledger.received and not self._ack_due:
            self._ack_due = True
            self._loop.after(ACK_SECONDS, self._acknowledge)

    def _acknowledge(self) -> None:
        self._ack_due = False
        self.ledger.acknowledge()

    # -- driving ---------------------------------------------------------------------------

    def _run(self) -> None:
        """Our own thread: drives while no caller does."""
        loop = self._loop
        timeout = 0.0
        while not self._closed:
            if self._drivers or monotonic() - self._drove_at < PARK_SECONDS:
                timeout = 0.0
                self._parked = True
                if not self._inbox or self._drivers:
                    self._baton.acquire(timeout=PARK_SECONDS)
                self._parked = False
                if self._drivers or not self._inbox:
                    continue
            events = loop.wait(timeout)
            if self._drivers:
                continue
            with self._lock:
                if self._closed:
                    return
                loop.process(events)
                timeout = loop.timeout(1.0)
            self._after_turn()

    def _after_turn(self) -> None:
        """Tell followers and callbacks, with nothing held."""
        if self._followers:
            with self._progress:
                self._progress.notify_all()
        if self._engines_changed:
            self._engines_changed = False
            for call in list(self._engine_calls):
                call()

    def wait(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait, driving the sockets, until ``done()`` or the time is up; return ``done()``.

        Returns early when the controller is lost.  Ctrl-C raises KeyboardInterrupt and
        leaves everything usable.
        """
        deadline = None if timeout is None else monotonic() + timeout
        if done():
            return True
        with _Guard(self._main, self._eventfd) as guard:
            while not done() and self.lost is None and not self._closed:
                left = None if deadline is None else deadline - monotonic()
                if guard.interrupted or (left is not None and left <= 0):
                    break
                if self._lock.acquire(False):
                    self._lead(done, deadline, guard)
                else:
                    self._follow(done, left)
        return done()

    def _lead(self, done: Callable[[], bool], deadline: float | None, guard: _Guard) -> None:
        loop = self._loop
        self._drivers += 1
        try:
            loop.process([])
            while not done() and self.lost is None and not guard.interrupted:
                left = None if deadline is None else deadline - monotonic()
                if left is not None and left <= 0:
                    break
                loop.process(loop.wait(loop.timeout(left)))
                if self._followers or self._engines_changed:
                    break
        finally:
            self._drivers -= 1
            self._drove_at = monotonic()
            self._lock.release()
        self._after_turn()

    def _follow(self, done: Callable[[], bool], left: float | None) -> None:
        limit = FOLLOW_SECONDS if left is None else min(left, FOLLOW_SECONDS)
        with self._progress:
            self._followers += 1
            try:
                if not done() and self._lock.locked():
                    self._progress.wait(limit)
            finally:
                self._followers -= 1

    # -- asking ----------------------------------------------------------------------------

    def control(
        self, op: int, targets: list[int], data: bytes = b"", *, timeout: float | None
    ) -> dict[int, Any]:
        """Ask agents something about their engines; return the answers by engine."""
        if not targets:
            return {}
        sink = _Collect()
        key = self.request(op, None, [data], sink, targets, Channel.CONTROL)
        if not self.wait(lambda: len(sink.results) == len(targets), timeout):
            missing = [e for i, e in enumerate(targets) if key + i not in sink.results]
            if self.lost is not None:
                raise self.lost
            raise TimeoutError(f"no answer about engines {missing} within {timeout} s")
        answers: dict[int, Any] = {}
        for index, engine in enumerate(targets):
            result = sink.results[key + index]
            if result.status != m.Status.OK:
                raise EngineError(_failure.decode(result.data).text)
            answers[engine] = _msgpack.decode(result.data) if result.data else None
        return answers

    def query(self, what: str, arg: Any = None, *, timeout: float | None = 10.0) -> Any:
        """Ask the hub; raises KernelError with its words when it cannot answer."""
        with self._progress:
            self._next_query += 1
            number = self._next_query
            self._answers[number] = None
        question = m.Query(number, what, arg)
        self._inbox.append((self._dials[Channel.QUERY].send, (question,)))
        self._leave()
        try:
            if not self.wait(lambda: self._answers[number] is not None, timeout):
                if self.lost is not None:
                    raise self.lost
                raise TimeoutError(f"the hub did not answer {what!r} within {timeout} s")
            answer = self._answers[number]
            assert answer is not None
        finally:
            del self._answers[number]
        if answer.error:
            raise KernelError(f"the hub cannot answer {what!r}: {answer.error}")
        return answer.value

    def shutdown_controller(self, timeout: float | None) -> None:
        """Ask the controller to end and wait until it does."""
        request = m.Shutdown("asked by a client")
        self._inbox.append((self._dials[Channel.QUERY].send, (request,)))
        self._leave()
        if not self.wait(lambda: self.lost is not None, timeout) and self.lost is None:
            raise TimeoutError(f"the controller did not end within {timeout} s")

    def on_engines(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` after each change of the engines, with nothing held."""
        self._engine_calls.append(callback)

    # -- payloads --------------------------------------------------------------------------

    def load(self, result: m.Result) -> list[Any]:
        """Return a result's parts: the pickle stream, then its out-of-band buffers."""
        if result.body is not None:
            if isinstance(result.body, Loaded):
                return result.body.parts
            return list(bodies.read(result.body))
        return serialize.split(result.data)

    def release(self, result: m.Result) -> None:
        """Let go of a result's body after it was decoded (what was made of it stays)."""
        result.body = None

    # -- ending ----------------------------------------------------------------------------

    def close(self) -> None:
        """Say goodbye and let go of everything; outstanding results are given up."""
        if self._closed:
            return
        if self._pid != os.getpid():
            self._closed = True  # a forked child: the sockets are the parent's
            return
        with self._lock:
            if self._closed:
                return
            self._flush()
            self._registrar.send(m.Goodbye("it was closed"))
            for dial in self._dials.values():
                dial.flush()
            self._closed = True
            self.ledger.give_up(m.Failure("ControllerLost", "this client was closed"))
        self._wake()
        self._baton.release()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(5.0)
        self._release_all()

    def _release_all(self) -> None:
        self._closed = True
        for dial in self._dials.values():
            dial.close(100)
        self._registrar.close(100)
        self._loop.remove(self._eventfd)
        os.close(self._eventfd)
        self._loop.close()
        self._context.term()
        self._carrier.close()
        bodies.remove_folder(self._folder)


class _Guard:
    """Holds Ctrl-C back while the main thread is inside the connection.

    The handler that was set (the default one raises KeyboardInterrupt) runs when the guard
    is left.  In other threads, or where SIGINT is not handled by Python, this does nothing.
    """

    __slots__ = ("_eventfd", "_frame", "_old", "interrupted")

    def __init__(self, main: int | None, eventfd: int = -1) -> None:
        self.interrupted = False
        self._eventfd = eventfd
        self._frame: FrameType | None = None
        self._old: Any = None
        if threading.get_ident() == main:
            old = _get_handler(_SIGINT)
            if callable(old):
                self._old = old

    def __enter__(self) -> _Guard:
        if self._old is not None:
            _set_handler(_SIGINT, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        self._frame = frame
        if self._eventfd >= 0:
            os.eventfd_write(self._eventfd, 1)

    def __exit__(self, *exc: object) -> None:
        if self._old is not None:
            _set_handler(_SIGINT, self._old)
            if self.interrupted:
                self._old(signal.SIGINT, self._frame)
