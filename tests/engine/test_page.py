"""The shared page: what one end writes the other reads, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ipclusterz.engine import page


@pytest.fixture
def ends() -> Iterator[tuple[page.Page, page.Page]]:
    fd = page.create()
    pair = page.Page(fd), page.Page(fd)
    os.close(fd)
    yield pair
    for end in pair:
        end.close()


def test_words_are_seen_by_the_other_end(ends: tuple[page.Page, page.Page]) -> None:
    engine, agent = ends
    assert (agent.running, agent.interrupt, agent.serial, agent.pid) == (0, 0, 0, 0)
    engine.running = 2**63
    agent.interrupt = 2**63
    assert agent.running == engine.interrupt == 2**63


def test_a_pid_is_noted_without_a_map() -> None:
    fd = page.create()
    page.note_pid(fd, 4321)
    end = page.Page(fd)
    os.close(fd)
    assert end.pid == 4321
    end.close()


def test_records_come_back_in_order(ends: tuple[page.Page, page.Page]) -> None:
    engine, agent = ends
    records = [b"one", b"", b"three" * 100]
    assert all(engine.commit(record) for record in records)
    assert agent.committed() == records
    engine.reset()
    assert agent.committed() == []
    assert engine.commit(b"next")
    assert agent.committed() == [b"next"]


def test_a_full_page_refuses_and_keeps_what_it_has(ends: tuple[page.Page, page.Page]) -> None:
    engine, agent = ends
    record = b"x" * 1020
    count = 0
    while engine.commit(record):
        count += 1
    assert count == page.SCRATCH // 1024
    assert agent.committed() == [record] * count
    assert not engine.commit(b"")


def test_a_damaged_length_ends_the_reading(ends: tuple[page.Page, page.Page]) -> None:
    engine, agent = ends
    engine.commit(b"good")
    engine.commit(b"bad")
    engine._scratch[8:12] = b"\xff\xff\xff\xff"
    assert agent.committed() == [b"good"]


def test_closing_while_a_view_is_held_is_no_error(ends: tuple[page.Page, page.Page]) -> None:
    view = ends[0].words
    ends[0].close()
    with pytest.raises(ValueError):
        view[0]
