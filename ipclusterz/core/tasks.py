"""A task on its way through a work scheduler, and the agents that hold tasks.

Lives here: what a scheduler notes of either.  Must not know: who decides about them
(:mod:`ipclusterz.core.broker` and its subclasses).
"""

from __future__ import annotations

from typing import Any

import msgspec


class Task(msgspec.Struct, eq=False, gc=False):
    """One task on its way; ``agent`` is set while an agent holds it.

    A struct, because one is made for each task: that takes an eighth of the time.
    """

    key: int
    client: bytes
    work: Any  # Submit or Request; None when only an agent's roll call told of it
    attempt: int = 0
    agent: bytes = b""
    engine: int = -1
    retries: int = 0
    cancelled: bool = False  # its agent was asked to abort it
    queued: bool = False  # waits for any engine: see Balancer
    free: bool = False  # waits for no other task (any more)
    deaths: int = 0  # engines that died with it
    excluded: set[int] | None = None  # engines that failed it
    unmet: set[int] | None = None  # engines that do not suit it, by its own word
    word: bytes = b""  # why the last of them does not: an encoded Failure
    places: list[int] | None = None  # where the tasks ran that it follows


class Agent:
    """What a broker knows of one agent."""

    __slots__ = ("absent", "called", "engines", "functions", "held", "peer", "wants")

    def __init__(self, peer: bytes) -> None:
        self.peer = peer
        self.engines: set[int] = set()
        self.functions: set[bytes] = set()
        self.wants: set[bytes] = set()  # functions it asked for that we do not have
        self.held: dict[int, Any] = {}  # as a broker's tasks
        self.absent = False
        self.called = False  # has told what it holds
