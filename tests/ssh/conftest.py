"""Clusters on the lab's hosts, and clients on its laptop."""

from __future__ import annotations

import json
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from tests.lab.host import Host
from tests.lab.lab import Lab

KINDS = ("openssh", "paramiko")

HEAD = """
import json, os, signal, sys, time
import ipclusterz as ipp
KIND = sys.argv[1]
def connect(where, **more):
    return ipp.Client(where, paramiko=KIND == "paramiko" or None, timeout=20, **more)
"""

Cluster = Callable[..., AbstractContextManager[str]]
Script = Callable[..., subprocess.CompletedProcess[str]]


@contextmanager
def cluster_on(host: Host, options: str = "", n: int = 2) -> Iterator[str]:
    """A cluster of ada's on a host; the text of its client file."""
    command = ["ipclusterz", "start", "-n", str(n), "--daemon", *options.split()]
    host.run(command, check=True, timeout=60)
    try:
        yield host.file(
            ".ipython/cluster_default/security/ipcontroller-client.json"
        ).read_text()
    finally:
        host.run(["ipclusterz", "stop"], timeout=60)
        host.kill_users()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Which program makes the connection."""
    return str(request.param)


@pytest.fixture
def laptop(lab: Lab) -> Iterator[Host]:
    """The laptop, on which nothing of the users stays."""
    yield lab.laptop
    left = [process.name() for process in lab.laptop.processes("ada")]
    lab.laptop.kill_users()
    assert left == [], "the client's processes outlived it"


def script(
    host: Host, body: str, kind: str, *, timeout: float = 90, **more: Any
) -> subprocess.CompletedProcess[str]:
    """Run Python on a host as ada: ``connect(where)`` is there, and must not fail."""
    text = HEAD + textwrap.dedent(body)
    host.write("script.py", text)
    return host.run(["python3", "script.py", kind], timeout=timeout, **more)


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    """What a script printed last, as JSON; with all it said if it failed."""
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])
