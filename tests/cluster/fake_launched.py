"""Speaks the launched protocol without a network: stands in for controller and agent.

The environment variable FAKE says what goes wrong.
"""

from __future__ import annotations

import json
import os
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


def main() -> None:
    fault = os.environ.get("FAKE", "")
    config = json.loads(sys.stdin.readline())["config"]
    {"controller": controller, "engine": engine}[sys.argv[1]](config, fault)
    sys.stdin.read()
    while fault == "stubborn":
        time.sleep(1)


main()
