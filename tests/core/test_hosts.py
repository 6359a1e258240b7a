"""What users say of hosts."""

from __future__ import annotations

from typing import Any

import pytest

from ipclusterz.core.hosts import (
    Host,
    expand,
    from_clusterfile,
    from_dict,
    from_hostfile,
    from_line,
    placed,
    total,
)
from ipclusterz.error import LaunchError


def shown(hosts: Any) -> dict[str, int]:
    return {host.target: host.n for host in hosts}


# -- a command line ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("node1", {"node1": 0}),
        ("node1:4", {"node1": 4}),
        ("node1:4,node2:8", {"node1": 4, "node2": 8}),
        ("node1:4, node2:8", {"node1": 4, "node2": 8}),
        ("ada@node2:2222:8", {"ada@node2:2222": 8}),
        ("node2:2222:8,node3", {"node2:2222": 8, "node3": 0}),
        ("node[01-03]:2", {"node01": 2, "node02": 2, "node03": 2}),
        ("node[1,3-5]", {"node1": 0, "node3": 0, "node4": 0, "node5": 0}),
        ("r[1-2]n[8-9]:1", {"r1n8": 1, "r1n9": 1, "r2n8": 1, "r2n9": 1}),
        ("n[098-101]", {"n098": 0, "n099": 0, "n100": 0, "n101": 0}),
        ("ada@node[1-2].example.org:22:3", {f"ada@node{i}.example.org:22": 3 for i in (1, 2)}),
        ("[fe80::1]:4", {"[fe80::1]": 4}),
        ("[fe80::1]:22:4", {"[fe80::1]:22": 4}),
        ("node1,node1,node2", {"node1": 2, "node2": 0}),
        ("node1:4,node1:2", {"node1": 6}),
        ("node1,node1:4", {"node1": 5}),
        ("10.0.0.1:4", {"10.0.0.1": 4}),
    ],
)
def test_a_line_of_hosts(text: str, hosts: dict[str, int]) -> None:
    assert shown(from_line(text, "--hosts")) == hosts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a comma too many"),
        ("node1,,node2", "a comma too many"),
        ("node1:4,", "a comma too many"),
        ("node1:0", "at least one engine"),
        ("-oProxyCommand=touch", "a host is"),
        ("node1:-oX", "a host is"),
        ("a@-b", "a host is"),
        ("node 1", "a host is"),
        ("node1;ls", "a host is"),
        ("$(ls)", "a host is"),
        ("node1:99999:4", "a host is"),
        ("node[1-", "a host is"),
        ("node[]", "is no range"),
        ("node[a-b]", "is no range"),
        ("node[5-3]", "counts down"),
        ("node[1-999999999]", "more than 100000 hosts"),
        ("a[1-999]b[1-999]", "998001 hosts"),
    ],
)
def test_a_wrong_line(text: str, words: str) -> None:
    with pytest.raises(LaunchError, match=words) as caught:
        from_line(text, "--hosts")
    assert str(caught.value).startswith("--hosts: ")
    assert "\n" not in str(caught.value)


def test_ranges_keep_their_zeros() -> None:
    assert expand("node[01-64]", "x")[0] == "node01"
    assert expand("node[01-64]", "x")[-1] == "node64"
    assert len(expand("node[01-64]", "x")) == 64


# -- a dict --------------------------------------------------------------------------------


def test_a_dict_of_hosts() -> None:
    hosts = from_dict(
        {
            "node1": 4,
            "ada@node2:2222": {
                "n": 8,
                "python": "/opt/python",
                "setup": "source ~/env/bin/activate",
                "cwd": "/data",
                "env": {"A": "1"},
            },
            "node[3-4]": (2, ["--preload=numpy"]),
            "login,node9": {},
        },
        "c.SSHLauncher.engines",
    )
    assert hosts == [
        Host("node1", 4),
        Host(
            "ada@node2:2222",
            8,
            "/opt/python",
            "source ~/env/bin/activate",
            "/data",
            {"A": "1"},
        ),
        Host("node3", 2, args=("--preload=numpy",)),
        Host("node4", 2, args=("--preload=numpy",)),
        Host("login,node9"),
    ]


def test_a_number_behind_a_colon_is_a_port_in_a_dict() -> None:
    assert from_dict({"node1:2222": 4}, "x") == [Host("node1:2222", 4)]


def test_setup_may_be_several_lines() -> None:
    (host,) = from_dict({"a": {"setup": ["module load python", "ulimit -c 0"]}}, "x")
    assert host.setup == "module load python\nulimit -c 0"


@pytest.mark.parametrize(
    ("engines", "words"),
    [
        ({1: 2}, "name is text"),
        ({"-x": 2}, "a host is"),
        ({"a": 0}, "from 1 on"),
        ({"a": True}, "from 1 on"),
        ({"a": "4"}, "from 1 on"),
        ({"a": 2.5}, "from 1 on"),
        ({"a": (1, 2, 3)}, r"\(number, \[options\]\)"),
        ({"a": (1, "x")}, r"\(number, \[options\]\)"),
        ({"a": (1, [2])}, "list of texts"),
        ({"a": {"n": 0}}, "from 1 on"),
        ({"a": {"pyton": "x"}}, "there are n, python, setup, cwd, env, args"),
        ({"a": {"python": 3}}, "must be text"),
        ({"a": {"setup": 3}}, "list of texts"),
        ({"a": {"env": "A=1"}}, "a dict of names"),
        ({"a": {"env": {"A": 1}}}, "names and values are text"),
        ({"a": {"env": {"A B": "1"}}}, "names and values are text"),
    ],
)
def test_a_wrong_dict(engines: dict[Any, Any], words: str) -> None:
    with pytest.raises(LaunchError, match=words) as caught:
        from_dict(engines, "c.SSHLauncher.engines")
    assert str(caught.value).startswith("c.SSHLauncher.engines")


# -- files ---------------------------------------------------------------------------------


def test_a_hostfile() -> None:
    text = "# ours\nnode1\nnode2:4   # big\n\nnode[3-4] slots=2 max_slots=9\nada@node5\n"
    assert shown(from_hostfile(text, "hosts.txt")) == {
        "node1": 0,
        "node2": 4,
        "node3": 2,
        "node4": 2,
        "ada@node5": 0,
    }


def test_repeated_lines_are_slots() -> None:
    text = "node1\nnode1\nnode1\nnode2\nnode2\nnode2\n"
    assert shown(from_hostfile(text, "$PBS_NODEFILE")) == {"node1": 3, "node2": 3}


def test_wrong_hostfiles() -> None:
    with pytest.raises(LaunchError, match="hosts.txt names no host"):
        from_hostfile("# nothing\n", "hosts.txt")
    with pytest.raises(LaunchError, match=r"line 2 of hosts.txt: '-x'"):
        from_hostfile("node1\n-x\n", "hosts.txt")
    with pytest.raises(LaunchError, match=r"line 1 of hosts.txt: '4'.*slots=NUMBER"):
        from_hostfile("node1 4\n", "hosts.txt")


OLD = """
'''Our cluster.'''
send_furl = True
few = 2
engines = { 'host1.example.com' : few,
            'host2.example.com' : 5,
            'host3.example.com' : (1, ['--preload=numpy']),
            'host4.example.com' : 8 }
"""


def test_an_old_clusterfile() -> None:
    found = from_clusterfile(OLD, "cluster.py")
    assert shown(found.hosts) == {
        "host1.example.com": 2,
        "host2.example.com": 5,
        "host3.example.com": 1,
        "host4.example.com": 8,
    }
    assert found.hosts[2].args == ("--preload=numpy",)
    assert found.notes == (
        "send_furl in cluster.py means nothing any more: what engines need travels through"
        " the SSH connection and is not written to a file there",
    )
    assert from_clusterfile("engines = {'a': 1}", "x").notes == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no 'engines'"),
        ("engines = {}", "has no 'engines'"),
        ("engines = 4", "has no 'engines'"),
        ("engines = {", "is no Python file"),
        ("import os\nengines = {'a': 1}", "line 1 of cluster.py is more than a value"),
        ("engines = {'a': 1}\nfor i in range(3): engines[str(i)] = 1", "line 2 of cluster.py"),
        ("engines = {'a': open('/etc/passwd')}", "line 1 of cluster.py"),
        ("engines = {'a': unknown}", "line 1 of cluster.py"),
        ("engines = {'-a': 1}", "a host is"),
        ("engines = {'a': 0}", "from 1 on"),
        ("\0", "is no Python file"),
    ],
)
def test_a_clusterfile_is_read_not_run(text: str, words: str) -> None:
    with pytest.raises(LaunchError, match=words):
        from_clusterfile(text, "cluster.py")


# -- how many where ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "n", "places"),
    [
        ("a:4,b:8", 12, {"a": 4, "b": 8}),
        ("a:4,b:8", 6, {"a": 4, "b": 2}),
        ("a:4,b:8", 3, {"a": 3}),
        ("a,b", 2, {"a": 1, "b": 1}),
        ("a,b", 1, {"a": 1}),
        ("a,b", 5, {"a": 3, "b": 2}),
        ("a,b,c", 9, {"a": 3, "b": 3, "c": 3}),
        ("a:4,b", 5, {"a": 4, "b": 1}),
    ],
)
def test_engines_are_placed_in_the_order_of_hosts(
    line: str, n: int, places: dict[str, int]
) -> None:
    assert shown(placed(from_line(line, "x"), n)) == places


def test_more_than_there_is_room_for() -> None:
    hosts = from_line("a:4,b", "x")
    assert total(hosts) == 5
    with pytest.raises(LaunchError, match="6 engines are asked for, but the hosts have 5"):
        placed(hosts, 6)
