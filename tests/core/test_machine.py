"""The simulated cluster under whatever hypothesis thinks of, shrunk where it fails."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from ipclusterz.core.message import Channel
from ipclusterz.core.policy import SCHEMES
from tests.core.simulator import World

pytestmark = pytest.mark.timeout(240)  # 13 s where nothing else runs

kinds = st.sampled_from([b"s", b"s", b"m", b"l"])
picks = st.integers(0, 1 << 16)


class Cluster(RuleBasedStateMachine):
    """Clients ask, parts break; in the end everything has ended exactly once."""

    world: World

    @initialize(
        seed=st.integers(0, 1 << 16),
        agents=st.integers(1, 3),
        engines=st.integers(1, 3),
        scheme=st.sampled_from(SCHEMES),
    )
    def start(self, seed: int, agents: int, engines: int, scheme: str) -> None:
        self.world = World(seed, scheme=scheme)
        self.world.add_client()
        for _ in range(agents):
            self.world.add_agent(engines)
        self.world.run(1.0)

    def pick(self, things: Any, n: int) -> Any:
        found = list(things)
        return found[n % len(found)] if found else None

    @rule(n=st.integers(1, 25), kind=kinds, retries=st.sampled_from([0, 0, 2]), which=picks)
    def submit(self, n: int, kind: bytes, retries: int, which: int) -> None:
        client = self.pick(self.world.clients, which)
        if client.peer:
            for _ in range(n):
                client.submit(kind, retries)

    @rule(n=st.integers(1, 3), kind=kinds, which=picks)
    def request(self, n: int, kind: bytes, which: int) -> None:
        client = self.pick(self.world.clients, which)
        if client.engines:
            client.request(sorted(client.engines)[:n], kind)

    @rule(n=st.integers(1, 5), which=picks)
    def cancel(self, n: int, which: int) -> None:
        client = self.pick(self.world.clients, which)
        keys = list(client.submitted)
        client.cancel(keys[which % len(keys) :][:n] if keys else [])

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.05, 0.2, 1.0]))
    def wait(self, seconds: float) -> None:
        self.world.run(self.world.now + seconds)

    @rule()
    @precondition(lambda self: len(self.world.clients) < 3)
    def another_client(self) -> None:
        self.world.add_client()

    @rule(which=picks)
    def cut(self, which: int) -> None:
        nodes = (*self.world.agents, *self.world.clients)
        pipe = self.pick((p for n in nodes for p in n.pipes.values() if p.up), which)
        if pipe is not None:
            pipe.cut()

    @rule(which=picks)
    @precondition(lambda self: self.world.faults["engine"] < 3)
    def crash_engine(self, which: int) -> None:
        engine = self.pick((e for a in self.world.agents for e in a.engines.values()), which)
        if engine is not None:
            self.world.faults["engine"] += 1
            engine.crash()

    @rule(which=picks)
    @precondition(lambda self: self.world.faults["agent"] < 2)
    def kill_agent(self, which: int) -> None:
        agent = self.pick((a for a in self.world.agents if a.peer), which)
        if agent is not None:
            self.world.kill_agent(agent)

    @rule(channel=st.sampled_from([Channel.TASK, Channel.DIRECT]))
    @precondition(lambda self: self.world.faults["scheduler"] < 3)
    def restart_scheduler(self, channel: Channel) -> None:
        self.world.restart_scheduler(channel)

    @rule()
    @precondition(lambda self: self.world.faults["hub"] < 2 and self.world.registry.complete)
    def restart_hub(self) -> None:
        self.world.restart_hub()

    @rule(which=picks, seconds=st.sampled_from([0.1, 1.0]))
    def silence(self, which: int, seconds: float) -> None:
        agent = self.pick((a for a in self.world.agents if a.peer), which)
        if agent is not None:
            self.world.silence(agent, seconds)

    @rule()
    def forget_functions(self) -> None:
        self.world.forget_functions()

    @invariant()
    def nothing_ends_twice(self) -> None:
        for client in self.world.clients if hasattr(self, "world") else ():
            assert all(len(results) == 1 for results in client.outcomes.values())

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        world.run(world.now + 1.0)
        world.add_agent(2)  # whatever died, somebody is there in the end
        world.run(world.now + 90.0, lambda: all(c.done() for c in world.clients))
        world.check()


Cluster.TestCase.settings = settings(
    max_examples=400,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,  # a failure is to be the same for everybody
    suppress_health_check=list(HealthCheck),
)
TestCluster = Cluster.TestCase
