"""Launchers' options for commands: from a launcher's ``Options`` to traits and short options.

A launcher says once what can be set (:mod:`ipclusterz.launchers.base`); here this becomes a
Configurable called like the launcher's class, so that config files say ``c.PBSLauncher.queue``
and the command line ``--queue``.  Knows no launcher by name.  ``start`` comes here only for a
launcher that has options, or for help and mistakes: the local one has none.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from functools import cache
from types import UnionType
from typing import Annotated, Any

from msgspec import NODEFAULT, Meta
from msgspec.structs import fields as struct_fields
from traitlets import Bool, Dict, Float, Int, List, TraitType, Unicode
from traitlets.config import Config, Configurable

from ipclusterz.error import LaunchError
from ipclusterz.launchers.base import BUILT_IN, launcher_class

_TRAITS: dict[Any, Any] = {str: Unicode, int: Int, float: Float, bool: Bool, dict: Dict}


class Option:
    """One option of a launcher: its name, its trait, its short forms and its help."""

    def __init__(self, name: str, kind: Any, default: Any) -> None:
        self.name = name
        self.kind, meta = _parts(kind)
        self.help = meta.description or "" if meta else ""
        extra: dict[str, Any] = (meta.extra or {}) if meta else {}
        self.default = default
        self.words: tuple[str, ...] = extra.get("flags", (name.replace("_", "-"),))

    @property
    def is_flag(self) -> bool:
        """Whether it is typed without a value."""
        return self.kind is bool

    def trait(self) -> TraitType[Any, Any]:
        """Return the trait for it."""
        if self.kind is list:
            made: TraitType[Any, Any] = List(Unicode(), list(self.default), help=self.help)
        else:
            made = _TRAITS[self.kind](self.default, help=self.help)
        return made.tag(config=True)


@cache
def options_of(mode: str, folder: str = "") -> tuple[Option, ...]:
    """Return the options of a launcher, in their order; LaunchError if there is none."""
    known = getattr(launcher_class(mode, folder), "Options", None)
    if known is None:
        return ()
    hints = typing.get_type_hints(known, include_extras=True)
    return tuple(
        Option(field.name, hints[field.name], _default(field)) for field in struct_fields(known)
    )


@cache
def configurable(mode: str, folder: str = "") -> type[Configurable] | None:
    """Return the class that config files name, None for a launcher without options."""
    options = options_of(mode, folder)
    if not options:
        return None
    kind = launcher_class(mode, folder)
    traits: dict[str, Any] = {option.name: option.trait() for option in options}
    return type(kind.__name__, (Configurable,), {**traits, "__doc__": kind.__doc__})


def aliases(mode: str, folder: str = "") -> dict[Any, Any]:
    """Return the options with a value, as traitlets' ``aliases``."""
    owner = _owner(mode, folder)
    return {
        option.words if len(option.words) > 1 else option.words[0]: (
            f"{owner}.{option.name}",
            option.help,
        )
        for option in options_of(mode, folder)
        if option.words and not option.is_flag
    }


def flags(mode: str, folder: str = "") -> dict[Any, Any]:
    """Return the options without a value, as traitlets' ``flags``."""
    owner = _owner(mode, folder)
    return {
        option.words if len(option.words) > 1 else option.words[0]: (
            {owner: {option.name: not option.default}},
            option.help,
        )
        for option in options_of(mode, folder)
        if option.words and option.is_flag
    }


def said(mode: str, config: Config, folder: str = "") -> dict[str, Any]:
    """Return what ``config`` says about a launcher: checked values by option."""
    kind = configurable(mode, folder)
    if kind is None or kind.__name__ not in config:
        return {}
    made = kind(config=config)
    return {name: _plain(getattr(made, name)) for name in config[kind.__name__]}


def whose(word: str) -> list[str]:
    """Return the launchers of this package that have the option ``--word``."""
    return [mode for mode in BUILT_IN if word in _words(mode)]


def _words(mode: str) -> Iterator[str]:
    try:
        options = options_of(mode)
    except LaunchError:
        return
    for option in options:
        yield from option.words


def _owner(mode: str, folder: str) -> str:
    return str(launcher_class(mode, folder).__name__)


def _default(field: Any) -> Any:
    if field.default is not NODEFAULT:
        return field.default
    return field.default_factory()


def _parts(kind: Any) -> tuple[Any, Meta | None]:
    """Return the plain type of an annotation, and what it says besides."""
    meta = None
    if typing.get_origin(kind) is Annotated:
        kind, *more = typing.get_args(kind)
        meta = next((one for one in more if isinstance(one, Meta)), None)
    origin = typing.get_origin(kind) or kind
    if origin in (tuple, list):
        return list, meta
    if origin in (typing.Union, UnionType) or origin not in _TRAITS:
        raise LaunchError(
            f"an option is of type {kind}: use str, int, float, bool, list[str] or dict"
        )
    return origin, meta


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return list(value)
    return dict(value) if isinstance(value, dict) else value
