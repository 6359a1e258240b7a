"""What is said to another host, tried on this one: the command, the keeper, its relay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ipclusterz.cluster.spec import agent_spec
from ipclusterz.core.config import AgentConfig
from ipclusterz.core.connector import Connector, candidates, parse
from ipclusterz.core.hosts import Host
from ipclusterz.core.replacing import CRASHED
from ipclusterz.core.ssh import Forward
from ipclusterz.error import LaunchError
from ipclusterz.launchers import remote
from ipclusterz.launchers.base import get_launcher
from tests.running import eventually

KEY = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"
MARK = "0123456789abcdef"


class Talk:
    """A command of the launcher's, run here, and lines to and from it."""

    def __init__(self, command: str) -> None:
        self.process = subprocess.Popen(
            ["sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.before: list[str] = []
        for line in self.process.stdout or ():
            if line.strip() == MARK:
                break
            self.before.append(line)

    def say(self, **line: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()

    def until(self, kind: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event: dict[str, Any] = json.loads(line)
            if event["event"] == kind:
                return event
        raise AssertionError(f"ended without {kind!r}: {self.process.communicate()[1]}")

    def end(self) -> str:
        """End the relay; return what it said on standard error."""
        return self.process.communicate(timeout=20)[1]


@pytest.fixture
def talks() -> Iterator[list[Talk]]:
    made: list[Talk] = []
    yield made
    for talk in made:
        talk.process.kill()
        talk.process.communicate()


def begin(talks: list[Talk], host: Host, **more: Any) -> Talk:
    talks.append(Talk(remote.script(host, MARK, **more)))
    return talks[-1]


def test_a_keeper_outlives_its_relay(talks: list[Talk]) -> None:
    """And tells the next one what it missed; at the end nothing is left."""
    host = Host("here", python=sys.executable, setup="echo chatter; cat; export FROM_SETUP=1")
    first = begin(talks, host)
    hello = first.until("hello")
    folder = Path(hello["folder"])
    assert folder.stat().st_mode & 0o777 == 0o700
    first.say(do="attach", **{"from": 0})
    assert first.until("attached")["way"] == 1
    first.say(do="now", way=1)
    eventually(lambda: os.path.exists(folder / "now"))
    assert os.readlink(folder / "now") == "1"
    # Settings that no agent can use: it says so and ends.
    first.say(do="start", lines=['{"config": {"n": "many"}}\n'], env={})
    assert first.until("agent")["seq"] == 1
    assert "chatter" in first.end()
    second = begin(talks, host, role="attach", folder=str(folder))
    second.say(do="attach", **{"from": 1})
    assert second.until("attached")["way"] == 2
    problem, end = second.until("error"), second.until("exit")
    assert "Expected `int`, got `str`" in problem["text"]
    assert (problem["seq"], end["seq"], end["code"]) == (2, 3, CRASHED)
    second.say(do="logs")
    assert second.until("log")["name"] == "ipenginez.err"
    second.say(do="bye")
    second.until("bye")
    second.end()
    assert not folder.exists()
    third = begin(talks, host, role="attach", folder=str(folder))
    assert "nothing answers in" in third.until("gone")["text"]


def test_the_folder_is_not_one_that_a_logout_removes(
    talks: list[Talk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    talk = begin(talks, Host("here", python=sys.executable))
    assert not Path(talk.until("hello")["folder"]).is_relative_to(tmp_path)
    talk.say(do="bye")
    talk.until("bye")


def test_a_launcher_that_gives_up_leaves_nothing(talks: list[Talk]) -> None:
    """With its relay, and before there was one."""
    talk = begin(talks, Host("here", python=sys.executable))
    folder = talk.until("hello")["folder"]
    talk.end()
    eventually(lambda: not os.path.exists(folder))
    before = set(os.listdir(os.path.dirname(folder)))
    talk = begin(talks, Host("here", python=sys.executable, setup="sleep 0.3"))
    assert talk.process.stdout is not None
    talk.process.stdout.close()
    assert talk.process.wait(20) == 1
    assert set(os.listdir(os.path.dirname(folder))) <= before


@pytest.mark.parametrize(
    ("host", "text"),
    [
        (Host("x", python="/no/python"), "there is no Python at /no/python: correct 'python'"),
        (Host("x", cwd="/no/such 'one'"), "there is no folder /no/such 'one' (cwd), or it may"),
    ],
)
def test_what_is_missing_is_said_before_anything_begins(
    talks: list[Talk], host: Host, text: str
) -> None:
    assert begin(talks, host).until("error")["text"].startswith(text)


def config(**more: Any) -> str:
    return agent_spec(AgentConfig(n=9, **more), "token", "e1").stdin


def test_settings_for_a_host(tmp_path: Path) -> None:
    """Paths of this host mean nothing there: scripts travel as text."""
    script = tmp_path / "it's.py"
    script.write_text("a = 1\n")
    path = repr(str(script))
    line = f"exec(compile(open({path}, encoding='utf-8').read(), {path}, 'exec'))"
    stdin = config(
        log_dir="/here", work_dir="/here", python="/py", startup=str(script), command=line
    )
    args = ("--preload=a,b", "-c", "c = 2", "--restart-engines=2", "--shm-limit", "2m")
    found = remote.agent_config(stdin, Host("x", 3, args=args), "")
    values: dict[str, Any] = {}
    exec(found["command"], values)
    assert (values["a"], values["c"]) == (1, 2)
    assert str(tmp_path) in found["command"] and "open(" not in found["command"]
    assert [found[k] for k in ("n", "log_dir", "work_dir", "python", "startup")] == [
        *(3, "", "", "", "")
    ]
    assert (found["preload"], found["restart_engines"]) == (["a", "b"], 2)
    assert found["shm_limit"] == 2 << 20
    usual = remote.agent_config(config(restart_engines=3), Host("x"), "")
    assert usual["restart_engines"] == 3
    assert (remote.interpreter(stdin), remote.folder_wanted(stdin)) == ("/py", "/here")


def test_options_that_engines_there_cannot_have() -> None:
    with pytest.raises(LaunchError, match="options of x: '--file' cannot be given to engines"):
        remote.agent_config(config(), Host("x", args=("--file", "y")), "")
    with pytest.raises(LaunchError, match="options of x: --lease is 'long', not seconds"):
        remote.with_args(Host("x", args=("--lease=long",)))
    with pytest.raises(LaunchError, match="of x: --shm-limit: 'much' is no amount of memory"):
        remote.with_args(Host("x", args=("--shm-limit=much",)))
    with pytest.raises(LaunchError, match="restart_engines is '-1', not a number of engines"):
        remote.with_args(Host("x", args=("--restart-engines=-1",)))
    made = remote.with_args(Host("x", args=("--python=/p", "--work-dir", "/w")))
    assert (made.python, made.cwd) == ("/p", "/w")


def connector(*addresses: str) -> Connector:
    channels = ("registration", "heartbeat", "query", "direct", "task", "control", "iopub")
    return Connector(
        exec_key=KEY,
        server_key=KEY,
        role="engine",
        url=addresses[-1],
        hostid="boot",
        ssh="login",
        addresses={name: list(addresses) for name in channels},
    )


@pytest.mark.parametrize(
    ("addresses", "goal"),
    [
        (("ipc:///run/x", "tcp://127.0.0.1:5"), Forward("near", "127.0.0.1", 5)),
        (("tcp://10.0.0.1:5", "tcp://127.0.0.1:5"), Forward("near", "127.0.0.1", 5)),
        (("tcp://10.0.0.1:5",), Forward("near", "10.0.0.1", 5)),
        (("ipc:///run/x",), Forward("near", "", 0, "/run/x")),
    ],
)
def test_ways_back(addresses: tuple[str, ...], goal: Forward) -> None:
    made = connector(*addresses)
    near = dict.fromkeys(made.addresses, "near")
    assert remote.ways_back(made, near) == [goal] * 7
    assert remote.reachable(made) is any("10.0" in address for address in addresses)


def test_the_connector_for_a_host() -> None:
    there = {name: f"ipc:///tmp/x/now/{name}" for name in connector("tcp://h:1").addresses}
    found = parse(remote.rewritten(connector("tcp://127.0.0.1:5"), there), "x")
    assert (found.url, found.ssh) == ("ipc:///tmp/x/now/registration", "")
    assert candidates(found, "task", "another host") == ["ipc:///tmp/x/now/task"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "no hosts to start engines on: say --hosts node1:4,node2:8"),
        ({"hosts": "-oX"}, "--hosts: '-oX': a host is"),
        ({"hostfile": "/no/file"}, r"cannot read /no/file \(hostfile\): No such file"),
        ({"sshx": "/no/file", "hosts": "a"}, r"cannot read /no/file \(sshx\): No such file"),
        ({"hosts": "a", "max_parallel": 0}, "max_parallel is 0: at least 1"),
        ({"host": "a"}, "has no option 'host'; the nearest is hosts"),
        ({"engines": {"a": 1.5}}, "whole number from 1 on"),
    ],
)
def test_options_that_are_wrong(
    options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PBS_NODEFILE", raising=False)
    with pytest.raises(LaunchError, match=words):
        get_launcher("ssh", options)


def test_what_is_typed_wins_over_the_config_file() -> None:
    launcher = get_launcher("ssh", {"engines": {"a": 4}, "hosts": "b:2,c"})
    assert launcher.default_n() == 3  # type: ignore[attr-defined]
    spec = msgspec.structs.replace(agent_spec(AgentConfig(n=9), "token", "e1"), n=9)
    with pytest.raises(LaunchError, match="9 engines are asked for, but the hosts have 3"):
        launcher.check(spec)  # type: ignore[attr-defined]
