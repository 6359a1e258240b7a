"""Slurm: sbatch, squeue, scancel.  Tested on real ones."""

from __future__ import annotations

import re

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
    clock,
    in_quotes,
)

_ENDED = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED LAUNCH_FAILED NODE_FAIL OUT_OF_MEMORY"
    " PREEMPTED RECONFIG_FAIL REVOKED TIMEOUT".split()
)
"""How a job has ended.  A word that is in neither is a later Slurm's, and ends nothing."""

_STATES = {
    "RUNNING": RUNNING,
    "COMPLETING": RUNNING,
    "RESIZING": RUNNING,
    "STAGE_OUT": RUNNING,
    "SUSPENDED": RUNNING,
    "STOPPED": RUNNING,
    "SIGNALING": RUNNING,
    "PENDING": PENDING,
    "CONFIGURING": PENDING,
    "POWER_UP_NODE": PENDING,
    "REQUEUED": PENDING,
    "REQUEUE_FED": PENDING,
    "REQUEUE_HOLD": PENDING,
    "SPECIAL_EXIT": PENDING,
    "RESV_DEL_HOLD": PENDING,
}
_WORDS = {
    "TIMEOUT": "it reached its time limit",
    "OUT_OF_MEMORY": "it ran out of memory",
    "NODE_FAIL": "a node failed",
    "BOOT_FAIL": "its nodes could not be booted",
    "PREEMPTED": "it was preempted",
    "CANCELLED": "it was cancelled",
    "DEADLINE": "it missed its deadline",
}


def directives(r: Request) -> list[str]:
    """Return Slurm's options for a request."""
    made = [f"--job-name={r.name}", f"--output={_quoted(r.output)}", "--open-mode=append"]
    made += [f"--nodes={r.nodes}", "--ntasks-per-node=1", f"--cpus-per-task={r.slots}"]
    made += [f"--array=0-{r.parts - 1}"] if r.parts else []
    made += [f"--partition={r.queue}"] if r.queue else []
    made += [f"--account={r.account}"] if r.account else []
    made += [f"--time={clock(r.walltime)}"] if r.walltime else []
    made += [f"--signal=B:USR1@{r.warn}"] if r.warn else []
    made += ["--no-requeue"] if r.once else []
    return made


def _quoted(path: str) -> str:
    """Return a file name as sbatch takes it: ``%`` and spaces have a meaning."""
    return in_quotes(path.replace("%", "%%"), SYSTEM.name)


def read(answer: Answer) -> dict[str, News]:
    """Read squeue's lines ``id|state|reason|nodes|start``."""
    if answer.code:
        # The code is 1 as well when the controller cannot be reached.
        if "Invalid job id" in answer.err:
            return {}
        raise Silent(answer.text)
    found = {}
    for line in answer.out.splitlines():
        id, state, reason, nodes, start = (line.split("|", 4) + [""] * 4)[:5]
        kind = ENDED if state.split("+")[0] in _ENDED else _STATES.get(state, RUNNING)
        why = reason if reason not in ("", "None") else ""
        if kind == ENDED:
            found[id] = News(ENDED, _how(state, why), code=0 if state == "COMPLETED" else None)
        else:
            when = start if kind == PENDING and start != "N/A" else ""
            found[id] = News(kind, why, nodes if kind == RUNNING else "", when)
    return found


def read_end(answer: Answer) -> dict[str, News]:
    """Read ``scontrol show job``: the records of a job, and of each part of an array."""
    if answer.code and "Invalid job id" not in answer.text:
        raise Silent(answer.text)
    found = {}
    for record in re.split(r"\n\s*\n", answer.out):
        facts = dict(re.findall(r"(\w+)=(\S*)", record))
        if "JobId" not in facts or facts.get("JobState", "") not in _ENDED:
            continue
        id = facts["JobId"]
        if "ArrayJobId" in facts:
            id = f"{facts['ArrayJobId']}_{facts.get('ArrayTaskId', '')}"
        code, _, signum = facts.get("ExitCode", "0:0").partition(":")
        how = _how(facts.get("JobState", ""), facts.get("Reason", ""))
        how += f", signal {signum}" if signum not in ("", "0") else ""
        if code not in ("", "0"):
            how += f", exit code {code}"
        if facts.get("NodeList", "(null)") != "(null)":
            how += f", on {facts['NodeList']}"
        found[id] = News(ENDED, how, code=int(code or 0))
    return found


def _how(state: str, reason: str) -> str:
    said = _WORDS.get(state.split("+")[0], "")
    text = f"{said} ({state})" if said else state
    known = (state, "None", "", "TimeLimit", "OutOfMemory", "NonZeroExitCode")
    return text if reason in known else f"{text}, {reason}"


SYSTEM = System(
    name="Slurm",
    submit=("sbatch", "--parsable"),
    id_pattern=r"^(\d+)(?:;\S+)?$",
    cancel=("scancel",),
    query=("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r|%N|%S", "-j"),
    join=",",
    read=read,
    ask_end=("scontrol", "show", "job"),
    read_end=read_end,
    signal=("scancel", "--batch", "--signal={signal}"),
    mark="#SBATCH",
    early=True,
    directives=directives,
    index="$SLURM_ARRAY_TASK_ID",
    first_line="#!/bin/sh",
    spread="srun --export=ALL --kill-on-bad-exit=0",
    node_index="$SLURM_NODEID",
)


class SlurmLauncher(BatchLauncher):
    """Engines in jobs of Slurm."""

    SYSTEM = SYSTEM
