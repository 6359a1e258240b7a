"""One host of the lab: commands, files and processes on it.

Commands run as one of the host's users, in its namespaces, with a clean environment; what
they print comes back as text.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.lab import build
from tests.lab.space import LabError, Process, Space
from tests.lab.sshd import Sshd
from tests.running import eventually


class Host:
    """A host: ``run`` and ``popen`` commands there, look at its files and processes."""

    def __init__(self, name: str, space: Space, plan: build.Plan) -> None:
        self.name = name
        self.space = space
        self.plan = plan
        self.addresses = build.addresses(name)
        self.sshd = Sshd(self)

    def __repr__(self) -> str:
        return f"<{self.name} {self.address}>"

    @property
    def address(self) -> str:
        """Its address; of login the one that the laptop sees."""
        return next(iter(self.addresses.values()))

    @property
    def inside_address(self) -> str:
        """Its address among the nodes; KeyError for the laptop."""
        return self.addresses["inside"]

    # -- commands -----------------------------------------------------------------------

    def popen(
        self,
        command: Sequence[str | Path],
        *,
        user: str = "ada",
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.PIPE,
        stderr: int | None = subprocess.STDOUT,
        start_new_session: bool = True,
    ) -> Process:
        """Start a command in the background, in the user's home folder unless told.

        ``env`` is added to the user's environment.  Its end is the caller's business, at
        the latest that of the lab.
        """
        return self.space.enter(
            command,
            user=user,
            cwd=cwd or self.home(user),
            env={**build.environment(user), **(env or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=start_new_session,
        )

    def run(
        self,
        command: Sequence[str | Path],
        *,
        user: str = "ada",
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        timeout: float = 30,
        check: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end and return code, output and errors.

        Raises ``subprocess.TimeoutExpired`` after ``timeout`` seconds, the command killed,
        and with ``check`` LabError, which has all it said, when it failed.
        """
        pipe = subprocess.PIPE
        stdin = subprocess.DEVNULL if input is None else pipe
        process = self.popen(
            command, user=user, env=env, cwd=cwd, stdin=stdin, stdout=pipe, stderr=pipe
        )
        try:
            out, err = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            try:
                process.communicate(timeout=2)
            except subprocess.TimeoutExpired:
                pass  # something that it started keeps the pipes open
            raise
        if check and process.returncode:
            raise LabError(f"{self.name}: {command!r} ended with {process.returncode}: {err}")
        return subprocess.CompletedProcess(list(command), process.returncode, out, err)

    # -- files --------------------------------------------------------------------------

    def home(self, user: str = "ada") -> Path:
        """A user's home folder, as the host names it."""
        return build.home(user)

    def file(self, path: str | Path, user: str = "ada") -> Path:
        """A path by which *this* process reaches a file of the host.

        A relative one begins at the home of ``user``.
        """
        return self.space.root / str(self.home(user) / path).lstrip("/")

    def write(
        self, path: str | Path, text: str, *, user: str = "ada", mode: int = 0o644
    ) -> Path:
        """Write a file that belongs to ``user``, folders on the way too; its path there."""
        uid = 0 if user == "root" else build.USERS[user]
        target = self.file(path, user)
        missing = [parent for parent in target.parents if not parent.exists()]
        for parent in reversed(missing):
            parent.mkdir()
            os.chown(parent, uid, uid)
        target.write_text(text)
        target.chmod(mode)
        os.chown(target, uid, uid)
        return self.home(user) / path

    @contextmanager
    def greeting(self, text: str, user: str = "ada") -> Iterator[None]:
        """A start-up file that prints ``text`` in every shell, also those ssh starts."""
        target = self.file(".bashrc", user)
        before = target.read_text() if target.exists() else None
        self.write(".bashrc", f"cat <<'END-OF-TEXT'\n{text}\nEND-OF-TEXT\n", user=user)
        try:
            yield
        finally:
            if before is None:
                target.unlink(missing_ok=True)
            else:
                self.write(".bashrc", before, user=user)

    @contextmanager
    def login_shell(self, shell: str, user: str = "ada") -> Iterator[None]:
        """``user`` has another login shell, as sshd finds it in the passwd file."""
        path = Path("/run/lab/etc/passwd")
        before = self.file(path).read_text()
        own = re.compile(rf"^({user}:.*:)[^:]*$", re.MULTILINE)
        self.write(path, own.sub(rf"\g<1>{shell}", before), user="root")
        try:
            yield
        finally:
            self.write(path, before, user="root")

    @contextmanager
    def full_disk(self, user: str = "ada") -> Iterator[None]:
        """Not one byte more fits into the user's home folder."""
        home = self.home(user)
        status = os.statvfs(self.file("."))
        used = max(status.f_blocks - status.f_bfree, 1) * status.f_frsize
        self.space.run(["mount", "-o", f"remount,size={used}", home])
        try:
            yield
        finally:
            self.space.run(["mount", "-o", "remount,size=50%", home])

    # -- processes ----------------------------------------------------------------------

    def processes(self, user: str | None = None) -> list[psutil.Process]:
        """What runs there, with process ids as seen from here; of one user if named."""
        found = self.space.processes()
        if user is None:
            return found
        uid = 0 if user == "root" else build.USERS[user]
        return [process for process in found if _uid(process) == uid]

    def pid_inside(self, process: psutil.Process) -> int:
        """The number by which the host itself knows a process."""
        with open(f"/proc/{process.pid}/status") as file:
            line = next(line for line in file if line.startswith("NSpid:"))
        return int(line.split()[-1])

    def kill_users(self) -> None:
        """Kill all that runs as one of the unprivileged users; returns when it is gone."""
        for user in build.USERS:
            left = self.processes(user)
            for process in left:
                try:
                    process.kill()
                except psutil.Error:
                    pass
            psutil.wait_procs(left, timeout=10)

    def listening(self) -> set[int]:
        """TCP ports that something listens on, on whichever of its addresses."""
        ports = set()
        for kind in ("tcp", "tcp6"):
            try:
                lines = Path(f"/proc/{self.space.pid}/net/{kind}").read_text().splitlines()[1:]
            except FileNotFoundError:
                continue
            fields = [line.split() for line in lines]
            ports |= {int(f[1].rpartition(":")[2], 16) for f in fields if f[3] == "0A"}
        return ports

    def wait_listening(self, port: int, timeout: float = 10) -> None:
        """Wait until something listens on a port; AssertionError after ``timeout`` seconds."""
        what = f"nothing listens on {self.name}:{port}"
        eventually(lambda: port in self.listening(), timeout, what)


def _uid(process: psutil.Process) -> int:
    try:
        return int(process.uids().real)
    except psutil.Error:
        return -1
