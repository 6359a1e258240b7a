"""docs/promises.md is true: each row names a command that exists, and a test that does."""

from __future__ import annotations

import ast
import functools
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

import ipclusterz
import ipclusterz.launchers.base  # names of it are resolved below
from tests.house.test_cli_pages import COMMANDS, HELP, options

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "promises.md").read_text()
CODE = re.compile(r"`([^`\n]+)`")
KEPT = ("the document says", "kept by", "proven by")
MISSING = ("the document says", "what is missing", "until then")


class Row(NamedTuple):
    """A statement, what is done about it, and the third column."""

    statement: str
    means: str
    rest: str


def tables() -> dict[str, list[tuple[tuple[str, ...], list[Row]]]]:
    """The tables of each section, as their head and their rows."""
    found: dict[str, list[tuple[tuple[str, ...], list[Row]]]] = {}
    section, before = "", False
    for line in PAGE.splitlines():
        if line.startswith("## "):
            section = line[3:]
        is_row = line.startswith("|")
        if is_row and not line.startswith("|---"):
            cells = tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            if before:
                assert len(cells) == 3, line
                found[section][-1][1].append(Row(*cells))
            else:
                found.setdefault(section, []).append((cells, []))
        before = is_row
    return found


TABLES = tables()
ROWS = [row for each in TABLES.values() for head, rows in each if head == KEPT for row in rows]


@functools.cache
def named_in(path: str) -> frozenset[str]:
    """The tests in a file, as pytest calls them."""
    tree = ast.parse((ROOT / path).read_text())
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = {node.name for node in tree.body if isinstance(node, functions)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            methods = (each for each in node.body if isinstance(each, functions))
            found |= {f"{node.name}::{each.name}" for each in methods}
    return frozenset(name for name in found if name.rpartition("::")[2].startswith("test_"))


def exists(text: str) -> bool:
    """Whether a command line parses, or a name of the package leads to something."""
    words = shlex.split(text)
    command = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    if command in COMMANDS:
        used = {word.partition("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)}
        plain = [word for word in words[1:2] if not word.startswith("-")]
        known = command != "ipclusterz" or not plain  # a subcommand that there is not
        return known and used <= options(COMMANDS[command]) | HELP
    if not text.startswith("ipp."):
        return False
    thing: object = ipclusterz
    for name in text.split(".")[1:]:
        thing = getattr(thing, name, None)
    return thing is not None


def test_every_table_is_of_one_of_two_kinds() -> None:
    heads = {name: [head for head, _ in each] for name, each in TABLES.items()}
    assert heads.pop("Not yet", [MISSING]) == [MISSING]
    assert set(map(tuple, heads.values())) == {(KEPT,)}
    assert len(ROWS) > 40


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.statement[:50])
def test_a_promise_is_kept_by_something_that_exists(row: Row) -> None:
    means = CODE.findall(row.means)
    assert means and re.sub(r"[,\s]", "", CODE.sub("", row.means)) == "", row.means
    assert [text for text in means if not exists(text)] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.statement[:50])
def test_a_promise_is_proven_by_tests_that_exist(row: Row) -> None:
    named = CODE.findall(row.rest)
    assert named and re.sub(r"[,\s]", "", CODE.sub("", row.rest)) == "", row.rest
    for name in named:
        path, _, test = name.partition("::")
        assert (ROOT / path).is_file(), path
        assert test in named_in(path), name


@pytest.mark.skipif("Not yet" not in TABLES, reason="nothing is missing")
def test_what_is_missing_is_said_and_has_a_way_round() -> None:
    ((_, rows),) = TABLES["Not yet"]
    assert all(row.means and row.rest for row in rows)
    commands = [text for row in rows for text in CODE.findall(row.rest) if "ipengine" in text]
    assert commands and all(exists(text) for text in commands)


@pytest.mark.parametrize(
    "text",
    ["ipclusterz begin", "ipcontrollerz --no-such", "ipp.NoSuch", "ipp.Client.no_such", "x"],
)
def test_what_does_not_exist_is_found_out(text: str) -> None:
    assert not exists(text)


def test_tests_that_do_not_exist_are_found_out() -> None:
    own = named_in("tests/house/test_promises.py")
    assert "test_tests_that_do_not_exist_are_found_out" in own
    assert "exists" not in own and "test_nothing" not in own
