"""The lab by hand, as root: ``python -m tests.lab``, and from other terminals ``enter HOST``.

::

    python -m tests.lab                          up until Ctrl-C
    python -m tests.lab enter laptop             a shell there, as ada
    python -m tests.lab enter node1 --user root
    python -m tests.lab enter laptop -- ssh node2 hostname
    python -m tests.lab cut laptop login         and: heal

``enter`` without a lab brings one up for as long as the shell lasts.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.lab import build
from tests.lab.lab import Lab
from tests.lab.space import LabError, entering

RECORD = Path(os.environ.get("IPCLUSTERZ_LAB_RECORD", "/run/ipclusterz-lab.json"))
"""Where the lab that is up by hand says which processes its hosts are; elsewhere in tests."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m tests.lab",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    chores = top.add_subparsers(dest="chore")
    enter = chores.add_parser("enter", help="a shell, or a command, on a host")
    enter.add_argument("host", choices=build.PLACES)
    enter.add_argument("--user", default="ada", choices=[*build.USERS, "root"])
    enter.epilog = "After -- a command; without one a login shell."
    for name, text in (("cut", "drop all packets between two hosts"), ("heal", "undo cut")):
        chore = chores.add_parser(name, help=text)
        chore.add_argument("a", choices=build.PLACES)
        chore.add_argument("b", choices=build.PLACES)
    return top


def pids() -> dict[str, int]:
    """The first process of each host of the lab that is up; empty when none is."""
    try:
        record = json.loads(RECORD.read_text())
        alive = psutil.Process(record["maker"]).create_time() == record["since"]
    except (OSError, ValueError, KeyError, psutil.Error):
        return {}
    return dict(record["hosts"]) if alive else {}


@contextmanager
def recorded(lab: Lab) -> Iterator[None]:
    """The lab is found by :func:`pids` meanwhile."""
    me = psutil.Process()
    hosts = {name: host.space.pid for name, host in lab.hosts.items()}
    record = {"maker": me.pid, "since": me.create_time(), "hosts": hosts}
    RECORD.write_text(json.dumps(record))
    try:
        yield
    finally:
        RECORD.unlink(missing_ok=True)


def stay() -> int:
    """Bring the lab up and keep it until Ctrl-C or SIGTERM."""
    if pids():
        raise LabError("a lab is up already: python -m tests.lab enter laptop")
    with Lab() as lab, recorded(lab):
        ends = {signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # not sooner: it is inherited
        for host in lab.hosts.values():
            print(f"{host.name:8}{'  '.join(host.addresses.values())}")
        for user, password in lab.plan.passwords.items():
            print(f"password of {user}: {password}")
        print("enter one: python -m tests.lab enter laptop     Ctrl-C ends it", flush=True)
        signal.sigwait(ends)
    return 0


def enter(host: str, user: str, command: list[str]) -> int:
    """Run a command on a host of the lab that is up, or of one made for it."""
    words = command or ["bash", "--login"]
    there = pids()
    if there:
        return inside(there[host], user, words)
    with Lab() as lab:
        return inside(lab[host].space.pid, user, words)


def inside(pid: int, user: str, words: list[str]) -> int:
    """Run a command as ``user`` where ``pid`` is, on this terminal; its exit code."""
    env = {"TERM": os.environ.get("TERM", "dumb"), **build.environment(user)}
    command = [*entering(pid, user, build.home(user)), *words]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the command
    try:
        return subprocess.call(
            command,
            env=env,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    finally:
        signal.signal(signal.SIGINT, before)


def filtered(action: str, a: str, b: str) -> int:
    """Cut or heal, in the lab that is up."""
    there = pids()
    if not there:
        raise LabError("no lab is up: python -m tests.lab")
    for source, target in ((a, b), (b, a)):
        element = f"{{ {build.address_seen(source, by=target)} }}"
        command = ["nft", action, "element", "inet", "lab", "cut", element]
        if code := inside(there[target], "root", command):
            return code
    return 0


def main() -> int:
    """Do what the command line says; 1 with one line when it cannot be done."""
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    chosen, command = parser().parse_args(words[:end]), words[end + 1 :]
    try:
        if reason := build.lacking():
            raise LabError(reason)
        if chosen.chore == "enter":
            return enter(chosen.host, chosen.user, command)
        if chosen.chore in ("cut", "heal"):
            action = "add" if chosen.chore == "cut" else "delete"
            return filtered(action, chosen.a, chosen.b)
        return stay()
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
