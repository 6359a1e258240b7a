"""ClusterManager: the clusters of one or several profiles, by name.

A view of what the profiles' state files say; it starts and stops nothing by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from ipclusterz.cluster import state as states
from ipclusterz.cluster.api import Cluster
from ipclusterz.paths import ProfileDir, ipython_dir, profile_dir


class ClusterManager:
    """Clusters by key, ``profile:cluster_id``; :meth:`load_clusters` finds those that run."""

    def __init__(self) -> None:
        self.clusters: dict[str, Cluster] = {}
        self._ran: set[str] = set()

    def load_clusters(
        self,
        *,
        profile_dirs: Iterable[str] | None = None,
        profile_dir: str | None = None,
        profiles: Iterable[str] | None = None,
        profile: str | None = None,
        init_default_clusters: bool = False,
        **arguments: Any,
    ) -> dict[str, Cluster]:
        """Find running clusters, forget those that have ended, return all that are known.

        Looked for in the named profiles or folders, else in all profiles.  With
        ``init_default_clusters`` a profile without any gets its main cluster, not started.
        ``arguments`` are passed to :class:`Cluster`.
        """
        self._forget_ended()
        files = {cluster.cluster_file for cluster in self.clusters.values()}
        for folder in _folders(profile_dirs, profile_dir, profiles, profile):
            found = [state for state in states.find(folder) if state.alive()]
            for state in found:
                if state.path not in files:
                    self._add(Cluster.from_file(state.path, **arguments))
            if init_default_clusters and not found:
                made = Cluster(profile_dir=folder.path, cluster_id="", **arguments)
                self.clusters.setdefault(_key(made), made)
        return self.clusters

    def new_cluster(self, **arguments: Any) -> tuple[str, Cluster]:
        """Make a cluster, not started; return its key and itself.  KeyError if it exists."""
        made = Cluster(**arguments)
        if _key(made) in self.clusters:
            raise KeyError(f"cluster {_key(made)} exists already")
        return self._add(made), made

    def get_cluster(self, cluster_id: str) -> Cluster:
        """Return the cluster with this key; KeyError names those there are."""
        try:
            return self.clusters[cluster_id]
        except KeyError:
            known = ", ".join(self.clusters) or "none: load_clusters() looks for them"
            raise KeyError(f"no cluster {cluster_id!r}; known: {known}") from None

    def remove_cluster(self, cluster_id: str) -> None:
        """Forget a cluster; it is not stopped."""
        self.get_cluster(cluster_id)
        del self.clusters[cluster_id]

    def _add(self, cluster: Cluster) -> str:
        key = _key(cluster)
        self.clusters[key] = cluster
        return key

    def _forget_ended(self) -> None:
        for key, cluster in list(self.clusters.items()):
            if cluster.running:
                self._ran.add(key)
            elif key in self._ran:
                del self.clusters[key]
                self._ran.discard(key)

    def __repr__(self) -> str:
        return f"<ClusterManager of {len(self.clusters)} clusters>"


def _key(cluster: Cluster) -> str:
    return f"{cluster.profile.name}:{cluster.cluster_id}"


def _folders(
    folders: Iterable[str] | None,
    folder: str | None,
    names: Iterable[str] | None,
    name: str | None,
) -> list[ProfileDir]:
    if folders is None and folder is not None:
        folders = [folder]
    if folders is not None:
        return [ProfileDir(one) for one in folders]
    if names is None and name is not None:
        names = [name]
    if names is not None:
        return [profile_dir(one) for one in names]
    root = ipython_dir()
    try:
        listed = sorted(os.listdir(root))
    except OSError:
        return []
    return [
        ProfileDir(os.path.join(root, one))
        for one in listed
        if one.startswith(("cluster_", "clusterz_"))
    ]
