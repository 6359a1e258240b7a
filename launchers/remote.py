"""What is said to another host, as text: the command that begins there, and what it reads.

Pure: no connection, no file of the host's.  The command stands in lists of processes for a
moment, so nothing secret is in it; settings and connector travel on standard input.
"""

from __future__ import annotations

import json
import os
import re
import sys
from typing import Any

from msgspec.structs import replace

from ipclusterz.core.config import CHANNEL_NAMES
from ipclusterz.core.connector import Connector, candidates, dump
from ipclusterz.core.hosts import Host
from ipclusterz.core.placement import parse_pin
from ipclusterz.core.sizes import parse_size
from ipclusterz.core.ssh import Forward, in_sh, quoted
from ipclusterz.error import LaunchError

OLDEST = (3, 11)
"""The oldest Python that runs the package."""

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_PACKAGE = os.path.dirname(os.path.abspath(sys.modules["ipclusterz"].__file__ or _ROOT))

_TCP = re.compile(r"tcp://(?P<host>.+):(?P<port>\d+)\Z")
_LOOPBACK = re.compile(r"127\.\d+\.\d+\.\d+|localhost|\[::1\]|0\.0\.0\.0|\*")

# For whatever Python is there, old ones included; argv: role, folder, our package's folder.
_BOOT = """
import os, sys
def fail(text):
    import json
    os.write(9, (json.dumps({"event": "error", "text": text}) + chr(10)).encode())
    sys.exit(1)
if sys.path and sys.path[0] == "": del sys.path[0]
version = "Python %s at %s" % (".".join(map(str, sys.version_info[:3])), sys.executable)
if sys.version_info[:2] < OLDEST:
    fail("%s is too old, ipclusterz needs %d.%d" % ((version,) + OLDEST))
sys.path.append(sys.argv[3])
try:
    from ipclusterz.apps import keeper
    import zmq, msgspec, cloudpickle, cryptography
except ImportError as error: fail("%s: install ipclusterz there, for %s" % (error, version))
sys.exit(keeper.main(sys.argv[1], sys.argv[2], 8, 9))
""".replace("OLDEST", str(OLDEST))

# Descriptors 8 and 9 are ours before anything of the user's runs: what set-up prints goes to
# standard error, what it reads is empty.  Bash where it is: people write 'source'.
_SCRIPT = """
exec 8<&0 9>&1 </dev/null 1>&2
fail() {{ printf '{{"event": "error", "text": "%s"}}\\n' "$1" >&9; exit 1; }}
printf '\\n%s\\n' {mark} >&9
{cd}
{setup}
python={python}
{choice}
command -v -- "$python" >/dev/null 2>&1 || fail {missing}
set -- "$python" -c {boot} {role} {folder} {root}
{run}
"""


def script(
    host: Host, mark: str, *, role: str = "begin", folder: str = "-", sshx: str = ""
) -> str:
    """Return the command for the login shell that begins (or attaches to) a keeper.

    ``mark`` is printed on a line of its own where our output begins: start-up files of
    shells print as well.  ``sshx`` is the text of a set-up script; an old one that starts
    its arguments (``"$@" &> /dev/null &``) does so with our command.
    """
    wraps = '"$@"' in sshx or "$*" in sshx
    python = host.python
    if python.startswith("~/"):
        shown = f'"$HOME"/{quoted([python[2:]])}'
    else:
        shown = quoted([python or sys.executable])
    text = _SCRIPT.format(
        mark=quoted([mark]),
        cd=_cd(host.cwd) if role == "begin" else "",
        setup="\n".join(filter(None, (host.setup, "" if wraps else sshx))),
        python=shown,
        # With homes shared between hosts, or installed alike, it is the very same Python.
        choice="" if python else '[ -x "$python" ] || python=python3',
        missing=quoted([_json_safe(_missing(python))]),
        boot=quoted([_BOOT]),
        role=role,
        folder=quoted([folder]),
        root=quoted([os.path.dirname(_PACKAGE)]),
        run=_wrapped(sshx) if wraps else 'exec "$@"',
    )
    shell = "shell=sh; command -v bash >/dev/null 2>&1 && shell=bash; exec $shell -c "
    return in_sh(shell + quoted([text]))


def _wrapped(sshx: str) -> str:
    # Its background process keeps descriptors 8 and 9, and is what this shell waits for.
    return f'run() {{\n{sshx}\n}}\nrun "$@"\nwait'


def cd_or_home(folder: str) -> str:
    """Return the command that goes to a folder there; '' is the home folder."""
    folder = "" if folder == "~" else folder
    rest = folder.removeprefix("~/")
    if rest != folder:
        return f'cd -- "$HOME"/{quoted([rest])}'
    return f"cd -- {quoted([folder])}" if folder else "cd"


def clearing(folder: str, pid: int, start: int) -> str:
    """Return a script that kills an agent, named by process id and start, and its folder."""
    kill = (
        f"now=$(sed 's/.*) //' /proc/{pid}/stat 2>/dev/null | cut -d' ' -f20);"
        f' [ "$now" = {start} ] && kill -9 {pid}; '
        if pid
        else ""
    )
    return f"{kill}rm -rf -- {quoted([folder])}"


def _cd(folder: str) -> str:
    if not folder:
        return ""
    text = _json_safe(f"there is no folder {folder} (cwd), or it may not be entered")
    return f"{cd_or_home(folder)} || fail {quoted([text])}"


def _missing(python: str) -> str:
    if python:
        return f"there is no Python at {python}: correct 'python' for this host"
    return (
        "there is no python3 on the PATH: say where Python is ('python' for this host, or"
        " --python), or what makes it known ('setup')"
    )


def _json_safe(text: str) -> str:
    """Return text as it stands inside a JSON string that printf fills in."""
    return json.dumps(text)[1:-1]


# -- what the agent is told ----------------------------------------------------------------


def agent_config(spec_stdin: str, host: Host, log_dir: str) -> dict[str, Any]:
    """Return an agent's settings for a host, made from the launch for this one.

    Paths of this host mean nothing there: start-up scripts travel as text, logs go to
    ``log_dir``, the interpreter is the host's.  LaunchError for options it cannot have.
    """
    config: dict[str, Any] = dict(json.loads(spec_stdin.splitlines()[0])["config"])
    config.update(n=host.n, log_dir=log_dir, work_dir="")
    if config.get("startup"):
        path = config["startup"]
        text = _read(path)
        config["startup"] = ""
        config["command"] = _program(text, path) + config.get("command", "")
    config["command"] = _STARTUP.sub(
        lambda found: _program(_read(_text(found[1])), _text(found[1])),
        config.get("command", ""),
    )
    _apply(config, host)
    # The agent itself runs by the host's Python, and engines by the same.
    config["python"] = ""
    return config


def interpreter(spec_stdin: str) -> str:
    """Return the interpreter that was asked for, for hosts that name none; or ''."""
    return str(json.loads(spec_stdin.splitlines()[0])["config"].get("python", ""))


def folder_wanted(spec_stdin: str) -> str:
    """Return the working folder that was asked for, for hosts that name none; or ''."""
    return str(json.loads(spec_stdin.splitlines()[0])["config"].get("work_dir", ""))


# A line of a profile's startup scripts, as ipenginez makes it.
_STARTUP = re.compile(
    r"^exec\(compile\(open\(('[^'\n]*'|\"[^\"\n]*\"), encoding='utf-8'\)\.read\(\), \1,"
    r" 'exec'\)\)$",
    re.MULTILINE,
)


def _text(literal: str) -> str:
    import ast

    return str(ast.literal_eval(literal))


def _program(text: str, path: str) -> str:
    return f"exec(compile({text!r}, {path!r}, 'exec'))\n"


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise LaunchError(f"cannot read the start-up script {path}: {error.strerror}") from None


_ARGS = {
    "-c": "command",
    "--preload": "preload",
    "--lease": "lease",
    "--restart-engines": "restart_engines",
    "--shm-limit": "shm_limit",
    "--pin-cores": "pin_cores",
    "--work-dir": "cwd",
    "--python": "python",
}


def with_args(host: Host) -> Host:
    """Return a host whose ``--python`` and ``--work-dir`` have become its own settings."""
    for name, value in _options(host):
        if name == "python":
            host = replace(host, python=value)
        elif name == "cwd":
            host = replace(host, cwd=value)
        elif name == "lease" and not re.fullmatch(r"\d+(\.\d*)?", value):
            raise LaunchError(f"options of {host.target}: --lease is {value!r}, not seconds")
        elif name == "restart_engines" and not value.isdecimal():
            raise LaunchError(
                f"options of {host.target}: {name} is {value!r}, not a number of engines"
            )
        elif name == "shm_limit":
            try:
                parse_size(value)
            except ValueError as error:
                raise LaunchError(f"options of {host.target}: --shm-limit: {error}") from None
        elif name == "pin_cores":
            try:
                parse_pin(value)
            except ValueError as error:
                raise LaunchError(f"options of {host.target}: --pin-cores: {error}") from None
    return host


def _apply(config: dict[str, Any], host: Host) -> None:
    for name, value in _options(host):
        if name == "preload":
            config["preload"] = [word.strip() for word in value.split(",") if word.strip()]
        elif name == "lease":
            config["lease"] = float(value)
        elif name == "restart_engines":
            config[name] = int(value)
        elif name == "shm_limit":
            config[name] = parse_size(value)
        elif name == "pin_cores":
            config[name] = parse_pin(value)
        elif name == "command":
            config["command"] = f"{config['command']}\n{value}"


def _options(host: Host) -> list[tuple[str, str]]:
    found = []
    words = iter(host.args)
    for word in words:
        name, has_value, value = word.partition("=")
        if name not in _ARGS:
            raise LaunchError(
                f"options of {host.target}: {word!r} cannot be given to engines by ssh; there"
                f" are {', '.join(_ARGS)}"
            )
        if not has_value:
            value = next(words, "")
        found.append((_ARGS[name], value))
    return found


# -- the way back --------------------------------------------------------------------------


def ways_back(connector: Connector, near: dict[str, str]) -> list[Forward]:
    """Return forwards for all channels: ``near`` names each one's end on the host.

    The other end is the controller as seen from here.
    """
    found = []
    for channel in CHANNEL_NAMES:
        tcp = [m for a in candidates(connector, channel) if (m := _TCP.match(a))]
        # Loopback first: it is there in any case, and stays with -r when folders change.
        tcp.sort(key=lambda match: not _LOOPBACK.fullmatch(match["host"]))
        if tcp:
            host = tcp[0]["host"]
            host = "127.0.0.1" if host in ("0.0.0.0", "*") else host.strip("[]")
            found.append(Forward(near[channel], host, int(tcp[0]["port"])))
            continue
        listed = candidates(connector, channel)
        if not listed:
            raise LaunchError(
                f"the connector says nothing of {channel}: start a new controller"
            )
        found.append(Forward(near[channel], "", 0, listed[0].removeprefix("ipc://")))
    return found


def rewritten(connector: Connector, addresses: dict[str, str]) -> str:
    """Return the connector for an agent that finds the controller at ``addresses``."""
    return dump(
        replace(
            connector,
            url=addresses["registration"],
            hostid="",
            ssh="",
            addresses={name: [address] for name, address in addresses.items()},
        )
    )


def reachable(connector: Connector) -> bool:
    """Tell whether the controller listens beyond loopback, as somebody must have asked."""
    return any(
        (match := _TCP.match(address)) and not _LOOPBACK.fullmatch(match["host"])
        for address in candidates(connector, "registration")
    )


def engine_count(n: int) -> str:
    """Return how many engines, in words."""
    return "1 engine" if n == 1 else f"{n} engines"
