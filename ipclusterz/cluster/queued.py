"""A controller in a job of a batch system: what must hold, how it is submitted, how it stands.

Lives here: the rules for ``--controller=slurm`` and its like.  The modules that ask,
:mod:`ipclusterz.cluster.deployment` and :mod:`ipclusterz.cluster.state`, do not import it
before there is such a controller.  Its launcher stays on the host that submits the jobs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ipclusterz.client.saying import say
from ipclusterz.cluster.kept import settle
from ipclusterz.cluster.settings import ControllerSettings, SettingError
from ipclusterz.cluster.spec import controller_job_spec
from ipclusterz.core.addresses import is_loopback, literal
from ipclusterz.core.batchjob import belongs
from ipclusterz.core.config import ControllerConfig
from ipclusterz.error import LaunchError
from ipclusterz.files import read_private
from ipclusterz.launchers.base import Event, get_launcher
from ipclusterz.paths import ProfileDir

if TYPE_CHECKING:
    from ipclusterz.cluster.deployment import Plan
    from ipclusterz.cluster.state import State
    from ipclusterz.launchers.batch import BatchLauncher
    from ipclusterz.launchers.controllerjob import ControllerJob

NAME = ":controller"
"""The entry of the controller's job in a state file; engine sets are never called so."""

_TOLD = ("job", "told", "waiting")


def check(controller: str, engines: str, reuse: bool) -> None:
    """Raise SettingError if a controller cannot be started by the launcher ``controller``."""
    if controller != engines:
        raise SettingError(
            f"controller is {controller!r} and engines is {engines!r}: it must be local, ssh,"
            " or the batch system of the engines as well, as in --controller=slurm"
            " --engines=slurm"
        )
    if reuse:
        raise SettingError(
            f"-r does not go with --controller={controller}: on which node a job will run is"
            " not known, so copied connector files could not stay good. Leave -r out, or start"
            " the controller on this host"
        )


def no_batch_system(controller: str) -> str:
    """Return what to say of a launcher that has no jobs."""
    return (
        f"controller is {controller!r}, which is no batch system: it must be local, ssh, or a"
        " batch system like slurm or pbs"
    )


def launcher_of(plan: Plan) -> BatchLauncher:
    """Return the launcher for the controller; SettingError if it has no jobs for one."""
    check(plan.controller_launcher, plan.launcher, plan.controller.reuse_files)
    launcher: Any = get_launcher(plan.launcher, plan.options, plan.profile.path)
    if not hasattr(launcher, "start_controller"):
        raise SettingError(no_batch_system(plan.controller_launcher))
    found: BatchLauncher = launcher
    return found


def configure(
    plan: Plan, allow_loopback: bool, tell: Callable[[str], None]
) -> ControllerConfig:
    """Return the controller's configuration; what addresses mean is found on its node.

    LaunchError when no node could reach it.  ``tell`` is told what was decided.
    """
    config = settle(plan.controller, plan.profile, plan.cluster_id, here=False)
    if not _beyond(config):
        if not allow_loopback:
            raise LaunchError(
                f"the controller would listen on {_place(config)} only, which no other host"
                " reaches, so engines in jobs could not connect; nothing was submitted. Start"
                " it with --ip=auto, the address of the node that it will run on, or --ip=NAME"
                " for an interface that all nodes have; if the jobs run on this very host, with"
                " --allow-loopback"
            )
    elif not config.client_ip:
        config.client_ip = config.ip
        tell(
            f"clients of other hosts are let in as engines are (--client-ip={config.ip}): the"
            " controller runs in a job, so they always come from another host"
        )
    return config


def _beyond(config: ControllerConfig) -> bool:
    if config.transport != "tcp":
        return False
    return config.ip != "localhost" and not is_loopback(literal(config.ip))


def _place(config: ControllerConfig) -> str:
    return config.ip if config.transport == "tcp" else "UNIX sockets"


def preview(plan: Plan) -> str:
    """Return the script and the command of a controller's job."""
    settings = ControllerSettings()  # the script has nothing of them
    config = settle(settings, plan.profile, plan.cluster_id, here=False)
    config.log_dir = plan.log_dir
    spec = controller_job_spec(config, "preview0", plan.profile)
    return launcher_of(plan).preview_controller(spec)


def submit(
    launcher: BatchLauncher, config: ControllerConfig, token: str, profile: ProfileDir
) -> ControllerJob:
    """Submit the controller's job; LaunchError in the system's words."""
    return launcher.start_controller(controller_job_spec(config, token, profile))


def readable(profile: ProfileDir, cluster_id: str, pid: int) -> bool:
    """Tell whether the connector files of the controller with this number are here to read.

    A network file system may show them a moment later than its folder of events.
    """
    for role in ("client", "engine"):
        try:
            text = read_private(profile.connector(role, cluster_id))
        except FileNotFoundError:
            return False
        if pid and json.loads(text).get("pid") != pid:
            return False
    return True


def lives(state: State) -> bool:
    """Ask the batch system whether a controller's job waits or runs; in doubt it does."""
    from ipclusterz.launchers.systems import ENDED, Silent, command

    made = state.jobs.get(state.controller_job)
    if made is None:
        return False  # its launcher was killed before anything was submitted
    try:
        launcher: Any = get_launcher(state.mode, state.options, state.profile_dir)
        system = launcher.system()
        news = system.read(command(system.queries(made.ids)))
    except (Silent, LaunchError):
        return True
    return any(
        value.state != ENDED
        for id, value in news.items()
        if any(belongs(id, ours) for ours in made.ids)
    )


def standing(state: State) -> str:
    """Return what is known of a controller's job, for people."""
    made = state.jobs.get(state.controller_job)
    if made is None:
        return "its job is being submitted"
    return "; ".join(made.texts.values()) or f"{made.system} job {' '.join(made.ids)}"


class Voice:
    """Tells on standard error what happens, each thing once, where nobody else listens."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, event: Event) -> None:
        """Tell it, if it is news of a job or of a wait."""
        text = str(event.get("text", ""))
        if event["event"] in _TOLD and text and text != self._last:
            self._last = text
            say(text)
