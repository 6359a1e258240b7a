"""The cores together, in memory, from seeds, with faults; see simulator.py, storm.py."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ipclusterz.core.message import Channel, Status
from tests.core.storm import LEAVING, LIKE, WHOLE, started, storm, verdicts


def test_tasks_and_requests_end_once_with_their_own_values() -> None:
    world = started(1)
    client = world.clients[0]
    for _ in range(500):
        client.submit()
    client.request(sorted(client.engines))
    world.run(60.0, client.done)
    world.check()
    statuses = {results[0].status for results in client.outcomes.values()}
    assert statuses == {Status.OK}


def test_requests_for_an_engine_that_is_not_there_name_it() -> None:
    world = started(2)
    client = world.clients[0]
    key = client.request([0, 99])
    world.run(10.0, client.done)
    assert client.outcomes[key][0].status == Status.OK
    refused = client.outcomes[key + 1][0]
    assert refused.status == Status.REFUSED
    assert b"no engine 99" in refused.data


def test_long_tasks_spread_over_all_engines() -> None:
    world = started(3, agents=4, engines=2)
    client = world.clients[0]
    begun = world.now
    for _ in range(16):
        client.submit(b"l")
    world.run(60.0, client.done)
    world.check()
    # 16 tasks of at most 1.5 s on 8 engines: two rounds, and no engine idle meanwhile.
    assert world.now - begun < 3.5


def test_no_short_task_waits_behind_a_long_one_while_an_engine_idles() -> None:
    world = started(4, agents=2, engines=4)
    client = world.clients[0]
    for _ in range(2000):
        client.submit(b"s")
    world.run(20.0, client.done)
    for _ in range(4):
        client.submit(b"l")
    short = [client.submit(b"s") for _ in range(400)]
    begun = world.now
    world.run(20.0, lambda: all(key in client.outcomes for key in short))
    assert world.now - begun < 0.45  # a long one takes at least 0.5 s
    world.run(20.0, client.done)
    world.check()


def test_cancelled_tasks_never_run() -> None:
    world = started(5, agents=1, engines=2)
    client = world.clients[0]
    keys = [client.submit(b"l") for _ in range(20)]
    world.run(world.now + 0.1)
    client.cancel(keys[10:])
    world.run(60.0, client.done)
    world.check()
    assert {client.outcomes[key][0].status for key in keys[10:]} == {Status.ABORTED}


def test_a_crash_fails_only_the_task_that_ran() -> None:
    world = started(6, agents=1, engines=4)
    client = world.clients[0]
    for _ in range(40):
        client.submit(b"l")
    world.run(world.now + 0.3)
    next(iter(world.agents[0].engines.values())).crash()
    world.faults["engine"] += 1
    world.run(120.0, client.done)
    world.check()
    failed = [k for k, results in client.outcomes.items() if results[0].status != Status.OK]
    assert len(failed) == 1


def test_retries_survive_crashes() -> None:
    world = started(7, agents=2, engines=2)
    client = world.clients[0]
    for _ in range(20):
        client.submit(b"l", retries=3)
    world.run(world.now + 0.2)
    world.faults["engine"] += 1
    next(iter(world.agents[0].engines.values())).crash()
    world.run(120.0, client.done)
    world.check()
    assert all(results[0].status == Status.OK for results in client.outcomes.values())


@pytest.mark.parametrize("channel", [Channel.TASK, Channel.DIRECT])
def test_a_restarted_scheduler_loses_nothing_and_repeats_nothing(channel: Channel) -> None:
    world = started(8, agents=2, engines=2)
    client = world.clients[0]
    for _ in range(30):
        client.submit(b"m")
    for _ in range(5):
        client.request(sorted(client.engines), b"m")
    world.run(world.now + 0.02)
    world.restart_scheduler(channel)
    for _ in range(10):
        client.submit(b"m")
    world.run(120.0, client.done)
    world.check()
    assert all(results[0].status == Status.OK for results in client.outcomes.values())


RUNS = int(os.environ.get("IPCLUSTERZ_STORMS", "2000"))


@pytest.mark.timeout(max(300, RUNS))
def test_storms() -> None:
    """Faults of all kinds in random order; `python -m tests.core.storm` runs more of them."""
    broken = [f"seed {seed}: {text}" for seed, text in verdicts(range(RUNS)) if text]
    assert broken == []


@pytest.mark.timeout(max(300, RUNS))
def test_storms_in_which_whole_controllers_are_killed() -> None:
    """Started again with -r, they know whom to wait for."""
    seeds = range(WHOLE + 1, WHOLE + 1 + RUNS, 2)
    assert [f"seed {seed}: {text}" for seed, text in verdicts(seeds) if text] == []


@pytest.mark.timeout(max(300, RUNS))
def test_storms_in_which_clients_leave() -> None:
    """What they left to be done comes to an end, once, and to be recorded."""
    seeds = range(LEAVING, LEAVING + RUNS // 2)
    assert [f"seed {seed}: {text}" for seed, text in verdicts(seeds) if text] == []


@pytest.mark.timeout(max(300, RUNS))
def test_storms_with_runs_of_like_tasks() -> None:
    """What happens to one of a run happens to it alone."""
    seeds = range(LIKE, LIKE + RUNS // 4)
    assert [f"seed {seed}: {text}" for seed, text in verdicts(seeds) if text] == []


@pytest.mark.parametrize("seed", [1000141, 1001425, 1003995])
def test_an_agent_that_was_lost_just_before_the_controller(seed: int) -> None:
    """Nobody knew any more that there had been one, and its tasks ran again."""
    storm(seed)


def test_a_function_that_one_scheduler_cannot_send_is_asked_of_the_other() -> None:
    """Seed 2000196: the direct scheduler, asked first, was new, and the client had left."""
    storm(2000196)


def test_retries_spent_before_a_restart_count_after_it() -> None:
    """Seed 21102: a task with two retries ran four times."""
    storm(21102)


# -- what the state machine found, by name ---------------------------------------------------


def together(seed: int, *faults: str) -> None:
    """Faults at the same moment, while long tasks run and short ones wait."""
    world = started(seed, agents=2, engines=2)
    client = world.clients[0]
    for _ in range(12):
        client.submit(b"l")
    for _ in range(3):
        client.request(sorted(client.engines), b"m")
    world.run(world.now + 0.3)
    client.cancel(sorted(client.submitted)[6:8])
    for fault in faults:
        if fault == "agent":
            world.kill_agent(world.agents[0])
        elif fault == "hub":
            world.restart_hub()
        elif fault == "functions":
            world.forget_functions()
        else:
            world.restart_scheduler(Channel[fault])
        world.run(world.now + 0.002)
    world.add_agent(2)
    world.run(world.now + 120.0, client.done)
    world.check()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "faults",
    [
        ("hub",),
        ("hub", "DIRECT"),
        ("DIRECT", "hub"),
        ("TASK", "hub", "TASK"),
        ("TASK", "DIRECT", "agent", "hub"),
        ("functions", "TASK", "DIRECT"),
    ],
    ids="-".join,
)
def test_faults_that_meet(faults: tuple[str, ...], seed: int) -> None:
    together(seed, *faults)


@pytest.mark.parametrize("faults", [("agent", "TASK"), ("TASK", "agent")], ids="-".join)
def test_an_agent_that_ends_while_a_scheduler_restarts_is_not_forgotten(
    faults: tuple[str, ...],
) -> None:
    """Its tasks are sent again by their client, and nobody knows whether they ran."""
    for seed in range(10):
        together(seed, *faults)


def test_a_second_client_after_a_hub_restart_has_a_number_of_its_own() -> None:
    world = started(9)
    world.restart_hub()
    other = world.add_client()
    world.run(world.now + 2.0, lambda: bool(other.peer))
    assert other.ledger.number != world.clients[0].ledger.number


RUN = """
from tests.core.simulator import World
from tests.core.storm import storm

worlds = []
begin = World.__init__
def noted(self, *args, **options):
    begin(self, *args, **options)
    worlds.append(self)
World.__init__ = noted
for seed in (235, 245, 259):
    storm(seed)
    print(worlds[-1]._count, worlds[-1].now)
"""


def test_a_seed_gives_the_same_run_in_another_process() -> None:
    """Whatever the order of what is hashed, which differs from process to process."""
    said = []
    for order in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": order}
        command = [sys.executable, "-c", RUN]
        told = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        said.append(told.stdout)
    assert said[0] == said[1] != ""


def test_a_client_that_left_is_no_lost_agent_to_the_next_controller() -> None:
    """Seed 3001733: two hubs in turn had noted its departure; a task was given up for it."""
    storm(3001733)


@pytest.mark.parametrize("seed", [3005982, 3006596])
def test_a_function_is_asked_of_somebody_else_when_who_was_asked_has_left(seed: int) -> None:
    """Agents had lost a function; tasks waited for ever for the answer of one who left."""
    storm(seed)


@pytest.mark.parametrize("seed", [3005954, 1001535])
def test_what_ended_just_before_a_task_was_entered_is_not_forgotten(seed: int) -> None:
    """After the scheduler was started again, nobody knew how what it waited for had ended."""
    storm(seed)
