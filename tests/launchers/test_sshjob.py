"""Engines on several hosts as one job: what it leaves in the process that started it."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from ipclusterz.core.hosts import Host
from ipclusterz.error import SSHError
from ipclusterz.launchers import sshhost
from ipclusterz.launchers.base import LaunchSpec
from ipclusterz.launchers.ssh import SSHJob, SSHLauncher, SSHOptions
from ipclusterz.launchers.sshhost import Launch, RemoteHost
from ipclusterz.launchers.sshsession import Waker, readable


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def job() -> SSHJob:
    """Two hosts, of which none can be reached."""
    made = SSHJob("the engines")
    spec = LaunchSpec(argv=(), name="the engines", stdin='{"config": {}}\n')
    launch = Launch(spec, made.hear, threading.Semaphore(2))
    made.begin([RemoteHost(Host(name, n=1), launch) for name in ("node1", "node2")])
    return made


def test_what_has_ended_holds_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: Any, **settings: Any) -> None:
        raise SSHError("connection refused", "reach")

    monkeypatch.setattr(sshhost, "connect", refused)
    before = descriptors()
    kept = [job() for _ in range(3)]
    for made in kept:
        assert made.wait(30)
        heard = [event["event"] for event in made.events()]
        assert sorted(heard) == ["host_ended", "host_ended", "less", "less"]
        state = made.stop()
        assert state.code == 1 and "connection refused" in state.text
    assert descriptors() == before
    for made in kept:  # whoever still has it may still ask
        made.hear({"event": "late"})
        made.signal(15)
        made.tell("too late")
        assert made.watched() == () and made.events() == [{"event": "late"}]
        assert made.stop().ended


def test_a_waker_is_readable_once_and_closed_once() -> None:
    before = descriptors()
    waker = Waker()
    assert not readable([waker.fd], 0)
    for _ in range(100_000):  # more than a pipe holds
        waker.wake()
    assert readable([waker.fd], 0) == {waker.fd}
    waker.rest()
    waker.rest()
    waker.close()
    waker.close()
    waker.wake()
    waker.rest()
    assert waker.closed and descriptors() == before
    Waker()
    assert descriptors() == before, "one that nobody has any more"


def test_what_is_kept_of_a_host_means_the_same_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stops a cluster may be in another folder than who started it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RemoteHost, "start", lambda host: None)
    options = SSHOptions(hosts="node1", ssh_key="key", ssh_config="config")
    spec = LaunchSpec(argv=(), name="the engines", stdin='{"config": {}}\n', n=1)
    (host,) = SSHLauncher(options).start(spec).hosts
    place = host._place()
    assert place["key"] == str(tmp_path / "key")
    assert place["config"] == str(tmp_path / "config")
