"""An SSH connection by OpenSSH's own programs.

A master process of ours holds the connection (or the user's running one is used, if there is
one: no second password, no second code); commands and forwards are added through its control
socket.  Its options come from a generated configuration file that reads the user's, because
only that reaches the hosts on the way (ProxyJump) as well.

The master is guarded by a shell that ends it at the end of a pipe: if we are killed, nothing
stays.  What the master prints goes to a file, from which errors are made.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from functools import cache

from ipclusterz.core.ssh import (
    Destination,
    Forward,
    cause,
    kind,
    of_connection,
    refused_beyond,
    unanswered,
)
from ipclusterz.error import SSHError
from ipclusterz.net import host
from ipclusterz.net.askpass import Askpass
from ipclusterz.net.ssh import (
    ALIVE_COUNT,
    ALIVE_SECONDS,
    COMMAND_SECONDS,
    Finished,
    Options,
    of_here,
)
from ipclusterz.paths import runtime_dir

_CHECK_SECONDS = 5.0
_END_SECONDS = 2.0
_LOOK_SECONDS = 0.01
_WORDS = 64 * 1024

# $1 is the folder to remove should we be killed; the rest is the master's command.  A word
# on the pipe says that we are well and clean up ourselves.  'kill 0' reaches what the master
# started as well: hosts on the way, and a question that nobody will answer.
_GUARD = """
folder=$1; shift
exec 3<&0 </dev/null
"$@" 3<&- &
master=$!
( word=; read -r word <&3; [ "$word" ] || rm -rf -- "$folder"; kill 0 ) 2>&- &
watch=$!
exec 3<&-
wait "$master"; code=$?
kill "$watch" 2>/dev/null
wait "$watch" 2>/dev/null
exit "$code"
"""

# The same for forwards of a connection that is not ours and goes on without us.
_CANCEL = """
folder=$1; shift
word=; read -r word
"$@" 2>/dev/null
[ -n "$word" ] || rm -rf -- "$folder"
"""


class OpenSSHConnection:
    """See :class:`ipclusterz.net.ssh.Connection`."""

    kind = "openssh"
    local_sockets = True
    remote_sockets = True

    def __init__(self, target: Destination, options: Options) -> None:
        self.target = target
        self._options = options
        self._home = options.home
        self._folder = tempfile.mkdtemp("", "c", self._home) if self._home else runtime_dir()
        self._config = os.path.join(self._folder, "config")
        self._control = ""
        self._words = os.path.join(self._folder, "words")
        self._guard: subprocess.Popen[bytes] | None = None
        self._watch = -1
        self._link: socket.socket | None = None
        self._cancel: subprocess.Popen[bytes] | None = None
        self._forwards: list[str] = []
        self._begun = 0  # how much was said until it was up: banners, warnings
        self._read = 0
        self._forgotten = 0
        self._closed = False
        try:
            self._write_config()
            if not self._join():
                self._begin()
        except BaseException:
            self.close()
            raise

    # -- going up --------------------------------------------------------------------------

    def _write_config(self) -> None:
        """Write the options; the first word wins, so ours stand before the user's."""
        options = self._options
        asked = options.ask is not None
        lines = [
            # 'ask' asks whom ssh finds, and accept-new nobody: neither is ours to choose.
            "StrictHostKeyChecking yes",
            f"BatchMode {'no' if asked else 'yes'}",
            "NumberOfPasswordPrompts 1",
            f"ConnectTimeout {max(1, round(options.timeout))}",
            f"ServerAliveInterval {ALIVE_SECONDS}",
            f"ServerAliveCountMax {ALIVE_COUNT}",
            "TCPKeepAlive yes",
            # Errors are made of its words: QUIET has none, DEBUG too many.
            "LogLevel INFO",
            # The user's forwards are for the user's sessions; their ports may be taken.
            "ClearAllForwardings yes",
            "StreamLocalBindUnlink yes",
            "StreamLocalBindMask 0177",
            "ForwardAgent no",
            "ForwardX11 no",
            "PermitLocalCommand no",
            "RemoteCommand none",
            "RequestTTY no",
            "EscapeChar none",
        ]
        if _is_newer():
            # Else it would leave our guard, read nothing, or ask for something else to run.
            lines += ["ForkAfterAuthentication no", "StdinNull no", "SessionType default"]
        if options.key:
            named = options.key.replace("%", "%%")
            lines += [f'IdentityFile "{named}"']
            # An agent's keys come first, and servers hang up after some; on the way they may
            # be needed.
            lines += [f'Match originalhost "{self.target.host}"', "IdentitiesOnly yes"]
        for path in [options.config] if options.config else ["~/.ssh/config"]:
            lines += ["Match all", f'Include "{path}"']
        if not options.config:
            lines += ["Match all", "Include /etc/ssh/ssh_config"]
        fd = os.open(self._config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write("\n".join(lines) + "\n")

    def _join(self) -> bool:
        """Use a connection of the user's to this host that is there already."""
        if self._options.key or self.target.jump:
            return False
        try:
            done = self._ssh("-O", "check", timeout=_CHECK_SECONDS)
        except SSHError:
            return False
        if done.code != 0:
            return False
        shown = self._ssh("-G", timeout=_CHECK_SECONDS).stdout.decode(errors="replace")
        path = re.search(r"^controlpath (.+)$", shown, re.MULTILINE)
        if path is None:
            return False
        # The master says nothing more on it, and closes it when it ends.
        self._link = link = socket.socket(socket.AF_UNIX)
        try:
            link.connect(path[1])
        except OSError:
            link.close()
            self._link = None
            return False
        link.setblocking(False)
        self._control = path[1]
        return True

    def _begin(self) -> None:
        """Start a connection of our own."""
        control = os.path.join(self._folder, "control")
        master = ["ssh", "-F", self._config, "-M", "-S", control, "-N", "-T"]
        master += ["-o", "ControlPersist=no"]
        askpass = Askpass(self._folder, self._options.ask) if self._options.ask else None
        try:
            self._start(master, askpass)
            self._await_master(control, askpass)
        finally:
            if askpass is not None:
                askpass.close()
        self._control = control
        self._begun = self._read = os.stat(self._words).st_size

    def _start(self, master: list[str], askpass: Askpass | None) -> None:
        environment = {**os.environ, **(askpass.environment if askpass else {})}
        if askpass is None:
            environment["SSH_ASKPASS_REQUIRE"] = "never"
        words = os.open(self._words, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            self._guard = subprocess.Popen(
                [
                    "sh",
                    "-c",
                    _GUARD,
                    "sh",
                    self._home or self._folder,
                    *master,
                    *self.target.arguments(),
                ],
                stdin=subprocess.PIPE,
                stdout=words,
                stderr=words,
                env=environment,
                start_new_session=True,  # Ctrl-C is ours to handle, and no terminal to ask on
            )
        finally:
            os.close(words)
        self._watch = host.pidfd(self._guard.pid)

    def _await_master(self, control: str, askpass: Askpass | None) -> None:
        assert self._guard is not None
        # Twice the time: each host on the way may take its own.
        deadline = time.monotonic() + self._options.timeout
        while not os.path.exists(control):
            if self._guard.poll() is not None:
                raise self._error(self._said())
            if self._options.unwanted is not None and self._options.unwanted():
                raise self._error("the attempt was given up")
            if askpass is not None:
                # While somebody types, the time stands still.
                deadline += askpass.serve(_LOOK_SECONDS)
                if askpass.refused:
                    raise self._error(self._said() + askpass.refused)
            else:
                time.sleep(_LOOK_SECONDS)
            if time.monotonic() > deadline:
                raise self._error(self._said() or "Connection timed out")

    # -- commands --------------------------------------------------------------------------

    def run(
        self, command: str, stdin: bytes = b"", timeout: float = COMMAND_SECONDS
    ) -> Finished:
        """Run a command by the login shell there and wait for its end."""
        return self._ssh(command=command, stdin=stdin, timeout=timeout)

    def spawn(self, command: str) -> OpenSSHProcess:
        """Start a command by the login shell there."""
        try:
            return OpenSSHProcess([*self._argv(), command])
        except OSError as error:
            raise of_here(error, "run a command on", self.target) from None

    def _argv(self, *options: str, config: str = "") -> list[str]:
        argv = ["ssh", "-F", config or self._config, "-T", *options]
        if self._control:
            # Without its master ssh would connect by itself, and ask again.
            argv += ["-S", self._control, "-o", "ControlMaster=no", "-o", "ProxyCommand=false"]
        return argv + self._target_arguments()

    def _target_arguments(self) -> list[str]:
        # ProxyCommand and -J exclude each other; the master knows the way.
        place = Destination(self.target.host, self.target.user, self.target.port)
        return (place if self._control else self.target).arguments()

    def _ssh(
        self,
        *options: str,
        command: str = "",
        stdin: bytes = b"",
        timeout: float = COMMAND_SECONDS,
        config: str = "",
    ) -> Finished:
        argv = self._argv(*options, config=config) + ([command] if command else [])
        try:
            done = subprocess.run(argv, input=stdin, capture_output=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            if not self.alive():
                raise self._error(self._last_words() or "the connection ended") from None
            raise SSHError(unanswered(self.target, timeout)) from None
        except BrokenPipeError:
            raise self._error("the connection ended") from None
        except OSError as error:
            raise of_here(error, "go on with", self.target) from None
        if done.returncode == 255 and command and not self.alive():
            raise self._error(done.stderr.decode(errors="replace"))
        return Finished(done.returncode, done.stdout, done.stderr)

    # -- forwards --------------------------------------------------------------------------

    def forward(self, forwards: Sequence[Forward]) -> None:
        """Listen here, and lead what connects to places seen from the host."""
        for entry in forwards:
            if not entry.here.isdigit() and os.path.exists(entry.here):
                os.unlink(entry.here)  # a master that is not ours may not do that itself
        words = [word for entry in forwards for word in ("-L", entry.spelled())]
        self._add(words, "forward")

    def reverse(self, forwards: Sequence[Forward]) -> list[int]:
        """Listen there, and lead what connects to places seen from here."""
        ports = []
        for entry in forwards:  # one by one: each answer is one port
            done = self._add(["-R", entry.spelled()], "open a way back from")
            said = done.stdout.decode(errors="replace").strip()
            ports.append(int(said) if said.isdigit() else 0)
        return ports

    def _add(self, words: list[str], what: str) -> Finished:
        # Without a configuration: ssh would ask for the forwards that are named there, too.
        done = self._ssh("-O", "forward", *words, config=os.devnull)
        if done.code != 0:
            said = done.stderr.decode(errors="replace") + self._new_words()
            raise self._error(said or "forwarding request failed", what)
        if self._link is not None:
            self._forwards += words
            self._guard_forwards()
        return done

    def _guard_forwards(self) -> None:
        """Have the forwards taken back if we end without doing so."""
        # The same: it would take back those that are the user's.
        cancel = self._argv("-O", "cancel", *self._forwards, config=os.devnull)
        old = self._cancel
        try:
            self._cancel = subprocess.Popen(
                ["sh", "-c", _CANCEL, "sh", self._home or self._folder, *cancel],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise of_here(error, "go on with", self.target) from None
        if old is not None:
            _kill(old)

    # -- its life --------------------------------------------------------------------------

    def alive(self) -> bool:
        """Tell whether the connection is up, as far as is known."""
        if self._closed:
            return False
        if self._link is not None:
            try:
                while self._link.recv(4096):
                    pass
                return False
            except BlockingIOError:
                return True
            except OSError:
                return False
        return self._guard is not None and self._guard.poll() is None

    def watched(self) -> int:
        """Return a descriptor that becomes readable when the connection ends."""
        return self._link.fileno() if self._link is not None else self._watch

    def problem(self) -> str:
        """Return why it ended, or why the last forward could not be connected; or ''."""
        if not self.alive():
            return cause(self._last_words(), self.target) or "the connection ended"
        return refused_beyond(self._said(self._forgotten))

    def fine(self) -> None:
        """Forget what :meth:`problem` would tell of forwards: they work again."""
        try:
            self._forgotten = os.stat(self._words).st_size
        except OSError:  # a connection that is not ours: its words go elsewhere
            pass

    def close(self) -> None:
        """End it, with all forwards."""
        if self._closed:
            return
        self._closed = True
        for child in (self._guard, self._cancel):
            if child is None or child.stdin is None:
                continue
            try:
                child.stdin.write(b"closed\n")
                child.stdin.close()
            except BrokenPipeError:
                pass
            try:
                child.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                _kill(child)
        if self._watch >= 0:
            os.close(self._watch)
            self._watch = -1
        if self._link is not None:
            self._link.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _said(self, start: int = 0) -> str:
        """Return what the master has printed from there on, the end of it."""
        try:
            with open(self._words, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(start, size - _WORDS))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def _last_words(self) -> str:
        """Return what the master said of the connection since it was up."""
        return of_connection(self._said(self._begun))

    def _new_words(self) -> str:
        """Return what the master has printed since this was asked last."""
        new = self._said(self._read)
        self._read += len(new.encode())
        return new

    def _error(self, words: str, what: str = "connect to") -> SSHError:
        text = cause(words, self.target) or "ssh ended without a word"
        return SSHError(f"cannot {what} {self.target.shown} by ssh: {text}", kind(words))


class OpenSSHProcess:
    """A command that runs through the master; see :class:`ipclusterz.net.ssh.Process`."""

    def __init__(self, argv: list[str]) -> None:
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        streams = self._process.stdin, self._process.stdout, self._process.stderr
        assert all(stream is not None for stream in streams)
        self.stdin, self.stdout, self.stderr = (s.fileno() for s in streams if s is not None)

    @property
    def pid(self) -> int:
        """The process id of ssh on this host."""
        return self._process.pid

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs; 255 when the connection ended."""
        return self._process.poll()

    def close_stdin(self) -> None:
        """Let it read the end of its input."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()

    def close(self) -> None:
        """Close all pipes and let go; what runs there is told by the end of its input."""
        self.close_stdin()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            _kill(self._process)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


@cache
def _is_newer() -> bool:
    """Tell whether ssh knows the options of OpenSSH 8.7; an older one refuses them."""
    try:
        done = subprocess.run(["ssh", "-V"], capture_output=True, stdin=subprocess.DEVNULL)
    except OSError:
        return False
    said = (done.stderr + done.stdout).decode(errors="replace")
    version = re.search(r"OpenSSH\D*(\d+)\.(\d+)", said)
    return version is not None and (int(version[1]), int(version[2])) >= (8, 7)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started: it leads a session of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        pass
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
