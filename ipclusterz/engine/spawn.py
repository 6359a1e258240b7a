"""An engine in an interpreter of its own, where forking is not safe.

Lives here: the command line ``python -m ipclusterz.engine.spawn TASK OUT ERR PAGE`` (four
descriptors).  May know: what the zygote knows.  The first datagram on the task socket is
the :class:`~ipclusterz.core.message.Fork`, without descriptors.
"""

from __future__ import annotations

import os
import select
import socket
import sys

from ipclusterz.engine.page import note_pid
from ipclusterz.engine.start import become_engine
from ipclusterz.engine.zygote import receive_fork


def main(argv: list[str]) -> int:
    """Become the engine that the agent asks for; returns only if it has gone."""
    agent = os.getppid()
    task, out, err, page = (int(text) for text in argv)
    sock = socket.socket(fileno=task)
    select.select([sock], [], [])  # the agent says whether the socket itself blocks
    request = receive_fork(sock)
    sock.detach()
    if request is None:
        return 0
    note_pid(page, os.getpid())
    become_engine(request[0], [task, out, err, page], agent)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
