"""What a profile's config files say, for clusters that are made from Python.

The same files configure the commands.  Reading one takes traitlets (45 ms), which a cluster
on its way to the first result does not have: files without a live line are not read.
"""

from __future__ import annotations

import os
from typing import Any

from msgspec import Struct, field

from ipclusterz.cluster.settings import ControllerSettings, SettingError, read_key
from ipclusterz.core.config import AgentConfig
from ipclusterz.paths import ProfileDir

FILES = ("ipcontrollerz_config.py", "ipenginez_config.py", "ipclusterz_config.py")
_LIFELESS = ("c = get_config()", "c = get_config()  # noqa")


class Settings(Struct):
    """Settings from files, with defaults for what they do not say."""

    controller: ControllerSettings = field(default_factory=ControllerSettings)
    agent: AgentConfig = field(default_factory=AgentConfig)
    start: dict[str, Any] = {}


def read(profile: ProfileDir) -> Settings:
    """Read a profile's config files; SettingError names a file that cannot be used."""
    sections: dict[str, dict[str, Any]] = {}
    for name in FILES:
        path = os.path.join(profile.path, name)
        if _has_live_lines(path):
            for section, values in _load(path).items():
                sections.setdefault(section, {}).update(values)
    found = Settings(start=sections.get("StartApp", {}))
    controller = dict(sections.get("ControllerApp", {}))
    if controller.get("execkey"):
        controller["execkey"] = read_key(str(controller["execkey"]))
    _fill(found.controller, controller, "ControllerApp")
    agent = dict(sections.get("EngineApp", {}))
    if isinstance(agent.get("preload"), str):
        agent["preload"] = [
            part.strip() for part in agent["preload"].split(",") if part.strip()
        ]
    for name in ("n", "file"):  # of ipenginez alone
        agent.pop(name, None)
    _fill(found.agent, agent, "EngineApp")
    return found


def _has_live_lines(path: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except OSError:
        return False
    return any(line and line[0] != "#" and line not in _LIFELESS for line in lines)


def _load(path: str) -> dict[str, dict[str, Any]]:
    from traitlets.config.loader import PyFileConfigLoader  # see the head of this file

    try:
        config = PyFileConfigLoader(os.path.basename(path), os.path.dirname(path)).load_config()
    except Exception as error:
        raise SettingError(
            f"the config file {path} cannot be used: {type(error).__name__}: {error}"
        ) from error
    return {section: dict(values) for section, values in config.items()}


def _fill(target: object, values: dict[str, Any], section: str) -> None:
    for name, value in values.items():
        kind = type(getattr(target, name, None))
        if not hasattr(target, name):
            raise SettingError(f"there is no setting c.{section}.{name}")
        if not isinstance(value, kind) and not (kind is float and isinstance(value, int)):
            raise SettingError(
                f"c.{section}.{name} is {value!r}: it must be of type {kind.__name__}"
            )
        setattr(target, name, value)
