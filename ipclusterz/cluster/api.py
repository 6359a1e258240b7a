"""Cluster: one controller and sets of engines, started, watched and stopped from Python.

Joins a profile, a launcher and the client.  Controller and engines start at the same time:
the engines' process imports what it needs while the controller does, then waits for the
connector, which the watcher thread hands on as soon as there is one.

Each operation has a coroutine and, with ``_sync`` at the end of its name, a blocking form.
"""

from __future__ import annotations

import atexit
import operator
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never

from msgspec.structs import replace

from ipclusterz.cluster import fileconfig
from ipclusterz.cluster import state as states
from ipclusterz.cluster.coroutines import Coroutines, in_thread
from ipclusterz.cluster.deployment import STOP_SECONDS, AlreadyRunning, Deployment, Plan
from ipclusterz.cluster.engines import EngineSet
from ipclusterz.cluster.settings import (
    ControllerSettings,
    SettingError,
    no_such_argument,
    pin,
    shm_bytes,
    split_names,
)
from ipclusterz.core.config import AgentConfig
from ipclusterz.error import ClusterError, LaunchError, TimeoutError
from ipclusterz.launchers.base import Event
from ipclusterz.paths import ProfileDir
from ipclusterz.paths import profile_dir as find_profile

if TYPE_CHECKING:
    from ipclusterz.client.client import Client


class Cluster(Coroutines):
    """A cluster on this machine.

    >>> import ipclusterz as ipp
    >>> with ipp.Cluster(n=4) as rc:  # doctest: +SKIP
    ...     rc[:].apply_sync(os.getpid)

    ``n`` engines are started (default: one per usable core) by the launcher ``engines``
    (default: ``local``) with its ``options``.  With ``controller_launcher='slurm'`` (or
    another batch system, that of the engines) the controller runs in a job as well; starting
    then takes as long as that stands in the queue.  What is not said is taken from the
    profile's config files.
    The profile is named by ``profile`` (in ``ipython_dir``) or ``profile_dir``, a path.
    Without a ``cluster_id`` the cluster gets a new one; '' is the profile's main cluster,
    which ``Client()`` finds.  ``controller`` describes the controller
    (:class:`ControllerSettings`), ``agent`` the engines; other arguments win over both.
    ``restart_engines`` (default 0) is how many engines each agent starts, in all, for ones
    that died, and how often an agent that died is started again; ``shm_limit`` (bytes, or
    text like ``2GB``; default: none) how much shared memory each may use for large payloads:
    more goes to a disk.  ``pin_cores`` binds each engine to cores of its own: ``auto``, or a
    list like ``0-7,16``.
    ``engine_timeout`` (seconds, default 60) bounds each wait for a start.  ``notice`` is
    called with each status event, from another thread.
    """

    def __init__(
        self,
        n: int | None = None,
        *,
        engines: str = "",
        controller_launcher: str = "",
        options: dict[str, Any] | None = None,
        profile: str = "default",
        profile_dir: str | None = None,
        ipython_dir: str | None = None,
        cluster_id: str | None = None,
        controller: ControllerSettings | None = None,
        agent: AgentConfig | None = None,
        controller_ip: str = "",
        controller_location: str = "",
        preload: list[str] | str | None = None,
        work_dir: str = "",
        env: dict[str, str] | None = None,
        restart_engines: int | None = None,
        shm_limit: int | str | None = None,
        pin_cores: str | None = None,
        engine_timeout: float = 0.0,
        delay: float = 0.0,
        log_level: str = "INFO",
        log_to_file: bool = True,
        own: bool = False,
        load_config: bool = True,
        notice: Callable[[Event], None] | None = None,
        **unknown: Never,
    ) -> None:
        if unknown:
            known = ("n", *(Cluster.__init__.__kwdefaults__ or ()))
            raise TypeError(no_such_argument("Cluster()", next(iter(unknown)), known))
        _check_number(n)
        self.profile = _profile(profile, profile_dir, ipython_dir)
        self.cluster_id = os.urandom(5).hex() if cluster_id is None else cluster_id
        said = fileconfig.read(self.profile) if load_config else fileconfig.Settings()
        self.n = n or said.start.get("n") or None
        self.delay = delay or float(said.start.get("delay", 0.0))
        given = controller or said.controller
        base = agent or said.agent
        launcher = engines or said.start.get("engines", "local")
        plan = Plan(
            profile=self.profile,
            cluster_id=self.cluster_id,
            controller=replace(
                given,
                ip=controller_ip or given.ip,
                location=controller_location or given.location,
            ),
            agent=replace(
                base,
                preload=base.preload if preload is None else split_names(preload),
                work_dir=_folder(work_dir or base.work_dir, launcher),
                env={**base.env, **(env or {})},
                restart_engines=_not_negative(
                    "restart_engines", base.restart_engines, restart_engines
                ),
                shm_limit=(
                    base.shm_limit if shm_limit is None else shm_bytes(shm_limit, "shm_limit")
                ),
                pin_cores=base.pin_cores if pin_cores is None else pin(pin_cores, "pin_cores"),
            ),
            launcher=launcher,
            options={**said.options(launcher, self.profile.path), **(options or {})},
            timeout=engine_timeout or float(said.start.get("timeout", 60.0)),
            log_level=log_level,
            log_dir=self.profile.log if log_to_file else "",
            own=own,
            passing=cluster_id is None,
            controller_launcher=controller_launcher or said.start.get("controller", "local"),
        )
        if plan.controller_launcher not in ("local", launcher):
            raise SettingError(
                f"controller_launcher is {plan.controller_launcher!r} and engines is"
                f" {launcher!r}: it must be local, or the batch system of the engines as well"
            )
        self._deployed = Deployment(plan, notice)
        self._attached: states.State | None = None
        self._client: Client | None = None
        self._hooked = 0  # the process whose end stops the cluster
        self._entered = 0  # the process whose block ends it

    # -- what it is ------------------------------------------------------------------------

    @property
    def client_file(self) -> str:
        """The path of the client's connector file."""
        return self.profile.connector("client", self.cluster_id)

    @property
    def engine_file(self) -> str:
        """The path of the engines' connector file."""
        return self.profile.connector("engine", self.cluster_id)

    @property
    def cluster_file(self) -> str:
        """The path of the state file, by which other processes find the cluster."""
        return self.profile.state_file(self.cluster_id)

    @property
    def running(self) -> bool:
        """Whether there is a controller."""
        return self._attached.alive() if self._attached else self._deployed.running

    @property
    def engine_sets(self) -> dict[str, EngineSet]:
        """The sets of engines that this object started, by id."""
        return dict(self._deployed.sets)

    engines = engine_sets

    @property
    def engine_set(self) -> EngineSet | None:
        """The first set of engines that this object started, if any."""
        return next(iter(self.engine_sets.values()), None)

    @property
    def controller(self) -> Any:
        """The controller's process, if this object started one: ``pid``, ``poll()``."""
        return self._deployed.controller

    @property
    def profile_dir(self) -> str:
        """The path of the profile's folder."""
        return self.profile.path

    @property
    def controller_ip(self) -> str:
        """The address that the controller listens on; '' for loopback."""
        return self._deployed.plan.controller.ip

    @property
    def controller_location(self) -> str:
        """The address that others find the controller's host by; '' for its own name."""
        return self._deployed.plan.controller.location

    @property
    def engine_timeout(self) -> float:
        """Seconds that each wait for a start may take."""
        return self._deployed.plan.timeout

    @property
    def problem(self) -> str:
        """Why the controller has ended without being told to, else ''."""
        end = self._deployed.controller_end
        return end.text if end is not None else ""

    def note_end(self, text: str) -> None:
        """Keep, for those who look for the cluster later, why it is being stopped."""
        self._deployed.last_words = text

    @classmethod
    def from_file(
        cls,
        cluster_file: str | None = None,
        *,
        profile: str = "default",
        profile_dir: str | None = None,
        ipython_dir: str | None = None,
        cluster_id: str = "",
        **arguments: Any,
    ) -> Cluster:
        """Return a cluster that something else started; ClusterError when there is none.

        Without arguments, the one that ``ipclusterz start`` started.
        """
        if cluster_file is None:
            folder = _profile(profile, profile_dir, ipython_dir)
            cluster_file = folder.state_file(cluster_id)
        state = states.read(os.path.expanduser(cluster_file))
        if state is None:
            raise ClusterError(
                f"no cluster has the state file {cluster_file}; 'ipclusterz list' shows what"
                " runs, 'ipclusterz start' starts one"
            )
        return cls._of(state, arguments)

    @classmethod
    def from_dict(cls, d: dict[str, Any], **arguments: Any) -> Cluster:
        """Return the cluster that :meth:`to_dict` described, here or in another process."""
        try:
            state = states.from_dict(d)
        except ValueError as error:
            raise ClusterError(f"this is no description of a cluster: {error}") from None
        return cls._of(state, arguments)

    @classmethod
    def _of(cls, state: states.State, arguments: dict[str, Any]) -> Cluster:
        if not arguments.get("engines") and state.mode:
            arguments["engines"] = state.mode
            arguments["options"] = {**state.options, **(arguments.get("options") or {})}
        arguments.setdefault("controller_launcher", "local")  # it has its controller
        made = cls(profile_dir=state.profile_dir, cluster_id=state.cluster_id, **arguments)
        made._attached = state
        made._deployed.attach(state)
        return made

    def to_dict(self) -> dict[str, Any]:
        """Return what the state file holds; empty when nothing is running."""
        state = self._deployed.state
        return states.to_dict(state) if state else {}

    def __repr__(self) -> str:
        engines = sum(len(made.ready) for made in self.engine_sets.values())
        what = f"running, {engines} engines" if self.running else "not running"
        return f"<Cluster {self.cluster_id!r} in {self.profile.path}: {what}>"

    def preview(self, n: int | None = None) -> str:
        """Return what a batch launcher would submit for ``n`` engines: scripts and commands.

        LaunchError when that cannot be submitted, or the launcher submits nothing.
        """
        launcher = self._deployed.launcher()
        if not hasattr(launcher, "preview"):
            raise LaunchError("only launchers for batch systems have something to preview")
        spec = self._deployed.engines_spec(n or self.n or 1, "e1")
        shown = str(launcher.preview(spec))
        if self._deployed.plan.controller_launcher == "local":
            return shown
        from ipclusterz.cluster import queued  # only for controllers in jobs

        return f"{queued.preview(self._deployed.plan)}\n\n{shown}"

    # -- start -----------------------------------------------------------------------------

    def start_controller_sync(self) -> None:
        """Start a controller and wait until it listens.

        Raises AlreadyRunning, SettingError, or LaunchError with the controller's own words.
        """
        with _StopOnError(self) as start:
            self._stop_at_exit()
            self._deployed.launch_controller(of=start)
            self._deployed.await_controller(start)

    def submit_controller_sync(self) -> bool:
        """Submit the job of a controller in a batch job; tell whether it listens already.

        Returns when the batch system has told what the job waits for, which takes seconds;
        :meth:`start_cluster_sync` goes on from there.  Raises what it raises.
        """
        with _StopOnError(self) as start:
            self._stop_at_exit()
            self._deployed.launch_controller(of=start)
            return self._deployed.await_first_news(start)

    def start_engines_sync(self, n: int | None = None, engine_set_id: str | None = None) -> str:
        """Start ``n`` more engines, wait until they are ready, return the set's id."""
        _check_number(n)
        self._deployed.check_engines(n or self.n)
        made = self._deployed.launch_engines(n or self.n, engine_set_id)
        try:
            self._deployed.await_engines(made)
        except BaseException:
            if self.engine_sets.get(made.id) is made:  # else it is a later cluster's
                self._deployed.stop_engines([made.id])
            raise
        return made.id

    def start_cluster_sync(self, n: int | None = None) -> Cluster:
        """Start a controller and ``n`` engines, wait until all are ready, return self.

        Raises AlreadyRunning when that was done before, LaunchError when it fails.
        """
        self._check_fresh(n)
        with _StopOnError(self) as start:
            self._deployed.await_engines(self._launch(n, start))
        return self

    def start_and_connect_sync(
        self, n: int | None = None, activate: bool = False, **client: Any
    ) -> Client:
        """Start a cluster and return a client that sees its ``n`` engines.

        ``activate`` makes its engines those of the ``%px`` magics.  Raises AlreadyRunning
        when its engines were started before, LaunchError when it fails.
        """
        self._check_fresh(n)
        with _StopOnError(self) as start:
            made = self._launch(n, start)
            # Imported here, at the same time as the children import what they need.
            import ipclusterz.client.client  # noqa: F401

            self._deployed.await_controller(start)
            connected = self.connect_client_sync(**client)
            try:
                self._deployed.await_engines(made)
                if not made.patient:
                    connected.wait_for_engines(made.n, timeout=self._deployed.plan.timeout)
            except BaseException:
                connected.close()
                raise
        if activate:
            connected.activate()  # type: ignore[attr-defined,unused-ignore]
        return connected

    def connect_client_sync(self, **arguments: Any) -> Client:
        """Return a new client of this cluster; arguments are those of Client."""
        from ipclusterz.client.client import Client  # slow, and most users of this have it

        return Client(self.client_file, cluster=self, **arguments)

    def _check_fresh(self, n: int | None) -> None:
        """Raise AlreadyRunning where to start all would only add engines."""
        _check_number(n)
        if self.running and self.engine_sets:
            raise AlreadyRunning(
                f"this cluster ({self.cluster_id!r}) is started already;"
                " start_engines_sync(n) adds engines, connect_client_sync() connects"
            )

    def _stop_at_exit(self) -> None:
        """Have what this process starts stopped when Python ends."""
        if self._hooked != os.getpid() and not self.running:
            self._hooked = os.getpid()
            atexit.register(_stop_at_exit, weakref.ref(self), self._hooked)

    def _launch(self, n: int | None, start: int) -> EngineSet:
        if self.problem and self._deployed.plan.controller_launcher != "local":
            raise LaunchError(self.problem)  # its job was submitted before, and has ended
        later = self.delay or getattr(self._deployed.launcher(), "AFTER_CONTROLLER", False)
        if not self.running:
            self._deployed.check_engines(n or self.n)
            self._stop_at_exit()
            if not later:
                return self._deployed.launch_both(n or self.n, start)
            self._deployed.launch_controller(of=start)
        if later:
            self._deployed.await_controller(start)
            self._deployed.pause(self.delay, start)
        return self._deployed.launch_engines(n or self.n, of=start)

    # -- stop ------------------------------------------------------------------------------

    def stop_engines_sync(self, engine_set_id: str | None = None) -> None:
        """Stop one set of engines, or all of this object's; wait for their end."""
        names = [engine_set_id] if engine_set_id is not None else list(self.engine_sets)
        self._deployed.stop_engines(names)

    def stop_controller_sync(self) -> None:
        """Stop the controller, and with it the engines that are left."""
        self.stop_cluster_sync()

    def stop_cluster_sync(self, grace: float = STOP_SECONDS) -> None:
        """Stop everything; after ``grace`` seconds by force.  Leaves nothing behind."""
        self._deployed.stop(grace)
        if self._attached is not None:
            states.end(self._attached, grace)
            self._attached = None

    def leave_jobs(self) -> list[str]:
        """Leave batch jobs alone after a controller with ``reuse_files`` was killed.

        They find the next controller of this cluster.  Returns their names; with none nothing
        has happened, and :meth:`stop_cluster_sync` is to be called.
        """
        return self._deployed.leave_jobs()

    def restart_engines_sync(self, engine_set_id: str | None = None) -> None:
        """Stop a set of engines (or all), and start as many anew."""
        sets = self.engine_sets
        for name in [engine_set_id] if engine_set_id is not None else list(sets):
            self.stop_engines_sync(name)
            self.start_engines_sync(sets[name].n, name)

    def signal_engines_sync(self, signum: int, engine_set_id: str | None = None) -> None:
        """Send a signal to the engines of one set, or to all.

        It goes through the controller: an interrupt must hit a task, never the protocol.
        """
        with self._asking() as client:
            targets = client.ids
            if engine_set_id is not None:
                targets = sorted(self.engine_sets[engine_set_id].ready)
            client.send_signal(signum, targets=targets)

    # -- one engine ------------------------------------------------------------------------

    def signal_engine_sync(self, signum: int, engine_id: int) -> None:
        """Send a signal to one engine: see :meth:`signal_engines_sync`."""
        with self._asking() as client:
            client.send_signal(signum, targets=[engine_id])

    def stop_engine_sync(self, engine_id: int) -> None:
        """Stop one engine, after the task it runs; return when it has ended.

        IndexError for one that is not there, ipclusterz.TimeoutError after
        ``engine_timeout`` seconds.
        """
        with self._asking() as client:
            client.shutdown(targets=[engine_id])
            patience = self.engine_timeout
            if not client.session.wait(lambda: engine_id not in client.ids, patience):
                raise TimeoutError(
                    f"engine {engine_id} has not ended after {patience:g} s: it may be busy"
                    f" with a task; interrupt it: signal_engine_sync(2, {engine_id})"
                )

    def restart_engine_sync(self, engine_id: int) -> int:
        """Stop one engine and start another in its place; return its id, which is new."""
        self.stop_engine_sync(engine_id)
        name = self.start_engines_sync(1)
        (number,) = self.engine_sets[name].ready
        with self._asking() as client:
            client.session.wait(lambda: number in client.ids, self.engine_timeout)
        return number

    @contextmanager
    def _asking(self) -> Iterator[Client]:
        """Lend a client: the one of the ``with`` block, or one that is closed afterwards."""
        if self._client is not None and not self._client.session.closed:
            yield self._client
            return
        with self.connect_client_sync() as client:
            yield client

    # -- with ------------------------------------------------------------------------------

    def __enter__(self) -> Client:
        self._entered = os.getpid()
        self._client = self.start_and_connect_sync()
        return self._client

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._entered != os.getpid():
            return  # a forked child leaves the block; the cluster is its parent's
        try:
            if self._client is not None:
                self._client.close()
        finally:
            self._client = None
            self.stop_cluster_sync()

    async def __aenter__(self) -> Client:
        return await in_thread(self.__enter__)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await in_thread(lambda: self.__exit__(kind, error, trace))


class _StopOnError:
    """Stops a cluster when its start fails, however it fails; a running one is left alone.

    So is one that was started after this start was stopped from another thread.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._start = cluster._deployed.generation
        self._was_running = cluster.running

    def __enter__(self) -> int:
        return self._start

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or self._was_running:
            return
        if self._cluster._deployed.generation == self._start:
            self._cluster.stop_cluster_sync()


def _folder(work_dir: str, launcher: str) -> str:
    """Return a folder as it will be found from anywhere; on other hosts it is theirs."""
    if not work_dir or launcher == "ssh":
        return work_dir
    return os.path.abspath(os.path.expanduser(work_dir))


def _not_negative(name: str, usual: int, said: int | None) -> int:
    """Return what was said of a number, else what is usual; SettingError below zero."""
    value = usual if said is None else said
    if value < 0:
        raise SettingError(f"{name} is {value}: it must be 0 or more")
    return value


def _check_number(n: Any) -> None:
    """Raise for a number of engines that is none."""
    if n is None:
        return
    try:
        number = operator.index(n)
    except TypeError:
        raise TypeError(f"n is {n!r}: it must be a number of engines") from None
    if number < 1:
        raise SettingError(f"n is {n}: a cluster has at least one engine")


def _profile(name: str, path: str | None, root: str | None) -> ProfileDir:
    return ProfileDir(path) if path else find_profile(name, root)


def _stop_at_exit(cluster: weakref.ref[Cluster], pid: int) -> None:
    found = cluster()
    # A forked child has the hook, and the object, but not the cluster.
    if found is not None and pid == os.getpid() and found.running:
        found.stop_cluster_sync()
