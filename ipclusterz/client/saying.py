"""How the client tells its user what no return value says."""

from __future__ import annotations

import sys
from typing import Any


def say(text: str) -> None:
    """Tell the user, on standard error, why something takes long."""
    write(f"ipclusterz: {text}")


def write(text: str) -> None:
    """Write a line on standard error, as far as that takes it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):  # no one reads it, or it is closed: work goes on
        pass


def ipython() -> Any:
    """Return the IPython shell this session runs in, or None."""
    module = sys.modules.get("IPython")
    return module.get_ipython() if module is not None else None
