"""Destinations, what ssh's words mean, and words for remote shells."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipclusterz.core.ssh import (
    FORBIDDEN,
    Destination,
    Forward,
    cause,
    destination,
    in_sh,
    kind,
    last_lines,
    quoted,
    refused_beyond,
    ssh_command,
)

LOGIN = Destination("login", "ada", 2222)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("login", ["--", "login"]),
        ("ada@login", ["-l", "ada", "--", "login"]),
        ("ada@login:2222", ["-l", "ada", "-p", "2222", "--", "login"]),
        ("[2001:db8::1]:22", ["-p", "22", "--", "2001:db8::1"]),
        ("ada@gate:1,node7", ["-J", "ada@gate:1", "--", "node7"]),
        ("a, b ,bob@c", ["-J", "a,b", "-l", "bob", "--", "c"]),
        ("[::1],x", ["-J", "[::1]", "--", "x"]),
    ],
)
def test_destinations(text: str, arguments: list[str]) -> None:
    found = destination(text)
    assert found.arguments() == arguments
    assert destination(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        *("", "-oProxyCommand=x", "ada@", "@login", "a b", "login:", "login:0", "login:65536"),
        *("ada@-x", "a,,b", ",a", "a;b", "$(a)", "a\nb", "a@b@c", "::1", "-", "a,-b", "`a`"),
        ",".join("abcdefghij"),
    ],
)
def test_what_is_no_destination(text: str) -> None:
    with pytest.raises(ValueError, match=r"no SSH server|more than 8 hosts"):
        destination(text)


@given(st.text())
def test_no_text_becomes_an_option_or_a_command(text: str) -> None:
    try:
        found = destination(text)
    except ValueError:
        return
    for hop in (*found.jump, found):
        assert hop.host and hop.host[0] not in "-" and not hop.user.startswith("-")
        assert not set(hop.host + hop.user) & set(" \t\n'\"`$;&|<>()\\!*?~#%")
    assert found.arguments()[-2] == "--"


def test_names() -> None:
    found = destination("gate,ada@[::1]:22")
    assert (found.shown, str(found), str(found.jump[0])) == (
        "ada@[::1]:22",
        "gate,ada@[::1]:22",
        "gate",
    )


def test_forwards() -> None:
    assert Forward("/run/x", "127.0.0.1", 5).spelled() == "/run/x:127.0.0.1:5"
    assert Forward("0", "127.0.0.1", 5).spelled() == "127.0.0.1:0:127.0.0.1:5"
    assert Forward("/run/x", "::1", 5).spelled() == "/run/x:[::1]:5"
    assert Forward("/run/x", "", 0, "/run/y").spelled() == "/run/x:/run/y"


CHANGED = """@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Host key verification failed.
"""
UNKNOWN = (
    "No ED25519 host key is known for login and you have requested strict checking.\r\n"
    "Host key verification failed.\r\n"
)
THROUGH = """ssh: Could not resolve hostname gate: Name or service not known
kex_exchange_identification: Connection closed by remote host
Connection closed by UNKNOWN port 65535
"""


@pytest.mark.parametrize(
    ("words", "meaning", "what"),
    [
        (CHANGED, "its host key is another one than before", "trust"),
        ("Host key has changed", "its host key is another one than before", "trust"),
        (
            UNKNOWN,
            "its host key is not known here: log in once by hand (ssh ada@login",
            "trust",
        ),
        ("x not found in known_hosts", "its host key is not known here", "trust"),
        (THROUGH, "there is no host named gate:", ""),
        (
            "channel 0: open failed: connect failed: Name or service not known\r\nstdio"
            " forwarding failed\r\nkex_exchange_identification: Connection closed by remote",
            "the host on the way there finds no host named so (Name or service not known)",
            "",
        ),
        (
            "ssh: connect to host login port 22: Connection refused",
            "nothing listens on its SSH port",
            "",
        ),
        ("ssh: connect to host login port 22: Connection timed out", "it does not answer", ""),
        ("Timeout, server login not responding.", "it does not answer", ""),
        ("ssh: connect to host login port 22: No route to host", "there is no way to it", ""),
        (
            "ada@login: Permission denied (publickey,password).",
            "it does not let us in",
            "login",
        ),
        ("Received disconnect: 2: Too many authentication failures", "too many keys", ""),
        (
            "@ WARNING: UNPROTECTED PRIVATE KEY FILE! @\nada@login: Permission denied",
            "chmod 600",
            "",
        ),
        (
            "no such identity: /home/ada/k: No such file or directory",
            "there is no private key /home/ada/k",
            "",
        ),
        (
            "channel 2: open failed: administratively prohibited: open failed",
            "its sshd refuses to forward",
            "",
        ),
        (
            "mux_client_forward: forwarding request failed: Port forwarding failed",
            "refuses",
            "",
        ),
        (
            "kex_exchange_identification: read: Connection reset by peer",
            "it, or a host on the way, closed the connection before we could log in",
            "busy",
        ),
        (
            "kex_exchange_identification: Connection closed by remote host\nConnection closed"
            " by UNKNOWN port 65535",
            "too many connections at once (MaxStartups)",
            "busy",
        ),
        (
            "kex_exchange_identification: banner line contains invalid characters",
            "is that port SSH's",
            "",
        ),
        ("Error reading SSH protocol banner", "is that port SSH's", "busy"),
        (
            "Read from remote host login: Connection reset by peer\r\nclient_loop: send"
            " disconnect: Broken pipe",
            "the connection was ended by its server, or on the way",
            "",
        ),
        ("Connection closed by 1.2.3.4 port 22", "closed the connection", ""),
        (
            "Unable to negotiate with 1.2.3.4 port 22: no matching host key type found.",
            "the two sides have no host key type in common",
            "",
        ),
        (
            "/home/ada/.ssh/config: line 3: Bad configuration option: hots",
            "the ssh configuration has a mistake",
            "",
        ),
        ("something\nnew happened\n\n", "something new happened", ""),
        ("", "", ""),
    ],
)
def test_what_ssh_means(words: str, meaning: str, what: str) -> None:
    found = cause(words, LOGIN)
    assert meaning in found and "\n" not in found and len(found) < 240
    assert kind(words) == what


@pytest.mark.parametrize(
    "script", ["echo a", "printf '%s' \"it's\n\\\\ 100% \\n!7\"\necho '$x'"]
)
def test_a_script_for_any_shell(script: str) -> None:
    command = in_sh(script)
    assert not set(command) & {"\n", "!"}
    plain = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    found = subprocess.run(["sh", "-c", command], capture_output=True, check=True)
    assert found.stdout == plain.stdout != b""


def test_noise_is_left_out() -> None:
    words = "** WARNING: post-quantum\nWarning: Permanently added 'x'\ndebug1: y\nat last\n"
    assert last_lines(words, 3) == ["at last"]


def test_what_the_far_end_refused() -> None:
    words = "channel 2: open failed: connect failed: No route to host\n"
    words += "channel 3: open failed: connect failed: Connection refused\r\n"
    assert refused_beyond(words) == "Connection refused"
    words += "channel 2: open failed: administratively prohibited: open failed\n"
    assert refused_beyond(words) == FORBIDDEN
    assert refused_beyond("Warning: something") == ""


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))))
def test_words_survive_a_shell(words: list[str]) -> None:
    assert shlex.split(quoted(words)) == words


@pytest.mark.parametrize("word", ["", "a b", "$HOME", "it's", '"', "`id`", "\\", "a\nb", "é"])
def test_words_survive_real_shells(word: str) -> None:
    script = f"printf %s {quoted([word])}"
    for command in (script, in_sh(script)):
        done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=10)
        assert done.stdout.decode() == word


def test_the_command_for_hands() -> None:
    assert ssh_command(LOGIN, [1, 2]) == (
        "ssh -N -L 127.0.0.1:1:127.0.0.1:1 -L 127.0.0.1:2:127.0.0.1:2 -l ada -p 2222 login"
    )
