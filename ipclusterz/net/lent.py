"""What a blocking call sends out of its caller's own memory, with no copy set aside.

A call that waits for its results has whoever made it stand still until they are there, so
what it sends to engines elsewhere need not lie in a file first: pieces of it are sealed out
of the caller's memory.  No room has to be found, and the first piece leaves at once.  A call
that ends early (Ctrl-C, an error) copies what is still needed before its caller goes on and
may change it.

Where each body lies is written down in the client's own folder, for the scheduler of its
host: it reads pieces out of the client's memory, where the system lets it
(:mod:`ipclusterz.net.vmread`), so they need not pass from one to the other.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import msgspec

from ipclusterz.core.message import Body
from ipclusterz.core.transfer import Layout
from ipclusterz.engine.bodies import LENT

MANY = 1000
"""Pieces in memory from which on a body is told of no longer; a scheduler asks its client."""

_NONCE = 16
_TRIES = 3
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Awaited(Protocol):
    """What a call waits for."""

    def done(self) -> bool:
        """Tell whether all of its results are there."""


class Image:
    """Parts of a body as its file would have them.

    A part is a buffer, or has ``pieces`` that follow each other.
    """

    __slots__ = ("layout", "views")

    def __init__(self, parts: Sequence[Any]) -> None:
        found = [
            [
                view
                for piece in getattr(part, "pieces", (part,))
                if (view := _flat(piece)).nbytes
            ]
            for part in parts
        ]
        self.layout = Layout([[view.nbytes for view in views] for views in found])
        self.views = [view for views in found for view in views]

    def read(self, offset: int, room: memoryview) -> memoryview:
        """Return as many bytes from ``offset`` as there is room for: in place, or in ``room``.

        ValueError beyond the end.
        """
        cuts = self.layout.cut(offset, len(room))
        if len(cuts) == 1 and cuts[0][0] >= 0:
            index, inside, count = cuts[0]
            return self.views[index][inside : inside + count]
        done = 0
        for index, inside, count in cuts:
            to = room[done : done + count]
            to[:] = self.views[index][inside : inside + count] if index >= 0 else bytes(count)
            done += count
        return room

    def copied(self) -> Image:
        """Return the same in memory of its own."""
        image = Image(())
        image.layout = self.layout
        image.views = [memoryview(bytes(view)) for view in self.views]
        return image


class Whereabouts(msgspec.Struct, array_like=True):
    """Where a body that is lent lies in its client's memory.

    ``nonce``, which lies at ``shown``, shows that the process is that client still.
    """

    pid: int
    nonce: bytes
    shown: int
    sizes: list[list[int]]
    addresses: list[int]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Whereabouts).decode


class Lending:
    """The bodies of a client that lie in its callers' memory; its own folder is ``folder``.

    Any thread may lend, what it is told to: code of the user's that runs while something is
    packed sends as always.  Pieces are read by whichever thread drives the connection.
    """

    def __init__(self, folder: str, proof: bytes) -> None:
        self.folder = os.path.join(folder, LENT)
        self._proof = proof
        self._images: dict[bytes, Image] = {}
        self._lock = allocate_lock()  # what is let go of is not put back
        self._nonce = os.urandom(_NONCE)
        self._pid = os.getpid()

    def loan(self) -> Loan:
        """Return what one call may lend by, see :class:`Loan`."""
        return Loan(self)

    def lend(self, parts: Sequence[Any], loan: Loan) -> Body:
        """Return parts as a body that is lent for as long as ``loan`` lasts."""
        image = Image(parts)
        name = os.urandom(16)
        self._images[name] = image
        loan.names.append(name)
        self._tell(name, image)
        return Body(name, [len(part) for part in parts], self.folder, self._proof)

    def keep(self, name: bytes) -> None:
        """Have a body in memory of our own, if it is needed still."""
        image = self._images.get(name)
        if image is None:
            return
        own = image.copied()  # while pieces are still read from where it was
        with self._lock:
            if name in self._images:
                self._images[name] = own
                self._tell(name, own)

    @contextmanager
    def reading(self, name: bytes) -> Iterator[Image | None]:
        """Give a body that is lent; it stays where it is, and what it is, meanwhile."""
        with self._lock:
            yield self._images.get(name)

    def drop(self, name: bytes) -> bool:
        """Let go of a body that nobody needs any more; False for what is not lent."""
        with self._lock:
            if self._images.pop(name, None) is None:
                return False
            self._forget(name)
            return True

    def close(self) -> None:
        """Let go of everything."""
        for name in list(self._images):
            self.drop(name)

    def _tell(self, name: bytes, image: Image) -> None:
        """Write down where a body lies, in place of where it lay; else nobody shall know."""
        from ipclusterz.net import vmread  # few clients come here

        path = os.path.join(self.folder, name.hex())
        try:
            if not vmread.able or len(image.views) > MANY:
                raise OSError("nobody could read so")
            where = Whereabouts(
                self._pid,
                self._nonce,
                vmread.address(self._nonce),
                image.layout.parts,
                [vmread.address(view) for view in image.views],
            )
            os.makedirs(self.folder, 0o700, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(path + ".new", flags, 0o600), "wb") as file:
                file.write(_encode(where))
            os.rename(path + ".new", path)
        except OSError:
            self._forget(name)  # it asks us

    def _forget(self, name: bytes) -> None:
        try:
            os.unlink(os.path.join(self.folder, name.hex()))
        except OSError:
            pass


class Loan:
    """One call's: what it sends is read where it is until the context ends.

    What is needed still is in memory of our own then.
    """

    def __init__(self, lending: Lending) -> None:
        self._lending = lending
        self._result: Awaited | None = None
        self.names: list[bytes] = []

    def __enter__(self) -> Loan:
        return self

    def sent(self, result: Awaited) -> None:
        """All is sent, and ``result`` will tell when it is done."""
        self._result = result

    def __exit__(self, *exc: object) -> None:
        if self._result is not None and self._result.done():
            return
        try:
            for name in self.names:
                self._lending.keep(name)
        except BaseException:  # no memory, or Ctrl-C again: better none than another's
            for name in self.names:
                self._lending.drop(name)
            raise


class Neighbour:
    """Reads pieces of a body that a client of this host lends, for :class:`PieceReader`.

    ``folder`` is that of :class:`Lending`, which is known to be a client's of this user.
    """

    __slots__ = ("_path",)

    def __init__(self, folder: str, name: bytes) -> None:
        self._path = os.path.join(folder, name.hex())

    def open(self) -> bool:
        """Tell whether it can be read: whether it is there, and the system allows it."""
        from ipclusterz.net import vmread

        try:
            where, _ = self._where()
            nonce = bytearray(len(where.nonce))
            vmread.read(where.pid, [(where.shown, memoryview(nonce))])
        except (OSError, ValueError):
            return False
        return nonce == where.nonce

    def read(self, offset: int, room: memoryview) -> memoryview:
        """Fill ``room`` with the bytes from ``offset``; OSError or ValueError.

        What its client moved or let go of meanwhile is not taken for what was lent.
        """
        for _ in range(_TRIES):
            where, known = self._where()
            self._fill(where, offset, room)
            if _same(os.stat(self._path, follow_symlinks=False), known):
                return room
        raise OSError("its owner moves it again and again")

    def _where(self) -> tuple[Whereabouts, os.stat_result]:
        # Whatever it is that cannot be read (a folder), its descriptor is closed.
        with open(self._path, "rb", opener=lambda path, _: os.open(path, _READ)) as file:
            told, known = file.read(), os.fstat(file.fileno())
        try:
            where = _decode(told)
        except msgspec.MsgspecError as error:
            raise ValueError(f"its client's note makes no sense: {error}") from None
        sizes = [size for part in where.sizes for size in part]
        if len(sizes) != len(where.addresses) or min(sizes, default=1) < 1:
            raise ValueError("its client's note makes no sense")
        return where, known

    def _fill(self, where: Whereabouts, offset: int, room: memoryview) -> None:
        from ipclusterz.net import vmread

        nonce = bytearray(len(where.nonce))
        wanted = [(where.shown, memoryview(nonce))]
        done = 0
        for index, inside, count in Layout(where.sizes).cut(offset, len(room)):
            to = room[done : done + count]
            if index < 0:
                to[:] = bytes(count)
            else:
                wanted.append((where.addresses[index] + inside, to))
            done += count
        vmread.read(where.pid, wanted)
        if nonce != where.nonce:
            raise FileNotFoundError("another process has its client's number")


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_ino, one.st_mtime_ns) == (other.st_ino, other.st_mtime_ns)


def _flat(piece: Any) -> memoryview:
    return memoryview(piece).cast("B")
