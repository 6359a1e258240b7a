"""Ranks of MPI jobs: which one this process is, and how an agent says it.

MPI launchers tell a process its rank in the environment, each under names of its own::

    OMPI_COMM_WORLD_RANK, …_SIZE      Open MPI
    PMI_RANK, PMI_SIZE                MPICH, Intel MPI, MVAPICH; srun --mpi=pmi2
    SLURM_PROCID, SLURM_NTASKS        srun

Pure: an environment comes in as a mapping.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

MOST_RANKS = 1 << 20
"""More than any MPI job has; a number beyond it is a mistake."""

_NAMES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
)


class Rank(msgspec.Struct, frozen=True):
    """One rank of ``size``; ``world`` is the name all ranks of one job have in common."""

    rank: int
    size: int
    world: str = ""


def rank_here(environ: Mapping[str, str]) -> Rank | None:
    """Return the rank that a launcher gave to the process with this environment.

    >>> rank_here({"PMI_RANK": "1", "PMI_SIZE": "4", "PMIX_NAMESPACE": "x"})
    Rank(rank=1, size=4, world='x')
    """
    for rank, size in _NAMES:
        said, of = environ.get(rank, ""), environ.get(size, "")
        if said.isdigit() and of.isdigit() and int(said) < int(of) <= MOST_RANKS:
            return Rank(int(said), int(of), _world(environ))
    return None


UNREPLACED = (
    "a rank of an MPI job (--engines=mpi, --mpi) that has died cannot be replaced, since no"
    " process can join MPI in its place: leave restart_engines (--restart-engines) out, and"
    " start the whole set again when a rank is lost"
)
"""What to tell somebody who wants it all the same."""


def missing(python: str) -> str:
    """Return what to tell somebody whose interpreter has no mpi4py."""
    return f"{python} has no mpi4py: {python} -m pip install mpi4py"


def _world(environ: Mapping[str, str]) -> str:
    """Return what tells this MPI job from others, '' where nothing does."""
    if name := environ.get("PMIX_NAMESPACE") or environ.get("PMI_JOBID"):
        return name
    job, step = environ.get("SLURM_JOB_ID", ""), environ.get("SLURM_STEP_ID", "")
    return f"{job}.{step}" if job and step else ""
