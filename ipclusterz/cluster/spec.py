"""What is started for a cluster, as data: the launch of a controller and of an agent.

Configurations travel on standard input, whose first line is ``{"config": {...}}``: no key
in arguments or environment, and no parsing of flags in processes that must start fast.
"""

from __future__ import annotations

import json
import os
import sys

import msgspec
from msgspec.structs import replace

from ipclusterz.cluster.state import TOKEN
from ipclusterz.core.config import AgentConfig, ControllerConfig
from ipclusterz.engine.offspring import space
from ipclusterz.launchers.base import LaunchSpec
from ipclusterz.paths import ProfileDir

_LAUNCHED = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "apps", "launched.py"
)
_LOG_LIMIT = 1 << 20


def controller_spec(config: ControllerConfig, token: str) -> LaunchSpec:
    """Return the launch of a controller on this host."""
    return LaunchSpec(
        argv=_argv("controller"),
        name="the controller",
        env={TOKEN: token},
        stdin=config_line(config),
        log=_log(config.log_dir, "ipcontrollerz", config.cluster_id),
    )


def controller_job_spec(
    config: ControllerConfig, token: str, profile: ProfileDir
) -> LaunchSpec:
    """Return the launch of a controller in a job of a batch system."""
    which = "-".join(filter(None, (config.cluster_id, "controller")))
    label = "-".join(filter(None, ("ipcontrollerz", config.cluster_id)))
    return LaunchSpec(
        argv=_argv("controller"),
        name="the controller",
        stdin=config_line(config),
        folder=os.path.join(profile.path, "jobs", f"{which}-{token[:8]}"),
        label=label,
        profile_dir=profile.path,
        cluster_id=config.cluster_id,
        log_dir=config.log_dir,
    )


def agent_spec(
    config: AgentConfig, token: str, label: str, profile: ProfileDir | None = None
) -> LaunchSpec:
    """Return the launch of ``config.n`` engines; they wait for a connector line.

    ``label`` tells the sets of engines of one cluster apart.
    """
    which = "-".join(filter(None, (config.cluster_id, label)))
    return LaunchSpec(
        argv=_argv("engine"),
        name=f"the engines' process ({label})" if label else "the engines' process",
        env={TOKEN: token},
        cwd=config.work_dir,
        stdin=config_line(config),
        n=config.n,
        log=_log(config.log_dir, "ipenginez", which),
        folder=os.path.join(profile.path, "jobs", f"{which}-{token[:8]}") if profile else "",
        label=f"ipenginez-{which}",
        profile_dir=profile.path if profile else "",
        cluster_id=config.cluster_id,
        log_dir=config.log_dir,
        restarts=config.restart_engines,
    )


def forking(engines: LaunchSpec, role: str = "engine") -> LaunchSpec:
    """Return the launch of engines whose process forks a zygote; ``both``: a controller too.

    For this host.  Without ``-P``, because what is forked imports from where it is.
    """
    argv = (sys.executable, _LAUNCHED, role)
    return replace(engines, argv=argv, env={**engines.env, **space()})


def config_line(config: ControllerConfig | AgentConfig) -> str:
    """Return the first line for a launched program; bytes travel as Base64."""
    return msgspec.json.encode({"config": config}).decode() + "\n"


def connector_line(text: str) -> str:
    """Return a connector file's text as the line an agent waits for."""
    return json.dumps({"connector": text}) + "\n"


def _argv(role: str) -> tuple[str, ...]:
    # A path and -P: whatever lies in the current folder is not imported by our processes,
    # and it is this very package that runs, installed or not.
    return (sys.executable, "-P", _LAUNCHED, role)


def _log(folder: str, program: str, label: str) -> str:
    """Return the path for what a program writes to standard error, aged once when large."""
    if not folder:
        return ""
    path = os.path.join(folder, f"{program}-{label}.err" if label else f"{program}.err")
    try:
        if os.stat(path).st_size > _LOG_LIMIT:
            os.replace(path, path + ".1")
    except OSError:
        pass
    return path
