"""How people get to see what tasks print, display and return: gathered, or while they run.

What several engines put out alike is shown once, with all their numbers: ``[stdout:0-3]``.

Lives here: the layout of output, and the thread that shows it live.  May know: results and
their texts, IPython where the session runs in one.  Must not know: connections.
"""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from ipclusterz.client.facts import OUTPUT_WAIT
from ipclusterz.client.output import Texts, decoded, display_of
from ipclusterz.client.saying import ipython
from ipclusterz.client.task import ExecuteReply
from ipclusterz.core.message import DISPLAY
from ipclusterz.error import KernelError, ranges

if TYPE_CHECKING:
    from ipclusterz.client.asyncresult import AsyncResult

GATHER = 0.1
"""Seconds that live output waits for the same from other engines."""

LOOK = 0.1
"""Seconds after which the thread that shows live output sees that it is not wanted any more."""

_NAMES = {1: "stdout", 2: "stderr"}
_GROUPINGS = ("type", "engine", "order")

T = TypeVar("T")


def alike(items: Iterable[tuple[int, T]]) -> list[tuple[list[int], T]]:
    """Put numbers with equal values together: ``[([number, ...], value), ...]`` in order.

    >>> alike([(0, "a"), (1, "b"), (2, "a")])
    [([0, 2], 'a'), ([1], 'b')]
    """
    found: dict[Hashable, tuple[list[int], T]] = {}
    for number, value in items:
        found.setdefault(_key(value), ([], value))[0].append(number)
    return list(found.values())


def _key(value: Any) -> Hashable:
    return value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=repr)


class Screen:
    """Where output is shown: IPython's display, or standard output and error.

    With ``named`` each text begins with the engines it came from, unless those above did.
    """

    def __init__(self, named: bool = True) -> None:
        self._named = named
        self._above = ""
        self._at_start = True
        self._shell = ipython()

    def text(self, stream: int, engines: Sequence[int], text: str) -> None:
        """Show text of standard output (1) or error (2)."""
        if not text:
            return
        file = sys.stderr if stream == 2 else sys.stdout
        before = ""
        if self._named:
            name = f"[{_NAMES[stream]}:{ranges(engines)}]"
            if name != self._above:
                gap = "\n" if "\n" in text.rstrip("\n") else " "
                before = ("" if self._at_start else "\n") + name + gap
                self._above = name
        self._at_start = text.endswith("\n")
        print(f"{before}{text}", end="", file=file, flush=True)

    def displays(self, engines: Sequence[int], shown: Iterable[dict[str, Any]]) -> None:
        """Show displays of these engines, one after the other."""
        for index, one in enumerate(shown):
            if index == 0:
                self.head(engines)
            self.publish(one["data"], one["metadata"])

    def head(self, engines: Sequence[int]) -> None:
        """Say whose displays follow."""
        if self._named:
            self.line(f"[output:{ranges(engines)}]")

    def values(self, replies: Iterable[tuple[int, ExecuteReply]]) -> None:
        """Show the values of last expressions, by engine."""
        kept = [(engine, reply) for engine, reply in replies if reply.data]
        for places, _ in alike((place, one[1].data) for place, one in enumerate(kept)):
            engines = [kept[place][0] for place in places]
            reply = kept[places[0]][1]
            counts = {kept[place][1].execution_count for place in places}
            prompt = reply.prompt(ranges(engines), count=len(counts) == 1)
            if set(reply.data) != {"text/plain"} and hasattr(self._shell, "kernel"):
                self.line(prompt)  # a notebook shows the picture, and not the text with it
            result = reply.execute_result or {}
            data = {**reply.data, "text/plain": reply.labelled(prompt)}
            self.publish(data, result.get("metadata", {}))

    def line(self, text: str) -> None:
        """Show a line of our own."""
        print(("" if self._at_start else "\n") + text, flush=True)
        self._above, self._at_start = "", True

    def publish(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any],
        transient: dict[str, Any] | None = None,
        update: bool = False,
    ) -> None:
        """Show MIME data as they are."""
        if self._shell is None:
            self.line(str(data.get("text/plain", f"<{', '.join(data)}>")))
            return
        if not self._at_start:
            print(flush=True)
        self._above, self._at_start = "", True
        more: dict[str, Any] = {"update": True} if update else {}
        if transient:
            more["transient"] = transient
        self._shell.display_pub.publish(data, metadata, **more)

    def clear(self, wait: bool) -> None:
        """Take back what was displayed, if it is all from one task."""
        if self._shell is not None and not self._named:
            self._shell.display_pub.clear_output(wait)


# -- gathered ------------------------------------------------------------------------------


class _Told:
    """All that one task put out."""

    def __init__(self, engine: int, texts: Texts, reply: Any) -> None:
        self.engine = engine
        self.text = {stream: texts.read(stream) for stream in _NAMES}
        self.displays = texts.displays()
        self.reply = reply if isinstance(reply, ExecuteReply) else None

    def everything(self) -> Any:
        """Return what makes it the same as another's."""
        return [self.text[1], self.text[2], self.displays, self.reply and self.reply.data]


def display_outputs(result: AsyncResult, groupby: str, result_only: bool) -> None:
    """Show what a finished result's tasks put out: see ``AsyncResult.display_outputs``."""
    if groupby not in _GROUPINGS:
        raise ValueError(f"groupby={groupby!r} must be one of {', '.join(_GROUPINGS)}")
    if not result.done():
        raise result._late(None)
    result.wait_for_output(OUTPUT_WAIT)
    screen = Screen(named=not result._single)
    told = _tell(result)
    if result_only:
        screen.values((one.engine, one.reply) for one in told if one.reply is not None)
    elif groupby == "engine":
        for places, _ in alike((place, one.everything()) for place, one in enumerate(told)):
            _show(screen, [told[place] for place in places], groupby)
    else:
        _show(screen, told, groupby)


def _tell(result: AsyncResult) -> list[_Told]:
    values = result.get(return_exceptions=True)
    replies = [values] if result._single else values
    count = len(result.task_keys())
    if not isinstance(replies, list) or len(replies) != count:
        replies = [None] * count  # of a map, or a gather
    told = []
    for index, raw in enumerate(result._raws()):
        engine = raw.engine if raw is not None else -1
        told.append(_Told(engine, result._texts(index) or Texts(), replies[index]))
    return told


def _show(screen: Screen, told: list[_Told], groupby: str) -> None:
    for stream in _NAMES:
        for engines, text in alike((one.engine, one.text[stream]) for one in told):
            screen.text(stream, engines, text)
    if groupby == "order":
        for index in range(max((len(one.displays) for one in told), default=0)):
            having = [one for one in told if len(one.displays) > index]
            for engines, shown in alike((one.engine, one.displays[index]) for one in having):
                screen.displays(engines, [shown])
    else:
        for engines, displays in alike((one.engine, one.displays) for one in told):
            screen.displays(engines, displays)
    screen.values((one.engine, one.reply) for one in told if one.reply is not None)


# -- live ----------------------------------------------------------------------------------


class _Live:
    """Shows the output of a result's tasks while they run."""

    def __init__(self, result: AsyncResult) -> None:
        self._result = result
        self._session = result._session
        self._screen = Screen(named=not result._single)
        self._places: dict[int, int] = {}
        self._seen = -1
        self.stopped = False

    def run(self) -> None:
        """Show what comes until all is there, or :attr:`stopped`."""
        result, wait = self._result, self._session.wait
        try:
            while not self.stopped:
                wait(lambda: self.stopped or result.done() or self._news(), LOOK)
                if result.done():
                    return
                if self._news():
                    wait(lambda: self.stopped or result.done(), GATHER)
                    if not result.done():
                        self.show()
        except KernelError:  # the connection is gone; who waits for the result is told
            return

    def _news(self) -> bool:
        return self._session.outputs.count != self._seen

    def show(self) -> None:
        """Show what has come since the last time."""
        self._seen = self._session.outputs.count
        result = self._result
        fresh: list[tuple[int, list[tuple[int, str, int]]]] = []
        raws = result._raws()
        for index in range(len(result.task_keys())):
            texts = result._texts(index)
            place = self._places.get(index, 0)
            if texts is None or len(texts.pieces) == place:
                continue
            came = texts.pieces[place:]
            self._places[index] = place + len(came)
            raw = raws[index]
            engine = raw.engine if raw is not None else texts.engine
            fresh.append((engine, _joined(came, index)))
        for engines, pieces in alike(fresh):
            for stream, text, index in pieces:
                if stream == DISPLAY:
                    self._display(engines, decoded(text), index)
                else:
                    self._screen.text(stream, engines, text)

    def _display(self, engines: list[int], record: dict[str, Any], index: int) -> None:
        screen = self._screen
        if "clear" in record:
            screen.clear(bool(record["clear"]))
        elif "id" in record:
            shown = display_of(record)
            name = f"{self._result.msg_ids[index]}-{record['id']}"
            if not record.get("update"):
                screen.head(engines)
            screen.publish(
                shown["data"],
                shown["metadata"],
                {"display_id": name},
                bool(record.get("update")),
            )
        elif "data" in record:
            screen.displays(engines, [display_of(record)])


def _joined(pieces: list[tuple[int, str]], index: int) -> list[tuple[int, str, int]]:
    """Return text of a stream in one piece, and displays, in order.

    Displays with a name tell their task, since each has updates of its own.
    """
    made: list[tuple[int, str, int]] = []
    for stream, text in pieces:
        if stream == DISPLAY:
            made.append((stream, text, index if "id" in decoded(text) else -1))
        elif made and made[-1][0] == stream:
            made[-1] = (stream, made[-1][1] + text, -1)
        else:
            made.append((stream, text, -1))
    return made


@contextmanager
def stream_output(result: AsyncResult) -> Iterator[None]:
    """Show output as it comes while the ``with`` block runs, and what is left at its end."""
    live = _Live(result)
    # A copy of the context: by it a notebook knows which cell output belongs to.
    thread = threading.Thread(
        target=contextvars.copy_context().run,
        args=(live.run,),
        name="ipclusterz-output",
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        live.stopped = True
        thread.join()
        if result.done():
            result.wait_for_output(OUTPUT_WAIT)
        live.show()
