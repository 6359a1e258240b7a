"""The two ends that lead to the launcher, for an agent that is one rank of an MPI job.

``mpiexec`` gives standard input to rank 0 only, so what all need lies in a folder that only
its owner can read, on a file system that the ranks' hosts share: ``input`` takes the place of
standard input, line by line, and its disappearance that of the end of it.  Events go to
standard output, which ``mpiexec`` brings together from all ranks.

Used by :mod:`ipclusterz.apps.launched`; imports as little.
"""

from __future__ import annotations

import json
import os
import select
import stat
import threading
import time
from typing import Any

_LOOK_SECONDS = 0.05
_WATCH_SECONDS = 0.5
_SIGNAL_SECONDS = 3.0  # Open MPI takes one
_EVENT_BYTES = 3000
"""Longer pieces of standard output would be cut, and mixed with those of other ranks."""


class RankStreams:
    """What :class:`ipclusterz.apps.launched.Streams` is, for one rank.

    ``stop`` is readable when the folder has gone, or standard input (if it leads anywhere).
    """

    def __init__(self, folder: str) -> None:
        self._path = os.path.join(folder, "input")
        self._folder = folder
        self._read = 0
        self._status = os.dup(1)
        self._given = os.dup(0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        self.stop, self._stopped = os.pipe()
        threading.Thread(target=self._watch, daemon=True).start()

    def line(self) -> dict[str, Any] | None:
        """Wait for the next line; None when there will be none."""
        from ipclusterz.core.ranks import rank_here
        from ipclusterz.error import LaunchError
        from ipclusterz.files import read_private

        while True:
            try:
                lines = read_private(self._path).split(b"\n")[:-1]
            except FileNotFoundError:
                if self._read == 0 and not os.path.isdir(os.path.dirname(self._folder)):
                    raise LaunchError(
                        f"{self._folder} is not on this host: the ranks' hosts must share the"
                        " file system of the profile"
                    ) from None
                return None
            if len(lines) > self._read:
                break
            time.sleep(_LOOK_SECONDS)
        found: dict[str, Any] = json.loads(lines[self._read])
        self._read += 1
        if "config" in found:
            here = rank_here(os.environ)
            if here is None:
                raise LaunchError(
                    "this process has no rank: what started it is no launcher of MPI, or one"
                    " that sets neither OMPI_COMM_WORLD_RANK nor PMI_RANK nor SLURM_PROCID"
                )
            wanted = found["config"]["n"]
            if wanted != here.size:  # nobody would know what the others wait for
                raise LaunchError(
                    f"{wanted} ranks were asked for, and the launcher started {here.size}:"
                    " leave the number out of --mpi-cmd and --mpi-args, it comes from -n"
                )
            world = os.path.basename(self._folder)
            found["config"]["n"] = 1
            found["config"]["rank"] = {"rank": here.rank, "size": here.size, "world": world}
        return found

    def status(self, event: dict[str, Any]) -> None:
        """Write one event in one piece; a launcher that is gone is noticed elsewhere."""
        data = json.dumps(event).encode()
        if len(data) > _EVENT_BYTES:
            event = {key: _shortened(value) for key, value in event.items()}
            data = json.dumps(event).encode()
        try:
            os.write(self._status, data + b"\n")
        except OSError:
            pass

    def _watch(self) -> None:
        """Tell of the launcher's end: by the folder, or by a pipe that rank 0 has from it."""
        poll = select.poll()
        if stat.S_ISFIFO(os.fstat(self._given).st_mode):
            poll.register(self._given, select.POLLIN)
        while os.path.exists(self._path):
            if poll.poll(_WATCH_SECONDS * 1000) and not os.read(self._given, 4096):
                if os.path.exists(self._path):
                    # No orderly end: if mpiexec ends the job, its signal says so now.
                    time.sleep(_SIGNAL_SECONDS)
                    self._clean()
                break
        os.close(self._stopped)

    def _clean(self) -> None:
        """Remove the folder: whoever made it was killed, or is about to."""
        try:
            os.unlink(self._path)
            os.rmdir(self._folder)
        except OSError:
            pass


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _EVENT_BYTES // 6:
        half = _EVENT_BYTES // 12
        return f"{value[:half]} … {value[-half:]}"
    return value
