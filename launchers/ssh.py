"""Starts engines on other hosts by SSH: one connection for each, and nothing listens anywhere.

A launch over several hosts is one job: their engines come and go one host at a time, and one
that cannot be reached does not keep the others from coming.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from typing import Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import replace

from ipclusterz.core import hosts as hostnames
from ipclusterz.core.hosts import Host
from ipclusterz.error import LaunchError
from ipclusterz.launchers import remote
from ipclusterz.launchers.base import Event, JobState, LaunchSpec
from ipclusterz.launchers.sshhost import LEASE_SECONDS, Launch, RemoteHost
from ipclusterz.launchers.sshsession import Waker
from ipclusterz.net.ssh import located

_KILL_SECONDS = 3.0


class SSHOptions(Struct):
    """The options of :class:`SSHLauncher`."""

    engines: Annotated[
        dict[str, Any],
        Meta(
            description="Hosts, and how many engines each: {'node1': 4, 'ada@node2:2222':"
            " {'n': 8, 'python': ..., 'setup': ..., 'cwd': ..., 'env': {...}}}.",
            extra={"flags": ()},
        ),
    ] = {}
    hosts: Annotated[
        str,
        Meta(description="Hosts and how many engines each, like node1:4,node[02-05]:8."),
    ] = ""
    hostfile: Annotated[
        str,
        Meta(description="A file with a host a line; in a PBS job its own, if none is said."),
    ] = ""
    clusterfile: Annotated[
        str, Meta(description="An old clusterfile, with engines = {'host': 4}.")
    ] = ""
    sshx: Annotated[str, Meta(description="A script that sets up the shell on each host.")] = ""
    setup: Annotated[
        list[str], Meta(description="A line for the shell before Python starts; repeatable.")
    ] = []
    python: Annotated[
        str,
        Meta(
            description="Python on the hosts. [this one's path, else python3]",
            extra={"flags": ()},
        ),
    ] = ""
    cwd: Annotated[
        str, Meta(description="The engines' folder on the hosts. [home]", extra={"flags": ()})
    ] = ""
    env: Annotated[
        dict[str, str],
        Meta(description="What engines have in their environment.", extra={"flags": ()}),
    ] = {}
    send: Annotated[
        list[str],
        Meta(description="A file to copy to each host first, FILE or FILE:THERE; repeatable."),
    ] = []
    fetch_logs: Annotated[
        bool, Meta(description="Bring the engines' logs here when they have ended.")
    ] = False
    ssh_key: Annotated[str, Meta(description="The private key to log in with.")] = ""
    ssh_config: Annotated[
        str, Meta(description="An ssh configuration file instead of yours.")
    ] = ""
    paramiko: Annotated[
        bool, Meta(description="Connect by paramiko, not by the ssh program.")
    ] = False
    max_parallel: Annotated[
        int, Meta(description="Hosts to begin at once.", extra={"flags": ()})
    ] = 16
    connect_timeout: Annotated[
        float, Meta(description="Seconds for one login.", extra={"flags": ()})
    ] = 10.0
    setup_timeout: Annotated[
        float, Meta(description="Seconds for set-up on a host.", extra={"flags": ()})
    ] = 60.0


class SSHLauncher:
    """Starts engines on hosts by SSH."""

    Options = SSHOptions

    def __init__(self, options: SSHOptions) -> None:
        self._options = options
        if options.max_parallel < 1:
            raise LaunchError(f"max_parallel is {options.max_parallel}: at least 1")
        self.notes: tuple[str, ...] = ()
        self._sshx = _read(options.sshx, "sshx") if options.sshx else ""
        self.hosts = [self._completed(host) for host in self._named()]

    def default_n(self) -> int:
        """Return how many engines come when nobody says a number: all hosts have together."""
        return hostnames.total(self.hosts)

    def check(self, spec: LaunchSpec) -> None:
        """Raise LaunchError for what can be seen to be wrong without any host."""
        for host in self._placed(spec):
            remote.agent_config(spec.stdin, host, "")

    def start(self, spec: LaunchSpec) -> SSHJob:
        """Begin on all hosts; returns at once, what goes wrong is told by events."""
        self.check(spec)
        options = self._options
        job = SSHJob(spec.name)
        launch = Launch(
            spec,
            job.hear,
            threading.Semaphore(options.max_parallel),
            key=located(options.ssh_key),  # whoever stops it may be elsewhere
            config=located(options.ssh_config or os.environ.get("IPCLUSTERZ_SSH_CONFIG", "")),
            paramiko=True if options.paramiko else None,
            timeout=options.connect_timeout,
            setup_timeout=options.setup_timeout,
            sshx=self._sshx,
            send=options.send,
            logs_to=spec.log_dir if options.fetch_logs else "",
            lease=spec.lease or LEASE_SECONDS,
        )
        job.begin([RemoteHost(host, launch) for host in self._placed(spec)])
        for note in self.notes:
            job.hear({"event": "warning", "text": note})
        return job

    def _placed(self, spec: LaunchSpec) -> list[Host]:
        """Return hosts with the engines of a launch, and what it says for all of them."""
        python, cwd = remote.interpreter(spec.stdin), remote.folder_wanted(spec.stdin)
        return [
            replace(host, python=host.python or python, cwd=host.cwd or cwd)
            for host in hostnames.placed(self.hosts, spec.n)
        ]

    def _named(self) -> list[Host]:
        """Return the hosts that were named, in whichever way; just one of them."""
        options = self._options
        said = [
            name
            for name in ("hosts", "hostfile", "clusterfile", "engines")
            if getattr(options, name)
        ]
        # What was typed wins over what a profile's config file says.
        name = said[0] if said else ""
        if name == "hosts":
            return hostnames.from_line(options.hosts, "--hosts")
        if name == "hostfile":
            return hostnames.from_hostfile(_read(options.hostfile, name), options.hostfile)
        if name == "clusterfile":
            text = _read(options.clusterfile, name)
            found = hostnames.from_clusterfile(text, options.clusterfile)
            self.notes = found.notes
            return list(found.hosts)
        if name == "engines":
            return hostnames.from_dict(options.engines, "c.SSHLauncher.engines")
        if path := os.environ.get("PBS_NODEFILE", ""):
            return hostnames.from_hostfile(_read(path, "$PBS_NODEFILE"), path)
        raise LaunchError(
            "no hosts to start engines on: say --hosts node1:4,node2:8, --hostfile=FILE, or"
            " c.SSHLauncher.engines = {'node1': 4} in ipclusterz_config.py"
        )

    def _completed(self, host: Host) -> Host:
        """Return a host with what was said for all of them, where it says nothing itself."""
        options, host = self._options, remote.with_args(host)
        return replace(
            host,
            python=host.python or options.python,
            setup="\n".join(filter(None, (*options.setup, host.setup))),
            cwd=host.cwd or options.cwd,
            env={**options.env, **host.env},
        )


class SSHJob:
    """Engines on several hosts, as one job; see :class:`ipclusterz.launchers.base.Job`."""

    pid = 0  # nothing of it is a process of this host that may be signalled

    def __init__(self, name: str) -> None:
        self.name = name
        self.hosts: list[RemoteHost] = []
        self._events: deque[Event] = deque()
        self._waker = Waker()

    def begin(self, hosts: list[RemoteHost]) -> None:
        """Take over its hosts, and let them begin."""
        self.hosts = hosts
        for host in hosts:
            host.start()

    def hear(self, event: Event) -> None:
        """Note an event, in whichever thread it comes."""
        self._events.append(event)
        self._waker.wake()

    def watched(self) -> tuple[int, ...]:
        """Return what is readable when there are events; nothing once it was stopped."""
        return () if self._waker.closed else (self._waker.fd,)

    def poll(self) -> JobState:
        """Return its state: it ends with its last host."""
        if any(host.code is None for host in self.hosts):
            return JobState()
        texts = [host.text for host in self.hosts if host.text]
        codes = [host.code for host in self.hosts if host.code]
        return JobState(codes[0] if codes and codes[0] else 0, "\n".join(texts))

    def events(self) -> list[Event]:
        """Return the events of all hosts since the last call."""
        self._waker.rest()
        found = []
        while self._events:
            found.append(self._events.popleft())
        return found

    def tell(self, text: str) -> None:
        """Give the connector's line to all hosts."""
        for host in self.hosts:
            host.tell(text)

    def signal(self, signum: int) -> None:
        """Send a signal to the agents of all hosts."""
        for host in self.hosts:
            host.signal(signum)

    def close(self) -> None:
        """Ask all agents to end."""
        for host in self.hosts:
            host.end()

    def wait(self, timeout: float) -> bool:
        """Wait for the end of all hosts."""
        deadline = time.monotonic() + timeout
        return all(host.join(max(deadline - time.monotonic(), 0)) for host in self.hosts)

    def stop(self, grace: float = 10.0) -> JobState:
        """End all agents: ask, kill, and have cleared what does not answer."""
        self.close()
        if not self.wait(grace):
            self.signal(signal.SIGKILL)
            if not self.wait(_KILL_SECONDS):
                for host in self.hosts:
                    host.abandon()
                self.wait(_KILL_SECONDS)
        self._waker.close()
        return self.poll()

    def __repr__(self) -> str:
        return f"<SSHJob {self.name} on {', '.join(host.name for host in self.hosts)}>"


def _read(path: str, option: str) -> str:
    path = os.path.expanduser(path)
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise LaunchError(f"cannot read {path} ({option}): {why}") from None
