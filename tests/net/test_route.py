"""Which addresses are tried, through a tunnel or without, and what failures mean."""

from __future__ import annotations

import pytest

from ipclusterz.core.config import CHANNEL_NAMES
from ipclusterz.core.connector import Connector
from ipclusterz.core.message import Channel
from ipclusterz.core.ssh import FORBIDDEN, destination
from ipclusterz.net.route import DENIED, DOWN, ENDED, REFUSED, Route
from ipclusterz.net.tunnel import Goal, Settings, goals, wanted

KEY = "0" * 40


def connector(*addresses: str, **more: str) -> Connector:
    listed = {name: list(addresses) for name in CHANNEL_NAMES}
    facts = {"location": "head", "hostid": "there", **more}
    return Connector(
        exec_key=KEY,
        server_key=KEY,
        role="client",
        url=addresses[0],
        addresses=listed,
        **facts,  # type: ignore[arg-type]
    )


class FakeTunnel:
    server = "gate"

    def __init__(self) -> None:
        self.addresses = {name: [f"ipc:///run/{name}"] for name in CHANNEL_NAMES}
        self.ended = ""
        self.up = True
        self.problem = ""
        self.forgiven = 0

    def fine(self) -> None:
        self.forgiven += 1

    def close(self) -> None:
        self.up = False


LOOP, ROUTED, PIPE = "tcp://127.0.0.1:5", "tcp://10.0.0.9:5", "ipc:///run/sock"


@pytest.mark.parametrize(
    ("addresses", "server", "found"),
    [
        ([LOOP], "gate", [Goal("127.0.0.1", 5)]),
        ([PIPE, LOOP], "gate", [Goal("127.0.0.1", 5)]),
        ([ROUTED, LOOP], "gate", [Goal("10.0.0.9", 5), Goal("127.0.0.1", 5)]),
        ([ROUTED, LOOP], "me@head:1", [Goal("127.0.0.1", 5), Goal("10.0.0.9", 5)]),
        ([PIPE], "gate", [Goal("", 0, "/run/sock")]),
        (["tcp://[2001:db8::1]:5"], "gate", [Goal("2001:db8::1", 5)]),
    ],
)
def test_where_a_server_finds_the_controller(
    addresses: list[str], server: str, found: list[Goal]
) -> None:
    assert goals(connector(*addresses), "task", destination(server)) == found


def test_whether_a_tunnel_is_wanted() -> None:
    entry = connector(LOOP, ssh="gate")
    assert wanted(entry, "here", None) == "gate"
    assert wanted(entry, "there", None) == ""  # the controller is on this host
    assert wanted(entry, "here", "") == ""
    assert wanted(entry, "there", "other") == "other"
    assert wanted(connector(LOOP), "here", None) == ""


def test_addresses_without_a_tunnel() -> None:
    ours = connector(LOOP, PIPE, hostid="here")
    told = ["tcp://127.0.0.1:6", "ipc:///not/there"]
    assert Route(ours, "here").channel(Channel.TASK, told) == [told[0], LOOP, PIPE]
    theirs = connector(ROUTED, PIPE)
    assert Route(theirs, "here").channel(Channel.TASK, told) == [ROUTED]
    assert Route(theirs, "here").registration() == [ROUTED]


def test_addresses_with_a_tunnel() -> None:
    route = Route(connector(LOOP), "here", FakeTunnel())
    assert route.channel(Channel.IOPUB, [LOOP]) == ["ipc:///run/iopub"]
    assert route.registration() == ["ipc:///run/registration"]


def test_what_failures_mean() -> None:
    assert Route(connector(LOOP), "here").judge(DENIED, "x", True) == (DENIED, "x")
    tunnel = FakeTunnel()
    route = Route(connector(LOOP), "here", tunnel)
    assert route.judge(DENIED, "no", True) == (DENIED, "through gate: no")
    assert route.judge(REFUSED, "no", True) == (DOWN, "through gate: no")
    tunnel.problem = "Connection refused"
    wrong = "gate cannot reach it: Connection refused"
    assert route.judge(DOWN, "broken", True) == (REFUSED, wrong)
    assert route.judge(DOWN, "broken", False) == (DOWN, wrong)
    tunnel.problem = FORBIDDEN
    for_good = f"cannot go through gate: {FORBIDDEN}"
    assert route.judge(DOWN, "broken", True) == (ENDED, for_good)
    tunnel.up, tunnel.problem = False, "it does not answer"
    assert route.judge(DENIED, "x", True) == (DOWN, "no SSH connection: it does not answer")
    tunnel.ended = "refused for good"
    assert route.judge(REFUSED, "x", True) == (ENDED, "refused for good")
    assert tunnel.forgiven == 0
    assert route.judge("", "", True) == ("", "")
    assert tunnel.forgiven == 1
    tunnel.ended, tunnel.up, tunnel.problem = "", True, FORBIDDEN
    assert route.judge(DOWN, "broken", True)[0] == DOWN  # it worked before, and may again


def test_a_password_is_given_once_for_each_account() -> None:
    asked = []

    def prompt(question: str) -> str:
        asked.append(question)
        return "code"

    settings = Settings("gate", password="secret", prompt=prompt)
    answer = settings._asked()
    assert answer("ada@gate's password:") == "secret"
    assert answer("(ada@gate) Password:") is None  # the same account, another way
    assert answer("(ada@node7) Password:") == "secret"
    assert answer("(ada@gate) Verification code:") == "code"
    assert answer("(ada@gate) Verification code:") is None
    assert asked == ["(ada@gate) Verification code:"]
    assert settings._asked()("ada@gate's password:") == "secret"  # after a drop, once again
    assert "secret" not in repr(settings)
