#!/usr/bin/env python3
"""A batch system for tests: answers like the recorded ones, runs jobs as local processes.

Called by the name of a command; ``$FAKE_BATCH`` is the folder of its jobs.  Files in there
make it misbehave: ``hold`` (jobs stay in the queue), ``reject``, ``hang``, ``silent`` (the
query fails), ``mute`` (no id is printed), ``late`` (it is printed after some seconds),
``lingers`` (the command does not end after it), ``complains`` (it fails after it), ``full``
(no second job is accepted), ``deaf`` (nothing is cancelled).
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(os.environ["FAKE_BATCH"])


def misbehaves(how: str) -> bool:
    return (HERE / how).exists()


def job(number: str) -> dict[str, object]:
    return json.loads((HERE / f"{number}.job").read_text())


def save(number: str, facts: dict[str, object]) -> None:
    part = HERE / f"{number}.job.{os.getpid()}"
    part.write_text(json.dumps(facts))
    part.replace(HERE / f"{number}.job")


def state(number: str) -> str:
    """Q, R, or how it ended: an exit code, negative for a signal."""
    facts = job(number)
    ended = HERE / f"{number}.end"
    begun = (HERE / f"{number}.pid").exists()
    if facts.get("cancelled") and (ended.exists() or not begun):
        return "cancelled"
    if ended.exists():
        return ended.read_text()
    return "R" if begun else "Q"


def submit(script: str, mark: str, environment: dict[str, str], array: str) -> str:
    if misbehaves("hang"):
        time.sleep(600)
    counter = HERE / "counter"
    first = int(counter.read_text()) + 1 if counter.exists() else 1
    text = Path(script).read_text()
    found = re.search(rf"^{re.escape(mark)} {array}[ =](\d+)-(\d+)", text, re.MULTILINE)
    tasks = range(int(found[1]), int(found[2]) + 1) if found else [None]
    counter.write_text(str(first))
    (HERE / "submitted").open("a").write(f"{first} {' '.join(sys.argv[1:])}\n")
    for task in tasks:
        number = f"{first}" if task is None else f"{first}_{task}"
        values = {key: value.format(id=first, task=task) for key, value in environment.items()}
        if task is None:
            values = {key: value for key, value in values.items() if "None" not in value}
        save(number, {"script": script, "environment": values})
        if not misbehaves("hold"):
            start(number)
    return str(first)


def start(number: str) -> None:
    subprocess.Popen(
        [sys.executable, __file__, "run", number],
        stdin=subprocess.DEVNULL,
        stdout=open(HERE / f"{number}.out", "ab"),  # noqa: SIM115
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 10
    while not (HERE / f"{number}.pid").exists() and time.monotonic() < deadline:
        time.sleep(0.01)


def run(number: str) -> None:
    facts = job(number)
    environment = {**os.environ, **facts["environment"]}
    process = subprocess.Popen(["/bin/sh", str(facts["script"])], env=environment)
    (HERE / f"{number}.pid").write_text(str(process.pid))
    code = process.wait()
    done = HERE / f"{number}.done"
    done.write_text(str(code))
    done.replace(HERE / f"{number}.end")


def numbers(base: str) -> list[str]:
    base = base.split(".")[0].replace("[]", "")
    whole = [HERE / f"{base}.job"] if (HERE / f"{base}.job").exists() else []
    return [path.stem for path in [*whole, *sorted(HERE.glob(f"{base}_*.job"))]]


def cancel(ids: list[str], signum: int = 0) -> None:
    if misbehaves("deaf"):
        fail("scancel: error: Unable to contact slurm controller (connect failure)", 1)
    for number in [number for base in ids for number in numbers(base)]:
        if not signum:
            (HERE / "cancelled").open("a").write(f"{number}\n")
            save(number, {**job(number), "cancelled": True})
        pid = HERE / f"{number}.pid"
        if pid.exists() and not (HERE / f"{number}.end").exists():
            try:
                os.kill(int(pid.read_text()), signum or signal.SIGTERM)
            except ProcessLookupError:
                pass


def fail(text: str, code: int) -> None:
    print(text, file=sys.stderr)
    sys.exit(code)


def sbatch(words: list[str]) -> None:
    if misbehaves("reject") or (misbehaves("full") and (HERE / "counter").exists()):
        fail(
            "sbatch: error: invalid partition specified: nowhere\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified",
            1,
        )
    ids = {
        "SLURM_JOB_ID": "{id}",
        "SLURM_ARRAY_JOB_ID": "{id}{task:.0}",
        "SLURM_ARRAY_TASK_ID": "{task}",
    }
    ids["SLURM_ARRAY_JOB_ID"] = "{id}"
    number = submit(words[-1], "#SBATCH", ids, "--array")
    if misbehaves("late"):
        time.sleep(2)
    if not misbehaves("mute"):
        print(number, flush=True)
    if misbehaves("complains"):
        fail("the site's accounting could not be told of this job", 3)
    if misbehaves("lingers"):
        time.sleep(600)


def squeue(words: list[str]) -> None:
    if misbehaves("silent"):
        fail("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", 1)
    told = False
    for base in words[-1].split(","):
        for number in numbers(base):
            told = True
            now = state(number)
            if misbehaves("forgetful") and now not in "QR":
                continue
            name, reason, node = {
                "Q": ("PENDING", "Resources", ""),
                "R": ("RUNNING", "None", "node1"),
                "0": ("COMPLETED", "None", "node1"),
                "cancelled": ("CANCELLED", "None", ""),
            }.get(now, ("FAILED", "NonZeroExitCode", "node1"))
            if now == "-15":
                name, reason = "CANCELLED", "None"
            print(f"{number}|{name}|{reason}|{node}|N/A")
    if not told:
        fail("slurm_load_jobs error: Invalid job id specified", 1)


def scontrol(words: list[str]) -> None:
    for number in numbers(words[-1]):
        code = state(number)
        if misbehaves("forgetful") and code not in "QR":
            fail("slurm_load_jobs error: Invalid job id specified", 1)
        how, reason, code = {
            "0": ("COMPLETED", "None", "0:0"),
            "Q": ("PENDING", "Resources", "0:0"),
            "R": ("RUNNING", "None", "0:0"),
            "cancelled": ("CANCELLED", "None", "0:15"),
            "-15": ("CANCELLED", "None", "0:15"),
        }.get(code, ("FAILED", "NonZeroExitCode", f"{code}:0"))
        code = code if code[0] != "-" else f"0:{code[1:-2]}"
        print(f"JobId={number} JobName=x\n   JobState={how} Reason={reason} ExitCode={code}\n")


def qsub(words: list[str]) -> None:
    if "--version" in words:
        print("pbs_version = 23.06.06")
        return
    if misbehaves("reject"):
        fail("qsub: Unknown queue", 170)
    ids = {"PBS_JOBID": "{id}.pbs1", "PBS_ARRAY_INDEX": "{task}"}
    text = Path(words[-1]).read_text()
    array = re.search(r"^#PBS -J", text, re.MULTILINE)
    if array:
        ids["PBS_JOBID"] = "{id}[{task}].pbs1"
    number = submit(words[-1], "#PBS", ids, "-J")
    print(f"{number}[].pbs1" if array else f"{number}.pbs1")


def qstat(words: list[str]) -> None:
    if misbehaves("silent"):
        fail("Connection refused\nqstat: cannot connect to server pbs1 (errno=15010)", 255)
    code = 0
    for base in [word for word in words if word[0].isdigit()]:
        shown = 0
        for number in numbers(base):
            now = state(number)
            if now not in "QR" and "-x" not in words:
                continue
            shown += 1
            name = re.sub(r"_(\d+)", r"[\1]", number) + ".pbs1"
            print(f"Job Id: {name}\n    Job_Name = ipclusterz")
            print(f"    job_state = {now if now in 'QR' else 'F'}")
            if now == "R":
                print("    exec_host = node1/0*4")
            elif now == "Q":
                print("    comment = Not Running: Insufficient amount of resource: nc\n\tpus")
            elif now != "cancelled":
                status = int(now)
                print(f"    Exit_status = {status if status >= 0 else 256 - status}")
            print()
        if not shown:
            print(f"qstat: {base} Job has finished, use -x or -H", file=sys.stderr)
            code = 35
    sys.exit(code)


def main() -> None:
    name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
    if words and words[0] == "run":
        run(words[1])
    elif name in ("scancel", "qdel"):
        named = [word.partition("=")[2] for word in words if word.startswith("--signal=")]
        signum = signal.Signals[f"SIG{named[0]}"] if named else 0
        cancel([word for word in words if not word.startswith("-")], signum)
    else:
        commands = {"sbatch": sbatch, "squeue": squeue, "scontrol": scontrol}
        {**commands, "qsub": qsub, "qstat": qstat}[name](words)


main()
