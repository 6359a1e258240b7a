"""Names of batch jobs: which one we are in, and which belong together."""

from __future__ import annotations

import pytest

from ipclusterz.core.batchjob import belongs, job_here, parse_id


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({}, ""),
        ({"JOB_ID": "7"}, ""),  # too common a name to mean Grid Engine alone
        ({"SLURM_JOB_ID": "7"}, "7"),
        (
            {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"},
            "7_0",
        ),
        ({"PBS_JOBID": "5.pbs1"}, "5.pbs1"),
        ({"PBS_JOBID": "12[3].pbs1", "PBS_ARRAY_INDEX": "3"}, "12[3].pbs1"),
        ({"LSB_JOBID": "123", "LSB_JOBINDEX": "0"}, "123"),
        ({"LSB_JOBID": "123", "LSB_JOBINDEX": "2"}, "123[2]"),
        ({"JOB_ID": "6", "SGE_TASK_ID": "undefined"}, "6"),
        ({"JOB_ID": "6", "SGE_TASK_ID": "3"}, "6.3"),
        ({"IPCLUSTERZ_JOB": "14038.1", "PBS_JOBID": "5"}, "14038.1"),
    ],
)
def test_the_job_that_an_environment_belongs_to(environment: dict[str, str], job: str) -> None:
    assert job_here(environment) == job


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("5", (5, None)),
        ("5.pbs1", (5, None)),
        ("5.pbs1.example.org", (5, None)),
        ("12[].pbs1", (12, None)),
        ("123[].host", (123, None)),
        ("12[3].pbs1", (12, 3)),
        ("7_3", (7, 3)),
        ("6.3", (6, 3)),
        ("123[2]", (123, 2)),
        ("14038.0", (14038, 0)),
        ("unnamed", None),
        ("", None),
    ],
)
def test_the_parts_of_a_name(name: str, parsed: tuple[int, int | None] | None) -> None:
    assert parse_id(name) == parsed


@pytest.mark.parametrize(
    ("job", "whole", "answer"),
    [
        ("12[3].pbs1", "12[].pbs1", True),
        ("12[3].pbs1", "12[3].pbs1", True),
        ("12[3].pbs1", "12[4].pbs1", False),
        ("12[].pbs1", "12[3].pbs1", False),
        ("12.pbs1", "12.pbs1.example.org", True),
        ("12", "12.pbs1", True),
        ("13.pbs1", "12.pbs1", False),
        ("7_3", "7", True),
        ("7", "7_3", False),
        ("71", "7", False),
        ("unnamed", "7", False),
        ("unnamed", "unnamed", True),
    ],
)
def test_what_belongs_together(job: str, whole: str, answer: bool) -> None:
    assert belongs(job, whole) is answer
