"""What a task shows besides text, and values it publishes: on their way to the client.

Lives here: the records (JSON) and how many bytes of them one task may send.  May know: a
stream's way to write a record, the shared page's count of tasks.  Must not know: IPython,
sockets.

A record is ``{"data": {mime: content}, "metadata": {}}``, with ``"id"`` (and ``"update"``) for
a display that can be replaced; or ``{"clear": wait}``; or ``{"values": pickle, "names": []}``.
Bytes become base64, as notebooks have it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ipclusterz.engine import serialize
from ipclusterz.engine.page import SERIAL

LIMIT = 32 * 1024 * 1024
"""Bytes of displays that one task may send, and of values at once."""

VALUES = 256 * 1024 * 1024
"""Bytes of values that one task may send in all: later ones replace earlier ones."""

MARKERS = 100
"""How often a task that shows too much is told so in place of what it showed."""

_KEPT_TEXT = 2000  # characters of a display's text that stay when the rest is too large


class Outlet:
    """One engine's way out for records; ``write`` takes an encoded one."""

    def __init__(self, write: Callable[[bytes], None], words: memoryview | list[int]) -> None:
        self._write = write
        self._words = words
        self._process = os.getpid()
        self._task = -1
        self._left = LIMIT
        self._left_values = VALUES
        self._markers = MARKERS

    @property
    def usable(self) -> bool:
        """Whether this is the engine itself: children write no records, but text."""
        return os.getpid() == self._process

    def _begin(self) -> None:
        """Let another task have what is allowed."""
        if self._words[SERIAL] != self._task:
            self._task = self._words[SERIAL]
            self._left = LIMIT
            self._left_values = VALUES
            self._markers = MARKERS

    def show(self, data: Mapping[str, Any], more: Mapping[str, Any]) -> None:
        """Send a display, or a word in its place if it is too large."""
        self._begin()
        record = _encode({"data": data, **more})
        if len(record) <= self._left:
            self._left -= len(record)
            self._write(record)
        elif self._markers > 0:
            self._markers -= 1
            self._write(_encode({"data": _marker(data, len(record)), **more, "metadata": {}}))

    def clear(self, record: bytes) -> None:
        """Send that displays are taken back, as long as there may be any."""
        self._begin()
        if self._left > 0:
            self._left -= len(record)
            self._write(record)

    def publish(self, record: bytes) -> None:
        """Send values; when there were too many say so, once, and drop them."""
        self._begin()
        if self._left_values <= 0:
            return
        self._left_values -= len(record)
        if self._left_values > 0:
            self._write(record)
        else:
            print(
                f"publish_data: this task has published {VALUES / 1e6:.0f} MB; nothing of what"
                " it publishes from now on is sent",
                file=sys.stderr,
            )


_outlet: Outlet | None = None


def connect(outlet: Outlet | None) -> None:
    """Send records through ``outlet`` from now on."""
    global _outlet
    _outlet = outlet


def publish(
    data: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
    id: str = "",
    update: bool = False,
) -> None:
    """Show MIME data; where there is no way to send it, print its text."""
    if _outlet is None or not _outlet.usable:
        print(data.get("text/plain", f"<{', '.join(data)}>"))
        return
    more: dict[str, Any] = {"metadata": metadata or {}}
    if id:
        more["id"] = id
    if update:
        more["update"] = True
    _outlet.show(data, more)


def clear(wait: bool = False) -> None:
    """Take back what the task has shown, with ``wait`` when it shows something next."""
    if _outlet is not None and _outlet.usable:
        _outlet.clear(_encode({"clear": wait}))


def publish_data(data: Mapping[str, Any]) -> None:
    """Tell the client of values while the task runs: they are added to the result's ``data``.

    ``data`` maps names to anything that can be pickled.  Raises TypeError for other than a
    mapping, RuntimeError outside of an engine's task, ValueError for more than 32 MiB at once.
    Of a task that has published 256 MiB nothing more is sent; its standard error says so.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"publish_data needs names and values, not {type(data).__name__}")
    if _outlet is None or not _outlet.usable:
        raise RuntimeError(
            "publish_data() works in tasks on engines, and not in processes they start"
        )
    names = [str(name) for name in data]
    record = _encode({"values": serialize.one_block(dict(data)), "names": names})
    if len(record) > LIMIT:
        raise ValueError(
            f"publish_data: {len(record)} bytes for {', '.join(names)} are more than the"
            f" {LIMIT} that can be published at once; return large values as the result"
        )
    _outlet.publish(record)


def jsonable(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return MIME data (or metadata) as the client gets it: plain types, bytes as base64."""
    made: dict[str, Any] = msgspec.json.decode(_encode(data))
    return made


def _encode(record: Any) -> bytes:
    try:
        return msgspec.json.encode(record, enc_hook=repr)
    except (TypeError, ValueError):  # keys that are no text, lone surrogates, circles
        return msgspec.json.encode(_tame(record, 0))


def _tame(value: Any, depth: int) -> Any:
    if depth > 20:
        return "..."
    if isinstance(value, Mapping):
        return {_text(str(k)): _tame(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_tame(item, depth + 1) for item in value]
    if value is None or isinstance(value, bool | int | float | bytes):
        return value
    return _text(value if isinstance(value, str) else repr(value))


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _marker(data: Mapping[str, Any], size: int) -> dict[str, str]:
    kinds = ", ".join(kind for kind in data if kind != "text/plain") or "text/plain"
    text = data.get("text/plain", "")
    shown = _text(text[:_KEPT_TEXT]) + "\n" if isinstance(text, str) and text else ""
    return {
        "text/plain": f"{shown}[left out: {kinds} of {size / 1e6:.1f} MB; what one task"
        f" displays may have {LIMIT / 1e6:.0f} MB in all]"
    }
