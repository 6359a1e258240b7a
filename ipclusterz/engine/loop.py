"""The loop of an engine: read a batch, do its tasks, say how they ended.

Lives here: datagrams in and out, and when to send.  May know: the page, the streams, the
runner.  Must not know: how a task is done, who the agent is.

No threads, no clock of its own, no second socket: between two batches the engine sleeps in
one system call.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import socket
import sys
import traceback

import msgspec

from ipclusterz.core.message import Batch, Fork, Op, Say, encode
from ipclusterz.engine import display
from ipclusterz.engine.namespace import Namespace
from ipclusterz.engine.page import INTERRUPT, REVOKED, RUNNING, TAKEN, Page
from ipclusterz.engine.runner import Runner
from ipclusterz.engine.streams import Stream, end_task

RECEIVE = 1024 * 1024
"""The largest datagram an engine accepts, in bytes; memory is used only as needed."""

_ENOUGH = 48 * 1024  # bytes of outcomes that are worth a datagram
_PATIENCE = 0.005  # seconds that an outcome waits for company
_LIST32 = b"\xdd"  # msgpack: a list with its length in the next four bytes

_MAP = int(Op.MAP)  # operations up to this one need a function

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Batch).decode  # made before the fork: its tables are shared


class Engine:
    """One engine: ``sock`` is its end of the socket to the agent, ``page`` the shared page."""

    def __init__(self, sock: socket.socket, fork: Fork, page: Page) -> None:
        self.namespace = Namespace()
        self.runner = Runner(fork.engine, self.namespace, page.words, fork.bodies, fork.proof)
        self._socket = sock
        self._page = page
        self._words = page.words
        self._out = Stream(1, "<stdout>", fork.token, page.words)
        self._err = Stream(2, "<stderr>", fork.token, page.words)
        self._pending: list[bytes] = []
        self._bytes = 0
        self._since = 0.0
        self._child = False

    def install(self) -> None:
        """Take over ``__main__``, the standard streams and SIGINT of this process."""
        self.namespace.install()
        self.runner.install()
        display.connect(display.Outlet(self._out.show, self._words))
        sys.stdout = sys.__stdout__ = self._out  # type: ignore[assignment,misc]
        sys.stderr = sys.__stderr__ = self._err  # type: ignore[assignment,misc]
        signal.signal(signal.SIGINT, self.runner.on_interrupt)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._before_fork, after_in_child=self._in_child)

    def run(self) -> None:
        """Say hello and work until the agent closes its end."""
        self._write(encode(Say(pid=os.getpid(), outcomes=[])))
        buffer = memoryview(mmap.mmap(-1, RECEIVE))  # a bytearray would touch every byte
        receive = self._socket.recv_into
        while True:
            buffer[0] = 0  # no batch begins so
            try:
                try:
                    size = receive(buffer)
                except BlockingIOError:
                    size = -1
                if size < 0:
                    self._wait(select.POLLIN)
                    continue
            except (Exception, KeyboardInterrupt) as error:
                # With a batch that has come, but not its size, nothing can be done.
                if buffer[0] or not _from_handler(error):
                    raise
                _say(error)
                continue
            if size == 0:
                return
            self._do(_decode(buffer[:size]))

    def _write(self, datagram: bytes) -> None:
        while True:
            try:
                self._socket.send(datagram)
                return
            except BlockingIOError:
                self._wait(select.POLLOUT)

    def _wait(self, event: int) -> None:
        # The agent keeps a duplicate of our end, so whether it blocks is for the agent to
        # say: the flag belongs to both, and we must not change it.
        poll = select.poll()
        poll.register(self._socket, event)
        poll.poll()

    def _do(self, batch: Batch) -> None:
        """Do the tasks of a batch; flat, for this is the way of every task."""
        runner, words, page = self.runner, self._words, self._page
        run, functions = runner.run, runner.functions
        out, err = self._out, self._err
        for digest, data in batch.functions:
            runner.add_function(digest, data)
        missing: dict[bytes, None] = {}
        undone: list[int] = []
        left = len(batch.tasks)
        for work in batch.tasks:
            key = work.key
            words[RUNNING] = key  # first noted, then asked: see Page.revoke
            if words[REVOKED]:
                words[REVOKED] = 0
                undone.extend(later.key for later in batch.tasks[-left:])
                break
            left -= 1
            function = functions.get(work.fn)
            if function is None and work.op <= _MAP:
                missing[work.fn] = None
                undone.append(key)
                continue
            taken = words[TAKEN] & ~1  # odd: being read now
            # What is finished does not wait for a task that may take long.
            if self._pending and (function is None or not function.quick):
                self._send()
            outcome = run(work)
            if self._child:
                self._leave_child()
            # Put it where it survives us, and send it if it is time.
            if words[INTERRUPT] == key:  # it came too late; a retry has the same key
                words[INTERRUPT] = 0
            end_task(out, err, key, taken)
            record = _encode(outcome)
            size = len(record)
            if self._pending:
                if self._bytes + size > _ENOUGH:
                    self._send()
                    self._since = outcome.finished
            else:
                self._since = outcome.finished
            page.commit(record)  # if it has no room there it is sent at once, below
            self._pending.append(record)
            self._bytes += size
            if self._bytes > _ENOUGH or (left and outcome.finished - self._since > _PATIENCE):
                self._send()
        words[RUNNING] = 0
        if self._pending or undone:
            self._send(list(missing), undone)

    def _send(
        self, missing: list[bytes] | None = None, undone: list[int] | None = None
    ) -> None:
        """Send what is finished; what remains in the page from now on is nothing."""
        # The outcomes are already encoded: this is encode(Say(0, outcomes, missing, undone)).
        pending = self._pending
        self._write(
            b"".join(
                (
                    b"\x94\x00",
                    _LIST32,
                    len(pending).to_bytes(4, "big"),
                    *pending,
                    encode(missing or []),
                    encode(undone or []),
                )
            )
        )
        self._pending = []
        self._bytes = 0
        self._page.reset()

    # -- children that user code forks -----------------------------------------------------

    def _before_fork(self) -> None:
        self._out.flush_task()
        self._err.flush_task()

    def _in_child(self) -> None:
        """Keep a forked child from speaking for the engine."""
        self._child = True
        self._socket.close()
        self._out.renew()
        self._err.renew()

    def _leave_child(self) -> None:
        """End a forked child that came back from the task: there is one engine only."""
        self._out.flush_task()
        self._err.flush_task()
        os._exit(0)


def _from_handler(error: BaseException) -> bool:
    """Tell whether a handler that a task left behind raised this, while the engine waited."""
    if isinstance(error, KeyboardInterrupt):  # Python's own handler has no frame
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace is not None


def _say(error: BaseException) -> None:
    """Print what no task can be told of."""
    try:
        traceback.print_exception(error)
    except Exception:  # a task may have put anything in the place of standard error
        pass
