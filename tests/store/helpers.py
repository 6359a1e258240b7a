"""What the tests of the task database share: records, and a loop in miniature."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ipclusterz.core.message import Channel, Op, Status
from ipclusterz.store import Store

UUID = "0f" * 16
OTHER = "a1" * 16
NOON = 1_700_000_000.0


def key(counter: int, client: int = 1) -> int:
    return client << 40 | counter


def began(
    counter: int,
    client: int = 1,
    label: str = "",
    fn: bytes | str = b"\x01\x02",
    data: bytes = b"",
) -> tuple[int, int, int, bytes | str, float, str, bytes]:
    numbers = key(counter, client), int(Channel.TASK), int(Op.APPLY)
    return (*numbers, fn, NOON + counter, label, data)


def ended(
    counter: int,
    client: int = 1,
    engine: int = 0,
    status: Status = Status.OK,
    received: float = 0.0,
    error: tuple[str, str] = ("", ""),
    data: bytes = b"",
) -> tuple[int, int, int, int, float, float, float, str, str, bytes]:
    at = NOON + counter
    return (
        *(key(counter, client), 1, engine, int(status)),
        *(at + 0.1, at + 0.2, received or time.time()),
        *error,
        data,
    )


class Desk:
    """A store with somebody who polls it and remembers what it said."""

    def __init__(
        self,
        path: Path | str | None,
        clients: Mapping[int, str] = {1: UUID, 2: OTHER},
        **options: Any,
    ) -> None:
        self.said: list[str] = []
        options.setdefault("flush_seconds", 0.02)
        options.setdefault("say", self.said.append)
        self.store = Store(None if path is None else str(path), **options)
        for number, uuid in clients.items():
            self.store.client(number, uuid)
        for engine in range(4):
            self.store.engine(engine, f"e{engine}", f"host{engine % 2}")

    def ask(self, method: str, *args: Any, timeout: float = 20, **named: Any) -> Any:
        """Ask and wait for the answer; RuntimeError with the text if it is an error."""
        got: list[tuple[Any, str]] = []
        getattr(self.store, method)(lambda v, e: got.append((v, e)), *args, **named)
        self.until(lambda: bool(got), timeout)
        value, error = got[0]
        if error:
            raise RuntimeError(error)
        return value

    def until(self, condition: Callable[[], bool], timeout: float = 20) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout} s; said: {self.said}"
            select.select([self.store.fd], [], [], 0.05)
            self.store.poll()

    def until_said(self, text: str, timeout: float = 20) -> None:
        self.until(lambda: any(text in one for one in self.said), timeout)

    def close(self, timeout: float = 20) -> bool:
        return self.store.close(timeout)

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def whole(start: tuple[Any, ...], end: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a scheduler says of a task that began and ended between two shippings."""
    return tuple(value if value not in ("", b"") else None for value in (*start, *end[1:]))
