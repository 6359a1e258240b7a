"""Pages with a part that is written by a program: all between two marks, nothing else.

A mark is a comment of Markdown that names the command which writes what follows.  Knows
nothing of what is written.
"""

from __future__ import annotations

from pathlib import Path


def marks(command: str) -> tuple[str, str]:
    """The lines before and after what ``command`` writes."""
    return f"<!-- written by {command}: begin -->", f"<!-- written by {command}: end -->"


def why_not(page: Path, command: str) -> str:
    """Why ``page`` cannot take what ``command`` writes, or ''; one not there yet can."""
    begin, end = marks(command)
    if not page.exists():
        return "" if page.parent.is_dir() else f"there is no folder {page.parent}"
    try:
        text = page.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        return f"{page} cannot be read: {error}"
    if text.count(begin) == text.count(end) == 1 and text.index(begin) < text.index(end):
        return ""
    return f"{page} must have these two lines once, in this order: {begin} {end}"


def write(page: Path, command: str, text: str, title: str = "") -> None:
    """Put ``text`` between the marks of ``page``, or into a new page called ``title``."""
    begin, end = marks(command)
    block = f"{begin}\n\n{text}\n\n{end}"
    if not page.exists():
        page.write_text(f"# {title}\n\n{block}\n", encoding="utf-8")
        return
    old = page.read_text("utf-8")
    head, tail = old[: old.index(begin)], old[old.index(end) + len(end) :]
    page.write_text(head + block + tail, encoding="utf-8")
