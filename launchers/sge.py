"""Grid Engine (SGE and its descendants): qsub, qstat, qdel.

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
    clock,
    in_quotes,
)

QUOTES = "\"'"
"""Quotes, which its qsub takes out of every word."""

_LINE = re.compile(r"\s*(\d+)\s+[\d.]+\s+\S+\s+\S+\s+(\S+)\s+\S+\s+\S+\s*(\S.*)?$")


def directives(r: Request) -> list[str]:
    """Return Grid Engine's options for a request; ``-pe smp`` is what most sites call it."""
    made = [f"-N {r.name}", "-S /bin/sh", "-j y"]
    made.append(f"-o {in_quotes(r.output, SYSTEM.name, QUOTES)}")
    made += [f"-t 1-{r.parts}"] if r.parts else []
    asked = any(word.split()[:1] == ["-pe"] for word in r.more)
    made += [f"-pe smp {r.slots}"] if r.slots > 1 and not asked else []
    made += [f"-q {r.queue}"] if r.queue else []
    made += [f"-P {r.account}"] if r.account else []
    made += [f"-l h_rt={clock(r.walltime)}"] if r.walltime else []
    made += ["-r n"] if r.once else []
    # SIGUSR1 before a suspension, SIGUSR2 before the kill; how long before, the queue says.
    return [*made, "-notify"] if r.warn else made


def read(answer: Answer) -> dict[str, News]:
    """Read ``qstat``'s table of the user's jobs; parts of an array that wait share a line."""
    if answer.code:
        raise Silent(answer.text or f"exit code {answer.code}")
    found = {}
    for line in answer.out.splitlines():
        if not (cells := _LINE.match(line)):
            continue
        id, state, rest = cells[1], cells[2], (cells[3] or "").split()
        queue = rest[0] if rest and "@" in rest[0] else ""
        tasks = rest[-1] if len(rest) > (2 if queue else 1) else ""
        news = _news(state, queue)
        for task in _parts(tasks) or [""]:
            found[f"{id}.{task}" if task else id] = news
    return found


def _news(state: str, queue: str) -> News:
    if "E" in state:
        return News(PENDING, f"it is in the error state {state}; 'qstat -j' of it says why")
    if "q" in state or "w" in state:
        return News(PENDING, "it is held" if "h" in state else f"state {state}")
    return News(RUNNING, "", queue.partition("@")[2])


def _parts(tasks: str) -> list[str]:
    """Return the numbers in ``3``, ``1-6:1`` or ``2,5-7:1``."""
    found: list[str] = []
    for part in tasks.split(",") if tasks else ():
        span = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if span:
            first, last, step = int(span[1]), int(span[2] or span[1]), int(span[3] or 1)
            found += [str(number) for number in range(first, last + 1, step or 1)]
    return found


def read_end(answer: Answer) -> dict[str, News]:
    """Read ``qacct -j``, which knows a job some time after its end."""
    found = {}
    for record in re.split(r"^=+$", answer.out, flags=re.MULTILINE):
        facts = dict(re.findall(r"^(\w+)\s+(\S.*?)\s*$", record, re.MULTILINE))
        if "jobnumber" not in facts:
            continue
        task = facts.get("taskid", "undefined")
        id = facts["jobnumber"] + ("" if task == "undefined" else f".{task}")
        code = int(facts.get("exit_status", "0").split()[0])
        failed = facts.get("failed", "0")
        how = f"exit code {code}"
        if failed.split()[0] != "0":
            how = f"{how}; failed {failed}"
        found[id] = News(ENDED, how, code=code)
    return found


SYSTEM = System(
    name="Grid Engine",
    submit=("qsub", "-terse"),
    id_pattern=r"^(\d+)(?:\.\d+-\d+:\d+)?$",
    cancel=("qdel",),
    query=("qstat",),
    join="",
    read=read,
    ask_end=("qacct", "-j"),
    read_end=read_end,
    mark="#$",
    directives=directives,
    index="$SGE_TASK_ID",
    first=1,
)


class SGELauncher(BatchLauncher):
    """Engines in jobs of Grid Engine."""

    SYSTEM = SYSTEM
