"""The contract between a cluster and whatever starts its processes.

*What* to start is data, a :class:`LaunchSpec`.  *Where* is a :class:`Launcher` with one verb,
``start``, which gives a :class:`Job` that can be polled, signalled and stopped.  A launcher
knows nothing of controllers, engines or keys: to it a launch is arguments, environment and
text for standard input.

The launched program speaks the *launched protocol*.  On standard input it gets what it needs
as lines of JSON, and takes the end of file to mean that its launcher is gone.  On standard
output it writes one JSON object per line, its status events: ``{"event": "ready", ...}``,
``{"event": "engine", "id": 3, "pid": 71}``, ``{"event": "error", "text": "..."}`` and so on.
Standard error goes to a log.

A launcher that can be configured has an ``Options`` class: a msgspec Struct whose fields are
the settings, all with defaults, each with a ``Meta(description=...)`` for its help.  It is
then called with one.  Command line, config files and Python take their options from there
(``ipclusterz.apps.modes``), under the launcher's class name: ``c.PBSLauncher.queue``.

Third parties register a launcher under the entry-point group ``ipclusterz.launchers``: a
callable, with ``Options`` or without arguments, that returns a :class:`Launcher`.  Users put
one into their profile: the name ``launcher`` in a file ``launcher_NAME.py``.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any, Protocol, cast

from msgspec import Struct

from ipclusterz.error import LaunchError

GROUP = "ipclusterz.launchers"
"""The entry-point group in which launchers are found by name."""

Event = dict[str, Any]
"""One status event of a launched program."""

BUILT_IN = {
    "local": ("ipclusterz.launchers.local", "LocalLauncher"),
    "ssh": ("ipclusterz.launchers.ssh", "SSHLauncher"),
    "mpi": ("ipclusterz.launchers.mpi", "MPILauncher"),
    "mpiexec": ("ipclusterz.launchers.mpi", "MPILauncher"),
    "mpirun": ("ipclusterz.launchers.mpi", "MPILauncher"),
    "pbs": ("ipclusterz.launchers.pbs", "PBSLauncher"),
    "slurm": ("ipclusterz.launchers.slurm", "SlurmLauncher"),
    "sge": ("ipclusterz.launchers.sge", "SGELauncher"),
    "lsf": ("ipclusterz.launchers.lsf", "LSFLauncher"),
    "htcondor": ("ipclusterz.launchers.htcondor", "HTCondorLauncher"),
}
"""The launchers of this package: name, module and class.  One row is all it takes."""

_FILE = "launcher_"  # what begins the name of a profile's own launcher


class LaunchSpec(Struct, frozen=True):
    """What to start.

    ``argv`` is the command, ``env`` what to add to the environment (never anything secret:
    others can read it), ``cwd`` the working folder ('' for the launcher's own), ``stdin``
    text to write to standard input, which stays open afterwards.  ``n`` says how many
    engines the program will run, for launchers that must ask for resources; ``name`` stands
    in messages, ``log`` is where standard error goes ('' for nowhere that stays).

    What only some launchers need: ``folder`` is a path in the profile that the launcher may
    make, owner-only, for files of this launch, and must remove; ``label`` tells launches of
    one cluster apart; ``profile_dir``, ``cluster_id`` and ``log_dir`` are the cluster's;
    ``lease`` is for how many seconds engines outlive what they have lost (0: not known);
    ``restarts`` how often their agent may be started again when it has died.
    """

    argv: tuple[str, ...]
    name: str
    env: Mapping[str, str] = {}
    cwd: str = ""
    stdin: str = ""
    n: int = 1
    log: str = ""
    folder: str = ""
    label: str = ""
    profile_dir: str = ""
    cluster_id: str = ""
    log_dir: str = ""
    lease: float = 0.0
    restarts: int = 0


class JobState(Struct, frozen=True):
    """Where a job stands.

    ``code`` is None while it runs (or waits to); then the exit code, negative for a signal.
    ``text`` says in words how it ended, with the last lines it wrote to standard error.
    """

    code: int | None = None
    text: str = ""

    @property
    def ended(self) -> bool:
        """Whether there is nothing left running."""
        return self.code is not None


class Job(Protocol):
    """Something a launcher started."""

    @property
    def name(self) -> str:
        """What the launch was called."""

    @property
    def pid(self) -> int:
        """Its process id on this host, or 0."""

    def watched(self) -> tuple[int, ...]:
        """Return descriptors that become readable when there are events or it has ended.

        Jobs without any are polled.
        """

    def poll(self) -> JobState:
        """Return its state now, without waiting."""

    def events(self) -> list[Event]:
        """Return the status events that have come since the last call, without waiting."""

    def tell(self, text: str) -> None:
        """Write ``text`` to its standard input; LaunchError when it is not there any more."""

    def signal(self, signum: int) -> None:
        """Send a signal; nothing happens if it has ended."""

    def close(self) -> None:
        """Ask it to end by closing its standard input; does not wait."""

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for its end; return whether it has ended."""

    def stop(self, grace: float = 10.0) -> JobState:
        """End it: ask, after ``grace`` seconds insist, then kill; return how it ended."""


class Launcher(Protocol):
    """A place where processes can be started.

    It may have a method ``check(spec)`` as well, which raises LaunchError, before anything is
    started, if ``start(spec)`` would be in vain.
    """

    def start(self, spec: LaunchSpec) -> Job:
        """Start ``spec``; raise LaunchError, naming the command, when that is impossible."""


def get_launcher(
    name: str, options: Mapping[str, Any] | None = None, folder: str = ""
) -> Launcher:
    """Return the launcher called ``name``, set up with ``options``.

    ``folder`` is a profile's, which may have launchers of its own: ``launcher_NAME.py``.
    LaunchError lists the known launchers, or the known options, when something is unknown.
    """
    kind = launcher_class(name, folder)
    known = getattr(kind, "Options", None)
    if known is None:
        if options:
            raise LaunchError(
                f"the launcher {name!r} has no options, but was given {', '.join(options)}"
            )
        return cast(Launcher, _called(name, kind))
    return cast(Launcher, _called(name, kind, _checked(name, known, options or {})))


def launcher_class(name: str, folder: str = "") -> Any:
    """Return what makes the launcher called ``name``; LaunchError lists the known ones."""
    if name in BUILT_IN:
        module, attribute = BUILT_IN[name]
        return getattr(importlib.import_module(module), attribute)
    path = os.path.join(folder, f"{_FILE}{name}.py") if folder else ""
    if path and os.path.isfile(path):
        return _of_file(path)
    # Looked up only now: reading all installed packages' metadata takes many milliseconds.
    from importlib.metadata import entry_points

    points = entry_points(group=GROUP)
    for point in points:
        if point.name == name:
            try:
                return point.load()
            except Exception as error:
                raise LaunchError(f"the launcher {name!r} ({point.value}): {error}") from error
    known = ", ".join(sorted({*BUILT_IN, *_files(folder), *(p.name for p in points)}))
    raise LaunchError(f"there is no launcher {name!r}; known are: {known}")


def fields_of(section: str, folder: str = "") -> tuple[str, ...] | None:
    """Return the options of the launcher whose class is called ``section``, None if none is.

    For those who check a config file, in which ``c.PBSLauncher.queue`` may stand.
    """
    names = [name for name, (_, kind) in BUILT_IN.items() if kind == section]
    if not names:
        from importlib.metadata import entry_points

        names = [*_files(folder), *(p.name for p in entry_points(group=GROUP))]
    for name in names:
        kind = launcher_class(name, folder)
        if kind.__name__ == section and hasattr(kind, "Options"):
            return cast(tuple[str, ...], kind.Options.__struct_fields__)
    return None


def _files(folder: str) -> list[str]:
    """Return the names of a profile's own launchers."""
    try:
        names = sorted(os.listdir(folder)) if folder else []
    except OSError:
        return []
    return [
        name.removeprefix(_FILE).removesuffix(".py")
        for name in names
        if name.startswith(_FILE) and name.endswith(".py")
    ]


def _of_file(path: str) -> Any:
    import runpy  # only for those who have such a file

    from ipclusterz.files import planted

    if problem := planted(os.path.dirname(path)):
        raise LaunchError(problem)
    try:
        return runpy.run_path(path)["launcher"]
    except KeyError:
        raise LaunchError(f"{path} defines no 'launcher'") from None
    except Exception as error:  # it is a program: anything may happen in it
        raise LaunchError(f"{path}: {type(error).__name__}: {error}") from error


def _called(name: str, kind: Any, *arguments: Any) -> Any:
    if name in BUILT_IN:
        return kind(*arguments)
    try:
        return kind(*arguments)
    except Exception as error:  # of a third party: anything may happen in there
        raise LaunchError(f"the launcher {name!r}: {error}") from error


def _checked(name: str, known: Any, options: Mapping[str, Any]) -> Any:
    import msgspec

    fields = known.__struct_fields__
    for option in options:
        if option not in fields:
            from difflib import get_close_matches  # only when something is wrong

            near = get_close_matches(option, fields, 1)
            hint = f"the nearest is {near[0]}" if near else f"there are {', '.join(fields)}"
            raise LaunchError(f"the launcher {name!r} has no option {option!r}; {hint}")
    try:
        return msgspec.convert(dict(options), known)
    except msgspec.ValidationError as error:
        raise LaunchError(f"an option of the launcher {name!r}: {error}") from None


def process_start(pid: int) -> int:
    """Return when a process of this host started, as the system counts, or 0 if unknown.

    Together with its number this names a process for good: numbers are used again.  A
    process that has ended and only waits for its parent to notice counts as gone.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    if fields[0] in (b"Z", b"X"):
        return 0
    return int(fields[19])


def is_alive(pid: int, start: int) -> bool:
    """Tell whether the process that had this number and start time still runs."""
    if pid <= 0:
        return False
    if os.path.isdir("/proc/self"):
        found = process_start(pid)
        return found != 0 and (start == 0 or found == start)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
