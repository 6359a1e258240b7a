"""Records one after the other in a file that is only appended to; the last may be cut off.

Lives here: how they are told apart.  Must not know: what they say, and files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from ipclusterz.core.message import UNDECODABLE

T = TypeVar("T")

_LENGTH = 4


def framed(record: bytes) -> bytes:
    """Return a record as it is appended."""
    return len(record).to_bytes(_LENGTH, "little") + record


def unframed(data: bytes) -> Iterator[bytes]:
    """Yield the records of a file's content; a last one that is not whole is left out."""
    at = 0
    while at + _LENGTH <= len(data):
        begin = at + _LENGTH
        at = begin + int.from_bytes(data[at:begin], "little")
        if at > len(data):
            return
        yield data[begin:at]


def decoded(data: bytes, decode: Callable[[bytes], T]) -> Iterator[T]:
    """Yield what a file's records say; what follows a damaged one is left out."""
    for record in unframed(data):
        try:
            yield decode(record)
        except UNDECODABLE:
            return
