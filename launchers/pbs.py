"""PBS: qsub, qstat, qdel, in the dialects of OpenPBS, Torque and Slurm's own commands.

Which one it is, the commands tell: several systems may be installed on one host.  OpenPBS and
Slurm's commands (Debian's slurm-wlm-torque) were observed; Torque is by its manual.
"""

from __future__ import annotations

import re
import shutil
import string

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
    command,
    in_quotes,
    refuse,
)

_STATES = {"R": RUNNING, "E": RUNNING, "B": RUNNING, "S": RUNNING, "U": RUNNING}
_ENDED = ("F", "C", "X")
_GONE = re.compile(r"Unknown Job|Job has finished|unknown job id|Invalid job id", re.I)
_ATTRIBUTE = re.compile(r"\s+([\w.]+) = (.*)")
_KILLED = 256  # what is added to a signal's number
_WALLTIME = -29
_UNKNOWN = 153  # what qstat's exit code means by itself


def openpbs(r: Request) -> list[str]:
    """Return OpenPBS's options for a request."""
    made = _common(r, in_quotes(r.output, OPENPBS.name))
    made.append(f"-l select={r.nodes}:ncpus={r.slots}" + ":mpiprocs=1" * (r.nodes > 1))
    made += ["-l place=scatter"] if r.nodes > 1 else []
    # There are no arrays of one element.
    return made + ([f"-J 0-{r.parts - 1}"] if r.parts > 1 else [])


def torque(r: Request) -> list[str]:
    """Return Torque's options for a request."""
    refuse(r.output, TORQUE.name, string.whitespace)  # its qsub does so, also in quotes
    made = _common(r, in_quotes(r.output, TORQUE.name))
    made.append(f"-l nodes={r.nodes}:ppn={r.slots}")
    return made + ([f"-t 0-{r.parts - 1}"] if r.parts else [])


def _common(r: Request, output: str = "") -> list[str]:
    made = [f"-N {r.name[:15]}"]
    made += ["-j oe", f"-o {output}"] if output else []
    made += [f"-q {r.queue}"] if r.queue else []
    made += [f"-A {r.account}"] if r.account else []
    made += ["-r n"] if r.once else []
    return made + ([f"-l walltime={clock(r.walltime)}"] if r.walltime else [])


def read(answer: Answer) -> dict[str, News]:
    """Read ``qstat -f``: one record for each job, long values on several lines."""
    if answer.code and not _gone(answer):
        # Also after some records: the jobs it did not come to are not gone.
        raise Silent(answer.err.strip() or f"exit code {answer.code}")
    return {id: _news(facts) for id, facts in _records(answer.out)}


def _gone(answer: Answer) -> bool:
    """Tell whether it is the job that is unknown.  Slurm's commands say so by the code only."""
    return answer.code == _UNKNOWN or bool(_GONE.search(answer.text))


def read_end(answer: Answer) -> dict[str, News]:
    """Read the record of a job that has ended, where the server keeps a history."""
    return {id: news for id, news in read(answer).items() if news.state == ENDED}


def _records(text: str) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    last = ""
    for line in text.splitlines():
        if line.startswith("Job Id:"):
            found.append((line.partition(":")[2].strip(), {}))
            last = ""
        elif found and (attribute := _ATTRIBUTE.fullmatch(line)):
            last = attribute[1]
            found[-1][1][last] = attribute[2].strip()
        elif found and last and line.strip():
            found[-1][1][last] += line.strip()
    return found


def _news(facts: dict[str, str]) -> News:
    state = facts.get("job_state", "")
    comment = facts.get("comment", "")
    if state in _ENDED:
        return _end(facts, comment)
    if state in _STATES:
        hosts = re.findall(r"(?:^|[+(])([\w.-]+?)(?:/|$|\*|:)", facts.get("exec_host", ""))
        return News(RUNNING, comment, ",".join(dict.fromkeys(hosts)))
    held = {"H": "it is held", "W": "it waits for its time"}.get(state, "")
    return News(PENDING, comment or held, "", facts.get("estimated.start_time", ""))


def _end(facts: dict[str, str], comment: str) -> News:
    if "Exit_status" not in facts and "exit_status" not in facts:
        return News(ENDED, comment or "no exit status is known")
    code = int(facts.get("Exit_status", facts.get("exit_status", "0")))
    if code == _WALLTIME:
        how = "it reached its walltime"
    elif code > _KILLED:
        how = f"it was killed or deleted (signal {code - _KILLED})"
    elif code < 0:
        how = f"the server ended it (status {code})"
    else:
        how = f"exit code {code}"
    return News(ENDED, f"{how}; {comment}" if comment else how, code=code)


OPENPBS = System(
    name="OpenPBS",
    submit=("qsub",),
    id_pattern=r"^(\d+(?:\[\])?(?:\.\S+)?)$",
    cancel=("qdel",),
    query=("qstat", "-f"),
    array_query=("qstat", "-f", "-t"),
    read=read,
    ask_end=("qstat", "-x", "-f"),
    array_ask_end=("qstat", "-x", "-f", "-t"),  # the array itself says 0 if a part failed
    read_end=read_end,
    signal=("qsig", "-s", "{signal}"),
    mark="#PBS",
    early=True,
    directives=openpbs,
    index="$PBS_ARRAY_INDEX",
    spread="pbsdsh --",
    node_index="$PBS_NODENUM",
)
TORQUE = System(
    name="Torque",
    submit=("qsub",),
    id_pattern=r"^(\d+(?:\[\])?(?:\.\S+)?)$",
    cancel=("qdel",),
    query=("qstat", "-f"),
    array_query=("qstat", "-f", "-t"),
    read=read,
    signal=("qsig", "-s", "{signal}"),
    mark="#PBS",
    early=True,
    directives=torque,
    index="$PBS_ARRAYID",
    spread="pbsdsh -u",
    node_index="$PBS_NODENUM",
)
WRAPPERS = System(
    name="Slurm's PBS",
    submit=("qsub",),
    id_pattern=r"^(\d+)(?:\.\S+)?$",
    cancel=("qdel",),
    query=("qstat", "-f"),
    read=read,
    mark="#PBS",
    early=True,
    directives=lambda r: [
        *_common(r),
        f"-l nodes={r.nodes}:ppn={r.slots}",
        *([f"-J 0-{r.parts - 1}"] if r.parts else []),
    ],
    index="$SLURM_ARRAY_TASK_ID",
    first_line="#!/bin/sh",
)


def dialect(found: str = "") -> System:
    """Return what the ``qsub`` of this host speaks; ``found`` is its path."""
    path = found or shutil.which("qsub") or "qsub"
    try:
        with open(path, "rb") as file:
            head = file.read(65536)
    except OSError:
        return OPENPBS  # told, with its name, when it is called
    if head.startswith(b"#!") and b"Slurm" in head:
        return WRAPPERS
    answer = command([path, "--version"])
    return OPENPBS if "pbs_version" in answer.text else TORQUE


class PBSLauncher(BatchLauncher):
    """Engines in jobs of PBS."""

    SYSTEM = OPENPBS

    def system(self) -> System:
        """Return the dialect that is spoken here."""
        return dialect()
