"""Speaks the launched protocol without a network: stands in for controller and agent.

The environment variable FAKE says what goes wrong.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time


def say(**event: object) -> None:
    print(json.dumps(event), flush=True)


def controller(config: dict[str, object], fault: str) -> None:
    if fault == "port":
        say(event="error", text="cannot listen on 127.0.0.1:80 for registration: denied")
        sys.exit(1)
    if fault == "crash":
        sys.exit("a traceback")
    text = json.dumps({"pid": os.getpid()})
    for name in ("client_file", "engine_file"):
        with open(str(config[name]), "w") as file:
            file.write(text)
        os.chmod(str(config[name]), 0o600)
    if fault != "mute":
        say(event="ready", url="tcp://127.0.0.1:1", engine_connector=text)


def engine(config: dict[str, object], fault: str) -> None:
    assert "pid" in json.loads(json.loads(sys.stdin.readline())["connector"])
    n = int(str(config["n"]))
    for i in range(n):
        if fault == "engine" and i == n - 1:
            say(event="error", text="engine 1 cannot start: No module named 'missing'")
            sys.exit(1)
        if fault == "slow" and i == n - 1:
            break
        say(event="engine", id=i, pid=os.getpid())
    else:
        say(event="engines", n=n)


def both(ends: list[int]) -> None:
    """Fork the controller, as an agent does, and go on as the engines' process."""
    pid = os.fork()
    if pid:

        def ended(number: int, frame: object) -> None:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            event = json.dumps({"event": "exit", "code": code})
            os.write(ends[1], event.encode() + b"\n")
            os.close(ends[1])

        signal.signal(signal.SIGCHLD, ended)
        os.close(ends[0])
        os.close(ends[2])
        return play("engine")
    os.setsid()
    for fd, end in enumerate(ends):
        os.dup2(end, fd)
        os.close(end)
    say(event="process", pid=os.getpid())
    code: object = 0
    try:
        play("controller")
    except SystemExit as end_of_it:
        code = end_of_it.code
        if isinstance(code, str):
            print(code, file=sys.stderr, flush=True)
            code = 1
    say(event="exit", code=code)
    os._exit(int(str(code)))


def play(role: str) -> None:
    fault = os.environ.get("FAKE", "")
    config = json.loads(sys.stdin.readline())["config"]
    {"controller": controller, "engine": engine}[role](config, fault)
    sys.stdin.read()
    while fault == "stubborn":
        time.sleep(1)


if sys.argv[1] == "both":
    both([int(fd) for fd in sys.argv[2:5]])
else:
    play(sys.argv[1])
