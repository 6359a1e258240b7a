"""``python -m ipclusterz`` is the command ``ipclusterz``."""

from __future__ import annotations

import sys

from ipclusterz.apps.cluster import main

if __name__ == "__main__":
    sys.exit(main())
