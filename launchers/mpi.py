"""Starts engines as the ranks of one MPI job: ``mpiexec -n N …``, ``mpirun`` or ``srun``.

``mpiexec`` is a process on this host, so it is watched like one; what it starts are agents, one
for each rank.  Standard input reaches rank 0 alone.  Therefore what all of them must be told
lies in a folder of this launch, for its owner's eyes only, on a file system that the ranks'
hosts share: ``input`` grows line by line like standard input, and when it is removed the
ranks end.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from ipclusterz.core.batchjob import job_here
from ipclusterz.core.ranks import UNREPLACED, missing
from ipclusterz.error import LaunchError
from ipclusterz.files import private_dir, remove, write_private
from ipclusterz.launchers.base import Event, JobState, LaunchSpec
from ipclusterz.launchers.local import LocalJob
from ipclusterz.paths import runtime_dir

_VERSION_SECONDS = 20.0
_HOSTS = frozenset(
    "-H --host -host --hostfile -hostfile --machinefile -machinefile -f -hosts --hosts -ppn"
    " --app -w --nodelist".split()
)
"""Arguments that say where ranks go."""

_MORE_THAN_CORES = {
    "OMPI_MCA_rmaps_base_oversubscribe": "1",  # Open MPI 4
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",  # Open MPI 5
}
"""Lets Open MPI start more ranks than there are cores, as every other way to start does."""


class MPIOptions(Struct):
    """How the MPI job is started."""

    mpi_cmd: Annotated[
        str,
        Meta(description="What starts MPI jobs: mpiexec, mpirun, srun or a path. [mpiexec]"),
    ] = "mpiexec"
    mpi_args: Annotated[
        list[str],
        Meta(description="An argument for it, like --mpi-args=--bind-to=none. Repeatedly."),
    ] = []


class MPILauncher:
    """Starts engines as the ranks of an MPI job."""

    Options = MPIOptions

    def __init__(self, options: MPIOptions | None = None) -> None:
        self.options = options or MPIOptions()
        self._words = _split("mpi_cmd", self.options.mpi_cmd)
        self._args = [w for text in self.options.mpi_args for w in _split("mpi_args", text)]
        if not self._words:
            raise LaunchError("mpi_cmd is empty: name mpiexec, mpirun or srun")
        if shutil.which(self._words[0]) is None:
            raise LaunchError(
                f"there is no command {self._words[0]!r} on this host: install an MPI (Debian:"
                " apt-get install openmpi-bin), load its module, or name another command"
                " (--mpi-cmd)"
            )

    def check(self, spec: LaunchSpec) -> None:
        """Raise LaunchError if ``spec`` cannot run; before anything has been started."""
        config = json.loads(spec.stdin.partition("\n")[0] or "{}").get("config", {})
        if config.get("restart_engines"):
            raise LaunchError(UNREPLACED)
        python = config.get("python") or sys.executable
        if not _has_mpi4py(python):
            raise LaunchError(missing(python))
        if os.geteuid() == 0 and self._refuses_root():
            raise LaunchError(
                f"{self._words[0]} of Open MPI does not start anything as root; use another"
                " account, or insist on it: --mpi-args=--allow-run-as-root"
            )

    def start(self, spec: LaunchSpec) -> MPIJob:
        """Start ``mpiexec`` with ``spec.n`` ranks; each becomes an agent with one engine."""
        folder = spec.folder or runtime_dir()
        try:
            os.makedirs(os.path.dirname(folder), mode=0o700, exist_ok=True)
            private_dir(folder)
        except OSError as error:
            raise LaunchError(f"cannot make {folder}: {error.strerror}") from None
        words = [*self._words, "-n", str(spec.n), *self._args, *spec.argv, f"--rank={folder}"]
        env = {**(_MORE_THAN_CORES if self._alone() else {}), **spec.env}
        return MPIJob(replace(spec, argv=tuple(words), env=env, stdin=""), folder, spec.stdin)

    def _alone(self) -> bool:
        """Whether this host is all there is: neither in a batch job nor with named hosts."""
        named = any(word.partition("=")[0] in _HOSTS for word in self._args)
        return not named and not job_here(os.environ)

    def _refuses_root(self) -> bool:
        allowed = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
        if "--allow-run-as-root" in [*self._words, *self._args]:
            return False
        if all(os.environ.get(name) == "1" for name in allowed):
            return False
        said = _output([self._words[0], "--version"])
        return "OpenRTE" in said or "Open MPI" in said


class MPIJob(LocalJob):
    """A running ``mpiexec``, and the folder that stands for its ranks' standard input."""

    def __init__(self, spec: LaunchSpec, folder: str, text: str) -> None:
        self._folder = folder
        self._input = os.path.join(folder, "input")
        self._text = text
        write_private(self._input, text.encode())
        try:
            super().__init__(spec)
        except BaseException:
            self._remove()
            raise

    def events(self) -> list[Event]:
        """Read all ranks' events; that one agent is complete is no news of the others."""
        return [event for event in super().events() if event["event"] != "engines"]

    def tell(self, text: str) -> None:
        """Say something to all ranks; LaunchError when they were told to end."""
        if not self._folder:
            raise LaunchError(f"{self.name} was told to end and takes no more input")
        self._text += text
        write_private(self._input, self._text.encode())

    def close(self) -> None:
        """Ask all ranks to end; does not wait."""
        self._remove()
        super().close()

    def stop(self, grace: float = 10.0) -> JobState:
        """Ask all ranks to end, after ``grace`` seconds have ``mpiexec`` kill them."""
        state = super().stop(grace)
        self._remove()
        return state

    def _remove(self) -> None:
        if self._folder:
            remove(self._input)
            try:
                os.rmdir(self._folder)
            except OSError:  # rank 0 was quicker, or it is not empty and not ours alone
                pass
            self._folder = ""


def _split(name: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise LaunchError(f"{name} is {text!r}: {error}") from None


def _has_mpi4py(python: str) -> bool:
    if python == sys.executable:
        from importlib.util import find_spec

        return find_spec("mpi4py") is not None
    code = "import importlib.util as u; print(u.find_spec('mpi4py') is not None)"
    return _output([python, "-c", code]).strip() != "False"


def _output(words: Sequence[str]) -> str:
    """Return what a command prints; LaunchError if it cannot be run or does not end."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_SECONDS,
        )
    except OSError as error:
        raise LaunchError(f"cannot run {words[0]}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise LaunchError(f"{shlex.join(words)} does not end") from None
    return done.stdout + done.stderr
