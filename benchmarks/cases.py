"""What figures are called that belong to a case and not to a peer.

Data only.
"""

from __future__ import annotations

SEALED = "ipclusterz, sealed"
BARE = "bare socket, sealed"
PAIR = "ZeroMQ pair, unsealed"
"""Of the row hosts."""


def engines_name(n: int) -> str:
    """What the figures of ``n`` engines are called."""
    return f"{n:,} engines"


def queue_name(n: int) -> str:
    """What the figures of ``n`` waiting tasks are called."""
    return f"{n:,} waiting"
