"""What tasks write, by whatever means, reaches who asked, as theirs and in order."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ipclusterz as ipp
from tests.faults.watch import until

LIMIT = 8 * 1024 * 1024


@pytest.fixture(scope="module")
def rc(shared_ipython_dir: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=2) as client:
        yield client


def speak(tag: str) -> None:
    """Write from Python, C and a child process, in this order."""
    import ctypes
    import subprocess

    libc = ctypes.CDLL(None)
    print(f"{tag} print")
    os.write(1, f"{tag} descriptor\n".encode())
    sys.stdout.write(f"{tag} unfinished, ")
    sys.stdout.flush()
    libc.printf(f"{tag} printf\n".encode())
    libc.fflush(None)
    subprocess.run(["echo", f"{tag} child"], check=True)
    os.system(f"echo {tag} shell")
    sys.stdout.buffer.write(f"{tag} bytes\n".encode())
    print(f"{tag} last", end="")


def spoken(tag: str) -> str:
    return (
        f"{tag} print\n{tag} descriptor\n{tag} unfinished, {tag} printf\n"
        f"{tag} child\n{tag} shell\n{tag} bytes\n{tag} last"
    )


def test_everything_that_is_written_arrives_in_order(rc: ipp.Client) -> None:
    result = rc[0].apply_async(speak, "a")
    result.get(timeout=20)
    assert result.stdout == spoken("a")
    assert result.stderr == ""


def test_standard_error_apart(rc: ipp.Client) -> None:
    def complain() -> None:
        import subprocess

        print("one", file=sys.stderr)
        os.write(2, b"two\n")
        subprocess.run("echo three >&2", shell=True, check=True)
        print("not this")

    result = rc[0].apply_async(complain)
    result.get(timeout=20)
    assert result.stderr == "one\ntwo\nthree\n"
    assert result.stdout == "not this\n"


def test_each_task_of_a_batch_has_its_own(rc: ipp.Client) -> None:
    """Short tasks go to an engine many at a time; some write by way of the descriptor."""

    def say(number: int) -> int:
        if number % 3 == 0:
            print("number", number)
        elif number % 3 == 1:
            os.write(1, f"number {number}\n".encode())
        return number

    view = rc.load_balanced_view()
    for result in [view.apply_async(say, -1) for _ in range(500)]:
        result.get(timeout=20)
    results = [view.apply_async(say, i) for i in range(1000)]
    for number, result in enumerate(results):
        assert result.get(timeout=20) == number
        expected = f"number {number}\n" if number % 3 < 2 else ""
        assert result.stdout == expected


def test_everything_at_once_in_many_tasks(rc: ipp.Client) -> None:
    view = rc.load_balanced_view()
    results = [view.apply_async(speak, f"t{i}") for i in range(40)]
    for i, result in enumerate(results):
        result.get(timeout=20)
        assert result.stdout == spoken(f"t{i}")


def test_each_client_gets_its_own() -> None:
    cluster = ipp.Cluster(n=1)
    with cluster as rc, ipp.Client(cluster.client_file) as other:
        results = [
            (name, client.load_balanced_view().apply_async(print, name, i))
            for i in range(50)
            for name, client in (("first", rc), ("second", other))
        ]
        for i, (name, result) in enumerate(results):
            result.get(timeout=20)
            assert result.stdout == f"{name} {i // 2}\n"


def test_output_of_a_task_that_fails_or_kills_its_engine() -> None:
    def die() -> None:
        print("before")
        os.write(1, b"the end")
        os._exit(1)

    with ipp.Cluster(n=1) as rc:
        failed = rc[0].execute("print('so far'); 1/0", block=False)
        with pytest.raises(ZeroDivisionError):
            failed.get(timeout=20)
        assert failed.stdout == "so far\n"
        died = rc[0].apply_async(die)
        with pytest.raises(ipp.EngineError):
            died.get(timeout=20)
        assert died.stdout == "before\nthe end"


def test_very_long_output_is_cut_with_a_mark(rc: ipp.Client) -> None:
    def talk(size: int) -> int:
        for _ in range(size // 1000):
            print("x" * 999)
        print("the end")
        return size

    result = rc[0].apply_async(talk, LIMIT + 5_000_000)
    assert result.get(timeout=60) == LIMIT + 5_000_000
    text = result.stdout
    assert LIMIT < len(text) < LIMIT + 100
    assert f"output beyond {LIMIT} characters is in the engine's log" in text[-200:]
    assert text.startswith("x" * 999 + "\n")
    whole = rc[0].apply_async(talk, 2_000_000)
    whole.get(timeout=20)
    assert len(whole.stdout) == 2_000_000 + len("the end\n")
    logs = list(Path(os.environ["IPYTHONDIR"]).glob("**/*-engine-0.log*"))
    assert any("the end" in path.read_text() for path in logs)


def test_one_that_never_stops_talking_holds_nobody_up(rc: ipp.Client, tmp_path: Path) -> None:
    def talk(end: str) -> None:
        while not os.path.exists(end):
            os.write(1, b"y\n" * 20_000)

    result = rc[0].apply_async(talk, str(tmp_path / "end"))
    times = []
    for i in range(50):
        started = time.monotonic()
        assert rc[1].apply_sync(abs, -i) == i
        times.append(time.monotonic() - started)
    (tmp_path / "end").touch()
    result.get(timeout=20)
    assert sorted(times)[25] < 0.1


def test_a_thread_that_outlives_its_task(rc: ipp.Client) -> None:
    """Its text is nobody's, or of the task that runs by then; it does no harm."""

    def leave() -> None:
        import threading

        def later(seconds: float = 0.05) -> None:
            time.sleep(seconds)
            print("from the thread")

        threading.Thread(target=later).start()
        print("from the task")

    result = rc[0].apply_async(leave)
    result.get(timeout=20)
    assert result.stdout == "from the task\n"
    other = rc[0].apply_async(time.sleep, 0.3)
    other.get(timeout=20)
    assert other.stdout in ("", "from the thread\n")
    log = Path(os.environ["IPYTHONDIR"])
    until(
        lambda: any("from the thread" in p.read_text() for p in log.glob("**/*-engine-0.log")),
        "the thread's text in the engine's log",
    )


def test_bytes_that_are_no_text(rc: ipp.Client) -> None:
    def odd() -> None:
        os.write(1, "é€😀".encode()[:-1])
        os.write(1, "😀".encode()[-1:])
        os.write(1, b" \xff\xfe end \xe2\x82")
        print("\ud800 lone")

    result = rc[0].apply_async(odd)
    result.get(timeout=20)
    assert result.stdout.startswith("é€😀 \ufffd\ufffd end \ufffd")
    assert "lone\n" in result.stdout


def test_output_of_processes_that_a_task_started(rc: ipp.Client) -> None:
    def many() -> None:
        import multiprocessing

        children = [
            multiprocessing.get_context("fork").Process(target=print, args=(f"child {i}",))
            for i in range(5)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join()

    result = rc[0].apply_async(many)
    result.get(timeout=20)
    assert sorted(result.stdout.splitlines()) == [f"child {i}" for i in range(5)]


def test_output_while_its_scheduler_is_started_again() -> None:
    """What had not left its host yet arrives; what was on the way just then may be lost."""
    heard: list[dict[str, Any]] = []
    with ipp.Cluster(n=2, notice=heard.append) as rc:
        [ready] = [event for event in heard if event["event"] == "ready"]
        os.kill(ready["parts"]["iopub"], signal.SIGKILL)
        until(lambda: any(event["event"] == "restarted" for event in heard), "its end")
        result = rc[:].apply_async(print, "hello")
        result.get(timeout=20)
        until(lambda: result.stdout == ["hello\n", "hello\n"], "the output")
