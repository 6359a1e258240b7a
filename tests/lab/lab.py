"""The whole lab: brought up, wired, disturbed, taken down."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from tests.lab import build
from tests.lab.host import Host
from tests.lab.space import LabError, Space


class Cut:
    """A cut that was made; as a context manager it heals at the end of the block."""

    def __init__(self, lab: Lab, a: str, b: str) -> None:
        self._lab, self._a, self._b = lab, a, b

    def heal(self) -> None:
        """Let packets through again, both ways."""
        self._lab.heal(self._a, self._b)

    def __enter__(self) -> Cut:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.heal()


class Lab:
    """Five hosts: ``laptop``, ``login`` and ``nodes`` (``node1`` to ``node3``).

    Making one brings it up; ``close`` it or use it as a context manager.  LabError when it
    cannot come up.
    """

    def __init__(self) -> None:
        if reason := build.lacking():
            raise LabError(reason)
        self.plan = build.Plan()
        self._spaces: list[Space] = []
        self._cuts: set[tuple[str, str]] = set()
        self._opened: set[tuple[str, str, str]] = set()
        self._slowed: set[str] = set()
        try:
            self._bring_up()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    # -- up and down --------------------------------------------------------------------

    def _bring_up(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="lab-"))  # owner-only: keys are in there
        try:
            spaces = {}
            for name in build.PLACES:
                build.stage(folder / name, name, self.plan)
                script = folder / f"{name}.sh"
                script.write_text(build.mount_script(folder / name, name))
                spaces[name] = self._space(name, script)
            self._switch = self._space("switch", Path("/dev/null"))
            for space in self._spaces:
                space.wait_ready()
        finally:
            shutil.rmtree(folder)
        self.hosts = {name: Host(name, space, self.plan) for name, space in spaces.items()}
        self.laptop, self.login = self.hosts["laptop"], self.hosts["login"]
        self.nodes = [self.hosts[name] for name in build.NODES]
        self._wire()
        for host in self.hosts.values():
            if host is not self.laptop:
                host.sshd.start()

    def _space(self, name: str, script: Path) -> Space:
        space = Space(name, script)
        self._spaces.append(space)
        return space

    def _wire(self) -> None:
        """A bridge for each network, a cable from each host to its bridges."""
        batch = [f"link add {net} type bridge\nlink set {net} up" for net in build.NETWORKS]
        for name, host in self.hosts.items():
            for number, net in enumerate(host.addresses):
                port = f"{name}-{net}"
                peer = f"peer name eth{number} netns {host.space.pid}"
                batch.append(f"link add {port} type veth {peer}")
                batch.append(f"link set {port} master {net} up")
        self._switch.run_in_network(["ip", "-batch", "-"], "\n".join(batch) + "\n")
        for host in self.hosts.values():
            lines = []
            for number, address in enumerate(host.addresses.values()):
                lines.append(f"addr add {address}/24 dev eth{number}")
                lines.append(f"link set eth{number} up")
            if host is not self.login:
                net = next(iter(host.addresses))
                lines.append(f"route add default via {self.login.addresses[net]}")
            host.space.run(["ip", "-batch", "-"], "\n".join(lines) + "\n")

    def close(self) -> None:
        """End all hosts with everything on them; returns when nothing is left."""
        for space in self._spaces:
            space.end()
        self._spaces.clear()

    # -- disturbances -------------------------------------------------------------------

    def cut(self, a: str, b: str, *, both: bool = True) -> Cut:
        """Drop, without a word, all packets from ``a`` to ``b``, and from ``b`` to ``a`` too.

        Nobody is told: connections look alive until somebody waits long enough.  Use as
        ``with lab.cut(…):``, or call :meth:`heal`.
        """
        for source, target in ((a, b), (b, a)) if both else ((a, b),):
            if (source, target) not in self._cuts:
                self._set("add", target, "cut", self.address(source, seen_by=target))
                self._cuts.add((source, target))
        return Cut(self, a, b)

    def heal(self, a: str | None = None, b: str | None = None) -> None:
        """Undo :meth:`cut` between two hosts, or all cuts."""
        for source, target in sorted(self._cuts):
            if a is None or {source, target} == {a, b}:
                self._set("delete", target, "cut", self.address(source, seen_by=target))
                self._cuts.discard((source, target))

    def open(self, source: str, target: str, ports: int | str) -> None:
        """Let ``source`` connect to ``ports`` (``5000`` or ``"1024-65535"``) of ``target``."""
        element = f"{self.address(source, seen_by=target)} . {ports}"
        self._set("add", target, "open", element)
        self._opened.add((target, "open", element))

    def shut(self) -> None:
        """Undo every :meth:`open`; connections that exist stay."""
        for target, name, element in sorted(self._opened):
            self._set("delete", target, name, element)
        self._opened.clear()

    @contextmanager
    def slow(self, name: str, rate: str) -> Iterator[None]:
        """Let everything to and from a host pass at ``rate`` (``"1mbit"``) only."""
        shape = f"root tbf rate {rate} burst 32k latency 400ms".split()
        ports = [f"{name}-{net}" for net in self[name].addresses]
        devices = [f"eth{number}" for number in range(len(ports))]
        self._slowed.add(name)
        for device, port in zip(devices, ports, strict=True):
            self[name].space.run(["tc", "qdisc", "replace", "dev", device, *shape])
            self._switch.run(["tc", "qdisc", "replace", "dev", port, *shape])
        try:
            yield
        finally:
            self._slowed.discard(name)
            for device, port in zip(devices, ports, strict=True):
                self[name].space.run(["tc", "qdisc", "del", "dev", device, "root"])
                self._switch.run(["tc", "qdisc", "del", "dev", port, "root"])

    def reset(self) -> None:
        """Heal all cuts, close what was opened, servers as at first; processes stay."""
        self.heal()
        self.shut()
        for host in self.hosts.values():
            if host is not self.laptop:
                host.sshd.reset()

    def address(self, name: str, *, seen_by: str) -> str:
        """The address by which ``seen_by`` knows a host."""
        return build.address_seen(name, by=seen_by)

    def _set(self, action: str, host: str, name: str, element: str) -> None:
        command = ["nft", action, "element", "inet", "lab", name, f"{{ {element} }}"]
        self[host].space.run(command)
