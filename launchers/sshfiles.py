"""Files for a host and from it, through its SSH connection."""

from __future__ import annotations

import base64
import os
import re

from ipclusterz.core.hosts import Host
from ipclusterz.core.ssh import destination, in_sh, last_lines, quoted
from ipclusterz.error import LaunchError
from ipclusterz.launchers import remote
from ipclusterz.launchers.base import Event
from ipclusterz.net.ssh import Connection

_SLOWEST = 100_000  # bytes a second; a connection that is slower is given up


def send(connection: Connection, host: Host, entries: list[str], patience: float) -> None:
    """Copy files to a host: ``FILE`` to its folder, ``FILE:THERE`` to a name there.

    A file is there whole or not at all.  LaunchError names file and host.
    """
    for entry in entries:
        here, _, there = entry.partition(":")
        path = os.path.expanduser(here)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise LaunchError(f"cannot read {path} (send): {error.strerror}") from None
        name = os.path.basename(path)
        put(connection, host, there or name, data, patience, name)


def put(
    connection: Connection, host: Host, there: str, data: bytes, patience: float, name: str
) -> None:
    """Write a file there; relative names begin at the host's folder, ``~/`` at home.

    In a folder it has the ``name`` that it has here.
    """
    start = "" if there == "~" or there.startswith("~/") else host.cwd
    path = ("" if there == "~" else there.removeprefix("~/")) or "."
    part = f".{os.urandom(4).hex()}.part"
    command = (
        f"{remote.cd_or_home(start)} && umask 077 && to={quoted([path])} &&"
        # A name that ends in a slash is a folder's, also of one that is not there.
        f' {{ case $to in */) ;; *) [ -d "$to" ];; esac'
        f" && to=${{to%/}}/{quoted([name])} || :; }}"
        f' && part="$to{part}" && cat > "$part" && mv -f -- "$part" "$to"'
        f' || {{ rm -f -- "$part"; exit 1; }}'
    )
    done = connection.run(in_sh(command), data, patience + len(data) / _SLOWEST)
    if done.code != 0:
        words = " ".join(last_lines(done.stderr.decode(errors="replace"), 1))
        raise LaunchError(f"{destination(host.target).shown}: cannot write {there}: {words}")


def keep(event: Event, host: str, folder: str) -> None:
    """Keep a log that a host has sent; its name here says whose it is."""
    data = base64.b64decode(event["data"])
    if not data:
        return
    parts = (re.sub(r"[^A-Za-z0-9_.-]", "_", str(part)) for part in (host, event["name"]))
    path = os.path.join(folder, "-".join(("ssh", *parts)))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(data)
