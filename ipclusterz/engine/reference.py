"""Names that stand for objects on an engine.

Lives here: :class:`Reference` and how it is replaced by what it names.  May know: nothing
of ours.  Must not know: how calls travel.
"""

from __future__ import annotations

from typing import Any


class Reference:
    """Stands, in the arguments of a remote call, for the engine's own object of that name.

    ``name`` is a variable of the engine's namespace, or an expression over them such as
    ``"data[0].shape"``.  It is replaced where it is an argument itself or an item of a
    list, tuple or dict that is one.  An unknown name raises NameError on the engine.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a Reference needs a name (str), not {type(name).__name__}")
        self.name = name

    def __repr__(self) -> str:
        return f"<Reference: {self.name!r}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and other.name == self.name

    def __hash__(self) -> int:
        return hash((Reference, self.name))

    def resolve(self, namespace: dict[str, Any]) -> Any:
        """Return what the name means in ``namespace``."""
        try:
            return namespace[self.name]
        except KeyError:
            return eval(self.name, namespace)


def replace(value: Any, namespace: dict[str, Any], depth: int = 2) -> Any:
    """Return ``value`` with references resolved, ``depth`` containers deep.

    Containers without references are returned as they are, others as copies.
    """
    if isinstance(value, Reference):
        return value.resolve(namespace)
    if depth == 0:
        return value
    kind = type(value)
    if kind is list or kind is tuple:
        items = [replace(item, namespace, depth - 1) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return items if kind is list else tuple(items)
    if kind is dict:
        made = {k: replace(v, namespace, depth - 1) for k, v in value.items()}
        return value if all(made[k] is value[k] for k in value) else made
    return value
