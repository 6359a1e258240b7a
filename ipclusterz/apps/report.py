"""What ``start`` and ``engines`` print while it happens, made from status events."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ipclusterz.apps import output

_SMALL = 8  # up to so many engines each is told; of more, tenths
_NOTES = ("waiting", "warning", "restarted", "lost", "reconnected")
_REPEAT_SECONDS = 30.0


class Patience:
    """Lets a text through once in half a minute; details in parentheses do not make it new.

    What waits tries again several times a second, and has another reason each time.
    """

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def allows(self, text: str) -> bool:
        """Tell whether ``text`` is to be printed now."""
        now = time.monotonic()
        what = text.partition(" (")[0]
        if now - self._last.get(what, -_REPEAT_SECONDS) < _REPEAT_SECONDS:
            return False
        self._last[what] = now
        return True


class Report:
    """Turns status events into lines for people.  Called from the watcher's thread."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._began = time.monotonic()
        self._told = -1
        self.up = False
        self.stopping = False
        self._patience = Patience()
        self._missing: list[str] = []

    def __call__(self, event: dict[str, Any]) -> None:
        """Print what ``event`` means, if it is news."""
        kind = event["event"]
        if kind == "ready":
            self._say(f"controller up: {event.get('url', '')}")
            if event.get("beyond"):
                self._say(str(event["beyond"]))
        elif kind == "engine":
            self._engine(int(event.get("ready", 0)), int(event.get("of", 0)))
        elif kind == "engine_down" and not self.stopping:
            self._say(f"engine {event['id']} has ended: {event.get('reason', '')}")
        elif kind == "less" and not self.stopping:
            self._less(str(event.get("text", "")))
        elif kind in ("job", "replaced", "agent_lost") and not self.stopping:
            self._say(str(event.get("text", "")))
        elif kind == "left" or (kind == "error" and self.up):
            output.complain(str(event.get("text", "")))
        elif kind == "told":
            self._say(str(event["text"]))
        elif kind == "waiting" and event.get("queue") and self.up:
            pass  # for days, perhaps: what changes is told as news of the job
        elif kind in _NOTES:
            text = str(event.get("text") or event.get("reason") or "")
            # What a launcher tells of a host is not a wait that has another reason each time.
            self._note(kind, text, news="host" in event and kind != "waiting")

    def complete(self, what: str = "ready") -> None:
        """Say that all is ready (or ``what`` it is), and how long that took."""
        self.up = True
        for text in self._missing:
            output.complain(text)
        self._say(f"{what} in {time.monotonic() - self._began:.1f} s")

    def _less(self, text: str) -> None:
        """Some engines will not come (told with the rest of the start), or have gone."""
        if self.up:
            output.complain(text)
        else:
            self._missing.append(text)  # should all be missing, the error says it all

    def _note(self, kind: str, text: str, news: bool = False) -> None:
        # While it starts, each wait is told: nothing else happens.
        if text and not self.stopping and (not self.up or news or self._patience.allows(text)):
            self._say(text if kind == "waiting" else f"{kind}: {text}")

    def _engine(self, ready: int, of: int) -> None:
        step = 1 if of <= _SMALL else max(of // 10, 1)
        if ready == of or ready // step > self._told // step:
            self._told = ready
            self._say(f"{ready}/{of} engines")
