"""Keeps a profile's log folder from growing for ever.

Clusters made from Python get a new id each, and with it log files of their own: empty ones
are removed when such a cluster has ended well, and the oldest when there are too many.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from ipclusterz.files import remove

LIMIT = 500
"""So many files may lie in a log folder before the oldest are removed."""

_YOUNG_SECONDS = 86400.0
_YOUNG_TIMES = 4  # as many files may there be while some are young


def forget_empty(folder: str, cluster_id: str) -> None:
    """Remove the empty logs of one cluster."""
    for entry in _files(folder):
        if cluster_id in entry.name and entry.stat(follow_symlinks=False).st_size == 0:
            remove(entry.path)


def prune(folder: str, limit: int = LIMIT, living: Iterable[str] = ()) -> None:
    """Remove the oldest files beyond ``limit``.

    Those of the clusters ``living`` (ids) stay: somebody writes to them, however seldom.
    Files of the last day may be of engines that were started by hand: they go only when
    there are several times as many as ``limit``.
    """
    found = _files(folder)
    beyond = len(found) - limit
    if beyond <= 0:
        return
    from ipclusterz.cluster import logfiles  # only for folders that are full

    living = list(living)
    ages = sorted(
        (_modified(entry), entry.path)
        for entry in found
        if not any(each in entry.name and logfiles.belongs(entry.name, each) for each in living)
    )
    old = time.time() - _YOUNG_SECONDS
    far_beyond = len(found) - limit * _YOUNG_TIMES
    for at, (when, path) in enumerate(ages[:beyond]):
        if when < old or at < far_beyond:
            remove(path)


def _files(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if entry.is_file(follow_symlinks=False)]
    except OSError:
        return []


def _modified(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except OSError:  # removed by someone else meanwhile
        return 0.0
