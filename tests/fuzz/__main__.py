"""Fuzzing by hand, led by coverage; needs atheris (``pip install atheris``).

::

    python -m tests.fuzz template --seconds 300 --corpus /some/folder

What it finds is written by libFuzzer to a file ``crash-…``; give that file as ``--again``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    """Read the command line and fuzz one target."""
    import atheris

    with atheris.instrument_imports(include=["ipclusterz.core", "ipclusterz.net.seal"]):
        from tests.fuzz.targets import SEEDS, TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=300, help="how long (300)")
    parser.add_argument("--corpus", type=Path, required=True, help="a folder for inputs")
    parser.add_argument("--again", type=Path, help="run this one input only")
    options = parser.parse_args()
    run = TARGETS[options.target]
    if options.again:
        run(options.again.read_bytes())
        return
    folder = options.corpus / options.target
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[options.target]):
        (folder / f"seed-{number}").write_bytes(seed)
    limits = ["-timeout=10", "-rss_limit_mb=1024", "-max_len=4096", "-print_final_stats=1"]
    words = [f"-max_total_time={options.seconds}", *limits, str(folder)]
    atheris.Setup([sys.argv[0], *words], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
