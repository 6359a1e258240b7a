"""The guide is true: what it shows is run as it stands there, and says what is shown.

A page is read from top to bottom.  Lines after ``$`` go to a shell whose home folder is empty
at first; commands that stay are waited for until they are ready, and ended with their section.
Lines after ``host1$`` need another host and are left out; the tests beside this one do what
they say.  Blocks of Python run one after the other, and a value in a comment behind an
expression has to be its value.  A block after ``% not run: why`` is left alone.
"""

from __future__ import annotations

import ast
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.running import MODULES, ROOT

GUIDE = ROOT / "docs" / "guide"
BLOCK = re.compile(
    r"^(?P<skip>% not run: .+\n)?```(?P<kind>console|python)\n(?P<text>[^`]*?)^```\n"
    r"|^(?P<head>#+) .+\n",
    re.MULTILINE,
)
READY = {
    "ipcontrollerz": r"^stop: ",
    "ipenginez": r"is ready",
    "ipclusterz start": r"^stop: ",
    "ipclusterz engines": r"^ready in ",
}
CODES = {"ipclusterz ssh": 2}
"""What is shown to fail."""

NOT_HERE = ("pip install .", "pip install mpi4py")
"""Lines that are run elsewhere (tests/house/test_packaging.py), or come with the tests."""

PAGES = {
    "quickstart": (True, (1, 4)),
    "processes": (False, (19, 0)),
    "engines": (True, (1, 25)),
}
"""Whether what a section starts is used by those after it; lines and values at least."""

SECONDS = 40.0


class Shell:
    """A user's terminal, in an empty home folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.left: list[subprocess.Popen[str]] = []
        folder = home / "bin"
        folder.mkdir()
        for command, module in MODULES.items():
            file = folder / command
            file.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
            file.chmod(0o755)
        self.environment = {
            **os.environ,
            "HOME": str(home),
            "PATH": f"{folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
        }
        self.environment.pop("IPYTHONDIR", None)

    def run(self, line: str) -> str:
        """Run a line to its end, or until what it started is ready; return what it said."""
        command = next((c for c in READY if line.startswith((c, f"({c}"))), "")
        stays = command and not re.search(r"--daemon| -h\b| --help", line)
        process = subprocess.Popen(
            ["/bin/sh", "-c", line if line.startswith("(") else f"exec {line}"],
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(process, said), daemon=True).start()
        text = self._until(said, READY[command] if stays else None, line)
        if stays:
            self.left.append(process)
            return text
        wanted = next((code for start, code in CODES.items() if line.startswith(start)), 0)
        assert process.wait(SECONDS) == wanted, f"$ {line}\n{text}"
        return text

    def _read(
        self, process: subprocess.Popen[str], said: queue.SimpleQueue[str | None]
    ) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            said.put(line)
        said.put(None)
        process.stdout.close()

    def _until(self, said: queue.SimpleQueue[str | None], ready: str | None, line: str) -> str:
        text, deadline = "", time.monotonic() + SECONDS
        while True:
            try:
                more = said.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                raise AssertionError(f"no end of: $ {line}\n{text}") from None
            if more is None:
                assert ready is None, f"ended without {ready!r}: $ {line}\n{text}"
                return text
            text += more
            if ready and re.search(ready, more):
                return text

    def end(self) -> None:
        """End what still runs, as Ctrl-C does, the last one first."""
        for process in reversed(self.left):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(SECONDS)
        self.left.clear()
        subprocess.run(
            [sys.executable, "-m", "ipclusterz", "stop", "--all"],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            timeout=SECONDS,
            check=True,
        )


def seven_ports() -> int:
    """The first of seven ports that are free now."""
    for first in range(21001, 23000, 7):
        probes = [socket.socket() for _ in range(7)]
        try:
            for i, probe in enumerate(probes):
                probe.bind(("127.0.0.1", first + i))
            return first
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
    raise AssertionError("no seven free ports in a row")


def plain(line: str, home: Path) -> str:
    """A line without what differs from run to run: numbers, lengths, the host's name."""
    line = line.replace(str(home), "~").replace(socket.gethostname(), "host0")
    line = re.sub(r"\b[0-9a-f]{8}\b", "#", line)  # chosen at random
    line = re.sub(r"\d+(\.\d+)?", "#", line.replace("host0", "HOST"))
    return re.sub(r"\s+", " ", line).strip()


def compare(shown: list[str], said: str, home: Path) -> None:
    """Every line that is shown was said, in that order."""
    rest = iter(said.splitlines())
    for line in shown:
        if line != "…":
            found = any(plain(line, home) == plain(each, home) for each in rest)
            assert found, f"not said: {line}\n\n{said}"


def run_console(text: str, shell: Shell, port: int) -> int:
    """Run a block; return how many lines were run."""
    ran = 0
    text = text.replace("12351", str(port + 6)).replace("12345", str(port))
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, *shown = part.rstrip("\n").split("\n")
        if line not in NOT_HERE:
            compare(shown, shell.run(line), shell.home)
            ran += 1
    return ran


def value_in(comment: str) -> Iterator[Any]:
    """The value that a comment tells, if it tells one."""
    if "..." in comment:
        return  # only the form is shown
    for text in (comment, comment.rpartition(": ")[2]):
        try:
            yield ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            continue
        return


def run_python(text: str, names: dict[str, Any]) -> int:
    """Run a block; return how many of its values were compared."""
    compared = 0
    lines = text.splitlines()
    for node in ast.parse(text).body:
        if not isinstance(node, ast.Expr):
            exec(compile(ast.Module([node], []), "guide", "exec"), names)
            continue
        value = eval(compile(ast.Expression(node.value), "guide", "eval"), names)
        comment = lines[(node.end_lineno or 1) - 1][node.end_col_offset or 0 :].partition("#")
        for wanted in value_in(comment[2]):
            assert value == wanted, ast.unparse(node)
            compared += 1
    return compared


def blocks(page: Path) -> list[dict[str, str | None]]:
    return [found.groupdict() for found in BLOCK.finditer(page.read_text())]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.timeout(200)
def test_what_a_page_shows_works(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, least = PAGES[page]
    ran, compared = run_page(GUIDE / f"{page}.md", whole, tmp_path, monkeypatch)
    assert ran >= least[0] and compared >= least[1]


def run_page(
    path: Path, whole: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, int]:
    """Run a page with an empty home folder; return how many lines ran, values were compared.

    ``whole`` says whether what a section starts is used by those after it.
    """
    home.chmod(0o700)
    shell, port = Shell(home), seven_ports()
    monkeypatch.delenv("IPYTHONDIR")
    monkeypatch.setenv("HOME", str(home))
    names: dict[str, Any] = {"__name__": "__main__"}
    ran = compared = 0
    try:
        for block in blocks(path):
            if block["head"]:
                if not whole:
                    shell.end()
                continue
            text = block["text"] or ""
            if block["skip"]:
                continue
            if block["kind"] == "console":
                ran += run_console(text, shell, port)
            else:
                compared += run_python(text, names)
    finally:
        for each in names.values():
            if type(each).__name__ == "Client":
                each.close()
        shell.end()
    return ran, compared


def test_every_page_of_the_guide_is_run() -> None:
    assert {page.stem for page in GUIDE.glob("*.md")} == {*PAGES}


def test_values_that_differ_are_found() -> None:
    with pytest.raises(AssertionError, match="1 \\+ 1"):
        run_python("1 + 1  # two: 3\n", {})
    assert run_python("x = 1 + 1\nx  # 2\nx  # the sum\n", {}) == 1


def test_lines_that_were_not_said_are_found(tmp_path: Path) -> None:
    compare(["one 12 s", "…", "three"], "zero\none 3.5 s\ntwo\nthree\n", tmp_path)
    with pytest.raises(AssertionError, match="not said: two"):
        compare(["three", "two"], "two\nthree\n", tmp_path)
