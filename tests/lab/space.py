"""Namespaces as a unit: made, entered, and ended together with whoever made them.

A :class:`Space` is what one init process holds: when that dies, the kernel kills every
process in there, and mounts, interfaces and filter rules vanish with the last of them.
The init dies with the process that made it, however that ends.

Knows Linux only; nothing of hosts, users or ssh.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

SLEEP = ["sleep", "86399"]
IDLE = f"echo ready; while :; do {' '.join(SLEEP)} & wait; done"
"""What an init does when all is set up: bury orphans, which ``wait`` does in passing."""


NAMESPACES = ["--net", "--mount", "--uts", "--ipc", "--pid"]


class LabError(RuntimeError):
    """The lab cannot be brought up or does not do what it should."""


class Process(subprocess.Popen[str]):
    """A command inside a space, used like any Popen.

    ``pid`` is that of the program that went inside; ``inner`` that of the command itself,
    as seen from here.  Signals go to the command, and it is killed when the other dies.
    """

    @property
    def inner(self) -> int:
        """The command's process id as seen from outside; ProcessLookupError when ended."""
        deadline = time.monotonic() + 10
        while self.poll() is None and time.monotonic() < deadline:
            try:
                for child in psutil.Process(self.pid).children():
                    return int(child.pid)
            except psutil.Error:
                break
            time.sleep(0.001)
        raise ProcessLookupError(f"{self.args!r} has ended")

    def send_signal(self, sig: int) -> None:
        """Send a signal to the command; nothing when it has ended."""
        try:
            os.kill(self.inner, sig)
        except ProcessLookupError:
            pass


class Space:
    """Namespaces of network, mounts, processes, host name and IPC.

    ``script`` (a file) is run by sh as the first process in there; it must succeed.
    """

    def __init__(self, name: str, script: Path) -> None:
        self.name = name
        flags = "--net --mount --uts --ipc --pid --fork --kill-child=KILL --mount-proc"
        command: list[str | Path] = ["setpriv", "--pdeathsig", "KILL", "unshare"]
        command += flags.split()
        command += ["sh", "-euc", '. "$1"; exec sh -c "$2" "$0"', f"lab-{name}", script, IDLE]
        self._holder = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={"PATH": PATH, **_marks()},
            start_new_session=True,  # a Ctrl-C is for the tests
        )
        self._pid = 0

    @property
    def pid(self) -> int:
        """The first process inside, as seen from outside."""
        if not self._pid:
            raise LabError(f"{self.name} is not up")
        return self._pid

    @property
    def root(self) -> Path:
        """The space's file system as seen from outside."""
        return Path(f"/proc/{self.pid}/root")

    def wait_ready(self) -> None:
        """Wait until the script has run; LabError if it failed or took 30 s."""
        assert self._holder.stdout is not None
        said = _read_until(self._holder.stdout, "ready\n", 30)
        if not said.endswith("ready\n"):
            self.end()
            raise LabError(f"{self.name} of the lab cannot be set up: {said.strip()}")
        (child,) = psutil.Process(self._holder.pid).children()
        self._pid = child.pid

    def enter(
        self,
        command: Sequence[str | Path],
        *,
        user: str = "root",
        cwd: str | Path = "/",
        env: Mapping[str, str] | None = None,
        **more: Any,
    ) -> Process:
        """Start a command inside as ``user``, with no environment but ``env``."""
        inside = [*entering(self.pid, user, cwd), *map(str, command)]
        # Programs are looked for in the caller's path; the command's own is in `env`.
        environment = {"PATH": PATH, **_marks(), **(env or {})}
        return Process(inside, env=environment, **{"text": True, **more})

    def run(self, command: Sequence[str | Path], input: str = "") -> str:
        """Run a command as root; its output.  LabError when it fails."""
        return self._run(NAMESPACES, command, input)

    def run_in_network(self, command: Sequence[str | Path], input: str = "") -> str:
        """The same in the space's network only: process ids are those seen from here."""
        return self._run(["--net"], command, input)

    def _run(self, flags: list[str], command: Sequence[str | Path], input: str) -> str:
        done = subprocess.run(
            ["nsenter", f"--target={self.pid}", *flags, *map(str, command)],
            env={"PATH": PATH, **_marks()},
            input=input,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
        )
        if done.returncode:
            line = " ".join(map(str, command))
            raise LabError(f"{self.name}: {line}: {done.stdout.strip()}")
        return done.stdout

    def processes(self) -> list[psutil.Process]:
        """All processes inside except the first."""
        wanted = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = []
        for process in psutil.process_iter():
            try:
                if os.readlink(f"/proc/{process.pid}/ns/pid") != wanted:
                    continue
                own = process.ppid() == self.pid and process.cmdline() == SLEEP
                if process.pid != self.pid and not own:
                    found.append(process)
            except (OSError, psutil.Error):
                continue
        return found

    def end(self) -> None:
        """Kill everything inside; returns when it is gone."""
        self._pid = 0
        if self._holder.poll() is None:
            # The first process inside: the kernel takes the others along, and the holder
            # buries it and ends.
            for child in psutil.Process(self._holder.pid).children():
                child.kill()
        try:
            self._holder.wait(10)
        except subprocess.TimeoutExpired:
            self._holder.kill()
            self._holder.wait(10)
        if self._holder.stdout is not None:
            self._holder.stdout.close()


def entering(pid: int, user: str, cwd: str | Path) -> list[str]:
    """What to put before a command to run it as ``user`` where process ``pid`` is."""
    words = ["nsenter", f"--target={pid}", *NAMESPACES, "setpriv", "--pdeathsig", "KILL"]
    if user != "root":
        words += [f"--reuid={user}", f"--regid={user}", "--init-groups"]
    return [*words, "env", f"--chdir={cwd}"]


def _marks() -> dict[str, str]:
    """What lets the search for leftovers tell whose a process is."""
    return {key: value for key, value in os.environ.items() if key == "IPCLUSTERZ_TEST_RUN"}


def _read_until(stream: IO[str], mark: str, timeout: float) -> str:
    """Read until ``mark``, the end or the timeout; what was read."""
    os.set_blocking(stream.fileno(), False)
    said = b""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and not said.endswith(mark.encode()):
        try:
            piece = os.read(stream.fileno(), 65536)
        except BlockingIOError:
            time.sleep(0.005)
            continue
        if not piece:
            break
        said += piece
    return said.decode(errors="replace")
