"""A login that nobody waits for any more, at a server that says nothing."""

from __future__ import annotations

import shutil
import socket
import threading
from pathlib import Path

import pytest

from ipclusterz.error import SSHError
from ipclusterz.net.ssh import connect


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs the ssh program")
def test_a_login_is_given_up_when_nobody_wants_it(tmp_path: Path) -> None:
    (tmp_path / "config").touch()
    unwanted = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def accept() -> None:
            with silent.accept()[0] as caller:
                caller.recv(100)  # its greeting
                unwanted.set()
                caller.recv(100)  # its end

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        with pytest.raises(SSHError, match="given up"):
            connect(
                f"127.0.0.1:{silent.getsockname()[1]}",
                config=str(tmp_path / "config"),
                paramiko=False,
                timeout=60,
                unwanted=unwanted.is_set,
            )
        thread.join(20)
        assert not thread.is_alive()
