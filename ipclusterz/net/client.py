"""The client's connection: seven sockets, the ledger, and what keeps them together.

Public methods may be called by any thread.  What they want done they leave in the driver's
inbox (:mod:`ipclusterz.net.drive`); everything else here happens in its turns.
"""

from __future__ import annotations

import os
import threading
import uuid
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from ipclusterz._version import __version__
from ipclusterz.core import message as m
from ipclusterz.core.connector import Connector
from ipclusterz.core.ledger import Ledger, Sink, task
from ipclusterz.core.message import Channel, Options, Role
from ipclusterz.error import (
    AuthenticationError,
    ControllerLost,
    EngineError,
    KernelError,
    SSHError,
    TimeoutError,
)
from ipclusterz.net import host, sockets
from ipclusterz.net.dial import Dial, Identity
from ipclusterz.net.drive import Driver
from ipclusterz.net.lent import Loan
from ipclusterz.net.loop import Loop, monotonic
from ipclusterz.net.payload import Payloads
from ipclusterz.net.register import Registrar
from ipclusterz.net.route import DENIED, ENDED, REFUSED, Route, Tunnel

Load = tuple[int, Any, list[Any]]
"""A task: the operation, the function that is sent apart if any, and the payload's parts."""

Notice = Callable[[str], None]

WORK = (Channel.DIRECT, Channel.TASK, Channel.CONTROL)
ACK_KEYS = 1000
ACK_SECONDS = 0.05
"""Results are acknowledged with the next task, or when so many or so old."""

NOTICE_SECONDS = 0.5
"""How long a lost connection is nobody's business: it may be back, or the cluster stopped."""

HAND_OVER_SECONDS = 2.0
"""How long closing waits for schedulers to take over tasks that have not ended."""

GONE_SECONDS = 3.0
"""How long nothing may listen at a controller that cannot come back before we say so."""

_msgpack = msgspec.msgpack.Decoder()
_msgpack_encode = msgspec.msgpack.encode
_failure = msgspec.msgpack.Decoder(m.Failure)


def _plainly(what: str, arg: Any) -> Any:
    """Return a question's argument as it will be read; TypeError for what cannot be sent.

    Other lists, and numbers of NumPy, are taken for what they are like.
    """
    if arg is None:
        return None
    try:
        return _msgpack.decode(_msgpack_encode(arg, enc_hook=_as_plain))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise TypeError(f"{what} cannot be asked with this: {error}") from None


def _as_plain(value: Any) -> Any:
    if isinstance(value, str):
        return str.__str__(value)
    if callable(getattr(value, "item", None)) and getattr(value, "shape", None) == ():
        return value.item()
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"objects of type {type(value).__name__} are not known there")


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
    controller's), ControllerLost (nothing listens there) or TimeoutError.  ``tunnel`` leads
    there, and is closed with the connection.
    """

    def __init__(
        self,
        connector: Connector,
        *,
        timeout: float = 10.0,
        notice: Notice | None = None,
        tunnel: Tunnel | None = None,
    ) -> None:
        self.uuid = uuid.uuid4().hex
        self.engines: dict[int, m.EngineInfo] = {}
        self.engines_version = 0
        self.elsewhere: frozenset[int] = frozenset()
        self.departed: dict[int, str] = {}
        self.lost: BaseException | None = None
        self.output: Callable[[int, int, int, str], None] = lambda *_: None
        self._notice = notice or (lambda text: None)
        self._connector = connector
        self._route = Route(connector, host.loopback_id(), tunnel)
        self._keys = threading.Lock()
        self._ack_due = False
        self._engine_calls: list[Callable[[], None]] = []
        self._answers: dict[int, m.Answer | None] = {}
        self._questions: dict[int, m.Query] = {}  # not answered yet
        self._control_keys: list[range] = []
        self._pieces: dict[int, list[bytes]] = {}
        self._askers: dict[int, Callable[[Any, str], None]] = {}
        self._next_query = 0
        self._closed = False
        self._problem = ("", "")
        self._gone_since = -1.0
        self._ever_up = False
        self._announced = False
        self._lost_since = -1.0
        self._pid = os.getpid()
        self._payloads = Payloads(
            self._send_piece,
            lambda channel, result: self.ledger.deliver(channel, result),
            lambda seconds, act: self._loop.after(seconds, act),
        )
        self.facts: dict[str, Any] = {}
        self.ledger = Ledger()
        self._loop = loop = Loop()
        self._driver = Driver(loop, self._tell_engines, lambda tasks: self.ledger.enter(tasks))
        self._inbox = self._driver.inbox
        self._context = sockets.context()
        self._registered: m.Registered | None = None
        self._refused = ""
        self._registrar = Registrar(
            loop,
            self._context,
            connector,
            self._route.registration(),
            self._register,
            self._from_hub,
            self._hub_state,
        )
        self._dials = {c: self._dial(c) for c in m.CHANNELS if c != Channel.REGISTRATION}
        loop.flush.insert(0, self._flush)
        try:
            self._connect(timeout)
        except BaseException:
            self._release_all()
            raise
        self._driver.start()
        _open.add(self)

    # -- connecting ------------------------------------------------------------------------

    def _dial(self, channel: Channel) -> Dial:
        accepts: dict[int, Any] = {
            Channel.HEARTBEAT: m.ToPeerHeartbeat,
            Channel.QUERY: m.ToClientQuery,
            Channel.IOPUB: m.Stream,
        }
        handlers: dict[int, Callable[[list[Any]], None]] = {
            Channel.HEARTBEAT: self._registrar.heartbeat,
            Channel.QUERY: self._from_query,
            Channel.IOPUB: self._from_iopub,
        }
        work = channel in WORK
        if work:
            handlers[channel] = lambda messages: self._from_work(channel, messages)
        made = Dial(
            self._loop,
            self._context,
            channel,
            m.ToClientWork if work else accepts[channel],
            handlers[channel],
            on_state=self._channel_state,
            on_renewed=lambda: self._renew(channel),
            on_unknown=self._unknown,
        )
        made.link.refuse = self._refuse
        return made

    def _refuse(self, message: Any, error: Exception) -> None:
        """End what cannot be sent: a label or a limit of some type that is nearly a str's."""
        self.ledger.refuse(message, m.Failure(type(error).__name__, f"cannot be sent: {error}"))

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
        if self._route.tunnel is None and kind:
            text = self._registrar.tried or text
        where = f"the controller at {self._connector.url}"
        if self._refused:
            raise AuthenticationError(f"{where} refused this client: {self._refused}")
        if kind == ENDED:
            raise SSHError(text)
        if kind == DENIED:
            raise AuthenticationError(
                f"{where} does not accept this key ({text}): the connector file is of another "
                f"controller or was revoked; copy ipcontroller-client.json again"
            )
        if kind == REFUSED:
            raise ControllerLost(
                f"nothing listens for {where} any more ({text}): it has ended, and its "
                f"connector file is stale; start a cluster (ipclusterz start), or delete the "
                f"file"
            )

    def _start_problem(self, timeout: float) -> str:
        where = f"the controller at {self._connector.url}"
        if self._registered is None:
            text = self._problem[1] or "no answer"
            if self._route.tunnel is None:
                text = self._registrar.tried
                if host.loopback_id() != self._connector.hostid:
                    text += (
                        "; is it up, and does no firewall drop what comes from"
                        f" {host.host_name()}? SSH gets through: Client(sshserver=...)"
                    )
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
            session=known.session if known is not None else b"",
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
            self.ledger.claim = self._payloads.claim
            self.ledger.piece = self._payloads.piece
            self.facts = {
                "cluster_id": registered.cluster_id,
                "url": self._connector.url,
                "address": self._registrar.address,
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
        worked = self._registrar.address
        for channel, dial in self._dials.items():
            told = registered.addresses[channel]
            dial.identify(identity, self._route.channel(channel, told, worked))

    def _hub_state(self, kind: str, text: str) -> None:
        kind, text = self._route.judge(kind, text, self._registrar.all_tried)
        self._problem = (kind, text)
        if not self._ever_up:
            return
        if kind == "":
            self._gone_since = -1.0
            if self._announced:
                self._announced = False
                self._notice("connected to the controller again")
            self._lost_since = -1.0
            return
        if self._lost_since < 0:
            self._lost_since = monotonic()
            self._loop.after(NOTICE_SECONDS, lambda: self._announce(text))
        if kind == ENDED:
            self._give_up(ControllerLost(f"the way to the controller is closed: {text}"))
        elif kind == DENIED and self._connector.reuse and self._registrar.foreign:
            pass  # ours, which keeps its key, may come back when the other has gone
        elif kind == DENIED:
            error = "the controller does not accept our key any more: it was replaced"
            self._give_up(AuthenticationError(error))
        elif kind == REFUSED and not self._connector.reuse:
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

    def _channel_state(self, problem: str) -> None:
        """See that the controller is there; what a failure means the registration tells."""
        if not problem:
            self._registrar.hurry()
            for dial in self._dials.values():
                dial.hurry()

    def _announce(self, text: str) -> None:
        """Say that the connection was lost, unless it is back or the cluster was stopped."""
        if self._lost_since >= 0 and self.lost is None and not self._closed:
            self._announced = True
            self._notice(f"lost the connection to the controller ({text}); trying again")

    def _unknown(self) -> None:
        if self._ever_up and self.lost is None:
            self._registrar.renew()

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
            self.engines_version += 1
            self._driver.restless = True
        self._driver.ended = True
        self._flush()
        self._fail_all(error)

    def _fail_all(self, error: BaseException) -> None:
        self.ledger.give_up(m.Failure(type(error).__name__, str(error)))
        askers, self._askers = self._askers, {}
        for number, asker in askers.items():
            self._questions.pop(number, None)
            asker(None, str(error))

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
                if message.piece and not self._joined(message):
                    continue
                self._questions.pop(message.id, None)
                if message.id in self._answers:
                    self._answers[message.id] = message
                elif (asker := self._askers.pop(message.id, None)) is not None:
                    asker(message.value, message.error)
            elif isinstance(message, m.Shutdown):
                self._give_up(ControllerLost(f"the controller has ended: {message.reason}"))

    def _joined(self, answer: m.Answer) -> bool:
        """Keep a piece of a long answer; with the last one, put the whole into it."""
        pieces = self._pieces.setdefault(answer.id, [])
        pieces.append(answer.piece)
        if answer.more:
            return False
        answer.value = _msgpack.decode(b"".join(self._pieces.pop(answer.id)))
        return True

    def _engines(self, delta: m.Engines) -> None:
        engines = {} if delta.full else dict(self.engines)
        for info in delta.up:
            engines[info.id] = info
        for number, reason in delta.down:
            engines.pop(number, None)
            self.departed[number] = reason
        self.engines = engines
        own = host.host_name()
        self.elsewhere = frozenset(e.id for e in engines.values() if e.host != own)
        self.engines_version += 1
        self._driver.restless = True

    def _renew(self, channel: int) -> None:
        """What serves a channel is new and knows nothing: say again what is open."""
        if channel in WORK:
            self.ledger.renewed(channel)
            self._payloads.renewed(channel)
        elif channel == Channel.QUERY:
            self._pieces.clear()
            for question in list(self._questions.values()):
                self._dials[Channel.QUERY].send(question)

    # -- sending ---------------------------------------------------------------------------

    def submit(
        self,
        op: int,
        fn: Any,
        parts: list[Any],
        sink: Sink,
        *,
        options: Options | None = None,
        loan: Loan | None = None,
    ) -> int:
        """Send a task for whichever engine is free; return its key.

        What is large is copied, or lent by ``loan``.
        """
        body = None
        if len(parts) == 1 and len(parts[0]) <= m.INLINE:
            data = parts[0]
        else:
            data, body = self._payloads.pack(parts, loan)
        with self._keys:
            key = self.ledger.reserve()
        self._inbox.append(task(key, op, fn, data, body, options, sink))
        if not self._driver.woken:
            self._leave()
        return key

    def submit_all(
        self,
        loads: Sequence[Load],
        sink: Sink,
        options: Options | None,
        loan: Loan | None = None,
    ) -> int:
        """Send tasks as :meth:`submit` does; return the key of the first of their row."""
        packed = [
            (op, fn, parts[0], None)
            if len(parts) == 1 and len(parts[0]) <= m.INLINE
            else (op, fn, *self._payloads.pack(parts, loan))
            for op, fn, parts in loads
        ]
        with self._keys:
            first = self.ledger.reserve(len(packed))
        self._inbox.extend(
            task(key, op, fn, data, body, options, sink)
            for key, (op, fn, data, body) in enumerate(packed, first)
        )
        if not self._driver.woken:
            self._leave()
        return first

    def request(
        self,
        op: int,
        fn: Any,
        parts: list[Any],
        sink: Sink,
        targets: list[int],
        channel: int = Channel.DIRECT,
        *,
        options: Options | None = None,
        loan: Loan | None = None,
    ) -> int:
        """Send work to named engines; target ``i`` answers under the returned key + ``i``."""
        data, body = self._payloads.pack(parts, loan)
        ledger = self.ledger
        with self._keys:
            key = ledger.reserve(len(targets))
            if channel == Channel.CONTROL:
                self._control_keys.append(range(key, key + len(targets)))
        arguments = (key, int(channel), op, fn, data, body, targets, sink, options)
        self._inbox.append((ledger.request, arguments))
        if not self._driver.woken:
            self._leave()
        return key

    def task_ranges(self) -> list[range]:
        """Return the keys of all work sent so far, in order; control requests are none."""
        with self._keys:
            at, end = self.ledger.issued
            apart = list(self._control_keys)
        ranges = []
        for control in apart:
            ranges.append(range(at, control.start))
            at = control.stop
        return [*ranges, range(at, end)]

    def cancel(self, keys: list[int], direct: bool) -> None:
        """Say that these are no longer wanted; each still ends with an outcome."""
        self._inbox.append((self.ledger.cancel, (keys,)))
        self._leave()

    def _leave(self) -> None:
        """See to it that what is in the inbox is done; after the end, it fails at once."""
        if self.lost is not None:
            with self._driver.held():
                self._flush()
                self._fail_all(self.lost)
            return
        self._driver.leave()

    def _send_piece(self, channel: int, message: Any) -> None:
        """Send a piece of a payload, or ask for one."""
        self._dials[channel].say(message)  # type: ignore[index]

    def _flush(self) -> None:
        """Move what callers left and what the ledger says onto the links."""
        self._driver.drain()
        ledger = self.ledger
        if ledger.received:
            self._ride(ledger)
        if ledger.out:
            out, ledger.out = ledger.out, defaultdict(list)
            for channel, messages in out.items():
                self._dials[channel].link.extend(messages)  # type: ignore[index]
        if ledger.dropped:
            dropped, ledger.dropped = ledger.dropped, []
            for body in dropped:
                self._payloads.drop(body)

    def _ride(self, ledger: Ledger) -> None:
        """Let acknowledgements go with what goes anyway; alone only when many or late."""
        going = set(ledger.out)
        for channel, keys in list(ledger.received.items()):
            if channel in going or len(keys) >= ACK_KEYS:
                ledger.acknowledge(channel)
        if ledger.received and not self._ack_due:
            self._ack_due = True
            self._loop.after(ACK_SECONDS, self._acknowledge)

    def _acknowledge(self) -> None:
        self._ack_due = False
        self.ledger.acknowledge()

    def wait(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Wait, driving the sockets, until ``done()`` or the time is up; return ``done()``.

        Returns early when the controller is lost.  Ctrl-C raises KeyboardInterrupt and
        leaves everything usable.
        """
        return self._driver.wait(done, timeout)

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
        arg = _plainly(what, arg)
        with self._keys:
            self._next_query += 1
            number = self._next_query
            self._answers[number] = None
        question = self._questions[number] = m.Query(number, what, arg)
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
            self._questions.pop(number, None)
        if answer.error:
            raise KernelError(f"the hub cannot answer {what!r}: {answer.error}")
        return answer.value

    def ask(self, what: str, arg: Any, then: Callable[[Any, str], None]) -> None:
        """Ask the hub; ``then(value, error)`` is called by whichever thread reads, quickly.

        It may ask again.  When the controller is lost it is called with the reason.
        """
        arg = _plainly(what, arg)
        with self._keys:
            self._next_query += 1
            number = self._next_query
        self._askers[number] = then
        question = self._questions[number] = m.Query(number, what, arg)
        self._inbox.append((self._dials[Channel.QUERY].send, (question,)))
        self._leave()

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

    def _tell_engines(self) -> None:
        for call in list(self._engine_calls):
            call()

    # -- payloads --------------------------------------------------------------------------

    def lending(self) -> Loan:
        """Return what a call may lend by for as long as it waits, instead of a copy."""
        return self._payloads.lending.loan()

    def load(self, result: m.Result) -> list[Any]:
        """Return a result's parts: the pickle stream, then its out-of-band buffers."""
        return self._payloads.load(result)

    def release(self, result: m.Result) -> None:
        """Let go of a result's body after it was decoded (what was made of it stays)."""
        result.body = None

    # -- ending ----------------------------------------------------------------------------

    def close(self) -> None:
        """Say goodbye and let go of everything.

        Tasks that were sent run on, and the hub keeps their results; here they are given up.
        """
        if self._closed:
            return
        if self._pid != os.getpid():
            self._closed = True  # a forked child: the sockets are the parent's
            return
        with self._driver.held():
            if self._closed:
                return
            self._flush()
            self._hand_over()
            self._registrar.send(m.Goodbye("it was closed"))
            for dial in self._dials.values():
                dial.flush()
            self._closed = True
            closed = ControllerLost("this client was closed")
            self.lost = self.lost or closed
            self._fail_all(closed)
        self._release_all()

    def _forked(self) -> None:
        """In a forked child: the sockets and what was sent by them are the parent's."""
        self.lost = ControllerLost(
            f"this client belongs to process {self._pid}, of which this one is a fork: make a"
            " new Client() here"
        )
        self._keys = threading.Lock()
        self._driver.forked()
        self._inbox = self._driver.inbox

    def _hand_over(self) -> None:
        """Wait until schedulers have what was sent; the hub may be quicker to say we left."""
        deadline = monotonic() + HAND_OVER_SECONDS
        while self.ledger.pending and self.lost is None and self._owing():
            left = deadline - monotonic()
            if left <= 0:
                return
            self._loop.process(self._loop.wait(self._loop.timeout(left)))

    def _owing(self) -> bool:
        """Return whether a scheduler has not acknowledged all that it was sent."""
        return any(self._dials[channel].owing for channel in WORK)  # type: ignore[index]

    def _release_all(self) -> None:
        self._closed = True
        self._driver.stop()
        for dial in self._dials.values():
            dial.close(100)
        self._registrar.close(100)
        self._loop.close()
        self._context.destroy(linger=0)
        self._payloads.close()
        self._route.close()


_open: weakref.WeakSet[Connection] = weakref.WeakSet()


def _in_child() -> None:
    """A client is of no use in a forked child, and does not stay silent about it."""
    for connection in list(_open):
        connection._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
