"""The misbehaving proxy: each fault is what it says, and ends when it is told to."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.lab.proxy import Proxy
from tests.running import eventually


class Echo:
    """A server that sends back what it gets, and remembers it."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.got: list[bytes] = []
        self.ends: list[str] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        name: tuple[str, int] = self.server.getsockname()
        return name

    def close(self) -> None:
        self.server.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self.server.close()

    def _serve(self) -> None:
        threads = []
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                break
            threads.append(threading.Thread(target=self._echo, args=[client]))
            threads[-1].start()
        for thread in threads:
            thread.join(10)

    def _echo(self, client: socket.socket) -> None:
        with client:
            try:
                while data := client.recv(65536):
                    self.got.append(data)
                    client.sendall(data)
            except OSError as error:
                self.ends.append(errno.errorcode[error.errno or 0])
            else:
                self.ends.append("end")


@pytest.fixture
def echo() -> Iterator[Echo]:
    made = Echo()
    yield made
    made.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.address) as made:
        yield made


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as made:
        yield made


def read(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = client.recv(count - len(data))
        if not piece:
            break
        data += piece
    return data


def silent(client: socket.socket, seconds: float = 0.2) -> bool:
    return not select.select([client], [], [], seconds)[0]


def test_bytes_pass_unchanged_both_ways(proxy: Proxy, client: socket.socket) -> None:
    data = os.urandom(5_000_000)
    sender = threading.Thread(target=client.sendall, args=[data])
    sender.start()
    assert read(client, len(data)) == data
    sender.join(10)
    eventually(lambda: [proxy.passed("up"), proxy.passed("down")] == 2 * [len(data)])
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    eventually(lambda: proxy.connections == 0)


def test_a_stall_holds_everything_and_loses_nothing(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    proxy.stall()
    client.sendall(b"held")
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as second:
        second.sendall(b"new")
        assert silent(second)
        assert (echo.got, silent(client)) == ([], True)
        proxy.resume()
        assert (read(client, 4), read(second, 3)) == (b"held", b"new")


def test_one_way_only(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    proxy.stall("down")
    client.sendall(b"up")
    eventually(lambda: echo.got == [b"up"])
    assert silent(client)
    proxy.resume()
    assert read(client, 2) == b"up"


def test_what_is_swallowed_never_arrives(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    proxy.swallow("up")
    client.sendall(b"lost")
    assert silent(client)
    proxy.resume()
    client.sendall(b"seen")
    assert read(client, 4) == b"seen"
    assert echo.got == [b"seen"]


def test_a_delay_keeps_the_order(proxy: Proxy, client: socket.socket) -> None:
    proxy.delay(0.3)
    client.sendall(b"one")
    assert silent(client, 0.25)
    proxy.delay(0)
    client.sendall(b"two")
    assert read(client, 6) == b"onetwo"


def test_a_reset_is_one_at_both_ends(proxy: Proxy, client: socket.socket, echo: Echo) -> None:
    client.sendall(b"x")
    assert read(client, 1) == b"x"
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    eventually(lambda: echo.ends == ["ECONNRESET"])
    assert proxy.connections == 0


def test_a_reset_in_mid_stream_at_a_given_byte(
    proxy: Proxy, client: socket.socket, echo: Echo
) -> None:
    proxy.reset_after(1000)
    with pytest.raises(OSError) as caught:
        client.sendall(b"z" * 5000)
        read(client, 5000)
    assert caught.value.errno in (errno.ECONNRESET, errno.EPIPE)
    eventually(lambda: echo.ends != [])
    assert len(b"".join(echo.got)) <= 1000
    proxy.resume()
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as second:
        second.sendall(b"y" * 5000)
        assert read(second, 5000) == b"y" * 5000


def test_refused_and_accepted_again_on_the_same_port(
    proxy: Proxy, client: socket.socket
) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), 10)
    client.sendall(b"still here")
    assert read(client, 10) == b"still here"
    proxy.accept()
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as second:
        second.sendall(b"back")
        assert read(second, 4) == b"back"
    assert proxy.accepted == 2


def test_a_dead_target_is_a_reset(echo: Echo) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    with Proxy(address) as proxy, socket.socket() as client:
        client.settimeout(10)
        with pytest.raises(ConnectionResetError):
            client.connect(("127.0.0.1", proxy.port))
            client.recv(1)  # the reset may have come before
    assert echo.got == []
