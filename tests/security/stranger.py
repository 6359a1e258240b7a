"""What somebody else tries, as a program that runs under their account or on their host.

It needs Python and nothing of ours: ``python3 stranger.py WHAT`` with JSON on the first line of
standard input, and the outcome as JSON.

- ``knock``: talk to ports, with no, a wrong and a captured password; what was heard.
- ``hold``: hold connections until the next line of standard input.
- ``look``: read, change, join, signal and trace what belongs to others; what succeeded.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

PTRACE_ATTACH, PTRACE_DETACH = 16, 17
PIDFD_OPEN, PIDFD_GETFD = 434, 438


def greeting(mechanism: bytes) -> bytes:
    said = b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.ljust(20, b"\0")
    return said.ljust(64, b"\0")


def command(name: bytes, body: bytes) -> bytes:
    said = bytes((len(name),)) + name + body
    return bytes((4, len(said))) + said


def hello(user: bytes, password: bytes) -> bytes:
    body = bytes((len(user),)) + user + bytes((len(password),)) + password
    return command(b"HELLO", body)


def openings(user: bytes, password: bytes) -> dict[str, list[bytes]]:
    """What is said, piece by piece."""
    plain, ready = greeting(b"PLAIN"), command(b"INITIATE", b"\x0bSocket-Type\0\0\0\x06DEALER")
    gigabyte = b"\x02" + (1_000_000_000).to_bytes(8, "big") + os.urandom(50_000)
    inside = [plain, hello(user, password), ready]
    curve = command(b"HELLO", b"\1\0" + bytes(72) + os.urandom(120))
    return {
        "nothing": [],
        "noise": [os.urandom(5000)],
        "another protocol": [b"GET / HTTP/1.0\r\n\r\n"],
        "half a greeting": [plain[:11]],
        "no mechanism": [greeting(b"NULL"), command(b"READY", ready[11:]), b"\0\5hello"],
        "no password": [plain, hello(b"", b""), ready, b"\0\5hello"],
        "a wrong password": [plain, hello(user, b"wrong"), ready, b"\0\5hello"],
        "a captured password": [*inside, b"\0\5hello", b"\0\x25H" + os.urandom(36)],
        "a captured one and a gigabyte": [*inside, gigabyte],
        "a gigabyte at once": [plain, gigabyte],
        "a made-up key": [greeting(b"CURVE"), curve, os.urandom(5000)],
    }


def say(address: str, port: int, pieces: list[bytes], patience: float) -> bytes:
    """Say the pieces, each when something was answered or a moment is over.

    ``patience`` is how many seconds the first three may take to be answered.
    """
    heard = b""
    with socket.create_connection((address, port), timeout=5) as made:
        try:
            for number, piece in enumerate([*pieces, b""]):
                made.settimeout(patience if number < 3 else 0.1)
                made.sendall(piece)
                try:
                    heard += made.recv(1 << 16)
                except TimeoutError:
                    pass
        except OSError:
            pass  # it was shown the door
    return heard


def knock(told: dict[str, Any]) -> dict[str, dict[str, str]]:
    said = openings(told["user"].encode(), bytes.fromhex(told["password"]))
    return {
        name: {
            # The gate answers who shows this, however busy the host is.
            what: say(told["address"], port, each, 5 if "captured" in what else 0.1).hex()
            for what, each in said.items()
        }
        for name, port in told["ports"].items()
    }


def hold(told: dict[str, Any]) -> int:
    plain = greeting(b"PLAIN")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    held = []
    for number in range(told["count"]):
        made = socket.create_connection((told["address"], told["port"]), timeout=10)
        made.sendall(plain[: number % 64 if number % 2 else 0])
        held.append(made)
    print("held", flush=True)
    sys.stdin.readline()
    return len(held)


def look(told: dict[str, Any]) -> dict[str, Any]:
    """Try everything on files and processes of others."""
    did: list[str] = []

    def attempt(what: str, action: Callable[[], Any]) -> None:
        try:
            action()
        except OSError:
            return
        did.append(what)

    for path in told["paths"]:
        folder = os.path.dirname(path)
        attempt(f"read {path}", lambda path=path: os.close(os.open(path, os.O_RDONLY)))
        attempt(f"write {path}", lambda path=path: os.close(os.open(path, os.O_WRONLY)))
        attempt(f"list {path}", lambda path=path: os.listdir(path))
        if not everybodys(folder):
            attempt(f"put beside {path}", lambda folder=folder: beside(folder))
        attempt(f"open up {path}", lambda path=path: os.chmod(path, 0o777))
        attempt(f"link to {path}", lambda path=path: os.link(path, "/tmp/linked"))
        attempt(f"move {path}", lambda path=path: os.rename(path, "/tmp/moved"))
        attempt(f"join {path}", lambda path=path: socket.socket(socket.AF_UNIX).connect(path))
        attempt(f"remove {path}", lambda path=path: os.unlink(path))
    shown = []
    for pid in told["pids"]:
        with open(f"/proc/{pid}/cmdline") as file:
            shown.append(file.read())
        for name in ("environ", "mem", "maps", "stack", "auxv"):
            attempt(f"read {name} of {pid}", lambda p=pid, n=name: peek(p, n))
        for name in ("fd", "map_files"):
            attempt(f"list {name} of {pid}", lambda p=pid, n=name: os.listdir(f"/proc/{p}/{n}"))
        for link in ("cwd", "exe"):
            attempt(f"see {link} of {pid}", lambda p=pid, n=link: os.readlink(f"/proc/{p}/{n}"))
        attempt(f"trace {pid}", lambda p=pid: trace(p))
        attempt(f"take a descriptor of {pid}", lambda p=pid: descriptor(p))
        attempt(f"signal {pid}", lambda p=pid: os.kill(p, signal.SIGTERM))
    return {"did": did, "shown": shown}


def everybodys(folder: str) -> bool:
    """Whether all may put files there, as in /tmp."""
    try:
        return bool(os.stat(folder).st_mode & 0o002)
    except OSError:
        return False


def beside(folder: str) -> None:
    os.mkdir(f"{folder}/stranger")
    os.rmdir(f"{folder}/stranger")


def peek(pid: int, name: str) -> None:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        if name != "mem" and not file.read(1):  # its first page is nobody's
            raise OSError("nothing there")


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def trace(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.ptrace(PTRACE_ATTACH, pid, None, None))
    libc.ptrace(PTRACE_DETACH, pid, None, None)


def descriptor(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    opened = _checked(libc.syscall(PIDFD_OPEN, pid, 0))
    _checked(libc.syscall(PIDFD_GETFD, opened, 0, 0))


def main() -> None:
    what: dict[str, Callable[[dict[str, Any]], Any]] = {
        "knock": knock,
        "hold": hold,
        "look": look,
    }
    print(json.dumps(what[sys.argv[1]](json.loads(sys.stdin.readline()))), flush=True)


if __name__ == "__main__":
    main()
