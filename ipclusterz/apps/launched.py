"""What a launcher runs: a controller or an agent that is told everything on standard input.

Standard input brings one line ``{"config": {...}}``, for an agent then one line
``{"connector": "..."}`` (or the connector itself), and its end means that the launcher is
gone.  Standard output carries status events, one JSON object per line; whatever else is
printed goes to standard error.

Run by path as well as imported, and on the way to the first result: imports little, and
no traitlets, since the launcher has resolved every setting already.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_LINE_LIMIT = 1 << 20


class Streams:
    """The two ends that lead to the launcher, out of reach of everything else.

    ``stop`` is readable at the end of standard input.
    """

    def __init__(self) -> None:
        self.stop = os.dup(0)
        self._status = os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        self._rest = b""

    def line(self) -> dict[str, Any] | None:
        """Read one line; None at the end of the input."""
        while b"\n" not in self._rest:
            data = os.read(self.stop, 65536)
            if not data or len(self._rest) > _LINE_LIMIT:
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        found = json.loads(line)
        if not isinstance(found, dict):
            raise ValueError("the launcher's line is no JSON object")
        return found

    def status(self, event: dict[str, Any]) -> None:
        """Write one event; a launcher that is gone is noticed elsewhere."""
        data = json.dumps(event).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._status, data) :]
        except OSError:
            pass


def main(role: str) -> int:
    """Run the ``controller`` or ``engine`` role; return the exit code."""
    _find_package()
    streams = Streams()
    try:
        first = streams.line()
        if first is None:
            return 1
        if role == "controller":
            return _controller(streams, first)
        return _engine(streams, first)
    except BaseException as error:
        import traceback  # only now

        if isinstance(error, SystemExit | KeyboardInterrupt):
            raise
        from ipclusterz.error import KernelError

        streams.status({"event": "error", "text": f"{_described(error)}"})
        if not isinstance(error, KernelError):  # whose text says it all
            traceback.print_exc()
        return 1


def _controller(streams: Streams, first: dict[str, Any]) -> int:
    import msgspec

    from ipclusterz.core.config import ControllerConfig
    from ipclusterz.net import controller

    config = msgspec.convert(first["config"], ControllerConfig)
    return controller.run(config, streams.status, streams.stop)


def _engine(streams: Streams, first: dict[str, Any]) -> int:
    import msgspec

    from ipclusterz.core.config import AgentConfig
    from ipclusterz.net import agent

    def connector() -> str | None:
        """Wait for the connector's line; None when the launcher gave up before it came."""
        line = first if "config" not in first else streams.line()
        if line is None:
            return None
        return line["connector"] if "connector" in line else json.dumps(line)

    config = msgspec.convert(first.get("config", {}), AgentConfig)
    late = None if config.connector_file or config.connector_text else connector
    return agent.run(config, streams.status, streams.stop, late)


def _described(error: BaseException) -> str:
    from ipclusterz.error import KernelError

    return str(error) if isinstance(error, KernelError) else f"{type(error).__name__}: {error}"


def _find_package() -> None:
    """Make this very package importable, also when it is not installed."""
    if _ROOT in sys.path:
        return
    sys.path.insert(0, _ROOT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
