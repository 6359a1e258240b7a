"""What a profile's config files say, for clusters that are made from Python.

The same files configure the commands.  Reading one takes traitlets (45 ms), which a cluster
on its way to the first result does not have: files without a live line are not read.
"""

from __future__ import annotations

import os
from typing import Any

from msgspec import Struct, field

from ipclusterz.cluster.settings import (
    ControllerSettings,
    SettingError,
    no_such_setting,
    pin,
    read_key,
    shm_bytes,
    split_names,
)
from ipclusterz.core.config import AgentConfig
from ipclusterz.files import planted
from ipclusterz.launchers.base import fields_of, launcher_class
from ipclusterz.paths import ProfileDir

FILES = ("ipcontrollerz_config.py", "ipenginez_config.py", "ipclusterz_config.py")
_OF_COMMANDS = frozenset(
    "profile profile_dir ipython_dir cluster_id config_file log_to_file clean_logs quiet n file"
    " log_level log_format log_datefmt logging_config show_config show_config_json".split()
)
"""Settings of the commands that mean nothing to a cluster made from Python."""

_OTHERS = frozenset(
    "Application BaseApp ClusterApp Configurable CreateApp EnginesApp ListApp"
    " LoggingConfigurable SingletonConfigurable StopApp".split()
)
_KNOWN = frozenset(("ControllerApp", "EngineApp", "StartApp"))
_OF_LAUNCHERS = frozenset(("connector_text", "env", "job", "ends_in", "drain"))
_START = frozenset(("n", "engines", "controller", "daemon", "foreground", "delay", "timeout"))
_LIFELESS = ("c = get_config()", "c = get_config()  # noqa")


class Settings(Struct):
    """Settings from files, with defaults for what they do not say."""

    controller: ControllerSettings = field(default_factory=ControllerSettings)
    agent: AgentConfig = field(default_factory=AgentConfig)
    start: dict[str, Any] = {}
    launchers: dict[str, dict[str, Any]] = {}

    def options(self, launcher: str, folder: str) -> dict[str, Any]:
        """Return what the files say about a launcher."""
        if not self.launchers:
            return {}
        return self.launchers.get(launcher_class(launcher, folder).__name__, {})


def engines_in(path: str) -> str:
    """Return the launcher that a config file chooses, '' for none (or no such file)."""
    if not _has_live_lines(path):
        return ""
    try:
        return str(_load(path).get("StartApp", {}).get("engines", ""))
    except SettingError:
        return ""  # told when the file is read in earnest


def read(profile: ProfileDir) -> Settings:
    """Read a profile's config files; SettingError names a file that cannot be used."""
    sections: dict[str, dict[str, Any]] = {}
    for name in FILES:
        path = os.path.join(profile.path, name)
        if _has_live_lines(path):
            for section, values in _load(path).items():
                _check(path, section, values, profile.path)
                sections.setdefault(section, {}).update(values)
    found = Settings(start=sections.get("StartApp", {}))
    found.launchers = {
        name: values for name, values in sections.items() if name not in _KNOWN | _OTHERS
    }
    controller = dict(sections.get("ControllerApp", {}))
    if controller.get("execkey"):
        controller["execkey"] = read_key(str(controller["execkey"]))
    _fill(found.controller, controller, "ControllerApp")
    agent = dict(sections.get("EngineApp", {}))
    if isinstance(agent.get("preload"), str):
        agent["preload"] = split_names(agent["preload"])
    if "shm_limit" in agent:
        agent["shm_limit"] = shm_bytes(agent["shm_limit"], "c.EngineApp.shm_limit")
    if "pin_cores" in agent:
        agent["pin_cores"] = pin(agent["pin_cores"], "c.EngineApp.pin_cores")
    _fill(found.agent, agent, "EngineApp")
    return found


def _has_live_lines(path: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except OSError:
        return False
    except UnicodeDecodeError:
        return True  # to be told of with the file's name
    return any(line and line[0] != "#" and line not in _LIFELESS for line in lines)


def _load(path: str) -> dict[str, dict[str, Any]]:
    from traitlets.config.loader import PyFileConfigLoader  # see the head of this file

    if problem := planted(os.path.dirname(path)):
        raise SettingError(problem)
    try:
        config = PyFileConfigLoader(os.path.basename(path), os.path.dirname(path)).load_config()
    except Exception as error:
        raise SettingError(
            f"the config file {path} cannot be used: {type(error).__name__}: {error}"
        ) from error
    return {section: dict(values) for section, values in config.items()}


def _check(path: str, section: str, values: dict[str, Any], folder: str) -> None:
    known: dict[str, frozenset[str]] = {
        "ControllerApp": frozenset(ControllerSettings.__struct_fields__),
        "EngineApp": frozenset(AgentConfig.__struct_fields__) - _OF_LAUNCHERS,
        "StartApp": _START,
    }
    if section in _OTHERS:
        return  # of another command, which checks it
    if section not in known and (fields := fields_of(section, folder)) is not None:
        known[section] = frozenset(fields)
    if section not in known:
        text = no_such_setting("", section, [*known, *_OTHERS])
        raise SettingError(f"the config file {path} cannot be used: {text}")
    for name in values:
        if name not in known[section] | _OF_COMMANDS:
            text = no_such_setting(section, name, known[section])
            raise SettingError(f"the config file {path} cannot be used: {text}")


def _fill(target: object, values: dict[str, Any], section: str) -> None:
    for name, value in values.items():
        if not hasattr(target, name):
            continue  # of the commands
        kind = type(getattr(target, name))
        if not isinstance(value, kind) and not (kind is float and isinstance(value, int)):
            raise SettingError(
                f"c.{section}.{name} is {value!r}: it must be of type {kind.__name__}"
            )
        setattr(target, name, value)
