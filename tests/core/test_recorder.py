"""What a scheduler notes for the task database."""

from __future__ import annotations

import msgspec

from ipclusterz.core import message as m
from ipclusterz.core.broker import Broker
from ipclusterz.core.message import Channel, Op, Status
from ipclusterz.core.recorder import BUDGET, SMALL, Recorder, unfold


def result(key: int, data: bytes, status: Status = Status.OK) -> m.Result:
    return m.Result(key, 3, 1, int(status), data, None, 10.0, 11.0, 0)


def results(keys: list[int], values: list[bytes]) -> m.Results:
    n = len(keys)
    return m.Results(keys, 3, 1, values, [10.0] * n, [11.0] * n)


def test_a_task_from_its_beginning_to_its_end() -> None:
    recorder = Recorder(Channel.TASK, 1000.0)
    assert not recorder.waiting
    recorder.begun(5, Op.APPLY, b"f", "night", b"arguments", 2.0)
    recorder.ended(result(5, b"value"), 3.0)
    assert recorder.waiting
    taken = recorder.take()
    start = (5, Channel.TASK, Op.APPLY, b"f", 1002.0, "night", b"arguments")
    end = (3, 1, Status.OK, 10.0, 11.0, 1003.0, None, None, b"value")
    assert taken.whole == [start + end] and taken.begun == taken.ended == []
    assert taken.size == len(b"arguments") + len(b"value")
    assert not recorder.waiting and recorder.take() == m.Records(
        channel=int(Channel.TASK), clock=1000.0
    )


def test_who_only_looks_leaves_no_trace() -> None:
    """Else each ``ipclusterz status`` would stand between the tasks of users."""
    recorder = Recorder(Channel.CONTROL, 1000.0)
    recorder.begun(5, Op.INSPECT, b"", "", b"", 2.0)
    assert not recorder.waiting
    recorder.ended(result(5, b"seen"), 3.0)
    assert not recorder.waiting
    recorder.begun(5, Op.STOP, b"", "", b"", 4.0)
    recorder.ended(result(5, b""), 5.0)
    assert len(recorder.take().whole) == 1


def test_a_task_that_takes_longer_is_told_of_twice() -> None:
    recorder = Recorder(Channel.TASK, 1000.0)
    recorder.begun(5, Op.PULL, b"", "", b"", 2.0)
    assert recorder.take().begun == [(5, Channel.TASK, Op.PULL, None, 1002.0, None, None)]
    recorder.ended(result(5, b"value"), 3.0)
    taken = recorder.take()
    assert taken.ended == [(5, 3, 1, Status.OK, 10.0, 11.0, 1003.0, None, None, b"value")]
    assert taken.whole == []


def test_errors_are_told_by_name_as_well() -> None:
    recorder = Recorder(Channel.DIRECT, 0.0)
    failure = m.encode(m.Failure("ValueError", "x" * 1000, "Traceback"))
    recorder.ended(result(1, failure, Status.ERROR), 0.0)
    recorder.ended(result(2, b"\xff", Status.DIED), 0.0)
    recorder.ended(result(3, b"", Status.ABORTED), 0.0)
    one, two, three = recorder.take().ended
    assert one[-3:] == ("ValueError", "x" * 300, failure)
    assert two[-3:] == ("unreadable", None, b"\xff")
    assert three[-3:] == (None, None, None)


def test_large_payloads_are_kept_as_far_as_they_can_be_afforded() -> None:
    recorder = Recorder(Channel.TASK, 0.0)
    large = bytes(BUDGET // 2)
    for key in range(4):
        recorder.begun(key, Op.APPLY, b"", "", large, 0.0)
    recorder.begun(9, Op.APPLY, b"", "", bytes(SMALL), 0.0)
    kept = [len(begun[-1] or b"") for begun in recorder.take().begun]
    assert kept == [len(large), len(large), 0, 0, SMALL]  # small ones always
    recorder.begun(1, Op.APPLY, b"", "", large, 0.0)
    assert len(recorder.take().begun[0][-1] or b"") == len(
        large
    )  # a new shipment, a new budget


def test_of_a_flood_of_output_only_the_beginning_is_kept() -> None:
    recorder = Recorder(Channel.IOPUB, 0.0)
    for _ in range(5):
        recorder.output(1, 1, "x" * (BUDGET // 2))
    assert len(recorder.take().outputs) == 2


def test_functions_are_told_once_and_again_to_a_new_hub() -> None:
    broker = Broker(0)
    broker.recorder = recorder = Recorder(Channel.TASK, 0.0)
    for _ in range(2):
        broker.handle(b"client", [m.Function(b"digest", b"pickle")], 0.0)
    assert recorder.take().functions == [(b"digest", b"pickle")]
    broker.handle(b"client", [m.Function(b"digest", b"pickle")], 0.0)
    assert recorder.take().functions == []
    broker.record_again()
    assert recorder.take().functions == [(b"digest", b"pickle")]


def test_long_answers_come_in_pieces() -> None:
    assert m.answers(1, {"a": 1}, "") == [m.Answer(1, {"a": 1}, "")]
    value = [b"x" * 1000] * 3000
    pieces = m.answers(7, value, "")
    assert [piece.more for piece in pieces] == [True, True, False]
    assert all(len(piece.piece) <= m.CHUNK and piece.id == 7 for piece in pieces)
    assert b"".join(piece.piece for piece in pieces) == m.encode(value)


def test_the_messages_of_quick_tasks_become_the_same_records() -> None:
    usual, quick = Recorder(Channel.TASK, 1000.0), Recorder(Channel.TASK, 1000.0)
    for key, value in ((5, b"value"), (6, b""), (7, b"more")):
        usual.begun(key, Op.APPLY, b"f", "", b"arguments%d" % key, 2.0)
        usual.ended(result(key, value), 3.0)
    quick.run(m.Run(5, Op.APPLY, b"f", [b"arguments%d" % key for key in (5, 6, 7)]), 2.0)
    quick.results(results([5, 7], [b"value", b"more"]), 3.0)
    quick.results(results([6], [b""]), 3.0)
    assert quick.waiting
    encoded = m.encode(quick.take())
    shipped = msgspec.msgpack.decode(encoded, type=m.Records)
    assert shipped.count == 6
    unfolded, taken = unfold(shipped), usual.take()
    assert sorted(unfolded.whole) == taken.whole and unfolded.size == taken.size
    assert unfolded.begun == unfolded.ended == unfolded.runs == unfolded.results == []
    assert not quick.waiting


def test_a_quick_task_that_takes_longer_is_told_of_twice() -> None:
    recorder = Recorder(Channel.TASK, 1000.0)
    recorder.run(m.Run(5, Op.PULL, b"", [b"", b"", b""]), 2.0)
    recorder.results(results([7], [b"value"]), 3.0)
    recorder.ended(result(6, bytes(SMALL + 1)), 3.0)  # it went its own way
    taken = unfold(recorder.take())
    begun = [(key, Channel.TASK, Op.PULL, None, 1002.0, None, None) for key in (5, 6)]
    assert taken.begun == begun and [whole[0] for whole in taken.whole] == [7]
    assert [ended[0] for ended in taken.ended] == [6]
    recorder.results(results([5], [b"value"]), 3.0)
    recorder.results(results([4], [b"value"]), 3.0)  # of the time before a restart
    taken = unfold(recorder.take())
    assert [ended[0] for ended in taken.ended] == [5, 4] and not taken.whole
