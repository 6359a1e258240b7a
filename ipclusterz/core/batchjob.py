"""The names of batch jobs: which one we are in, and whether two names mean the same one.

Each system writes the parts of a job array in its own way, and PBS adds the server's name::

    12.pbs1   12[].pbs1   12[3].pbs1      PBS: a job, an array, its part
    7         7_3                         Slurm
    6         6.3                         Grid Engine, HTCondor
    123       123[2]                      LSF

Pure: an environment comes in as a mapping.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

VARIABLE = "IPCLUSTERZ_JOB"
"""Names the job for systems that do not tell a job its name by themselves."""

CONTROLLERS = "IPCLUSTERZ_CONTROLLERS_JOB"
"""Names the job of a controller to the controller's own processes."""

_ID = re.compile(r"(\d+)(?:\[(\d*)\]|_(\d+)|\.(\d+)(?=$))?(?:\..*)?$")


def job_here(environ: Mapping[str, str]) -> str:
    """Return the name of the batch job that has this environment, '' outside of any.

    >>> job_here({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"})
    '7_3'
    """
    get = environ.get
    if named := get(VARIABLE):
        return named
    if job := get("SLURM_JOB_ID"):
        array, task = get("SLURM_ARRAY_JOB_ID"), get("SLURM_ARRAY_TASK_ID")
        return f"{array}_{task}" if array and task else job
    if job := get("PBS_JOBID"):
        return job
    if job := get("LSB_JOBID"):
        index = get("LSB_JOBINDEX", "0")
        return job if index == "0" else f"{job}[{index}]"
    if (job := get("JOB_ID")) and (task := get("SGE_TASK_ID")):
        return job if task == "undefined" else f"{job}.{task}"
    return ""


def controllers_job(environ: Mapping[str, str]) -> str:
    """Return what to say of the end of a controller in a batch job, '' for others.

    >>> controllers_job({"IPCLUSTERZ_CONTROLLERS_JOB": "7"})
    ': its batch job 7 was ended (ipclusterz status tells why)'
    """
    job = environ.get(CONTROLLERS)
    return f": its batch job {job} was ended (ipclusterz status tells why)" if job else ""


def parse_id(name: str) -> tuple[int, int | None] | None:
    """Return a job's number and its place in the array (None for the whole of it).

    >>> parse_id("12[3].pbs1"), parse_id("12[].pbs1"), parse_id("7_0"), parse_id("x")
    ((12, 3), (12, None), (7, 0), None)
    """
    found = _ID.match(name)
    if found is None:
        return None
    index = next((part for part in found.groups()[1:] if part), "")
    return int(found[1]), int(index) if index else None


def is_part(name: str) -> bool:
    """Tell whether a name is that of one part of a job array."""
    found = parse_id(name)
    return found is not None and found[1] is not None


def belongs(job: str, whole: str) -> bool:
    """Tell whether ``job`` is ``whole``, or a part of it if that is an array."""
    one, other = parse_id(job), parse_id(whole)
    if one is None or other is None:
        return job == whole
    return one[0] == other[0] and other[1] in (None, one[1])
