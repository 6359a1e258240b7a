"""One host behind SSH, asked everything that :mod:`ipclusterz.core.sshcheck` judges.

Changes nothing: unknown host keys are refused as ever, nobody is asked for a password, and
what it makes on the host is a folder for sockets that goes with its process.
"""

from __future__ import annotations

import json
import os
import platform
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from ipclusterz._version import __version__
from ipclusterz.core import sshcheck as judge
from ipclusterz.core.message import PROTOCOL
from ipclusterz.core.ssh import Destination, Forward, in_sh, quoted
from ipclusterz.core.sshcheck import Line
from ipclusterz.error import SSHError
from ipclusterz.net.ssh import Connection, Process, connect
from ipclusterz.paths import runtime_dir

_ANSWER_SECONDS = 15.0


class _Stop(Exception):
    """Nothing more can be tested; its text says why."""


class Probe:
    """Tests one host; ``stopped`` tells that another host's key has changed."""

    def __init__(
        self,
        place: Destination,
        *,
        python: str = "",
        key: str = "",
        paramiko: bool = False,
        timeout: float = 10.0,
        stopped: Callable[[], str] = lambda: "",
    ) -> None:
        self.place = place
        self._python = python
        self._key = key
        self._paramiko = paramiko
        self._timeout = timeout
        self._stopped = stopped
        self._config = os.environ.get("IPCLUSTERZ_SSH_CONFIG", "")
        self._lines: list[Line] = []
        self._folder = ""

    def run(self) -> list[Line]:
        """Return a line for each check."""
        connection = None
        self._folder = runtime_dir()
        try:
            self._go_on()
            self._reach()
            self._go_on()
            connection = self._log_in()
            self._look(connection)
            self._ways(connection)
        except _Stop as stop:
            return judge.rest(self._lines, str(stop))
        except SSHError as error:
            return judge.rest(self._lines, str(error))
        finally:
            if connection is not None:
                connection.close()
            shutil.rmtree(self._folder, ignore_errors=True)
        return judge.rest(self._lines, "")

    def _go_on(self) -> None:
        if why := self._stopped():
            raise _Stop(why)

    # -- the way there ---------------------------------------------------------------------

    def _reach(self) -> None:
        """Look up the name and try the port, unless another host does that for us."""
        host, port, hops = self._meant()
        if hops:
            self._lines.append(judge.passed("name", f"{host}, looked up by {hops}"))
            self._lines.append(judge.passed("port", f"{port}, reached through {hops}"))
            return
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            remedy = "correct the name, or add it to ~/.ssh/config"
            self._lines.append(judge.failed("name", f"{host}: {error}", remedy))
            raise _Stop("the name leads nowhere") from None
        self._lines.append(judge.passed("name", f"{host} is {found[0][4][0]}"))
        self._lines.append(line := self._knock(host, port))
        if line.state == judge.FAILED:
            raise _Stop("nothing answers as an SSH server")

    def _knock(self, host: str, port: int) -> Line:
        try:
            with socket.create_connection((host, port), self._timeout) as connection:
                connection.settimeout(self._timeout)
                greeting = connection.recv(64)
        except TimeoutError:
            remedy = "is the host on, and does a firewall drop the way to it?"
            return judge.failed("port", f"{port} does not answer", remedy)
        except OSError as error:
            remedy = "is sshd running there, and is the port right?"
            return judge.failed("port", f"{port}: {error.strerror or error}", remedy)
        if not greeting.startswith(b"SSH-"):
            remedy = "name its port: HOST:PORT, or Port in ~/.ssh/config"
            return judge.failed("port", f"{port} is no SSH server's", remedy)
        said = greeting.split(b"\r")[0].split(b"\n")[0].decode(errors="replace")
        return judge.passed("port", f"{port} answers ({said})")

    def _meant(self) -> tuple[str, int, str]:
        """Return the real host, the port and who leads there, as the ssh program says."""
        place = self.place
        host, port = place.host, place.port or 22
        hops = ",".join(hop.shown for hop in place.jump)
        if self._paramiko or shutil.which("ssh") is None:
            return host, port, hops
        argv = ["ssh", *(["-F", self._config] if self._config else []), "-G"]
        try:
            done = subprocess.run(
                [*argv, *place.arguments()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=self._timeout,
            )
        except subprocess.TimeoutExpired:
            return host, port, hops
        lines = (line.split(None, 1) for line in done.stdout.splitlines())
        said = {words[0]: words[1] for words in lines if len(words) == 2}
        jump = said.get("proxyjump", "") or said.get("proxycommand", "")
        through = hops or ("" if jump == "none" else jump)
        return said.get("hostname", host), int(said.get("port", port)), through

    def _log_in(self) -> Connection:
        try:
            made = connect(
                self.place,
                key=self._key,
                config=self._config,
                paramiko=self._paramiko or None,
                timeout=self._timeout,
                home=self._folder,
            )
        except SSHError as error:
            if error.kind == "login":
                self._lines.append(judge.passed("host key", "is the known one"))
            self._lines.append(judge.connection(error.kind, str(error)))
            raise _Stop("no login") from None
        self._lines.append(judge.passed("host key", "is the known one"))
        self._lines.append(judge.passed("authentication", f"let in, by {made.kind}"))
        return made

    # -- what is there ---------------------------------------------------------------------

    def _look(self, connection: Connection) -> None:
        """Ask a shell and Python there."""
        mark = os.urandom(8).hex()
        choice = f"p={quoted([self._python or sys.executable])}"
        choice += '; case $p in "~/"*) p=$HOME/${p#"~/"};; esac'
        if not self._python:
            choice += '; [ -x "$p" ] || p=python3'
        text = judge.QUESTION + f'print("\\n{mark}" + json.dumps(f))\n'
        script = (
            f'{choice}; echo; echo {mark}; echo "$PATH"; command -v "$p" || exit 41;'
            f' exec "$p" -c {quoted([text])}'
        )
        before = time.time()
        try:
            done = connection.run(in_sh(script), timeout=_ANSWER_SECONDS)
        except SSHError as error:
            if not connection.alive():
                raise
            remedy = f"do start-up files wait for something? ssh {self.place.shown} true"
            text = f"it did not answer within {_ANSWER_SECONDS:.0f} s"
            self._lines.append(judge.failed("shell", text, remedy))
            raise _Stop(str(error)) from None
        after = time.time()
        out = done.stdout.decode(errors="replace")
        printed, begun, rest = out.partition(f"\n{mark}\n")
        if not begun:
            said = done.stderr.decode(errors="replace").strip() or "it says nothing"
            remedy = f"is sh there, and may you run commands? ssh {self.place.shown} true"
            self._lines.append(judge.failed("shell", f"sh does not run: {said}", remedy))
            raise _Stop("no commands can be run")
        self._lines.append(judge.shell(printed))
        path, _, rest = rest.partition("\n")
        wanted = self._python or "python3"
        if done.code == 41:
            remedy = "name Python by --python=PATH, and for engines by c.SSHLauncher.python"
            text = f"there is no {wanted} on {path}"
            self._lines.append(judge.failed("PATH", text, remedy))
            raise _Stop("there is no Python")
        self._lines.append(judge.passed("PATH", f"{rest.partition(chr(10))[0]} is found"))
        self._answers(rest.partition(mark)[2], done.stderr, before, after)

    def _answers(self, answer: str, errors: bytes, before: float, after: float) -> None:
        try:
            facts: dict[str, Any] = json.loads(answer)
        except ValueError:
            said = " ".join(errors.decode(errors="replace").split())[-200:] or "no answer"
            remedy = "does it start by hand? --python names another"
            self._lines.append(judge.failed("python", f"it does not run: {said}", remedy))
            raise _Stop("Python does not run") from None
        self._lines += judge.python(facts, ours())
        self._lines.append(judge.clock(float(facts["time"]), before, after))
        self._lines.append(judge.limits(int(facts["files"]), int(facts["processes"])))
        self._found = str(facts["executable"])

    # -- forwarding ------------------------------------------------------------------------

    def _ways(self, connection: Connection) -> None:
        """Send something through each kind of forward and back."""
        mark = os.urandom(8).hex()
        script = f"MARK = {mark!r}\n{judge.PARTNER}"
        process = connection.spawn(in_sh("exec " + quoted([self._found, "-c", script])))
        try:
            partner = _Partner(process, mark)
            there = partner.answer()
            if not isinstance(there, dict):
                raise _Stop(f"what listens there for the test does not start: {there}")
            unix = os.path.join(self._folder, "f")
            both = connection.local_sockets and connection.remote_sockets
            tests: list[tuple[str, Callable[[], str]]] = [
                ("forward tcp", lambda: self._forth(connection, str(_free_port()), there)),
                ("forward unix", lambda: self._forth(connection, unix, there)),
                ("back tcp", lambda: self._back(connection, partner, "tcp", there)),
                ("back unix", lambda: self._back(connection, partner, "unix", there)),
            ]
            for check, test in tests:
                if check.endswith("unix") and not both:
                    self._lines.append(Line(check, judge.SKIPPED, f"{connection.kind} cannot"))
                    continue
                try:
                    problem = test()
                except (SSHError, OSError) as error:
                    problem = str(error)
                self._lines.append(judge.way(check, problem))
        finally:
            process.close()

    def _forth(self, connection: Connection, here: str, there: dict[str, Any]) -> str:
        """Connect here, to what listens there."""
        far = Forward(here, "127.0.0.1", there["port"])
        if not here.isdigit():
            far = Forward(here, "", path=there["unix"])
        connection.forward([far])
        token = os.urandom(8)
        family = socket.AF_INET if here.isdigit() else socket.AF_UNIX
        with socket.socket(family) as made:
            made.settimeout(self._timeout)
            made.connect(("127.0.0.1", int(here)) if here.isdigit() else here)
            made.sendall(token)
            back = made.recv(64)
        if back == token:
            return ""
        return connection.problem() or "what was sent did not come back"

    def _back(
        self, connection: Connection, partner: _Partner, kind: str, there: dict[str, Any]
    ) -> str:
        """Have the host connect to what listens here."""
        ours = os.path.join(self._folder, "b")
        made = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
        with made:
            made.bind(ours if kind == "unix" else ("127.0.0.1", 0))
            made.listen(1)
            echo = threading.Thread(target=_echo, args=(made,), daemon=True)
            echo.start()
            if kind == "unix":
                connection.reverse([Forward(there["back"], "", path=ours)])
                where = there["back"]
            else:
                port = made.getsockname()[1]
                (where,) = connection.reverse([Forward("0", "127.0.0.1", port)])
            return partner.ask([kind, where, os.urandom(8).hex()])


class _Partner:
    """The process there that listens and connects."""

    def __init__(self, process: Process, mark: str) -> None:
        self._process = process
        self._mark = mark
        self._rest = b""

    def ask(self, command: list[Any]) -> str:
        os.write(self._process.stdin, json.dumps(command).encode() + b"\n")
        return str(self.answer())

    def answer(self) -> Any:
        deadline = time.monotonic() + _ANSWER_SECONDS
        while True:
            found = re.search(rf"{self._mark}(.*)\n".encode(), self._rest)
            if found is not None:
                self._rest = self._rest[found.end() :]
                return json.loads(found[1])
            poller = select.poll()
            poller.register(self._process.stdout, select.POLLIN)
            left = deadline - time.monotonic()
            if left <= 0 or not poller.poll(left * 1000):
                return f"no answer within {_ANSWER_SECONDS:.0f} s"
            data = os.read(self._process.stdout, 4096)
            if not data:
                return "it has ended"
            self._rest += data


def ours() -> dict[str, Any]:
    """Return what the question is compared with."""
    return {
        "python": platform.python_version(),
        "ipclusterz": __version__,
        "protocol": PROTOCOL,
        "cloudpickle": version("cloudpickle"),
    }


def _echo(listening: socket.socket) -> None:
    try:
        connection, _ = listening.accept()
        with connection:
            connection.settimeout(_ANSWER_SECONDS)
            connection.sendall(connection.recv(64))
    except OSError:
        pass  # whoever asked tells of it


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
