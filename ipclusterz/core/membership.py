"""Who is a member, in a form that outlives the whole controller: for ``-r``.

A controller that was killed and is started again with ``-r`` must know whom to wait for: an
agent may hold or have done the very tasks that a client sends again.  So the hub writes down
each peer that comes or goes; records are appended, and the last one may be cut off.

Lives here: the records and what follows from them.  Must not know: files.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Union

import msgspec

from ipclusterz.core import message as m
from ipclusterz.core.records import decoded, framed


class Came(msgspec.Struct, tag="came"):
    """A peer was let in; ``boot`` and ``pid`` name its process, ``job`` its batch job."""

    admit: m.Admit
    host: str
    boot: str
    pid: int
    uuid: str = ""
    job: str = ""
    world: str = ""


class Brought(msgspec.Struct, tag="brought"):
    """An agent was given these engine ids."""

    peer: bytes
    engines: list[int]


class Went(msgspec.Struct, tag="went"):
    """A peer is gone for good; ``at`` is when, by a clock that outlives processes."""

    peer: bytes
    at: float
    reason: str
    agent: bool = True


Record = Union[Came, Brought, Went]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


class Membership:
    """What records amount to: peers by id, and the agent of each engine id.

    ``lost`` is when an agent went last, and why.
    """

    def __init__(self) -> None:
        self.peers: dict[bytes, Came] = {}
        self.engines: dict[int, bytes] = {}
        self.lost: Went | None = None
        self.records = 0

    def note(self, record: Record) -> None:
        """Take in one record."""
        self.records += 1
        if isinstance(record, Came):
            self.peers[record.admit.peer] = record
        elif isinstance(record, Brought):
            for engine in record.engines:
                self.engines[engine] = record.peer
        else:
            self.peers.pop(record.peer, None)
            if record.agent:
                self.lost = record
            for engine in [e for e, peer in self.engines.items() if peer == record.peer]:
                del self.engines[engine]

    @property
    def wasteful(self) -> bool:
        """Whether most records are about what is no more: time to write it anew."""
        return self.records > 200 + 8 * len(self.peers)

    def all(self) -> Iterable[Record]:
        """Return records that amount to the same, as few as possible."""
        if self.lost is not None:
            yield self.lost
        brought: dict[bytes, list[int]] = {}
        for engine, peer in self.engines.items():
            brought.setdefault(peer, []).append(engine)
        for peer, came in self.peers.items():
            yield came
            if peer in brought:
                yield Brought(peer, brought[peer])


def written(record: Record) -> bytes:
    """Return a record as it is appended to a file."""
    return framed(_encode(record))


def read(data: bytes) -> Membership:
    """Return what a file amounts to; what follows a damaged record is left out."""
    found = Membership()
    for record in decoded(data, _decode):
        found.note(record)
    return found
