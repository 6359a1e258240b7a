"""Engines on cores of their own, and what their libraries are told: real engines."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import ipclusterz as ipp
from ipclusterz.cluster.settings import SettingError, usable_cores
from ipclusterz.core.config import AgentConfig
from ipclusterz.core.placement import THREADS
from ipclusterz.net import cores
from ipclusterz.net.cores import Binding
from tests.running import run

OURS = cores.mask()
PAIR = pytest.mark.skipif(len(OURS) < 2, reason="one core only")


@pytest.fixture(autouse=True)
def no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody says how many threads, or how many cores were given."""
    for name in (*THREADS, "SLURM_CPUS_ON_NODE", "NSLOTS", "NCPUS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def one_core() -> Iterator[int]:
    """Let this thread, and what it starts, run on one core."""
    os.sched_setaffinity(0, OURS[:1])
    yield OURS[0]
    os.sched_setaffinity(0, OURS)


def bound() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def told(names: tuple[str, ...]) -> list[str | None]:
    return [os.environ.get(name) for name in names]


@PAIR
def test_each_engine_has_cores_of_its_own_and_status_tells(ipython_dir: Path) -> None:
    with ipp.Cluster(n=2, cluster_id="", pin_cores="auto") as rc:
        found = rc[:].apply_sync(bound)
        assert len(found) == 2 and all(found)
        assert not set(found[0]) & set(found[1]) and {*found[0], *found[1]} <= set(OURS)
        share = str(len(OURS) // 2)
        assert rc[:].apply_sync(told, THREADS) == [[share] * len(THREADS)] * 2
        seen = json.loads(run("ipclusterz status -o json").stdout)
        assert [engine["cores"] for engine in seen["engines"]] == found

        # A second set of this host takes no core that is taken.
        with ipp.Cluster(n=1, pin_cores="auto") as other:
            assert other[0].apply_sync(bound) == OURS
    with ipp.Cluster(n=1, pin_cores="auto") as rc:  # they are free again
        assert rc[0].apply_sync(bound) == OURS


def test_too_many_engines_for_auto_share_all_cores_and_it_is_said() -> None:
    events: list[dict[str, object]] = []
    n = len(OURS) + 1
    with ipp.Cluster(n=n, pin_cores="auto", notice=events.append) as rc:
        assert rc[:].apply_sync(bound) == [OURS] * n
        assert rc[:].apply_sync(told, THREADS[:1]) == [["1"]] * n
    (text,) = [str(e["text"]) for e in events if e["event"] == "warning"]
    assert text.startswith(f"{n} engines, and {len(OURS)} of {len(OURS)} usable cores are free")


def test_a_list_of_cores_is_taken_at_its_word() -> None:
    with ipp.Cluster(n=2, pin_cores=str(OURS[-1])) as rc:
        assert rc[:].apply_sync(bound) == [[OURS[-1]]] * 2
        assert rc[:].apply_sync(told, THREADS[:2]) == [["1", "1"]] * 2


def test_a_core_that_is_not_ours_is_told() -> None:
    with pytest.raises(ipp.LaunchError, match=r"--pin-cores: core 65535 is none that may be"):
        ipp.Cluster(n=1, pin_cores="65535").start_cluster_sync()
    with pytest.raises(SettingError, match="pin_cores: 'x' is neither auto, none nor a list"):
        ipp.Cluster(n=1, pin_cores="x")
    done = run("ipenginez --pin-cores=3-1")
    assert done.returncode != 0 and "--pin-cores: '3-1' in '3-1' goes down" in done.stderr


def test_the_profile_says_it_too(ipython_dir: Path) -> None:
    folder = ipp.Cluster(n=1).profile
    folder.create()
    config = Path(folder.path, "ipenginez_config.py")
    for said, meant in (("auto", "auto"), ("none", ""), ("0-1, 4", "0-1,4")):
        config.write_text(f"c = get_config()\nc.EngineApp.pin_cores = {said!r}\n")
        assert ipp.Cluster(n=1)._deployed.plan.agent.pin_cores == meant
    config.write_text("c = get_config()\nc.EngineApp.pin_cores = 'much'\n")
    with pytest.raises(SettingError, match=r"c\.EngineApp\.pin_cores: 'much' is neither"):
        ipp.Cluster(n=1)


def test_an_engine_that_replaces_another_has_its_cores() -> None:
    agent = AgentConfig(pin_cores=f"{OURS[0]},{OURS[-1]}" if len(OURS) > 1 else "0")
    agent.restart_engines = 1
    with ipp.Cluster(n=2, agent=agent) as rc:
        first = dict(zip(rc.ids, rc[:].apply_sync(bound), strict=True))
        os.kill(rc[0].apply_sync(os.getpid), 9)
        assert rc.session.wait(lambda: rc.ids == [1, 2], 20)
        assert rc[2].apply_sync(bound) == first[0]
        assert rc[1].apply_sync(bound) == first[1]


def test_by_default_engines_run_where_they_are_let(one_core: int) -> None:
    with ipp.Cluster(n=2) as rc:
        assert rc[:].apply_sync(bound) == [[one_core]] * 2
        assert rc[:].apply_sync(told, THREADS) == [["1"] * len(THREADS)] * 2


def test_the_mask_bounds_what_is_divided(one_core: int) -> None:
    assert usable_cores() == 1
    with ipp.Cluster(n=1, pin_cores="auto") as rc:
        assert rc[0].apply_sync(bound) == [one_core]


@PAIR
def test_cores_that_are_given_by_number_only_are_not_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "1")
    assert usable_cores() == 1
    made = Binding("auto", 1)
    assert made.shares == [] and f"1 of {len(OURS)} cores are ours" in made.problem
    assert made.threads(1, {}) == dict.fromkeys(THREADS, "1")
    with ipp.Cluster(n=1) as rc:
        assert rc[0].apply_sync(told, THREADS[:1]) == ["1"]


@PAIR
def test_ranks_of_one_host_divide_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", str(len(OURS)))
    made = [Binding("auto", 1, rank=True) for _ in OURS]
    try:
        assert sorted(core for one in made for share in one.shares for core in share) == OURS
        assert made[0].threads(1, {})["OMP_NUM_THREADS"] == "1"
    finally:
        for one in made:
            one.close()
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "1")
    assert cores.usable_by_rank() == len(OURS)


def test_cores_are_free_as_soon_as_their_agent_has_ended() -> None:
    name = f"\0ipclusterz-{os.getuid()}-core-{OURS[0]}"
    with ipp.Cluster(n=1, pin_cores="auto") as rc:
        assert rc[0].apply_sync(bound) == OURS
        with socket.socket(socket.AF_UNIX) as other, pytest.raises(OSError):
            other.bind(name)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(name)


# -- threads of libraries --------------------------------------------------------------------


def threads_of_numpy() -> tuple[str | None, int, int]:
    import numpy

    before = len(os.listdir("/proc/self/task"))
    square = numpy.ones((700, 700))
    assert (square @ square)[0, 0] == 700.0
    return os.environ.get("OPENBLAS_NUM_THREADS"), before, len(os.listdir("/proc/self/task"))


@pytest.mark.parametrize("preload", [[], ["numpy"]], ids=["imported", "preloaded"])
def test_an_engine_alone_has_threads_for_all_cores(preload: list[str]) -> None:
    events: list[dict[str, object]] = []
    with ipp.Cluster(n=1, preload=preload, notice=events.append) as rc:
        said, before, after = rc[0].apply_sync(threads_of_numpy)
        assert said == str(len(OURS)) and after == len(OURS)
        assert preload == [] or before <= after
    assert not [e for e in events if e["event"] == "warning"], "it was forked"


def test_what_the_user_says_of_threads_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with ipp.Cluster(n=1, env={"MKL_NUM_THREADS": "2"}) as rc:
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        assert rc[0].apply_sync(told, names) == ["3", "2", "3"]
