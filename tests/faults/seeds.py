"""One seed for what fault tests choose by chance: shown when a test fails, and replayable.

``IPCLUSTERZ_FAULT_SEED=4711 ./dev test tests/faults/test_kills.py`` chooses the same moments
and victims again.  What the kernel does in between is its own, so a replay is the same attack
and not the same run.
"""

from __future__ import annotations

import os
import random


def chance(name: str) -> random.Random:
    """A source of choices for the test ``name``; prints the seed, which pytest shows."""
    seed = int(
        os.environ.get("IPCLUSTERZ_FAULT_SEED") or random.SystemRandom().randrange(10**6)
    )
    print(f"{name}: IPCLUSTERZ_FAULT_SEED={seed}")
    return random.Random(f"{seed}-{name}")
