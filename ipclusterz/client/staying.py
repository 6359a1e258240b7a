"""What belongs to one process and its connection: clients, views, results.

They cannot be pickled, and say so themselves: what the pickler would come upon in the end, deep
inside of the connection, helps nobody.
"""

from __future__ import annotations

from typing import Any, TypeVar

S = TypeVar("S", bound="Stays")


class Stays:
    """Mixin: pickling it is a TypeError with the text of ``_cannot_travel``.

    A deep copy, such as of an object that has it as an attribute, has the same one.
    """

    _cannot_travel = ""  # serialize looks no further where it finds this

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(self._cannot_travel)

    def __copy__(self: S) -> S:
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    def __deepcopy__(self: S, _memo: dict[int, Any]) -> S:
        return self
