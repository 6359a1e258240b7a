"""What the tests of the cores share: short names for messages, and a core on a bench."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import msgspec

from ipclusterz.core import message as m
from ipclusterz.core.broker import Broker
from ipclusterz.core.message import Op, Role, Status

CLIENT = 1
PACE = 0.001


def key(counter: int, client: int = CLIENT) -> int:
    return m.make_key(client, counter)


def submit(counter: int, *, client: int = CLIENT, fn: bytes = b"", **options: Any) -> m.Submit:
    opt = m.Options(**options) if options else None
    return m.Submit(key(counter, client), int(Op.APPLY), fn, b"data %d" % counter, None, opt)


def request(
    counter: int, targets: list[int], *, client: int = CLIENT, fn: bytes = b""
) -> m.Request:
    return m.Request(key(counter, client), targets, int(Op.APPLY), fn, b"data")


def result(assign: m.Assign, status: Status = Status.OK, **fields: Any) -> m.Result:
    return outcome(assign.key, assign.attempt, assign.engine, status, **fields)


def outcome(
    at: int,
    attempt: int,
    engine: int,
    status: Status = Status.OK,
    *,
    data: bytes = b"value",
    seconds: float = PACE,
    body: m.Body | None = None,
) -> m.Result:
    return m.Result(at, attempt, engine, int(status), data, body, 10.0, 10.0 + seconds, 0)


def failure(result: m.Result) -> m.Failure:
    return msgspec.msgpack.decode(result.data, type=m.Failure)


class Bench:
    """A broker with peers; what it says collects per peer until it is looked at."""

    def __init__(self, core: Broker) -> None:
        self.core = core
        self.now = 100.0

    def client(self, peer: bytes = b"client", number: int = CLIENT) -> bytes:
        self.core.admit(peer, Role.CLIENT, number)
        return peer

    def agent(self, peer: bytes = b"agent", *engines: int, called: bool = True) -> bytes:
        self.core.admit(peer, Role.ENGINE, 0)
        self.core.join(peer, engines, self.now)
        if called:
            self.say(peer, m.RollCall(list(engines), [], []))
        return peer

    def say(self, peer: bytes, *messages: Any) -> None:
        self.core.handle(peer, messages, self.now)

    def tick(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.core.tick(self.now)

    def expel(self, peer: bytes, reason: str = "its host is gone") -> None:
        self.core.expel(peer, reason, self.now)

    def out(self, *kinds: type[Any]) -> list[tuple[bytes, Any]]:
        out, self.core.out = self.core.out, defaultdict(list)
        said = [(peer, x) for peer, messages in out.items() for x in messages]
        return [(peer, x) for peer, x in said if not kinds or isinstance(x, kinds)]

    def to(self, peer: bytes, *kinds: type[Any]) -> list[Any]:
        """Return what was said to one peer; what others were told stays."""
        said = self.core.out.pop(peer, [])
        return [x for x in said if not kinds or isinstance(x, kinds)]

    def assigned(self, peer: bytes = b"agent") -> list[m.Assign]:
        return self.to(peer, m.Assign)

    def results(self, peer: bytes = b"client") -> list[m.Result]:
        return self.to(peer, m.Result)

    def work(self, peer: bytes = b"agent", seconds: float = PACE, rounds: int = 10**6) -> int:
        """Let an agent finish all it is given; return how many tasks that were."""
        done = 0
        while rounds and (given := self.assigned(peer)):
            rounds -= 1
            done += len(given)
            self.say(peer, *[result(a, seconds=seconds) for a in given])
        return done
