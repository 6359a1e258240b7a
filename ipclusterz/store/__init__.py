"""The task database: who asked for what, where it ran, how it ended.

:mod:`~ipclusterz.store.store` is what the hub uses; :mod:`~ipclusterz.store.query` the
language of queries and :mod:`~ipclusterz.store.keys` its words;
:mod:`~ipclusterz.store.writer` the thread that owns the disk.  Knows nothing of sockets,
nor of the loop it is used in.
"""

from __future__ import annotations

from ipclusterz.store.keys import RESULT, WORK, QueryError
from ipclusterz.store.store import Store

__all__ = ["RESULT", "WORK", "QueryError", "Store"]
