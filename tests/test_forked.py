"""What people do in engines, in engines that are forked: nothing of it may notice the fork."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ipclusterz as ipp
from ipclusterz.cluster.settings import usable_cores
from ipclusterz.core.config import AgentConfig
from tests.running import Running, alive, eventually

N = 3


@pytest.fixture(scope="module")
def rc(shared_ipython_dir: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=N, agent=AgentConfig(preload=["numpy", "random", "pandas"])) as client:
        yield client


def test_what_was_preloaded_is_there_and_engines_are_forked(rc: ipp.Client) -> None:
    def look() -> tuple[bool, int, str]:
        import sys

        with open("/proc/self/cmdline") as file:
            return "pandas" in sys.modules, len(os.listdir("/proc/self/task")), file.read()

    for loaded, threads, command in rc[:].apply_sync(look):
        assert loaded and threads == 1
        assert "launched.py" in command  # a fork has its parent's command line


def draw() -> tuple[float, float, float]:
    import random

    import numpy

    generator = numpy.random.default_rng()
    return random.random(), float(numpy.random.random()), float(generator.random())


def test_random_numbers_differ_between_engines(rc: ipp.Client) -> None:
    drawn = rc[:].apply_sync(draw)
    for numbers in zip(*drawn, strict=True):
        assert len(set(numbers)) == N


def test_random_numbers_differ_where_nothing_was_preloaded() -> None:
    with ipp.Cluster(n=2) as rc:
        one, two = rc[:].apply_sync(draw)
        assert all(a != b for a, b in zip(one, two, strict=True))


def test_seeding_is_the_users(rc: ipp.Client) -> None:
    def seeded() -> list[float]:
        import random

        import numpy

        random.seed(7)
        numpy.random.seed(7)
        return [random.random(), float(numpy.random.random())]

    first, *others = rc[:].apply_sync(seeded)
    assert all(other == first for other in others)


def test_libraries_are_told_how_many_threads_to_use(
    rc: ipp.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> tuple[str | None, ...]:
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        return tuple(os.environ.get(name) for name in names)

    each = str(max(1, usable_cores() // N))
    assert rc[0].apply_sync(told) == (each, each, each)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("MKL_NUM_THREADS", "4")
    with ipp.Cluster(n=1) as other:
        assert other[0].apply_sync(told) == ("5", "5", "4")


def square(x: int) -> int:
    return x * x


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(rc: ipp.Client, method: str, tmp_path: Path) -> None:
    # What a child that is not forked unpickles must be importable there, as always.
    (tmp_path / "squares.py").write_text("def square(x):\n    return x * x\n")

    def pool(method: str, folder: str) -> tuple[list[int], int]:
        import multiprocessing
        import sys

        if folder not in sys.path:
            sys.path.insert(0, folder)
        from squares import square

        context = multiprocessing.get_context(method)
        with context.Pool(2) as workers:
            values = workers.map(square, range(10))
        process = context.Process(target=square, args=(3,))
        process.start()
        process.join(30)
        return values, process.exitcode or 0

    values, code = rc[1].apply_async(pool, method, str(tmp_path)).get(60)
    assert values == [x * x for x in range(10)] and code == 0
    assert rc[1].apply_sync(square, 5) == 25


def test_a_process_pool_executor_with_functions_of_the_engine(rc: ipp.Client) -> None:
    code = """
from concurrent.futures import ProcessPoolExecutor
import multiprocessing
def cube(x):
    return x ** 3
with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
    cubes = list(pool.map(cube, range(5)))
"""
    rc[0].execute(code).get(60)
    assert rc[0].pull("cubes", block=True) == [0, 1, 8, 27, 64]


def test_subprocesses(rc: ipp.Client) -> None:
    def shell() -> tuple[str, int]:
        import subprocess

        done = subprocess.run(["cat"], input="through a pipe", capture_output=True, text=True)
        return done.stdout, subprocess.call(["false"])

    assert rc[:].apply_async(shell).get(60) == [("through a pipe", 1)] * N


def test_threads(rc: ipp.Client) -> None:
    def threaded() -> list[int]:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(abs, range(-5, 0)))

    assert rc[:].apply_async(threaded).get(60) == [[5, 4, 3, 2, 1]] * N


def test_asyncio(rc: ipp.Client) -> None:
    def loop() -> str:
        import asyncio

        async def child() -> str:
            made = await asyncio.create_subprocess_exec(
                "echo", "hello", stdout=asyncio.subprocess.PIPE
            )
            said, _ = await made.communicate()
            return said.decode()

        return asyncio.run(child())

    assert rc[:].apply_async(loop).get(60) == ["hello\n"] * N


def test_matplotlib(rc: ipp.Client, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")

    def draw_figure(path: str) -> int:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots()
        axes.plot(range(10))
        figure.savefig(path)
        plt.close(figure)
        return os.path.getsize(path)

    paths = [str(tmp_path / f"{i}.png") for i in range(N)]
    sizes = rc[:].map_async(draw_figure, paths).get(120)
    for path, size in zip(paths, sizes, strict=True):
        data = Path(path).read_bytes()
        assert len(data) == size and data.startswith(b"\x89PNG")


def test_linear_algebra_agrees_with_the_client(rc: ipp.Client) -> None:
    import numpy

    matrix = numpy.random.default_rng(1).random((60, 60)) + 60 * numpy.eye(60)

    def solve(a: Any) -> Any:
        import numpy

        return numpy.linalg.solve(a, numpy.ones(len(a)))

    for answer in rc[:].apply_async(solve, matrix).get(60):
        assert numpy.allclose(matrix @ answer, numpy.ones(60))


def test_pandas(rc: ipp.Client) -> None:
    import pandas

    frame = pandas.DataFrame({"k": ["a", "b", "a"], "v": [1, 2, 3]})
    sums = rc[0].apply_async(lambda f: f.groupby("k")["v"].sum(), frame).get(60)
    assert dict(sums) == {"a": 4, "b": 2}


def test_children_end_with_their_engine(rc: ipp.Client, tmp_path: Path) -> None:
    with ipp.Cluster(n=1) as own:

        def leave_child() -> int:
            import subprocess

            return subprocess.Popen(["sleep", "1000"]).pid

        child = own[0].apply_sync(leave_child)
        assert alive(child)
    eventually(lambda: not alive(child), what=f"process {child} outlived its engine")


def test_a_module_that_leaves_threads_is_named_to_who_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "left_a_thread.py").write_text(
        "import threading\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    started = Running("ipclusterz start -n 2 --preload=left_a_thread,json")
    try:
        started.until("ready in", timeout=40)
        assert "preloading left_a_thread left 1 threads running" in started.text
    finally:
        assert started.end() == 0
