"""The ssh server of one host: options, restarts, sessions, host keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.lab import build
from tests.lab.space import LabError
from tests.running import eventually

if TYPE_CHECKING:
    from tests.lab.host import Host

KEY = "/etc/ssh/ssh_host_ed25519_key"
ASKING = "KbdInteractiveAuthentication"
LOG = "/var/log/sshd.log"


class Sshd:
    """A real OpenSSH server, on port 22 of all the host's addresses."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._changed = False

    @property
    def log(self) -> str:
        """What it has written so far."""
        path = self.host.file(LOG)
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start it; returns when it listens."""
        self.host.space.run(["/usr/sbin/sshd", "-E", LOG])
        self.host.wait_listening(22)

    def stop(self, sessions: bool = False) -> None:
        """End the one that listens, so that connecting is refused.

        What is connected stays so, as with a real server, unless ``sessions``.
        """
        listener = self.listener()
        if listener is not None:
            _kill([listener])
        eventually(lambda: 22 not in self.host.listening(), what="sshd does not end")
        if sessions:
            self.kill_sessions()

    def restart(self, sessions: bool = False) -> None:
        """Stop and start."""
        self.stop(sessions)
        self.start()

    def listener(self) -> psutil.Process | None:
        """The process that takes connections, if it runs."""
        for process in self._processes():
            if process.ppid() == self.host.space.pid and "[listener]" in _line(process):
                return process
        return None

    def sessions(self) -> list[psutil.Process]:
        """The processes that serve connections, two for each once it is logged in."""
        listener = self.listener()
        return [process for process in self._processes() if process != listener]

    def kill_sessions(self) -> None:
        """Kill them with SIGKILL, as a crash would; the listener stays."""
        _kill(self.sessions())

    @contextmanager
    def options(self, **options: str) -> Iterator[None]:
        """Other options for new connections: ``options(AllowTcpForwarding="no")``."""
        self.configure(**options)
        try:
            yield
        finally:
            self.reset()

    def configure(self, **options: str) -> None:
        """The options from now on, until :meth:`reset`; those not named as usual."""
        self._changed = True
        self.host.write("/etc/ssh/sshd_config", build.sshd_config(options), user="root")
        self.restart()

    @contextmanager
    def passwords(self) -> Iterator[None]:
        """Users may come with their password, as ``password`` or ``keyboard-interactive``."""
        self._pam("auth required pam_unix.so")
        options = dict.fromkeys(("UsePAM", "PasswordAuthentication", ASKING), "yes")
        with self.options(**options):
            yield

    @contextmanager
    def one_time_codes(
        self, user: str, codes: Sequence[str], *, after_key: bool = False
    ) -> Iterator[Callable[[], list[str]]]:
        """``user`` must type one of ``codes``, each of which opens once; the key too on wish.

        Yields a function that returns the codes not yet used.
        """
        path = f"/run/lab/codes/{user}"
        self.host.write(path, "".join(f"{code}\n" for code in codes), user="root", mode=0o600)
        self._pam(f"auth required pam_exec.so quiet expose_authtok {build.CHECK_CODE}")
        methods = "publickey,keyboard-interactive" if after_key else "keyboard-interactive"
        options = {"UsePAM": "yes", ASKING: "yes", "AuthenticationMethods": methods}
        with self.options(**options):
            yield lambda: self.host.file(path).read_text().split()

    def _pam(self, how: str) -> None:
        # pam_permit only so that somebody sets credentials; a failure above stays one.
        permits = (f"{kind} required pam_permit.so" for kind in ("auth", "account", "session"))
        rules = "\n".join([how, *permits, ""])
        self.host.write("/run/lab/etc/pam.d/sshd", rules, user="root")

    @contextmanager
    def other_host_key(self) -> Iterator[build.KeyPair]:
        """Another host key, which no ``known_hosts`` has: as if the host were another."""
        self._changed = True
        key = build.KeyPair.make()
        self._put_key(key)
        self.restart()
        try:
            yield key
        finally:
            self.reset()

    def reset(self) -> None:
        """As at first: key and options, and it runs."""
        if self._changed:
            self._put_key(self.host.plan.host_keys[self.host.name])
            self.host.write("/etc/ssh/sshd_config", build.sshd_config({}), user="root")
            self.stop()
            self._changed = False
        if 22 not in self.host.listening():
            self.start()

    def _put_key(self, key: build.KeyPair) -> None:
        self.host.write(KEY, key.private, user="root", mode=0o600)
        self.host.write(f"{KEY}.pub", key.public + "\n", user="root")

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in self.host.processes():
            try:
                # From 9.8 on sessions are programs of their own.
                if Path(process.exe()).name.startswith("sshd"):
                    found.append(process)
            except psutil.Error:
                continue
        return found


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            pass
    _, left = psutil.wait_procs(processes, timeout=10)
    if left:
        raise LabError(f"cannot be killed: {left}")
