"""The whole run: rounds, in each of which every peer has its turn, alone on the machine.

A peer's processes are started for its turn and gone at its end, so no peer's threads,
timers or memory disturb another's figures.  Every other round goes backwards: a machine
that slowly becomes busier favours nobody.  A row that fails or is too slow twice is given
up for that peer, and so is a peer that cannot be started twice; the rest goes on.
"""

from __future__ import annotations

import importlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import SubprocessError

import psutil

from benchmarks import machine, processes, rows
from benchmarks.alone import Setting, Unavailable
from benchmarks.bars import wide_name
from benchmarks.books import Books, Measured
from benchmarks.environment import ROOT, variables
from benchmarks.figures import Results
from benchmarks.fresh import time_script
from benchmarks.peers import Peer
from benchmarks.plan import Plan
from benchmarks.progress import Progress
from benchmarks.protocol import PeerError, PeerGone, PeerProcess
from benchmarks.turns import Counts, Turn

APART = ("start", "wide", *rows.ALONE)
"""Rows with processes of their own, outside of the turns."""

STARTING = "starting it"
"""Stands among the rows for starting a peer's process."""


class Bench:
    """One run: the peers that can be had, a folder for their logs, and the results.

    ``pythons`` maps each peer to its interpreter, ``beside`` is one more folder of modules
    for those that run in this one.
    """

    def __init__(
        self,
        plan: Plan,
        pythons: dict[Peer, Path],
        progress: Progress,
        beside: Path | None = None,
    ) -> None:
        self.plan = plan
        self.pythons = pythons
        self.progress = progress
        self._beside = beside
        self._books = Books(progress)
        self._counts = Counts()
        self._marks: set[str] = set()
        # Short: UNIX socket paths end at 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))

    @property
    def results(self) -> Results:
        return self._books.results

    def run(self) -> None:
        """Measure all rounds; the results grow as they come."""
        peers = [peer for peer in self.pythons if set(peer.rows) & set(self.plan.rows)]
        self._books.open(peers, self.plan.rows)
        for number in range(self.plan.rounds):
            self.progress.round(number + 1, self.plan.rounds)
            watch = machine.Watch(self._is_ours, self.plan.settle)
            for place, peer in enumerate(peers if number % 2 == 0 else peers[::-1], 1):
                self._round(peer, number)
                self.progress.part(place / len(peers))
            self.results.load.append(watch.stop())
        self.progress.done()

    def _round(self, peer: Peer, number: int) -> None:
        """All that is measured of ``peer`` in round ``number``, from 0."""
        turn_rows = [row for row in self.plan.rows if row in peer.rows and row not in APART]
        if turn_rows:
            self._turn(peer, turn_rows)
        if "start" in self.plan.rows and "start" in peer.rows:
            # A turn before has read all files from the disk; else the first start does.
            self._start(peer, warm_up=number == 0 and not turn_rows)
        if "wide" in self.plan.rows and "wide" in peer.rows:
            for n in self.plan.wide:
                self._wide(peer, n)
        for row in rows.ALONE:
            if number < self.plan.alone and row in self.plan.rows and row in peer.rows:
                self._alone(peer, row)

    # ------------------------------------------------------------------- turns

    def _turn(self, peer: Peer, turn_rows: list[str]) -> None:
        """Start the peer's program, measure each row that is not given up, end it."""
        books = self._books
        hopeless = books.given_up(peer, STARTING)
        left = [row for row in turn_rows if not (hopeless or books.given_up(peer, row))]
        for row in turn_rows:
            if row not in left:
                books.absent(peer, row)
        if not left:
            return
        self.progress.step(f"{peer.name} starts")
        try:
            with self._running(peer, self.plan.workers) as turn:
                self._first_words(turn)
                while left:
                    self.progress.step(f"{peer.name}, {left[0]}")
                    self._row(turn, left[0])
                    del left[0]
        except PeerError as error:
            if not isinstance(error, RowLost):
                books.failed(peer, STARTING, error)
            for row in left:
                books.absent(peer, row, str(error))

    def _first_words(self, turn: Turn) -> None:
        versions = self.results.versions
        if turn.peer.name not in versions:
            versions[turn.peer.name] = turn.call("versions")

    def _row(self, turn: Turn, row: str) -> None:
        """Measure one row; raises RowLost when nothing more can be asked of the process."""
        try:
            self._books.add(turn.peer, turn.measure(row))
        except (PeerError, OSError) as error:
            self._books.failed(turn.peer, row, error)
            if isinstance(error, PeerGone):
                raise RowLost(str(error)) from None
            self._books.absent(turn.peer, row, str(error))

    @contextmanager
    def _running(self, peer: Peer, n: int) -> Iterator[Turn]:
        """The peer's program with ``n`` engines; every process of it ends with the block."""
        mark = self._new_mark()
        process = PeerProcess(
            [str(self.pythons[peer]), "-m", peer.program, *peer.arguments],
            env=self._variables(peer, mark),
            cwd=ROOT,
            log=self._log(peer),
        )
        patience, ended = 5.0, False
        try:
            process.call("start", timeout=self.plan.start_limit, n=n)
            yield Turn(peer, process, mark, self.plan, self._counts)
            patience, ended = 20.0, True
        except PeerGone:
            patience = 0.0
            raise
        finally:
            process.close(patience)
            self._end(peer, mark, ended)

    # ------------------------------------------------------------ fresh starts

    def _start(self, peer: Peer, warm_up: bool) -> None:
        """A whole fresh Python process; ``warm_up``: after one that does not count."""
        if self._books.given_up(peer, "start"):
            self._books.absent(peer, "start")
            return
        self.progress.step(f"{peer.name}, start")
        try:
            if warm_up:
                self._fresh_process(peer)
            self._books.add(peer, self._fresh_process(peer))
        except PeerError as error:
            self._books.failed(peer, "start", error)
            self._books.absent(peer, "start", str(error))

    def _fresh_process(self, peer: Peer) -> list[Measured]:
        mark = self._new_mark()
        ended = False
        try:
            moments = time_script(
                [
                    str(self.pythons[peer]),
                    str(ROOT / "benchmarks" / "first" / peer.first),
                    str(self.plan.workers),
                ],
                env=self._variables(peer, mark),
                cwd=self.folder,
                log=self._log(peer),
                timeout=self.plan.start_limit,
            )
            ended = True
        finally:
            self._end(peer, mark, ended)
        return [
            Measured(rows.START, moments.first),
            Measured(rows.START_ALL, moments.everyone),
            Measured(rows.STOP, moments.end),
        ]

    # ------------------------------------------------------------------- width

    def _wide(self, peer: Peer, n: int) -> None:
        """Start ``n`` engines; each must answer with a process of its own."""
        books, many = self._books, replace(peer, name=wide_name(n))
        details = self.results.figure(many.name, rows.WIDE_READY).details
        details["n"] = n
        if books.given_up(many, "wide"):
            books.absent(many, "wide")
            return
        self.progress.step(f"{many.name}, wide")
        try:
            began = time.perf_counter()
            with self._running(peer, n) as turn:
                answered = len(set(turn.call("everyone")))
                ready = time.perf_counter() - began
                trips = sorted(turn.call("apply", seconds=self.plan.seconds))
                weight = turn.weigh()[0].total
        except (PeerError, OSError) as error:
            books.failed(many, "wide", error)
            books.absent(many, "wide", str(error))
            return
        details.setdefault("answered", []).append(answered)
        found = [
            Measured(rows.WIDE_READY, ready),
            Measured(rows.WIDE_APPLY, trips[len(trips) // 2]),
            Measured(rows.WIDE_MEMORY, weight / n, {"total": weight}),
        ]
        books.add(many, found)

    # ------------------------------------------------------------------- alone

    def _alone(self, peer: Peer, row: str) -> None:
        """A row of :mod:`benchmarks.alone`."""
        books = self._books
        if row in self.results.missing:
            return
        if books.given_up(peer, row):
            books.absent_alone(peer, row)
            return

        def step(text: str) -> None:
            self.progress.step(f"{peer.name}, {text}")

        beside = (str(self._beside),) if self._beside else ()
        mark = {processes.MARK: self._new_mark()}
        setting = Setting(self.plan, lambda n: self._running(peer, n), step, beside, mark)
        measure = importlib.import_module(f"benchmarks.alone.{row}").measure
        # Not every one of these rows has a process that could be asked.
        ours = importlib.import_module(peer.program)
        self.results.versions.setdefault(peer.name, ours.versions())
        step(row)
        try:
            books.add_found(measure(setting))
        except Unavailable as error:
            self.results.missing[row] = str(error)
        except (PeerError, OSError, RuntimeError, ValueError, SubprocessError) as error:
            books.failed(peer, row, error)
            books.absent_alone(peer, row, str(error))

    # --------------------------------------------------------------- processes

    def _new_mark(self) -> str:
        mark = processes.new_mark()
        self._marks.add(mark)
        return mark

    def _is_ours(self, process: psutil.Process) -> bool:
        """Whether a process belongs to this run."""
        if process.pid == os.getpid():
            return True
        return process.environ().get(processes.MARK) in self._marks

    def _end(self, peer: Peer, mark: str, ended: bool) -> None:
        """End what the peer left; ``ended``: it had the time to do that itself."""
        left = processes.end_marked(mark, patience=3.0 if ended else 0.0)
        if left and ended:
            self._books.trouble(f"{peer.name}: left {left} processes behind (killed)")

    def _variables(self, peer: Peer, mark: str) -> dict[str, str]:
        beside = None if peer.packages else self._beside
        return variables(mark, processes.MARK, self.folder / peer.key, beside)

    def _log(self, peer: Peer) -> Path:
        return self.folder / f"{'-'.join([peer.key, *peer.arguments])}.log"


class RowLost(PeerGone):
    """The peer's process is gone in the middle of a row, which is noted already."""
