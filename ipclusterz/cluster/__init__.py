"""Starting, stopping and finding whole clusters: profile + launcher + connector."""

from __future__ import annotations

from ipclusterz.cluster.api import Cluster
from ipclusterz.cluster.deployment import AlreadyRunning
from ipclusterz.cluster.manager import ClusterManager
from ipclusterz.cluster.settings import ControllerSettings, SettingError

__all__ = ["AlreadyRunning", "Cluster", "ClusterManager", "ControllerSettings", "SettingError"]
