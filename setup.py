"""Refuses a checkout that lost its symbolic links; everything else stands in setup.cfg.

``ipclusterz/launchers`` and ``ipclusterz/profiles`` are links.  Git without link support
writes them as small text files, and a package built from those would lack both folders
and fail much later with an error that names neither.
"""

import sys
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent
LINKED = ("ipclusterz/launchers", "ipclusterz/profiles")

for name in LINKED:
    link = HERE / name
    if link.is_symlink() and not link.is_dir():
        sys.exit(f"ipclusterz: {name} leads nowhere; restore it: git checkout -- {link.name}")
    if not link.is_dir():
        sys.exit(
            f"ipclusterz: {name} is not a link: this checkout was made without symbolic"
            " links; clone again with: git clone -c core.symlinks=true <address>"
        )

setup()
