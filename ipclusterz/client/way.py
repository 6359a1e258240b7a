"""The way to a controller that is not on this host: through SSH, where that is wanted.

Decides from a connector and what the user said; the tunnel itself is
:mod:`ipclusterz.net.tunnel`, imported only where there is to be one.  ``ssh://`` addresses
are read here as well: their connector file stays on the other host, and its text in memory.
"""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING, NamedTuple

from ipclusterz.client.locate import NoClusterFound, check_reachable
from ipclusterz.client.saying import say
from ipclusterz.core import connector as connectors
from ipclusterz.core.connector import Connector
from ipclusterz.core.ssh import Destination, destination, in_sh
from ipclusterz.error import ClusterError, ConnectorError, SSHError
from ipclusterz.net.host import loopback_id
from ipclusterz.paths import check_name, runtime_dir

if TYPE_CHECKING:
    from ipclusterz.net.tunnel import Settings, Tunnel

SCHEME = "ssh://"
_URL = re.compile(r"ssh://(?P<server>[^/]+)(?:/(?P<rest>.*))?\Z")


class Login(NamedTuple):
    """How a user wants to be let in to an SSH server."""

    sshkey: str | os.PathLike[str] | None = None
    password: str | None = None
    paramiko: bool | None = None
    timeout: float = 10.0


def open_way(
    connector: Connector, origin: str, sshserver: str | None = None, login: Login | None = None
) -> Tunnel | None:
    """Return a tunnel to the controller, or None when it can be reached without.

    ``sshserver`` None takes the connector's entry, unless the controller is on this host; ''
    ignores it.  Raises ConnectorError where there is no way, SSHError where the way fails.
    """
    if sshserver:
        _checked(sshserver, "sshserver")
    server = connector.ssh if sshserver is None else sshserver
    if sshserver is None and connector.hostid == loopback_id():
        server = ""
    if not server:
        check_reachable(connector, origin, sshserver)
        return None
    from ipclusterz.net.tunnel import Tunnel  # threads and processes, where there is one

    return Tunnel(_settings(server, login or Login()), connector, notice=say)


def fetch(
    url: str, cluster_id: str | None = None, login: Login | None = None
) -> tuple[Connector, Tunnel]:
    """Return the connector that ``ssh://[user@]host[:port]/PROFILE`` names, and its tunnel.

    The client file is read over the connection that then carries the channels; nothing is
    stored here.  Without a profile it is the default one; a path that ends in ``.json``
    names the file itself, from the home folder or with ``//`` from the root.
    """
    found = _URL.match(url)
    if found is None:
        raise ConnectorError(f"{url} is no address: write ssh://[user@]host[:port]/PROFILE")
    place = _checked(found["server"], url)
    path = _path(found["rest"] or "", cluster_id or "")
    from ipclusterz.net.tunnel import Tunnel

    settings = _settings(found["server"], login or Login())
    folder = runtime_dir()
    connection = None
    try:
        connection = settings.connect(folder)
        mark = os.urandom(8).hex()
        # What start-up files print comes before the mark.
        script = (
            f"echo; echo {mark}; if [ -e {path} ]; then cat -- {path}; else echo {path}; fi"
        )
        done = connection.run(in_sh(script))
        _, marked, text = done.stdout.decode(errors="replace").partition(f"\n{mark}\n")
        if not marked or done.code != 0:
            said = done.stderr.decode(errors="replace").strip() or "sh does not run there"
            raise SSHError(f"cannot read the client file on {place.shown}: {said}")
        if not text.lstrip().startswith("{"):
            raise NoClusterFound(
                f"there is no {text.strip()} on {place.shown}: start a cluster there (ssh"
                f" {place.shown} ipclusterz start -n 4 --daemon), or name its profile:"
                f" {SCHEME}{found['server']}/PROFILE"
            )
        connector = connectors.parse(text, url)
        return connector, Tunnel(
            settings, connector, notice=say, connection=connection, folder=folder
        )
    except BaseException:
        if connection is not None:
            connection.close()
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _path(rest: str, cluster_id: str) -> str:
    """Return the client file's path as a word for the shell there."""
    if rest.endswith(".json"):
        if re.search(r"[^A-Za-z0-9_@%+=:,./ -]", rest):
            raise ConnectorError(f"the path {rest!r} has characters that are not allowed here")
        return f'"{rest}"' if rest.startswith("/") else f'"$HOME/{rest}"'
    profile = rest.strip("/") or "default"
    try:
        check_name(profile, "profile")
        if cluster_id:
            check_name(cluster_id, "cluster id")
    except ClusterError as error:
        raise ConnectorError(str(error)) from None
    which = f"{cluster_id}-" if cluster_id else ""
    return (
        '"${IPYTHONDIR:-$HOME/.ipython}'
        f'/cluster_{profile}/security/ipcontroller-{which}client.json"'
    )


def _checked(server: str, what: str) -> Destination:
    try:
        return destination(server)
    except ValueError as error:
        raise ConnectorError(f"{what}: {error}") from None


def _settings(server: str, login: Login) -> Settings:
    from ipclusterz.net.tunnel import Settings, terminal

    return Settings(
        server,
        key=os.fspath(login.sshkey) if login.sshkey else "",
        password=login.password or "",
        paramiko=login.paramiko or None,
        timeout=login.timeout,
        prompt=terminal(),
    )
