"""A pytest plugin: a real Slurm on this machine for a run of the tests, with two nodes.

Nothing outside its own folder is touched: it has its own ``slurm.conf`` (every command and
daemon of Slurm follows ``$SLURM_CONF``), its own munge key and socket, and free ports.  So
several may run side by side, and one that the machine has already is not disturbed.

The daemons stay in the foreground as children of the tests and ask the kernel to be killed
with them.  Jobs do not: whatever names the folder in its environment belongs to it, and is
ended by its id when the lab goes down, or by the next lab when a run was killed.

Where the lab is required (``IPCLUSTERZ_LAB=required``, or ``CI`` is set) a machine that cannot
have one fails the tests; elsewhere they are skipped with the reason.

It knows Slurm and munge, and nothing of ipclusterz.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psutil
import pytest

NODES = ("node1", "node2")
OTHER_USER = "nobody"
"""An account every system has, for jobs that are not ours."""

_PREFIX = "ipcz-slurm-"
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "qsub", "qstat", "qdel", "setpriv")
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
_UP_SECONDS = 30
_CLEAN = {"PATH": f"{_SBIN}:/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
"""What an init system gives its daemons: jobs sent with --export=NONE see this."""


class LabError(Exception):
    """The lab cannot be made, or does not work; the text has the daemons' last words."""


@dataclass(frozen=True)
class Knobs:
    """What can differ: per node CPUs and megabytes, seconds an ended job stays known.

    Neither CPUs nor memory need be there; ``pbs_variables`` gives jobs ``PBS_JOBID`` and
    its like, as few sites do.
    """

    cpus: int = 8
    memory: int = 4000
    min_job_age: int = 20
    pbs_variables: bool = False


class Slurm:
    """Two nodes, partitions ``debug`` (the default) and ``minute`` (one minute at most).

    A context manager; inside, ``$SLURM_CONF`` of this process names it, so that commands
    and whatever starts them find it.  LabError when it does not come up.
    """

    def __init__(self, knobs: Knobs | None = None) -> None:
        self.knobs = knobs or Knobs()
        self.folder = Path()
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._before: str | None = None

    @property
    def conf(self) -> Path:
        """The file that all commands and daemons read."""
        return self.folder / "slurm.conf"

    def __enter__(self) -> Slurm:
        if missing := missing_here():
            raise LabError(missing)
        sweep_abandoned()
        # Not in the run's private place: jobs of other users must get there.
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_outer()))
        self._before = os.environ.get("SLURM_CONF")
        try:
            self._write()
            os.environ["SLURM_CONF"] = str(self.conf)
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is None:
            os.environ.pop("SLURM_CONF", None)
        else:
            os.environ["SLURM_CONF"] = self._before
        for name in reversed(self._daemons):
            self._daemons[name].send_signal(signal.SIGTERM)
        for daemon in self._daemons.values():
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()
        remove(self.folder)

    def run(
        self, *argv: str, user: str = "", stdin: str | None = None, timeout: float = 30
    ) -> str:
        """Run a command, as another user if named; LabError with its words if it fails."""
        prefix: list[str] = []
        environment = dict(os.environ)
        if user:
            environment.pop("TMPDIR", None)  # the run's own is closed to others
            who = pwd.getpwnam(user)
            prefix = ["setpriv", f"--reuid={who.pw_uid}", f"--regid={who.pw_gid}"]
            prefix.append("--clear-groups")
        done = subprocess.run(
            [*prefix, *argv],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=self.home(user),
            env=environment,
        )
        if done.returncode:
            raise LabError(
                f"{' '.join(argv)} ended with {done.returncode}: {done.stdout}{done.stderr}"
            )
        return done.stdout

    def home(self, user: str = "") -> Path:
        """A folder that ``user`` may write and that goes with the lab."""
        return self.folder / "home" / (user or "root")

    def queue(self) -> dict[str, str]:
        """Every job that has not ended, of any user: its id and state, ``RUNNING``."""
        lines = self.run("squeue", "-h", "-a", "-o", "%A %T").splitlines()
        return dict(line.split() for line in lines)

    def job(self, number: str) -> dict[str, str]:
        """What Slurm knows of a job: ``JobState``, ``Reason``, ``ExitCode``, ``NodeList`` …"""
        words = self.run("scontrol", "-o", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def until(self, condition: Callable[[], object], what: str, timeout: float = 20) -> None:
        """Wait until ``condition()``; LabError names ``what`` and shows the queue if not."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                queue = self.run("squeue", "-a", "-t", "all")
                raise LabError(f"after {timeout:g} s not: {what}\n{queue}{self._words()}")
            time.sleep(0.1)

    def cancel_all(self) -> None:
        """Cancel every job of every user and wait until the queue is empty."""
        if jobs := list(self.queue()):
            self.run("scancel", *jobs)
            self.until(lambda: not self.queue(), "an empty queue", timeout=30)

    @contextmanager
    def without_controller(self) -> Iterator[None]:
        """Stop the controller's daemon, so that commands fail; inside jobs run on."""
        daemon = self._daemons.pop("slurmctld")
        daemon.terminate()
        daemon.wait(15)
        try:
            yield
        finally:
            self._daemon("slurmctld", "slurmctld", "-D")
            self.until(self._answers, "slurmctld answers")

    @contextmanager
    def full(self) -> Iterator[None]:
        """Take both nodes out of service, so that new jobs must wait."""
        nodes = f"nodename={','.join(NODES)}"
        self.run("scontrol", "update", nodes, "state=drain", "reason=maintenance")
        try:
            yield
        finally:
            self.run("scontrol", "update", nodes, "state=resume")

    def _write(self) -> None:
        self.folder.chmod(0o755)
        _claim(self.folder)
        for name in ("state", "log", "spool", "tmp", "home", "home/root"):
            (self.folder / name).mkdir()
        other = pwd.getpwnam(OTHER_USER)
        self.home(OTHER_USER).mkdir()
        os.chown(self.home(OTHER_USER), other.pw_uid, other.pw_gid)
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        self.conf.write_text(_conf(self.folder, self.knobs))
        # Loaded though nothing uses it; the other plugin wants systemd, "autodetect" both.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        plugins = ""
        if self.knobs.pbs_variables:
            found = next(Path("/usr/lib").glob("*/slurm-wlm/spank_pbs.so"))
            plugins = f"required {found}\n"
        (self.folder / "plugstack.conf").write_text(plugins)

    def _start(self) -> None:
        here = self.folder
        self._daemon(
            "munged",
            "munged",
            "--foreground",
            f"--key-file={here}/munge.key",
            f"--socket={here}/munge",
            f"--pid-file={here}/munged.pid",
            f"--log-file={here}/log/munged",
            f"--seed-file={here}/munge.seed",
            "--num-threads=2",
        )
        self._await("munged", lambda: (here / "munge").exists())
        self._daemon("slurmctld", "slurmctld", "-D")
        for name in NODES:
            for part in ("spool", "tmp"):
                (here / part / name).mkdir()
            self._daemon(name, "slurmd", "-D", "-N", name)
        self._await("slurmctld", self._answers)
        # A node that looks idle may still be unable to start anything.
        self._await("node1", self._launches)

    def _daemon(self, name: str, *argv: str) -> None:
        log = (self.folder / "log" / f"{name}.out").open("wb")
        with log:
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**_CLEAN, "SLURM_CONF": str(self.conf)},
            )

    def _await(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _UP_SECONDS
        while not ready():
            ended = [one for one, daemon in self._daemons.items() if daemon.poll() is not None]
            if ended or time.monotonic() > deadline:
                how = f"{', '.join(ended)} ended" if ended else f"{name} is not ready"
                raise LabError(f"Slurm does not come up: {how}\n{self._words()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        return not subprocess.run(["scontrol", "ping"], capture_output=True).returncode

    def _launches(self) -> bool:
        # srun waits by itself for nodes that are not there yet.
        argv = ["srun", "-Q", "-N", str(len(NODES)), "--immediate=5", "true"]
        try:
            done = subprocess.run(argv, capture_output=True, timeout=10, cwd=self.folder)
        except subprocess.TimeoutExpired:
            return False
        return not done.returncode

    def _words(self) -> str:
        """The last lines of every daemon's log."""
        found = []
        for path in sorted((self.folder / "log").iterdir()):
            if tail := path.read_text(errors="replace").splitlines()[-5:]:
                found.append(f"{path.name}:\n" + "\n".join(tail))
        return "\n".join(found)


def missing_here() -> str:
    """Why there can be no Slurm here, in one line; '' if there can."""
    path = f"{os.environ.get('PATH', '')}:{_SBIN}"
    absent = [program for program in _PROGRAMS if not shutil.which(program, path=path)]
    if absent:
        return f"no {', '.join(absent)} here: apt-get install slurm-wlm slurm-wlm-torque munge"
    if os.geteuid() != 0:
        return "Slurm's daemons need root to run jobs of several users"
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError as error:
        return (
            f"the host name {socket.gethostname()} does not resolve ({error}): see /etc/hosts"
        )
    return ""


def sweep_abandoned() -> None:
    """Remove the labs whose tests were killed: processes, then files."""
    for folder in Path(_outer()).glob(f"{_PREFIX}*"):
        if not _claimed(folder):
            remove(folder)


def remove(folder: Path) -> None:
    """End every process of the lab in ``folder`` by its id, then remove the folder."""
    deadline = time.monotonic() + 10
    # What is about to start a job may do so between the look and the kill.
    while (left := list(processes_of(folder))) and time.monotonic() < deadline:
        for process in left:
            try:
                process.kill()
            except psutil.Error:
                pass
        psutil.wait_procs(left, timeout=1)
    shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> Iterator[psutil.Process]:
    """Daemons, job steps and jobs: what names the lab's files, or works in its folder."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter():
        if process.pid not in own and _names(process, folder):
            yield process


def _names(process: psutil.Process, folder: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.environ().get("SLURM_CONF") == str(folder / "slurm.conf"):
            return True
        return f"{process.cwd()}/".startswith(f"{folder}/")
    except (psutil.Error, OSError):
        return False


def _claim(folder: Path) -> None:
    """Note whose lab it is, by number and start: numbers are used again."""
    owner = psutil.Process()
    (folder / "owner").write_text(f"{owner.pid} {owner.create_time()}")


def _claimed(folder: Path) -> bool:
    """Whether those who made a lab live; one without a note is being made or removed."""
    try:
        pid, start = (folder / "owner").read_text().split()
        return abs(psutil.Process(int(pid)).create_time() - float(start)) < 1
    except psutil.NoSuchProcess:
        return False
    except (OSError, ValueError):
        return time.time() - folder.stat().st_mtime < _UP_SECONDS if folder.exists() else True


def _outer() -> str:
    """The system's folder for temporary files, whatever the run's own is."""
    return os.environ.get("PYTEST_DEBUG_TEMPROOT") or tempfile.gettempdir()


def _free_ports(address: str, count: int) -> list[int]:
    """Ports nobody listens on; kept apart by being held all at once for a moment."""
    held = [socket.create_server((address, 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def _conf(folder: Path, knobs: Knobs) -> str:
    host = socket.gethostname().partition(".")[0]
    address = socket.gethostbyname(socket.gethostname())
    control, *ports = _free_ports(address, 1 + len(NODES))
    values: Mapping[str, object] = {
        "ClusterName": "lab",
        "SlurmctldHost": f"{host}({address})",
        "SlurmctldPort": control,
        "CommunicationParameters": "NoCtldInAddrAny,NoInAddrAny",
        "SlurmUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder}/munge",
        "CredType": "cred/munge",
        # Neither systemd nor control groups: they may not be there.
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "task=1",
        "JobAcctGatherParams": "OverMemoryKill",
        "AccountingStorageType": "accounting_storage/none",
        "JobCompType": "jobcomp/none",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool/%n",
        "TmpFS": folder / "tmp/%n",  # what nodes of one machine would share by mistake
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.%n.pid",
        "SlurmctldLogFile": folder / "log/slurmctld",
        "SlurmdLogFile": folder / "log/slurmd.%n",
        # Believe the lines below and not the hardware.
        "SlurmdParameters": "config_overrides",
        "ReturnToService": 2,
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        "DefMemPerCPU": 200,
        "KillWait": 5,
        "MessageTimeout": 5,  # how long commands try when the controller is down
        "MinJobAge": knobs.min_job_age,
        "SchedulerParameters": "batch_sched_delay=0,sched_min_interval=100000,bf_interval=5",
    }
    lines = [f"{key}={value}" for key, value in values.items()]
    lines += [
        f"NodeName={name} NodeHostname={host} NodeAddr={address} Port={port}"
        f" CPUs={knobs.cpus} RealMemory={knobs.memory} State=UNKNOWN"
        for name, port in zip(NODES, ports, strict=True)
    ]
    nodes = ",".join(NODES)
    lines.append(f"PartitionName=debug Nodes={nodes} Default=YES MaxTime=INFINITE State=UP")
    lines.append(f"PartitionName=minute Nodes={nodes} MaxTime=1 State=UP")
    return "\n".join(lines) + "\n"


def _lab(knobs: Knobs | None = None) -> Iterator[Slurm]:
    if missing := missing_here():
        if os.environ.get("IPCLUSTERZ_LAB") == "required" or os.environ.get("CI"):
            pytest.fail(f"the lab is required here: {missing}")
        pytest.skip(missing)
    with Slurm(knobs) as made:
        yield made


@pytest.fixture(scope="session")
def _session_slurm() -> Iterator[Slurm]:
    yield from _lab()


@pytest.fixture
def slurm(_session_slurm: Slurm) -> Iterator[Slurm]:
    """A real Slurm, shared by all tests of the run; each begins and ends with no job.

    What a test leaves in the queue is cancelled, and the test fails.
    """
    yield _session_slurm
    left = _session_slurm.queue()
    _session_slurm.cancel_all()
    assert not left, f"jobs left in the queue: {left}"
