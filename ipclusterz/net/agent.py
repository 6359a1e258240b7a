"""The agent: the process ``ipenginez`` is; it owns connections and keys, engines run code.

It starts an interpreter (the zygote) that never sees a key and forks engines, holds the
tasks that engines have not begun (:mod:`ipclusterz.core.custody`), brings their output and
results to the controller, and buries them when they die.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from ipclusterz._version import __version__
from ipclusterz.core import actions as do
from ipclusterz.core import message as m
from ipclusterz.core.config import AgentConfig
from ipclusterz.core.connector import Connector
from ipclusterz.core.custody import Custody
from ipclusterz.core.message import Channel, Op, Role, Status
from ipclusterz.core.replacing import Replacing
from ipclusterz.engine import bodies, offspring
from ipclusterz.net import cores, host, process, sharedmemory
from ipclusterz.net.cores import Binding
from ipclusterz.net.discard import Discard
from ipclusterz.net.home import Home, StatusCall
from ipclusterz.net.loop import Loop, monotonic, serve
from ipclusterz.net.nursery import Nursery
from ipclusterz.net.outlog import OutputLog
from ipclusterz.net.process import EngineProcess
from ipclusterz.net.route import Tunnel
from ipclusterz.net.transfer import Carrier

TICK_SECONDS = 0.02
GRACE_SECONDS = 1.0
RANK_SECONDS = 6.0
"""Ranks leave MPI together, so an engine may have to wait for others that are told later."""

REVOKE_SECONDS = 0.002
"""After this the engine has surely seen that it was revoked, or noted the task it began."""

TEXT_LIMIT = 8 * 1024 * 1024
"""Characters of one task's output that travel to its client; the log has all of it."""

LAST_ENDED = "its last engine has ended"

MOST_ENDED = 100
"""Engines whose end is remembered, for a hub that may not have heard of it."""

_LISTEN_SECONDS = 0.3  # for a signal to a whole job to reach us as well
_LISTEN_AGAIN_SECONDS = 5.0
_IN_MPI = "from mpi4py import MPI; comm = MPI.COMM_WORLD"
"""What an engine that is a rank of MPI has in its namespace, before the user's own code."""

_failure = msgspec.msgpack.Decoder(m.Failure)


class Agent:
    """One agent: sockets on one side, engines on the other, custody in between."""

    def __init__(
        self,
        config: AgentConfig,
        connector: Connector,
        nursery: Nursery,
        status: StatusCall,
        log: Any,
        prefix: str,
        tunnel: Tunnel | None = None,
    ) -> None:
        self.config = config
        self.status = status
        self.log = log
        self.loop = loop = Loop()
        self._home = Home(loop, config, connector, tunnel, self, status, log)
        self.custody = Custody(self._home.lease)
        self.processes: dict[int, EngineProcess] = {}
        self.fostered: dict[int, Callable[[int], None]] = {}
        self.binding: Binding | None = None
        self.threads: dict[str, str] = {}
        self._cores: dict[int, list[int]] = {}  # of engines that are bound to some
        self._nursery = nursery
        self._by_pid: dict[int, EngineProcess] = {}
        self._infos: dict[int, m.EngineInfo] = {}
        self._came: list[m.EngineInfo] = []
        self._wanted = config.n
        self._ready = 0
        self._silent: set[int] = set()  # ready, and not told of yet: the hub has to know first
        self._boot: dict[int, int] = {}  # key of a start-up task -> engine
        self._replacing = Replacing(config.restart_engines)
        self._ticking = False
        self._ending = ""
        self._draining = ""  # why, once we do
        self._ended: deque[m.EngineDown] = deque(maxlen=MOST_ENDED)
        self._declared: list[int] = []  # engines that we last registered with
        self._told_by = ""  # the signal that asked us to end, in words
        self._listened = 0.0
        self._sessions: list[int] = []  # of engines that end with us
        self._code = 0
        self._deserted = False  # by the controller, which ends
        self._outlog = OutputLog(config.log_dir, prefix)
        self.custody.enough = max(self.custody.enough, 2 * cores.usable())
        self.custody.is_here = bodies.here
        self.custody.observe = self._observe
        self._folder, self._proof, self._folders = sharedmemory.make(
            config.shm_limit, self._warn
        )
        status({"event": "bodies", "bodies": self._folders})
        self._discard = Discard(self._folder, loop.after)
        self._carrier = Carrier(
            self._folder, self._proof, self._home.say, self._brought, self._discard.spares
        )
        loop.flush.insert(0, self._carry)

    def work(self, channel: Channel, messages: list[Any]) -> None:
        """A scheduler says something."""
        self.custody.handle(channel, messages, monotonic())

    def renewed(self, channel: Channel) -> None:
        """A scheduler's link began anew: what was on its way is lost."""
        self.custody.renewed(channel)
        self._carrier.renewed(channel)

    def _brought(self, id: bytes, body: m.Body | None, problem: str) -> None:
        self.custody.fetched(id, body, problem, monotonic())

    def _warn(self, text: str) -> None:
        self.log.warning(text)
        self.status({"event": "warning", "text": text})

    # -- life ------------------------------------------------------------------------------

    def run(self, stop_fd: int | None) -> int:
        """Serve until told to end."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._asked)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
            signal.signal(signal.SIGHUP, self._asked)
        if self.config.job:
            self._expect_end()
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # it wakes the loop
        if stop_fd is not None:
            self.loop.add(stop_fd, lambda: self._launcher(stop_fd))
        self._nursery.attach(self.loop, self._nursery_says)
        self._home.start()
        self.loop.flush.insert(0, self._reap)  # before what it finds is carried out
        try:
            serve(self.loop)
        finally:
            self._close()
        return self._code

    def _asked(self, number: int, frame: Any) -> None:
        if self._ending:
            self.loop.running = False
        job = f"job {self.config.job} was ended by " if self.config.job else ""
        reason = f"{job}signal {signal.Signals(number).name}"
        if self.config.rank is not None:
            name = signal.Signals(number).name
            reason = f"the MPI job was ended ({name}), as mpiexec does when a rank has died"
        self._told_by = reason
        self.loop.after(0.0, lambda: self._end_by(reason))

    def _end_by(self, reason: str) -> None:
        self._reap()  # an engine that has died has a cause of its own to tell
        self.end(reason)

    def _launcher(self, fd: int) -> None:
        if not os.read(fd, 4096):
            self.loop.remove(fd)
            self.end("its launcher has ended")

    def _expect_end(self) -> None:
        """A batch job ends when its system wants; it is warned by a signal, or the clock."""
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._warned)
        left = self.config.ends_in
        if left > 0:
            margin = min(self.config.drain, left / 2)
            why = f"job {self.config.job} reaches its walltime in {margin:.0f} s"
            self.loop.after(left - margin, lambda: self.drain(why))

    def _warned(self, number: int, frame: Any) -> None:
        why = f"job {self.config.job} was warned by {signal.Signals(number).name}: it ends soon"
        self.loop.after(0.0, lambda: self.drain(why))

    def drain(self, reason: str) -> None:
        """Begin nothing new, end with what runs; what has not begun goes elsewhere."""
        if self._ending or self._draining:
            return
        self._draining = reason
        self.log.info("draining: %s", reason)
        self.status({"event": "warning", "text": reason})
        self._home.tell(m.Draining(reason))
        for engine in self.processes.values():
            engine.ending = engine.ending or reason
        self.custody.drain(monotonic())

    def end(self, reason: str, code: int = 0) -> None:
        """Begin to end: engines first, then us."""
        if self._ending:
            return
        self._ending = reason
        self._code = code
        self.log.info("ending: %s", reason)
        for engine in list(self.processes.values()):
            engine.ending = reason
            if engine.unborn:
                del self.processes[engine.number]
                engine.close()
                continue
            engine.hang_up()
            if engine.page.running:
                engine.kill(signal.SIGTERM)
            elif not engine.started and engine.page.pid > 0 and self.config.rank is not None:
                os.kill(engine.page.pid, signal.SIGKILL)  # it waits in MPI for the others
        grace = GRACE_SECONDS if self.config.rank is None else RANK_SECONDS
        self.loop.after(grace, self._finish)
        self._maybe_finish()

    def _maybe_finish(self) -> None:
        if self._ending and not self.processes:
            self.loop.running = False

    def _finish(self) -> None:
        for engine in self.processes.values():
            engine.kill(signal.SIGKILL)
        self.loop.running = False

    # -- the controller --------------------------------------------------------------------

    def registration(self, known: m.Registered | None) -> m.Register:
        """Return what to register with."""
        rank = self.config.rank
        self._declared = list(self.processes)
        ended = [(down.engine, down.reason.partition("\n")[0]) for down in self._ended]
        return m.Register(
            int(Role.ENGINE),
            m.PROTOCOL,
            __version__,
            host.host_name(),
            host.host_id(),
            os.getpid(),
            self._wanted if known is None else 0,
            self._declared,
            known.peer if known is not None else b"",
            session=known.session if known is not None else b"",
            job=self.config.job,
            world=rank.world if rank else "",
            rank=rank.rank if rank else -1,
            size=rank.size if rank else 0,
            ended=ended,
        )

    def told(self, message: Any) -> None:
        """The hub says something."""
        if isinstance(message, m.Refused):
            self.fail(f"the controller refused this agent: {message.text}")
        elif isinstance(message, m.Known):
            for number in message.engines:
                self._tell_of(number)
        elif isinstance(message, m.Allocated):
            self._start(self._replacing.granted(message.engines))
        elif isinstance(message, m.Shutdown):
            self._deserted = True
            self.end(f"the controller ends: {message.reason}")

    def entered(self, registered: m.Registered, first: bool) -> None:
        """We are let in: start engines, or tell again what the hub may have missed."""
        self.custody.lease = self._home.lease
        if first:
            self._start(registered.engines)
            return
        if self._infos:
            self._home.tell(m.EnginesUp(list(self._infos.values())))
        for down in self._ended:  # after we had registered with them, before we were let in
            if down.engine in self._declared:
                self._home.tell(down)
        if self._draining:
            self._home.tell(m.Draining(self._draining))
        if self._replacing.asked:  # the question may have been lost with its connection
            self._home.tell(m.Allocate(len(self._replacing.asked)))

    def connected(self, since: float | None) -> None:
        """The controller is there (None), or not since a monotonic time."""
        if since is None:
            self.custody.together()
        else:
            self.custody.alone(since)
            self._tick_soon()

    def fail(self, text: str) -> None:
        """End with an error."""
        self.log.error(text)
        self.status({"event": "error", "text": text})
        self.end(text, 1)

    # -- engines ---------------------------------------------------------------------------

    def _start(self, numbers: list[int]) -> None:
        for number in numbers:
            if number not in self.processes and not self._ending:
                made = EngineProcess(self.loop, number, self._say, self._text)
                self.processes[number] = made
                self._nursery.fork(made, self._fork(made))

    def _fork(self, made: EngineProcess) -> m.Fork:
        env = {**self.threads, **self.config.env}
        env[offspring.ENGINE_MARK] = str(made.number)
        env["IPCLUSTERZ_CLUSTER_ID"] = self.config.cluster_id
        return m.Fork(
            made.number,
            len(self.processes) - 1,
            self._folder,
            self._proof,
            made.token,
            env,
            self.config.work_dir,
            self._cores_of(made.number),
        )

    def _cores_of(self, number: int) -> list[int]:
        """Give an engine a share of the cores that are bound to engines; [] if none are."""
        if self.binding is None:
            return []
        cores = self.binding.free(list(self._cores.values()))
        if cores:
            self._cores[number] = cores
        return cores

    def _nursery_says(self, problem: str) -> None:
        """The zygote could not start, or ended: engines live on, new ones cannot come."""
        if not problem or self._ending:
            return
        starting = [e for e in self.processes.values() if not e.started]
        if self._home.registered is None or (starting and not self._complete):
            self.fail(f"engines cannot be started: {problem}")
            return
        if not starting:
            self.log.error("the zygote has ended: %s", problem)
        for engine in starting:  # in place of others, which is no reason to end all
            if engine.unborn or not engine.page.pid:
                self._gone(engine, f"it cannot be started: {problem}", 0)

    def _say(self, engine: EngineProcess, say: m.Say) -> None:
        now = monotonic()
        if say.pid and not engine.started:
            self._hello(engine, say.pid)
        if say.outcomes:
            engine.overtake()
            boots = [o for o in say.outcomes if o.key in self._boot] if self._boot else []
            for outcome in boots:
                self._booted(engine, outcome)
            self.custody.outcomes(engine.number, say.outcomes, now)
        if say.missing or say.undone:
            self.custody.undone(engine.number, say.missing, say.undone, now)
        self.custody.settle(now)

    def _hello(self, engine: EngineProcess, pid: int) -> None:
        engine.started = True
        engine.pid = pid
        self._by_pid[pid] = engine
        code = self._boot_code()
        if code:
            key = engine.number + 1  # client 0 is nobody: its keys are ours to use
            self._boot[key] = engine.number
            import pickle

            work = m.Work(key, int(Op.EXECUTE), b"", pickle.dumps((code, True), 5))
            engine.send(m.Batch([], [work]))
        else:
            self._engine_ready(engine)

    def _boot_code(self) -> str:
        lines = [_IN_MPI] if self.config.rank is not None else []
        if self.config.startup:
            path = self.config.startup
            lines.append(f"exec(compile(open({path!r}).read(), {path!r}, 'exec'))")
        if self.config.command:
            lines.append(self.config.command)
        return "\n".join(lines)

    def _observe(self, number: int) -> dict[str, Any]:
        """Return what an engine's process shows without being asked."""
        engine = self.processes.get(number)
        if engine is None or engine.closed:
            return {}
        seen: dict[str, Any] = {**host.vitals(engine.pid), "running": engine.page.running}
        seen["cores"] = self._cores.get(number, [])
        if origin := self._replacing.origin(number) or self.config.origin:
            seen["origin"] = origin
        return seen

    def _booted(self, engine: EngineProcess, outcome: m.Outcome) -> None:
        self._boot.pop(outcome.key, None)
        if outcome.status != Status.OK:
            failure = _failure.decode(outcome.data)
            what = f"{failure.name}: {failure.text}\n{failure.traceback}".rstrip()
            if not self._complete:
                self.fail(f"engine {engine.number} failed at its start-up code: {what}")
                return
            engine.ending = f"its start-up code failed with {failure.name}: {failure.text}"
            engine.kill(signal.SIGKILL)
        else:
            self._engine_ready(engine)

    def _engine_ready(self, engine: EngineProcess) -> None:
        registered = self._home.registered
        assert registered is not None
        number = engine.number
        info = m.EngineInfo(number, host.host_name(), engine.pid, registered.peer)
        self._infos[number] = info
        self._came.append(info)
        self._ready += 1
        self._silent.add(number)
        self.custody.engine_up(number, monotonic())

    def _tell_of(self, number: int) -> None:
        """Say that an engine is ready, once: whoever connects now is told of it by the hub."""
        if number not in self._silent:
            return
        self._silent.discard(number)
        self.status({"event": "engine", "id": number, "pid": self._infos[number].pid})
        if text := self._replacing.origin(number):
            self.log.info("%s", text)
            self.status({"event": "replaced", "id": number, "text": text})
        if self._ready == self._wanted and not self._silent:
            self.log.info("all %d engines are ready", self._ready)
            self.status({"event": "engines", "n": self._ready})

    # -- output ----------------------------------------------------------------------------

    def _text(self, engine: EngineProcess, key: int, name: int, text: str) -> None:
        if name < m.DISPLAY:
            self._outlog.write(engine.number, text)
        if key < 1 << m.COUNTER_BITS:
            return  # nobody asked for it
        printed = self.custody.printed
        total = printed.get(key, 0)
        if name >= m.DISPLAY:  # the engine sees to it that they are not too many
            engine.displayed(key, len(text))
        else:
            sent = total - engine.displayed(key)
            if sent > TEXT_LIMIT:
                return
            if sent + len(text) > TEXT_LIMIT:
                mark = f"\n[output beyond {TEXT_LIMIT} characters is in the engine's log]\n"
                text = text[: TEXT_LIMIT - sent] + mark
        printed[key] = total + len(text)
        self._home.dials[Channel.IOPUB].send(m.Stream(key, engine.number, name, text))

    # -- the end of engines ----------------------------------------------------------------

    def _reap(self) -> None:
        """Bury children that have ended (runs in every turn: one cheap call when none)."""
        while True:
            try:
                pid, wait_status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            engine = self._by_pid.pop(pid, None) or self._unborn(pid)
            if engine is not None:
                self._bury(engine, pid, wait_status)
            elif pid == self._nursery.pid:
                self._nursery.ended(wait_status)
            elif pid in self.fostered:
                self.fostered.pop(pid)(os.waitstatus_to_exitcode(wait_status))

    def _unborn(self, pid: int) -> EngineProcess | None:
        """An engine that ended before it could say anything left its pid in its page."""
        for engine in self.processes.values():
            if not engine.started and engine.page.pid == pid:
                return engine
        return None

    def _bury(self, engine: EngineProcess, pid: int, wait_status: int) -> None:
        number, now = engine.number, monotonic()
        engine.read()
        self._bury_children(number, pid)
        running = engine.page.running
        outcomes = engine.committed()
        engine.finish_output()
        if outcomes:
            self.custody.outcomes(number, outcomes, now)
            if any(o.key == running for o in outcomes):
                running = 0
        reason = process.certificate(wait_status, engine.last_words())
        if self.config.job and os.waitstatus_to_exitcode(wait_status) == -signal.SIGTERM:
            engine.ending = engine.ending or self._end_of_all()
        if engine.ending:
            how = f" ({reason.splitlines()[0]})" if wait_status else ""
            reason = f"{engine.ending}{how}"
        # A rank that did not leave MPI in good order must not look as if it had.
        self._gone(
            engine, reason, running, int(self.config.rank is not None and wait_status != 0)
        )

    def _end_of_all(self) -> str:
        """Return by what a batch system ends the job, '' if it does not.

        It sends the signal that an engine has died of to all processes; ours may be late.
        """
        now = monotonic()
        if now - self._listened > _LISTEN_AGAIN_SECONDS:
            self._listened = now
            while not self._told_by and monotonic() - now < _LISTEN_SECONDS:
                time.sleep(_LISTEN_SECONDS / 20)  # the handler runs meanwhile
        return self._told_by

    @property
    def _complete(self) -> bool:
        """Whether all engines that were asked for have been ready."""
        return self._ready >= self._wanted

    def _gone(self, engine: EngineProcess, reason: str, running: int, code: int = 0) -> None:
        """An engine is no more: tell everybody, replace it or end if it was the last one."""
        number, pid = engine.number, engine.pid or engine.page.pid
        del self.processes[number]
        self._tell_of(number)  # that it was there comes before that it is gone
        ready = self._infos.pop(number, None) is not None
        self._boot.pop(number + 1, None)
        self._cores.pop(number, None)
        engine.close()
        self._outlog.close(number)
        if not self._deserted:  # else clients hear that the controller has ended
            self.custody.died(number, reason, running, monotonic())
        down = m.EngineDown(number, reason)
        self._ended.append(down)
        self._home.tell(down)
        self.log.info("engine %d (pid %d): %s", number, pid, reason)
        replaced = self._replace(engine, reason, ready)
        if not ready and not replaced and not self._complete:
            used = self._replacing.used_up(number)
            self.fail(f"engine {number} ended at its start: {reason}{used and f'; {used}'}")
        else:
            if ready and replaced and not self._complete:
                self._ready -= 1
            told = {"event": "engine_down", "id": number, "reason": reason}
            self.status({**told, "replaced": True} if replaced else told)
        if self._ending:
            self._maybe_finish()
        elif not self.processes and self._complete and not self._replacing.pending:
            self.end(LAST_ENDED, code)

    def _replace(self, engine: EngineProcess, reason: str, ready: bool) -> bool:
        """Have another engine started for one that died; False where none will be."""
        number, replacing = engine.number, self._replacing
        unwanted = engine.asked or self._ending or self._draining
        if unwanted or self.config.rank is not None:  # no process can take a rank's place
            return False
        pause = replacing.died(number, reason, ready, engine.replace)
        if pause is None:
            if self._complete and (text := replacing.used_up(number)):
                self._warn(text)
            return False
        if pause:
            text = (
                f"engine {number} ended at its start; another one is started in"
                f" {pause:.0f} s, {replacing.remaining()}"
            )
            self._warn(text)

        def due() -> None:
            if not self._ending and not self._draining:
                replacing.due(number, reason)
                self._home.tell(m.Allocate(1))
                return
            replacing.give_up()
            if not self.processes:
                self.end(LAST_ENDED)

        if pause:
            self.loop.after(pause, due)
        else:
            due()
        return True

    def _bury_children(self, number: int, pid: int) -> None:
        """An engine's descendants end with it (when all end, they are looked for once)."""
        if self._ending:
            self._sessions.append(pid)
        else:
            spare = {e.pid for e in self.processes.values()} | {self._nursery.pid}
            offspring.end(lambda seen: seen.of_engine(number, pid, os.getpid(), spare))

    # -- carrying out ----------------------------------------------------------------------

    def _carry(self) -> None:
        custody = self.custody
        while custody.out:
            out, custody.out = custody.out, []
            dials = self._home.dials
            for action in out:
                kind = action[0]
                if kind == do.SEND:
                    dials[action[1]].link.put(action[2])
                elif kind == do.BATCH:
                    engine = self.processes.get(action[1])
                    if engine is not None:
                        engine.send(m.Batch(action[2], action[3]))
                else:
                    self._rare(action)
        if self._came:
            came, self._came = self._came, []
            self._home.tell(m.EnginesUp(came))
        if custody.items and not self._ticking:
            self._tick_soon()

    def _rare(self, action: do.Action) -> None:
        kind, number = action[0], action[1]
        if kind == do.DROP:
            self._discard.drop(number)
            return
        if kind == do.END:
            self.end(number, 1)
            return
        if kind == do.FETCH:
            self._carrier.bring(action[1], action[2], action[3])
            return
        if kind == do.PIECE:
            channel, message = action[1], action[2]
            if isinstance(message, m.Fetch):
                self._carrier.serve(channel, message)
            else:
                self._carrier.came(message)
            return
        engine = self.processes.get(number)
        if engine is None:
            return
        if kind == do.RECLAIM:
            keys, functions = engine.reclaim()
            self.custody.reclaimed(number, keys, functions, monotonic())
        elif kind == do.REVOKE:
            engine.page.revoke()
            self.loop.after(REVOKE_SECONDS, lambda: self._revoked(engine))
        elif kind == do.SIGNAL:
            engine.kill(action[2])
        elif kind == do.INTERRUPT:
            engine.interrupt(action[2])
        elif kind == do.KILL:
            if engine.page.running == action[2]:
                engine.replace = True
                engine.kill(signal.SIGKILL)
        elif kind == do.STOP:
            engine.asked = True
            engine.ending = engine.ending or "it was asked to stop"
            engine.hang_up()

    def _revoked(self, engine: EngineProcess) -> None:
        """See what an engine runs that may begin nothing more, and take the rest."""
        running = 0 if engine.closed else engine.page.running
        if running:
            engine.read()  # what it said before it began this belongs to batches before
            now = monotonic()
            self.custody.outcomes(engine.number, engine.committed(), now)
            self.custody.revoked(engine.number, running, now)

    def _tick_soon(self) -> None:
        self._ticking = True
        self.loop.after(TICK_SECONDS, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        self.custody.tick(monotonic())
        if self._home.problem and not self.custody.items:
            self._ticking = True
            self.loop.after(1.0, self._tick)

    # -- ending ----------------------------------------------------------------------------

    def _close(self) -> None:
        engines = list(self.processes.values())
        for engine in engines:
            engine.kill(signal.SIGKILL)
            self._sessions.append(engine.pid)
        spare = {os.getpid(), self._nursery.pid}
        offspring.end(lambda seen: seen.of_agent(self._nursery.token, self._sessions, spare))
        for engine in engines:
            if engine.pid:
                try:
                    os.waitpid(engine.pid, 0)
                except ChildProcessError:
                    pass
            engine.close()
        self._carry()
        if self._ending == LAST_ENDED:
            self._home.hand_over()  # what became of it, and of what it ran
        self._home.close(self._ending or "it ended")
        self._outlog.stop()
        self._carrier.close()
        self._discard.close()
        for folder in self._folders:
            bodies.remove_folder(folder)
        self._home.end()
