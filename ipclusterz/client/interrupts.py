"""What Ctrl-C means to somebody who waits.

Once: the wait ends, the work goes on.  Twice for the same results, the second soon after
the first: what has not begun is given up, and what runs is interrupted.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from time import monotonic
from typing import Protocol

from ipclusterz.client.saying import say
from ipclusterz.error import KernelError

SOON = 10.0
"""Seconds within which a second Ctrl-C gives the work up."""


class GivesUp(Protocol):
    """A result, or several."""

    def done(self) -> bool:
        """Tell whether nothing of it is under way."""

    def abort(self) -> None:
        """Give up what has not begun; returns at once."""


class Interrupts:
    """Remembers whose wait was interrupted last, and when."""

    def __init__(self) -> None:
        self._at = 0.0
        self._whose: weakref.WeakSet[GivesUp] = weakref.WeakSet()

    def note(self, whose: Sequence[GivesUp]) -> None:
        """Take note that a wait for these results was interrupted."""
        now = monotonic()
        again = [one for one in whose if one in self._whose and not one.done()]
        if again and now - self._at <= SOON:
            self._whose.clear()
            for one in again:
                _give_up(one)
            say("interrupted again: what had not begun was given up, what ran interrupted")
            return
        self._at = now
        self._whose = weakref.WeakSet(whose)
        if whose:
            say(
                "interrupted: the work goes on. Wait for it again (ar.get()); Ctrl-C in that"
                f" wait, within {SOON:g} s, gives it up"
            )


def _give_up(one: GivesUp) -> None:
    from ipclusterz.client.asyncresult import AsyncResult  # which knows the session, and it us
    from ipclusterz.client.cancelling import interrupt

    try:
        one.abort()
        if isinstance(one, AsyncResult) and not one.done():
            interrupt(one._session, one)
    except KernelError as error:  # another client's tasks, or the controller is gone
        say(str(error))
