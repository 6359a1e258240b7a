"""The pages of the commands name every option there is, and none that there is not."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipclusterz.apps import modes
from ipclusterz.apps.base import BaseApp
from ipclusterz.apps.cluster import ClusterApp
from ipclusterz.apps.controller import ControllerApp
from ipclusterz.apps.engine import EngineApp
from ipclusterz.apps.historic import LAUNCHERS
from ipclusterz.apps.sshcheck import SSHCheckApp
from ipclusterz.launchers.base import BUILT_IN

ROOT = Path(__file__).resolve().parents[2]
CLI = ROOT / "docs" / "cli"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SUBCOMMANDS: dict[str, type[BaseApp]] = {
    f"ipclusterz {word}": kind for word, (kind, _) in ClusterApp.subcommands.items()
} | {"ipclusterz ssh check": SSHCheckApp}
COMMANDS: dict[str, type[BaseApp]] = {
    **SUBCOMMANDS,
    "ipclusterz": ClusterApp,
    "ipcontrollerz": ControllerApp,
    "ipenginez": EngineApp,
}
CHOOSING = ("--engines=", "--profile=")
HELP = {"-h", "--help", "--help-all", "--version"}

CODE = re.compile(r"`([^`\n]+)`")
OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")
CALL = re.compile(r"(?:^\$ |`)((?:ipclusterz|ipcontrollerz|ipenginez) [^`\n]*)", re.MULTILINE)


def spelled(names: object) -> list[str]:
    """Options as they are typed: an alias is one name or several."""
    words = names if isinstance(names, tuple) else (names,)
    return [f"-{word}" if len(word) == 1 else f"--{word}" for word in words]


def options(kind: type[BaseApp]) -> set[str]:
    """All options of a command."""
    return {option for names in (*kind.aliases, *kind.flags) for option in spelled(names)}


COMMON = options(BaseApp)


def named(text: str) -> set[str]:
    """The options that stand in backticks."""
    return {option for code in CODE.findall(text) for option in OPTION.findall(code)}


def explained(command: str) -> str:
    """The page of a command, or its part of the page of all."""
    word = command.removeprefix("ipclusterz ")
    own = CLI / f"{word}.md"
    if command == "ipclusterz" or not own.is_file():
        page = (CLI / "ipclusterz.md").read_text()
        if command == "ipclusterz":
            return page
        (found,) = re.findall(rf"^## {word}\n(.*?)^## ", page, re.MULTILINE | re.DOTALL)
        return str(found)
    return own.read_text()


def first_column(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if line.startswith("| `-"):
            # A bar between values is escaped and ends no cell.
            yield re.split(r"(?<!\\)\|", line)[1]


@pytest.mark.parametrize("command", [*SUBCOMMANDS, "ipcontrollerz", "ipenginez"])
def test_each_option_is_on_the_page_of_its_command(command: str) -> None:
    assert options(COMMANDS[command]) - COMMON - named(explained(command)) == set()


@pytest.mark.parametrize("command", [*SUBCOMMANDS, "ipcontrollerz", "ipenginez"])
def test_the_tables_of_a_page_hold_options_of_its_command(command: str) -> None:
    known = options(COMMANDS[command]) | HELP
    listed = named(" ".join(first_column(explained(command))))
    assert listed and listed <= known


def test_the_options_of_every_command_are_on_the_page_of_all() -> None:
    page = (CLI / "index.md").read_text()
    assert named(" ".join(first_column(page))) == COMMON | HELP
    for command, kind in COMMANDS.items():
        assert options(kind) >= COMMON, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_command_line_on_a_page_has_options_that_exist(page: Path) -> None:
    for line in CALL.findall(page.read_text()):
        words = shlex.split(line.replace("'", ""), comments=True)
        if words[1:3] == ["ssh", "check"]:
            words = [words[0], "ssh check", *words[3:]]
        elif words[1:2] and words[1] in LAUNCHERS:
            continue  # modes that were: their options were others
        command = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
        used = {word.split("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)}
        used = {word if word.startswith("--") else word[:2] for word in used}
        assert used <= options(COMMANDS[command]) | of_launcher(words) | HELP, line


def of_launcher(words: list[str]) -> set[str]:
    """The options of the launcher that a command line chooses, by name or by profile."""
    chosen = {word.partition("=")[2] for word in words if word.startswith(CHOOSING)}
    return {
        option
        for mode in chosen & set(BUILT_IN)
        for each in modes.options_of(mode)
        for option in spelled(each.words)
    }


@pytest.mark.parametrize("mode", ["pbs", "slurm", "sge", "lsf", "htcondor"])
def test_the_options_of_batch_launchers_are_on_their_page(mode: str) -> None:
    page = (ROOT / "docs" / "batch.md").read_text()
    (section,) = re.findall(r"^## Options\n(.*?)^## ", page, re.MULTILINE | re.DOTALL)
    assert named(" ".join(first_column(section))) == of_launcher([f"--engines={mode}"])


def test_the_names_in_templates_are_on_the_page_of_batch_systems() -> None:
    page = (ROOT / "docs" / "batch.md").read_text()
    shown = set(re.findall(r"\$\{(\w+)\}", page))
    for name in shown - {"mine"}:
        assert f'"{name}"' in (ROOT / "launchers" / "batch.py").read_text(), name


def test_the_modes_that_were_are_on_the_page() -> None:
    (section,) = re.findall(
        r"^## Modes that were\n(.*?)^## ", explained("ipclusterz"), re.MULTILINE | re.DOTALL
    )
    rows = dict(re.findall(r"^\| `ipclusterz (\w+) .*?` \| .*--engines=(\w+)", section, re.M))
    assert rows == LAUNCHERS
