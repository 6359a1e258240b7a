"""A network that cuts, and delivers late what was sent before: nothing is lost or doubled."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Any

import pytest

from ipclusterz.core import message as m
from ipclusterz.net import dial as dials
from ipclusterz.net import lines
from tests.net.conftest import PEER, over_lines

MESSAGES = 60


class Pair:
    """One connection through the network, each half with what is on its way."""

    def __init__(self, here: socket.socket, there: socket.socket) -> None:
        self.here, self.there = here, there
        self.thither = bytearray()
        self.hither = bytearray()
        self.cut = False
        for end in (here, there):
            end.setblocking(False)

    def take(self) -> None:
        """Take in what either end has sent; an end that hung up is a cut."""
        for end, way in ((self.here, self.thither), (self.there, self.hither)):
            if end is self.here and self.cut:
                continue
            try:
                while data := end.recv(65536):
                    way += data
                self.hang_up()
            except BlockingIOError:
                pass
            except OSError:
                self.hang_up()

    def give(self, thither: int, hither: int) -> None:
        """Deliver so many bytes each way."""
        try:
            del self.thither[: self.there.send(self.thither[:thither]) if thither else 0]
            if not self.cut and hither:
                del self.hither[: self.here.send(self.hither[:hither])]
        except BlockingIOError:
            pass
        except OSError:
            self.thither.clear()
            self.hang_up()

    def hang_up(self) -> None:
        """End the near half; what was sent before stays on its way."""
        if not self.cut:
            self.cut = True
            self.here.close()

    def over(self) -> bool:
        return self.cut and not self.thither

    def close(self) -> None:
        self.here.close()
        self.there.close()


class Network:
    """Between a dial and a door; what it does with connections is drawn by lot."""

    def __init__(self, folder: Path, door: str, seed: int) -> None:
        self.rng = random.Random(seed)
        self.address = f"{lines.SCHEME}{folder}/way"
        self.calm = False
        self.cuts = 0
        self._door = door.removeprefix(lines.SCHEME)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(f"{folder}/way")
        self._listening.listen(50)
        self._listening.setblocking(False)
        self._pairs: list[Pair] = []

    def step(self) -> None:
        try:
            while True:
                there = socket.socket(socket.AF_UNIX)
                try:
                    here, _ = self._listening.accept()
                except BlockingIOError:
                    there.close()
                    break
                there.connect(self._door)
                self._pairs.append(Pair(here, there))
        finally:
            for pair in list(self._pairs):
                pair.take()
                self._move(pair)

    def _move(self, pair: Pair) -> None:
        rng = self.rng
        if self.calm:
            pair.give(1 << 20, 1 << 20)
        else:
            if not pair.cut and rng.random() < 0.04:
                pair.hang_up()
                self.cuts += 1
            # What a cut connection still carries is slow to arrive.
            chance = 0.05 if pair.cut else 0.7
            if rng.random() < chance:
                pair.give(rng.choice([7, 60, 1 << 20]), rng.choice([0, 7, 60, 1 << 20]))
        if pair.over() and (self.calm or rng.random() < 0.2):
            pair.close()
            self._pairs.remove(pair)

    def close(self) -> None:
        self._listening.close()
        for pair in self._pairs:
            pair.close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dials, "FIRST_PAUSE", 0.0005)
    monkeypatch.setattr(dials, "LONGEST_PAUSE", 0.002)


@over_lines
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("seed", range(60))
def test_all_comes_once_and_in_order(bench: Any, seed: int, tmp_path: Path) -> None:
    network = Network(tmp_path, bench.address, seed)
    rng = network.rng
    bench.admit(PEER)
    bench.address = network.address
    dial = bench.dial()
    sent = 0
    try:
        for _ in range(100_000):
            network.step()
            bench.loop.process(bench.loop.wait(bench.loop.timeout(0.0005)))
            if sent < MESSAGES and rng.random() < 0.3:
                dial.send(m.Beat(sent))
                bench.door.send(PEER.peer, m.Beat(sent))
                sent += 1
            network.calm = sent == MESSAGES
            if network.calm and len(bench.heard) >= sent <= len(bench.answers):
                break
    finally:
        network.close()
    assert [message.n for _, message in bench.heard] == list(range(MESSAGES))
    assert [message.n for message in bench.answers] == list(range(MESSAGES))
    assert bench.renewed == [PEER.peer] or not bench.renewed
    assert bench.news == ["renewed"] and network.cuts
