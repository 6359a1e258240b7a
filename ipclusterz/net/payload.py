"""A client's large payloads: arguments it sends, results it maps or fetches.

What is larger than a batch lies in a file of the client's own folder until the last of its
tasks has ended, or is lent for as long (:mod:`ipclusterz.net.lent`).  A result's file is
mapped before anybody is told of the result, so that its owner may let go of it; one of
another host is fetched first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ipclusterz.core import message as m
from ipclusterz.engine import bodies, serialize
from ipclusterz.net import sharedmemory
from ipclusterz.net.discard import Discard
from ipclusterz.net.lent import Lending, Loan
from ipclusterz.net.transfer import Carrier

_COUNTER = (1 << m.COUNTER_BITS) - 1


class Loaded(m.Body):
    """A body that was mapped: its parts live exactly as long as the result does."""

    parts: list[Any] = []  # noqa: RUF012 - msgspec copies a struct's default


class Payloads:
    """Packs what goes and opens what comes.

    ``send(channel, message)`` takes requests for pieces; ``deliver(channel, result)`` is
    called when a result that had to be fetched is here; ``after(seconds, act)`` calls later.
    """

    def __init__(
        self,
        send: Callable[[int, Any], None],
        deliver: Callable[[int, m.Result], None],
        after: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._deliver = deliver
        self._coming: dict[bytes, tuple[int, m.Result]] = {}
        self.folder, self.proof, self._folders = sharedmemory.make()
        self.lending = Lending(self.folder, self.proof)
        self._discard = Discard(self.folder, after, hold=True)
        self._carrier = Carrier(
            self.folder, self.proof, send, self._brought, self._discard.spares
        )

    # -- going -----------------------------------------------------------------------------

    def pack(self, parts: list[Any], loan: Loan | None = None) -> tuple[bytes, m.Body | None]:
        """Return parts as what rides in a batch, or as a body, which ``loan`` has lent."""
        total = sum(len(part) for part in parts)
        if total <= m.INLINE - 64 * len(parts):
            return serialize.join(parts), None
        if loan is not None:
            body = self.lending.lend(parts, loan)
        else:
            body = bodies.write(self.folder, self.proof, parts, self._discard.spares)
        return b"", body

    def drop(self, body: m.Body) -> None:
        """Let go of a body that nobody needs any more."""
        if not self.lending.drop(body.id):
            self._discard.drop(body)

    # -- coming ----------------------------------------------------------------------------

    def claim(self, channel: int, result: m.Result) -> bool:
        """Map a result's body; False when it must be fetched first."""
        body = result.body
        assert body is not None
        if not bodies.here(body):
            self._coming[body.id] = (channel, result)
            self._carrier.bring(channel, result.key, body)
            return False
        self._map(result, body)
        return True

    def _map(self, result: m.Result, body: m.Body) -> None:
        loaded = Loaded(body.id, body.sizes, body.folder, body.proof)
        try:
            loaded.parts = bodies.read(body)
        except (OSError, MemoryError) as error:
            self._spoil(result, f"cannot be mapped: {error}")
        else:
            result.body = loaded

    def _spoil(self, result: m.Result, why: str) -> None:
        text = f"the result of task {result.key & _COUNTER} {why}"
        result.status = int(m.Status.ERROR)
        result.data = m.encode(m.Failure("SerializationError", text, engine=result.engine))
        result.body = None

    def _brought(self, id: bytes, body: m.Body | None, problem: str) -> None:
        """A result's body came from another host, or did not."""
        channel, result = self._coming.pop(id)
        if body is None:
            self._spoil(result, f"could not be fetched: {problem}")
        else:
            self._map(result, body)
            bodies.remove(body)
        self._deliver(channel, result)

    def piece(self, channel: int, message: Any) -> None:
        """Take a piece of a body in, or serve one."""
        if isinstance(message, m.Fetch):
            with self.lending.reading(message.id) as image:
                self._carrier.serve(channel, message, None if image is None else image.read)
        else:
            self._carrier.came(message)

    def renewed(self, channel: int) -> None:
        """Ask again for what a lost link had been asked for."""
        self._carrier.renewed(channel)

    def load(self, result: m.Result) -> list[Any]:
        """Return a result's parts: the pickle stream, then its out-of-band buffers."""
        body = result.body
        if body is None:
            return serialize.split(result.data)
        return body.parts if isinstance(body, Loaded) else list(bodies.read(body))

    def close(self) -> None:
        """Let go of everything."""
        self._carrier.close()
        self._discard.close()
        self.lending.close()
        for folder in self._folders:
            bodies.remove_folder(folder)
