"""``ipclusterz create``: a profile's folders and commented config files."""

from __future__ import annotations

import os
from typing import Any

from traitlets import Bool, Unicode
from traitlets.config import Configurable

from ipclusterz.apps.base import BaseApp, ExitCode
from ipclusterz.apps.controller import ControllerApp
from ipclusterz.apps.engine import EngineApp
from ipclusterz.apps.start import StartApp
from ipclusterz.cluster import SettingError

FILES: dict[str, type[BaseApp]] = {
    "ipclusterz_config.py": StartApp,
    "ipcontrollerz_config.py": ControllerApp,
    "ipenginez_config.py": EngineApp,
}
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_TEMPLATES = os.path.join(_PACKAGE, "profiles")


class CreateApp(BaseApp):
    """Makes profiles."""

    name = Unicode("ipclusterz create")
    description = Unicode(
        "Makes a profile: folders for files that only you can read, and commented config files."
    )
    examples = Unicode(
        "\nipclusterz create\nipclusterz create --profile=work\n"
        "ipclusterz create --profile=slurm           # ready-made, as pbs, sge, lsf, htcondor\n"
        "ipclusterz create --profile=work --reset    # config files as new\n"
    )

    reset = Bool(False, help="Replace config files that exist.").tag(config=True)
    template = Unicode(
        "default", help="The ready-made profile to begin with; else the one of the same name."
    ).tag(config=True)

    flags = {  # noqa: RUF012
        **BaseApp.flags,
        "reset": ({"CreateApp": {"reset": True}}, "Replace config files that exist."),
    }
    aliases = {  # noqa: RUF012
        **BaseApp.aliases,
        "template": ("CreateApp.template", "The ready-made profile to begin with. [default]"),
    }
    config_names = ()

    def start(self) -> Any:
        """Make what is missing; return the exit code."""
        if not self.was_said("template") and self.folder.name in _known():
            self.template = self.folder.name  # "create --profile=pbs" means that one
        template = os.path.join(_TEMPLATES, self.template)
        if os.sep in self.template or not os.path.isdir(template):
            known = ", ".join(sorted(_known())) or "none"
            raise SettingError(f"no ready-made profile {self.template!r}; there are: {known}")
        folder = self.folder.create()
        for name in sorted({*FILES, *os.listdir(template)}):
            source = os.path.join(template, name)
            if name in FILES or os.path.isfile(source):
                self._write(os.path.join(folder.path, name), name, source)
        self.say(f"profile {folder.name!r} is in {folder.path}")
        return ExitCode.OK

    def _write(self, path: str, name: str, source: str) -> None:
        text = ""
        if os.path.isfile(source):
            with open(source, encoding="utf-8") as file:
                text = file.read()
        if name in FILES:
            text = config_text(text, FILES[name])
        try:
            with open(path, "w" if self.reset else "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            self.say(f"kept  {path}")
        else:
            self.say(f"wrote {path}")


def config_text(head: str, command: type[BaseApp]) -> str:
    """Return a config file: ``head``, then every setting it does not show, commented."""
    text = head.rstrip() or "c = get_config()"
    for kind in (command, BaseApp):
        shown = [trait for trait in _own(kind) if f"c.{kind.__name__}.{trait}" not in head]
        for trait in shown:
            made = kind.class_traits(config=True)[trait]
            text += f"\n\n# {made.help.strip()}\n"
            text += f"# c.{kind.__name__}.{trait} = {made.default()!r}"
    return text + "\n"


def _own(kind: type[Configurable]) -> list[str]:
    names = kind.class_own_traits(config=True)
    return [name for name in sorted(names) if name not in ("log_level", "log_format")]


def _known() -> list[str]:
    if not os.path.isdir(_TEMPLATES):
        return []
    return [n for n in os.listdir(_TEMPLATES) if os.path.isdir(os.path.join(_TEMPLATES, n))]
