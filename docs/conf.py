"""How the documentation is built; ./dev docs treats every warning as an error."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

project = "ipclusterz"
author = "The ipclusterz developers"
copyright = "The ipclusterz developers"
_version = (ROOT / "ipclusterz" / "_version.py").read_text(encoding="utf-8")
release = re.findall(r'^__version__ = "(.+)"', _version, re.MULTILINE)[0]
version = release

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = f"ipclusterz {release}"
