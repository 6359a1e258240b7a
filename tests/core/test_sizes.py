"""Amounts of memory as people write them."""

from __future__ import annotations

from typing import Any

import pytest

from ipclusterz.core.sizes import parse_size


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ("", 0),
        ("0", 0),
        (0, 0),
        (4096, 4096),
        ("4096", 4096),
        ("4096B", 4096),
        ("64k", 64 << 10),
        ("512MB", 512 << 20),
        ("512 mib", 512 << 20),
        ("2GB", 2 << 30),
        ("1.5G", 3 << 29),
        (" 1TiB ", 1 << 40),
    ],
)
def test_what_is_understood(said: str | int, size: int) -> None:
    assert parse_size(said) == size


@pytest.mark.parametrize(
    "said", ["much", "-1", -1, "2 GB or so", "2X", "1e9", "GB", True, "²G"]
)
def test_what_is_not(said: Any) -> None:
    with pytest.raises(ValueError, match=r"is no amount of memory: write it like 512MB or 2GB"):
        parse_size(said)
