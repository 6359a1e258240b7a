"""How the documentation is built; ./dev docs treats every warning as an error."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the reference is made of the source beside this file

project = "ipclusterz"
author = "The ipclusterz developers"
copyright = "The ipclusterz developers"
_version = (ROOT / "ipclusterz" / "_version.py").read_text(encoding="utf-8")
release = re.findall(r'^__version__ = "(.+)"', _version, re.MULTILINE)[0]
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True
# Names in signatures that this documentation has no place for.
nitpick_ignore_regex = [
    ("py:(class|func)", r"(builtins|collections|concurrent|contextlib|datetime|os|typing)\..+"),
    ("py:class", r"datetime|dict\[str|Future|View|Session"),
    ("py:class", r"ipclusterz\.(.+\.[A-Z]|client\.task\.TaskResult|client\.lazymap\.LazyMap)"),
    ("py:class", r"ipclusterz\.core\.ranks\.Rank"),
    ("py:func", r"remote_error"),
]

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"

html_theme = "furo"
html_title = f"ipclusterz {release}"


def _by_short_name(app: Any, env: Any, node: Any, text: Any) -> Any:
    """Find a class, or something of a class, as docstrings and signatures call it."""
    if node.get("refdomain") != "py" or "refspecific" in node:
        return None
    domain, kind, target = env.domains["py"], node["reftype"], node["reftarget"]
    for short in (target, target.rpartition(".")[2]):
        places = domain.find_obj(env, "", "", short, kind, 1)
        names = [name for name, entry in places if not entry.aliased]
        if len(names) == 1 and names[0].startswith("ipclusterz."):
            where = node["refdoc"]
            return domain.resolve_xref(env, where, app.builder, kind, names[0], node, text)
    return None


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", _by_short_name)
