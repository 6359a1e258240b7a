"""What was found on a host behind SSH, judged: one line each, passed or failed with its remedy.

Pure: what the host said comes in as values; see :mod:`ipclusterz.apps.sshprobe`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

PASSED, FAILED, SKIPPED = "passed", "failed", "not tested"

CHECKS = (
    *("name", "port", "host key", "authentication", "shell", "PATH", "python", "ipclusterz"),
    *("cloudpickle", "clock", "limits", "forward tcp", "forward unix", "back tcp", "back unix"),
)
"""All lines of a host, in the order in which they are tested."""

SKEW_SECONDS = 5.0
"""Clocks that differ more make times in logs and task records misleading."""

FILES = 1024
PROCESSES = 512
"""Fewer are too few for an agent with some tens of engines."""

FORWARDING = {
    "forward tcp": "AllowTcpForwarding",
    "forward unix": "AllowStreamLocalForwarding",
    "back tcp": "AllowTcpForwarding",
    "back unix": "AllowStreamLocalForwarding",
}
"""The setting of sshd that each way needs."""


class Line(Struct, frozen=True):
    """One check: its name, one of passed, failed and not tested, and what was found."""

    check: str
    state: str
    text: str
    remedy: str = ""


def passed(check: str, text: str) -> Line:
    """Return the line of a check that succeeded."""
    return Line(check, PASSED, text)


def failed(check: str, text: str, remedy: str) -> Line:
    """Return the line of a check that failed, with what to do."""
    return Line(check, FAILED, text, remedy)


def rest(lines: list[Line], why: str) -> list[Line]:
    """Return all lines; those that are missing were not tested because of ``why``."""
    found = {line.check: line for line in lines}
    return [found.get(check, Line(check, SKIPPED, why)) for check in CHECKS]


def shell(printed: str) -> Line:
    """Judge what a shell printed that was asked for nothing."""
    if not printed.strip():
        return passed("shell", "prints nothing by itself")
    first = " ".join(printed.split())[:60]
    return failed(
        "shell",
        f"a start-up file prints {first!r}, which breaks scp and rsync",
        "let it print in interactive shells only: case $- in *i*) ...;; esac"
        " (csh: if ($?prompt) ..., fish: if status is-interactive)",
    )


def python(facts: Mapping[str, Any], ours: Mapping[str, Any]) -> list[Line]:
    """Compare Python and packages there with ours; both as :data:`QUESTION` answers."""
    there, here = str(facts["python"]), str(ours["python"])
    where = str(facts["executable"])
    if there.split(".")[:2] == here.split(".")[:2]:
        found = [passed("python", f"{there} ({where})")]
    else:
        found = [
            failed(
                "python",
                f"{there} ({where}) there, {here} here: functions do not travel between them",
                f"use Python {'.'.join(here.split('.')[:2])} on both; --python names another",
            )
        ]
    return [*found, _package(facts, ours, where), _cloudpickle(facts, ours, where)]


def _package(facts: Mapping[str, Any], ours: Mapping[str, Any], where: str) -> Line:
    version, problem = facts.get("ipclusterz"), str(facts.get("problem", ""))
    if not version:
        return failed(
            "ipclusterz",
            f"{where} there cannot import it ({problem})",
            f"install it: {where} -m pip install ipclusterz=={ours['ipclusterz']}",
        )
    if facts.get("protocol") != ours["protocol"]:
        return failed(
            "ipclusterz",
            f"{version} there speaks protocol {facts.get('protocol')}, {ours['ipclusterz']}"
            f" here {ours['protocol']}",
            "install the same version on both",
        )
    return passed("ipclusterz", str(version))


def _cloudpickle(facts: Mapping[str, Any], ours: Mapping[str, Any], where: str) -> Line:
    version, own = facts.get("cloudpickle"), str(ours["cloudpickle"])
    if not version:
        return failed(
            "cloudpickle",
            f"{where} there cannot import it",
            f"install it: {where} -m pip install cloudpickle=={own}",
        )
    if str(version).split(".")[0] != own.split(".")[0]:
        return failed(
            "cloudpickle",
            f"{version} there, {own} here: what one packs the other may not unpack",
            f"install the same: {where} -m pip install cloudpickle=={own}",
        )
    return passed("cloudpickle", str(version))


def clock(there: float, before: float, after: float) -> Line:
    """Compare a time of theirs with ours just before and after it was asked for."""
    skew = max(there - after, before - there, 0.0)
    if skew <= SKEW_SECONDS:
        return passed("clock", f"differs by less than {SKEW_SECONDS:.0f} s")
    word = "ahead" if there > after else "behind"
    return failed(
        "clock",
        f"it is {skew:.0f} s {word}, so times in logs and records mislead",
        "let it follow a time server (chrony, systemd-timesyncd)",
    )


def limits(files: int, processes: int) -> Line:
    """Judge limits of open files and processes; -1 is none."""
    low = []
    if 0 <= files < FILES:
        low.append(f"{files} open files (ulimit -n; {FILES} are needed)")
    if 0 <= processes < PROCESSES:
        low.append(f"{processes} processes (ulimit -u; {PROCESSES} are needed)")
    if low:
        return failed(
            "limits",
            f"allowed are only {' and '.join(low)}",
            "raise nofile and nproc in /etc/security/limits.conf there",
        )
    shown = [("no limit" if count < 0 else str(count)) for count in (files, processes)]
    return passed("limits", f"open files {shown[0]}, processes {shown[1]}")


def way(check: str, problem: str) -> Line:
    """Judge one way of forwarding; '' for a problem says that what was sent came through."""
    if not problem:
        return passed(check, "carries data both ways")
    return failed(check, problem, f"allow it in sshd_config there: {FORWARDING[check]} yes")


def connection(kind: str, text: str) -> Line:
    """Return the line of a connection that failed with an SSHError."""
    return failed("host key" if kind == "trust" else "authentication", *_parted(text))


def changed(text: str) -> bool:
    """Tell whether an error is that a host's key is another one than before."""
    return "another one than before" in text


def _parted(text: str) -> tuple[str, str]:
    """Split an error of ours into what happened and what to do."""
    reason = re.split(r" by ssh(?: \(paramiko\))?: ", text, maxsplit=1)[-1]
    what, _, remedy = reason.partition(": ")
    return what, remedy or "try it by hand: ssh -v"


# Answered by any Python from 3.0 on, in one line of JSON behind the mark.
QUESTION = """
import json, os, sys, time
f = {"python": "%d.%d.%d" % sys.version_info[:3], "executable": sys.executable or "python"}
f["time"] = time.time()
f["path"] = os.environ.get("PATH", "")
try:
    import resource
    f["files"] = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    f["processes"] = resource.getrlimit(resource.RLIMIT_NPROC)[0]
except Exception:
    f["files"] = f["processes"] = -1
try:
    import cloudpickle
    f["cloudpickle"] = cloudpickle.__version__
except Exception:
    pass
try:
    import ipclusterz._version, ipclusterz.core.message
    f["ipclusterz"] = ipclusterz._version.__version__
    f["protocol"] = ipclusterz.core.message.PROTOCOL
except Exception as e:
    f["problem"] = "%s: %s" % (type(e).__name__, e)
"""

# One command a line, one answer a line.  Echoes what comes to its sockets; connects to ours.
PARTNER = """
import json, os, shutil, socket, sys, tempfile, threading
folder = tempfile.mkdtemp()
def echo(s):
    while True:
        c, _ = s.accept()
        c.settimeout(5)
        try: c.sendall(c.recv(64))
        except OSError: pass
        c.close()
def listen(s, where):
    s.bind(where); s.listen(5)
    t = threading.Thread(target=echo, args=(s,)); t.daemon = True; t.start()
    return s.getsockname()
try:
    unix = os.path.join(folder, "s")
    port = listen(socket.socket(), ("127.0.0.1", 0))[1]
    listen(socket.socket(socket.AF_UNIX), unix)
    print(MARK + json.dumps({"port": port, "unix": unix, "back": os.path.join(folder, "b")}))
    sys.stdout.flush()
    for line in iter(sys.stdin.readline, ""):
        kind, where, token = json.loads(line)
        try:
            c = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
            c.settimeout(5)
            c.connect(where if kind == "unix" else ("127.0.0.1", where))
            c.sendall(token.encode())
            said = "" if c.recv(64) == token.encode() else "nothing came back"
        except Exception as e:
            said = str(e) or type(e).__name__
        print(MARK + json.dumps(said))
        sys.stdout.flush()
finally:
    shutil.rmtree(folder, ignore_errors=True)
"""
