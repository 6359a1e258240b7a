"""BroadcastView: a direct view under the name that says how it sends.

Every direct view of ours sends what it sends once, however many engines are named, and
hosts keep one copy of it (docs/architecture.md, "A broadcast travels once").  So nothing
is left to do here but to bear the name and the flag of ipyparallel's.
"""

from __future__ import annotations

from ipclusterz.client.direct import DirectView


class BroadcastView(DirectView):
    """A direct view; made by ``rc.broadcast_view()``.

    ``is_coalescing`` is accepted for compatibility: answers of many engines travel in
    batches anyway, and values are the same with and without it.
    """

    _flag_names = (*DirectView._flag_names, "is_coalescing")

    is_coalescing = False
