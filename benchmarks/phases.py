"""What is measured, in which order: start, memory, width, then tasks/s and round trips.

The first three have the machine to themselves, one peer after the other.  For the last two
all clusters stand ready and are asked in turns.  A peer that fails is left out of the rest
of its phase and said in ``results.trouble``; the others go on.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import figures, processes
from benchmarks.environment import ROOT, variables
from benchmarks.figures import Figure, Results
from benchmarks.fresh import time_script
from benchmarks.peers import OURS, Peer
from benchmarks.protocol import PeerError, PeerProcess

START_TIMEOUT = 90.0
CALL_TIMEOUT = 120.0


@dataclass
class Plan:
    """How much is measured: rounds, and seconds of work in each."""

    workers: int = 4
    rounds: int = 9
    starts: int = 7
    seconds: float = 1.0
    wide: int = 200

    @classmethod
    def quick(cls) -> Plan:
        return cls(rounds=5, starts=3, seconds=0.4)


class Bench:
    """One run: the peers that can be had, a folder for their logs, and the results.

    ``pythons`` maps each peer to its interpreter; ``notice`` prints a line of progress.
    """

    def __init__(
        self, plan: Plan, pythons: dict[Peer, Path], notice: Callable[[str], None]
    ) -> None:
        self.plan = plan
        self.pythons = pythons
        self.notice = notice
        self.results = Results()
        # Short: UNIX socket paths end at 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))

    # ------------------------------------------------------------------ start

    def measure_start(self) -> None:
        """Whole fresh Python processes, in turns, after one of each that does not count."""
        peers = [peer for peer in self.pythons if peer.first]
        quantities = (figures.START, figures.START_ALL, figures.STOP)
        taken = {p: [self.results.add(p.name, q) for q in quantities] for p in peers}
        for number in range(self.plan.starts + 1):
            self.notice(f"start: round {number} of {self.plan.starts}")
            for peer in list(peers):
                try:
                    moments = self._fresh_process(peer)
                except PeerError as error:
                    self._trouble(f"{peer.name}: {error}")
                    peers.remove(peer)
                    continue
                if number > 0:
                    for figure, value in zip(taken[peer], moments, strict=True):
                        figure.rounds.append(value)

    def _fresh_process(self, peer: Peer) -> tuple[float, float, float]:
        mark = processes.new_mark()
        script = ROOT / "benchmarks" / "first" / peer.first
        try:
            moments = time_script(
                [str(self.pythons[peer]), str(script), str(self.plan.workers)],
                env=self._variables(peer, mark),
                cwd=self.folder,
                log=self._log(peer),
                timeout=START_TIMEOUT,
            )
        finally:
            self._end(peer, mark)
        return moments.first, moments.everyone, moments.end

    # ----------------------------------------------------------------- memory

    def measure_memory(self, rounds: int = 1) -> None:
        """Each peer alone, weighed after some work; the asking process apart from the rest."""
        for peer in [peer for peer in self.pythons if peer.memory]:
            self.notice(f"memory: {peer.name}")
            figure = self.results.add(peer.name, figures.MEMORY)
            for _ in range(rounds):
                try:
                    self._weigh(peer, figure)
                except (PeerError, OSError) as error:
                    self._trouble(str(error))
                    break

    def _weigh(self, peer: Peer, figure: Figure) -> None:
        with self._running(peer, self.plan.workers) as (process, mark):
            process.call("tasks", timeout=CALL_TIMEOUT, count=500)
            everyone = processes.marked(mark)
            cluster = processes.weigh([p for p in everyone if p.pid != process.pid])
            client = processes.weigh([p for p in everyone if p.pid == process.pid])
            figure.rounds.append(cluster.total)
            figure.details = {"processes": cluster.processes, "client": client.total}

    # ------------------------------------------------------------------ width

    def check_width(self) -> None:
        """Start ``plan.wide`` engines of ours; each must answer with a process of its own."""
        if OURS not in self.pythons or not self.plan.wide:
            return
        n = self.plan.wide
        self.notice(f"width: {n} engines of {OURS.name}")
        wide = self.results.wide
        wide["n"] = n
        try:
            began = time.perf_counter()
            with self._running(OURS, n) as (process, mark):
                wide["start"] = time.perf_counter() - began
                began = time.perf_counter()
                pids = process.call("everyone", timeout=CALL_TIMEOUT)
                wide["answer"] = time.perf_counter() - began
                wide["answered"] = len(set(pids))
                wide["memory"] = processes.weigh(
                    [p for p in processes.marked(mark) if p.pid != process.pid]
                ).total
        except (PeerError, OSError) as error:
            wide["why"] = str(error)
            self._trouble(str(error))

    # ------------------------------------------------------ tasks, round trips

    def measure_work(self) -> None:
        """All peers up; rounds of tasks/s and of round trips in turns, after a warm-up."""
        running: dict[Peer, PeerProcess] = {}
        marks: dict[Peer, str] = {}
        try:
            for peer in self.pythons:
                self.notice(f"work: starting {peer.name}")
                try:
                    running[peer], marks[peer] = self._start(peer, self.plan.workers)
                    self.results.versions[peer.name] = running[peer].call(
                        "versions", timeout=CALL_TIMEOUT
                    )
                except PeerError as error:
                    self._trouble(str(error))
                    running.pop(peer, None)
            self._tasks(running)
            self._trips(running)
        finally:
            for peer, process in running.items():
                process.close()
                self._end(peer, marks[peer])

    def _tasks(self, running: dict[Peer, PeerProcess]) -> None:
        counts: dict[Peer, int] = {}
        taken: dict[Peer, Figure] = {}
        for peer, process in list(running.items()):
            if peer.tasks:
                self.notice(f"work: {peer.name} warms up")
                taken[peer] = self.results.add(peer.name, figures.TASKS)
                with self._leave_out_on_error(running, peer):
                    counts[peer] = enough_tasks(process, self.plan.seconds)
                    taken[peer].details["count"] = counts[peer]
        for number in range(self.plan.rounds):
            self.notice(f"work: tasks/s, round {number + 1} of {self.plan.rounds}")
            for peer in [peer for peer in counts if peer in running]:
                taken[peer].rounds.append(None)
                with self._leave_out_on_error(running, peer):
                    count = counts[peer]
                    seconds = running[peer].call("tasks", timeout=CALL_TIMEOUT, count=count)
                    taken[peer].rounds[-1] = count / seconds

    def _trips(self, running: dict[Peer, PeerProcess]) -> None:
        taken = {peer: self.results.add(peer.name, figures.TRIP) for peer in running}
        for number in range(self.plan.rounds + 1):
            self.notice(f"work: round trips, round {number} of {self.plan.rounds}")
            for peer in [peer for peer in taken if peer in running]:
                with self._leave_out_on_error(running, peer):
                    trips = running[peer].call(
                        "trips", timeout=CALL_TIMEOUT, seconds=self.plan.seconds
                    )
                    if number > 0:  # the first is the warm-up
                        _add_trips(taken[peer], sorted(trips))

    # ---------------------------------------------------------------- helpers

    @contextmanager
    def _running(self, peer: Peer, n: int) -> Iterator[tuple[PeerProcess, str]]:
        process, mark = self._start(peer, n)
        try:
            yield process, mark
        finally:
            process.close()
            self._end(peer, mark)

    def _start(self, peer: Peer, n: int) -> tuple[PeerProcess, str]:
        mark = processes.new_mark()
        program = f"benchmarks.peers.{peer.program}"
        process = PeerProcess(
            peer.name,
            [str(self.pythons[peer]), "-m", program, *peer.arguments],
            env=self._variables(peer, mark),
            cwd=ROOT,
            log=self._log(peer),
        )
        try:
            process.call("start", timeout=START_TIMEOUT, n=n)
        except PeerError:
            process.close(timeout=5.0)
            self._end(peer, mark)
            raise
        return process, mark

    @contextmanager
    def _leave_out_on_error(
        self, running: dict[Peer, PeerProcess], peer: Peer
    ) -> Iterator[None]:
        try:
            yield
        except PeerError as error:
            self._trouble(str(error))
            running.pop(peer).close(timeout=5.0)

    def _end(self, peer: Peer, mark: str) -> None:
        left = processes.end_marked(mark)
        if left:
            self._trouble(f"{peer.name}: left {left} processes behind (killed)")

    def _trouble(self, text: str) -> None:
        self.notice(text)
        self.results.trouble.append(text)

    def _variables(self, peer: Peer, mark: str) -> dict[str, str]:
        return variables(mark, processes.MARK, self.folder / peer.program)

    def _log(self, peer: Peer) -> Path:
        suffix = "-".join([peer.program, *peer.arguments])
        return self.folder / f"{suffix}.log"


def enough_tasks(process: PeerProcess, seconds: float, most: int = 200_000) -> int:
    """Warm ``process`` up; how many tasks keep it busy for about ``seconds``."""
    count = 100
    while True:
        taken = process.call("tasks", timeout=CALL_TIMEOUT, count=count)
        wanted = int(count * seconds / max(taken, 1e-6))
        if taken >= seconds / 2 or count >= most:
            return max(100, min(wanted, most))
        # At most ten times more at once: the first, cold run says little.
        count = max(count + 1, min(wanted, 10 * count, most))


def _add_trips(figure: Figure, trips: list[float]) -> None:
    figure.rounds.append(trips[len(trips) // 2])
    late = figure.details.setdefault("percentile 99", [])
    late.append(trips[min(len(trips) - 1, len(trips) * 99 // 100)])
