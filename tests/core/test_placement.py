"""Which cores engines get, and how many threads their libraries start: no process, no host."""

from __future__ import annotations

import pytest

from ipclusterz.core.placement import (
    THREADS,
    Core,
    allotted,
    listed,
    local_ranks,
    parse_cores,
    parse_pin,
    shares,
    show_cores,
    threads,
)


def host(packages: int, pieces: int, each: int) -> list[Core]:
    """Cores as systems number them: the first thread of every piece, then the second."""
    places = [(package, piece) for package in range(packages) for piece in range(pieces)]
    numbered = enumerate(place for _ in range(each) for place in places)
    return [Core(number, place) for number, place in numbered]


def test_no_core_is_given_twice_and_all_get_as_many() -> None:
    for cores in (host(1, 1, 1), host(1, 4, 2), host(2, 6, 1), host(2, 8, 2)):
        for n in range(1, len(cores) + 1):
            found = shares(cores, n)
            flat = [number for share in found for number in share]
            assert len(found) == n and len(set(flat)) == len(flat)
            assert len({len(share) for share in found}) == 1 and found[0]
            assert set(flat) <= {core.number for core in cores}
        assert shares(cores, len(cores) + 1) == []
    assert shares([], 1) == []


def test_threads_of_one_piece_stay_together_while_there_are_enough_pieces() -> None:
    cores = host(2, 4, 2)
    place = {core.number: core.place for core in cores}
    for n in range(1, 9):
        found = shares(cores, n)
        owners: dict[tuple[int, int], int] = {}
        for at, share in enumerate(found):
            for number in share:
                assert owners.setdefault(place[number], at) == at
    assert shares(cores, 2) == [[0, 8, 1, 9, 2, 10, 3, 11], [4, 12, 5, 13, 6, 14, 7, 15]]
    assert shares(cores, 16)[:2] == [[0], [8]]


def test_what_is_left_of_a_mask_is_divided_as_well() -> None:
    some = [core for core in host(1, 4, 2) if core.number in (1, 2, 5, 7)]
    assert shares(some, 2) == [[1, 5], [2]]
    assert shares(some, 3) == [[1, 5], [2], [7]]
    assert shares(some, 4) == [[1], [5], [2], [7]]


def test_cores_that_were_named_are_shared_if_they_are_few() -> None:
    assert listed([3], 2) == [[3], [3]]
    assert listed([0, 1, 2], 2) == [[0], [1]]
    assert listed([7, 1], 3) == [[7], [1], [7]]


@pytest.mark.parametrize("said", ["0", "0-3", "0-3,8,10-11", "65535"])
def test_lists_are_written_as_they_are_read(said: str) -> None:
    assert show_cores(parse_cores(said)) == said == parse_pin(said)


@pytest.mark.parametrize(
    "said", ["a", "0-", "-1", "1,,2", "0x1", "1-2-3", "٣", "99999999", "3 4"]
)
def test_what_is_no_list_is_told(said: str) -> None:
    with pytest.raises(ValueError, match="neither auto, none nor a list of cores like 0-7,16"):
        parse_pin(said)


def test_lists_that_make_no_sense_are_told() -> None:
    with pytest.raises(ValueError, match="'3-1' in '3-1' goes down"):
        parse_pin("3-1")
    with pytest.raises(ValueError, match="'0-2,1' names a core twice"):
        parse_pin("0-2,1")


def test_threads_are_divided_and_what_the_user_set_stays() -> None:
    assert threads(8, 2, {}) == dict.fromkeys(THREADS, "4")
    assert threads(2, 4, {}) == dict.fromkeys(THREADS, "1")
    some = threads(8, 2, {"MKL_NUM_THREADS": "7", "BLIS_NUM_THREADS": ""})
    assert "MKL_NUM_THREADS" not in some and some["BLIS_NUM_THREADS"] == "4"
    # OMP_NUM_THREADS is for all, but libraries look for their own variable first.
    told = threads(8, 2, {"OMP_NUM_THREADS": "3"})
    assert told == dict.fromkeys(THREADS[1:], "3")
    assert threads(8, 2, {"OMP_NUM_THREADS": "many"}) == dict.fromkeys(THREADS[1:], "4")


def test_batch_systems_and_mpi_tell_what_they_gave() -> None:
    assert allotted({"NSLOTS": "4", "SLURM_CPUS_ON_NODE": "6"}) == 4
    assert allotted({"NCPUS": "0", "PBS_NUM_PPN": "x"}) is None
    assert local_ranks({"MPI_LOCALNRANKS": "3"}) == 3
    assert local_ranks({"SLURM_TASKS_PER_NODE": "2(x4)"}) == 2
    assert local_ranks({"SLURM_TASKS_PER_NODE": "?"}) == 1
