"""Asking for a body piece by piece."""

from __future__ import annotations

import pytest

from ipclusterz.core import message as m
from ipclusterz.core.transfer import AT_ONCE, PATIENCE, WINDOW, Transfer, image_size

SECRET = b"s" * 32


def transfer(total: int) -> Transfer:
    coming = Transfer(7, m.Body(b"i" * 16, [total], "/there", b"proof"), SECRET)
    assert coming.total == total, "the tests want multiples of 64"
    return coming


def answer(request: m.Fetch) -> m.Chunk:
    return m.Chunk(request.key, request.id, request.offset, request.number)


@pytest.mark.parametrize(
    ("sizes", "expected"), [([], 0), ([0], 0), ([1], 64), ([64, 65], 192), ([121, 128], 256)]
)
def test_parts_begin_at_multiples_of_64(sizes: list[int], expected: int) -> None:
    assert image_size(sizes) == expected


def test_no_more_than_a_window_is_on_its_way() -> None:
    coming = transfer(20 * m.PIECE + 64)
    requests = coming.wanted()
    assert len(requests) == WINDOW
    assert coming.wanted() == []
    asked, rounds, places = 0, 0, set()
    while not coming.done:
        request = requests.pop(0)
        asked += request.size
        places.add(request.offset)
        assert coming.awaited(answer(request)) == request.size
        coming.came(answer(request))
        more = coming.wanted()
        rounds += bool(more)
        requests += more
        assert len(requests) <= WINDOW
        assert requests or coming.done, "it never waits for nothing"
    assert asked == 20 * m.PIECE + 64 and len(places) == 21
    assert requests == []
    assert rounds == -(-(21 - WINDOW) // AT_ONCE), "several at once, not one for each that came"


def test_no_two_requests_of_a_transfer_have_one_number() -> None:
    coming = transfer(WINDOW * m.PIECE)
    requests = coming.wanted()
    again = coming.again()
    spoilt = coming.spoil(answer(again[0]))
    assert spoilt is not None
    every = [*requests, *again, spoilt]
    assert len({request.number for request in every}) == len(every)
    assert {request.secret for request in every} == {SECRET}


def test_pieces_nobody_asked_for_do_not_count() -> None:
    coming = transfer(3 * m.PIECE)
    first, second, _ = coming.wanted()
    assert not coming.awaited(m.Chunk(7, b"i" * 16, 1, first.number))
    assert not coming.awaited(m.Chunk(7, b"i" * 16, first.offset, second.number))
    assert not coming.awaited(m.Chunk(7, b"i" * 16, 9 * m.PIECE, 99))
    coming.came(answer(first))
    assert not coming.awaited(answer(first)), "it is here"
    assert not coming.done


def test_a_renewed_link_is_asked_again_for_what_was_on_its_way() -> None:
    coming = transfer(3 * m.PIECE)
    requests = coming.wanted()
    coming.came(answer(requests[1]))
    again = coming.again()
    assert [r.offset for r in again] == [requests[0].offset, requests[2].offset]
    assert not coming.awaited(answer(requests[0])), "an answer to the first request is late"
    assert coming.awaited(answer(again[0])) == m.PIECE


def test_a_spoilt_piece_is_asked_for_again_but_not_for_ever() -> None:
    coming = transfer(m.PIECE)
    (request,) = coming.wanted()
    for _ in range(PATIENCE):
        again = coming.spoil(answer(request))
        assert again is not None and (again.offset, again.size) == (0, m.PIECE)
        assert not coming.awaited(answer(request))
        request = again
    assert coming.spoil(answer(request)) is None


def test_nothing_is_done_at_once() -> None:
    assert transfer(0).done
