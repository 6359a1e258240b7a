"""``ipclusterz clean``: removes what dead clusters left, and says what."""

from __future__ import annotations

import os
from typing import Any

from traitlets import Bool, Unicode

from ipclusterz.apps import output
from ipclusterz.apps.base import BaseApp, ExitCode, NoSuchCluster
from ipclusterz.apps.stop import find_all
from ipclusterz.cluster import leftovers
from ipclusterz.cluster import state as states
from ipclusterz.cluster.leftovers import Found
from ipclusterz.paths import ProfileDir, ipython_dir


class CleanApp(BaseApp):
    """Removes what dead clusters left."""

    name = Unicode("ipclusterz clean")
    description = Unicode(
        "Removes what clusters left that were killed: state files, connector files (not those\n"
        "kept by -r), folders of sockets and shared memory, processes.  Lists each.\n\n"
        "Never touches a living cluster, nor what was started on another host: that is named."
    )
    examples = Unicode(
        "\nipclusterz clean --dry-run      # only list\n"
        "ipclusterz clean\n"
        "ipclusterz clean --profile=work --cluster-id=night\n"
        "ipclusterz clean --all          # all profiles\n"
    )
    config_names = ()

    dry_run = Bool(False, help="Only list what would be removed.").tag(config=True)
    all = Bool(False, help="Clean all profiles.").tag(config=True)

    flags = {  # noqa: RUF012
        **BaseApp.flags,
        "dry-run": ({"CleanApp": {"dry_run": True}}, "Only list what would be removed."),
        "all": ({"CleanApp": {"all": True}}, "Clean all profiles."),
    }

    def start(self) -> Any:
        """Search and remove; return the exit code."""
        self._removed = self._failed = 0
        self._seen: set[str] = set()
        said = self.cluster_id if self.was_said("cluster_id") else None
        for profile in self._profiles():
            self._clean_profile(profile, said)
        if said is None:
            known = self._known()
            self._deal_with(leftovers.orphans(known))
            self._deal_with(leftovers.in_shared_places(known))
        if not self._removed and not self._failed:
            self.say("nothing to clean")
        return ExitCode.FAILED if self._failed else ExitCode.OK

    def _profiles(self) -> list[ProfileDir]:
        if self.all:
            return all_profiles(_root(self))
        folder = self.folder
        if not os.path.isdir(folder.path):
            if self.was_said("profile") or self.was_said("profile_dir"):
                raise NoSuchCluster(f"there is no profile {folder.path}")
            return []
        return [folder]

    def _known(self) -> list[states.State]:
        """Return all states that there are, of other profiles too: they may be alive."""
        found = {state.path: state for state in find_all(_root(self))}
        found.update((state.path, state) for state in states.find(self.folder))
        return list(found.values())

    def _clean_profile(self, profile: ProfileDir, cluster_id: str | None) -> None:
        if not os.path.isdir(profile.pid):
            return
        with states.lock(profile):  # nobody starts meanwhile
            for state in states.find(profile):
                own = cluster_id is None or state.cluster_id == cluster_id
                if own and leftovers.verdict(state) is None:
                    self._deal_with(leftovers.orphans(self._known(), state.token))
            self._deal_with(leftovers.in_profile(profile, cluster_id))

    def _deal_with(self, found: Found) -> None:
        for leftover in found.left:
            if leftover.name in self._seen:
                continue
            self._seen.add(leftover.name)
            problem = "" if self.dry_run else leftovers.remove(leftover)
            what = f"{leftover.kind} {leftover.name}"
            if problem:
                self._failed += 1
                output.complain(f"{self.name}: cannot remove {what}: {problem}")
            else:
                self._removed += 1
                done = "would remove" if self.dry_run else "removed"
                self.say(f"{done} {what}: {leftover.why}")
        for spared in found.spared:
            if spared.name in self._seen:
                continue
            self._seen.add(spared.name)
            self.say(f"left alone {spared.kind} {spared.name}: {spared.why}")


def all_profiles(root: str) -> list[ProfileDir]:
    """Return all profiles in an IPython folder."""
    try:
        names = sorted(os.listdir(root))
    except OSError:
        return []
    found = [os.path.join(root, n) for n in names if n.startswith(("cluster_", "clusterz_"))]
    return [ProfileDir(path) for path in found if os.path.isdir(path)]


def _root(app: BaseApp) -> str:
    if app.ipython_dir:
        return os.path.abspath(os.path.expanduser(app.ipython_dir))
    return ipython_dir()
