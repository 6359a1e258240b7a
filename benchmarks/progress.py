"""Telling what is being done: one line that changes on a terminal, few lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time


class Progress:
    """``note`` for what stays to be read, ``step`` for what is being done now (on stderr)."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._began = time.monotonic()
        self._round, self._rounds = 0, 0
        self._done = 0.0

    def round(self, number: int, rounds: int) -> None:
        """Round ``number`` (from 1) of ``rounds`` begins."""
        self._round, self._rounds, self._done = number, rounds, number - 1
        if not self._terminal:
            self.note(f"round {number} of {rounds}{self._left()}")

    def part(self, share: float) -> None:
        """``share`` (0 to 1) of the round is over."""
        self._done = self._round - 1 + share

    def step(self, text: str) -> None:
        """What is being done now; shown on a terminal only."""
        if self._quiet or not self._terminal:
            return
        where = f"round {self._round}/{self._rounds}: " if self._rounds else ""
        width = shutil.get_terminal_size().columns - 1
        line = f"{where}{text}{self._left()}"[:width]
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A line that stays."""
        if self._quiet:
            return
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr)
        print(text, file=sys.stderr, flush=True)

    def done(self) -> None:
        """Nothing more is being done."""
        if self._terminal and not self._quiet:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _left(self) -> str:
        gone = time.monotonic() - self._began
        text = f" ({_minutes(gone)} gone"
        if self._done >= 1:  # one round says what the others will take
            text += f", about {_minutes(gone / self._done * (self._rounds - self._done))} left"
        return text + ")"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
