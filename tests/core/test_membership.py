"""The journal of members: what records amount to, and what a damaged file still tells."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ipclusterz.core import membership
from ipclusterz.core import message as m
from ipclusterz.core.membership import Brought, Came, Record, Went
from ipclusterz.core.message import Role
from ipclusterz.core.registry import Registry


def came(name: bytes, role: Role = Role.ENGINE, number: int = 0) -> Came:
    admit = m.Admit(7, name, int(role), number, b"s" * 32, b"p", "host")
    return Came(admit, "host", "boot", 4711, "uuid", "job", "world")


def stored(*records: Record) -> membership.Membership:
    return membership.read(b"".join(map(membership.written, records)))


def test_who_came_and_did_not_go_is_a_member() -> None:
    found = stored(
        came(b"a"),
        came(b"b"),
        came(b"c", Role.CLIENT, 12),
        Brought(b"a", [0, 1]),
        Brought(b"b", [2]),
        Went(b"b", 5.0, "killed"),
    )
    assert found.peers == {b"a": came(b"a"), b"c": came(b"c", Role.CLIENT, 12)}
    assert found.engines == {0: b"a", 1: b"a"}
    assert found.lost == Went(b"b", 5.0, "killed")


def test_a_client_that_went_takes_no_answers_along() -> None:
    went = Went(b"c", 5.0, "left", agent=False)
    assert stored(came(b"c", Role.CLIENT, 12), went).lost is None
    assert stored(came(b"c", Role.CLIENT, 12), went, went).lost is None  # told by two hubs


def test_written_anew_it_says_the_same() -> None:
    records = [came(b"a"), came(b"b"), Brought(b"a", [3]), Went(b"b", 1.0, "killed")]
    found = stored(*records)
    again = stored(*found.all())
    assert (again.peers, again.engines, again.lost) == (found.peers, found.engines, found.lost)
    assert again.records == 3


def test_a_journal_of_guests_is_written_anew_in_time() -> None:
    found = stored(came(b"a"))
    for number in range(300):
        found.note(came(b"c", Role.CLIENT, number))
        found.note(Went(b"c", 0.0, "left", agent=False))
    assert found.wasteful
    assert not stored(*found.all()).wasteful


@given(st.data())
def test_a_file_that_is_cut_off_tells_what_came_before(data: st.DataObject) -> None:
    records = [came(b"a"), Brought(b"a", [1]), came(b"b")]
    sizes = [len(membership.written(record)) for record in records]
    cut = data.draw(st.integers(0, sum(sizes)))
    found = membership.read(b"".join(map(membership.written, records))[:cut])
    assert found.records == sum(sum(sizes[: n + 1]) <= cut for n in range(3))


@given(st.binary(max_size=200))
def test_garbage_is_no_member(data: bytes) -> None:
    assert membership.read(data).records <= len(data) // 4


def restored(age: float, *records: Record) -> Registry:
    registry = Registry(lease=30.0, first_number=1000)
    registry.restore(stored(*records), 100.0, age)
    return registry


def test_a_registry_knows_again_whom_the_one_before_knew() -> None:
    client = came(b"c", Role.CLIENT, 2000)
    registry = restored(1.0, came(b"a"), Brought(b"a", [5]), client)
    assert set(registry.peers) == {b"a", b"c"}
    assert registry.engine_peer[5].id == b"a"
    assert registry._next_engine == 6, "ids are never given twice"
    assert registry._next_number == 2001, "numbers neither"
    assert registry._lost is None


def test_after_the_lease_agents_have_ended_and_nobody_knows_what_they_ran() -> None:
    registry = restored(100.0, came(b"a"), Brought(b"a", [5]), came(b"c", Role.CLIENT, 2))
    assert set(registry.peers) == {b"c"}
    assert registry.engine_peer == {}
    assert registry._lost is not None and "longer than the lease" in registry._lost[1]


def test_an_agent_that_went_just_before_the_end_is_not_forgotten() -> None:
    went = Went(b"a", 98.0, "it was killed")
    assert restored(1.0, came(b"a"), went)._lost == (100.0, "it was killed")
    assert restored(1.0, came(b"a"), Went(b"a", 50.0, "it was killed"))._lost is None
