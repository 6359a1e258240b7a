"""``ipclusterz status``: what the engines of a cluster do, once or until Ctrl-C.

Lives here: the command, and how a snapshot is shown: a table in a terminal, plain text in a
pipe, JSON for programs.  :mod:`ipclusterz.apps.overview` takes the snapshots.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from traitlets import Bool, Float, Unicode

from ipclusterz.apps import waits
from ipclusterz.apps.base import BaseApp, ExitCode, NoSuchCluster
from ipclusterz.cluster import SettingError

if TYPE_CHECKING:
    from ipclusterz.apps.overview import Watch

Snapshot = dict[str, Any]

COLUMNS = (
    *("ENGINE", "HOST", "PID", "STATE", "TASK", "FOR", "WAITING", "DONE", "FAILED"),
    *("MEMORY", "UP"),
)
_NUMBERS = frozenset(("ENGINE", "PID", "FOR", "WAITING", "DONE", "FAILED", "MEMORY", "UP"))
_COLORS = {"running": "green", "idle": "dim", "not responding": "bold red"}
_SHOWN = 12  # clients that are named one by one
_JOBS = 12  # batch jobs, those with the latest news
_COMING = ("submitted", "pending", "running")  # states of batch jobs that bring engines
_ENDED = 3  # engines that have ended, the last ones


class StatusApp(BaseApp):
    """Shows what a cluster does."""

    name = Unicode("ipclusterz status")
    description = Unicode(
        "Shows the engines of a cluster: what each runs and since when, what waits, what was\n"
        "done, memory; and who is connected.\n\n"
        "MEMORY is resident memory; what forked engines share is counted in each."
    )
    examples = Unicode(
        "\nipclusterz status\n"
        "ipclusterz status --watch                   # until Ctrl-C\n"
        "ipclusterz status --profile=work --cluster-id=night\n"
        "ipclusterz status -o json\n"
        "ipclusterz status --ssh-command             # for tunnels made by hand\n"
    )

    watch = Bool(False, help="Show it again and again, until Ctrl-C.").tag(config=True)
    interval = Float(1.0, help="Seconds between two looks with --watch.").tag(config=True)
    timeout = Float(10.0, help="Seconds to wait for the controller.").tag(config=True)
    output = Unicode("", help="json, or empty for a table.").tag(config=True)

    ssh_command = Bool(
        False, help="Print the ssh line that makes a client's tunnels by hand."
    ).tag(config=True)

    aliases = {  # noqa: RUF012
        **BaseApp.aliases,
        ("o", "output"): ("StatusApp.output", "json, for programs."),
        "interval": ("StatusApp.interval", "Seconds between two looks. [1]"),
        "timeout": ("StatusApp.timeout", "Seconds to wait for the controller. [10]"),
    }
    flags = {  # noqa: RUF012
        **BaseApp.flags,
        ("w", "watch"): ({"StatusApp": {"watch": True}}, "Show it until Ctrl-C."),
        "ssh-command": (
            {"StatusApp": {"ssh_command": True}},
            "Print the ssh line that makes a client's tunnels by hand.",
        ),
    }

    def _tell_ssh_command(self) -> int:
        from ipclusterz.client.locate import locate, tcp_ports
        from ipclusterz.core.ssh import Destination, destination, ssh_command

        connector, origin = locate(profile_dir=self.folder.path, cluster_id=self.cluster_id)
        ports = tcp_ports(connector)
        if not ports:
            raise SettingError(
                f"the controller of {origin} has no TCP port (--transport=ipc): a client goes"
                " there by Client(sshserver=...)"
            )
        host = connector.ssh or connector.location
        place = destination(host) if connector.ssh else Destination(host)
        print(ssh_command(place, ports))
        return ExitCode.OK

    def start(self) -> Any:
        """Look and show; return the exit code."""
        if self.output not in ("", "json"):
            raise SettingError(f"-o is {self.output!r}: it must be json")
        if self.interval <= 0 or self.timeout <= 0:
            raise SettingError("interval and timeout must be more than 0 seconds")
        if self.ssh_command:
            return self._tell_ssh_command()
        if (found := waits.look(self.folder, self.cluster_id)) and not self._await(found):
            return ExitCode.OK
        from ipclusterz.apps.overview import NothingRuns, Watch  # sockets: not for help

        try:
            watch = Watch(self.folder, self.cluster_id, self.timeout)
        except NothingRuns as error:
            raise NoSuchCluster(str(error)) from None
        try:
            if self.watch:
                self._watch(watch)
            else:
                self._show(watch.look())
        finally:
            watch.close()
        return ExitCode.OK

    def _await(self, first: waits.Waits) -> bool:
        """Show what a controller's job waits for; with ``--watch`` until it is there."""
        shown = ""
        found: waits.Waits | None = first
        try:
            while found is not None:
                if found.text != shown:
                    shown = found.text
                    print(json.dumps(found.snapshot()) if self.output else shown, flush=True)
                if not self.watch:
                    return False
                time.sleep(self.interval)
                found = waits.look(self.folder, self.cluster_id)
        except KeyboardInterrupt:
            return False
        return True

    def _show(self, seen: Snapshot) -> None:
        if self.output == "json":
            # For --watch one line each, as programs read them.
            print(json.dumps(seen, indent=None if self.watch else 2), flush=True)
        elif sys.stdout.isatty():
            from rich.console import Console  # 30 ms, for terminals only

            Console(highlight=False).print(render(seen))
        else:
            print(plain(seen), flush=True)

    def _watch(self, watch: Watch) -> None:
        """Show until Ctrl-C, which is a good end."""
        try:
            if self.output or not sys.stdout.isatty():
                while True:
                    self._show(watch.look())
                    watch.pause(self.interval)
            from rich.live import Live

            with Live(render(watch.look()), auto_refresh=False) as live:
                while True:
                    watch.pause(self.interval)
                    live.update(render(watch.look()), refresh=True)
        except KeyboardInterrupt:
            pass


def head(seen: Snapshot) -> list[str]:
    """Return the lines above the table: the cluster, its work, its parts, its clients."""
    which = f"cluster {seen['cluster_id']!r}" if seen["cluster_id"] else "the cluster"
    lines = [
        f"{which} of profile {seen['profile']!r} on {seen['host']}: up"
        f" {duration(seen['uptime'])}, controller {seen['controller_pid']},"
        f" ipclusterz {seen['version']}",
        *([seen["beyond"]] if seen["beyond"] else []),
        _work(seen),
        _schedulers(seen["schedulers"]),
        _clients(seen["clients"]),
    ]
    jobs = [job["text"] for job in seen["jobs"]]
    lines += [f"and {len(jobs) - _JOBS} more jobs"] if len(jobs) > _JOBS else []
    lines += jobs[-_JOBS:]
    for gone in seen["departed"][-_ENDED:]:
        lines.append(f"ended: engine {gone['id']}: {gone['reason'].splitlines()[0]}")
    origins = [engine["origin"] for engine in seen["engines"] if engine.get("origin")]
    lines += list(dict.fromkeys(origins))[-_ENDED:]  # engines of one agent may share it
    return lines


def row(engine: Snapshot) -> tuple[str, ...]:
    """Return an engine's cells, one for each of :data:`COLUMNS`."""
    return (
        str(engine["id"]),
        engine["host"],
        str(engine["pid"]),
        engine["state"],
        _doing(engine),
        duration(engine["seconds"]),
        str(engine["waiting"]),
        str(engine["completed"]),
        str(engine["failed"]),
        size(engine["memory"]),
        duration(engine["uptime"]),
    )


def plain(seen: Snapshot) -> str:
    """Return a snapshot as text."""
    lines = head(seen)
    if seen["engines"]:
        table = [COLUMNS, *(row(engine) for engine in seen["engines"])]
        widths = [max(len(line[i]) for line in table) for i in range(len(COLUMNS))]
        for line in table:
            cells = (
                cell.rjust(width) if column in _NUMBERS else cell.ljust(width)
                for column, cell, width in zip(COLUMNS, line, widths, strict=True)
            )
            lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def render(seen: Snapshot) -> Any:
    """Return a snapshot for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        table.add_column(column, justify="right" if column in _NUMBERS else "left")
        table.columns[-1].no_wrap = column != "TASK"
    for engine in seen["engines"]:
        # As Text: what users call their functions is no markup.
        cells = [Text(cell) for cell in row(engine)]
        cells[3].stylize(_COLORS.get(engine["state"], ""))
        table.add_row(*cells)
    shown: list[Any] = [Text(line) for line in head(seen)]
    return Group(*shown, table) if seen["engines"] else Group(*shown)


def duration(seconds: float | None) -> str:
    """Return a time span in at most two units: ``0.4s``, ``12s``, ``3m05s``, ``2d03h``."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def size(count: float | None) -> str:
    """Return a number of bytes for people: ``31M``, ``1.4G``."""
    if count is None:
        return "-"
    value = count / 1024
    for unit in "KMG":
        if value < 1023.5:
            return f"{value:.0f}{unit}" if value >= 9.95 else f"{value:.1f}{unit}"
        value /= 1024
    return f"{value:.1f}T"


def _doing(engine: Snapshot) -> str:
    """Name what an engine runs: the function, else what is done; and the task."""
    if not engine["task"]:
        return "-"
    what = engine["function"] or engine["op"]
    client, _, number = engine["task"].rpartition("_")
    return f"{what} ({client[:8]}_{number})"


def _work(seen: Snapshot) -> str:
    engines = seen["engines"]
    if not engines and any(job.get("state") in _COMING for job in seen["jobs"]):
        return "no engines yet"
    if not engines:
        return "no engines; add some with: ipclusterz engines -n 2"
    states = [engine["state"] for engine in engines]
    counts = [f"{states.count(state)} {state}" for state in _COLORS if state in states]
    waiting = seen["unassigned"]
    text = f"{len(engines)} engine{'s' * (len(engines) != 1)}: {', '.join(counts)}"
    return f"{text}; {waiting} tasks wait for an engine" if waiting else text


def _schedulers(schedulers: Snapshot) -> str:
    told = []
    for name, facts in schedulers.items():
        state = "" if facts["serving"] else " does not serve"
        if facts["restarts"]:
            state += f" (started again: {facts['restarts']})"
        told.append(name + state)
    return f"schedulers: {', '.join(told)}"


def _clients(clients: list[Snapshot]) -> str:
    if not clients:
        return "clients: none"
    told = [
        f"{c['host']} {c['pid']} ({'' if c['responding'] else 'not responding, '}"
        f"{duration(c['uptime'])})"
        for c in clients[:_SHOWN]
    ]
    if len(clients) > _SHOWN:
        told.append(f"and {len(clients) - _SHOWN} more")
    return f"clients: {', '.join(told)}"
