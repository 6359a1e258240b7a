"""What the troubleshooting page quotes is what the source says, to the word."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()

QUOTED = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
LONGEST_LINE = 88
LEAST = 12
"""Characters of a text that can be recognised at all."""


def flat(text: str) -> str:
    return " ".join(text.split())


def texts(node: ast.AST) -> Iterator[str]:
    """The texts that an expression can make, with {} for what is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield re.sub(r"%[srdg]", "{}", node.value)
    elif isinstance(node, ast.JoinedStr):
        parts = (v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)
        yield "".join(str(part) for part in parts)
    for child in ast.iter_child_nodes(node):
        yield from texts(child)


@cache
def said() -> str:
    """All texts of the package, one a line."""
    found = set()
    package = [*(ROOT / "ipclusterz").rglob("*.py"), *(ROOT / "launchers").glob("*.py")]
    for path in sorted(package):
        found |= {flat(text) for text in texts(ast.parse(path.read_text()))}
    return "\n".join(sorted(found))


def pieces(quoted: str) -> list[str]:
    """What of a quoted text must stand in the source in one piece."""
    text = re.sub(r"‹[^›]*›", "{}", flat(quoted))
    return [piece.strip() for piece in text.split("…") if piece.strip()]


def parts(piece: str) -> list[str]:
    """What a text may be put together of: sentences, additions, remarks in brackets."""
    return re.split(r"(?<=\.) (?=[A-Z])|(?=; )| (?=\()", piece)


@pytest.mark.parametrize("quoted", QUOTED, ids=lambda text: flat(text)[:60])
def test_what_is_quoted_is_said(quoted: str) -> None:
    whole = pieces(quoted)
    missing = [piece for piece in whole if piece not in said()]
    assert [p for piece in missing for p in parts(piece) if p not in said()] == []
    assert max(len(piece.replace("{}", "")) for piece in whole) >= LEAST


def test_each_entry_says_what_to_do() -> None:
    entries = re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
    assert len(entries) > 30
    assert [e.splitlines()[0] for e in entries if "```text" not in e or "*Do.*" not in e] == []


def test_lines_can_be_read_without_scrolling() -> None:
    lines = [line for quoted in QUOTED for line in quoted.splitlines()]
    assert [line for line in lines if len(line) > LONGEST_LINE] == []
