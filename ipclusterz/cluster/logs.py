"""Keeps a profile's log folder from growing for ever.

Clusters made from Python get a new id each, and with it log files of their own: empty ones
are removed when such a cluster has ended well, and the oldest when there are too many.
"""

from __future__ import annotations

import os

from ipclusterz.files import remove

LIMIT = 500
"""So many files may lie in a log folder before the oldest are removed."""


def forget_empty(folder: str, cluster_id: str) -> None:
    """Remove the empty logs of one cluster."""
    for entry in _files(folder):
        if cluster_id in entry.name and entry.stat(follow_symlinks=False).st_size == 0:
            remove(entry.path)


def prune(folder: str, limit: int = LIMIT) -> None:
    """Remove the oldest files beyond ``limit``."""
    found = _files(folder)
    if len(found) <= limit:
        return
    ages = sorted((_modified(entry), entry.path) for entry in found)
    for _, path in ages[: len(found) - limit]:
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
