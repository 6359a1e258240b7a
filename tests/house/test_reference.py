"""The reference is complete: each public name is on a page and begins with a promise."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import ipclusterz
from ipclusterz import error
from ipclusterz.launchers import base

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reference"
PAGES = {page.stem: page.read_text() for page in FOLDER.glob("*.md")}

DIRECTIVE = re.compile(r"^\.\. auto(?:class|exception|function|data):: ([\w.]+)", re.MULTILINE)
EXCLUDED = re.compile(r":exclude-members: (.*)")
PROMISE_CHARACTERS = 96
BRANCH = re.compile(r"    ((?:[│ ]   )*)([├└]── )?(\w+)")


def documented() -> set[str]:
    """The names that the pages have docstrings of, as short as they are called there."""
    found = {name for page in PAGES.values() for name in DIRECTIVE.findall(page)}
    assert ".. automodule:: ipclusterz.error" in PAGES["errors"]
    return found | set(classes_of(error))


def classes_of(module: ModuleType) -> dict[str, type]:
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }


def is_constant(name: str) -> bool:
    value = getattr(ipclusterz, name)
    return isinstance(value, str | ModuleType)


def members(kind: type) -> Iterator[tuple[str, object]]:
    """The public members of a class that are written in this project."""
    for parent in kind.__mro__:
        if not parent.__module__.startswith("ipclusterz"):
            continue
        for name, value in vars(parent).items():
            kinds = (property, classmethod, staticmethod)
            if not name.startswith("_") and (
                inspect.isfunction(value) or isinstance(value, kinds)
            ):
                yield name, getattr(kind, name)


def what_is_wrong(thing: object) -> str:
    """Say what a docstring lacks, '' when its first line is a promise."""
    text = inspect.getdoc(thing)
    if not text:
        return "has no docstring"
    first, _, rest = text.partition("\n")
    if len(first) > PROMISE_CHARACTERS:
        return f"begins with {len(first)} characters"
    if first[-1] not in ".:" or (rest and rest[0] != "\n"):
        return f"does not end its sentence in the first line: {first!r}"
    if len(first.split()) < 2 or not (first[0].isupper() or first.startswith("``")):
        return f"is no sentence: {first!r}"
    return ""


@pytest.mark.parametrize("name", sorted(set(ipclusterz.__all__)))
def test_each_public_name_is_in_the_reference(name: str) -> None:
    if is_constant(name):
        text = "".join(PAGES.values())
        assert f"`{name}`" in text or f"`ipclusterz.{name}`" in text
    else:
        assert name in documented(), "add a directive for it to a page of docs/reference"


@pytest.mark.parametrize("name", sorted(n for n in ipclusterz.__all__ if not is_constant(n)))
def test_each_public_name_begins_with_a_promise(name: str) -> None:
    thing = getattr(ipclusterz, name)
    wrong = {name: what_is_wrong(thing)}
    if inspect.isclass(thing):
        wrong |= {f"{name}.{member}": what_is_wrong(it) for member, it in members(thing)}
    assert {key: text for key, text in wrong.items() if text} == {}


def test_the_contract_of_launchers_is_all_promises() -> None:
    wrong = {}
    for name, kind in classes_of(base).items():
        wrong[name] = what_is_wrong(kind)
        wrong |= {f"{name}.{member}": what_is_wrong(it) for member, it in members(kind)}
    wrong["get_launcher"] = what_is_wrong(base.get_launcher)
    assert len(wrong) > 12
    assert {key: text for key, text in wrong.items() if text} == {}


def test_what_a_page_leaves_out_exists() -> None:
    known = {
        member
        for name in ipclusterz.__all__
        if inspect.isclass(getattr(ipclusterz, name))
        for member in dir(getattr(ipclusterz, name))
    } | {*vars(error), *vars(base)}
    left_out = {
        name.strip()
        for page in PAGES.values()
        for names in EXCLUDED.findall(page)
        for name in names.split(",")
    }
    assert left_out and left_out <= known


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    """The drawing in the head of ipclusterz.error, against the classes."""
    assert error.__doc__
    drawing = error.__doc__.partition("::\n")[2].partition("\nA :class:")[0]
    path: list[str] = []
    drawn = {}
    for line in drawing.splitlines():
        found = BRANCH.match(line)
        if found is None:
            continue
        indent, branch, name = found.groups()
        depth = len(indent) // 4 + bool(branch)
        path[depth:] = [name]
        drawn[name] = path[depth - 1] if depth else ""
    real = classes_of(error)
    assert drawn.keys() == real.keys()
    assert {n: p for n, p in drawn.items() if p and real[p] not in real[n].__bases__} == {}
    assert all(issubclass(kind, error.KernelError) for kind in real.values())
