"""joblib, and scikit-learn through it, over real engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ipclusterz as ipp
from tests.running import ROOT

joblib = pytest.importorskip("joblib")


@pytest.fixture(scope="module")
def rc(shared_ipython_dir: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=2) as client:
        client.register_joblib_backend("of-the-tests")
        yield client


def test_calls_run_on_engines_in_order(rc: ipp.Client) -> None:
    pids = set(rc[:].apply_sync(os.getpid))
    with joblib.parallel_config("of-the-tests"):
        run = joblib.Parallel()
        assert run(joblib.delayed(pow)(i, 2) for i in range(100)) == [i**2 for i in range(100)]
        assert set(joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(40))) <= pids
        assert run._backend.effective_n_jobs(-1) == run._backend.effective_n_jobs(99) == 2
        assert run._backend.effective_n_jobs(1) == run._backend.effective_n_jobs(-2) == 1


def test_generators(rc: ipp.Client) -> None:
    with joblib.parallel_config("of-the-tests"):
        values = joblib.Parallel(return_as="generator")(
            joblib.delayed(lambda x: x + 1)(i) for i in range(30)
        )
        assert list(values) == list(range(1, 31))
        values = joblib.Parallel(return_as="generator_unordered")(
            joblib.delayed(abs)(-i) for i in range(30)
        )
        assert sorted(values) == list(range(30))


def test_errors_and_what_comes_after(rc: ipp.Client) -> None:
    with joblib.parallel_config("of-the-tests"):
        with pytest.raises(ZeroDivisionError):
            joblib.Parallel()(joblib.delayed(divmod)(1, i - 5) for i in range(50))
        assert joblib.Parallel()(joblib.delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
    assert rc.wait(timeout=20)


def test_targets_and_direct_views(rc: ipp.Client) -> None:
    pids = rc[:].apply_sync(os.getpid)
    rc.load_balanced_view(targets=[rc.ids[1]]).register_joblib_backend("one")
    with joblib.parallel_config("one", n_jobs=2):
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(os.getpid)() for _ in range(6))
        assert set(found) <= {pids[1], os.getpid()}  # one engine: joblib may stay at home


def test_calls_through_a_direct_view_run_once_each(rc: ipp.Client) -> None:
    rc[:].register_joblib_backend("direct")
    rc[rc.ids[0]].register_joblib_backend("one-direct")
    rc.direct_view("all").register_joblib_backend("all-direct")
    for name in ("direct", "one-direct", "all-direct"):
        with joblib.parallel_config(name, n_jobs=2):
            run = joblib.Parallel(n_jobs=2)
            assert run(joblib.delayed(pow)(i, 2) for i in range(6)) == [0, 1, 4, 9, 16, 25]
            engines = 1 if name == "one-direct" else 2
            assert run._backend.effective_n_jobs(-1) == engines
    with pytest.raises(ipp.NoEnginesRegistered):
        rc[:0].register_joblib_backend("none")


GRID = """
import json, sys, joblib
import ipclusterz as ipp
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

X, y = load_digits(return_X_y=True)
grid = {"C": [0.1, 1.0, 10.0], "gamma": [1e-4, 1e-3]}

def scores(name):
    with joblib.parallel_config(name, n_jobs=2):
        search = GridSearchCV(SVC(), grid, cv=3).fit(X, y)
    kept = ("mean_test_score", "std_test_score", "rank_test_score")
    return [search.best_params_, *(search.cv_results_[key].tolist() for key in kept)]

with ipp.Cluster(n=2) as rc:
    rc.register_joblib_backend("engines")
    ours = scores("engines")
    sent = len(rc.history)
print(json.dumps([ours, scores("loky"), sent]))
"""


def script(text: str) -> str:
    """Run a program, which may leave workers of loky that end with it; return its output."""
    done = subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_grid_search_gives_the_scores_of_loky() -> None:
    pytest.importorskip("sklearn")
    ours, loky, sent = json.loads(script(GRID))
    assert ours == loky and sent > 0
    assert ours[0] == {"C": 10.0, "gamma": 0.001} and max(ours[1]) > 0.95


SCRIPT = """
import os, joblib, ipclusterz.joblib
with joblib.parallel_config("ipclusterz", n_jobs=2):
    for _ in range(2):
        pids = joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(20))
        assert os.getpid() not in pids, pids
print(*set(pids))
"""


def test_the_module_starts_a_cluster_where_there_is_none() -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("with one engine joblib works at home")
    assert script(SCRIPT).strip()


def test_the_module_uses_the_cluster_that_runs() -> None:
    with ipp.Cluster(n=2, cluster_id="") as rc:
        pids = rc[:].apply_sync(os.getpid)
        assert set(map(int, script(SCRIPT).split())) <= set(pids)
