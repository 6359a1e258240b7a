"""Where things lie: the IPython folder, a profile's folders, connector files, sockets.

Answers questions about names.  Makes folders only when asked to (:meth:`ProfileDir.create`,
:func:`runtime_dir`); reads and writes no file of ours.
"""

from __future__ import annotations

import os
import re
import sys

from ipclusterz.error import ClusterError
from ipclusterz.files import private_dir

SOCKET_PATH_LIMIT = 107
"""Bytes that fit into a UNIX socket's address, without the closing zero."""

_SOCKET_NAME = 28  # room kept for "/" and a socket's name in a runtime folder

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}\Z")

_told: set[str] = set()


class BadName(ClusterError):
    """A name that cannot be part of a file's."""


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it can be part of a file name, else raise BadName."""
    if not _NAME.match(name):
        raise BadName(
            f"{name!r} cannot be a {what}: use up to 64 letters, digits, '_', '-', '+' and '.',"
            " beginning with a letter, a digit or '_'"
        )
    return name


def ipython_dir() -> str:
    """Return ``$IPYTHONDIR``, or ``~/.ipython`` where that is not set."""
    found = os.environ.get("IPYTHONDIR") or os.path.join("~", ".ipython")
    return os.path.abspath(os.path.expanduser(found))


def profile_dir(name: str = "default", root: str | None = None) -> ProfileDir:
    """Return the folder of a profile, existing or not: ``cluster_<name>`` in ``root``.

    ``root`` defaults to :func:`ipython_dir`.  Old documents also write ``clusterz_<name>``:
    where only that exists it is used; where both exist ``cluster_<name>`` wins and one line
    on standard error says so.
    """
    check_name(name, "profile name")
    base = os.path.abspath(os.path.expanduser(root)) if root else ipython_dir()
    path = os.path.join(base, f"cluster_{name}")
    old = os.path.join(base, f"clusterz_{name}")
    if os.path.isdir(old):
        if not os.path.isdir(path):
            return ProfileDir(old)
        if path not in _told:
            _told.add(path)
            print(f"ipclusterz: using {path}; {old} exists too and is ignored", file=sys.stderr)
    return ProfileDir(path)


class ProfileDir:
    """One profile's folder: config files, and ``security``, ``log``, ``pid``, ``startup``."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(os.path.expanduser(path))
        self.security = os.path.join(self.path, "security")
        self.log = os.path.join(self.path, "log")
        self.pid = os.path.join(self.path, "pid")
        self.startup = os.path.join(self.path, "startup")

    @property
    def name(self) -> str:
        """The profile's name, from its folder's."""
        base = os.path.basename(self.path)
        for prefix in ("cluster_", "clusterz_"):
            if base.startswith(prefix):
                return base[len(prefix) :]
        return base

    def create(self) -> ProfileDir:
        """Make what is missing, owner-only; raise ConnectorError if it cannot be private."""
        for folder in (self.security, self.log, self.pid, self.startup):
            private_dir(folder)
        return self

    def connector(self, role: str, cluster_id: str = "") -> str:
        """Return the path of the connector file for ``role``: ``client`` or ``engine``."""
        if cluster_id:
            check_name(cluster_id, "cluster id")
            return os.path.join(self.security, f"ipcontroller-{cluster_id}-{role}.json")
        return os.path.join(self.security, f"ipcontroller-{role}.json")

    def key_file(self, cluster_id: str = "") -> str:
        """Return the path of what ``-r`` keeps: the cluster's key and its ports."""
        if cluster_id:
            check_name(cluster_id, "cluster id")
            return os.path.join(self.security, f"ipcontroller-{cluster_id}.key")
        return os.path.join(self.security, "ipcontroller.key")

    def state_file(self, cluster_id: str = "") -> str:
        """Return the path of the file that tells what a running cluster consists of."""
        if cluster_id:
            check_name(cluster_id, "cluster id")
        return os.path.join(self.pid, f"cluster-{cluster_id}.json")

    def __repr__(self) -> str:
        return f"ProfileDir({self.path!r})"


def runtime_dir() -> str:
    """Make and return a fresh owner-only folder whose path is short enough for sockets.

    In ``$XDG_RUNTIME_DIR`` if that is ours and private, else in ``$TMPDIR`` or ``/tmp``.
    Raises ClusterError when none will do, naming each and why.
    """
    problems: list[str] = []
    for base in _runtime_bases():
        path = os.path.join(base, f"ipclusterz-{os.urandom(4).hex()}")
        if len(os.fsencode(path)) + _SOCKET_NAME > SOCKET_PATH_LIMIT:
            problems.append(f"{base}: the path is too long for a UNIX socket")
            continue
        try:
            os.mkdir(path, 0o700)
        except OSError as error:
            problems.append(f"{base}: {error.strerror}")
            continue
        return path
    raise ClusterError(
        "no folder for the cluster's sockets; set XDG_RUNTIME_DIR or TMPDIR to a short path"
        " on a local disk that you can write to (" + "; ".join(problems) + ")"
    )


def boot_id() -> str:
    """Return what names this host since its last start, or '' where the system has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def process_space() -> str:
    """Return what names this process's table of process ids: containers have their own."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _runtime_bases() -> list[str]:
    bases: list[str] = []
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    if own and os.path.isabs(own) and _is_private(own):
        bases.append(own)
    for base in (os.environ.get("TMPDIR", ""), "/tmp"):
        if base and base not in bases:
            bases.append(os.path.abspath(base))
    return bases


def _is_private(path: str) -> bool:
    try:
        facts = os.stat(path)
    except OSError:
        return False
    return facts.st_uid == os.geteuid() and not facts.st_mode & 0o077
