"""Search the parameters of a classifier on four engines, by joblib and by hand.

First scikit-learn's own grid search runs its fits on the engines (``parallel_config``); then
the same grid is walked by a load-balanced view, with results as they come.  Both must name
the same best parameters.

    python examples/parameter_sweep.py

Needs scikit-learn and joblib.  Exit codes: 0 the same best score, 1 not.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import ipclusterz as ipp

GRID = {"C": [0.1, 1.0, 10.0], "gamma": [0.0005, 0.001, 0.002]}


def score(parameters: dict[str, Any], folds: int) -> float:
    """Return the mean cross-validated accuracy with these parameters."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import cross_val_score
    from sklearn.svm import SVC

    images, digits = load_digits(return_X_y=True)
    return float(cross_val_score(SVC(**parameters), images, digits, cv=folds).mean())


def main(arguments: list[str] | None = None) -> int:
    """Search twice and compare."""
    from joblib import parallel_config
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV, ParameterGrid
    from sklearn.svm import SVC

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", type=int, default=4, help="engines (default: 4)")
    parser.add_argument("--folds", type=int, default=3)
    options = parser.parse_args(arguments)
    with ipp.Cluster(n=options.n) as rc:
        view = rc.load_balanced_view()
        view.register_joblib_backend()
        search = GridSearchCV(SVC(), GRID, cv=options.folds)
        with parallel_config(backend="ipclusterz"):
            search.fit(*load_digits(return_X_y=True))
        print(f"by joblib: {search.best_score_:.4f} with {search.best_params_}")

        grid = list(ParameterGrid(GRID))
        results = view.map_async(score, grid, [options.folds] * len(grid), ordered=False)
        best = max(results)  # as they come, whichever is first
        print(f"by a map:  {best:.4f}")
    return 0 if abs(best - search.best_score_) < 1e-12 else 1


if __name__ == "__main__":
    sys.exit(main())
