"""Tasks of other clients, by way of the hub: results, submitting again, forgetting."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ipclusterz as ipp


@pytest.fixture(scope="module")
def rc(shared_ipython_dir: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=2) as client:
        yield client


@pytest.fixture(scope="module")
def other(rc: ipp.Client) -> Iterator[ipp.Client]:
    with ipp.Client(rc.connection_file) as client:
        yield client


def slow(path: str, value: int) -> int:
    import os
    import time

    print("begun", value)
    deadline = time.monotonic() + 60
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.01)
    return value * 2


def test_a_result_of_another_client(rc: ipp.Client, other: ipp.Client) -> None:
    view = rc.load_balanced_view()
    ar = view.map_async(lambda i: i * i, range(10))
    assert other.get_result(ar.msg_ids).get(30) == [i * i for i in range(10)]
    found = other.get_result(ar.msg_ids[3])
    assert found.get(30) == 9 and found.msg_ids == [ar.msg_ids[3]]
    assert found.metadata.status == "ok" and found.metadata.engine_id in rc.ids
    ar.get(30)


def test_a_result_that_is_yet_to_come(
    rc: ipp.Client, other: ipp.Client, tmp_path: Path
) -> None:
    flag = tmp_path / "go"
    ar = rc.load_balanced_view().apply_async(slow, str(flag), 21)
    found = other.get_result(ar.msg_ids[0])
    with pytest.raises(ipp.TimeoutError):
        found.get(0.2)
    assert other.result_status(ar.msg_ids)["pending"] == ar.msg_ids
    flag.touch()
    assert found.get(30) == 42
    assert found.stdout == "begun 21\n"
    assert ar.get(30) == 42
    assert other.result_status(ar)["completed"] == ar.msg_ids


def test_errors_arrive_with_their_type(rc: ipp.Client, other: ipp.Client) -> None:
    ar = rc.load_balanced_view().apply_async(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        other.get_result(ar.msg_ids[0]).get(30)
    direct = rc[:].apply_async(lambda: {}["gone"])
    with pytest.raises(KeyError) as caught:
        other.get_result(direct.msg_ids).get(30)
    assert isinstance(caught.value, ipp.CompositeError) and len(caught.value.elist) == 2


def test_what_is_not_kept_is_said(rc: ipp.Client, other: ipp.Client) -> None:
    ar = rc.load_balanced_view().apply_async(lambda: bytes(200_000))
    assert len(ar.get(30)) == 200_000
    with pytest.raises(ipp.ResultNotKept, match=ar.msg_ids[0]):
        other.get_result(ar.msg_ids[0]).get(30)
    with pytest.raises(ipp.TaskNotFound, match="nobody_1"):
        other.get_result("nobody_1").get(30)
    with pytest.raises(KeyError):  # as ipyparallel's users catch it
        other.get_result(f"{rc.session.connection.uuid}_999999").get(30)


def test_our_own_open_result_is_the_one_we_have(rc: ipp.Client, tmp_path: Path) -> None:
    flag = tmp_path / "go"
    ar = rc.load_balanced_view().apply_async(slow, str(flag), 1)
    assert rc.get_result(ar.msg_ids[0]) is ar and rc.get_result(ar) is ar
    flag.touch()
    ar.get(30)
    again = rc.get_result(ar.msg_ids[0])
    assert again is not ar and again.get(30) == 2


def test_a_client_that_left_and_its_results(rc: ipp.Client, tmp_path: Path) -> None:
    flag = tmp_path / "go"
    with ipp.Client(rc.connection_file) as leaving:
        ids = (
            leaving.load_balanced_view(label="left")
            .map_async(slow, [str(flag)] * 8, range(8))
            .msg_ids
        )
        done_before = leaving.load_balanced_view(label="left").apply_async(len, "abc").msg_ids
    flag.touch()
    assert rc.get_result(ids).get(60) == [2 * i for i in range(8)]
    assert rc.get_result(done_before[0]).get(60) == 3
    labelled = rc.db_query({"label": "left"}, keys=["msg_id"])
    assert {record["msg_id"] for record in labelled} == {*ids, *done_before}


def test_leaving_at_once_loses_nothing_that_was_sent(rc: ipp.Client) -> None:
    for _ in range(20):
        with ipp.Client(rc.connection_file) as leaving:
            view = leaving.load_balanced_view()
            ids = view.map_async(lambda x: x * 2, range(50)).msg_ids
        assert rc.get_result(ids).get(30) == [2 * x for x in range(50)]


def test_submitting_again(rc: ipp.Client, other: ipp.Client) -> None:
    view = rc.load_balanced_view(label="first")
    ar = view.apply_async(lambda x: x + 1, 4)
    several = view.map_async(lambda x: x + 2, range(5))
    assert ar.get(30) == 5 and several.get(30) == [2, 3, 4, 5, 6]
    again = other.resubmit(ar.msg_ids)
    assert again.get(30) == 5 and again.msg_ids != ar.msg_ids
    assert other.resubmit(several).get(30) == [2, 3, 4, 5, 6]
    [record] = other.db_query({"msg_id": ar.msg_ids[0]}, keys=["resubmitted", "label"])
    assert record["resubmitted"] == again.msg_ids[0] and record["label"] == "first"
    [record] = other.db_query({"msg_id": again.msg_ids[0]}, keys=["label"])
    assert record["label"] == "first"


def test_what_cannot_be_submitted_again(
    rc: ipp.Client, other: ipp.Client, tmp_path: Path
) -> None:
    pushed = rc[0].push({"a": 1})
    pushed.get(30)
    with pytest.raises(ValueError, match="push"):
        other.resubmit(pushed.msg_ids)
    flag = tmp_path / "go"
    ar = rc.load_balanced_view().apply_async(slow, str(flag), 1)
    deadline = time.monotonic() + 30
    while other.result_status(ar)["unknown"] and time.monotonic() < deadline:
        pass  # each question is a round trip
    with pytest.raises(ValueError, match="has not ended"):
        other.resubmit(ar.msg_ids)
    flag.touch()
    ar.get(30)
    large = rc.load_balanced_view().apply_async(len, bytes(300_000))
    assert large.get(30) == 300_000
    with pytest.raises(ipp.ResultNotKept):
        other.resubmit(large.msg_ids)
    with pytest.raises(ipp.TaskNotFound):
        other.resubmit(["nobody_1"])


def test_forgetting(rc: ipp.Client, other: ipp.Client, tmp_path: Path) -> None:
    ar = rc.load_balanced_view().map_async(abs, range(4))
    ar.get(30)
    other.get_result(ar.msg_ids).get(30)
    other.purge_hub_results(ar.msg_ids[:1])
    with pytest.raises(ipp.TaskNotFound):
        other.get_result(ar.msg_ids[0]).get(30)
    assert other.get_result(ar.msg_ids[1]).get(30) == 1
    flag = tmp_path / "go"
    running = rc.load_balanced_view().apply_async(slow, str(flag), 3)
    with pytest.raises(ipp.error.KernelError, match="not ended"):
        rc.purge_results(running)
    other.purge_results("all")
    assert set(other.hub_history()) <= set(running.msg_ids)
    flag.touch()
    assert running.get(30) == 6
    rc.purge_everything()
    with pytest.raises(ValueError, match="nothing was said"):
        rc.purge_results()


def test_answers_of_many_megabytes(rc: ipp.Client, other: ipp.Client) -> None:
    n = 20_000
    ar = rc.load_balanced_view().map_async(abs, range(n), chunksize=1)
    assert sum(ar.get(60)) == n * (n - 1) // 2
    deadline = time.monotonic() + 60
    while len(records := other.db_query({"op": "apply"})) < n and time.monotonic() < deadline:
        pass
    assert {*ar.msg_ids} <= {record["msg_id"] for record in records}
