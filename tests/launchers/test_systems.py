"""What batch systems print, and what is made of it.

The outputs were recorded: of OpenPBS (master after 23.06.06), Slurm 22.05.8 and its PBS
commands on real ones; of PBS Pro 2022, Grid Engine (Open Cluster Scheduler's and Yabi's
documents), LSF 10 (its manual, and programs that read ``bjobs -o``) and HTCondor (its manual)
by others.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from msgspec.structs import replace

from ipclusterz.error import LaunchError
from ipclusterz.launchers import htcondor, lsf, pbs, sge, slurm, systems
from ipclusterz.launchers.systems import (
    ENDED,
    PENDING,
    RUNNING,
    Answer,
    Interrupted,
    News,
    Request,
    Silent,
    System,
    clock,
    command,
    place,
    seconds_of,
    signal_name,
)

ALL = [pbs.OPENPBS, pbs.TORQUE, pbs.WRAPPERS, slurm.SYSTEM, sge.SYSTEM, lsf.SYSTEM]
ALL += [htcondor.SYSTEM]


@pytest.mark.parametrize(
    ("system", "printed", "id"),
    [
        (pbs.OPENPBS, "5.pbs1\n", "5.pbs1"),
        (pbs.OPENPBS, "12[].pbs1\n", "12[].pbs1"),
        (pbs.OPENPBS, "123[].host\n", "123[].host"),
        (pbs.OPENPBS, "welcome to the cluster\n42634.sirius-pbs\n", "42634.sirius-pbs"),
        (pbs.TORQUE, "1152.hpcnode0\n", "1152.hpcnode0"),
        (pbs.TORQUE, "17[].master.example.org\n", "17[].master.example.org"),
        (pbs.WRAPPERS, "22\n", "22"),
        (slurm.SYSTEM, "4\n", "4"),
        (slurm.SYSTEM, "4;lab\n", "4"),
        (sge.SYSTEM, "7\n", "7"),
        (sge.SYSTEM, "1.1-6:1\n", "1"),
        (lsf.SYSTEM, "Job <68628> is submitted to default queue <normal>.\n", "68628"),
        (lsf.SYSTEM, "Job <102> is submitted to queue <short>.\n", "102"),
        (htcondor.SYSTEM, "14038.0 - 14038.2\n", "14038"),
        (pbs.OPENPBS, "qsub: Unknown queue\n", ""),
        (slurm.SYSTEM, "", ""),
        (lsf.SYSTEM, "Job not submitted.\n", ""),
    ],
)
def test_the_id_of_a_submitted_job(system: System, printed: str, id: str) -> None:
    assert system.parse_id(Answer(0, printed)) == id


QSTAT = """\
Job Id: 42634.sirius-pbs
    Job_Name = benchfs-e1-v2
    Job_Owner = rmaeda@sirius-login1
    job_state = Q
    queue = regular
    Error_Path = sirius-login1:/work/NBB/rmaeda/workspace/benchfs/results/e1/benc
\thfs-e1-v2.e42634
    comment = Not Running: Insufficient amount of resource: ncpus (R: 4 A: 0 T:
\t4)
    Resource_List.walltime = 04:00:00

Job Id: 42635.sirius-pbs
    Job_Name = benchfs-e1-v2-b
    job_state = R
    exec_host = snode12/0*48+snode13/0*48
    stime = Wed Sep 30 05:03:40 2026

Job Id: 42636.sirius-pbs
    job_state = F
    Exit_status = 0

Job Id: 42637.sirius-pbs
    job_state = F
    Exit_status = 271

Job Id: 42638.sirius-pbs
    job_state = F
    comment = Job run at Thu and exceeded limit
    Exit_status = -29

Job Id: 12[].pbs1
    job_state = B

Job Id: 12[3].pbs1
    job_state = X
    Exit_status = 139
"""
QSTAT_WRAPPER = """\
Job Id:\t22
\tJob_Name = job.sh
\tjob_state = R
\texec_host = node1/8
\tResource_List.nodect = 1
"""
QSTAT_TORQUE = """\
Job Id: 1152.hpcnode0
    Job_Name = primes
    job_state = R
    exec_host = hpc2/0
    Variable_List = PBS_O_SYSTEM=Linux,PBS_O_SHELL=/bin/bash,
    PBS_O_HOME=/shared/homes/999777,PBS_O_LOGNAME=999777

Job Id: 1153.hpcnode0
    job_state = C
    exit_status = 1

Job Id: 1154.hpcnode0
    job_state = H
"""


def test_pbs_tells_of_jobs_in_records_of_long_lines() -> None:
    news = pbs.read(Answer(0, QSTAT))
    assert news == {
        "42634.sirius-pbs": News(
            PENDING, "Not Running: Insufficient amount of resource: ncpus (R: 4 A: 0 T:4)"
        ),
        "42635.sirius-pbs": News(RUNNING, "", "snode12,snode13"),
        "42636.sirius-pbs": News(ENDED, "exit code 0", code=0),
        "42637.sirius-pbs": News(ENDED, "it was killed or deleted (signal 15)", code=271),
        "42638.sirius-pbs": News(
            ENDED, "it reached its walltime; Job run at Thu and exceeded limit", code=-29
        ),
        "12[].pbs1": News(RUNNING),
        "12[3].pbs1": News(ENDED, "exit code 139", code=139),
    }
    assert pbs.read(Answer(0, QSTAT_WRAPPER)) == {"22": News(RUNNING, "", "node1")}
    assert pbs.read(Answer(0, QSTAT_TORQUE)) == {
        "1152.hpcnode0": News(RUNNING, "", "hpc2"),
        "1153.hpcnode0": News(ENDED, "exit code 1", code=1),
        "1154.hpcnode0": News(PENDING, "it is held"),
    }
    assert set(pbs.read_end(Answer(0, QSTAT_TORQUE))) == {"1153.hpcnode0"}


SQUEUE = """\
7_0|RUNNING|None|node1|2026-11-21T09:00:00
7_1|PENDING|Resources||2026-11-21T10:00:00
8|PENDING|JobHeldUser||N/A
9|RUNNING|None|node[1-2]|2026-11-21T09:00:00
3|COMPLETED|None|node1|2026-11-21T08:00:00
4|TIMEOUT|TimeLimit|node1|2026-11-21T08:00:00
5|CANCELLED|None||2026-11-21T08:00:00
6|FAILED|NonZeroExitCode|node1|2026-11-21T08:00:00
"""
SCONTROL = """\
JobId=3 JobName=x
   UserId=root(0) GroupId=root(0) MCS_label=N/A
   JobState=FAILED Reason=NonZeroExitCode Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=3:0
   NodeList=node1

JobId=31 ArrayJobId=30 ArrayTaskId=2 JobName=x
   JobState=TIMEOUT Reason=TimeLimit ExitCode=0:15
   NodeList=node2

JobId=32 ArrayJobId=30 ArrayTaskId=3 JobName=x
   JobState=RUNNING Reason=None ExitCode=0:0
"""


def test_slurm_tells_of_jobs_in_lines() -> None:
    assert slurm.read(Answer(0, SQUEUE)) == {
        "7_0": News(RUNNING, "", "node1"),
        "7_1": News(PENDING, "Resources", start="2026-11-21T10:00:00"),
        "8": News(PENDING, "JobHeldUser"),
        "9": News(RUNNING, "", "node[1-2]"),
        "3": News(ENDED, "COMPLETED", code=0),
        "4": News(ENDED, "it reached its time limit (TIMEOUT)"),
        "5": News(ENDED, "it was cancelled (CANCELLED)"),
        "6": News(ENDED, "FAILED"),
    }
    assert slurm.read_end(Answer(0, SCONTROL)) == {
        "3": News(ENDED, "FAILED, exit code 3, on node1", code=3),
        "30_2": News(ENDED, "it reached its time limit (TIMEOUT), signal 15, on node2", code=0),
    }
    lost = Answer(1, "", "slurm_load_jobs error: Invalid job id specified\n")
    assert slurm.read(lost) == slurm.read_end(lost) == {}


QSTAT_SGE = """\
job-ID  prior   name       user         state submit/start at     queue                          slots ja-task-ID
-----------------------------------------------------------------------------------------------------------------
     12 0.00000 job-101    yabi         qw    10/13/2009 10:42:52                                    1
      7 0.55500 testmpi.sh joga         r     2025-03-26 19:06:33 all.q@ubuntu-22-amd64-1            8
      1 0.00000 samtools   janedoe      qw    06/16/2015 18:03:32                                    1 4-6:1
      1 0.55500 samtools   janedoe      r     06/16/2015 18:04:32 all.q@node7                        1 3
     13 0.00000 bad        janedoe      Eqw   06/16/2015 18:03:32                                    1
     14 0.00000 held       janedoe      hqw   06/16/2015 18:03:32                                    1
"""  # noqa: E501 - as it is printed
QACCT = """\
==============================================================
qname        all.q
hostname     node7
jobnumber    7
taskid       undefined
failed       0
exit_status  0
==============================================================
qname        all.q
jobnumber    1
taskid       3
failed       37  : qmaster enforced h_rt, h_cpu, or h_vmem limit
exit_status  137
"""


def test_grid_engine_tells_of_jobs_in_a_table() -> None:
    assert sge.read(Answer(0, QSTAT_SGE)) == {
        "12": News(PENDING, "state qw"),
        "7": News(RUNNING, "", "ubuntu-22-amd64-1"),
        "1.4": News(PENDING, "state qw"),
        "1.5": News(PENDING, "state qw"),
        "1.6": News(PENDING, "state qw"),
        "1.3": News(RUNNING, "", "node7"),
        "13": News(PENDING, "it is in the error state Eqw; 'qstat -j' of it says why"),
        "14": News(PENDING, "it is held"),
    }
    assert sge.read(Answer(0, "")) == {}
    failed = "exit code 137; failed 37  : qmaster enforced h_rt, h_cpu, or h_vmem limit"
    assert sge.read_end(Answer(0, QACCT)) == {
        "7": News(ENDED, "exit code 0", code=0),
        "1.3": News(ENDED, failed, code=137),
    }


BJOBS = """\
102|0|RUN|4*hostA:4*hostB|-|-|-
103|2|PEND|-|-|-|New job is waiting for scheduling;
104|0|DONE|hostA|-|-|-
105|0|EXIT|hostA|140|TERM_RUNLIMIT: job killed after reaching LSF run time limit|-
106|0|EXIT|hostA|3|-|-
"""


def test_lsf_tells_of_jobs_in_fields() -> None:
    late = "TERM_RUNLIMIT: job killed after reaching LSF run time limit"
    news = {
        "102": News(RUNNING, "", "hostA,hostB"),
        "103[2]": News(PENDING, "New job is waiting for scheduling;"),
        "104": News(ENDED, "it is done", code=0),
        "105": News(ENDED, late, code=140),
        "106": News(ENDED, "EXIT, exit code 3", code=3),
    }
    assert lsf.read(Answer(0, BJOBS)) == news
    assert lsf.read(Answer(255, BJOBS, "Job <107> is not found\n")) == news
    assert lsf.read(Answer(255, "", "Job <107> is not found\n")) == {}


def test_htcondor_tells_of_jobs_in_fields() -> None:
    printed = (
        "14038.0\t2\tslot1@node3.example.org\tundefined\n"
        "14038.1\t1\tundefined\tundefined\n"
        "14038.2\t5\tundefined\tMemory use exceeded the request\n"
    )
    assert htcondor.read(Answer(0, printed)) == {
        "14038.0": News(RUNNING, "", "node3.example.org"),
        "14038.1": News(PENDING, "idle"),
        "14038.2": News(PENDING, "it is held: Memory use exceeded the request"),
    }
    history = (
        "14038.0\t4\t0\tundefined\tundefined\n"
        "14038.1\t4\tundefined\t9\tundefined\n"
        "14038.2\t3\tundefined\tundefined\tvia condor_rm (by user me)\n"
    )
    assert htcondor.read_end(Answer(0, history)) == {
        "14038.0": News(ENDED, "exit code 0", code=0),
        "14038.1": News(ENDED, "killed by signal 9", code=0),
        "14038.2": News(ENDED, "via condor_rm (by user me)", code=0),
    }


@pytest.mark.parametrize(
    ("system", "answer"),
    [
        (pbs.OPENPBS, Answer(255, "", "Connection refused\nqstat: cannot connect to server")),
        (pbs.OPENPBS, Answer(255, QSTAT_WRAPPER, "qstat: cannot connect to server")),
        (pbs.WRAPPERS, Answer(8, "", "")),
        (
            slurm.SYSTEM,
            Answer(1, "", "slurm_load_jobs error: Unable to contact slurm controller"),
        ),
        (sge.SYSTEM, Answer(1, "", "error: commlib error: got select error")),
        (lsf.SYSTEM, Answer(255, "", "LSF is down. Please wait ...")),
        (htcondor.SYSTEM, Answer(1, "", "Failed to fetch ads")),
    ],
)
def test_a_system_that_does_not_answer_has_lost_no_job(system: System, answer: Answer) -> None:
    with pytest.raises(Silent):
        system.read(answer)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(153, "", "qstat: Unknown Job Id 5.pbs1"),
        Answer(35, "", "qstat: 5.pbs1 Job has finished, use -x or -H to obtain ..."),
        Answer(153, "", ""),  # Slurm's qstat says nothing
        Answer(153, "", "Use of uninitialized value $id in printf at /usr/bin/qstat line 7."),
    ],
)
def test_pbs_jobs_that_are_no_longer_known(answer: Answer) -> None:
    assert pbs.read(answer) == {}
    known = Answer(153, QSTAT_WRAPPER, answer.err)
    assert set(pbs.read(known)) == {"22"}, "one of two is known"


REQUEST = Request(
    name="ipclusterz",
    parts=3,
    nodes=1,
    slots=4,
    output="/home/me/log/e1.job",
    queue="long",
    account="physics",
    walltime=5400,
    warn=60,
)


@pytest.mark.parametrize(
    ("system", "lines"),
    [
        (
            pbs.OPENPBS,
            "-N ipclusterz|-j oe|-o /home/me/log/e1.job|-q long|-A physics|-l walltime=01:30:00"
            "|-l select=1:ncpus=4|-J 0-2",
        ),
        (
            pbs.TORQUE,
            "-N ipclusterz|-j oe|-o /home/me/log/e1.job|-q long|-A physics|-l walltime=01:30:00"
            "|-l nodes=1:ppn=4|-t 0-2",
        ),
        (
            pbs.WRAPPERS,
            "-N ipclusterz|-q long|-A physics|-l walltime=01:30:00|-l nodes=1:ppn=4|-J 0-2",
        ),
        (
            slurm.SYSTEM,
            "--job-name=ipclusterz|--output=/home/me/log/e1.job|--open-mode=append|--nodes=1"
            "|--ntasks-per-node=1|--cpus-per-task=4|--array=0-2|--partition=long"
            "|--account=physics|--time=01:30:00|--signal=B:USR1@60",
        ),
        (
            sge.SYSTEM,
            "-N ipclusterz|-S /bin/sh|-j y|-o /home/me/log/e1.job|-t 1-3|-pe smp 4|-q long"
            "|-P physics|-l h_rt=01:30:00|-notify",
        ),
        (
            lsf.SYSTEM,
            '-J ipclusterz[1-3]|-o /home/me/log/e1.job|-n 4|-R "span[ptile=4]"|-q long'
            "|-P physics|-W 1:30|-wa USR1|-wt 1",
        ),
        (
            htcondor.SYSTEM,
            '+JobBatchName = "ipclusterz"|accounting_group = physics'
            "|allowed_job_duration = 5400",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, System) else "",
)
def test_directives(system: System, lines: str) -> None:
    assert system.directives(REQUEST) == lines.split("|")


@pytest.mark.parametrize("system", ALL, ids=lambda system: system.name)
def test_what_was_not_asked_for_is_not_in_the_directives(system: System) -> None:
    bare = Request(name="x", parts=0, nodes=1, slots=1, output="/o")
    text = " ".join(system.directives(bare))
    wanted = ("long", "physics", "walltime", "--time", "h_rt", "-W", "rray", "-J 0", "-t ")
    assert not [word for word in wanted if word in text]
    more = Request(name="x", parts=0, nodes=2, slots=4, output="/o")
    assert system.directives(more) != system.directives(bare) or system is htcondor.SYSTEM


def test_the_question_about_several_jobs_is_one() -> None:
    assert slurm.SYSTEM.queries(["3", "7"])[-2:] == ["-j", "3,7"]
    assert pbs.OPENPBS.queries(["5.pbs1"]) == ["qstat", "-f", "5.pbs1"]
    assert pbs.OPENPBS.queries(["5.pbs1", "12[].pbs1"])[:3] == ["qstat", "-f", "-t"]
    assert sge.SYSTEM.queries(["3"]) == ["qstat"]
    assert htcondor.SYSTEM.queries(["3", "4"])[:4] == ["condor_q", "3", "4", "-af:jt"]
    assert place(("a", "{ids}", "b"), ["1"]) == ["a", "1", "b"]


@pytest.mark.parametrize(
    ("head", "version", "dialect"),
    [
        ("#!/usr/bin/perl\n# This file is part of Slurm, a resource manager.\n", "", "Slurm's"),
        ("#!/bin/sh\n", "pbs_version = 23.06.06", "OpenPBS"),
        ("#!/bin/sh\n", "Version: 6.1.2", "Torque"),
    ],
)
def test_the_dialect_is_that_of_the_command(
    head: str, version: str, dialect: str, tmp_path: Path
) -> None:
    qsub = tmp_path / "qsub"
    qsub.write_text(f"{head}echo '{version}'\n")
    qsub.chmod(0o755)
    assert pbs.dialect(str(qsub)).name.startswith(dialect)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 0),
        ("0:00:30", 30),
        ("1:30:00", 5400),
        ("100:00:00", 360000),
        ("2-00:00:00", 172800),
        ("90m", 5400),
        ("12h", 43200),
        ("1d12h", 129600),
        ("45s", 45),
        (" 1h30m ", 5400),
    ],
)
def test_walltimes(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["90", "1:30", "an hour", "1h 30m", "-1:00:00", "0s", "1:2:3"])
def test_a_walltime_that_systems_disagree_on_is_refused(text: str) -> None:
    with pytest.raises(LaunchError, match="walltime is"):
        seconds_of(text)


def test_clock_and_signal_names() -> None:
    assert [clock(59), clock(5400), clock(360000)] == ["00:00:59", "01:30:00", "100:00:00"]
    assert signal_name(10) == "USR1"


@pytest.mark.parametrize(
    ("said", "failed"),
    [
        ("Job <123>: No matching job found", False),
        ("Couldn't find/remove all jobs in cluster 123", False),
        (
            "Permission denied to remove job 1.0\nCouldn't find/remove all jobs in cluster 1",
            True,
        ),
        ("qdel: Unknown Job Id 12.pbs", False),
        ("scancel: error: Kill job error on job id 12: Access/permission denied", True),
        ("bkill: LSF is down. Please wait ...", True),
    ],
)
def test_a_job_that_has_ended_needs_no_cancelling(said: str, failed: bool) -> None:
    assert bool(systems.refusal(Answer(1, "", said))) is failed


def test_a_command_that_is_missing_or_may_not_be_run(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="there is no command 'qsub-of-nowhere' on this host"):
        command(["qsub-of-nowhere"])
    closed = tmp_path / "qsub"
    closed.write_text("")
    with pytest.raises(LaunchError, match=f"cannot run {closed}: Permission denied"):
        command([str(closed)])


def test_a_command_that_does_not_end_is_killed_with_what_it_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(systems, "SECONDS", 0.3)
    with pytest.raises(LaunchError, match=r"does not end, it was killed after 0.3 s; .*busy"):
        command(["/bin/sh", "-c", "echo busy; sleep 600"])


@pytest.mark.parametrize(
    ("patience", "answer"), [(30.0, Answer(0, "7\n")), (0.0, Answer(-9, ""))]
)
def test_a_command_that_is_interrupted_may_say_what_it_did(
    patience: float, answer: Answer, tmp_path: Path
) -> None:
    """As long as nobody insists; then nothing of it is left."""
    go = tmp_path / "go"

    def ctrl_c(*_: object) -> None:
        go.touch()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ctrl_c)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    script = f"until [ -e {go} ]; do sleep 0.02; done; sleep {0 if patience else 600}; echo 7"
    try:
        with pytest.raises(Interrupted) as caught:
            command(["/bin/sh", "-c", script], patience=patience)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caught.value.answer == answer


def test_a_command_may_leave_a_process_behind(tmp_path: Path) -> None:
    """As the first qsub of OpenPBS does, with its output still open."""
    pid = tmp_path / "pid"
    answer = command(["/bin/sh", "-c", f"sleep 600 & echo $! >{pid}; echo 5.pbs1"])
    assert answer == Answer(0, "5.pbs1\n", "")
    os.kill(int(pid.read_text()), 9)


def test_output_that_is_no_text_is_read_all_the_same() -> None:
    answer = command(["/bin/sh", "-c", r"printf 'a\377b'; exit 3"])
    assert (answer.code, answer.out) == (3, "a�b")


@pytest.mark.parametrize(
    ("system", "line"),
    [
        (pbs.OPENPBS, "-r n"),
        (pbs.TORQUE, "-r n"),
        (pbs.WRAPPERS, "-r n"),
        (slurm.SYSTEM, "--no-requeue"),
        (sge.SYSTEM, "-r n"),
        (lsf.SYSTEM, "-rn"),
        (htcondor.SYSTEM, "periodic_remove = JobStatus == 1 && NumJobStarts > 0"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_controllers_job_is_not_started_again(system: System, line: str) -> None:
    """Engines' jobs are: they find their controller again."""
    request = Request(name="x", parts=0, nodes=1, slots=1, output="/o")
    assert line not in system.directives(request)
    assert line in system.directives(replace(request, once=True))


SLURM_STATES = {  # all of 'man squeue', JOB STATE CODES
    RUNNING: "RUNNING COMPLETING RESIZING SIGNALING STAGE_OUT STOPPED SUSPENDED",
    PENDING: "PENDING CONFIGURING REQUEUED REQUEUE_FED REQUEUE_HOLD RESV_DEL_HOLD SPECIAL_EXIT",
    ENDED: "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED"
    " REVOKED TIMEOUT",
}


def test_a_state_of_slurm_that_nobody_knows_is_no_end() -> None:
    """A job that counts as ended is watched no longer, and not cancelled."""
    lines = "7|POWER_UP_NODE|None||N/A\n8|NEW_IN_2030|None|n1|N/A\n9|CANCELLED+|None||N/A\n"
    found = slurm.read(Answer(0, lines))
    kinds = {id: news.state for id, news in found.items()}
    assert kinds == {"7": PENDING, "8": RUNNING, "9": ENDED}


@pytest.mark.parametrize(
    ("state", "kind"), [(s, kind) for kind, all in SLURM_STATES.items() for s in all.split()]
)
def test_what_each_state_of_slurm_means(state: str, kind: str) -> None:
    found = slurm.read(Answer(0, f"7|{state}|None|n1|N/A\n"))
    assert found["7"].state == kind
    last = slurm.read_end(Answer(0, f"JobId=7 JobState={state} ExitCode=0:0 NodeList=n1\n"))
    assert ("7" in last) is (kind == ENDED)
