"""Parts of a dask.distributed cluster as children of engines.

Lives here: what an engine does to start and stop them, and the child's own program.  May
know: error.  Must not know: tasks, clients.  dask is imported in the child only.

A child is told what to be through a pipe, which stays open: when it ends (the engine was
told to stop it, or died however it died), so does the child.  So nothing is left behind,
and engine and worker do not share an interpreter.  Keys come through the pipe, never by
command line or environment.
"""

from __future__ import annotations

import os
import pickle
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import IO, Any

from ipclusterz.error import LaunchError

START = 60.0
"""Seconds a child may take until it listens; importing dask takes one or two."""

STOP = 10.0

_children: list[tuple[str, subprocess.Popen[bytes]]] = []  # of this engine: what, and which


# -- in the engine -------------------------------------------------------------------------


def start(kind: str, options: dict[str, Any]) -> str:
    """Start a ``'scheduler'``, ``'worker'`` or ``'nanny'``; return the address it has.

    ``options`` are those of distributed's class of that name.  Raises LaunchError with
    what the child said when it ends or has no address after a minute.
    """
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
    child = subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    _children.append((kind, child))
    assert child.stdin is not None and child.stdout is not None
    try:
        request = pickle.dumps((kind, options))
        child.stdin.write(len(request).to_bytes(8, "little") + request)
        child.stdin.flush()
        return _address(child.stdout)
    except (OSError, TimeoutError) as error:
        _end(child)
        _children.remove((kind, child))
        errors.seek(0)
        said = errors.read()[-2000:].decode(errors="replace").strip()
        raise LaunchError(f"a dask {kind} could not be started here: {error}\n{said}") from None
    finally:
        errors.close()  # the child has its own


def _address(out: IO[bytes]) -> str:
    deadline = time.monotonic() + START
    waiting = select.poll()  # select() knows no descriptor above 1023
    waiting.register(out, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if waiting.poll(left * 1000):
            line = out.readline().decode().strip()
            if line:
                return line
            raise OSError("it ended at once")
    raise TimeoutError(f"it does not listen after {START:g} s")


def stop(kinds: tuple[str, ...] = ("scheduler", "worker", "nanny")) -> int:
    """End this engine's children of these kinds; return how many there were."""
    chosen = [entry for entry in _children if entry[0] in kinds]
    for entry in chosen:
        _children.remove(entry)
    for _, child in chosen:
        if child.stdin is not None:
            child.stdin.close()
    for _, child in chosen:
        _end(child)
    return len(chosen)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Wait for a child that was asked to end, or kill it."""
    if child.stdin is not None and not child.stdin.closed:
        try:
            child.stdin.close()
        except BrokenPipeError:
            pass
    try:
        child.wait(STOP)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    if child.stdout is not None:
        child.stdout.close()


# -- the child -----------------------------------------------------------------------------


def main() -> None:
    """Be what the pipe says until it ends."""
    import asyncio

    size = int.from_bytes(os.read(0, 8), "little")
    data = b""
    while len(data) < size:
        data += os.read(0, size - len(data))
    kind, options = pickle.loads(data)
    import dask

    with tempfile.TemporaryDirectory(prefix="ipclusterz-dask-") as folder:
        dask.config.set({"temporary-directory": folder})  # what it spills goes with it
        asyncio.run(_serve(kind, options, _tell))


def _tell(address: str) -> None:
    os.write(1, address.encode() + b"\n")
    os.dup2(2, 1)  # what tasks print from now on


async def _serve(kind: str, options: dict[str, Any], tell: Callable[[str], None]) -> None:
    import asyncio

    import distributed

    makers = {
        "scheduler": distributed.Scheduler,
        "worker": distributed.Worker,
        "nanny": distributed.Nanny,
    }
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, ended.set)  # nothing comes but the end
    async with makers[kind](**options) as server:
        tell(server.address)
        waits = [asyncio.ensure_future(ended.wait()), asyncio.ensure_future(server.finished())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        asyncio.get_running_loop().remove_reader(0)


if __name__ == "__main__":
    main()
