"""Work and faults in random order over the simulated cluster: one seed, one run.

By hand, for many seeds on all processors (a minute each 3,000 or so)::

    python -m tests.core.storm --runs 100000
    python -m tests.core.storm --first 4711 --runs 1     # one of them again

It ends with 1 and names the seeds that broke a promise.  Those are kept in
``test_simulation.py``, so nothing that was found once comes back unseen.

May know the simulator and the cores; no socket, file or clock but for the progress it shows.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator

from ipclusterz.core import message as m
from ipclusterz.core.message import Channel
from tests.core.simulator import ClientNode, World

SCHEMES = ["leastload", "lru", "plainrandom", "twobin", "weighted"]
WHOLE = 1_000_000
LEAVING = 2_000_000
LIKE = 3_000_000
PEACE = 400.0
"""Simulated seconds after the last fault in which everything must have ended."""


def started(seed: int, agents: int = 2, engines: int = 3, scheme: str = "leastload") -> World:
    """A cluster with one client, all of whose engines are there."""
    world = World(seed, scheme=scheme)
    client = world.add_client()
    for _ in range(agents):
        world.add_agent(engines)
    wanted = agents * engines
    world.run(5.0, lambda: len(client.engines) == wanted and len(client.pipes) == 3)
    assert len(client.engines) == wanted
    return world


def storm(seed: int) -> None:
    """Work and faults in random order, then peace, then the verdict; AssertionError.

    With an odd seed from :data:`WHOLE` on, faults of the whole controller are among them; from
    :data:`LEAVING` on clients leave without waiting for their results, and from :data:`LIKE`
    on half of the work is runs of like tasks.
    """
    choose = random.Random(seed ^ 0x5EED)
    world = started(seed, choose.randint(1, 3), choose.randint(1, 4), choose.choice(SCHEMES))
    world.duplicates = choose.choice([0.0, 0.0, 0.05])
    world.keeps = seed >= WHOLE and seed % 2 == 1
    world.delay = choose.choice([0.002, 0.002, 0.05])
    if choose.random() < 0.5:
        world.add_client()
        world.run(world.now + 0.5)
    faults = choose.randint(0, 6)
    for _ in range(choose.randint(5, 40)):
        if faults and choose.random() < 0.2:
            faults -= 1
            if world.keeps and choose.random() < 0.3:
                world.restart_controller(choose.choice([0.0, 0.0, 1.0, 20.0]))
            else:
                break_something(world, choose)
        else:
            ask_something(choose.choice(world.clients), choose, seed >= LIKE)
        if seed >= LEAVING and choose.random() < 0.1 and world.clients[0].peer:
            world.leave(world.clients[0])
            if not world.clients:
                world.add_client()
        world.run(world.now + choose.random() * 0.2)
    world.add_agent(2)  # whatever died, somebody is there in the end
    world.run(world.now + PEACE, world.peaceful)
    world.check()


def ask_something(client: ClientNode, choose: random.Random, like: bool = False) -> None:
    """Some tasks, a request for one engine, or a change of mind."""
    if not client.peer:
        return  # it came while the hub was away, and is not let in yet
    if like and choose.random() < 0.5:
        fn, kind = choose.choice(client.functions), choose.choice([b"s", b"s", b"m", b"l"])
        for _ in range(choose.choice([2, 10, 60, 300 if kind == b"s" else 20])):
            client.submit(kind, fn=fn)
        return
    what = choose.random()
    if what < 0.7:
        kind = choose.choice([b"s", b"s", b"m", b"l"])
        for _ in range(choose.randint(1, 30)):
            after = depend(client, choose) if choose.random() < 0.3 else None
            client.submit(kind, choose.choice([0, 0, 2]), after)
    elif what < 0.93 and client.engines:
        client.request(choose.sample(sorted(client.engines), 1), choose.choice([b"s", b"m"]))
    elif client.submitted:
        client.cancel(choose.sample(sorted(client.submitted), 1))


def depend(client: ClientNode, choose: random.Random) -> m.Depend | None:
    """Some tasks sent before, in some way."""
    known = [key for key in client.submitted if key in client.balanced]
    if not known:
        return None
    keys = choose.sample(known[-60:], min(len(known), choose.randint(1, 4)))
    success, failure = choose.choice([(True, False), (True, True), (False, True)])
    return m.Depend(keys, choose.random() < 0.7, success, failure)


def break_something(world: World, choose: random.Random) -> None:
    """One fault, of whatever is there to break."""
    what = choose.random()
    pipes = [p for n in (*world.agents, *world.clients) for p in n.pipes.values() if p.up]
    engines = [e for a in world.agents for e in a.engines.values()]
    here = [a for a in world.agents if a.peer]
    if what < 0.3 and pipes:
        for pipe in choose.sample(pipes, min(len(pipes), choose.randint(1, 3))):
            pipe.cut()
    elif what < 0.5 and engines:
        world.faults["engine"] += 1
        choose.choice(engines).crash()
    elif what < 0.65:
        world.restart_scheduler(choose.choice([Channel.TASK, Channel.DIRECT]))
    elif what < 0.75 and world.registry.complete:
        world.restart_hub()
    elif what < 0.85 and here:
        world.silence(choose.choice(here), choose.choice([0.1, 1.0]))
    elif what < 0.9:
        world.forget_functions()
    elif len(here) > 1:
        world.kill_agent(choose.choice(here))


# -- many of them ----------------------------------------------------------------------------


def verdict(seed: int) -> tuple[int, str]:
    """Run one; its seed, and what it broke, if anything."""
    try:
        storm(seed)
    except Exception as error:
        return seed, f"{type(error).__name__}: {error}"
    return seed, ""


def verdicts(seeds: Iterable[int], jobs: int = 0) -> Iterator[tuple[int, str]]:
    """Run many, on ``jobs`` processes (0: one for each processor)."""
    jobs = jobs or len(os.sched_getaffinity(0))
    if jobs == 1:
        yield from map(verdict, seeds)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap_unordered(verdict, seeds, chunksize=20)


def main() -> int:
    """Storms by hand."""
    parser = argparse.ArgumentParser(description="Seeded runs of the simulated cluster.")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=0, help="processes (0: all processors)")
    args = parser.parse_args()
    began = time.monotonic()
    bad = 0
    for n, (seed, text) in enumerate(
        verdicts(range(args.first, args.first + args.runs), args.jobs), 1
    ):
        if text:
            bad += 1
            print(f"seed {seed}: {text}", flush=True)
        if n % 5000 == 0:
            print(f"{n} runs, {time.monotonic() - began:.0f} s, {bad} bad", flush=True)
    print(f"{args.runs} runs in {time.monotonic() - began:.0f} s, {bad} broke a promise")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
