"""The client of the row hosts: arrays to engines on another host and back.

``python -m benchmarks.peers.across_hosts ENGINES INTERFACE BYTES SHARED``, where a controller
runs whose engines are elsewhere.  Prints JSON: bytes a second there and back, and how often
an array of SHARED bytes crossed ``INTERFACE`` until each engine had it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import ipclusterz as ipp
from benchmarks.peers.loops import check_told, new_array, time_call
from benchmarks.work import told

WARM_UP = 10.0
"""Megabytes that go before anything counts."""


def sent(interface: str) -> int:
    """Bytes that left this host by an interface so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == interface:
            return int(numbers.split()[8])
    raise ValueError(f"this host has no interface {interface}")


def push(view: Any, array: Any) -> float:
    """Seconds until the array is on the engines of ``view``, which tell so."""
    taken, _ = time_call(lambda: view.push({"array": array}, block=True))
    reports = view.apply_sync(told, ipp.Reference("array"))
    check_told(reports if isinstance(reports[0], list) else [reports], array, len(view))
    return taken


def main(engines: int, interface: str, size: int, shared: int) -> None:
    """Measure and print."""
    with ipp.Client(timeout=30) as rc:
        rc.wait_for_engines(engines, timeout=60)
        one, everyone = rc[[0]], rc[:]
        push(everyone, new_array(WARM_UP, 1))
        array = new_array(size / 1e6, 2)
        there = array.nbytes / push(one, array)
        began = perf_counter()
        back = rc[0].pull("array", block=True)
        home = array.nbytes / (perf_counter() - began)
        check_told([told(back)], array, 1)
        del array, back
        array = new_array(shared / 1e6, 3)
        before = sent(interface)
        taken = push(everyone, array)
        crossed = (sent(interface) - before) / array.nbytes
    found = {"there": there, "back": home, "crossed": crossed, "shared": taken}
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
