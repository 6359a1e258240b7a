"""HTCondor: condor_submit, condor_q, condor_rm.

Its jobs are described in a file beside the script.  Written by its manual and recorded
outputs; no test runs it for real.  It needs a file system that the nodes share with the host
of the controller, as all batch launchers do.
"""

from __future__ import annotations

from ipclusterz.launchers.batch import BatchLauncher
from ipclusterz.launchers.systems import (
    ENDED,
    PENDING,
    RUNNING,
    Answer,
    News,
    Request,
    Silent,
    System,
)

_STATES = {"1": PENDING, "2": RUNNING, "3": ENDED, "4": ENDED, "5": PENDING, "6": RUNNING}
_DONE = "4"

DESCRIPTION = """\
universe = vanilla
executable = ${script}
arguments = $$(Process)
environment = "IPCLUSTERZ_JOB=$$(Cluster).$$(Process)"
should_transfer_files = NO
output = ${output}
error = ${output}
log = ${output}.events
request_cpus = ${slots}
${directives}
queue ${parts}
"""


def directives(r: Request) -> list[str]:
    """Return the lines of a submit description for what a request asks for."""
    made = [f'+JobBatchName = "{r.name}"']
    made += [f"accounting_group = {r.account}"] if r.account else []
    # It has no queues; what sites call one is an attribute of theirs, for --directive.
    if r.walltime:
        made.append(f"allowed_job_duration = {r.walltime}")
    # It starts every job again that lost its node.
    made += ["periodic_remove = JobStatus == 1 && NumJobStarts > 0"] if r.once else []
    return made


def read(answer: Answer) -> dict[str, News]:
    """Read ``condor_q -af:jt JobStatus RemoteHost HoldReason``, tabs between the fields."""
    if answer.code:
        raise Silent(answer.text or f"exit code {answer.code}")
    found = {}
    for line in answer.out.splitlines():
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) < 4:
            continue
        id, state, host, hold = (cell.replace("undefined", "") for cell in cells[:4])
        kind = _STATES.get(state, RUNNING)
        if kind == RUNNING:
            found[id] = News(RUNNING, "", host.partition("@")[2] or host)
        elif kind == PENDING:
            found[id] = News(PENDING, f"it is held: {hold}" if hold else "idle")
        else:
            found[id] = News(ENDED, "it is done" if state == _DONE else "it was removed")
    return found


def read_end(answer: Answer) -> dict[str, News]:
    """Read ``condor_history`` with exit code, signal and reason of removal."""
    found = {}
    for line in answer.out.splitlines():
        cells = [cell.strip().replace("undefined", "") for cell in line.split("\t")]
        if len(cells) < 5:
            continue
        id, state, code, signum, reason = cells[:5]
        number = int(code) if code.lstrip("-").isdigit() else 0
        how = f"killed by signal {signum}" if signum else f"exit code {number}"
        if state != _DONE:
            how = reason or "it was removed"
        found[id] = News(ENDED, how, code=number)
    return found


SYSTEM = System(
    name="HTCondor",
    submit=("condor_submit", "-terse"),
    id_pattern=r"^(\d+)\.\d+ - \d+\.\d+",
    cancel=("condor_rm",),
    query=("condor_q", "{ids}", "-af:jt", "JobStatus", "RemoteHost", "HoldReason"),
    read=read,
    ask_end=(
        *("condor_history", "{ids}", "-af:jt"),
        *("JobStatus", "ExitCode", "ExitSignal", "RemoveReason"),
    ),
    read_end=read_end,
    mark="",
    directives=directives,
    index="$1",
    first_line="#!/bin/sh",
    description=DESCRIPTION,
)


class HTCondorLauncher(BatchLauncher):
    """Engines in jobs of HTCondor."""

    SYSTEM = SYSTEM
