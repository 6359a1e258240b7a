"""Asking for a body piece by piece."""

from __future__ import annotations

import pytest

from ipclusterz.core import message as m
from ipclusterz.core.transfer import WINDOW, Transfer, image_size


@pytest.mark.parametrize(
    ("sizes", "expected"), [([], 0), ([0], 0), ([1], 64), ([64, 65], 192), ([121, 128], 256)]
)
def test_parts_begin_at_multiples_of_64(sizes: list[int], expected: int) -> None:
    assert image_size(sizes) == expected


def test_no_more_than_a_window_is_on_its_way() -> None:
    transfer = Transfer(7, b"i" * 16, 20 * m.CHUNK + 5)
    requests = transfer.wanted()
    assert len(requests) == WINDOW
    assert transfer.wanted() == []
    asked = 0
    while not transfer.done:
        request = requests.pop(0)
        asked += request.size
        assert transfer.came(request.offset, request.size)
        requests += transfer.wanted()
        assert len(requests) <= WINDOW
    assert asked == 20 * m.CHUNK + 5
    assert requests == []


def test_pieces_nobody_asked_for_do_not_count() -> None:
    transfer = Transfer(7, b"i" * 16, 3 * m.CHUNK)
    first = transfer.wanted()[0]
    assert not transfer.came(first.offset, first.size - 1)
    assert not transfer.came(first.offset + 1, first.size)
    assert transfer.came(first.offset, first.size)
    assert not transfer.came(first.offset, first.size)
    assert not transfer.done


def test_a_renewed_link_is_asked_again_for_what_was_on_its_way() -> None:
    transfer = Transfer(7, b"i" * 16, 3 * m.CHUNK)
    requests = transfer.wanted()
    transfer.came(requests[1].offset, requests[1].size)
    assert [r.offset for r in transfer.again()] == [requests[0].offset, requests[2].offset]


def test_nothing_is_done_at_once() -> None:
    assert Transfer(7, b"i" * 16, 0).done
