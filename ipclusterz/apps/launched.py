"""What a launcher runs: a controller or an agent that is told everything on standard input.

Run by a batch job, it is given a folder instead: see :class:`Folder`; as a rank of an MPI job
another kind of folder: see :mod:`ipclusterz.apps.rank`.  Otherwise standard
input brings one line ``{"config": {...}}``, for an agent then one line
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
SPACE = "IPCLUSTERZ_EMPTY"  # of ipclusterz.engine.offspring, which is not imported in vain
_LINE_LIMIT = 1 << 20
_LAST_SECONDS = 10.0  # of a job's time, for a controller to end in order


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

    def close(self) -> None:
        """Let go of both."""
        os.close(self.stop)
        os.close(self._status)

    def status(self, event: dict[str, Any]) -> None:
        """Write one event; a launcher that is gone is noticed elsewhere."""
        data = json.dumps(event).encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._status, data) :]
        except OSError:
            pass


class Folder:
    """A folder that takes the place of the two ends, in a batch job.

    There is no pipe to its launcher: it reads ``handover.json``, and writes its events into a
    file of its own.  ``stop`` is None: the job's end is the batch system's business.
    """

    stop = None

    def __init__(self, path: str, part: int) -> None:
        self._path = path
        self._part = part
        self._status = -1

    def line(self) -> dict[str, Any]:
        """Return the configuration; an agent's has the connector in it."""
        from ipclusterz.core.batchjob import CONTROLLERS, job_here
        from ipclusterz.error import LaunchError
        from ipclusterz.files import read_private

        path = os.path.join(self._path, "handover.json")
        try:
            told = json.loads(read_private(path))
        except FileNotFoundError:
            raise LaunchError(
                f"{path} is not there (any more): the cluster that submitted this job was"
                " stopped, or this node does not share that file system"
            ) from None
        config = told["config"]
        job = job_here(os.environ) or "unnamed"
        ends_in = _seconds_left(float(told["walltime"]))
        if "connector" in told:
            self._agent(config, told)
            config.update(job=job, ends_in=ends_in)
        else:
            os.environ[CONTROLLERS] = job
            _end_before(ends_in)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        name = f"events.{max(self._part, 0)}"
        self._status = os.open(os.path.join(self._path, name), flags, 0o600)
        # The proof that the job runs: sooner than the batch system is asked again.
        node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename.partition(".")[0]
        self.status({"event": "begun", "job": job, "node": node})
        return {"config": config}

    def _agent(self, config: dict[str, Any], told: dict[str, Any]) -> None:
        from ipclusterz.error import LaunchError

        n, per = int(told["n"]), int(told["per"])
        config["connector_text"] = told["connector"]
        config["n"] = per if self._part < 0 else min(per, n - self._part * per)
        config["drain"] = told["drain"]
        if config["n"] < 1:
            raise LaunchError(f"part {self._part} of {n} engines, {per} each, has none to do")

    def status(self, event: dict[str, Any]) -> None:
        """Write one event; nobody may be there to read it.

        A connector stays out: those who may read it find it in the profile.
        """
        told = {name: value for name, value in event.items() if name != "engine_connector"}
        try:
            if self._status >= 0:
                os.write(self._status, json.dumps(told).encode() + b"\n")
        except OSError:
            pass
        if text := event.get("text"):
            from ipclusterz.apps import output

            output.show(f"{event['event']}: {text}")  # into the job's own output


def _seconds_left(walltime: float) -> float:
    """Return how long a job has still to run: as the system says, or all of its time."""
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    if end.isdigit():
        import time

        return max(float(end) - time.time(), 1.0)
    return walltime


def _end_before(ends_in: float) -> None:
    """Have a controller end in order shortly before its job does.

    Some systems kill at the limit without a word; peers and files would be left behind.  An
    alarm, because the controller forks and has neither threads nor a clock of its own.
    """
    import signal

    if ends_in > 0:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        signal.setitimer(signal.ITIMER_REAL, max(ends_in - _LAST_SECONDS, ends_in / 2))


def _folder(arguments: list[str]) -> Folder | None:
    """Return the folder that ``--from=FOLDER [--part=K [--first=1]]`` names."""
    said = dict(word[2:].partition("=")[::2] for word in arguments if word.startswith("--"))
    if "from" not in said:
        return None
    part = said.get("part", "")
    return Folder(said["from"], int(part) - int(said.get("first", "0")) if part else -1)


def _rank(arguments: tuple[str, ...]) -> Any:
    """Return the ends of a rank of an MPI job, which ``--rank=FOLDER`` names."""
    for word in arguments:
        if word.startswith("--rank="):
            from ipclusterz.apps.rank import RankStreams

            return RankStreams(word.partition("=")[2])
    return None


def main(role: str, *arguments: str) -> int:
    """Run the ``controller`` or ``engine`` role, or both; return the exit code."""
    _find_package()
    if role == "both":
        return _both([int(fd) for fd in arguments[:3]], *arguments[3:])
    return _run(role, _folder(list(arguments)) or _rank(arguments) or Streams())


def _run(role: str, streams: Any, early: Any = None, fostered: Any = None) -> int:
    """Be the controller or an agent, as the first line says; return the exit code."""
    try:
        if role == "engine" and early is None:
            early = _early()
        first = streams.line()
        if first is None:
            return 1
        if role == "controller":
            return _controller(streams, first)
        return _engine(streams, first, early, fostered)
    except BaseException as error:
        return _failed(streams, error)


def _failed(streams: Any, error: BaseException) -> int:
    """Tell the launcher of an error; return the exit code."""
    import traceback  # only now

    if isinstance(error, SystemExit | KeyboardInterrupt):
        raise error
    from ipclusterz.core.replacing import CRASHED
    from ipclusterz.error import KernelError

    streams.status({"event": "error", "text": f"{_described(error)}"})
    if isinstance(error, KernelError):  # whose text says it all
        return 1
    traceback.print_exception(error)
    return CRASHED


def _both(ends: list[int], folder: str = "") -> int:
    """Be an agent, and fork the controller before either has read anything.

    ``ends`` are the controller's standard input, output and error, ``folder`` is its working
    folder if that is not ours.  Both need the same modules, so one import serves both, and
    they share its memory.  Nothing ties them together afterwards but that the agent is the
    parent: how the controller ended is told on the controller's own output by whoever can,
    itself or the agent.
    """
    import gc

    streams = Streams()
    try:
        gc.disable()
        early = _early()
        import ipclusterz.net.controller  # noqa: F401 - what an agent needs besides comes later

        gc.freeze()
        pid = os.fork()
        if pid == 0:
            _sibling(streams, early, ends, folder)
    except BaseException as error:
        return _failed(streams, error)
    gc.enable()
    for fd in (ends[0], ends[2]):
        os.close(fd)
    return _run("engine", streams, early, {pid: lambda code: _told_end(ends[1], code)})


def _told_end(status: int, code: int) -> None:
    """Say how a controller ended, for one that could not say it itself."""
    try:
        os.write(status, json.dumps({"event": "exit", "code": code}).encode() + b"\n")
    except OSError:
        pass
    os.close(status)


def _sibling(agents: Streams, early: Any, ends: list[int], folder: str) -> None:
    """Be the controller, from the fork to the end."""
    import gc

    code = 1
    try:
        gc.enable()
        os.setsid()
        agents.close()
        if early is not None:
            early.close()
        for fd, end in enumerate(ends):
            os.dup2(end, fd)
            os.close(end)
        if folder:
            os.chdir(folder)
        _name("ipcontrollerz")
        streams = Streams()
        streams.status({"event": "process", "pid": os.getpid()})
        code = _run("controller", streams)
        sys.stdout.flush()
        streams.status({"event": "exit", "code": code})
    finally:
        os._exit(code)


def _name(name: str) -> None:
    """Set what this process is called in lists of processes."""
    try:
        with open("/proc/self/comm", "w") as comm:
            comm.write(name)
    except OSError:
        pass


def _controller(streams: Streams | Folder, first: dict[str, Any]) -> int:
    import msgspec

    from ipclusterz.core.config import ControllerConfig
    from ipclusterz.net import controller

    config = msgspec.convert(first["config"], ControllerConfig)
    return controller.run(config, streams.status, streams.stop)


def _early() -> Any:
    """Fork the zygote, before keys are told to us or anything imported that uses them."""
    if SPACE not in os.environ:
        return None
    from ipclusterz.engine.early import bear

    return bear(_ROOT)


def _engine(streams: Streams | Folder, first: dict[str, Any], early: Any, fostered: Any) -> int:
    import msgspec

    from ipclusterz.core.config import AgentConfig
    from ipclusterz.net import agentstart

    def connector() -> str | None:
        """Wait for the connector's line; None when the launcher gave up before it came."""
        line = first if "config" not in first else streams.line()
        if line is None:
            return None
        return line["connector"] if "connector" in line else json.dumps(line)

    config = msgspec.convert(first.get("config", {}), AgentConfig)
    late = None if config.connector_file or config.connector_text else connector
    return agentstart.run(config, streams.status, streams.stop, late, early, fostered)


def _described(error: BaseException) -> str:
    from ipclusterz.error import KernelError

    return str(error) if isinstance(error, KernelError) else f"{type(error).__name__}: {error}"


def _find_package() -> None:
    """Make this very package importable, also when it is not installed."""
    if _ROOT not in sys.path:
        sys.path.insert(0, _ROOT)
    _import_msgspec()


def _import_msgspec() -> None:
    """Import it without what it does not need here.

    If it finds typing_extensions it prefers that to typing, from which those functions come
    since Python 3.11; with what that imports it is half of msgspec's import.
    """
    if "typing_extensions" in sys.modules:
        return
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    try:
        import msgspec  # noqa: F401
    except ImportError:
        pass  # said by who needs it, and tells its launcher
    finally:
        del sys.modules["typing_extensions"]


if __name__ == "__main__":
    if sys.path[:1] == [os.path.dirname(os.path.abspath(__file__))]:
        del sys.path[0]  # with -P it is not there
    sys.exit(main(*sys.argv[1:]))
