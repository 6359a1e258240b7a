"""An SSH connection by paramiko: where there is no ``ssh`` program, or on request.

Reads the user's configuration (HostName, User, Port, IdentityFile, ProxyJump), known hosts
and agent as OpenSSH does; hosts on the way are chained.  Forwards are listeners of our own,
a thread for each connection: paramiko has none.  Listening on UNIX sockets at the other end
is beyond it, so ways back come out on the host's loopback.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import paramiko

from ipclusterz.core.ssh import (
    FORBIDDEN,
    Destination,
    Forward,
    cause,
    destination,
    kind,
    unanswered,
)
from ipclusterz.error import SSHError
from ipclusterz.net.ssh import (
    ALIVE_COUNT,
    ALIVE_SECONDS,
    COMMAND_SECONDS,
    Ask,
    Finished,
    Options,
    of_here,
)

_PIECE = 256 * 1024
_LOOK_SECONDS = 0.5
_WINDOW = 16 * 1024 * 1024
"""Bytes under way in one channel; paramiko's own 2 MB is less than a fast, long line holds."""

# What it has to say of a connection comes back as errors; unasked it prints to the terminal.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")


class ParamikoConnection:
    """See :class:`ipclusterz.net.ssh.Connection`."""

    kind = "paramiko"
    local_sockets = hasattr(socket, "AF_UNIX")
    remote_sockets = False

    def __init__(self, target: Destination, options: Options) -> None:
        self.target = target
        self._options = options
        self._config = _configuration(options.config)
        self._clients: list[paramiko.SSHClient] = []
        self._listeners: list[socket.socket] = []
        self._reversed: dict[int, Forward] = {}
        self._far = ""
        self._closed = False
        self._asking = threading.Lock()  # one question to the server at a time
        self._ended = threading.Event()
        self._heard = time.monotonic()
        self._watch, self._told = socket.socketpair()
        try:
            self._transport = self._connect()
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._keep, name="ssh watch", daemon=True).start()

    # -- going up --------------------------------------------------------------------------

    def _connect(self) -> paramiko.Transport:
        hops = [*self._way(self.target, 0), self.target]
        channel: Any = None
        for index, hop in enumerate(hops):
            client = self._login(hop, channel)
            transport = client.get_transport()
            assert transport is not None
            if index + 1 < len(hops):
                following = self._facts(hops[index + 1])
                where = (following["hostname"], int(following["port"]))
                try:
                    channel = transport.open_channel(
                        "direct-tcpip", where, ("127.0.0.1", 0), timeout=self._options.timeout
                    )
                except (paramiko.SSHException, OSError, EOFError) as error:
                    raise self._error(hops[index + 1], _words(error)) from None
        return transport

    def _way(self, target: Destination, depth: int) -> list[Destination]:
        """Return the hosts on the way: those said, or those of the configuration."""
        if target.jump:
            return list(target.jump)
        said = str(self._facts(target).get("proxyjump", "none"))
        if said.lower() == "none" or depth > 8:
            return []
        try:
            last = destination(said)
        except ValueError:
            raise self._error(target, f"its ProxyJump {said!r} is not understood") from None
        first = Destination(last.host, last.user, last.port)
        return [*(last.jump or self._way(first, depth + 1)), first]

    def _facts(self, target: Destination) -> dict[str, Any]:
        """Return what the configuration says of a host, with what was said by name first."""
        found: dict[str, Any] = dict(self._config.lookup(target.host))
        found.setdefault("hostname", target.host)
        if target.user:
            found["user"] = target.user
        found["port"] = target.port or int(found.get("port", 22))
        found.setdefault("user", getpass.getuser())
        return found

    def _login(self, target: Destination, channel: Any) -> paramiko.SSHClient:
        facts = self._facts(target)
        client = paramiko.SSHClient()
        self._clients.append(client)
        _known_hosts(client, facts)
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        keys = [os.path.expanduser(path) for path in facts.get("identityfile", [])]
        if self._options.key:
            keys = [self._options.key]
        only = str(facts.get("identitiesonly", "no")).lower() == "yes"
        try:
            sock = channel or self._reach(facts)
            transport = self._handshake(client, sock, target, facts)
            _authenticate(transport, facts["user"], keys, not only, self._options.ask)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._error(target, _words(error)) from None
        return client

    def _reach(self, facts: dict[str, Any]) -> socket.socket:
        where = (str(facts["hostname"]), int(facts["port"]))
        try:
            sock = socket.create_connection(where, self._options.timeout)
        except socket.gaierror:
            raise OSError(f"Could not resolve hostname {where[0]}: ") from None
        # A server that is gone without a word is noticed by the system.
        with contextlib.suppress(OSError, AttributeError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, ALIVE_SECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, ALIVE_SECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, ALIVE_COUNT)
            limit = ALIVE_SECONDS * (ALIVE_COUNT + 1) * 1000
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit)
        return sock

    def _handshake(
        self,
        client: paramiko.SSHClient,
        sock: Any,
        target: Destination,
        facts: dict[str, Any],
    ) -> paramiko.Transport:
        """Agree on keys, and compare the host's with the known ones before anything is told."""
        transport = paramiko.Transport(sock, default_window_size=_WINDOW)
        client._transport = transport  # closed with its client
        transport.banner_timeout = transport.handshake_timeout = self._options.timeout
        name, port = str(facts.get("hostkeyalias", facts["hostname"])), int(facts["port"])
        name = name if port == 22 else f"[{name}]:{port}"
        # Asking for a kind of key that is known here: another kind would look unknown.
        known: Any = {}
        for keys in (client._system_host_keys, client.get_host_keys()):
            known.update(keys.lookup(name) or {})
        options = transport.get_security_options()
        kinds = [kind for kind in options.key_types if kind in known]
        if any(kind == "ssh-rsa" for kind in known):
            kinds += [
                k for k in options.key_types if k.startswith("rsa-sha2") and k not in kinds
            ]
        if kinds:
            options.key_types = kinds
        transport.start_client(timeout=self._options.timeout)
        key = transport.get_remote_server_key()
        if not known:
            raise paramiko.SSHException(f"{target.shown} not found in known_hosts")
        if key not in list(known.values()):
            raise paramiko.SSHException("Host key has changed")
        return transport

    # -- commands --------------------------------------------------------------------------

    def run(
        self, command: str, stdin: bytes = b"", timeout: float = COMMAND_SECONDS
    ) -> Finished:
        """Run a command by the login shell there and wait for its end."""
        channel = self._session(command)
        out: list[bytes] = []
        err: list[bytes] = []
        threads = [
            threading.Thread(target=_collect, args=(channel.recv, out), daemon=True),
            threading.Thread(target=_collect, args=(channel.recv_stderr, err), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            channel.settimeout(timeout)
            if stdin:
                channel.sendall(stdin)
            channel.shutdown_write()
            if not channel.status_event.wait(timeout):
                raise SSHError(unanswered(self.target, timeout))
            for thread in threads:
                thread.join(timeout)
        except OSError as error:
            raise self._error(self.target, _words(error)) from None
        finally:
            code = channel.recv_exit_status() if channel.status_event.is_set() else -1
            channel.close()
        if code == -1 and not self.alive():
            raise self._error(self.target, "the connection ended")
        return Finished(code, b"".join(out), b"".join(err))

    def spawn(self, command: str) -> ParamikoProcess:
        """Start a command by the login shell there."""
        channel = self._session(command)
        try:
            return ParamikoProcess(channel)
        except OSError as error:
            channel.close()
            raise of_here(error, "run a command on", self.target) from None

    def _session(self, command: str) -> paramiko.Channel:
        try:
            channel = self._transport.open_session(timeout=self._options.timeout)
            channel.exec_command(command)
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise self._error(self.target, _words(error)) from None
        return channel

    # -- forwards --------------------------------------------------------------------------

    def forward(self, forwards: Sequence[Forward]) -> None:
        """Listen here, and lead what connects to places seen from the host."""
        for entry in forwards:
            if entry.path:
                raise SSHError(
                    f"the way to {entry.path} on {self.target.shown} is a UNIX socket, which"
                    " paramiko cannot forward to: use OpenSSH, or start the controller with"
                    " --transport=tcp"
                )
            try:
                listener = _listen(entry.here)
            except OSError as error:
                raise of_here(error, "forward", self.target) from None
            self._listeners.append(listener)
            threading.Thread(
                target=self._accept, args=(listener, entry), name="ssh forward", daemon=True
            ).start()

    def _accept(self, listener: socket.socket, entry: Forward) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                if self._ended.wait(_LOOK_SECONDS):
                    return
                continue  # there are descriptors again in a moment
            threading.Thread(
                target=self._lead, args=(near, entry), name="ssh channel", daemon=True
            ).start()

    def _lead(self, near: socket.socket, entry: Forward) -> None:
        try:
            far = self._transport.open_channel(
                "direct-tcpip",
                (entry.host, entry.port),
                ("127.0.0.1", 0),
                timeout=self._options.timeout,
            )
        except (paramiko.SSHException, OSError, EOFError) as error:
            words = _words(error)
            self._far = FORBIDDEN if "prohibited" in words else words
            near.close()
            return
        self._far = ""
        _join(near, far)

    def reverse(self, forwards: Sequence[Forward]) -> list[int]:
        """Listen there on the loopback, and lead what connects to places seen from here."""
        ports = []
        for entry in forwards:
            if not entry.here.isdigit():
                raise SSHError("paramiko cannot listen on UNIX sockets of another host")
            try:
                with self._asking:
                    port = self._transport.request_port_forward(
                        "127.0.0.1", int(entry.here), self._arrive
                    )
            except (paramiko.SSHException, OSError, EOFError) as error:
                words = f"Port forwarding failed: {_words(error)}"
                text = cause(words, self.target)
                raise SSHError(
                    f"cannot open a way back from {self.target.shown} by ssh: {text}"
                ) from None
            self._reversed[port] = entry
            ports.append(port)
        return ports

    def _arrive(self, channel: paramiko.Channel, origin: Any, server: tuple[str, int]) -> None:
        threading.Thread(
            target=self._bring, args=(channel, server[1]), name="ssh channel", daemon=True
        ).start()

    def _bring(self, channel: paramiko.Channel, port: int) -> None:
        entry = self._reversed.get(port)
        if entry is None:
            channel.close()
            return
        try:
            if entry.path:
                near = socket.socket(socket.AF_UNIX)
                near.connect(entry.path)
            else:
                near = socket.create_connection((entry.host, entry.port), 10.0)
        except OSError:
            channel.close()
            return
        _join(near, channel)

    # -- its life --------------------------------------------------------------------------

    def _keep(self) -> None:
        """Notice the end, also of a server that does not answer any more."""
        transport = self._transport
        threading.Thread(target=self._ping, name="ssh ping", daemon=True).start()
        while transport.is_active() and not self._closed:
            transport.join(_LOOK_SECONDS)
            if time.monotonic() - self._heard > ALIVE_SECONDS * (ALIVE_COUNT + 1):
                self._far = "the server does not answer any more"
                transport.close()
        with contextlib.suppress(OSError):
            self._told.close()

    def _ping(self) -> None:
        """Ask the server for a sign of life; its refusal to know the question is one."""
        while self.alive():
            with self._asking, contextlib.suppress(OSError, EOFError, paramiko.SSHException):
                self._transport.global_request("keepalive@openssh.com", wait=True)
            self._heard = time.monotonic()
            self._ended.wait(ALIVE_SECONDS)

    def alive(self) -> bool:
        """Tell whether the connection is up, as far as is known."""
        return not self._closed and self._transport.is_active()

    def watched(self) -> int:
        """Return a descriptor that becomes readable when the connection ends."""
        return self._watch.fileno()

    def problem(self) -> str:
        """Return why it ended, or why the last forward could not be connected; or ''."""
        if self.alive():
            return self._far
        return self._far or "the connection ended"

    def fine(self) -> None:
        """Forget what :meth:`problem` would tell of forwards: they work again."""
        if self.alive():
            self._far = ""

    def close(self) -> None:
        """End it, with all forwards."""
        if self._closed:
            return
        self._closed = True
        self._ended.set()
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for client in reversed(self._clients):
            client.close()
        self._told.close()
        self._watch.close()

    def _error(self, target: Destination, words: str) -> SSHError:
        # In a chain the host at fault is told, and where we were going.
        where = target.shown
        if target is not self.target:
            where = f"{self.target.shown} through {where}"
        text = cause(words, target) or words
        return SSHError(f"cannot connect to {where} by ssh (paramiko): {text}", kind(words))


class ParamikoProcess:
    """A command with pipes that threads fill; see :class:`ipclusterz.net.ssh.Process`."""

    pid = 0

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        there, self.stdin = os.pipe()
        self.stdout, out = os.pipe()
        self.stderr, err = os.pipe()
        self._open = True
        self._threads = [
            threading.Thread(target=work, args=args, name="ssh process", daemon=True)
            for work, args in (
                (_send_all, (there, channel)),
                (_pour, (channel.recv, out)),
                (_pour, (channel.recv_stderr, err)),
            )
        ]
        for thread in self._threads:
            thread.start()

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs; 255 when the connection ended."""
        if self._channel.exit_status_ready():
            code = self._channel.recv_exit_status()
            return 255 if code == -1 else code
        return None

    def close_stdin(self) -> None:
        """Let it read the end of its input."""
        if self._open:
            self._open = False
            os.close(self.stdin)

    def close(self) -> None:
        """Close all pipes and let go; what runs there is told by the end of its input."""
        self.close_stdin()
        self._channel.close()
        for thread in self._threads:
            thread.join(2.0)
        os.close(self.stdout)
        os.close(self.stderr)


def _configuration(path: str) -> paramiko.SSHConfig:
    config = paramiko.SSHConfig()
    for name in [path] if path else ["~/.ssh/config", "/etc/ssh/ssh_config"]:
        try:
            with open(os.path.expanduser(name), encoding="utf-8", errors="replace") as file:
                config.parse(file)
        except OSError:
            continue
        except paramiko.SSHException as error:
            raise SSHError(f"the ssh configuration {name} is not understood: {error}") from None
    return config


def _known_hosts(client: paramiko.SSHClient, facts: dict[str, Any]) -> None:
    known = client._system_host_keys
    said = str(facts.get("userknownhostsfile", "")).split()
    for path in [*(said or ["~/.ssh/known_hosts"]), "/etc/ssh/ssh_known_hosts"]:
        try:
            with open(os.path.expanduser(path), encoding="utf-8", errors="replace") as file:
                lines = [line.strip() for line in file]
        except OSError:
            continue
        for line in lines:  # one by one: paramiko gives up a file where ssh passes over a line
            with contextlib.suppress(paramiko.hostkeys.InvalidHostKey, paramiko.SSHException):
                entry = paramiko.hostkeys.HostKeyEntry.from_line(line)
                if entry is not None and not line.startswith("#"):
                    known._entries.append(entry)


def _authenticate(
    transport: paramiko.Transport, user: str, keys: list[str], others: bool, ask: Ask | None
) -> None:
    """Log in: by keys, the agent, then what the server asks; raise SSHException if by none."""
    tries: list[Callable[[], Any]] = []
    for path in keys or [os.path.expanduser(f"~/.ssh/{name}") for name in _KEYS]:
        if os.path.isfile(path):
            tries.append(partial(_by_file, transport, user, path, ask))
    if others:
        for key in paramiko.Agent().get_keys():
            tries.append(partial(transport.auth_publickey, user, key))
    for number, attempt in enumerate(tries):
        if number and not transport.is_active():
            raise paramiko.SSHException("Too many authentication failures")
        try:
            rest = attempt()
        except paramiko.BadAuthenticationType:
            break
        except paramiko.AuthenticationException:
            continue
        if transport.is_authenticated():
            return
        if "keyboard-interactive" in rest or "password" in rest:
            break  # accepted, and something more is wanted
    if ask is not None:
        _answer(transport, user, ask)
    if not transport.is_authenticated():
        raise paramiko.AuthenticationException("Permission denied")


def _by_file(transport: paramiko.Transport, user: str, path: str, ask: Ask | None) -> list[str]:
    return list(transport.auth_publickey(user, _key(path, ask)))


def _answer(transport: paramiko.Transport, user: str, ask: Ask) -> None:
    """Answer what the server asks, each question once."""
    asked = False

    def questions(title: str, text: str, prompts: list[tuple[str, bool]]) -> list[str]:
        nonlocal asked
        asked = asked or bool(prompts)
        found = [ask(prompt.strip()) for prompt, _ in prompts]
        if any(answer is None for answer in found):
            raise paramiko.AuthenticationException("Permission denied")
        return [answer or "" for answer in found]

    try:
        transport.auth_interactive(user, questions)
        return
    except paramiko.BadAuthenticationType as error:
        if "password" not in error.allowed_types:
            return
    except paramiko.AuthenticationException:
        if asked:
            return
    secret = ask(f"{user}'s password: ")
    if secret is not None:
        with contextlib.suppress(paramiko.AuthenticationException):
            transport.auth_password(user, secret, fallback=False)


def _key(path: str, ask: Ask | None) -> paramiko.PKey:
    try:
        return paramiko.PKey.from_path(path)
    except (paramiko.PasswordRequiredException, TypeError, ValueError):
        secret = ask(f"Enter passphrase for key '{path}': ") if ask is not None else None
        if secret is None:
            raise paramiko.AuthenticationException("passphrase") from None
        try:
            return paramiko.PKey.from_path(path, passphrase=secret.encode())
        except (ValueError, TypeError, paramiko.SSHException):
            raise paramiko.AuthenticationException("passphrase") from None
    except (OSError, paramiko.SSHException, paramiko.pkey.UnknownKeyType):
        raise paramiko.AuthenticationException("unreadable key") from None


def _words(error: BaseException) -> str:
    """Return an error of paramiko or the system in words that OpenSSH would use."""
    if isinstance(error, TimeoutError | socket.timeout):
        return "Connection timed out"
    if isinstance(error, ConnectionRefusedError):
        return "Connection refused"
    if isinstance(error, paramiko.ChannelException):
        known = {1: "administratively prohibited", 2: "Connection refused"}
        return known.get(error.code, str(error.text))
    if isinstance(error, paramiko.AuthenticationException):
        return "Permission denied"
    if isinstance(error, EOFError):
        return "Connection closed by the server"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _listen(here: str) -> socket.socket:
    if here.isdigit():
        return socket.create_server(("127.0.0.1", int(here)))
    if os.path.exists(here):
        os.unlink(here)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(here)
    os.chmod(here, 0o600)
    listener.listen(100)
    return listener


def _join(near: socket.socket, far: paramiko.Channel) -> None:
    """Carry bytes both ways until both sides have ended."""
    back = threading.Thread(
        target=_carry, args=(far.recv, near.sendall, near), name="ssh back", daemon=True
    )
    back.start()
    _carry(near.recv, far.sendall, far)
    back.join()
    near.close()
    far.close()


def _carry(receive: Callable[[int], bytes], send: Callable[[bytes], None], to: Any) -> None:
    try:
        while data := receive(_PIECE):
            send(data)
    except (OSError, EOFError, paramiko.SSHException):
        pass
    try:
        to.shutdown(socket.SHUT_WR)
    except (OSError, EOFError):
        pass


def _collect(receive: Callable[[int], bytes], found: list[bytes]) -> None:
    with contextlib.suppress(OSError, EOFError):
        while data := receive(_PIECE):
            found.append(data)


def _pour(receive: Callable[[int], bytes], fd: int) -> None:
    with contextlib.suppress(OSError, EOFError):
        while data := receive(_PIECE):
            while data:
                data = data[os.write(fd, data) :]
    os.close(fd)


def _send_all(fd: int, channel: paramiko.Channel) -> None:
    with contextlib.suppress(OSError, EOFError):
        while data := os.read(fd, _PIECE):
            channel.sendall(data)
        channel.shutdown_write()
    os.close(fd)
