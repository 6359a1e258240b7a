"""How the client tells its user what no return value says."""

from __future__ import annotations

import sys
from typing import Any


def say(text: str) -> None:
    """Tell the user, on standard error, why something takes long."""
    print(f"ipclusterz: {text}", file=sys.stderr, flush=True)


def ipython() -> Any:
    """Return the IPython shell this session runs in, or None."""
    module = sys.modules.get("IPython")
    return module.get_ipython() if module is not None else None
