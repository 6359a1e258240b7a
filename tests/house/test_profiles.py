"""Ready-made profiles are data, and every setting they show is one that exists."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Configurable

from ipclusterz.apps import modes
from ipclusterz.cluster.fileconfig import engines_in
from ipclusterz.launchers.base import BUILT_IN

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "ipclusterz" / "profiles").rglob("*_config.py"))
MODULES = {
    "ipclusterz_config.py": "ipclusterz.apps.cluster",
    "ipcontrollerz_config.py": "ipclusterz.apps.controller",
    "ipenginez_config.py": "ipclusterz.apps.engine",
}
SETTING = re.compile(r"^(?:# )?c\.(\w+)\.(\w+) = (.+)$", re.MULTILINE)


def configurables(module: str) -> dict[str, type[Configurable]]:
    """The classes that a config file of this module's command can name."""
    found: dict[str, type[Configurable]] = {}
    for value in vars(importlib.import_module(module)).values():
        if inspect.isclass(value) and issubclass(value, Configurable):
            for kind in [value, *getattr(value, "classes", [])]:
                found[kind.__name__] = kind
    if module == MODULES["ipclusterz_config.py"]:
        for mode in BUILT_IN:
            if launcher := modes.configurable(mode):
                found[launcher.__name__] = launcher
    return found


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_config_file_is_valid_python_that_imports_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not imports


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_setting_exists_and_shows_its_default(path: Path) -> None:
    classes = configurables(MODULES[path.name])
    settings = SETTING.findall(path.read_text())
    assert settings
    for owner, name, text in settings:
        assert owner in classes, f"no class {owner}"
        traits: dict[str, Any] = classes[owner].class_traits(config=True)
        assert name in traits, f"{owner} has no setting {name}"
        commented = f"# c.{owner}.{name} = {text}" in path.read_text()
        if commented or path.parent.name == "default":
            assert traits[name].default() == ast.literal_eval(text), (
                f"default of {owner}.{name}"
            )


def test_the_default_profile_has_a_file_for_each_command() -> None:
    assert {path.name for path in FILES if path.parent.name == "default"} == set(MODULES)


@pytest.mark.parametrize("system", ["pbs", "slurm", "sge", "lsf", "htcondor"])
def test_the_profile_of_a_batch_system_chooses_it(system: str) -> None:
    folder = ROOT / "ipclusterz" / "profiles" / system
    assert engines_in(str(folder / "ipclusterz_config.py")) == system
    assert 'c.ControllerApp.ip = "auto"\n' in (folder / "ipcontrollerz_config.py").read_text()
