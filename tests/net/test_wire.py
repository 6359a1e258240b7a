"""One attempt to connect: a connection that is gone before the first word is no crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ipclusterz.net import sockets
from ipclusterz.net.dial import Wire
from ipclusterz.net.loop import Loop, monotonic


def test_the_first_word_on_a_connection_that_broke_already_is_left_to_the_monitor(
    tmp_path: Path,
) -> None:
    loop, context = Loop(), sockets.context()
    events: list[int] = []
    socket = sockets.dealer(context)
    nowhere = f"ipc://{tmp_path}/nobody"
    wire: Any = Wire(
        loop, socket, nowhere, lambda w, f: None, lambda w, event: events.append(event)
    )
    deadline = monotonic() + 10
    while not events and monotonic() < deadline:
        loop.process(loop.wait(0.1))
    wire.begin(b"hello")  # libzmq says EAGAIN here: there is no pipe any more
    assert [sockets.FAILURES[event] for event in events] == ["the connection was refused"]
    wire.close()
    loop.close()
    context.term()
