"""New role keys while the controller runs: ``ipclusterz revoke``.

::

    client            hub                                supervisor (has the execution key)
      | -- revoke -->  | -- ask: roles ------------------> |
      |                | <-- the new role secrets -------- |   nothing is written yet
      |                | -- ready: both are let in ------> |
      |                | <-- written (or why not) -------- |   key file, then connector files
      | <-- answer --- |   the old keys are let in no longer; connected peers get the new one

Whoever reads a new file is let in, whenever it reads it, and a file that cannot be written
changes nothing.  The two talk over a pair of sockets made before the hub is forked.

Here live both ends of that talk.  Which peers are dropped is the hub's affair; secrets must
not appear in any message for people.
"""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import Callable
from typing import Any

from ipclusterz import files
from ipclusterz.error import KernelError
from ipclusterz.net.loop import Loop
from ipclusterz.net.seal import ClusterKeys

ROLES = ("client", "engine")
LONGEST = 65536
ANSWER_SECONDS = 10.0
"""How long the supervisor may take to write three small files."""

Then = Callable[[str], None]


class Desk:
    """The supervisor's end: holds the keys of the moment and writes what follows from them.

    ``write(keys)`` writes the connector files of the roles' new keys, or raises KernelError.
    """

    def __init__(
        self,
        exec_key: bytes,
        renewed: dict[str, bytes],
        key_file: str,
        write: Callable[[ClusterKeys], None],
    ) -> None:
        self._exec_key = exec_key
        self._renewed = dict(renewed)
        self._key_file = key_file
        self._write = write
        self._next: tuple[dict[str, bytes], ClusterKeys] | None = None
        self._end: socket.socket | None = None
        self.keys = ClusterKeys(exec_key, self._renewed)

    def pair(self) -> socket.socket:
        """Make the pair for a hub that is about to be forked; return the hub's end."""
        self.close()
        self._end, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._end.setblocking(False)
        return there

    def fileno(self) -> int:
        """Return the descriptor to wait for, -1 if there is none."""
        return self._end.fileno() if self._end is not None else -1

    def serve(self) -> bool:
        """Act on what the hub says; False when it has gone."""
        assert self._end is not None
        try:
            data = self._end.recv(LONGEST)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data:
            return False
        said = json.loads(data)
        if said["kind"] == "ask":
            self._prepare(said["roles"])
        elif self._next is not None:
            self._say({"kind": "written", "error": self._carry_out(*self._next)})
            self._next = None
        return True

    def _prepare(self, roles: list[str]) -> None:
        renewed = {**self._renewed, **{role: os.urandom(16) for role in roles}}
        keys = ClusterKeys(self._exec_key, renewed)
        self._next = renewed, keys
        fresh = {role: keys.secret(role).decode() for role in roles}
        self._say({"kind": "keys", "secrets": fresh})

    def _carry_out(self, renewed: dict[str, bytes], keys: ClusterKeys) -> str:
        """Write what belongs to new keys; return why that was not possible, or ''."""
        try:
            self._keep(renewed)
            self._write(keys)
        except (KernelError, OSError, ValueError) as error:
            self._restore()
            return str(error)
        self._renewed, self.keys = renewed, keys
        return ""

    def _restore(self) -> None:
        """Put back what belongs to the keys that stay in use, as far as it can be written."""
        try:
            self._keep(self._renewed)
        except (KernelError, OSError, ValueError):
            pass  # what could not be written was not changed either
        try:
            self._write(self.keys)
        except (KernelError, OSError, ValueError):
            pass

    def _keep(self, renewed: dict[str, bytes]) -> None:
        """Note in the key file, if there is one, from what role keys are made now."""
        if not self._key_file:
            return
        document = json.loads(files.read_private(self._key_file))
        document["renewed"] = {
            role: base64.b64encode(salt).decode() for role, salt in renewed.items()
        }
        text = json.dumps(document, indent=2).encode() + b"\n"
        files.write_private(self._key_file, text)

    def _say(self, what: dict[str, Any]) -> None:
        assert self._end is not None
        try:
            self._end.send(json.dumps(what).encode())
        except OSError:
            pass  # the hub has gone; the next one starts with the keys there are then

    def close(self) -> None:
        """Let go of the pair; what was half done is forgotten."""
        self._next = None
        if self._end is not None:
            self._end.close()
            self._end = None


class Renewal:
    """The hub's end, for one renewal at a time.

    ``both(secrets)`` lets holders of old and of new keys in, ``only(secrets)`` those of new
    ones; ``neither()`` takes the new ones back.
    """

    def __init__(
        self,
        loop: Loop,
        end: socket.socket,
        both: Callable[[dict[str, bytes]], None],
        only: Callable[[dict[str, bytes]], None],
        neither: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._end = end
        self._both, self._only, self._neither = both, only, neither
        self._secrets: dict[str, bytes] = {}
        self._then: Then | None = None
        self._busy = False
        end.setblocking(False)
        loop.add(end.fileno(), self._read)

    def ask(self, roles: list[str], then: Then) -> None:
        """Renew these roles' keys; ``then(error)`` is called with '' when it is done."""
        if self._busy:
            then("keys are being renewed already; try again in a moment")
            return
        self._busy, self._then = True, then
        self._loop.after(ANSWER_SECONDS, lambda: self._late(then))
        self._say({"kind": "ask", "roles": roles})

    def _read(self) -> None:
        try:
            data = self._end.recv(LONGEST)
        except BlockingIOError:
            return
        if not data:  # the supervisor has ended, and with it this process
            self._loop.remove(self._end.fileno())
            return
        said = json.loads(data)
        if said["kind"] == "keys":
            self._secrets = {role: key.encode() for role, key in said["secrets"].items()}
            self._both(self._secrets)
            self._say({"kind": "ready"})
        elif said["error"]:
            self._done(said["error"])
        else:
            self._only(self._secrets)
            self._done("")

    def _late(self, then: Then) -> None:
        # The files may yet be written: both keys stay in use until that is known.
        if self._then is then:
            self._then = None
            then(
                f"the new files were not written within {ANSWER_SECONDS:.0f} s; old and new"
                " keys are let in until they are: see the controller's log"
            )

    def _done(self, error: str) -> None:
        then, self._then = self._then, None
        self._busy = False
        if error:
            self._neither()
        if then is not None:
            then(error)

    def _say(self, what: dict[str, Any]) -> None:
        try:
            self._end.send(json.dumps(what).encode())
        except OSError as error:
            self._done(f"the controller's supervisor does not answer: {error}")
