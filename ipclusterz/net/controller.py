"""The controller: a supervisor that makes the listening sockets and forks the five.

The supervisor owns no ZeroMQ context and no thread, so it can fork at any time: the hub and
four schedulers at the start, and any of them again when it dies, or hangs
(:mod:`ipclusterz.net.beats`).  It made and keeps the listening descriptors; a part that was
restarted listens where it listened before, and connections made meanwhile wait in the
backlog.

Connector files are written when everything listens, and removed at a clean end unless they
are to be reused.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from socket import socket
from typing import Any, NoReturn

from ipclusterz import files, paths
from ipclusterz._version import __version__
from ipclusterz.core.addresses import beyond
from ipclusterz.core.config import CHANNEL_NAMES, ControllerConfig
from ipclusterz.core.connector import Connector, dump
from ipclusterz.core.message import Channel
from ipclusterz.engine.limits import raise_file_limit
from ipclusterz.error import LaunchError
from ipclusterz.net import host, hub, journal, scheduler
from ipclusterz.net.beats import Beats, Watch
from ipclusterz.net.listening import Listening, line_name
from ipclusterz.net.log import open_log
from ipclusterz.net.loop import Loop
from ipclusterz.net.renewal import Desk
from ipclusterz.net.seal import ClusterKeys

Status = Callable[[dict[str, Any]], None]

PARTS: tuple[str, ...] = ("hub", "direct", "task", "control", "iopub")
_CHANNELS_OF: dict[str, set[Channel]] = {
    "hub": {Channel.REGISTRATION, Channel.HEARTBEAT, Channel.QUERY},
    "direct": {Channel.DIRECT},
    "task": {Channel.TASK},
    "control": {Channel.CONTROL},
    "iopub": {Channel.IOPUB},
}
START_SECONDS = 30.0
STOP_SECONDS = 5.0
RESTARTS = 10
RESTART_WINDOW = 60.0
"""More restarts of one part than this in that many seconds: something is really wrong."""


def run(config: ControllerConfig, status: Status, stop_fd: int | None) -> int:
    """Be the controller until it is stopped; return the process's exit code.

    ``status`` is told ``ready`` (with addresses, folders and process ids) or ``error``.
    The controller ends on SIGTERM, SIGINT, SIGHUP unless that is ignored, when ``stop_fd``
    reaches its end, or when a client asks.  Raises LaunchError when it cannot listen.
    """
    supervisor = Supervisor(config, status)
    try:
        return supervisor.run(stop_fd)
    finally:
        supervisor.clean()


FILES = 96
"""Open files of the hub (36 measured) with some clients and agents; one more for each."""


class Supervisor:
    """Keeps the five parts of one controller alive."""

    def __init__(self, config: ControllerConfig, status: Status) -> None:
        self.config = config
        self.status = status
        self.runtime = config.runtime or paths.runtime_dir()
        self._made_runtime = not config.runtime
        prefix = f"ipcontroller-{config.cluster_id}" if config.cluster_id else "ipcontroller"
        self._prefix = prefix
        self.log = open_log(config.log_dir, prefix, config.log_level)
        key = config.exec_key or os.urandom(32)
        self.desk = Desk(key, config.renewed, config.key_file, self._renewed)
        self.listening = Listening()
        self._pids: dict[int, str] = {}  # process id -> part
        self._pidfds: dict[int, int] = {}  # pidfd -> process id
        self._generations: dict[str, int] = dict.fromkeys(PARTS, 0)
        # After one that was killed, schedulers are as if started again, and their attempts
        # must not be taken for those of the time before.
        self._journal = journal.path_of(config.key_file)
        # What the task scheduler must find again when it alone is started again, as well.
        self._estate = journal.estate_of(config.key_file, self.runtime)
        self._era = (
            1 + (int.from_bytes(os.urandom(4), "little") >> 2)
            if journal.is_there(self._journal)
            else 0
        )
        self._beats = Beats(PARTS, config.hang_limit)
        self._hangs = Watch(self._beats, config.hang_limit)
        self._ended: dict[int, str] = {}  # process id -> why we ended it
        self._deaths: dict[str, list[float]] = {part: [] for part in PARTS}
        self._stopping = ""
        self._asked_twice = False
        self._wrote_files = False
        self._started = time.time()
        self.client_text = self.engine_text = ""
        self._starting: dict[int, str] = {}  # descriptor -> part that was started again
        self._poll = select.poll()

    # -- the parts -------------------------------------------------------------------------

    def _fork(self, part: str) -> int:
        """Start one part; return the descriptor on which it says that it serves."""
        generation = self._generations[part]
        there = None
        if part == "hub":
            self._desk_closed()
            there = self.desk.pair()
        read, write = os.pipe()
        supervisor = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            self._be(part, generation, supervisor, write, there)
        os.close(write)
        if there is not None:
            there.close()
            self._poll.register(self.desk.fileno(), select.POLLIN)
        self._pids[pid] = part
        fd = host.pidfd(pid)
        self._pidfds[fd] = pid
        self._poll.register(fd, select.POLLIN)
        return read

    def _be(
        self, part: str, generation: int, supervisor: int, ready: int, desk: socket | None
    ) -> NoReturn:
        """The child's whole life."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGINT, signal.SIGHUP):  # they reach the supervisor, too
                signal.signal(number, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            host.die_with_parent(supervisor)
            for fd in (*self._pidfds, *self._starting):
                os.close(fd)
            self.desk.close()
            self.listening.keep_only(_CHANNELS_OF[part], part == "hub")
            log = open_log(self.config.log_dir, f"{self._prefix}-{part}", self.config.log_level)
            try:
                self._serve(part, generation, supervisor, ready, log, desk)
                code = 0
            except BaseException:
                log.critical("%s ends by an error:\n%s", part, traceback.format_exc())
                raise
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def _serve(
        self,
        part: str,
        generation: int,
        supervisor: int,
        ready: int,
        log: Any,
        desk: socket | None,
    ) -> None:
        config = self.config
        if desk is not None:
            made = hub.Hub(
                self.listening,
                self.desk.keys,
                log,
                desk=desk,
                cluster_id=config.cluster_id,
                lease=config.lease,
                heartbeat=config.heartbeat,
                version=__version__,
                generation=generation,
                journal=self._journal,
                db=config.db,
                shutdown=lambda reason: os.kill(supervisor, signal.SIGTERM),
            )
            self._forget()
            self._beat(part, made.loop)
            os.write(ready, b"1")
            os.close(ready)
            hub.run(made)
            return
        self._forget()
        (channel,) = _CHANNELS_OF[part]
        seed = int.from_bytes(os.urandom(4), "big")
        era = self._era + generation
        core = scheduler.make_core(channel, era, config.scheme, config.hwm, seed)
        relay = scheduler.Scheduler(
            self.listening,
            channel,
            core,
            generation,
            log,
            record=bool(config.db),
            estate=self._estate,
        )
        self._beat(part, relay.loop)
        os.write(ready, b"1")
        os.close(ready)
        scheduler.run(relay)

    def _beat(self, part: str, loop: Loop) -> None:
        if self.config.hang_limit:
            self._beats.keep(part, loop)

    def _forget(self) -> None:
        """Let go of keys that only the supervisor needs."""
        del self.desk
        self.config.exec_key = None

    # -- life ------------------------------------------------------------------------------

    def run(self, stop_fd: int | None) -> int:
        """Start everything, then watch until told to stop."""
        raise_file_limit()
        host.check_files(FILES, "a controller", "")
        host.no_core_dump()
        gc.freeze()  # what all parts share: a collection in one would copy every page of it
        self.listening.open(self.config, self.runtime)
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
            signal.signal(signal.SIGHUP, self._asked)
        try:
            self._await([self._fork(part) for part in PARTS])
            self._write_files(self.desk.keys)
            self._announce()
            self._watch(stop_fd, wake_read)
            self.log.info("stopping: %s", self._stopping)
            return 0 if not self._stopping.startswith("error") else 1
        finally:
            self._end_parts()
            signal.set_wakeup_fd(-1)
            os.close(wake_read)
            os.close(wake_write)

    def _asked(self, number: int, frame: Any) -> None:
        self._asked_twice = bool(self._stopping)
        self._stopping = self._stopping or f"signal {signal.Signals(number).name}"

    def _await(self, ready: list[int]) -> None:
        deadline = time.monotonic() + START_SECONDS
        for fd in ready:
            left = max(deadline - time.monotonic(), 0.0)
            started = _readable(fd, left) and os.read(fd, 1) == b"1"
            os.close(fd)
            if not started:
                where = self.config.log_dir or "standard error"
                raise LaunchError(f"a part of the controller did not start; see {where}")

    def _watch(self, stop_fd: int | None, wake: int) -> None:
        if stop_fd is not None:
            self._poll.register(stop_fd, select.POLLIN | select.POLLHUP)
        self._poll.register(wake, select.POLLIN)
        while not self._stopping:
            for fd, _ in self._poll.poll(self._hangs.timeout(time.monotonic())):
                if fd == wake:
                    os.read(wake, 64)
                elif fd == stop_fd:
                    if not os.read(fd, 4096):
                        self._stopping = self._stopping or "its launcher has ended"
                        self._poll.unregister(fd)
                elif fd == self.desk.fileno():
                    self._hub_asks()
                elif fd in self._starting:
                    self._part_serves(fd)
                elif fd in self._pidfds:
                    self._part_ended(fd)
            self._look()

    def _look(self) -> None:
        """See whether all parts do something; end one that hangs."""
        for found in self._hangs.look(time.monotonic(), self._pids):
            if found.hangs:
                self._ended[found.pid] = found.text
                os.kill(found.pid, signal.SIGKILL)  # its end is noticed as any other
            else:
                self.log.warning("%s", found.text)
                self.status({"event": "warning", "text": found.text})

    def _part_ended(self, fd: int) -> None:
        """A part died: start it again, unless that happens all the time."""
        pid = self._pidfds.pop(fd)
        self._poll.unregister(fd)
        os.close(fd)
        part = self._pids.pop(pid)
        _, wait_status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(wait_status)
        if self._stopping:
            return
        if code == hub.OPEN_GATE:
            self._fail(
                "a door let in a peer with a wrong key: the ZeroMQ library does not do what"
                " it must, and this controller would not be safe; reinstall pyzmq"
            )
            return
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if pid in self._ended:
            how = f"{how}, as {self._ended.pop(pid)}"
        now = time.monotonic()
        recent = [t for t in self._deaths[part] if now - t < RESTART_WINDOW] + [now]
        self._deaths[part] = recent
        if len(recent) > RESTARTS:
            text = f"the {part} process ended {len(recent)} times in a minute, last by {how}"
            self._fail(f"{text}; see {self.config.log_dir or 'standard error'}")
            return
        self.log.error("the %s process (pid %d) ended by %s; starting it again", part, pid, how)
        self._generations[part] += 1
        self.status({"event": "restarted", "part": part, "reason": how})
        serves = self._fork(part)
        self._starting[serves] = part
        self._poll.register(serves, select.POLLIN)

    def _hub_asks(self) -> None:
        if not self.desk.serve():
            self._desk_closed()

    def _desk_closed(self) -> None:
        if self.desk.fileno() >= 0:
            self._poll.unregister(self.desk.fileno())
            self.desk.close()

    def _part_serves(self, fd: int) -> None:
        """A part that was started again serves, or ended before it could."""
        part = self._starting.pop(fd)
        self._poll.unregister(fd)
        if os.read(fd, 1):
            self.log.info("the %s process serves again", part)
        os.close(fd)

    def _fail(self, text: str) -> None:
        """Stop because of an error that starting again does not mend."""
        self.log.critical(text)
        self.status({"event": "error", "text": text})
        self._stopping = f"error: {text}"

    def _end_parts(self) -> None:
        """End the hub first, so that it can tell everybody; then the schedulers."""
        for part in PARTS:
            for pid in [p for p, name in self._pids.items() if name == part]:
                os.kill(pid, signal.SIGTERM)
            if part == "hub":
                self._reap(lambda name: name == "hub")
        self._reap(lambda name: True)

    def _reap(self, chosen: Callable[[str], bool]) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        for fd, pid in list(self._pidfds.items()):
            if not chosen(self._pids.get(pid, "")):
                continue
            left = 0.0 if self._asked_twice else max(deadline - time.monotonic(), 0.0)
            if not _readable(fd, left):
                if not self._asked_twice:
                    part = self._pids.get(pid, "")
                    text = "the %s process did not end within %g s: it is killed"
                    self.log.warning(text, part, STOP_SECONDS)
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(fd)
            del self._pidfds[fd]
            self._pids.pop(pid, None)

    # -- telling ---------------------------------------------------------------------------

    def _connector(self, role: str, ssh: str, keys: ClusterKeys) -> Connector:
        listening = self.listening
        client = role == "client"
        addresses = listening.client_addresses() if client else listening.addresses()
        tcp = [a for a in addresses[0] if a.startswith("tcp:")]
        return Connector(
            exec_key=keys.secret(role).decode(),
            server_key=keys.server_public.decode(),
            role=role,
            url=tcp[0] if tcp else addresses[0][0],
            location=self.config.location or host.host_name(),
            hostid=host.loopback_id(),
            ssh=ssh,
            addresses=dict(zip(CHANNEL_NAMES, addresses, strict=True)),
            cluster_id=self.config.cluster_id,
            version=__version__,
            reuse=self.config.reuse,
            pid=os.getpid(),
            started=self._started,
        )

    def _write_files(self, keys: ClusterKeys) -> None:
        config = self.config
        client = dump(self._connector("client", config.ssh, keys))
        engine = dump(self._connector("engine", config.enginessh, keys))
        self._wrote_files = True
        files.write_private(config.client_file, client.encode())
        self.client_text = client
        files.write_private(config.engine_file, engine.encode())
        self.engine_text = engine

    def _renewed(self, keys: ClusterKeys) -> None:
        """Write the files of renewed keys, and tell the launcher of new engines' one."""
        self._write_files(keys)
        self.log.warning("the keys of connector files were renewed (ipclusterz revoke)")
        self.status({"event": "renewed", "engine_connector": self.engine_text})

    def _announce(self) -> None:
        tcp = self.listening.tcp_addresses()
        reached = self._reached()
        if reached:
            self.log.warning("listening beyond loopback, as asked: %s", ", ".join(tcp))
            self.log.warning("%s", reached)
        self.log.info(
            "ipclusterz %s on Python %s is up: %s; pid %d; UNIX sockets in %s",
            __version__,
            sys.version.split()[0],
            ", ".join(tcp) or "no TCP port",
            os.getpid(),
            self.runtime,
        )
        addresses = self.listening.addresses()
        self.status(
            {
                "event": "ready",
                "pid": os.getpid(),
                "parts": {part: pid for pid, part in self._pids.items()},
                "url": tcp[0] if tcp else self.listening.ipc[Channel.REGISTRATION][1],
                "beyond": reached,
                "runtime": self.runtime,
                "client_file": self.config.client_file,
                "engine_file": self.config.engine_file,
                "engine_connector": self.engine_text,
                "ports": {
                    name: int(listed[-1].rpartition(":")[2])
                    for name, listed in zip(CHANNEL_NAMES, addresses, strict=True)
                    if listed[-1].startswith("tcp")
                },
            }
        )

    def _reached(self) -> str:
        """Return in words where other hosts can come, and who; '' on loopback only."""
        listening = self.listening
        clients = [place for place in listening.places if listening.client_place(place)]
        return beyond(listening.places, clients)

    def clean(self) -> None:
        """Remove what a controller that has ended leaves: sockets, and files unless kept."""
        self.listening.close()
        if self._wrote_files and not self.config.reuse:
            for path in (self.config.client_file, self.config.engine_file):
                if self._is_ours(path):
                    files.remove(path)
        if self._wrote_files and self._journal:
            files.remove(self._journal)  # everybody was told that this is the end
        # With -r, the tasks in it may be those of a controller before us.
        if self._wrote_files or not self._journal:
            files.remove(self._estate)
        if self._made_runtime:
            import shutil  # at the end, and once

            shutil.rmtree(self.runtime, ignore_errors=True)
        else:
            for name in (*CHANNEL_NAMES, *map(line_name, CHANNEL_NAMES), "monitor"):
                files.remove(os.path.join(self.runtime, name))

    def _is_ours(self, path: str) -> bool:
        """Say whether a connector file is still the one that we wrote."""
        try:
            text = files.read_private(path).decode()
        except Exception:
            return False
        return text in (self.client_text, self.engine_text)


def _readable(fd: int, seconds: float) -> bool:
    """Wait until ``fd`` is readable, or has ended; False after ``seconds``."""
    poller = select.poll()  # select() ends at descriptor 1023
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))
