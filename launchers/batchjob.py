"""A launch in a batch system: submitted jobs, what becomes of them, and their end.

One thread for each system asks about all jobs at once: see :mod:`ipclusterz.launchers.asker`.
Agents write their status events into files beside the script, where this process reads them.
A system that does not answer ends nothing: only a system that says so does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from ipclusterz.core.batchjob import belongs, is_part
from ipclusterz.error import LaunchError
from ipclusterz.files import private_dir, quote, remove, write_private
from ipclusterz.launchers.asker import PENDING_SECONDS, RUNNING_SECONDS, asker
from ipclusterz.launchers.base import Event, JobState, LaunchSpec
from ipclusterz.launchers.systems import (
    ENDED,
    PENDING,
    RUNNING,
    Interrupted,
    News,
    Silent,
    System,
    Unended,
    command,
    refusal,
    signal_name,
)

if TYPE_CHECKING:
    from ipclusterz.launchers.batch import BatchOptions

HANDOVER = "handover.json"
"""The file in which an agent finds its configuration and the connector."""

_PATIENCE = 3  # answers without a new job before it counts as unknown
_TELL_SECONDS = 30.0
_LAST_WORDS_SECONDS = 5.0  # for a submission to name its job when Ctrl-C comes
_UNNAMED = (
    "if its job was accepted all the same it ends as soon as it starts, since nothing is left"
    " that it could read"
)
_REFUSED_SECONDS = 3.0  # for a job that cannot be cancelled to be one that has ended
_LOST = News(ENDED, "the system does not know it any more; how it ended was not kept")


class Submission(Struct, frozen=True):
    """One submission: the command's words, its standard input, and the files it needs."""

    words: tuple[str, ...]
    stdin: str
    files: tuple[tuple[str, str], ...]
    parts: int = 0

    def shown(self) -> str:
        """Return the command as a person would type it."""
        words = " ".join(quote(word) for word in self.words)
        return f"{words} < {quote(self.stdin)}" if self.stdin else words


class BatchJob:
    """The jobs of one launch.  Submitted by :meth:`tell`, which brings the connector."""

    pid = 0
    patient = True
    """Nobody waits a minute for it: it may stand in a queue for days."""

    def __init__(
        self,
        system: System,
        spec: LaunchSpec,
        options: BatchOptions,
        walltime: int,
        submissions: list[Submission],
    ) -> None:
        self.name = spec.name
        self.system = system
        self.options = options
        self.ids: list[str] = []
        self.news: dict[str, News] = {}
        self._spec = spec
        self._walltime = walltime
        self._submissions = submissions
        self._events: deque[Event] = deque()
        self._read: dict[str, int] = {}  # how far each agent's events were read
        self._missed: dict[str, int] = {}
        self._state = JobState()
        self._silent_since = self._told_silence = 0.0
        self._stopped = False
        self._refused = ""
        self._lock = threading.Lock()  # news come from the system, and from agents

    # -- the contract of a job -------------------------------------------------------------

    def watched(self) -> tuple[int, ...]:
        """Return nothing: files on a network file system wake nobody."""
        return ()

    def poll(self) -> JobState:
        """Return its state; it ends when all its jobs have."""
        return self._state

    def events(self) -> list[Event]:
        """Return what the system and the agents have told since the last call."""
        agents = self._agents_events()
        for event in agents:
            if event["event"] == "begun":
                self._begun(str(event["job"]), str(event["node"]))
        return [self._events.popleft() for _ in range(len(self._events))] + agents

    def tell(self, text: str) -> None:
        """Take the connector and submit; LaunchError when that fails, and nothing is left."""
        connector = json.loads(text)["connector"]
        if not self.options.allow_loopback:
            check_reachable(connector)
        self._submit_all(
            {
                **json.loads(self._spec.stdin),
                "connector": connector,
                "n": self._spec.n,
                "per": self.options.engines_per_node or self._spec.n,
                "walltime": self._walltime,
                "drain": self.options.drain,
            }
        )

    def adopt(self, ids: list[str]) -> None:
        """Watch jobs that another process submitted; what agents said to it is known."""
        self.ids = list(ids)
        for name, path in self._event_files():
            try:
                self._read[name] = os.path.getsize(path)
            except OSError:
                pass
        asker(self.system).add(self)

    def _submit_all(self, handover: dict[str, Any]) -> None:
        """Submit with what the jobs are to read; LaunchError, and nothing is left."""
        folder = private_dir(self._spec.folder)
        write_private(os.path.join(folder, HANDOVER), msgspec.json.encode(handover))
        try:
            for made in self._submissions:
                self.ids.append(self._submit(made))
        except BaseException:
            # What is refused stays ours: who stops the cluster tries again, and tells of it.
            if not self._cancel() and not self._refused:
                self.ids = []
            self._clean()
            raise
        for id in self.ids:
            self._events.append(self._event(id, "submitted", "was submitted"))
        asker(self.system).add(self)

    def signal(self, signum: int) -> None:
        """Send a signal to the agents by the system; LaunchError if it has no such command."""
        if not self.system.signal:
            raise LaunchError(f"{self.system.name} has no command that signals a job")
        words = [w.format(signal=signal_name(signum)) for w in self.system.signal]
        for id in self.alive():
            answer = command([*words, id])
            if answer.code:
                raise LaunchError(f"{words[0]} {id}: {answer.text}")

    def close(self) -> None:
        """Nothing: its end is asked for by :meth:`stop`."""

    def wait(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds for the end of all jobs."""
        deadline = time.monotonic() + timeout
        asker(self.system).hurry()
        while not self._state.ended and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(0.05, left))
        return self._state.ended

    def stop(self, grace: float = 10.0) -> JobState:
        """Cancel its jobs, these and no others, and wait until the system says they ended."""
        self._stopped = True
        problem = self._cancel()
        patience = min(grace, _REFUSED_SECONDS) if self._refused else grace
        if self.ids and not problem and not self.wait(max(patience, 1.0)):
            self._state = JobState(0, "its jobs were cancelled, and are ending")
            if self._refused:
                problem = f"jobs {', '.join(self.alive())} may go on: {self._refused}"
        asker(self.system).remove(self)
        self._clean()
        if problem:
            return JobState(1, problem)
        return JobState(0, self._state.text)

    # -- submission ------------------------------------------------------------------------

    def _submit(self, made: Submission) -> str:
        for path, text in made.files:
            write_private(path, text.encode())
            os.chmod(path, 0o700)
        cwd = self._spec.log_dir or self._spec.folder
        try:
            answer = command(made.words, cwd, made.stdin, _LAST_WORDS_SECONDS)
        except (Interrupted, Unended) as error:
            # It may have been accepted all the same; then it is cancelled with the others.
            if id := self.system.parse_id(error.answer):
                self.ids.append(id)
            elif error.answer.code < 0:
                words = made.shown()
                print(f"ipclusterz: {words} was killed; {_UNNAMED}", file=sys.stderr)
            raise
        id = self.system.parse_id(answer)
        if answer.code and id:
            # What a site puts around the command may fail after the job was accepted.
            self.ids.append(id)
            raise LaunchError(
                f"{made.shown()}\nfailed (exit code {answer.code}) although it named the job"
                f" {id}, which is cancelled:\n{answer.text}"
            )
        if answer.code or not id:
            why = f"exit code {answer.code}" if answer.code else "it printed no job id"
            raise LaunchError(
                f"the job was not accepted ({why}) by: {made.shown()}\n{answer.text}\nThe"
                " script is shown by --dry-run"
            )
        return id

    def _cancel(self) -> str:
        """Cancel what has not ended; return what went wrong."""
        ids = self.alive()
        if not ids:
            return ""
        try:
            answer = command([*self.system.cancel, *ids])
        except LaunchError as error:
            return f"jobs {', '.join(ids)} may go on: {error}"
        asker(self.system).hurry()
        # That one has ended a moment ago is an error to some systems, and no refusal.
        if answer.code and (refusal(answer) or not answer.text):
            words = " ".join([*self.system.cancel, *ids])
            self._refused = f"{words}: {answer.text or f'exit code {answer.code}'}"
        return ""

    def alive(self) -> list[str]:
        """Return the names of its jobs that have not ended."""
        return [id for id in self.ids if not self._ended(id)]

    def record(self) -> dict[str, Any]:
        """Return what another process needs to know of these jobs, and to cancel them."""
        return {
            "system": self.system.name,
            "ids": list(self.ids),
            "cancel": list(self.system.cancel),
            "folder": self._spec.folder,
        }

    def _clean(self) -> None:
        folder = self._spec.folder
        try:
            names = os.listdir(folder)
        except OSError:
            return
        for name in names:
            remove(os.path.join(folder, name))
        try:
            os.rmdir(folder)
        except OSError:
            pass

    # -- news ------------------------------------------------------------------------------

    def take(self, news: dict[str, News]) -> None:
        """Take a system's answer about all jobs (called by the asker's thread)."""
        with self._lock:
            self._take(news)

    def _take(self, news: dict[str, News]) -> None:
        self._silent_since = 0.0
        for id in self.alive():
            told = {key: value for key, value in news.items() if belongs(key, id)}
            if told:
                self._missed[id] = 0
                told = {**self._detailed(id, told), **self._gone_parts(id, told)}
                for key, value in told.items():
                    self._note(key, value)
            elif self._count_miss(id):
                for key, value in self._last_words(id).items():
                    self._note(key, value)
        if self.ids and not self.alive() and not self._state.ended:
            self._state = self._certificate()

    def _begun(self, job: str, node: str) -> None:
        """An agent has begun: its job runs, whatever the system said when it was last asked."""
        with self._lock:
            if not any(belongs(job, id) for id in self.ids):
                return
            key = next((key for key in self.news if belongs(job, key)), job)
            known = self.news.get(key)
            if known is None or known.state == PENDING:
                self._note(key, News(RUNNING, nodes=node))

    def silent(self, text: str) -> None:
        """Note that the system did not answer."""
        now = time.monotonic()
        self._silent_since = self._silent_since or now
        if now - max(self._silent_since, self._told_silence) >= _TELL_SECONDS:
            self._told_silence = now
            self._told("waiting", f"{self.system.name} does not answer ({text}); asking again")

    @property
    def calm(self) -> float:
        """How slowly to ask at most, in seconds."""
        waiting = any(value.state == PENDING for value in list(self.news.values()))
        return PENDING_SECONDS if waiting else RUNNING_SECONDS

    def _count_miss(self, id: str) -> bool:
        """Tell whether a job that the system leaves out is gone: a new one may be late."""
        self._missed[id] = self._missed.get(id, 0) + 1
        seen = any(belongs(key, id) for key in self.news)
        return seen or self._missed[id] >= _PATIENCE

    def _gone_parts(self, id: str, told: dict[str, News]) -> dict[str, News]:
        """Return how those parts ended that a system leaves out while it tells of others."""
        if not any(map(is_part, told)):
            return {}  # it tells of the array as a whole
        gone = []
        for key, value in self.news.items():
            if key in told or value.state == ENDED or not (is_part(key) and belongs(key, id)):
                self._missed.pop(key, None)
                continue
            self._missed[key] = self._missed.get(key, 0) + 1
            gone += [key] if self._missed[key] >= _PATIENCE else []
        ends = self._ends(id) if gone else {}
        return {key: ends.get(key, _LOST) for key in gone}

    def _detailed(self, id: str, told: dict[str, News]) -> dict[str, News]:
        """Ask for the exit code of what has just ended, where another command knows it."""
        new = [
            key
            for key, value in told.items()
            if value.state == ENDED and value.code is None and not self._known_end(key)
        ]
        ends = self._ends(id) if new else {}
        return {**told, **{key: ends[key] for key in new if key in ends}}

    def _known_end(self, key: str) -> bool:
        known = self.news.get(key)
        return known is not None and known.state == ENDED

    def _ends(self, id: str) -> dict[str, News]:
        """Ask how a job, or what of it, has ended; nothing if the system does not say."""
        words = self.system.questions(id)
        if not (words and self.system.read_end):
            return {}
        try:
            ends = self.system.read_end(command(words))
        except (Silent, LaunchError):
            return {}
        found = {key: value for key, value in ends.items() if belongs(key, id)}
        parts = {key: value for key, value in found.items() if is_part(key)}
        return parts or found

    def _last_words(self, id: str) -> dict[str, News]:
        found = self._ends(id)
        for key, value in self.news.items():
            if key not in found and value.state != ENDED:
                found[key] = _LOST
        return found or {id: _LOST}

    def _note(self, id: str, value: News) -> None:
        if self.news.get(id) == value:
            return
        self.news[id] = value
        self._events.append(self._event(id, value.state, value.text))

    def _event(self, id: str, state: str, text: str) -> Event:
        told = f"{self.system.name} job {id} {text}"
        return {"event": "job", "job": id, "state": state, "text": told}

    def _told(self, kind: str, text: str) -> None:
        self._events.append({"event": kind, "text": text})

    def _ended(self, id: str) -> bool:
        known = [value for key, value in list(self.news.items()) if belongs(key, id)]
        return bool(known) and all(value.state == ENDED for value in known)

    def _certificate(self) -> JobState:
        ends = [f"{self.system.name} job {id} {value.text}" for id, value in self.news.items()]
        codes = [value.code for value in self.news.values() if value.code]
        lost = not self._stopped and not self._read
        return JobState(codes[0] if codes else int(lost), "\n".join(ends[:20]))

    def _agents_events(self) -> list[Event]:
        """Read what agents wrote into their files since the last look."""
        found: list[Event] = []
        for name, path in self._event_files():
            start = self._read.get(name, 0)
            try:
                with open(path, "rb") as file:  # opened anew: so NFS looks for what is new
                    file.seek(start)
                    data = file.read()
            except OSError:
                continue
            whole = data[: data.rfind(b"\n") + 1]
            self._read[name] = start + len(whole)
            found += [event for line in whole.splitlines() if (event := _event(line))]
        if found:
            asker(self.system).hurry()
        return found

    def _event_files(self) -> list[tuple[str, str]]:
        """Return the names and paths of the agents' files."""
        folder = self._spec.folder
        try:
            names = sorted(os.listdir(folder)) if self.ids else []
        except OSError:
            return []
        return [(name, os.path.join(folder, name)) for name in names if name[:6] == "events"]


def check_reachable(connector: str) -> None:
    """Raise LaunchError for a controller that no other host can reach, naming ways out."""
    document = json.loads(connector)
    url = str(document.get("url", ""))
    host = url.removeprefix("tcp://").rpartition(":")[0]
    if document.get("ssh") or not (host.startswith("127.") or url.startswith("ipc:")):
        return
    raise LaunchError(
        f"the controller listens on {url} only, which no other host reaches, so engines in jobs"
        " could not connect; nothing was submitted. Start it with --ip=ADDRESS, an address"
        f" of this host that the nodes can reach{_addresses()}; if the jobs run on this very"
        " host, with --allow-loopback"
    )


def _addresses() -> str:
    import socket

    import psutil  # only for this message

    found = [
        f"{entry.address} ({name})"
        for name, entries in sorted(psutil.net_if_addrs().items())
        for entry in entries
        if entry.family == socket.AF_INET and not entry.address.startswith("127.")
    ]
    return f": {', '.join(found)}" if found else ""


def _event(line: bytes) -> Event | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("event"), str) else None
