"""Finding the controller: which connector file is meant, and whether it can be reached.

Reads files and asks the local host; opens no connection but a probe of a loopback port.
Every error says what was looked for, where, and what to do next.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import socket
from collections.abc import Mapping
from typing import Any

from ipclusterz import files, paths
from ipclusterz.core import connector as connectors
from ipclusterz.core.config import CHANNEL_NAMES
from ipclusterz.core.connector import Connector
from ipclusterz.core.ssh import Destination, destination, ssh_command
from ipclusterz.error import ConnectorError
from ipclusterz.net.host import loopback_id

_FILE = re.compile(r"ipcontroller-(?:(?P<id>.+)-)?client\.json\Z")
_PORT = re.compile(r"tcp://(?P<host>.+):(?P<port>\d+)\Z")


class NoClusterFound(ConnectorError, FileNotFoundError):
    """There is no connector file where it was looked for; also a FileNotFoundError."""

    __str__ = Exception.__str__


def locate(
    connection_info: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    profile: str | None = None,
    profile_dir: str | None = None,
    ipython_dir: str | None = None,
    cluster_id: str | None = None,
) -> tuple[Connector, str]:
    """Return a client's connector and where it came from.

    ``connection_info`` is a connector file's path, the folder it lies in, or its content as
    a dict.  Without it the profile's security folder is looked at.  Raises ConnectorError.
    """
    if isinstance(connection_info, Mapping):
        origin = "connection_info"
        found = connectors.parse(json.dumps(dict(connection_info)), origin)
    elif connection_info is not None:
        origin = _named_file(os.fspath(connection_info), cluster_id)
        found = _read(origin, lambda: _no_file(origin))
    else:
        folder = (
            paths.ProfileDir(profile_dir)
            if profile_dir
            else paths.profile_dir(profile or "default", ipython_dir)
        )
        origin = folder.connector("client", cluster_id or "")
        own = cluster_id or ""
        found = _read(origin, lambda: _no_cluster(folder, own, origin, ipython_dir))
    if found.role != "client":
        raise ConnectorError(
            f"{origin} lets engines in, not clients: use the file beside it whose name ends in"
            " client.json"
        )
    return found, origin


def check_reachable(connector: Connector, origin: str, sshserver: str | None = None) -> None:
    """Raise ConnectorError where no connection can succeed, with what to do.

    That is: the controller's process is gone, or it listens on the loopback of another host
    and no tunnel to it was made.
    """
    hostid = loopback_id()
    if connectors.loopback_elsewhere(connector, hostid):
        if not _answers(connector.url):
            raise ConnectorError(_elsewhere(connector, origin, sshserver))
    elif connector.hostid == hostid and hostid and _gone(connector):
        if connector.reuse and _answers(connector.url):
            return  # a copy that -r keeps good: the controller was started again since
        raise ConnectorError(
            f"{origin} is stale: the controller that wrote it (process {connector.pid}) has"
            " ended. Start a cluster (ipclusterz start -n 4); if it runs elsewhere, copy its"
            " connector file again"
        )


def existing(ipython_dir: str | None = None) -> list[tuple[str, str, str]]:
    """Return (profile, cluster id, path) of every client connector file there is."""
    base = os.path.abspath(os.path.expanduser(ipython_dir)) if ipython_dir else ""
    pattern = os.path.join(
        glob.escape(base or paths.ipython_dir()), "cluster*_*", "security", "*client.json"
    )
    found = []
    for path in sorted(glob.glob(pattern)):
        match = _FILE.match(os.path.basename(path))
        if match:
            profile = paths.ProfileDir(os.path.dirname(os.path.dirname(path))).name
            found.append((profile, match["id"] or "", path))
    return found


def _named_file(text: str, cluster_id: str | None) -> str:
    if "://" in text:
        raise ConnectorError(
            f"{text} is an address, and an address alone proves nothing: pass the path of the"
            " controller's ipcontroller-client.json"
        )
    path = os.path.abspath(os.path.expanduser(text))
    if os.path.isdir(path):
        name = f"ipcontroller-{cluster_id}-client.json" if cluster_id else ""
        return os.path.join(path, name or "ipcontroller-client.json")
    return path


def _read(path: str, absent: Any) -> Connector:
    try:
        data = files.read_private(path)
    except FileNotFoundError:
        raise absent() from None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConnectorError(f"the connector file {path} is no text: copy it again") from None
    return connectors.parse(text, path)


def _no_file(path: str) -> NoClusterFound:
    return NoClusterFound(
        f"there is no connector file {path}: copy ipcontroller-client.json there from the"
        " controller's security folder, or correct the path"
    )


def _no_cluster(
    folder: paths.ProfileDir, cluster_id: str, path: str, ipython_dir: str | None
) -> NoClusterFound:
    which = f" {cluster_id!r}" if cluster_id else ""
    start = "ipclusterz start -n 4"
    base = os.path.expanduser(ipython_dir) if ipython_dir else paths.ipython_dir()
    if os.path.dirname(folder.path) != os.path.abspath(base):
        start += f" --profile-dir={files.quote(folder.path)}"
    elif folder.name != "default":
        start += f" --profile={folder.name}"
    if cluster_id:
        start += f" --cluster-id={cluster_id}"
    lines = [
        f"no cluster{which} of profile {folder.name!r} is running: looked for {path}.",
        f"Start one with: {start}",
    ]
    others = [entry for entry in existing(ipython_dir) if entry[2] != path]
    if others:
        lines.append("Connector files of other clusters (which may run):")
        lines += [f"  {_how(profile, name)}  {where}" for profile, name, where in others[:12]]
        if len(others) > 12:
            lines.append(f"  ... and {len(others) - 12} more")
    else:
        lines.append("No connector file of any other cluster was found either.")
    return NoClusterFound("\n".join(lines))


def _how(profile: str, cluster_id: str) -> str:
    given = []
    if profile != "default":
        given.append(f"profile={profile!r}")
    if cluster_id:
        given.append(f"cluster_id={cluster_id!r}")
    return f"Client({', '.join(given)})"


def _elsewhere(connector: Connector, origin: str, sshserver: str | None) -> str:
    host = connector.ssh or connector.location or "CONTROLLER-HOST"
    where = connector.location or "another host"
    lines = [
        f"the controller of {origin} listens on the loopback of {where} only, and nothing"
        f" answers at {connector.url} on this host ({socket.gethostname()}).",
    ]
    if sshserver is None:
        lines.append(f"Such a controller is reached through SSH: Client(sshserver={host!r}).")
    else:
        lines.append("No tunnel was made, since sshserver is ''.")
    if ports := tcp_ports(connector):
        place = destination(host) if connectors.valid_ssh(host) else Destination(host)
        lines.append(f"Or make the tunnels by hand: {ssh_command(place, ports)}")
    lines.append(
        "Or start the controller with --client-ip and an address of its host that this one can"
        " reach (--ip alone lets engines in, not clients)."
    )
    return "\n".join(lines)


def tcp_ports(connector: Connector) -> list[int]:
    """Return the TCP ports of the seven channels, in their order."""
    ports: list[int] = []
    for name in CHANNEL_NAMES:
        for address in connectors.candidates(connector, name):
            match = _PORT.match(address)
            if match and int(match["port"]) not in ports:
                ports.append(int(match["port"]))
                break
    return ports


def _answers(url: str) -> bool:
    """Tell whether something accepts connections there (a tunnel made by hand)."""
    from ipclusterz.net.host import answers  # only where it is in doubt

    return answers(url)


def _gone(connector: Connector) -> bool:
    """Tell whether the controller's process, on this very host, has ended."""
    # In a container the boot id is the host's but process numbers are its own; the host
    # name tells them apart.
    if connector.pid <= 0 or connector.location not in ("", socket.gethostname()):
        return False
    try:
        os.kill(connector.pid, 0)
    except OSError as error:
        return error.errno == errno.ESRCH
    return False
