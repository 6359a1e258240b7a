"""LSF: bsub, bjobs, bkill.

Written by its manual and recorded outputs; no test runs it for real.
"""

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
    in_quotes,
)

_STATES = {
    "PEND": PENDING,
    "PSUSP": PENDING,
    "WAIT": PENDING,
    "RUN": RUNNING,
    "USUSP": RUNNING,
    "SSUSP": RUNNING,
    "PROV": RUNNING,
    "UNKWN": RUNNING,
}


def directives(r: Request) -> list[str]:
    """Return LSF's options for a request; its run limit is in hours and minutes."""
    made = [f"-J {r.name}[1-{r.parts}]" if r.parts else f"-J {r.name}"]
    made.append(f"-o {in_quotes(r.output, SYSTEM.name)}")
    made += [f"-n {r.slots * r.nodes}", f'-R "span[ptile={r.slots}]"']
    made += [f"-q {r.queue}"] if r.queue else []
    made += [f"-P {r.account}"] if r.account else []
    if r.walltime:
        minutes = -(-r.walltime // 60)
        made.append(f"-W {minutes // 60}:{minutes % 60:02}")
    if r.warn:
        made += ["-wa USR1", f"-wt {max(-(-r.warn // 60), 1)}"]
    return [*made, "-rn"] if r.once else made


def read(answer: Answer) -> dict[str, News]:
    """Read the lines of ``bjobs -o`` with ``|`` between the fields."""
    lost = re.findall(r"Job <(\S+?)> is not found", answer.text)
    if answer.code and not lost and not answer.out.strip():
        raise Silent(answer.text or f"exit code {answer.code}")
    found = {}
    for line in answer.out.splitlines():
        cells = [cell.strip().removeprefix("-") for cell in line.split("|")]
        if len(cells) < 7 or not cells[0].isdigit():
            continue
        id, index, state, hosts, code, how, why = cells[:7]
        name = f"{id}[{index}]" if index not in ("", "0") else id
        kind = _STATES.get(state, ENDED)
        if kind == ENDED:
            number = int(code) if code.isdigit() else 0
            said = how or ("it is done" if state == "DONE" else f"{state}, exit code {number}")
            found[name] = News(ENDED, said, code=number)
        elif kind == PENDING:
            found[name] = News(PENDING, why or state)
        else:
            names = [part.partition("*")[2] or part for part in hosts.split(":")]
            found[name] = News(RUNNING, "", ",".join(dict.fromkeys(filter(None, names))))
    return found


SYSTEM = System(
    name="LSF",
    submit=("bsub",),
    stdin=True,
    id_pattern=r"Job <(\d+)> is submitted",
    cancel=("bkill",),
    query=(
        *("bjobs", "-a", "-noheader", "-o"),
        "jobid jobindex stat exec_host exit_code exit_reason pend_reason delimiter='|'",
    ),
    read=read,
    signal=("bkill", "-s", "{signal}"),
    mark="#BSUB",
    directives=directives,
    index="$LSB_JOBINDEX",
    first=1,
)


class LSFLauncher(BatchLauncher):
    """Engines in jobs of LSF."""

    SYSTEM = SYSTEM
