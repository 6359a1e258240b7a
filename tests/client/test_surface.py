"""Every public name of ipyparallel 9 is here, or its absence is a decision that is written
down: in ABSENT with the reason, and in docs/migration.md."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ipclusterz as ipp
from ipclusterz.client.client import Client
from tests.client.fake import FakeConnection
from tests.client.peer_surface import ERRORS, INSTANCES, NAMES, SURFACE

MIGRATION = (Path(__file__).resolve().parents[2] / "docs" / "migration.md").read_text()


def of(kind: str, names: str, reason: str) -> dict[str, str]:
    return dict.fromkeys([f"{kind}.{name}" if kind else name for name in names.split()], reason)


ABSENT: dict[str, str] = {
    **of(
        "Client",
        "create_message_futures send_apply_request send_execute_request",
        "how clients talk to controllers is nobody's interface",
    ),
    **of(
        "Client",
        "curve_publickey curve_secretkey curve_serverkey",
        "keys are in the connector file and nowhere else",
    ),
    **of(
        "Cluster",
        "controller_args controller_launcher_class engine_launcher_class load_profile"
        " profile_config send_engines_connection_env log_level",
        "arguments of Cluster, under other names",
    ),
    **of(
        "Cluster",
        "remove_cluster_file update_cluster_file write_cluster_file shutdown_atexit",
        "a cluster keeps its state file itself, and ends with the process",
    ),
    "ParallelFunction.mapObject": "there is no such class",
    "Reference.get_object": "references are resolved by engines",
    **of(
        "",
        "bind_kernel can can_map collect_exceptions deserialize_object pack_apply_message"
        " serialize_object uncan uncan_map unpack_apply_message unwrap_exception"
        " version_info wrap_exception PrePickled AlreadyDisplayedError IPythonError"
        " TaskRejectError MultipleInstanceError use_cloudpickle use_dill use_pickle"
        " register_joblib_backend",
        "inner parts, or methods of views",
    ),
}

RESULTS = ("AsyncResult", "AsyncMapResult", "AsyncHubResult")

OTHER_PARAMETERS: dict[str, str] = {
    "Dependency.check": "by position; completed is whatever succeeded",
    "Dependency.unreachable": "as check",
    "ViewExecutor.map": "fn, as in the standard library",
}
"""Where parameters are named otherwise."""


def entries() -> Iterator[tuple[str, str, list[str] | None]]:
    """Yield class, name and parameters of each line of the table."""
    for kind, text in SURFACE.items():
        for line in text.split("\n"):
            found = re.fullmatch(r"\s*(\w+)(?:\((.*)\))?\s*", line)
            if found:
                name, parameters = found.groups()
                yield kind, name, None if parameters is None else parameters.split()


@pytest.fixture(scope="module")
def things() -> dict[str, Any]:
    """One of each class."""
    rc = Client.over(FakeConnection(2))
    view = rc.load_balanced_view()
    mapped = view.map(abs, [1])
    return {
        "Client": rc,
        "DirectView": rc[:],
        "LoadBalancedView": view,
        "BroadcastView": rc.broadcast_view(),
        "AsyncResult": view.apply_async(abs, 1),
        "AsyncMapResult": mapped,
        "AsyncHubResult": ipp.AsyncHubResult(rc.session, [], True),
        "Cluster": ipp.Cluster(1),
        "ClusterManager": ipp.ClusterManager(),
        "RemoteFunction": ipp.remote(view)(abs),
        "ParallelFunction": ipp.parallel(view)(abs),
        "Reference": ipp.Reference("x"),
        "Dependency": ipp.Dependency(),
        "ViewExecutor": view.executor,
    }


def has(thing: Any, name: str) -> bool:
    # Some properties cannot be had of a client in memory.
    return hasattr(type(thing), name) or name in getattr(thing, "__dict__", ())


def test_no_name_is_missing(things: dict[str, Any]) -> None:
    missing = [
        f"{kind}.{name}"
        for kind, name, _ in entries()
        if not has(things[kind], name) and f"{kind}.{name}" not in ABSENT
    ]
    missing += [n for n in NAMES if not hasattr(ipp, n) and n not in ABSENT]
    assert missing == []


def test_what_is_absent_is_absent(things: dict[str, Any]) -> None:
    known = {f"{kind}.{name}" for kind, name, _ in entries()} | set(NAMES)
    assert set(ABSENT) <= known
    here = []
    for entry in ABSENT:
        kind, _, name = entry.rpartition(".")
        if has(things[kind], name) if kind else hasattr(ipp, name):
            here.append(entry)
    assert here == []


def test_parameters_have_the_same_names(things: dict[str, Any]) -> None:
    wrong = []
    for kind, name, parameters in entries():
        full = f"{kind}.{name}"
        if parameters is None or full in OTHER_PARAMETERS or not has(things[kind], name):
            continue
        ours = inspect.signature(getattr(things[kind], name)).parameters
        if any(p.kind is p.VAR_KEYWORD for p in ours.values()):
            continue
        lost = [p for p in parameters if not p.startswith("*") and p not in ours]
        if lost:
            wrong.append(f"{full}: {lost}")
    assert wrong == []


def test_errors_can_be_caught_as_before() -> None:
    wrong = [
        f"{name} is no {base}"
        for name, bases in ERRORS.items()
        for base in bases
        if not issubclass(getattr(ipp.error, name), getattr(ipp.error, base))
    ]
    assert wrong == [] and issubclass(ipp.error.TimeoutError, TimeoutError)
    made = {
        "RemoteError": ipp.RemoteError("ValueError", "no", "", 3),
        "CompositeError": ipp.CompositeError("several", []),
    }
    lost = [
        f"{kind}.{name}" for kind, names in INSTANCES.items() for name in names
        if not hasattr(made[kind], name)
    ]  # fmt: skip
    assert lost == []


def test_the_page_on_migration_names_all_of_them() -> None:
    sections = {
        title: text
        for title, _, text in (
            part.partition("\n") for part in re.split(r"^## ", MIGRATION, flags=re.MULTILINE)
        )
    }
    wrong = []
    for kind, name, _ in entries():
        text = sections.get(kind) or next(t for s, t in sections.items() if kind in s)
        if not re.search(rf"`(?:\w+\.)?{name}\b", text):
            wrong.append(f"{kind}.{name}")
    wrong += [name for name in [*NAMES, *ERRORS] if f"`{name}" not in MIGRATION]
    assert wrong == []
