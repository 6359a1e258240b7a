"""Who drives a client's sockets, and who may interrupt that."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from ipclusterz.net.drive import Driver
from ipclusterz.net.loop import Loop
from tests.running import eventually


@pytest.fixture
def driver() -> Iterator[Driver]:
    loop = Loop()
    made = Driver(loop, lambda: None)
    loop.flush.append(made.drain)
    yield made
    made.stop()
    loop.close()


def test_who_waits_for_ever_does_not_keep_the_lock_from_others(driver: Driver) -> None:
    """Nothing happens in this loop, so that whoever drives it would do so for ever."""
    waiting = [
        threading.Thread(target=driver.wait, args=(lambda: False, None), daemon=True)
        for _ in range(3)
    ]
    for thread in waiting:
        thread.start()
    eventually(lambda: driver._drivers > 0, what="somebody drives")
    held: list[int] = []

    def hold() -> None:
        for number in range(20):
            with driver.held():
                held.append(number)

    other = threading.Thread(target=hold, daemon=True)
    other.start()
    other.join(20)
    assert len(held) == 20
    driver.ended = True
    driver.wake()
    for thread in waiting:
        thread.join(20)
        assert not thread.is_alive()


def test_what_waits_inside_of_what_is_held_is_an_error(driver: Driver) -> None:
    with driver.held(), pytest.raises(RuntimeError, match="would be for ever"):
        driver.wait(lambda: False, 20)
    with driver.held():
        pass


def test_calls_are_done_in_order_by_whoever_drives(driver: Driver) -> None:
    done: list[int] = []
    driver.start()
    threads = [
        threading.Thread(target=lambda n=n: [driver.put(done.append, n) for _ in range(500)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    assert driver.wait(lambda: len(done) == 2000, 20)
    for thread in threads:
        thread.join()
    driver.put(done.append, os.getpid())
    assert driver.wait(lambda: done[-1] == os.getpid(), 20)
