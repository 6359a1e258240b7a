"""Price options by Monte Carlo on four engines: a grid of strikes and volatilities.

Each engine draws its own random paths (its generator is seeded by the task, so the run can be
repeated), prices a European and an Asian option for one point of the grid, and tells its
standard error.  European prices are compared with the formula of Black and Scholes (1973).

    python examples/option_pricing.py
    python examples/option_pricing.py -n 8 --paths 200000

Needs numpy.  Exit codes: 0 all prices within four standard errors, 1 not.
"""

from __future__ import annotations

import argparse
import math
import sys
from itertools import product

import ipclusterz as ipp

SPOT, RATE, YEARS, STEPS = 100.0, 0.05, 1.0, 64

Price = tuple[float, float, float, float]
"""European price and its standard error, Asian price and its."""


def simulate(strike: float, volatility: float, paths: int, seed: int) -> Price:
    """Price a European and an arithmetic Asian call at one point of the grid."""
    import numpy

    random = numpy.random.default_rng(seed)
    step = YEARS / STEPS
    drift = (RATE - volatility**2 / 2) * step
    moves = drift + volatility * math.sqrt(step) * random.standard_normal((paths, STEPS))
    prices = SPOT * numpy.exp(numpy.cumsum(moves, axis=1))
    discount = math.exp(-RATE * YEARS)
    european = discount * numpy.maximum(prices[:, -1] - strike, 0.0)
    asian = discount * numpy.maximum(prices.mean(axis=1) - strike, 0.0)
    root = math.sqrt(paths)
    return (
        float(european.mean()),
        float(european.std() / root),
        float(asian.mean()),
        float(asian.std() / root),
    )


def black_scholes(strike: float, volatility: float) -> float:
    """Return the exact price of the European call."""
    spread = volatility * math.sqrt(YEARS)
    d1 = (math.log(SPOT / strike) + (RATE + volatility**2 / 2) * YEARS) / spread
    d2 = d1 - spread
    return SPOT * normal(d1) - strike * math.exp(-RATE * YEARS) * normal(d2)


def normal(x: float) -> float:
    """Return the standard normal distribution's value at ``x``."""
    return (1 + math.erf(x / math.sqrt(2))) / 2


def main(arguments: list[str] | None = None) -> int:
    """Price the grid and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-n", type=int, default=4, help="engines (default: 4)")
    parser.add_argument("--paths", type=int, default=50_000, help="paths for each price")
    options = parser.parse_args(arguments)
    grid = list(product((80.0, 90.0, 100.0, 110.0, 120.0), (0.1, 0.2, 0.4)))
    with ipp.Cluster(n=options.n) as rc:
        view = rc.load_balanced_view(label="option pricing")
        strikes, volatilities = zip(*grid, strict=True)
        results = view.map_async(
            simulate, strikes, volatilities, [options.paths] * len(grid), range(len(grid))
        )
        results.wait_interactive()
        prices: list[Price] = results.get()
    wrong = 0
    print(f"{'strike':>8} {'vol':>5} {'European':>18} {'exact':>9} {'Asian':>18}")
    for (strike, volatility), (price, error, asian, asian_error) in zip(
        grid, prices, strict=True
    ):
        exact = black_scholes(strike, volatility)
        wrong += abs(price - exact) > 4 * error + 1e-9
        print(
            f"{strike:8.0f} {volatility:5.1f} {price:9.4f} ± {error:6.4f} {exact:9.4f}"
            f" {asian:9.4f} ± {asian_error:6.4f}"
        )
    print(f"{len(grid)} points, {wrong} further from the formula than four standard errors")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
