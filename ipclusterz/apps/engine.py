"""``ipenginez``: engines in the foreground, and the settings of all engines."""

from __future__ import annotations

import os
import sys
import time
from importlib.util import find_spec
from typing import Any

from traitlets import Bool, Float, Int, Unicode, Union

from ipclusterz.apps import output
from ipclusterz.apps.base import BaseApp, run
from ipclusterz.apps.options import ENGINE_ALIASES, merged
from ipclusterz.apps.report import Patience
from ipclusterz.cluster import SettingError
from ipclusterz.cluster import state as states
from ipclusterz.cluster.settings import pin, shm_bytes, split_names
from ipclusterz.core.batchjob import job_here
from ipclusterz.core.config import AgentConfig
from ipclusterz.core.connector import Connector, parse
from ipclusterz.core.ranks import UNREPLACED, Rank, missing, rank_here
from ipclusterz.core.ssh import destination
from ipclusterz.error import ConnectorError
from ipclusterz.files import planted, read_private
from ipclusterz.paths import ProfileDir

_LOOK_SECONDS = 0.1
_REMIND_SECONDS = 30.0
_COPY_SECONDS = 3.0  # a file that is being copied here is incomplete for a moment

EXAMPLES = """
ipenginez                               # one engine for this profile's controller
ipenginez -n 4                          # four, over one connection
ipenginez --file=$HOME/ipcontroller-engine.json
ipenginez -n 4 --preload=math -c "import math"
mpiexec -n 4 ipenginez --mpi            # as the ranks of one MPI job
"""


class EngineApp(BaseApp):
    """Runs engines until Ctrl-C or the controller's end."""

    name = Unicode("ipenginez")
    description = Unicode(
        "Runs engines that join a controller, here or on any host that has its engine file.\n\n"
        "May be started before the controller: it waits for the file and for an answer.\n"
        "Ctrl-C ends the engines."
    )
    examples = Unicode(EXAMPLES)
    config_names = ("ipenginez_config",)
    warn_root = True

    n = Int(1, help="Engines to start.").tag(config=True)
    file = Unicode("", help="The engine connector file; empty: the profile's.").tag(config=True)
    command = Unicode("", help="Code that each engine runs first.").tag(config=True)
    startup = Unicode("", help="A script that each engine runs first.").tag(config=True)
    preload = Unicode(
        "", help="Modules imported once before engines are forked, like numpy,pandas."
    ).tag(config=True)
    python = Unicode("", help="The interpreter of the engines; empty: this one.").tag(
        config=True
    )
    ssh = Unicode(
        "", help="The SSH server to go through, [user@]host[:port]; empty: the file's."
    ).tag(config=True)
    sshkey = Unicode("", help="A private key for it; empty: as ssh is configured.").tag(
        config=True
    )
    paramiko = Bool(False, help="Use paramiko instead of the ssh program.").tag(config=True)
    mpi = Bool(False, help="Be a rank of the MPI job that mpiexec or srun starts this in.").tag(
        config=True
    )
    restart_engines = Int(
        0, help="Engines started, in all, for ones that died, and agents by launchers; 0: none."
    ).tag(config=True)
    shm_limit = Union(
        [Int(), Unicode()],
        default_value=0,
        help="Shared memory for large payloads, like 512MB or 2GB; 0: no limit.",
    ).tag(config=True)
    pin_cores = Unicode(
        "",
        help="Bind each engine to cores of its own: auto, or a list of cores like 0-7,16;"
        " none: to any.",
    ).tag(config=True)
    lease = Float(
        0.0, help="Seconds to outlive a lost controller; 0: as the controller says."
    ).tag(config=True)

    aliases = merged(
        ENGINE_ALIASES,
        {
            "n": ("EngineApp.n", "Engines to start. [1]"),
            "file": ("EngineApp.file", "The engine connector file. [the profile's]"),
            "lease": ("EngineApp.lease", "Seconds to outlive a lost controller."),
            "ssh": ("EngineApp.ssh", "The SSH server to go through. [the file's]"),
            "sshkey": ("EngineApp.sshkey", "A private key for it."),
        },
    )
    flags = {  # noqa: RUF012 - as traitlets has it
        **BaseApp.flags,
        "mpi": ({"EngineApp": {"mpi": True}}, "Be a rank: mpiexec -n 4 ipenginez --mpi"),
        "paramiko": ({"EngineApp": {"paramiko": True}}, "Use paramiko, not the ssh program."),
    }

    def agent_config(self) -> AgentConfig:
        """Return the settings of engines, but for how many and where they connect."""
        if self.ssh:
            try:
                destination(self.ssh)
            except ValueError as error:
                raise SettingError(f"--ssh: {error}") from None
        if self.startup and not os.path.isfile(os.path.expanduser(self.startup)):
            raise SettingError(f"there is no start-up script {self.startup}")
        if self.restart_engines < 0:
            raise SettingError(
                f"--restart-engines is {self.restart_engines}: it must be 0 (none) or more"
            )
        startup = os.path.abspath(os.path.expanduser(self.startup)) if self.startup else ""
        return AgentConfig(
            python=self.python,
            preload=split_names(self.preload),
            work_dir=self.work_dir and os.getcwd(),
            command=startup_code(self.folder) + self.command,
            startup=startup,
            lease=self.lease,
            ssh=self.ssh,
            ssh_key=self.sshkey,
            paramiko=self.paramiko or None,
            restart_engines=self.restart_engines,
            shm_limit=shm_bytes(self.shm_limit, "--shm-limit"),
            pin_cores=pin(self.pin_cores, "--pin-cores"),
        )

    def start(self) -> Any:
        """Wait for the connector file, then run the engines here; return the exit code."""
        if self.n < 1:
            raise SettingError(f"-n is {self.n}: start at least one engine")
        if self.lease < 0:
            raise SettingError(
                f"--lease is {self.lease:g}: seconds, or 0 for what the controller says"
            )
        path = self.file and os.path.abspath(os.path.expanduser(self.file))
        path = path or self.folder.connector("engine", self.cluster_id)
        config = self.agent_config()
        config.rank = self._rank() if self.mpi else None
        self._patience = Patience()
        self._wait_for(path, told=bool(self.file))
        from ipclusterz.net import agentstart  # slow, and not needed for help

        if self.log_to_file:
            self.folder.create()
        config.connector_file = path
        config.n = self.n
        config.cluster_id = self.cluster_id
        config.log_dir, config.log_level = self.log_dir, self.level
        config.job = job_here(os.environ)
        state = states.read(self.folder.state_file(self.cluster_id))
        if state is not None and state.here() and state.engine_file == path:
            os.environ[states.TOKEN] = state.token
        return agentstart.run(config, self._report, None)

    def _rank(self) -> Rank:
        """Return which rank this is; SettingError when MPI cannot work here."""
        rank = rank_here(os.environ)
        if rank is None:
            raise SettingError(
                "--mpi: no launcher of MPI started this process; start the engines with"
                " 'mpiexec -n 4 ipenginez --mpi'"
            )
        if self.n != 1:
            raise SettingError(
                f"--mpi: -n is {self.n}, but each rank is one engine; the launcher takes the"
                f" number: mpiexec -n {self.n} ipenginez --mpi"
            )
        if self.restart_engines:
            raise SettingError(f"--mpi: {UNREPLACED}")
        if not self.python and find_spec("mpi4py") is None:
            raise SettingError(f"--mpi: {missing(sys.executable)}")
        return rank

    def _wait_for(self, path: str, told: bool) -> Connector:
        """Return the connector in ``path``, saying at intervals what is waited for."""
        remind = broken_since = 0.0
        while True:
            now = time.monotonic()
            try:
                found = parse(read_private(path).decode("utf-8", "replace"), path)
            except FileNotFoundError:
                if now >= remind:
                    remind = now + _REMIND_SECONDS
                    hint = "" if told else " (or give --file=PATH)"
                    start = f"'ipcontrollerz{'' if told else self._selection()}'{hint}"
                    self.say(f"waiting for {path}: start the controller with {start}")
            except ConnectorError:
                broken_since = broken_since or now
                if now - broken_since > _COPY_SECONDS:
                    raise
            else:
                if found.role != "engine":
                    raise ConnectorError(
                        f"{path} is the file for clients; engines need the one that is called"
                        " ipcontroller-engine.json"
                    )
                return found
            time.sleep(_LOOK_SECONDS)

    def _report(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "engine":
            self.say(f"engine {event['id']} is ready (process {event.get('pid', '?')})")
        elif kind == "engine_down":
            self.say(f"engine {event['id']} has ended: {event.get('reason', '')}")
        elif kind == "error":
            output.complain(f"{self.name}: {event.get('text', '')}")
        elif (text := event.get("text")) and self._patience.allows(text):
            self.say(text)


def startup_code(folder: ProfileDir) -> str:
    """Return code that runs the scripts of a profile's startup folder, by name."""
    try:
        names = sorted(name for name in os.listdir(folder.startup) if name.endswith(".py"))
    except OSError:
        return ""
    problem = planted(folder.startup) or planted(folder.path)
    if names and problem:
        raise SettingError(problem)
    paths = [os.path.join(folder.startup, name) for name in names]
    return "".join(
        f"exec(compile(open({path!r}, encoding='utf-8').read(), {path!r}, 'exec'))\n"
        for path in paths
    )


def main(argv: list[str] | None = None) -> int:
    """Run ``ipenginez``; return the exit code."""
    return run(EngineApp, argv)


if __name__ == "__main__":
    sys.exit(main())
