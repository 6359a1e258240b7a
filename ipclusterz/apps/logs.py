"""``ipclusterz logs``: what the parts of a cluster wrote, merged, followed or packed up."""

from __future__ import annotations

import os
import re
import time
from typing import Any

from traitlets import Bool, Unicode

from ipclusterz.apps.base import BaseApp, ExitCode, NoSuchCluster
from ipclusterz.cluster import SettingError, bundle, logfiles
from ipclusterz.cluster.logfiles import Follower, LogFile, Record
from ipclusterz.error import ClusterError

POLL_SECONDS = 0.25
SCAN_SECONDS = 1.0
"""How often new log files are looked for while following."""

_RANGE = re.compile(r"(\d+)(?:-(\d+))?\Z")


class LogsApp(BaseApp):
    """Shows the logs of a cluster."""

    name = Unicode("ipclusterz logs")
    description = Unicode(
        "Shows what the parts of a cluster wrote, in the order of time, each line with its\n"
        "source: ipclusterz logs [-f] [hub|task|direct|control|iopub|controller|agent|\n"
        "launcher|engine N|all] ...\n\n"
        "Without a name: all of them.  What engines print has no times of its own: it stands\n"
        "where its file was last written."
    )
    examples = Unicode(
        "\nipclusterz logs\n"
        "ipclusterz logs hub task -n 20\n"
        "ipclusterz logs -f engine 3\n"
        "ipclusterz logs engine 0-3,7 -n all\n"
        "ipclusterz logs --bundle=trouble.tgz        # logs, settings, state; no keys\n"
    )
    config_names = ()  # a broken config file is a reason to look here

    follow = Bool(False, help="Go on with what is added, until Ctrl-C.").tag(config=True)
    lines = Unicode("100", help="Lines to begin with, or all.").tag(config=True)
    bundle = Unicode("", help="Write an archive for those who help, without keys.").tag(
        config=True
    )

    aliases = {  # noqa: RUF012
        **BaseApp.aliases,
        ("n", "lines"): ("LogsApp.lines", "Lines to begin with, or all. [100]"),
        "bundle": ("LogsApp.bundle", "Write an archive of logs, settings and state."),
    }
    flags = {  # noqa: RUF012
        **BaseApp.flags,
        ("f", "follow"): ({"LogsApp": {"follow": True}}, "Go on until Ctrl-C."),
    }

    def parse_command_line(self, argv: Any = None) -> None:
        """Read the command line; what is no option names logs."""
        super().parse_command_line(argv)
        self._words, self.extra_args = list(self.extra_args), []

    def start(self) -> Any:
        """Show, follow or pack; return the exit code."""
        wanted = parse(self._words)
        count = self._count()
        folder = self.folder
        if not logfiles.find(folder.log, self.cluster_id):
            which = f"of a cluster {self.cluster_id!r}" if self.cluster_id else "of a cluster"
            raise NoSuchCluster(
                f"there are no logs {which} in {folder.log};"
                " 'ipclusterz list' shows the clusters of all profiles"
            )
        if self.bundle:
            return self._pack()
        found = self._find(wanted)
        if not found and not self.follow:
            raise ClusterError(self._missing())
        if self.follow:
            try:
                self._follow(wanted, found, count)
            except KeyboardInterrupt:
                pass
        else:
            self._print(logfiles.merge((logfiles.last(log, count) for log in found), count))
        return ExitCode.OK

    def _count(self) -> int | None:
        if self.lines == "all":
            return None
        if not self.lines.isdigit():
            raise SettingError(f"-n is {self.lines!r}: it must be a number of lines, or all")
        return int(self.lines)

    def _find(self, wanted: Wanted) -> list[LogFile]:
        found = logfiles.find(self.folder.log, self.cluster_id)
        return [log for log in found if wanted.has(log)]

    def _missing(self) -> str:
        there = logfiles.find(self.folder.log, self.cluster_id)
        sources = ", ".join(dict.fromkeys(log.source for log in there))
        return f"there is no log of {' '.join(self._words)}; there are: {sources}"

    def _pack(self) -> int:
        target = os.path.abspath(os.path.expanduser(self.bundle))
        names = bundle.make(self.folder, self.cluster_id, target)
        self.say(f"wrote {target}: {len(names)} files, without keys")
        self.say("what engines print is in it as they printed it: look before you pass it on")
        return ExitCode.OK

    def _follow(self, wanted: Wanted, found: list[LogFile], count: int | None) -> None:
        # First where they end, then what is before it: nothing is lost in between.
        following = {log: Follower(log, from_end=True) for log in found}
        before = (logfiles.last(log, count, f.at) for log, f in following.items())
        self._print(logfiles.merge(before, count))
        scan = time.monotonic() + SCAN_SECONDS
        while True:
            news = logfiles.merge(follower.news() for follower in following.values())
            self._print(news)
            if time.monotonic() >= scan:
                scan = time.monotonic() + SCAN_SECONDS
                for log in self._find(wanted):
                    if log not in following:
                        following[log] = Follower(log, from_end=False)
            time.sleep(POLL_SECONDS)

    def _print(self, records: list[Record]) -> None:
        if records:
            print("\n".join(line for record in records for line in shown(record)), flush=True)


class Wanted:
    """Which logs were asked for: kinds, and of engines perhaps only some numbers."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()
        self.engines: list[tuple[int, int]] = []

    def has(self, log: LogFile) -> bool:
        """Tell whether a log was asked for."""
        if log.kind == "engine" and self.engines:
            return any(first <= log.number <= end for first, end in self.engines)
        return log.kind in self.kinds


def parse(words: list[str]) -> Wanted:
    """Understand the names of logs; SettingError for one that is not known."""
    wanted = Wanted()
    for word in words or ["all"]:
        if word == "all":
            wanted.kinds.update(logfiles.KINDS)
        elif word in logfiles.KINDS:
            wanted.kinds.add(word)
        elif word in ("engines", "agents"):
            wanted.kinds.add(word[:-1])
        elif "engine" in wanted.kinds and word[0].isdigit():
            wanted.engines += [_range(part) for part in word.split(",") if part]
        else:
            known = ", ".join(("all", *logfiles.KINDS))
            raise SettingError(f"there is no log called {word!r}; there are: {known} N")
    return wanted


def shown(record: Record) -> list[str]:
    """Return a record's lines as they are printed: time, source, text."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.when))
    stamp = f"{when}.{int(record.when % 1 * 1000 + 0.5) % 1000:03}"
    lines = list(record.lines)
    if record.stamped:
        stamp, lines[0] = lines[0][:23], lines[0][24:]
    return [f"{stamp} {record.source:<10} {line}".rstrip() for line in lines]


def _range(text: str) -> tuple[int, int]:
    match = _RANGE.match(text)
    if match is None:
        raise SettingError(f"engine {text!r}: it must be a number, or like 0-3,7")
    return int(match[1]), int(match[2] or match[1])
