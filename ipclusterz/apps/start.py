"""``ipclusterz start`` and ``ipclusterz engines``: launchers in the foreground or background.

Both wait in the main thread for three things: a signal, the end of a process they started,
or nothing at all.  The first Ctrl-C stops cleanly, the second kills.
"""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from traitlets import Bool, Float, Int, Unicode

from ipclusterz.apps import output
from ipclusterz.apps.base import BaseApp, ExitCode, NoSuchCluster, explain
from ipclusterz.apps.controller import ControllerApp
from ipclusterz.apps.daemon import in_background
from ipclusterz.apps.engine import EngineApp
from ipclusterz.apps.options import (
    CONTROLLER_ALIASES,
    CONTROLLER_FLAGS,
    ENGINE_ALIASES,
    merged,
    value_of,
)
from ipclusterz.apps.report import Report
from ipclusterz.cluster import Cluster, SettingError
from ipclusterz.cluster import state as states
from ipclusterz.cluster.fileconfig import engines_in
from ipclusterz.error import ClusterError, LaunchError
from ipclusterz.launchers.base import get_launcher
from ipclusterz.paths import ProfileDir, profile_dir

_LOOK_SECONDS = 1.0

_START_ALIASES = {
    "n": ("StartApp.n", "Engines to start. [one per usable core]"),
    "engines": ("StartApp.engines", "The launcher of engines. [local]"),
    "controller": (
        "StartApp.controller",
        "slurm, pbs ...: run the controller in a batch job too; ssh: all of it on another host."
        " [local]",
    ),
    "controller-host": ("StartApp.controller_host", "That host, [USER@]HOST[:PORT]."),
    "delay": ("StartApp.delay", "Seconds between controller and engines. [0]"),
    "timeout": ("StartApp.timeout", "Seconds to wait for the engines. [60]"),
}
_DAEMON_FLAGS = {
    ("daemon", "daemonize"): (
        {"StartApp": {"daemon": True}},
        "Return when the engines are ready.",
    ),
    "foreground": (
        {"StartApp": {"foreground": True}},
        "Stay until Ctrl-C also with jobs of a batch system.",
    ),
}


class StartApp(BaseApp):
    """Starts a controller and engines and watches them."""

    name = Unicode("ipclusterz start")
    description = Unicode(
        "Starts one controller and engines on this machine.\n\n"
        "Runs until Ctrl-C: once stops cleanly, twice kills.  With --daemon it returns when\n"
        "the engines are ready, and 'ipclusterz stop' stops them.  Engines in batch jobs are\n"
        "always watched in the background; -h with --engines=slurm shows their options.\n"
        "With --controller=slurm as well, the controller runs in a job of its own, for which\n"
        "clients wait."
    )
    examples = Unicode(
        "\nipclusterz start -n 4\n"
        "ipclusterz start -n 4 --daemon\n"
        "ipclusterz start --profile=work --cluster-id=night\n"
        "ipclusterz start -n 4 -r --regport 12345    # copied connector files stay good\n"
    )
    config_names: tuple[str, ...] = (
        "ipcontrollerz_config",
        "ipenginez_config",
        "ipclusterz_config",
    )
    warn_root = True

    n = Int(0, help="Engines to start; 0: one for each core this process may use.").tag(
        config=True
    )
    engines = Unicode("local", help="The launcher of the engines.").tag(config=True)
    controller = Unicode(
        "local", help="Where it is started: local, ssh, or the batch system of the engines."
    ).tag(config=True)
    controller_host = Unicode("", help="The host for --controller=ssh.").tag(config=True)
    daemon = Bool(False, help="Return when the engines are ready.").tag(config=True)
    foreground = Bool(
        False,
        help="Stay until Ctrl-C; else engines in batch jobs are watched in the background.",
    ).tag(config=True)
    delay = Float(0.0, help="Seconds between controller and engines.").tag(config=True)
    timeout = Float(60.0, help="Seconds to wait for the engines.").tag(config=True)

    classes = [ControllerApp, EngineApp]  # noqa: RUF012 - as traitlets has it
    aliases = merged(CONTROLLER_ALIASES, ENGINE_ALIASES, _START_ALIASES)
    flags = {**BaseApp.flags, **CONTROLLER_FLAGS, **_DAEMON_FLAGS}  # noqa: RUF012
    _mode = ""

    # -- the options of the launcher -------------------------------------------------------

    def initialize(self, argv: Any = None) -> None:
        """Learn the options of the launcher that was chosen, then read all options."""
        self._words = tuple(argv or ())
        self._adopt(self._chosen(argv or ()))
        super().initialize(argv)
        self._adopt(self.engines)

    def _chosen(self, argv: Sequence[str]) -> str:
        """Return the launcher that the command line or the profile names, '' for neither."""
        if said := value_of(argv, "engines", "StartApp.engines"):
            return said
        path = value_of(argv, "profile-dir", "cluster-dir")
        name = value_of(argv, "profile", "p") or "default"
        try:
            root = value_of(argv, "ipython-dir") or None
            folder = ProfileDir(path) if path else profile_dir(name, root)
        except ClusterError:
            return ""  # told later, where all mistakes are
        self._folder = folder.path
        return engines_in(os.path.join(folder.path, "ipclusterz_config.py"))

    def _adopt(self, mode: str) -> None:
        """Add the options of a launcher to those of this command."""
        if mode in ("", "local", self._mode):
            return
        from ipclusterz.apps import modes  # only for launchers with options

        folder = self._folder or self.folder.path
        try:
            kind = modes.configurable(mode, folder)
        except LaunchError:
            return  # told later
        if kind is None:
            return
        self._mode, self._folder = mode, folder
        self._of_mode = (modes.aliases(mode, folder), modes.flags(mode, folder))
        self.classes = [*self.classes, kind]
        self.aliases = {**self._of_mode[0], **type(self).aliases}
        self.flags = {**self._of_mode[1], **type(self).flags}

    _folder = ""

    def _options(self) -> dict[str, Any]:
        """Return what was said about the launcher, by option."""
        if self._mode != self.engines or not self._mode:
            return {}
        from ipclusterz.apps import modes

        return modes.said(self._mode, self.config, self._folder)

    def _create_loader(self, argv: Any, aliases: Any, flags: Any, classes: Any) -> Any:
        loader = super()._create_loader(argv, aliases, flags, classes)

        def elsewhere(name: str) -> list[str]:
            from ipclusterz.apps import modes

            return modes.whose(name)

        loader.elsewhere = elsewhere
        return loader

    def emit_options_help(self) -> Iterator[str]:  # type: ignore[override]
        """Yield the help on options, those of the launcher first."""
        if not self._mode:
            yield from super().emit_options_help()
            return
        title = f"Options of --engines={self._mode}"
        yield from (title, "=" * len(title))
        self.aliases, self.flags = self._of_mode
        try:
            yield from self.emit_flag_help()
            yield from self.emit_alias_help()
            yield ""
            self.aliases, self.flags = type(self).aliases, type(self).flags
            yield from super().emit_options_help()
        finally:
            self.aliases = {**self._of_mode[0], **type(self).aliases}
            self.flags = {**self._of_mode[1], **type(self).flags}

    # -- life ------------------------------------------------------------------------------

    def start(self) -> Any:
        """Start everything, then stay with it; return the exit code."""
        if self.controller == "ssh":
            return self._elsewhere()
        self._check()
        if self._batch and self._options().get("dry_run"):
            print(self._dry().preview(self.n))
            return ExitCode.OK
        self._prepare()
        if self._batch and not self.foreground:
            self.daemon = True
        if not self.daemon:
            return self._run(lambda: None)
        self.folder.create()
        which = f"-{self.cluster_id}" if self.cluster_id else ""
        log = os.path.join(self.log_dir, f"{self._log_name}{which}.log") if self.log_dir else ""
        return in_background(self._safely, log)

    _log_name = "ipclusterz"
    _words: tuple[str, ...] = ()

    def _elsewhere(self) -> int:
        """Start all of it on another host; return when it is ready there."""
        from ipclusterz.apps import elsewhere  # only for clusters on other hosts

        host, self.daemon = self.controller_host, True
        said = elsewhere.start(self.folder, self.cluster_id, host, self._words, self.timeout)
        for line in said.splitlines():
            if line and not line.startswith(("connect:", "stop:")):
                self.say(f"{host}: {line}")
        for line in self._how_to_go_on():
            self.say(line)
        return ExitCode.OK

    def _check(self) -> None:
        # 0 is the default's way to say "as many as there are cores"; nobody types that.
        own = [kind.__name__ for kind in type(self).__mro__]
        typed = any("n" in self.cli_config.get(name, {}) for name in own)
        if self.n < 0 or (self.n == 0 and typed):
            raise SettingError(f"-n is {self.n}: start at least one engine")
        if self.delay < 0 or self.timeout <= 0:
            raise SettingError("delay must be 0 or more, timeout more than 0 seconds")
        try:
            launcher = get_launcher(self.engines, self._options(), self.folder.path)
        except LaunchError as error:
            raise SettingError(f"--engines={self.engines}: {error}") from None
        self._batch = hasattr(launcher, "preview")
        self._check_controller()
        if self._batch and not self.n:
            raise SettingError("-n is missing: how many engines shall the jobs run?")
        if self._batch:
            try:
                self._dry().preview(self.n)
            except LaunchError as error:  # a mistake in the template, before anything starts
                raise SettingError(str(error)) from None

    _batch = False

    def _check_controller(self) -> None:
        if self.controller != "local":
            from ipclusterz.cluster import queued  # only for controllers in jobs

            reuse = ControllerApp(config=self.config).reuse_files
            queued.check(self.controller, self.engines, reuse)
            if not self._batch:
                raise SettingError(queued.no_batch_system(self.controller))
            return
        for section, values in self.cli_config.items():
            lost = [name for name in values if name.startswith("controller_")]
            if lost and section != "StartApp":
                word = lost[0].replace("_", "-")
                raise SettingError(
                    f"--{word} is for a controller in a job: add --controller={self.engines},"
                    " or leave it out"
                )

    def _dry(self) -> Cluster:
        """Return a cluster like the one to be started, only to be looked at."""
        return Cluster(
            self.n,
            engines=self.engines,
            controller_launcher=self.controller,
            options=self._options(),
            profile_dir=self.folder.path,
            cluster_id=self.cluster_id,
            log_to_file=self.log_to_file,
            load_config=False,
        )

    def _prepare(self) -> None:
        """Do what needs the user's terminal: a key may have to be asked for."""
        self._settings = ControllerApp(config=self.config).settings()

    def _safely(self, ready: Callable[[], None]) -> int:
        """Run in the background, where no one else turns errors into messages."""
        try:
            return self._run(ready)
        except BaseException as error:
            return explain(self, error)

    def _run(self, ready: Callable[[], None]) -> int:
        report = Report(self.say)
        ends: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

        def notice(event: dict[str, Any]) -> None:
            if event["event"] == "ended":
                ends.put(event)
            report(event)

        cluster = self._cluster(notice)
        _interruptible()
        try:
            queued = self._queued(cluster)
            if queued:
                self._told_up(report, ready)
            try:
                self._bring_up(cluster)
            except ClusterError as error:
                if queued:  # whoever started it has gone
                    cluster.note_end(str(error))
                raise
            if not queued:
                self._told_up(report, ready)
            return self._stay(ends, cluster)
        except KeyboardInterrupt:
            self.say("stopping")
            return ExitCode.OK if report.up else ExitCode.INTERRUPTED
        finally:
            report.stopping = True
            self._bring_down(cluster)

    def _cluster(self, notice: Callable[[dict[str, Any]], None]) -> Cluster:
        folder = self.folder
        engines = EngineApp(config=self.config, profile_dir=folder.path)
        return Cluster(
            self.n or None,
            engines=self.engines,
            controller_launcher=self.controller,
            options=self._options(),
            profile_dir=folder.path,
            cluster_id=self.cluster_id,
            controller=self._settings,
            agent=engines.agent_config(),
            engine_timeout=self.timeout,
            delay=self.delay,
            log_level=self.level,
            log_to_file=self.log_to_file,
            own=True,
            load_config=False,
            notice=notice,
        )

    def _told_up(self, report: Report, ready: Callable[[], None]) -> None:
        """Say that it is up, or on its way, and let the command return."""
        report.complete("submitted" if self._batch else "ready")
        for line in self._how_to_go_on():
            self.say(line)
        ready()

    def _queued(self, cluster: Cluster) -> bool:
        """Submit a controller's job; tell whether the command is to return while it waits."""
        if self.controller == "local":
            return False
        return not cluster.submit_controller_sync() and not self._options().get("wait")

    def _bring_up(self, cluster: Cluster) -> None:
        cluster.start_cluster_sync()

    def _bring_down(self, cluster: Cluster) -> None:
        try:
            cluster.stop_cluster_sync()
        except KeyboardInterrupt:
            output.complain("killing")
            cluster.stop_cluster_sync(grace=0.0)

    def _stay(self, ends: queue.SimpleQueue[dict[str, Any]], cluster: Cluster) -> int:
        """Wait until the controller ends, or a signal comes."""
        while True:
            try:
                # Not for ever: a signal that comes just before the wait does not end it.
                end = ends.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            of_ours = self.controller == "local"  # a job's end is told in its system's words
            if end["role"] == "controller" and end["code"] == 0 and of_ours:
                self.say("the controller was told to end")
                return ExitCode.OK
            output.complain(f"{self.name}: {end['text']}")
            if end["role"] == "controller":
                self._tell_left(cluster.leave_jobs())
                return ExitCode.FAILED

    def _tell_left(self, jobs: list[str]) -> None:
        """Say what to do about jobs that wait for the next controller."""
        if jobs:
            which = self._selection()
            output.complain(
                f"{self.name}: {', '.join(jobs)} will find the next controller: ipcontrollerz"
                f" -r{which}; or cancel what is left: ipclusterz stop{which}"
            )

    def _how_to_go_on(self) -> list[str]:
        said = []
        if self.profile_dir:
            said.append(f"profile_dir={self.folder.path!r}")
        elif self.profile != "default":
            said.append(f"profile={self.profile!r}")
        if self.ipython_dir and not self.profile_dir:
            said.append(f"ipython_dir={os.path.abspath(self.ipython_dir)!r}")
        if self.cluster_id:
            said.append(f"cluster_id={self.cluster_id!r}")
        call = f"ipp.Client({', '.join(said)})"
        stop = f"ipclusterz stop{self._selection()}" if self.daemon else "Ctrl-C"
        return [f"connect: import ipclusterz as ipp; rc = {call}", f"stop:    {stop}"]


class EnginesApp(StartApp):
    """Adds engines to a running cluster."""

    name = Unicode("ipclusterz engines")
    description = Unicode(
        "Adds engines to a cluster that runs, and stays with them until Ctrl-C.\n\n"
        "With --daemon it returns when they are ready; they end with the cluster."
    )
    examples = Unicode(
        "\nipclusterz engines -n 2 --daemon\nipclusterz engines -n 2 --profile=work --daemon\n"
    )
    config_names = ("ipenginez_config", "ipclusterz_config")

    classes = [EngineApp]  # noqa: RUF012
    aliases = merged(
        ENGINE_ALIASES,
        {name: _START_ALIASES[name] for name in ("n", "engines", "timeout")},
    )
    flags = {**BaseApp.flags, **_DAEMON_FLAGS}  # noqa: RUF012

    _log_name = "ipclusterz-engines"

    def _chosen(self, argv: Sequence[str]) -> str:
        """Return the launcher that was named, or the one of the cluster to be joined."""
        if chosen := super()._chosen(argv):
            return chosen
        if not self._folder:
            return ""
        state = states.read(ProfileDir(self._folder).state_file(value_of(argv, "cluster-id")))
        self._joined = state.mode if state is not None else ""
        self._defaults = state.options if state is not None else {}
        return self._joined

    _joined = ""
    _defaults: dict[str, Any] = {}  # noqa: RUF012 - never changed

    def initialize(self, argv: Any = None) -> None:
        """Read the options; without a launcher of their own, engines get the cluster's."""
        super().initialize(argv)
        if self._joined and not self.was_said("engines"):
            self.engines = self._joined

    def _options(self) -> dict[str, Any]:
        given = super()._options()
        return {**self._defaults, **given} if self.engines == self._joined else given

    def _prepare(self) -> None:
        """Nothing: engines get all they need from the cluster they join."""

    def _cluster(self, notice: Callable[[dict[str, Any]], None]) -> Cluster:
        folder = self.folder
        engines = EngineApp(config=self.config, profile_dir=folder.path)
        path = folder.state_file(self.cluster_id)
        state = states.read(path)
        if state is None or not (state.alive() or state.elsewhere()):
            raise NoSuchCluster(
                f"no cluster runs in {folder.path}"
                + (f" with the id {self.cluster_id!r}" if self.cluster_id else "")
                + f"; start one with: ipclusterz start{self._selection()}"
            )
        return Cluster.from_file(
            path,
            n=self.n or None,
            engines=self.engines,
            options=self._options(),
            agent=engines.agent_config(),
            engine_timeout=self.timeout,
            log_level=self.level,
            log_to_file=self.log_to_file,
            load_config=False,
            notice=notice,
        )

    def _bring_up(self, cluster: Cluster) -> None:
        cluster.start_engines_sync()

    def _bring_down(self, cluster: Cluster) -> None:
        try:
            cluster.stop_engines_sync()
        except KeyboardInterrupt:
            cluster.stop_engines_sync()

    def _stay(self, ends: queue.SimpleQueue[dict[str, Any]], cluster: Cluster) -> int:
        """Wait until the engines end, or a signal comes."""
        end = ends.get()
        if end["code"] == 0:
            self.say("the engines were told to end")
            return ExitCode.OK
        output.complain(f"{self.name}: {end['text']}")
        return ExitCode.FAILED

    def _how_to_go_on(self) -> list[str]:
        return []


def _interruptible() -> None:
    """Let the usual requests to end arrive as KeyboardInterrupt."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
        signal.signal(signal.SIGHUP, interrupt)
