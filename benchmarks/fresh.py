"""A fresh Python process from its start to its first result: the scripts in first/.

Each prints ``first ...`` when it has its first result, ``all ...`` when each engine or worker
has answered, and ends when all is stopped.  Knows no peer.
"""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.protocol import LineReader, PeerError, quoted_log, signal_name


@dataclass
class Moments:
    """Seconds since the process was started: first result, one of each worker, its end."""

    first: float
    everyone: float
    end: float


def time_script(
    argv: list[str], *, env: dict[str, str], cwd: Path, log: Path, timeout: float = 90.0
) -> Moments:
    """Run ``argv``; when its lines came.  ``timeout`` bounds each step.

    Raises :class:`PeerError`, without the peer's name, when a step fails or takes longer.
    """
    with log.open("ab") as stderr:
        began = time.perf_counter()
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
    assert process.stdout is not None
    lines = LineReader(process.stdout.fileno())
    try:
        first = _when(lines, "first ", began, timeout)
        everyone = _when(lines, "all ", began, timeout)
        code = process.wait(timeout)
        end = time.perf_counter() - began
    except (TimeoutError, subprocess.TimeoutExpired):
        raise PeerError(f"too slow: nothing for {timeout:g} s; {quoted_log(log)}") from None
    except EOFError:
        code = process.wait(timeout)
        raise PeerError(f"no result ({signal_name(code)}); {quoted_log(log)}") from None
    finally:
        process.stdout.close()
        if process.poll() is None:
            process.kill()
            process.wait()
    if code != 0:
        raise PeerError(f"{signal_name(code)} at its end; {quoted_log(log)}")
    return Moments(first, everyone, end)


def _when(lines: LineReader, word: str, began: float, timeout: float) -> float:
    while not lines.read(timeout).startswith(word):
        pass
    return time.perf_counter() - began
