"""``--preload`` in real clusters: what is forked, what is not, and what cannot be imported."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ipclusterz as ipp
from ipclusterz.net import nursery as nurseries
from ipclusterz.net.loop import Loop
from ipclusterz.net.nursery import Nursery
from tests.engine.testagent import until
from tests.running import Running, run


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """Make modules that engines can import."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(name: str, code: str) -> str:
        (tmp_path / f"{name}.py").write_text(code)
        return name

    return write


Module = Callable[[str, str], str]


# -- what is preloaded ---------------------------------------------------------------------


def test_modules_are_imported_once_for_all_engines(module: Module) -> None:
    module("counted", "import os\nmaker = os.getpid()\nlarge = list(range(1000))\n")

    def look() -> tuple[int, int, int]:
        import os
        import sys

        found = sys.modules["counted"]
        return found.maker, len(found.large), os.getpid()

    with ipp.Cluster(n=3, preload="json, counted") as rc:  # as on the command line
        seen = rc[:].apply_sync(look)
    assert len({maker for maker, _, _ in seen}) == 1, "one process imported it"
    assert [size for _, size, _ in seen] == [1000] * 3
    assert seen[0][0] not in {pid for _, _, pid in seen}


def test_the_profile_may_say_it(module: Module, ipython_dir: Path) -> None:
    module("wanted", "value = 42\n")
    profile = ipython_dir / "cluster_default"
    profile.mkdir(mode=0o700)
    (profile / "ipenginez_config.py").write_text("c.EngineApp.preload = 'wanted'\n")

    def look() -> Any:
        import sys

        return getattr(sys.modules.get("wanted"), "value", None)

    with ipp.Cluster(n=1) as rc:
        assert rc[0].apply_sync(look) == 42
    with ipp.Cluster(n=1, preload=[]) as rc:
        assert rc[0].apply_sync(look) is None


# -- what cannot be preloaded --------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (None, "cannot preload 'broken': ModuleNotFoundError: No module named 'broken'"),
        ("import nowhere", "cannot preload 'broken': ModuleNotFoundError: .*'nowhere'"),
        ("1/0", "cannot preload 'broken': ZeroDivisionError"),
        ("import sys; sys.exit(3)", "cannot preload 'broken': SystemExit: 3"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            r"was to import (json, )?broken \(--preload\): killed by signal SIGKILL",
        ),
        (
            "import os; os.write(2, b'no licence left\\n'); os._exit(5)",
            r"broken \(--preload\): exited with code 5; its last words:\nno licence left",
        ),
    ],
    ids=["missing", "imports missing", "raises", "exits", "killed", "ends"],
)
def test_a_module_that_cannot_be_imported_is_named(
    code: str | None, reason: str, module: Module
) -> None:
    if code is not None:
        module("broken", code)
    done = run("ipclusterz start -n 2 --preload=json,broken")
    assert done.returncode == 1, done
    assert re.search(reason, done.stderr), done.stderr
    assert "engines cannot be started: " in done.stderr and "Traceback" not in done.stderr
    assert run("ipclusterz list -o json").stdout.strip() == "[]"
    with pytest.raises(ipp.error.ClusterError, match=reason):
        ipp.Cluster(n=1, preload="broken").start_cluster_sync()


def test_engines_that_cannot_be_added_leave_the_cluster_alone(module: Module) -> None:
    with ipp.Cluster(n=1, cluster_id="") as rc:
        before = rc[0].apply_sync(os.getpid)
        done = run("ipclusterz engines -n 1 --preload=broken")
        assert done.returncode == 1 and "cannot preload 'broken'" in done.stderr
        other = ipp.Cluster.from_file(preload="broken")
        with pytest.raises(ipp.error.ClusterError, match="cannot preload 'broken'"):
            other.start_engines_sync(1)
        assert rc[:].apply_sync(os.getpid) == [before]


class _Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, text: str, *values: object) -> None:
        self.lines.append(text % values if values else text)

    info = error = warning


def test_an_import_that_takes_long_is_said_by_its_name(
    module: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    module("takes_for_ever", "import time\ntime.sleep(1000)\n")
    monkeypatch.setattr(nurseries, "_SLOW_SECONDS", 0.0)
    log, told, problems = _Log(), list[str](), list[str]()
    made = Nursery("", ["json", "takes_for_ever"], log, told.append)
    loop = Loop()
    try:
        name = Path(f"/proc/{made.pid}/comm")
        until(lambda: name.read_text() == "takes_for_ever\n", "the import to begin")
        made.attach(loop, problems.append)
        until(lambda: loop.process(loop.wait(0.01)) or told, "the notice")
    finally:
        made.close()
        loop.close()
    assert told == log.lines and problems == []
    [text] = told
    assert re.fullmatch(
        r"still importing takes_for_ever for --preload \(process \d+\); engines start when"
        r" that is done",
        text,
    )


# -- threads -------------------------------------------------------------------------------

LEAVES_A_THREAD = (
    "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
)


def command() -> str:
    with open("/proc/self/cmdline") as file:
        return file.read()


def test_a_module_that_leaves_threads_is_named_and_engines_are_spawned(
    module: Module, ipython_dir: Path
) -> None:
    module("threaded", LEAVES_A_THREAD)
    told: list[dict[str, Any]] = []
    with ipp.Cluster(n=2, preload="json,threaded", notice=told.append) as rc:
        assert all("engine.spawn" in line for line in rc[:].apply_sync(command))
        assert len(set(rc[:].apply_sync(os.getpid))) == 2
        assert rc.load_balanced_view().map_sync(abs, range(-9, 0)) == list(range(9, 0, -1))
    said = "preloading threaded left 1 threads running, so engines are not forked"
    assert [said in event["text"] for event in told if event["event"] == "warning"] == [True]
    [log] = (ipython_dir / "cluster_default" / "log").glob("*-agent-*.log")
    assert log.read_text().count(said) == 1


def test_who_starts_is_told_of_threads(module: Module) -> None:
    module("threaded", LEAVES_A_THREAD)
    started = Running("ipclusterz start -n 1 --preload=threaded")
    try:
        started.until("preloading threaded left 1 threads running")
        started.until("ready in")
    finally:
        assert started.end() == 0


# -- random numbers ------------------------------------------------------------------------


def draw() -> tuple[float, float, float, int]:
    import random
    import uuid

    import numpy

    generator = numpy.random.default_rng()
    legacy = float(numpy.random.random())
    return random.random(), legacy, float(generator.random()), uuid.uuid4().int


@pytest.mark.parametrize("preload", ["", "random,numpy,uuid"], ids=["later", "preloaded"])
def test_random_numbers_are_new_after_restarts(preload: str) -> None:
    cluster = ipp.Cluster(n=2, preload=preload, cluster_id="")
    with cluster as rc:
        drawn = rc[:].apply_sync(draw)
        cluster.restart_engines_sync()
        until(lambda: rc.session.wait(lambda: len(rc.ids) == 2, 0.1), "the new engines")
        drawn += rc[:].apply_sync(draw)
        number = cluster.restart_engine_sync(rc.ids[0])
        drawn.append(rc[number].apply_sync(draw))
    for numbers in zip(*drawn, strict=True):
        assert len(set(numbers)) == 5


def test_a_modules_own_generator_may_be_reseeded_after_the_fork(module: Module) -> None:
    """What the page on --preload recommends."""
    module(
        "own_generator",
        "import os, numpy\n"
        "rng = numpy.random.default_rng()\n"
        "def renew():\n"
        "    global rng\n"
        "    rng = numpy.random.default_rng()\n"
        "os.register_at_fork(after_in_child=renew)\n",
    )

    def first() -> float:
        import own_generator

        return float(own_generator.rng.random())

    with ipp.Cluster(n=3, preload="own_generator") as rc:
        assert len(set(rc[:].apply_sync(first))) == 3
