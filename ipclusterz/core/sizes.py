"""Amounts of memory as people write them: ``512MB``, ``2GB``, ``1.5 GiB``, plain bytes.

Pure.  K, M, G and T are powers of 1024, as batch systems count memory.
"""

from __future__ import annotations

import re

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?\s*\Z", re.IGNORECASE | re.ASCII)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(said: str | int) -> int:
    """Return a number of bytes; ValueError says what it must look like.

    >>> parse_size("512MB"), parse_size("1.5g"), parse_size(""), parse_size(4096)
    (536870912, 1610612736, 0, 4096)
    """
    if isinstance(said, int) and not isinstance(said, bool) and said >= 0:
        return said
    if said == "":
        return 0
    found = _SIZE.match(said) if isinstance(said, str) else None
    if found is None:
        raise ValueError(f"{said!r} is no amount of memory: write it like 512MB or 2GB")
    return int(float(found[1]) * 1024 ** _POWERS[found[2].upper()])
