"""What a batch system is: a declaration, and the questions that are asked through it.

A system is data: the commands that submit, cancel, signal and ask, the pattern of a job's id,
how a job array is written, and pure functions that read what the commands print.  Each one
stands in a short file of its own (``pbs.py``, ``slurm.py`` ...); what all have in common is in
``ipclusterz.launchers.batch``.  Knows commands and texts, neither clusters nor engines.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from typing import IO

from msgspec import Struct

from ipclusterz.error import LaunchError
from ipclusterz.files import quote

PENDING, RUNNING, ENDED = "pending", "running", "ended"

SECONDS = 60.0
"""How long a command of a batch system may take: a busy server needs many seconds."""


class Silent(Exception):
    """A batch system does not answer at the moment; it may know the jobs all the same."""


class Answer(Struct, frozen=True):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str = ""

    @property
    def text(self) -> str:
        """All it said, in one line."""
        return " ".join((self.err + "\n" + self.out).split())


class News(Struct, frozen=True):
    """Where one job stands, as its system says it.

    ``state`` is pending, running or ended; ``reason`` why it waits or how it ended, in the
    system's words; ``nodes`` where it runs; ``start`` when the system expects to start it;
    ``code`` the exit code if it is known.
    """

    state: str
    reason: str = ""
    nodes: str = ""
    start: str = ""
    code: int | None = None

    @property
    def text(self) -> str:
        """What to tell people."""
        if self.state == RUNNING:
            return f"runs on {self.nodes}" if self.nodes else "runs"
        if self.state == PENDING:
            details = [self.reason] if self.reason else []
            details += [f"expected to start {self.start}"] if self.start else []
            return f"waits ({'; '.join(details)})" if details else "waits"
        how = self.reason or ("" if self.code is None else f"exit code {self.code}")
        return f"has ended: {how}" if how else "has ended"


class Request(Struct, frozen=True):
    """What a job asks for, as its directives say it.

    ``parts`` is the size of the job array (0: no array), ``nodes`` and ``slots`` the nodes
    and the processors on each; ``walltime`` and ``warn`` (before its end) are seconds, 0 for
    none; ``output`` is a file for what the system itself says; ``more`` are directives of the
    user's, without the mark.  A job that runs ``once`` is not started again when its node
    fails.
    """

    name: str
    parts: int
    nodes: int
    slots: int
    output: str
    queue: str = ""
    account: str = ""
    walltime: int = 0
    warn: int = 0
    more: tuple[str, ...] = ()
    once: bool = False


Read = Callable[[Answer], dict[str, News]]


class System(Struct, frozen=True):
    """A batch system, declared.

    ``submit``, ``cancel`` and ``query`` are words of commands; the script's path and job ids
    follow, or stand where ``{ids}`` is; ``join`` separates several ids (empty: the query takes
    none).  ``read`` gives the news of each job that ``query`` told of; ids that are missing
    are no longer known; it raises :class:`Silent` when the system did not answer.
    ``ask_end`` and ``read_end`` do the same for one job that is no longer known.  ``index`` is
    what the shell calls the part of an array, counted from ``first``.  ``spread`` begins a
    command that runs once on each node of a job, with ``node_index`` as its number.
    The ``array_`` ones take the place of both where a job array wants other words.
    ``first_line`` is what a script must begin with where the system wants one; put there if a
    template has none.  ``early`` says that directives count only before the first command.
    ``description`` is a template of a file that names the script, for
    systems that submit such a file.
    """

    name: str
    submit: tuple[str, ...]
    id_pattern: str
    cancel: tuple[str, ...]
    query: tuple[str, ...]
    read: Read
    mark: str
    directives: Callable[[Request], list[str]]
    index: str
    first: int = 0
    join: str = " "
    stdin: bool = False
    first_line: str = ""
    ask_end: tuple[str, ...] = ()
    read_end: Read | None = None
    signal: tuple[str, ...] = ()
    spread: str = ""
    node_index: str = ""
    early: bool = False
    description: str = ""
    array_query: tuple[str, ...] = ()
    array_ask_end: tuple[str, ...] = ()

    def parse_id(self, answer: Answer) -> str:
        """Return the id in what the submit command printed, '' if there is none."""
        found = re.search(self.id_pattern, answer.out, re.MULTILINE)
        return found[1] if found else ""

    def queries(self, ids: Sequence[str]) -> list[str]:
        """Return the words of the command that asks about jobs."""
        arrays = self.array_query and any("[" in id for id in ids)
        return place(self.array_query if arrays else self.query, self._joined(ids))

    def questions(self, id: str) -> list[str]:
        """Return the words of the command that asks how a job has ended, [] for none."""
        words = self.array_ask_end if self.array_ask_end and "[" in id else self.ask_end
        return place(words, [id]) if words else []

    def _joined(self, ids: Sequence[str]) -> list[str]:
        if not self.join:
            return []
        return list(ids) if self.join == " " else [self.join.join(ids)]


def place(words: Sequence[str], ids: Sequence[str]) -> list[str]:
    """Return a command's words with the ids where ``{ids}`` stands, else at the end."""
    if "{ids}" not in words:
        return [*words, *ids]
    at = words.index("{ids}")
    return [*words[:at], *ids, *words[at + 1 :]]


class Unended(LaunchError):
    """A command that had to be killed; ``answer`` is what it had said by then."""

    def __init__(self, text: str, answer: Answer) -> None:
        super().__init__(text)
        self.answer = answer


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while a command ran; ``answer`` is what it still said."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


def command(
    words: Sequence[str], cwd: str = "", stdin: str = "", patience: float = 0.0
) -> Answer:
    """Run a command of a batch system; LaunchError if it is missing, Unended if it hangs.

    Ctrl-C ends it, after ``patience`` seconds in which it may say what it has done already.
    Its output goes to files, not pipes: the first ``qsub`` of OpenPBS leaves a process behind
    that would hold a pipe open.
    """
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        open(stdin or os.devnull, "rb") as given,
    ):
        try:
            process = subprocess.Popen(
                list(words),
                stdin=given,
                stdout=out,
                stderr=err,
                cwd=cwd or None,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise LaunchError(
                f"there is no command {words[0]!r} on this host"
                f" (PATH={os.environ.get('PATH', '')}): is this a login node, and is a module"
                " to be loaded first?"
            ) from None
        except OSError as error:
            raise LaunchError(f"cannot run {shlex.join(words)}: {error.strerror}") from None
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            _kill(process)
            answer = Answer(process.returncode, _text(out), _text(err))
            raise Unended(
                f"{shlex.join(words)} does not end, it was killed after {SECONDS:g} s"
                + (f"; it said: {answer.text}" if answer.text else ""),
                answer,
            ) from None
        except KeyboardInterrupt:
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                pass
            finally:
                _kill(process)  # it has a session of its own, so no Ctrl-C reaches it
            raise Interrupted(Answer(process.returncode, _text(out), _text(err))) from None
        return Answer(code, _text(out), _text(err))


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


_GONE = re.compile(
    r"unknown job|invalid job id|not found|not exist|(has|have|already) (finished|completed)"
    r"|no matching job|couldn't find/remove all jobs",  # LSF; HTCondor
    re.I,
)
_DENIED = re.compile(r"permission|not allowed|denied|not authori[sz]ed", re.I)


def refusal(answer: Answer) -> str:
    """Return why a command that cancels jobs has failed; '' if it has not.

    That a job has ended already is no failure.  Slurm's ``qdel`` says nothing at all then.
    """
    text = answer.text
    gone = _GONE.search(text) and not _DENIED.search(text)
    return text if answer.code and not gone else ""


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


_SPAN = re.compile(r"(?:(\d+)-)?(\d{1,4}):(\d\d):(\d\d)")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(walltime: str) -> int:
    """Read ``1:30:00``, ``2-00:00:00``, ``90m``, ``12h``; LaunchError says how to write it.

    Systems disagree on what ``1:30`` and ``90`` mean, so neither is taken.
    """
    text = walltime.strip()
    if not text:
        return 0
    found = _SPAN.fullmatch(text)
    if found:
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
        total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    else:
        parts = re.findall(r"(\d+)([smhd])", text)
        if not parts or "".join(a + b for a, b in parts) != text:
            raise LaunchError(
                f"walltime is {walltime!r}: write it like 1:30:00 (hours, minutes, seconds),"
                " 2-00:00:00 with days, 90m or 12h"
            )
        total = sum(int(number) * _UNITS[unit] for number, unit in parts)
    if total <= 0:
        raise LaunchError(f"walltime is {walltime!r}: it must be more than nothing")
    return total


def clock(seconds: int) -> str:
    """Return seconds as ``HH:MM:SS``, with as many hours as it takes."""
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def in_quotes(path: str, system: str, never: str = '"') -> str:
    """Return a path as a directive takes it: in double quotes if anything in it needs them.

    LaunchError names a path that has a character of ``never``, or ends the line.
    """
    refuse(path, system, never + "\n\r")
    return path if quote(path) == path else f'"{path}"'


def refuse(path: str, system: str, characters: str) -> None:
    """Raise LaunchError if one of ``characters`` is in a path that ``system`` must take."""
    found = next((character for character in path if character in characters), "")
    if found:
        what = "space" if found == " " else repr(found)
        raise LaunchError(
            f"{system} cannot write its output to {path}: it takes no {what} in a"
            " path; put the profile elsewhere: --profile-dir or $IPYTHONDIR"
        )


def signal_name(number: int) -> str:
    """Return a signal's name without ``SIG``, as batch systems want it."""
    return signal.Signals(number).name.removeprefix("SIG")
