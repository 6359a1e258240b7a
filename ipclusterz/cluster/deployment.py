"""One running cluster, from its launcher's side: its jobs, what they told, its state file.

Rules: the watcher's thread only notes events (under ``changed``) and hands the connector
on; everything else happens in the caller's thread, which waits on ``changed`` with a bound
and says every few seconds what it waits for.  Whatever is started is remembered in the
state file at once, so that ``ipclusterz stop`` finds it even if this process is killed.
The file is read again before each change: others write it as well, and when it has gone, or
is a later cluster's, it is not ours to change.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from threading import Condition, RLock
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from ipclusterz.cluster import logs
from ipclusterz.cluster import state as states
from ipclusterz.cluster.engines import EngineSet
from ipclusterz.cluster.jobs import HubTeller
from ipclusterz.cluster.kept import settle
from ipclusterz.cluster.settings import ControllerSettings, SettingError, usable_cores
from ipclusterz.cluster.spec import agent_spec, connector_line, controller_spec, forking
from ipclusterz.cluster.watch import Watcher
from ipclusterz.core.config import AgentConfig, ControllerConfig
from ipclusterz.error import ClusterError, KernelError, LaunchError
from ipclusterz.error import TimeoutError as OurTimeoutError
from ipclusterz.files import quote, read_private, remove
from ipclusterz.launchers.base import (
    Event,
    Job,
    JobState,
    Launcher,
    LaunchSpec,
    get_launcher,
)
from ipclusterz.launchers.sibling import start_both
from ipclusterz.paths import ProfileDir, ipython_dir

STOP_SECONDS = 10.0
"""How long a job may take to end by itself."""

_TELL_SECONDS = 5.0
_LAST_WORDS_SECONDS = 1.0
_ORPHAN_SECONDS = 5.0
_ONCE = ("wait", "dry_run")  # options that are about one launch
_SECRET = "engine_connector"
_FOR_EVER = float("inf")
_NEWS_SECONDS = 10.0  # for a batch system to tell why a job waits
_NOBODYS = ":left"  # begins the names of jobs that a former cluster could not cancel


class AlreadyRunning(ClusterError):
    """A cluster with this id runs in this profile."""


class Plan(Struct):
    """What to start: a controller as the user describes it, and a pattern for engines.

    ``options`` are those of the launcher of engines.  ``own`` says that this process is a
    command of ours and may be told to end; ``timeout`` (seconds) bounds each wait for a
    start; ``passing`` says that the cluster id is used once and never again.
    ``controller_launcher`` is ``local``, or a batch system's: see
    :mod:`ipclusterz.cluster.queued`.
    """

    profile: ProfileDir
    cluster_id: str
    controller: ControllerSettings = field(default_factory=ControllerSettings)
    agent: AgentConfig = field(default_factory=AgentConfig)
    launcher: str = "local"
    options: dict[str, Any] = {}
    timeout: float = 60.0
    log_level: str = "INFO"
    log_dir: str = ""
    own: bool = False
    passing: bool = False
    controller_launcher: str = "local"


class Deployment:
    """Starts, watches and stops what a :class:`Plan` describes."""

    def __init__(self, plan: Plan, notice: Callable[[Event], None] | None = None) -> None:
        self.plan = plan
        self.sets: dict[str, EngineSet] = {}
        self.controller: Job | None = None
        self.controller_end: JobState | None = None
        self.ready: Event | None = None
        self.state: states.State | None = None
        self.generation = 0
        """How often this was stopped: a start that was begun before has nothing to do now."""
        self._notice = notice
        self._changed = Condition()
        # Held by whoever launches or stops: what is launched meanwhile would be forgotten.
        self._launching = RLock()
        self._watcher: Watcher | None = None
        self._teller: HubTeller | None = None
        self._launched = 0
        self._telling = False
        self._foreign = False
        self._said = ""
        self._standing: Event = {}
        self._going_on: list[Job] = []  # jobs that a batch system did not cancel
        self.last_words = ""
        """Why a controller in a job is stopped, for those who look for the cluster later."""
        self._voice: Callable[[Event], None] | None = None

    @property
    def running(self) -> bool:
        """Whether there is a controller, as far as is known."""
        return self.controller is not None and self.controller_end is None

    def attach(self, state: states.State) -> None:
        """Work with a cluster that something else started: engines can be added to it."""
        self.state = state
        self.ready = {"event": "ready"}
        self._foreign = True

    def launch_both(self, n: int | None = None, of: int | None = None) -> EngineSet:
        """Start controller and engines by one process where that can be; return the set.

        Here and below, ``of`` is the generation that the start belongs to: LaunchError when
        the cluster was stopped since.
        """
        plan = self.plan
        alone = plan.agent.python or plan.agent.restart_engines or sys.platform != "linux"
        if alone or {plan.launcher, plan.controller_launcher} != {"local"}:
            self.launch_controller(of=of)
            return self.launch_engines(n, of=of)
        count = n if n is not None else _default_n(self.launcher())
        made = self.launch_controller(count, of)
        assert made is not None
        return made

    def launch_controller(self, engines: int = 0, of: int | None = None) -> EngineSet | None:
        """Start the controller's process; AlreadyRunning if its cluster id is taken.

        With ``engines``, together with the process of so many, whose set is returned.
        """
        with self._launching:
            self._check_generation(of)
            return self._launch_controller(engines)

    def _launch_controller(self, engines: int) -> EngineSet | None:
        plan = self.plan
        if self.running:
            raise AlreadyRunning(f"this cluster ({plan.cluster_id!r}) is started already")
        if plan.controller_launcher != "local":
            self._submit_controller()
            return None
        plan.profile.create()
        if plan.log_dir:
            logs.prune(plan.log_dir, living=states.ids(plan.profile))
        with states.lock(plan.profile):
            kept = check_free(plan.profile, plan.cluster_id)
            config = settle(plan.controller, plan.profile, plan.cluster_id)
            state = self._new_state(config, kept)
            self.state = state
            spec = controller_spec(config, state.token)
            made = None
            job: Job
            if engines:
                name = self._new_name(state)
                other, job = start_both(forking(self.engines_spec(engines, name), "both"), spec)
                made = EngineSet(name, other, engines, generation=self.generation)
                self.sets[name] = made
                state.engine_sets[name] = states.Process.of(other.pid, engines)
            else:
                job = get_launcher("local").start(spec)
                state.controller = states.Process.of(job.pid)
            self.controller, self.controller_end, self.ready = job, None, None
            states.write(state)
        self._watch(job)
        for name, left in kept.items():
            self._adopt(name, left)
        if made is not None:
            self._watch(made.job)
        return made

    def _adopt(self, name: str, left: states.BatchJobs) -> None:
        """Watch, and some day cancel, jobs of the cluster before this one: see ``-r``."""
        if name.startswith(_NOBODYS):
            return
        try:
            launcher: Any = self.launcher()
            if not hasattr(launcher, "adopt") or launcher.system().name != left.system:
                return
        except LaunchError:
            return  # they are in the state file all the same
        spec = replace(self.engines_spec(left.n, name), folder=left.folder)
        job = launcher.adopt(spec, left.ids)
        with self._changed:
            made = EngineSet(name, job, left.n, told=True, complete=True)
            made.generation = self.generation
            self.sets[name] = made
        self._watch(job)

    def _new_state(
        self, config: ControllerConfig, kept: dict[str, states.BatchJobs]
    ) -> states.State:
        """Return the state of a cluster that is about to start; its log settings are made."""
        plan = self.plan
        config.log_dir, config.log_level = plan.log_dir, plan.log_level
        if not config.reuse:
            # A client must not find, nor wait on, a connector from before.
            remove(config.client_file)
            remove(config.engine_file)
        state = states.new(plan.profile, plan.cluster_id, plan.own)
        state.reuse = config.reuse
        state.jobs = kept
        state.mode = plan.launcher
        state.options = {k: v for k, v in plan.options.items() if k not in _ONCE}
        return state

    def _submit_controller(self) -> None:
        """Submit the controller's job, and note it for whoever stops the cluster."""
        from ipclusterz.cluster import queued  # only for controllers in jobs

        plan = self.plan
        if self._notice is None:
            self._voice = queued.Voice()
        launcher = queued.launcher_of(plan)
        told: list[str] = []
        config = queued.configure(plan, launcher.options.allow_loopback, told.append)
        plan.profile.create()
        if plan.log_dir:
            logs.prune(plan.log_dir, living=states.ids(plan.profile))
        with states.lock(plan.profile):
            state = self._new_state(config, check_free(plan.profile, plan.cluster_id))
            state.controller_job = queued.NAME
            self.controller_end, self.ready, self._said, self._standing = None, None, "", {}
            self.state = state
            states.write(state)  # first of all: nobody else takes this id meanwhile
        for text in told:
            self._say({"event": "told", "text": text})
        self.controller = queued.submit(launcher, config, state.token, plan.profile)
        self._remember_jobs(queued.NAME, self.controller)
        self._watch(self.controller)

    def launch_engines(
        self, n: int | None = None, name: str | None = None, of: int | None = None
    ) -> EngineSet:
        """Start a process for ``n`` engines; it is given the connector when there is one."""
        with self._launching:
            self._check_generation(of)
            return self._launch_engines(n, name)

    def _launch_engines(self, n: int | None, name: str | None) -> EngineSet:
        launcher = self.launcher()
        count = n if n is not None else _default_n(launcher)
        if count < 1:
            raise SettingError(f"n is {count}: start at least one engine")
        reserved = name or self._reserve_name()
        try:
            job = launcher.start(self.engines_spec(count, reserved))
        except BaseException:
            if not name:
                with suppress(KernelError):
                    self.remember_engines(reserved, None)
            raise
        name = reserved
        made = EngineSet(name, job, count, generation=self.generation)
        with self._changed:
            self.sets[name] = made
        self.remember_engines(name, states.Process.of(job.pid, count))
        self._watch(job)
        if self.ready is not None:
            self._tell(made)
            self._remember_jobs(made.id, made.job, made.n)
        return made

    def launcher(self) -> Launcher:
        """Return the launcher of engines; LaunchError when there is none of that name."""
        plan = self.plan
        return get_launcher(plan.launcher, plan.options, plan.profile.path)

    def check_engines(self, n: int | None) -> None:
        """Raise LaunchError if the launcher knows already that it cannot start engines."""
        launcher = self.launcher()
        state = self.state
        if self._foreign and state and state.controller_job and not state.controller_pid:
            from ipclusterz.cluster import queued  # only for controllers in jobs

            raise LaunchError(
                f"the controller does not run yet: {queued.standing(state)}; add engines when"
                " it does ('ipclusterz status' tells)"
            )
        check = getattr(launcher, "check", None)
        if check is not None:
            check(self.engines_spec(n or _default_n(launcher), "check"))

    def engines_spec(self, count: int, name: str) -> LaunchSpec:
        """Return the launch of a set of engines, as data."""
        plan = self.plan
        config = replace(
            plan.agent,
            n=count,
            cluster_id=plan.cluster_id,
            log_dir=plan.log_dir,
            log_level=plan.log_level,
        )
        token = self.state.token if self.state else os.urandom(8).hex()
        # Of a controller that something else started it is not known.
        lease = plan.agent.lease or (0.0 if self._foreign else plan.controller.lease)
        made = agent_spec(config, token, name, plan.profile)
        if plan.launcher == "local":
            made = forking(made)
        return replace(made, lease=lease)

    def remember_engines(self, name: str, process: states.Process | None) -> None:
        """Note in the state file which process holds a set of engines (None: no more)."""

        def note(state: states.State) -> None:
            if process is None:
                state.engine_sets.pop(name, None)
                state.jobs.pop(name, None)
                state.away.pop(name, None)
            else:
                state.engine_sets[name] = process

        self._note(note)

    def _note(self, change: Callable[[states.State], None]) -> None:
        """Change the state file: read, change, write, since others add engines to it as well.

        It is left alone when it has gone, or is another cluster's by now: this one was
        stopped, and would seem to be back.
        """
        with states.lock(self.plan.profile):
            mine = self.state
            state = states.reread(mine) if mine is not None else None
            if state is None:
                return
            change(state)
            if self.state is mine:  # else it was stopped just now
                self.state = state
            states.write(state)

    def _remember_jobs(
        self, name: str, job: Job, n: int = 0, told: Event | None = None
    ) -> None:
        """Note batch jobs in the state file, so that others can cancel and show them."""
        record = getattr(job, "record", None)
        if record is None or not job.ids:  # type: ignore[attr-defined]
            return

        def note(state: states.State) -> None:
            known = state.jobs.setdefault(name, states.BatchJobs(**record(), n=n))
            if told is not None and "job" in told:
                known.texts[told["job"]] = told["text"]
            elif told is not None:
                state.controller_pid = int(told["pid"])

        try:
            self._note(note)
        except KernelError:
            pass  # the same as for folders

    def await_controller(self, of: int | None = None) -> None:
        """Wait until the controller listens; LaunchError with its own words if it cannot.

        One in a batch job is waited for as long as that stands in the queue.
        """
        if not getattr(self.controller, "patient", False):
            self._wait(
                lambda: self.ready is not None, lambda: "the controller to listen", of=of
            )
            return
        self._wait(
            self._job_ready,
            lambda: f"the controller; {self._standing.get('text', 'its job was submitted')}",
            _FOR_EVER,
            of=of,
        )

    def await_first_news(self, of: int | None = None) -> bool:
        """Wait until a controller's job is known to wait, or listens; tell whether it does.

        Not longer than a batch system may take to say so.
        """
        what = "the batch system to tell of the controller's job"
        for done in (
            lambda: self._standing.get("state", "submitted") != "submitted",
            lambda: self._standing.get("state") == "pending" or self._job_ready(),
        ):
            self._wait(done, lambda: what, _NEWS_SECONDS, strict=False, of=of)
        return self._job_ready()

    def _job_ready(self) -> bool:
        from ipclusterz.cluster import queued  # only for controllers in jobs

        plan = self.plan
        return self.ready is not None and queued.readable(
            plan.profile, plan.cluster_id, int(self.ready["pid"])
        )

    def await_engines(self, made: EngineSet) -> None:
        """Wait until a set is complete; LaunchError with the engine's words if it cannot.

        Engines in batch jobs are waited for as the launcher's options say, and for ever.
        """
        if made.patient:
            self._await_patiently(made)
            return
        self._wait(
            lambda: made.complete or made.failed,
            lambda: f"engines, {len(made.ready)}/{made.n} are ready",
            of=made.generation,
        )
        if made.complete:
            self._tell_missing(made)
            return
        with self._changed:
            # A process that reported a problem says more by its end.
            self._changed.wait_for(lambda: made.end is not None, _LAST_WORDS_SECONDS)
        raise LaunchError(made.explanation)

    def _tell_missing(self, made: EngineSet) -> None:
        """Say what did not come, if nobody listens to events."""
        if made.missing and self._notice is None:
            import warnings  # only when something is wrong

            warnings.warn("\n".join(made.missing), stacklevel=2)

    def _await_patiently(self, made: EngineSet) -> None:
        """Wait for acceptance and the first news, then for as many engines as are wanted."""
        wanted = min(int(self.plan.options.get("wait", 0)), made.n)
        if made.problem:
            raise LaunchError(made.problem)
        self._wait(
            lambda: made.failed or any(state != "submitted" for state, _ in made.jobs.values()),
            lambda: "the batch system to tell of the job",
            _NEWS_SECONDS,
            strict=False,
            of=made.generation,
        )
        self._wait(
            lambda: made.failed or len(made.ready) >= wanted,
            lambda: f"engines, {len(made.ready)}/{wanted} are ready; {made.standing}",
            _FOR_EVER,
            of=made.generation,
        )
        if made.failed:
            raise LaunchError(made.explanation)

    def pause(self, seconds: float, of: int | None = None) -> None:
        """Wait, but not if the controller ends, or is stopped, meanwhile."""
        with self._changed:
            began = self.generation if of is None else of
            self._changed.wait_for(
                lambda: self.controller_end is not None or self.generation != began, seconds
            )

    def stop_engines(self, names: list[str]) -> None:
        """Stop sets of engines and wait for their end."""
        with self._changed:
            sets = [self.sets[name] for name in names if name in self.sets]
        self._stop([made.job for made in sets], STOP_SECONDS)
        for made in sets:
            self.sets.pop(made.id, None)
            self.remember_engines(made.id, None)
        if not self.sets:
            self._told_all()

    def stop(self, grace: float = STOP_SECONDS) -> None:
        """Stop everything that was started here and remove what it left.

        A start that goes on in another thread raises LaunchError.
        """
        with self._launching:
            self._stop_all(grace)

    def _stop_all(self, grace: float) -> None:
        with self._changed:
            self.generation += 1
            self._changed.notify_all()
            jobs = [made.job for made in self.sets.values()]
            own = {*self.sets, self.state.controller_job if self.state else ""}
            if self.controller is not None:
                jobs.append(self.controller)
        # May be interrupted, and called again with less patience.
        in_order = self._stop(jobs, grace)
        self._told_all()
        going_on = {name for name, made in self.sets.items() if made.job in self._going_on}
        if self.state and self.controller in self._going_on:
            going_on.add(self.state.controller_job)
        if not in_order and self.state is not None and not self._foreign:
            states.sweep(self.state.token)
        self.sets.clear()
        state, self.state = self.state, None
        end = self.controller_end
        self.controller, self.controller_end, self.ready = None, None, None
        if state is not None and not self._foreign:
            self._clean(state, own, going_on, end)
            if self.plan.passing and self.plan.log_dir:
                logs.forget_empty(self.plan.log_dir, self.plan.cluster_id)
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None

    def _clean(
        self, state: states.State, own: set[str], going_on: set[str], end: JobState | None
    ) -> None:
        """Remove what our cluster left; keep what whoever looks for it has to know.

        ``own`` are sets whose jobs we cancelled, ``going_on`` those where that failed.
        """
        found = states.reread(state)
        state.jobs = found.jobs if found is not None else {}  # others may have added some
        jobs = {name: made for name, made in state.jobs.items() if name in going_on}
        why = self.last_words or (end.text if end is not None else "")
        kept = None
        if jobs:
            kept = states.left(state, jobs)
        elif why and state.controller_job and self.plan.own:
            kept = states.ended(state, why)
        state.jobs = {n: made for n, made in state.jobs.items() if n not in own}
        states.clean(state, kept)

    def _tell_left(self, text: str) -> None:
        self._say({"event": "left", "text": text})
        if self._notice is None:
            import warnings  # only when something is wrong

            warnings.warn(text, stacklevel=2)

    def leave_jobs(self) -> list[str]:
        """Let batch jobs go on if a controller with -r was killed: they find the next one.

        Returns their names; with none nothing has happened.  Else this is the end of it
        here: the state file names them, for the next start and for who stops the cluster.
        """
        state, end = self.state, self.controller_end
        if state is None or not state.reuse or end is None or not end.code:
            return []
        with self._changed:
            jobs: list[Any] = [made.job for made in self.sets.values() if made.patient]
        left = [f"{job.system.name} {id}" for job in jobs for id in job.alive()]
        if left:
            self._told_all()
            if self._watcher is not None:
                self._watcher.close()
            self._watcher = self.state = self.controller = None
            self.sets.clear()
        return left

    def _new_name(self, state: states.State | None) -> str:
        """Return a name for a set of engines that neither we nor ``state`` have."""
        # With -r there may be jobs of the cluster before this one.
        taken = {*state.engine_sets, *state.jobs} if state is not None else set()
        while True:
            self._launched += 1
            name = f"e{self._launched}"
            if name not in taken and name not in self.sets:
                return name

    def _reserve_name(self) -> str:
        """Return such a name that nobody else who adds engines can choose any more."""
        mine = self.state
        if mine is None:
            return self._new_name(None)
        with states.lock(self.plan.profile):
            state = states.reread(mine)
            name = self._new_name(state or mine)
            if state is not None:
                state.engine_sets[name] = states.Process(0, 0)
                self.state = state
                states.write(state)
        return name

    def _watch(self, job: Job) -> None:
        if self._watcher is None:
            self._watcher = Watcher(self._on_event, self._on_end)
        self._watcher.add(job)

    def _stop(self, jobs: list[Job], grace: float) -> bool:
        """Stop processes; tell whether all ended as they should."""
        deadline = time.monotonic() + grace
        for job in jobs:
            if self._watcher is not None:
                self._watcher.remove(job)
        first = self.controller
        if first in jobs and first is not None and not getattr(first, "patient", False):
            # It tells agents and clients that it ends; were agents told by us, too, whoever
            # waits for a task would now hear of that and now of a dead engine.
            first.close()
            first.wait(min(grace, states.FIRST_SECONDS))
        for job in jobs:
            job.close()
        in_order = True
        for job in jobs:
            state = job.stop(max(deadline - time.monotonic(), 0.1))
            if state.code and getattr(job, "patient", False):
                self._going_on.append(job)
                self._tell_left(state.text)
            elif state.code:
                in_order = False
        return in_order

    def _wait(
        self,
        done: Callable[[], bool],
        what: Callable[[], str],
        seconds: float = 0.0,
        strict: bool = True,
        of: int | None = None,
    ) -> None:
        deadline = time.monotonic() + (seconds or self.plan.timeout)
        with self._changed:
            began = self.generation if of is None else of
            while self._telling or not self._check(done, began):
                left = deadline - time.monotonic()
                if left <= 0 and not strict:
                    return
                if left <= 0:
                    raise OurTimeoutError(self._late(what()))
                if not self._changed.wait(min(left, _TELL_SECONDS)):
                    event = {"event": "waiting", "text": f"waiting for {what()}"}
                    self._say({**event, "queue": seconds == _FOR_EVER})

    def _check_generation(self, of: int | None) -> None:
        if of is not None and of != self.generation:
            raise LaunchError("the cluster was stopped meanwhile")

    def _check(self, done: Callable[[], bool], of: int) -> bool:
        self._check_generation(of)
        if done():
            return True
        if self.controller_end is not None:
            raise LaunchError(self.controller_end.text)
        return False

    def _late(self, what: str) -> str:
        logs = f"; its logs are in {self.plan.log_dir}" if self.plan.log_dir else ""
        return (
            f"the cluster is not ready after {self.plan.timeout:g} s, waited for {what}{logs}"
        )

    def _on_event(self, job: Job, event: Event) -> None:
        with self._changed:
            self._telling = True  # those who wait do not go on before this is said
        try:
            self._take(job, event)
        finally:
            with self._changed:
                self._telling = False
                self._changed.notify_all()

    def _take(self, job: Job, event: Event) -> None:
        with self._changed:
            if job is self.controller:
                if event["event"] == "ready":
                    self._controller_ready(event)
                elif event["event"] == "renewed" and self.ready is not None:
                    # Without one in the files of a batch job: then the file is read.
                    self.ready["engine_connector"] = event.get("engine_connector", "")
                elif event["event"] == "error":
                    self._said = str(event.get("text", ""))
            else:
                for made in self.sets.values():
                    if made.job is job:
                        made.take(event)
                        event = {**event, "ready": len(made.ready), "of": made.n}
        self._note_process(job, event)
        self._note_folders(event)
        self._note_away(job, event)
        self._note_job(job, event)
        if event["event"] == "agent_again":
            self._tell_again(job, int(event.get("pid", 0)))
        if event["event"] != "process":  # which is news to nobody but us
            self._say(event)

    def _controller_ready(self, event: Event) -> None:
        self.ready = event
        for made in self.sets.values():
            self._tell(made)

    def _note_process(self, job: Job, event: Event) -> None:
        """Remember which process a controller is that was forked and not started."""
        if event["event"] != "process" or job is not self.controller:
            return

        def note(state: states.State) -> None:
            state.controller = states.Process.of(int(event["pid"]))

        try:
            self._note(note)
        except KernelError:
            pass  # the same as for folders

    def _note_folders(self, event: Event) -> None:
        """Remember folders that must be removed should their owner be killed."""
        bodies = event.get("bodies") or []
        runtime = event.get("runtime")
        if not (bodies or runtime):
            return

        def note(state: states.State) -> None:
            state.runtime = state.runtime or str(runtime or "")
            state.bodies += [bodies] if isinstance(bodies, str) else bodies

        try:
            self._note(note)
        except KernelError:
            pass  # it was written a moment ago; only clean-up after a crash needs more

    def _note_away(self, job: Job, event: Event) -> None:
        """Remember a place on another host, for who stops it should this process be killed."""
        name = next((n for n, made in self.sets.items() if made.job is job), "")
        if event["event"] != "away" or not name:
            return

        def note(state: states.State) -> None:
            state.away.setdefault(name, []).append(event["place"])

        try:
            self._note(note)
        except KernelError:
            pass  # the same as for folders

    def _told_all(self) -> None:
        if self._teller is not None:
            self._teller.close()
            self._teller = None

    def _note_job(self, job: Job, event: Event) -> None:
        """Hand news of a batch job, or of a death elsewhere, to the hub and the state file."""
        if job is self.controller and self.state is not None:
            self._note_controller(job, event)
            return
        if event.get("dead") and event.get("ids"):
            reason = str(event.get("cause") or event["text"])
            self._hub_teller().tell_lost(event["ids"], reason)
        if event["event"] != "job" or self.state is None:
            return
        for made in [made for made in self.sets.values() if made.job is job]:
            self._remember_jobs(made.id, job, made.n, event)
        self._tell_hub(event)

    def _note_controller(self, job: Job, event: Event) -> None:
        """Note where a controller's job stands; the hub hears of it once there is one."""
        if self.state is None or not self.state.controller_job:
            return
        if event["event"] == "job":
            self._standing = event
        elif event["event"] != "ready":
            return
        self._remember_jobs(self.state.controller_job, job, told=event)
        if self.ready is not None and self._standing:
            self._tell_hub(self._standing)

    def _tell_hub(self, event: Event) -> None:
        self._hub_teller().tell((event["job"], event["state"], event["text"]))

    def _hub_teller(self) -> HubTeller:
        if self._teller is None:
            plan = self.plan
            self._teller = HubTeller(plan.profile.connector("client", plan.cluster_id))
        return self._teller

    def _tell(self, made: EngineSet) -> bool:
        """Give a set's agent the connector, once; tell whether it has it."""
        if made.told:
            return True
        made.told = True
        try:
            text = (self.ready or {}).get("engine_connector")
            if not text:
                plan = self.plan
                file = plan.profile.connector("engine", plan.cluster_id)
                text = read_private(file).decode()
            made.job.tell(connector_line(text))
        except (KernelError, OSError) as error:
            made.problem = made.problem or str(error)
            return False
        return True

    def _tell_again(self, job: Job, pid: int) -> None:
        """An agent was started in place of one that died: it needs a connector as well."""
        made = next((made for made in self.sets.values() if made.job is job), None)
        if made is None:
            return
        made.told = False

        def note(state: states.State) -> None:
            if made.id in state.engine_sets:
                state.engine_sets[made.id] = states.Process.of(pid, made.n)

        try:
            if pid:
                self._note(note)
        except KernelError:
            pass  # the same as for folders
        if self.ready is None or self.controller_end is not None:
            return  # it waits, as other engines do, and is told by the next controller
        if not self._tell(made) and pid:
            job.close()  # it would wait for ever

    def _on_end(self, job: Job, state: JobState) -> None:
        with self._changed:
            if job is self.controller:
                if getattr(job, "patient", False) and self._said not in state.text:
                    state = JobState(state.code, f"{self._said}\n{state.text}")
                self.controller_end = state
            for made in self.sets.values():
                if made.job is job:
                    made.ended(state)
            self._changed.notify_all()
        role = "controller" if job is self.controller else "engines"
        self._say({"event": "ended", "role": role, "text": state.text, "code": state.code})

    def _say(self, event: Event) -> None:
        if self._notice is not None:
            # Whoever has the connector has the engines' key; events end up in logs.
            shown = {name: value for name, value in event.items() if name != _SECRET}
            try:
                self._notice(shown)
            except Exception:  # the user's mistake is no reason to lose the cluster
                traceback.print_exc()
        elif self._voice is not None:
            self._voice(event)


def _default_n(launcher: Launcher) -> int:
    """Return how many engines come when nobody says a number.

    Some places know it by themselves: hosts, each with a number.
    """
    return int(getattr(launcher, "default_n", usable_cores)())


def _profile_option(profile: ProfileDir) -> str:
    """Return the option that names a profile to a command, whatever folder it lies in."""
    named = os.path.join(ipython_dir(), f"cluster_{profile.name}")
    old = os.path.join(ipython_dir(), f"clusterz_{profile.name}")
    if profile.path == named or (profile.path == old and not os.path.isdir(named)):
        return f"--profile={profile.name}"
    return f"--profile-dir={quote(profile.path)}"


def check_free(profile: ProfileDir, cluster_id: str) -> dict[str, states.BatchJobs]:
    """Raise AlreadyRunning if a cluster has this id; remove what a dead one left.

    Returns batch jobs that go on: with ``-r`` their engines find the next controller, and some
    could not be cancelled.  Hold :func:`ipclusterz.cluster.state.lock`.
    """
    path = profile.state_file(cluster_id)
    old = states.read(path)
    if old is None:
        states.check(path)
        return {}
    if old.ended:
        return _cleaned(old)
    which = f"cluster {cluster_id!r}" if cluster_id else "a cluster"
    option = _profile_option(profile)
    option += f" --cluster-id={cluster_id}" if cluster_id else ""
    if old.launcher and not old.launcher.alive():
        states.await_end(old, _ORPHAN_SECONDS)  # its processes notice, and are ending
    if old.alive():
        raise AlreadyRunning(
            f"{which} of profile {profile.name!r} runs already; stop it with 'ipclusterz stop"
            f" {option}', or start another one with --cluster-id=NAME"
        )
    if old.remote:
        raise AlreadyRunning(
            f"{which} of profile {profile.name!r} was started on {old.remote}; stop it with"
            f" 'ipclusterz stop {option}', or if that host is gone: rm {quote(old.path)}"
        )
    if old.elsewhere():
        raise AlreadyRunning(
            f"{which} of profile {profile.name!r} was started on host {old.host} and may run"
            f" there; stop it on that host, or if it is gone: rm {quote(old.path)}"
        )
    if not (old.reuse and old.jobs):
        return _cleaned(old)
    states.clean(replace(old, jobs={}), held=True)
    return old.jobs


def _cleaned(old: states.State) -> dict[str, states.BatchJobs]:
    """Remove what a cluster left; return jobs that could not be cancelled."""
    states.clean(old, held=True)
    again = states.reread(old)
    # Nobody watches them, but whoever stops the next cluster tries again.
    jobs = again.jobs.values() if again is not None else ()
    return {f"{_NOBODYS}{n}": made for n, made in enumerate(jobs)}
