"""What every test gets: a profile folder of its own, and a run that leaves nothing."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from ipclusterz.net import signals

pytest_plugins = ["tests.leftovers", "tests.turns", "tests.lab.fixtures", "tests.lab.slurm"]


# A busy machine is no bug: neither an example that takes long nor slowly drawn data.
settings.register_profile(
    "patient", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests marked long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    skip = pytest.mark.skip(reason="only with --long")
    for item in items:
        if "long" in item.keywords:
            item.add_marker(skip)


_numbers = itertools.count()


def fresh_folder(factory: pytest.TempPathFactory) -> Path:
    """An owner-only folder beside the tests' own, kept by pytest for a look at its logs."""
    folder = factory.getbasetemp() / "ipython" / str(next(_numbers))
    folder.mkdir(mode=0o700, parents=True)
    return folder


@pytest.fixture(scope="module")
def shared_ipython_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``$IPYTHONDIR`` for a whole module, for clusters that several tests share."""
    folder = fresh_folder(tmp_path_factory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def ipython_dir(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """``$IPYTHONDIR`` of this test alone, empty, or the module's shared one if it has one.

    No test sees the developer's own profiles, and none sees another test's.
    """
    if "shared_ipython_dir" in request.fixturenames:
        yield request.getfixturevalue("shared_ipython_dir")
        return
    folder = fresh_folder(tmp_path_factory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(folder))
        yield folder


_NO_ALARM = tuple(number for number in signals._NUMBERS if number != signal.SIGALRM)


@pytest.fixture(autouse=True)
def no_alarms(request: pytest.FixtureRequest) -> Iterator[None]:
    """Clients do not see the handler by which a test's own time limit works.

    With a handler that may raise they work otherwise than in most programs: see
    :mod:`ipclusterz.net.signals`.
    """
    if request.node.get_closest_marker("alarms") is not None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signals, "_NUMBERS", _NO_ALARM)
        yield
