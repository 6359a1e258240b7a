"""Ends what a launcher that was killed left on other hosts: by its keeper there, else by force.

A place is what the state file remembers of a host: ``target``, ``folder``, the agent's ``pid``
and ``start``, and how to log in.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ipclusterz.core.hosts import Host
from ipclusterz.core.ssh import in_sh
from ipclusterz.error import KernelError
from ipclusterz.launchers import remote
from ipclusterz.launchers.sshsession import Lost, Session
from ipclusterz.net.ssh import Connection, connect

_ANSWER_SECONDS = 10.0
_AT_ONCE = 16

Place = Mapping[str, Any]


def clear_all(places: Iterable[Place]) -> list[tuple[Place, str]]:
    """Clear places, several at once; return each with why it could not be, or ''."""
    from concurrent.futures import ThreadPoolExecutor  # 10 ms, only for this

    def problem(place: Place) -> tuple[Place, str]:
        try:
            clear(place)
        except KernelError as error:
            return place, str(error)
        return place, ""

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(problem, places))


def clear(place: Place) -> None:
    """End the engines of a place and remove its folder; SSHError if it cannot be reached."""
    connection = connect(
        str(place["target"]),
        key=str(place["key"]),
        config=str(place["config"]),
        paramiko=True if place["paramiko"] else None,
    )
    try:
        if not _by_keeper(connection, place):
            pid, start = int(place["pid"]), int(place["start"])
            connection.run(in_sh(remote.clearing(str(place["folder"]), pid, start)))
    finally:
        connection.close()


def _by_keeper(connection: Connection, place: Place) -> bool:
    """Have the keeper end its agent and go; False when it is not there or does not answer."""
    mark = os.urandom(16).hex()
    host = Host(str(place["target"]), python=str(place["python"]))
    command = remote.script(host, mark, role="attach", folder=str(place["folder"]))
    session = Session(connection, command, mark, -1)
    deadline = time.monotonic() + _ANSWER_SECONDS
    try:
        session.say({"do": "bye"})
        while (left := deadline - time.monotonic()) > 0:
            kinds = [event["event"] for event in session.read(left)]
            if "bye" in kinds or "gone" in kinds:
                return "bye" in kinds
    except Lost:
        pass
    finally:
        session.close()
    return False
