"""One host that a launcher reaches by SSH: its connection, its keeper, its engines.

A thread for each host does all that waits.  It logs in, has a keeper begin there
(``ipclusterz.apps.keeper``), leads the controller's ports there, starts the agent, and then
passes on events.  When the connection is lost the agent and its engines live on; the thread
connects again with a growing pause, leads the ports there again and asks what it missed.
An agent that has died is followed by another one, with a keeper of its own, as often as that
is allowed.

What others see of it: events, and :attr:`RemoteHost.code` when it is over.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from msgspec import Struct

from ipclusterz._version import __version__
from ipclusterz.core.hosts import Host
from ipclusterz.core.message import PROTOCOL
from ipclusterz.core.replacing import CRASHED, Agents
from ipclusterz.core.ssh import destination, in_sh
from ipclusterz.error import KernelError, LaunchError, SSHError
from ipclusterz.launchers import remote, sshfiles
from ipclusterz.launchers.base import Event, LaunchSpec
from ipclusterz.launchers.sshsession import Lost, Session, Waker, readable
from ipclusterz.launchers.sshway import WayBack
from ipclusterz.net.ssh import Connection, connect

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 5.0
LOGINS = 3
"""Refused logins, after a drop, before it is no use to try again."""

LEASE_SECONDS = 600.0
"""For how long a lost host is tried when nothing else was said: so long its engines live."""

STOP_SECONDS = 5.0
"""For how long a host that cannot be reached is tried when its engines are to end."""

_ANSWER_SECONDS = 10.0
_CLEAR_SECONDS = 3.0
_MOMENT_SECONDS = 0.5
_QUIET = ("bodies", "engines", "hello", "attached", "agent", "logs", "bye")


class Launch(Struct):
    """What is the same for all hosts of a launch; ``say`` gets a host's events."""

    spec: LaunchSpec
    say: Callable[[Event], None]
    gate: threading.Semaphore
    key: str = ""
    config: str = ""
    paramiko: bool | None = None
    timeout: float = 10.0
    setup_timeout: float = 60.0
    sshx: str = ""
    send: list[str] = []
    logs_to: str = ""
    lease: float = LEASE_SECONDS


class Stopped(Exception):
    """It was told to end before it had begun."""


class AgentLost(Exception):
    """The agent has died, and another one is started in ``pause`` seconds."""

    def __init__(self, pause: float) -> None:
        super().__init__(f"{pause:g}")
        self.pause = pause


class RemoteHost:
    """See the module.  Methods without an underscore may be called from any thread."""

    def __init__(self, host: Host, launch: Launch) -> None:
        self.host = host
        self.name = destination(host.target).shown
        self.code: int | None = None
        self.text = ""
        config = remote.agent_config(launch.spec.stdin, host, "")
        self._agents = Agents(int(config.get("restart_engines", 0)), host.n)
        self._launch = launch
        self._inbox: deque[str | int] = deque()  # a connector's line, or a signal's number
        self._waker = Waker()
        self._ending = 0.0  # since when
        self._abandoned = False
        self._connection: Connection | None = None
        self._session: Session | None = None
        self._way: WayBack | None = None
        self._folder = ""
        self._agent: tuple[int, int] | None = None
        self._started = False
        self._seen = 0
        self._problem = ""
        self._removed = False
        self._thread = threading.Thread(
            target=self._run, name=f"ipclusterz-ssh-{self.name}", daemon=True
        )

    @property
    def ids(self) -> list[int]:
        """Its engines that are there."""
        return self._agents.ids

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def tell(self, line: str) -> None:
        """Give it the connector's line."""
        self._inbox.append(line)
        self._waker.wake()

    def signal(self, number: int) -> None:
        """Send a signal to the agent."""
        self._inbox.append(number)
        self._waker.wake()

    def end(self) -> None:
        """Ask its engines to end."""
        if not self._ending:
            self._ending = time.monotonic()
            self._inbox.append(int(signal.SIGTERM))
            self._waker.wake()

    def abandon(self) -> None:
        """Stop trying; what runs there ends by its lease."""
        self._abandoned = True
        self._waker.wake()

    def join(self, timeout: float) -> bool:
        """Wait for its end."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- its life --------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with self._launch.gate:
                self._begin()
            while self.code is None:
                try:
                    self._serve()
                except AgentLost as lost:
                    self._another(lost.pause)
        except Stopped:
            self._over(0, "")
        except Lost:
            self._fail(f"{self.name}: {self._why_lost('the connection ended')}")
        except (KernelError, OSError) as error:
            self._fail(str(error))
        except BaseException as error:  # a mistake of ours must not look like a long wait
            self._fail(f"{type(error).__name__}: {error}")
            raise
        finally:
            self._clear()
            self._drop()
            self._waker.close()
            self._launch.say({"event": "host_ended", "host": self.name})

    def _serve(self) -> None:
        try:
            self._listen()
        except Lost:
            self._again()

    def _another(self, pause: float) -> None:
        """Start an agent in place of the one that died; LaunchError when none may be."""
        while True:
            self._clear()
            self._drop()
            self._way, self._agent, self._folder, self._problem = None, None, "", ""
            self._started = self._removed = False
            self._seen = 0
            self._rest(pause)
            for item in [item for item in self._inbox if isinstance(item, str)]:
                self._inbox.remove(item)  # of other hosts' new agents
            self._launch.say({"event": "agent_again", "host": self.name})
            try:
                with self._launch.gate:
                    self._begin()
                return
            except AgentLost as lost:
                pause = lost.pause
            except Lost:
                pause = self._failed(self._why_lost("the connection ended"))
            except (KernelError, OSError) as error:
                pause = self._failed(str(error))

    def _failed(self, why: str) -> float:
        """No agent could be started; return the pause before the next attempt."""
        text = why if why.startswith(self.name) else f"{self.name}: {why}"
        event = self._agents.died(1, text)
        if event is None:
            raise LaunchError("; ".join(filter(None, (text, self._agents.used_up))))
        self._launch.say({**event, "host": self.name})
        return float(event["pause"])

    def _rest(self, seconds: float) -> None:
        """Wait, but not when it is to end."""
        until = time.monotonic() + seconds
        self._check_stop()
        while (left := until - time.monotonic()) > 0:
            self._sleep(left)
            self._check_stop()

    def _begin(self) -> None:
        self._check_stop()
        launch = self._launch
        try:
            self._connection = self._connected(lambda: bool(self._ending or self._abandoned))
        except SSHError:
            self._check_stop()
            raise
        sshfiles.send(self._connection, self.host, launch.send, launch.setup_timeout)
        self._open("begin")
        hello = self._until("hello", self._launch.setup_timeout)
        self._folder = str(hello["folder"])
        self._compare(hello)
        self._until_connector()
        self._join(lost=False)

    def _connected(self, unwanted: Callable[[], bool] | None = None) -> Connection:
        launch = self._launch
        return connect(
            self.host.target,
            key=launch.key,
            config=launch.config,
            paramiko=launch.paramiko,
            timeout=launch.timeout,
            unwanted=unwanted,
        )

    def _open(self, role: str) -> None:
        mark = os.urandom(16).hex()
        text = remote.script(
            self.host,
            mark,
            role=role,
            folder=self._folder or "-",
            sshx=self._launch.sshx,
        )
        assert self._connection is not None
        self._session = Session(self._connection, text, mark, self._waker.fd)

    def _join(self, lost: bool) -> None:
        """Make this connection the one that counts, and start the agent if there is none."""
        session, connection, back = self._session, self._connection, self._way
        assert session is not None and connection is not None and back is not None
        session.say({"do": "attach", "from": self._seen, "lost": lost})
        way = int(self._until("attached", _ANSWER_SECONDS)["way"])
        if self.code is not None:
            return  # it had ended meanwhile
        text = back.lead(connection, self._folder, way)
        session.say({"do": "now", "way": way})
        if not self._started:
            self._started = True
            if back.warning:
                self._say("warning", back.warning)
            spec = self._launch.spec
            log_dir = os.path.join(self._folder, "log") if self._launch.logs_to else ""
            config = remote.agent_config(spec.stdin, self.host, log_dir)
            config["origin"] = self._agents.origin
            lines = [json.dumps({"config": config}), json.dumps({"connector": text})]
            env = {**spec.env, **self.host.env}
            session.say({"do": "start", "lines": [f"{line}\n" for line in lines], "env": env})

    def _listen(self) -> None:
        """Pass on events, and what is to be sent there, until it is over."""
        while self.code is None:
            self._read(None)
            while self._inbox:
                item = self._inbox.popleft()
                if isinstance(item, int):
                    assert self._session is not None
                    self._session.say({"do": "signal", "number": item})

    def _again(self) -> None:
        """Connect again, for as long as there may be something to find."""
        began = time.monotonic()
        alive = self._is_connected()
        why = self._why_lost("its connection ended")
        self._drop()
        what = f"{self.name} with {remote.engine_count(self.host.n)}"
        self._say(
            "lost",
            f"{what}: {why}; its engines live on, trying to connect again for"
            f" {self._launch.lease:.0f} s",
            ids=list(self.ids),
        )
        pause, refused = FIRST_PAUSE, 0
        while not self._is_late(began):
            try:
                self._connection = self._connected()
                self._open("attach")
                self._join(lost=not alive)
            except Lost:
                why = self._why_lost("its connection ended")
            except SSHError as error:
                why = str(error)
                refused += error.kind == "login"
                if error.kind == "trust" or refused > LOGINS:
                    break
            else:
                seconds = time.monotonic() - began
                self._say("reconnected", f"{what} is back after {seconds:.0f} s")
                return
            self._drop()
            alive = False
            self._sleep(pause * (0.75 + os.urandom(1)[0] / 510))
            pause = min(pause * 2, LONGEST_PAUSE)
        raise LaunchError(
            f"{what} is gone: {why}; if its engines still run, they end by themselves when"
            " their lease is over"
        )

    def _is_connected(self) -> bool:
        """Tell whether only the relay has ended; it may end a moment before its connection."""
        connection = self._connection
        if connection is not None and connection.alive():
            readable([connection.watched()], _MOMENT_SECONDS)
        return connection is not None and connection.alive()

    def _is_late(self, began: float) -> bool:
        now = time.monotonic()
        if self._abandoned or now - began > self._launch.lease:
            return True
        return bool(self._ending) and now - self._ending > STOP_SECONDS

    def _drop(self) -> None:
        session, self._session = self._session, None
        connection, self._connection = self._connection, None
        if session is not None:
            session.close()
        if connection is not None:
            connection.close()

    def _clear(self) -> None:
        """Have removed by force what did not end as it should."""
        session = self._session
        if session is None or not self._folder or self._removed:
            return
        with _patiently():
            session.say({"do": "bye"})
            deadline = time.monotonic() + _CLEAR_SECONDS
            while (left := deadline - time.monotonic()) > 0:
                session.read(left)

    def _place(self) -> dict[str, Any]:
        """Return what is to be known for clearing it, should this process be killed."""
        launch, (pid, start) = self._launch, self._agent or (0, 0)
        return {
            "target": self.host.target,
            "python": self.host.python,
            "folder": self._folder,
            "pid": pid,
            "start": start,
            "key": launch.key,
            "config": launch.config,
            "paramiko": bool(launch.paramiko),
        }

    def _sweep(self) -> None:
        """End and remove what a keeper that is not there any more has left."""
        connection, (pid, start) = self._connection, self._agent or (0, 0)
        if connection is not None and self._folder:
            connection.run(in_sh(remote.clearing(self._folder, pid, start)))
        self._removed = True

    # -- what it says ----------------------------------------------------------------------

    def _until(self, kind: str, timeout: float) -> Event:
        """Wait for an event; LaunchError for another answer, or none."""
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            for event in self._read(left):
                if event["event"] == kind:
                    return event
            if not self._started:
                self._check_stop()
        words = self._session.words() if self._session else ""
        raise LaunchError(
            f"{self.name}: nothing of ours answered within {timeout:g} s"
            + (f"; it said: {words}" if words else "; is 'setup' waiting for something?")
        )

    def _read(self, timeout: float | None) -> list[Event]:
        """Read what has come, take what is news, and return all of it."""
        session = self._session
        assert session is not None
        try:
            found = session.read(timeout)
        except Lost:
            if not self._started and self._connection and self._connection.alive():
                words = session.words() or "its shell ended without a word"
                raise LaunchError(f"{self.name}: {words}") from None
            raise
        self._waker.rest()
        if self._abandoned:
            raise LaunchError(f"{self.name} does not end; its engines end with their lease")
        for event in found:
            self._take(event)
        return found

    def _take(self, event: Event) -> None:
        self._seen = max(self._seen, int(event.pop("seq", 0)))
        kind = event["event"]
        news = self._agents.heard(event)
        if kind == "exit":
            self._exited(event)
        elif kind == "gone":
            self._sweep()
            text = (
                f"{self.name}: its engines ended while there was no connection"
                f" ({event.get('text', '')})"
            )
            self._died(CRASHED, text)
            raise LaunchError(text)
        elif kind == "error":
            self._problem = str(event.get("text", ""))
            if not self._started:
                raise LaunchError(f"{self.name}: {self._problem}")
        elif kind == "agent":
            self._agent = int(event["pid"]), int(event["start"])
            self._launch.say({"event": "away", "host": self.name, "place": self._place()})
        elif kind == "log":
            sshfiles.keep(event, self.name, self._launch.logs_to)
        elif kind not in _QUIET:
            if "text" in event:
                event = {**event, "text": f"{self.name}: {event['text']}"}
            self._launch.say({**event, "host": self.name})
        if news:
            self._say("replaced", news if self.name in news else f"{self.name}: {news}")

    def _exited(self, event: Event) -> None:
        """The agent has ended: fetch logs, have everything removed, and say how it was."""
        session, code, text = self._session, int(event["code"]), str(event.get("text", ""))
        assert session is not None
        if self._launch.logs_to:
            with _patiently():
                session.say({"do": "logs"})
                self._until("logs", _ANSWER_SECONDS)
        with _patiently():
            session.say({"do": "bye"})
            self._until("bye", _ANSWER_SECONDS)
        self._removed = True
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        if code == 0 or self._ending:
            self._over(code, "")
            return
        cause = f"{self.name}: the engines' process there {how}"
        failed = code > 0 and self._problem
        self._died(code, f"{self.name}: {self._problem}" if failed else cause)
        words = f"; its last words:\n{text}" if text else ""
        told = f"{self.name}: {self._problem}" if self._problem else f"{cause}{words}"
        self._fail("\n".join(filter(None, (told, self._agents.used_up))), code)

    def _died(self, code: int, cause: str) -> None:
        """Raise AgentLost if another agent takes the place of one that has ended."""
        event = None if self._ending else self._agents.died(code, cause.partition("\n")[0])
        if event is not None:
            self._launch.say({**event, "host": self.name, "dead": True})
            raise AgentLost(event["pause"])

    def _fail(self, text: str, code: int = 1) -> None:
        """It is over, and not as it should: its engines are missing from now on."""
        ids = list(self.ids)
        self._say("less", text, n=self.host.n, ids=ids, dead=self._removed and bool(ids))
        self._over(code, text)

    def _over(self, code: int, text: str) -> None:
        self.text = text
        self.ids.clear()
        self.code = code

    def _say(self, kind: str, text: str, **more: Any) -> None:
        self._launch.say({"event": kind, "host": self.name, "text": text, **more})

    def _why_lost(self, otherwise: str) -> str:
        connection = self._connection
        return (connection.problem() if connection is not None else "") or otherwise

    def _compare(self, hello: Event) -> None:
        if hello["protocol"] != PROTOCOL:
            raise LaunchError(
                f"{self.name}: ipclusterz {hello['version']} there speaks protocol"
                f" {hello['protocol']}, {__version__} here {PROTOCOL}: install {__version__}"
                " there"
            )
        import sys

        ours = ".".join(map(str, sys.version_info[:2]))
        theirs = str(hello["python"])
        if theirs.rpartition(".")[0] != ours:
            self._say(
                "warning",
                f"{self.name} has Python {theirs}, here is {ours}: functions written here may"
                " not run there",
            )

    # -- waiting ---------------------------------------------------------------------------

    def _until_connector(self) -> None:
        while self._way is None:
            self._check_stop()
            if self._inbox and isinstance(self._inbox[0], str):
                text = str(json.loads(str(self._inbox.popleft()))["connector"])
                self._way = WayBack(self.name, text)
                return
            self._read(None)

    def _check_stop(self) -> None:
        if self._ending or self._abandoned:
            raise Stopped

    def _sleep(self, seconds: float) -> None:
        readable([self._waker.fd], seconds)
        self._waker.rest()


@contextmanager
def _patiently() -> Iterator[None]:
    """Do without an answer: what it is asked for is wished, not needed."""
    try:
        yield
    except (Lost, LaunchError):
        pass
