"""Comparing secrets in a time that tells nothing of where they differ.

:func:`hmac.compare_digest` is the same; but to import :mod:`hmac`, as :mod:`secrets` does,
loads the system's OpenSSL besides the one that seals: 4 MB and as many milliseconds in each
controller.
"""

from __future__ import annotations

try:
    from _operator import _compare_digest as alike
except ImportError:  # another Python than CPython
    from hmac import compare_digest as alike  # type: ignore[no-redef]

__all__ = ["alike"]
