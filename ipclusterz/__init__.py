"""Start a cluster of Python engines and use it from a session.

>>> import ipclusterz as ipp
>>> "Client" in dir(ipp)
True

What lives here: the public names, each imported when it is first used (PEP 562).  Engines,
agents and commands import this package too, and must not pay for the client's imports.
Must not import anything of the package at module level but the version.
"""

from __future__ import annotations

from ipclusterz._version import __version__ as __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import ALL_COMPLETED as ALL_COMPLETED
    from concurrent.futures import FIRST_COMPLETED as FIRST_COMPLETED
    from concurrent.futures import FIRST_EXCEPTION as FIRST_EXCEPTION

    from ipclusterz import error as error
    from ipclusterz.client.asyncresult import AsyncResult as AsyncResult
    from ipclusterz.client.balanced import LoadBalancedView as LoadBalancedView
    from ipclusterz.client.broadcast import BroadcastView as BroadcastView
    from ipclusterz.client.client import Client as Client
    from ipclusterz.client.dependency import Dependency as Dependency
    from ipclusterz.client.direct import DirectView as DirectView
    from ipclusterz.client.executor import ViewExecutor as ViewExecutor
    from ipclusterz.client.group import AsyncMapResult as AsyncMapResult
    from ipclusterz.client.remembered import AsyncHubResult as AsyncHubResult
    from ipclusterz.client.remote import ParallelFunction as ParallelFunction
    from ipclusterz.client.remote import RemoteFunction as RemoteFunction
    from ipclusterz.client.remote import interactive as interactive
    from ipclusterz.client.remote import parallel as parallel
    from ipclusterz.client.remote import remote as remote
    from ipclusterz.cluster import Cluster as Cluster
    from ipclusterz.cluster import ClusterManager as ClusterManager
    from ipclusterz.engine.custom import register_serializer as register_serializer
    from ipclusterz.engine.custom import unregister_serializer as unregister_serializer
    from ipclusterz.engine.dependency import depend as depend
    from ipclusterz.engine.dependency import dependent as dependent
    from ipclusterz.engine.dependency import require as require
    from ipclusterz.engine.reference import Reference as Reference
    from ipclusterz.error import AuthenticationError as AuthenticationError
    from ipclusterz.error import ClusterError as ClusterError
    from ipclusterz.error import CompositeError as CompositeError
    from ipclusterz.error import ConnectorError as ConnectorError
    from ipclusterz.error import ControllerLost as ControllerLost
    from ipclusterz.error import DependencyTimeout as DependencyTimeout
    from ipclusterz.error import EngineError as EngineError
    from ipclusterz.error import ImpossibleDependency as ImpossibleDependency
    from ipclusterz.error import InvalidDependency as InvalidDependency
    from ipclusterz.error import KernelError as KernelError
    from ipclusterz.error import LaunchError as LaunchError
    from ipclusterz.error import NoEnginesRegistered as NoEnginesRegistered
    from ipclusterz.error import RemoteError as RemoteError
    from ipclusterz.error import ResultNotKept as ResultNotKept
    from ipclusterz.error import SerializationError as SerializationError
    from ipclusterz.error import TaskAborted as TaskAborted
    from ipclusterz.error import TaskLost as TaskLost
    from ipclusterz.error import TaskNotFound as TaskNotFound
    from ipclusterz.error import TaskTimeout as TaskTimeout
    from ipclusterz.error import TimeoutError as TimeoutError
    from ipclusterz.error import UnmetDependency as UnmetDependency

_PLACES: dict[str, tuple[str, ...]] = {
    "ipclusterz.client.client": ("Client",),
    "ipclusterz.client.direct": ("DirectView",),
    "ipclusterz.client.broadcast": ("BroadcastView",),
    "ipclusterz.client.balanced": ("LoadBalancedView",),
    "ipclusterz.client.asyncresult": ("AsyncResult",),
    "ipclusterz.client.executor": ("ViewExecutor",),
    "ipclusterz.client.group": ("AsyncMapResult",),
    "ipclusterz.client.remembered": ("AsyncHubResult",),
    "ipclusterz.client.remote": (
        "RemoteFunction",
        "ParallelFunction",
        "remote",
        "parallel",
        "interactive",
    ),
    "ipclusterz.cluster": ("Cluster", "ClusterManager"),
    "ipclusterz.engine.custom": ("register_serializer", "unregister_serializer"),
    "ipclusterz.engine.reference": ("Reference",),
    "ipclusterz.engine.dependency": ("depend", "dependent", "require"),
    "ipclusterz.client.dependency": ("Dependency",),
    "concurrent.futures": ("ALL_COMPLETED", "FIRST_COMPLETED", "FIRST_EXCEPTION"),
    "ipclusterz.error": (
        "AuthenticationError",
        "ClusterError",
        "CompositeError",
        "ConnectorError",
        "ControllerLost",
        "DependencyTimeout",
        "EngineError",
        "ImpossibleDependency",
        "InvalidDependency",
        "KernelError",
        "LaunchError",
        "NoEnginesRegistered",
        "RemoteError",
        "ResultNotKept",
        "SerializationError",
        "TaskAborted",
        "TaskLost",
        "TaskNotFound",
        "TaskTimeout",
        "TimeoutError",
        "UnmetDependency",
    ),
}
_HOME = {name: place for place, names in _PLACES.items() for name in names}

__all__ = ["__version__", "error", *_HOME]  # noqa: PLE0604 - all of them are text


def __getattr__(name: str) -> object:
    from importlib import import_module  # not needed by engines

    if name == "error":
        return import_module("ipclusterz.error")
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'ipclusterz' has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def load_ipython_extension(shell: object) -> None:
    """Give IPython the magics for engines: ``%load_ext ipclusterz``."""
    from ipclusterz.client.magics import load

    load(shell)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
