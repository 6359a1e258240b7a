"""The client's ledger: what was asked, told exactly once, and sent again when forgotten."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import msgspec
import pytest

from ipclusterz.core import ledger as ledger_module
from ipclusterz.core import message as m
from ipclusterz.core.ledger import Ledger, task
from ipclusterz.core.message import Channel, Op, Status
from tests.core.bench import outcome

TASK, DIRECT, CONTROL = int(Channel.TASK), int(Channel.DIRECT), int(Channel.CONTROL)
NUMBER = 3


class Packed:
    def __init__(self, digest: bytes) -> None:
        self.digest = digest
        self.data = b"code of " + digest


F, G = Packed(b"f"), Packed(b"g")


def body(name: bytes = b"i") -> m.Body:
    return m.Body(name * 16, [1], "/dev/shm", b"")


class Client:
    """A ledger and the sink of everything it is asked."""

    def __init__(self) -> None:
        self.ledger = Ledger(NUMBER)
        self.got: list[tuple[int, m.Result]] = []

    def deliver(self, key: int, result: m.Result) -> None:
        self.got.append((key, result))

    def out(self) -> list[tuple[int, Any]]:
        out, self.ledger.out = self.ledger.out, defaultdict(list)
        return [(channel, x) for channel, messages in out.items() for x in messages]

    def submit(self, fn: Packed | None = None, body: m.Body | None = None) -> int:
        key = self.ledger.reserve()
        self.ledger.enter((task(key, int(Op.APPLY), fn, b"data", body, None, self),))
        return key

    def request(
        self,
        *targets: int,
        fn: Packed | None = None,
        body: m.Body | None = None,
        channel: int = DIRECT,
    ) -> int:
        key = self.ledger.reserve(len(targets))
        self.ledger.request(key, channel, int(Op.APPLY), fn, b"data", body, list(targets), self)
        return key

    def hear(self, *messages: Any, channel: int = TASK) -> None:
        self.ledger.handle(channel, messages)

    def answer(self, *keys: int, channel: int = TASK) -> None:
        self.hear(*[outcome(key, 1, 0) for key in keys], channel=channel)


# -- asking --------------------------------------------------------------------------------


def test_keys_are_of_this_client_and_never_given_twice() -> None:
    ledger = Ledger(NUMBER)
    first = ledger.reserve(3)
    assert first == m.make_key(NUMBER, 1)
    assert ledger.reserve() == first + 3
    assert ledger.reserve() == first + 4


def test_a_function_goes_before_its_first_task_and_once_on_each_channel() -> None:
    client = Client()
    client.submit(F)
    client.submit(F)
    client.request(0, fn=F)
    client.request(0, fn=F)
    client.request(0, fn=F, channel=CONTROL)
    assert [(channel, type(x)) for channel, x in client.out()] == [
        (TASK, m.Function),
        (TASK, m.Submit),
        (TASK, m.Submit),
        (DIRECT, m.Function),
        (DIRECT, m.Request),
        (DIRECT, m.Request),
        (CONTROL, m.Function),
        (CONTROL, m.Request),
    ]


def test_a_task_is_sent_as_it_was_asked() -> None:
    client = Client()
    key = client.ledger.reserve()
    opt = m.Options(retries=2)
    client.ledger.enter((task(key, int(Op.MAP), F, b"args", body(), opt, client),))
    assert client.out()[-1] == (TASK, m.Submit(key, int(Op.MAP), b"f", b"args", body(), opt))


def test_a_request_names_its_targets_once() -> None:
    client = Client()
    key = client.request(4, 5, 6)
    ((channel, request),) = client.out()
    assert (channel, request.key, request.targets) == (DIRECT, key, [4, 5, 6])
    assert list(client.ledger.pending) == [key, key + 1, key + 2]


def test_what_cannot_be_sent_ends_and_is_not_sent_again() -> None:
    client = Client()
    first, second, asked = client.submit(F), client.submit(F), client.request(0, 1)
    messages = [x for _, x in client.out() if isinstance(x, m.Submit | m.Request)]
    for message in messages:
        client.ledger.refuse(message, m.Failure("TypeError", "no"))
    assert [key for key, _ in client.got] == [first, second, asked, asked + 1]
    assert {result.status for _, result in client.got} == {Status.REFUSED}
    client.ledger.renewed(TASK)
    client.ledger.renewed(DIRECT)
    assert {type(x) for _, x in client.out()} == {m.Resumed}
    client.ledger.refuse(m.Beat(1), m.Failure("TypeError", "no"))


def test_a_scheduler_that_forgot_a_function_gets_it() -> None:
    client = Client()
    client.submit(F)
    client.submit(G)
    client.out()
    client.hear(m.NeedFunction(b"g"))
    assert client.out() == [(TASK, m.Function(b"g", b"code of g"))]
    client.hear(m.NeedFunction(b"unknown"))
    assert client.out() == []


# -- hearing -------------------------------------------------------------------------------


def test_an_outcome_is_delivered_once_however_often_it_comes() -> None:
    client = Client()
    key = client.submit()
    result = outcome(key, 1, 0)
    client.hear(result, result)
    client.hear(result)
    assert client.got == [(key, result)]
    assert not client.ledger.pending


def test_every_copy_of_a_result_is_acknowledged() -> None:
    client = Client()
    key = client.submit()
    client.out()
    client.answer(key, key)
    client.answer(key)
    client.ledger.acknowledge(TASK)
    assert client.out() == [(TASK, m.Received([key, key, key]))]


def test_a_result_of_nobody_is_acknowledged_and_dropped() -> None:
    client = Client()
    client.answer(m.make_key(NUMBER, 77))
    client.ledger.acknowledge()
    assert client.out() == [(TASK, m.Received([m.make_key(NUMBER, 77)]))]
    assert client.got == []


def test_acknowledgements_wait_for_something_to_ride_on() -> None:
    client = Client()
    keys = [client.submit() for _ in range(3)]
    direct = client.request(0)
    client.out()
    client.answer(keys[0])
    client.answer(keys[1], keys[2])
    client.answer(direct, channel=DIRECT)
    assert client.out() == []
    assert client.ledger.received == {TASK: keys, DIRECT: [direct]}
    client.ledger.acknowledge(TASK)
    assert client.out() == [(TASK, m.Received(keys))]
    client.ledger.acknowledge()
    assert client.out() == [(DIRECT, m.Received([direct]))]
    client.ledger.acknowledge()
    client.ledger.acknowledge(TASK)
    assert client.out() == []


def test_targets_are_delivered_each_for_itself() -> None:
    client = Client()
    key = client.request(4, 5)
    client.answer(key + 1, channel=DIRECT)
    assert [k for k, _ in client.got] == [key + 1]
    client.answer(key, channel=DIRECT)
    assert [k for k, _ in client.got] == [key + 1, key]


def test_a_sink_may_ask_for_more_while_it_is_told() -> None:
    client = Client()

    class Again:
        def deliver(self, key: int, result: m.Result) -> None:
            client.submit()

    key = client.ledger.reserve()
    client.ledger.enter((task(key, int(Op.APPLY), None, b"", None, None, Again()),))
    client.out()
    client.answer(key)
    assert [type(x) for _, x in client.out()] == [m.Submit]


def test_reasons_to_wait_are_known_until_they_are_over() -> None:
    client = Client()
    client.hear(m.Waiting("no engine is connected"))
    assert client.ledger.waiting == {TASK: "no engine is connected"}
    client.hear(m.Waiting(""), m.Waiting(""))
    assert client.ledger.waiting == {}


def test_pieces_of_bodies_are_passed_on() -> None:
    client = Client()
    seen: list[Any] = []
    client.ledger.piece = lambda channel, message: seen.append((channel, message))
    fetch = m.Fetch(1, b"i" * 16, 0, 1, 1, b"s" * 32)
    chunk = m.Chunk(1, b"i" * 16, 0, 1, "why not")
    load = m.Load(chunk, b"x")
    client.hear(fetch, chunk, load)
    assert seen == [(TASK, fetch), (TASK, chunk), (TASK, load)]
    Ledger().handle(TASK, [fetch])


# -- bodies --------------------------------------------------------------------------------


def test_a_tasks_body_is_dropped_with_its_outcome() -> None:
    client = Client()
    key = client.submit(body=body())
    assert client.ledger.dropped == []
    client.answer(key)
    client.answer(key)
    assert client.ledger.dropped == [body()]


def test_a_broadcasts_body_is_dropped_with_its_last_outcome() -> None:
    client = Client()
    key = client.request(0, 1, 2, body=body())
    client.answer(key, key + 2, key, channel=DIRECT)
    assert client.ledger.dropped == []
    client.answer(key + 1, channel=DIRECT)
    assert client.ledger.dropped == [body()]


def test_a_result_with_a_body_is_claimed_before_it_is_acknowledged() -> None:
    client = Client()
    key = client.submit()
    client.out()
    asked: list[int] = []

    def claim(channel: int, result: m.Result) -> bool:
        asked.append(result.key)
        return True

    client.ledger.claim = claim
    client.hear(outcome(key, 1, 0, body=body()))
    assert asked == [key] and len(client.got) == 1
    client.hear(outcome(key, 1, 0, body=body()))  # a copy: nobody needs it
    client.answer(client.submit())
    assert asked == [key]
    assert client.ledger.received[TASK][:2] == [key, key]


def test_a_postponed_result_is_delivered_and_acknowledged_later() -> None:
    client = Client()
    key = client.submit(body=body(b"a"))
    client.out()
    result = outcome(key, 1, 0, body=body())
    client.ledger.claim = lambda channel, result: False
    client.hear(result)
    client.ledger.acknowledge()
    assert client.got == [] and client.out() == []
    client.ledger.deliver(TASK, result)
    assert client.got == [(key, result)]
    assert client.out() == [(TASK, m.Received([key]))]
    assert client.ledger.dropped == [body(b"a")]
    client.ledger.deliver(TASK, result)
    assert len(client.got) == 1


def test_a_result_that_comes_again_while_it_is_postponed_is_not_claimed_twice() -> None:
    """A restarted scheduler has it from the agent once more; its body is being fetched."""
    client = Client()
    key = client.submit()
    asked: list[int] = []

    def claim(channel: int, result: m.Result) -> bool:
        asked.append(result.key)
        return False

    client.ledger.claim = claim
    result = outcome(key, 1, 0, body=body())
    client.hear(result)
    client.hear(result)
    client.ledger.acknowledge()
    assert asked == [key]
    client.ledger.deliver(TASK, result)
    assert len(client.got) == 1


# -- cancelling ----------------------------------------------------------------------------


def test_only_what_is_outstanding_is_cancelled_where_it_is() -> None:
    client = Client()
    done, task, direct = client.submit(), client.submit(), client.request(0)
    client.answer(done)
    client.out()
    client.ledger.cancel([done, task, direct, 12345])
    assert client.out() == [(TASK, m.Cancel([task])), (DIRECT, m.Cancel([direct]))]
    client.answer(task)
    assert len(client.got) == 2  # its outcome is delivered all the same


def test_many_cancels_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "CANCEL_PART", 10)
    client = Client()
    keys = [client.submit() for _ in range(25)]
    client.out()
    client.ledger.cancel(keys)
    assert [x.keys for _, x in client.out()] == [keys[:10], keys[10:20], keys[20:]]


# -- a new scheduler -----------------------------------------------------------------------


def test_a_new_scheduler_is_sent_what_is_outstanding_on_its_channel() -> None:
    client = Client()
    done, first, second = client.submit(F), client.submit(F), client.submit()
    client.request(0)
    client.answer(done)
    client.ledger.renewed(TASK)
    task = [x for channel, x in client.out() if channel == TASK]
    assert [type(x) for x in task] == [m.Resumed, m.Function, m.Submit, m.Submit]
    assert task[0].upto == 4
    assert [x.key for x in task[2:]] == [first, second]


def test_what_was_queued_for_the_old_one_is_sent_once() -> None:
    client = Client()
    key = client.submit()
    direct = client.request(0)
    client.ledger.renewed(TASK)
    out = client.out()
    assert [x.key for _, x in out if isinstance(x, m.Submit)] == [key]
    assert [x.key for channel, x in out if channel == DIRECT] == [direct]


def test_a_request_is_narrowed_to_the_targets_that_have_not_answered() -> None:
    client = Client()
    key = client.request(4, 5, 6, 7, 8, fn=F)
    client.answer(key + 1, channel=DIRECT)
    client.out()
    client.ledger.renewed(DIRECT)
    requests = [x for _, x in client.out() if isinstance(x, m.Request)]
    named = {r.key + i: t for r in requests for i, t in enumerate(r.targets)}
    assert named == {key: 4, key + 2: 6, key + 3: 7, key + 4: 8}
    assert {r.fn for r in requests} == {b"f"} and {r.data for r in requests} == {b"data"}


def test_a_broadcast_still_travels_once_when_it_is_sent_again() -> None:
    client = Client()
    key = client.request(*range(1000))
    client.answer(key + 500, channel=DIRECT)
    client.out()
    client.ledger.renewed(DIRECT)
    requests = [x for _, x in client.out() if isinstance(x, m.Request)]
    assert [(r.key, len(r.targets)) for r in requests] == [(key, 500), (key + 501, 499)]


def test_requests_beside_each_other_are_not_mixed() -> None:
    client = Client()
    one, two = client.request(0, 1), client.request(0, 1)
    client.out()
    client.ledger.renewed(DIRECT)
    requests = [x for _, x in client.out() if isinstance(x, m.Request)]
    assert [(r.key, r.targets) for r in requests] == [(one, [0, 1]), (two, [0, 1])]


def test_a_new_scheduler_gets_functions_and_acknowledgements_anew() -> None:
    client = Client()
    key = client.submit(F)
    client.answer(key)
    client.hear(m.Waiting("no engine is connected"))
    client.ledger.renewed(TASK)
    client.ledger.acknowledge()
    assert client.ledger.waiting == {}
    assert client.out() == [(TASK, m.Resumed(1))]
    client.submit(F)
    assert [type(x) for _, x in client.out()] == [m.Function, m.Submit]


def test_a_new_scheduler_hears_what_was_cancelled() -> None:
    """The old one may not have lived to pass it on."""
    client = Client()
    keys = [client.submit() for _ in range(4)]
    client.ledger.cancel(keys[:3])
    client.answer(keys[0])
    client.out()
    client.ledger.renewed(DIRECT)
    client.ledger.renewed(TASK)
    (last,) = [x for channel, x in client.out() if isinstance(x, m.Cancel)]
    assert sorted(last.keys) == keys[1:3]
    client.answer(*keys[1:])
    client.ledger.renewed(TASK)
    assert [type(x) for _, x in client.out()] == [m.Resumed]


# -- the end -------------------------------------------------------------------------------


def test_giving_up_ends_everything_outstanding_once() -> None:
    client = Client()
    keys = [client.submit(body=body())]
    first = client.request(0, 1, body=body(b"b"))
    keys += [first, first + 1]
    client.ledger.give_up(m.Failure("HubGone", "the controller is gone"))
    assert [key for key, _ in client.got] == keys
    assert {r.status for _, r in client.got} == {Status.LOST}
    failure = msgspec.msgpack.decode(client.got[0][1].data, type=m.Failure)
    assert failure.text == "the controller is gone"
    assert client.ledger.dropped == [body(), body(b"b")]
    client.answer(*keys)
    client.ledger.give_up(m.Failure("", ""))
    assert len(client.got) == 3


def test_retries_that_were_spent_are_not_asked_for_again() -> None:
    """Tasks share their options: what one has spent the others still have."""
    client = Client()
    options = m.Options(retries=3)
    one, other = (client.ledger.reserve() for _ in range(2))
    for key in (one, other):
        client.ledger.enter((task(key, int(Op.APPLY), None, b"data", None, options, client),))
    client.out()
    client.ledger.handle(TASK, [m.Retried(one, 1), m.Retried(12345, 0)])
    client.ledger.renewed(TASK)
    sent = {x.key: x.opt.retries for _, x in client.out() if isinstance(x, m.Submit)}
    assert sent == {one: 1, other: 3}
