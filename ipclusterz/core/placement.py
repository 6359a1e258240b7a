"""Which cores an engine is bound to, and how many threads its libraries start.

Pure: the cores of a host, the environment and what other agents hold come in as values.  A
*core* here is what the system counts as a processor; two that are threads of one piece of
hardware have the same ``place`` and go to the same engine as long as there are enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TypeVar

import msgspec

_T = TypeVar("_T")

AUTO, NONE = "auto", "none"

MOST_CORES = 1 << 16

THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"),
    *("BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
)
"""By which libraries are told how many threads to start; the first one is for all of them."""

_ALLOTTED = (
    *("SLURM_CPUS_ON_NODE", "NSLOTS", "LSB_DJOB_NUMPROC", "LSB_MAX_NUM_PROCESSORS"),
    *("NCPUS", "PBS_NUM_PPN"),
)
_LOCAL_RANKS = (
    *("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_LOCAL_SIZE"),
    *("SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"),
)


class Core(msgspec.Struct, frozen=True):
    """A processor, and the piece of hardware it is a thread of: package and core."""

    number: int
    place: tuple[int, int]


def parse_pin(said: str) -> str:
    """Return how engines are bound: '' (not at all), ``auto`` or a list of cores.

    ValueError says what it must look like.

    >>> parse_pin("none"), parse_pin(" AUTO"), parse_pin("0-2, 8")
    ('', 'auto', '0-2,8')
    """
    word = said.strip().lower()
    if word in ("", NONE):
        return ""
    if word == AUTO:
        return AUTO
    return ",".join(part.strip() for part in said.split(",")) if parse_cores(said) else ""


def parse_cores(said: str) -> list[int]:
    """Read cores as people and the kernel write them; ValueError when they do not.

    >>> parse_cores("0-2,8")
    [0, 1, 2, 8]
    """
    found: list[int] = []
    for part in said.split(","):
        first, dash, last = part.strip().partition("-")
        numbers = [first, last if dash else first]
        if not all(n.isascii() and n.isdecimal() and int(n) < MOST_CORES for n in numbers):
            raise ValueError(f"{said!r} is neither auto, none nor a list of cores like 0-7,16")
        if int(numbers[1]) < int(numbers[0]):
            raise ValueError(f"{part.strip()!r} in {said!r} goes down: write it like 0-7")
        found += range(int(numbers[0]), int(numbers[1]) + 1)
    if len(set(found)) < len(found):
        raise ValueError(f"{said!r} names a core twice")
    return found


def show_cores(cores: Sequence[int]) -> str:
    """Write cores as :func:`parse_cores` reads them.

    >>> show_cores([8, 0, 1, 2])
    '0-2,8'
    """
    parts = []
    numbered = enumerate(sorted(cores))
    for _, run in groupby(numbered, lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in run]
        first, last = numbers[0], numbers[-1]
        parts.append(f"{first}-{last}" if last > first else str(first))
    return ",".join(parts)


def shares(cores: Sequence[Core], n: int) -> list[list[int]]:
    """Divide cores among ``n`` engines, none to two of them; empty if they are too few.

    Neighbours stay together, and so do the threads of one piece of hardware where there are
    enough pieces.  What does not come out even is left to the rest of the system.

    >>> two = [Core(0, (0, 0)), Core(1, (0, 1)), Core(2, (0, 0)), Core(3, (0, 1))]
    >>> shares(two, 2), shares(two, 4), shares(two, 5)
    ([[0, 2], [1, 3]], [[0], [2], [1], [3]], [])
    """
    ordered = sorted(cores, key=lambda core: (core.place, core.number))
    pieces = [[c.number for c in of] for _, of in groupby(ordered, lambda core: core.place)]
    if n <= len(pieces):
        blocks = _blocks(pieces, n)
        return [[number for piece in block for number in piece] for block in blocks]
    return _blocks([core.number for core in ordered], n)


def listed(cores: Sequence[int], n: int) -> list[list[int]]:
    """Divide cores that the user named, in that order; engines share them if they are few.

    >>> listed([4, 5, 6, 7], 2), listed([0, 1], 3)
    ([[4, 5], [6, 7]], [[0], [1], [0]])
    """
    return _blocks(cores, n) or [[cores[at % len(cores)]] for at in range(n)]


def _blocks(things: Sequence[_T], n: int) -> list[list[_T]]:
    size = len(things) // n
    return [list(things[at * size : (at + 1) * size]) for at in range(n)] if size else []


def allotted(environ: Mapping[str, str]) -> int | None:
    """Return how many cores of this host a batch system gave to the job, None if unknown.

    For those that bind nobody to what they give.

    >>> allotted({"SLURM_CPUS_ON_NODE": "4"}), allotted({})
    (4, None)
    """
    said = [int(v) for name in _ALLOTTED if (v := environ.get(name, "")).isdecimal()]
    return min((number for number in said if number > 0), default=None)


def local_ranks(environ: Mapping[str, str]) -> int:
    """Return how many ranks of an MPI job are on this host; 1 if that is not told.

    >>> local_ranks({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}), local_ranks({})
    (4, 1)
    >>> local_ranks({"SLURM_STEP_TASKS_PER_NODE": "8(x3),2"})
    8
    """
    for name in _LOCAL_RANKS:
        number = environ.get(name, "").partition(",")[0].partition("(")[0]
        if number.isdecimal() and int(number) > 0:
            return int(number)
    return 1


def threads(cores: int, n: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Return how many threads libraries may start in each of ``n`` engines, as variables.

    Those that the user has set are left out.  ``OMP_NUM_THREADS`` is meant for all libraries,
    so where it is set it is what the others are set to.

    >>> threads(8, 4, {"MKL_NUM_THREADS": "3"})["OPENBLAS_NUM_THREADS"]
    '2'
    >>> threads(8, 4, {"OMP_NUM_THREADS": "5,2"})["MKL_NUM_THREADS"]
    '5'
    """
    wanted = environ.get(THREADS[0], "").partition(",")[0].strip()
    number = wanted if wanted.isdecimal() else str(max(1, cores // max(n, 1)))
    return {name: number for name in THREADS if not environ.get(name)}
