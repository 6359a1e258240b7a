"""How the client tells its user what no return value says."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Tell the user, on standard error, why something takes long."""
    print(f"ipclusterz: {text}", file=sys.stderr, flush=True)
