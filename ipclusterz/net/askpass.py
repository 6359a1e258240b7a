"""How ssh asks us for a password: a program it runs instead of using a terminal.

ssh gives no answer twice to a program it does not trust, and reads none from a pipe; so it
is told to run a two-line script of ours, which hands the question on through one named pipe
and the answer back through another, both in a folder that is only ours.  No answer is ever
in arguments, environment or a file.
"""

from __future__ import annotations

import os
import re
import select
import time

from ipclusterz.error import SSHError
from ipclusterz.net.ssh import Ask

_SCRIPT = r"""#!/bin/sh
folder=${0%/*}
printf '%s' "$*" | tr '\n' ' ' > "$folder/question"
IFS= read -r answer < "$folder/answer" || exit 1
case $answer in
    +*) printf '%s\n' "${answer#+}" ;;
    *) exit 1 ;;
esac
"""

_CONFIRM = re.compile(r"\(yes/no|continue connecting|authenticity of host", re.IGNORECASE)


class Askpass:
    """Answers while one connection is made; ``ask`` is called by whoever serves."""

    def __init__(self, folder: str, ask: Ask) -> None:
        self._ask = ask
        self.refused = ""
        """A question that got no answer: to go on, ssh would send an empty one."""
        script = os.path.join(folder, "ask")
        fd = os.open(script, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700)
        with os.fdopen(fd, "w") as file:
            file.write(_SCRIPT)
        if os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 8):
            raise SSHError(
                f"nobody can be asked for a password: programs in {folder} may not be run"
                " (noexec); use a key, paramiko=True, or set XDG_RUNTIME_DIR or TMPDIR to a"
                " private folder elsewhere"
            )
        self._pipes = []
        for name in ("question", "answer"):
            path = os.path.join(folder, name)
            os.mkfifo(path, 0o600)
            # Both ends are ours, too: nothing blocks, and no end of file is ever seen.
            self._pipes.append(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        self.environment = {"SSH_ASKPASS": script, "SSH_ASKPASS_REQUIRE": "force"}
        self.environment.setdefault("DISPLAY", os.environ.get("DISPLAY") or ":0")

    def serve(self, timeout: float) -> float:
        """Wait for a question and answer it; return the seconds that the answer took."""
        question, answer = self._pipes
        waiting = select.poll()  # select() knows no descriptor above 1023
        waiting.register(question, select.POLLIN)
        if not waiting.poll(max(timeout, 0) * 1000):
            return 0.0
        asked = time.monotonic()
        text = os.read(question, 65536).decode(errors="replace").strip()
        # A host key that is not known is nobody's to accept in passing.
        said = None if _CONFIRM.search(text) else self._ask(text)
        if said is None or "\n" in said:
            self.refused = f"Permission denied: {text}"
            os.write(answer, b"-\n")
        else:
            os.write(answer, b"+" + said.encode() + b"\n")
        return time.monotonic() - asked

    def close(self) -> None:
        """Stop answering."""
        for fd in self._pipes:
            os.close(fd)
