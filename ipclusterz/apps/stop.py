"""``ipclusterz stop`` and ``ipclusterz list``: what runs here, and its end."""

from __future__ import annotations

import json
import os
from typing import Any

from traitlets import Bool, Unicode

from ipclusterz.apps import output
from ipclusterz.apps.base import AlreadyStopped, BaseApp, ExitCode, NoSuchCluster
from ipclusterz.cluster import SettingError
from ipclusterz.cluster import state as states
from ipclusterz.error import ClusterError, KernelError
from ipclusterz.paths import ProfileDir, ipython_dir


def find_all(root: str) -> list[states.State]:
    """Return the states of all clusters in all profiles of an IPython folder."""
    try:
        names = sorted(os.listdir(root))
    except OSError:
        return []
    found: list[states.State] = []
    for name in names:
        if name.startswith(("cluster_", "clusterz_")):
            found += states.find(ProfileDir(os.path.join(root, name)))
    return found


class StopApp(BaseApp):
    """Stops clusters."""

    name = Unicode("ipclusterz stop")
    description = Unicode("Stops the cluster of a profile, or all clusters, and waits.")
    examples = Unicode(
        "\nipclusterz stop\nipclusterz stop --profile=work --cluster-id=night\n"
        "ipclusterz stop --all\n"
    )

    all = Bool(False, help="Stop all clusters of all profiles.").tag(config=True)

    flags = {  # noqa: RUF012
        **BaseApp.flags,
        "all": ({"StopApp": {"all": True}}, "Stop all clusters."),
    }

    def start(self) -> Any:
        """Stop what was asked for; return the exit code."""
        if self.all:
            return self._stop_all()
        folder = self.folder
        path = folder.state_file(self.cluster_id)
        state = states.read(path)
        if state is None:
            states.check(path)
            self._absent(folder)
        else:
            self._stop(state)
        return ExitCode.OK

    def _absent(self, folder: ProfileDir) -> None:
        if not os.path.isdir(folder.path):
            raise NoSuchCluster(f"there is no profile {folder.path}")
        if self.cluster_id:
            raise NoSuchCluster(
                f"no cluster with the id {self.cluster_id!r} in {folder.path};"
                " 'ipclusterz list' shows what runs"
            )
        raise AlreadyStopped(f"no cluster runs in {folder.path}")

    def _stop_all(self) -> int:
        found = find_all(_root(self))
        code = ExitCode.OK
        for state in found:
            try:
                self._stop(state)
            except AlreadyStopped:
                pass
            except KernelError as error:
                output.complain(f"{self.name}: {error}")
                code = ExitCode.FAILED
        if not found:
            self.say("no cluster runs")
        return code

    def _stop(self, state: states.State) -> None:
        which = _title(state)
        if state.remote:
            from ipclusterz.apps import elsewhere  # only for clusters on other hosts

            elsewhere.stop(state)
            self.say(f"stopped {which} on {state.remote}")
            return
        if state.elsewhere():
            raise ClusterError(
                f"{which} was started on host {state.host}: run 'ipclusterz stop' there"
            )
        # A launcher that lives ends them itself.
        left = [] if state.launcher and state.launcher.alive() else state.away.values()
        places = [place for listed in left for place in listed]
        if not state.alive():
            self._clear(places)
            states.clean(state)
            if states.reread(state) is not None:
                raise ClusterError(f"{which} does not run, but batch jobs of it may: see above")
            for made in state.jobs.values():
                self.say(f"cancelled {made.system} jobs {' '.join(made.ids)}")
            why = f": {state.ended}" if state.ended else ""
            raise AlreadyStopped(f"{which} is not running any more{why}")
        states.end(state)
        self._clear(places)
        self.say(f"stopped {which}")

    def _clear(self, places: list[dict[str, Any]]) -> None:
        """End engines on other hosts whose launcher was killed."""
        if not places:
            return
        from ipclusterz.launchers import sshclear  # only for those

        for place, problem in sshclear.clear_all(places):
            if problem:
                problem += "; engines there end when their lease is over"
                output.complain(f"{self.name}: {problem}")
            else:
                self.say(f"ended engines on {place['target']}")


class ListApp(BaseApp):
    """Lists clusters."""

    name = Unicode("ipclusterz list")
    description = Unicode("Lists the clusters of all profiles.")
    examples = Unicode("\nipclusterz list\nipclusterz list -o json\n")

    output = Unicode("", help="json, or empty for a table.").tag(config=True)

    aliases = {  # noqa: RUF012
        **BaseApp.aliases,
        ("o", "output"): ("ListApp.output", "json, for programs."),
    }

    def start(self) -> Any:
        """Print the clusters; return the exit code."""
        if self.output not in ("", "json"):
            raise SettingError(f"-o is {self.output!r}: it must be json")
        rows = [_row(state) for state in find_all(_root(self))]
        if self.output == "json":
            print(json.dumps(rows, indent=2))
            return ExitCode.OK
        table = [("PROFILE", "CLUSTER ID", "RUNNING", "ENGINES", "HOST", "CONTROLLER")]
        table += [
            (
                row["profile"],
                row["cluster_id"] or "''",
                _running(row),
                str(row["engines"]),
                row["host"],
                str(row["controller_pid"] or _job(row)),
            )
            for row in rows
        ]
        widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
        for line in table:
            cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            print("  ".join(cells).rstrip())
        return ExitCode.OK


def _running(row: dict[str, Any]) -> str:
    if row["running"] and row["controller_job"] and not row["controller_pid"]:
        return "waits"
    return {True: "yes", False: "no", None: "?"}[row["running"]]


def _job(row: dict[str, Any]) -> str:
    return f"job {row['controller_job']}" if row["controller_job"] else "-"


def _row(state: states.State) -> dict[str, Any]:
    here = not state.elsewhere()
    job = state.jobs.get(state.controller_job)
    # Those without a process here are on other hosts, or in batch jobs.
    held = here and state.launcher is not None and state.launcher.alive()
    sets = [
        made
        for made in state.engine_sets.values()
        if not here or made.alive() or (held and not made.pid)
    ]
    return {
        "profile": ProfileDir(state.profile_dir).name,
        "cluster_id": state.cluster_id,
        # Nobody judges the process ids of another host.
        "running": state.alive() if here else None,
        "engines": sum(made.n for made in sets),
        "host": state.host,
        "controller_pid": state.controller.pid if state.controller else state.controller_pid,
        "controller_job": " ".join(job.ids) if job is not None else "",
        "ended": state.ended,
        "profile_dir": state.profile_dir,
        "client_file": state.client_file,
        "started": state.started,
    }


def _root(app: BaseApp) -> str:
    if app.ipython_dir:
        return os.path.abspath(os.path.expanduser(app.ipython_dir))
    return ipython_dir()


def _title(state: states.State) -> str:
    name = f"cluster {state.cluster_id!r}" if state.cluster_id else "the cluster"
    return f"{name} of profile {ProfileDir(state.profile_dir).name!r}"
