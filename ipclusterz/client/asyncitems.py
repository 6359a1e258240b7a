"""``async for`` over results: items as they come, without holding up the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ipclusterz.client.group import GroupResult
    from ipclusterz.client.lazymap import LazyMap


class News:
    """Wakes a coroutine when a thread has news; many at once wake it once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._told = False

    def tell(self, _key: int = 0) -> None:
        """Wake the coroutine; called by any thread, quickly."""
        if self._told:
            return
        self._told = True
        try:
            self._loop.call_soon_threadsafe(self._event.set)
        except RuntimeError:  # the loop was closed: no one waits any more
            pass

    async def until(self, there: Callable[[], bool]) -> None:
        """Wait until ``there()``."""
        while True:
            self._event.clear()
            self._told = False
            if there():
                return
            await self._event.wait()


async def pieces(result: GroupResult, order: Iterable[int] | None = None) -> AsyncIterator[Any]:
    """Yield the values of a result's tasks; in order, or as they come (None)."""
    news = News()
    result.observe(news.tell)
    keys, got = result.task_keys(), result._got
    try:
        if order is not None:
            for index in order:
                await news.until(lambda key=keys[index]: key in got)  # type: ignore[misc]
                yield result._wait_piece(index)
            return
        places = {key: index for index, key in enumerate(keys)}
        came: list[int] = result._came  # type: ignore[attr-defined]
        for count in range(len(keys)):
            await news.until(lambda n=count: len(came) > n)  # type: ignore[misc]
            yield result._wait_piece(places[came[count]])
    finally:
        result.observe(news.tell, False)


async def lazily(lazy: LazyMap) -> AsyncIterator[Any]:
    """Yield a lazy map's values, sending more as they are taken."""
    news = News()
    lazy.wake = news.tell
    try:
        while True:
            await news.until(lazy.ready)
            try:
                value = next(lazy)
            except StopIteration:
                return
            yield value
    finally:
        lazy.wake = None
