"""Output: every character reaches the task that wrote it, whoever wrote it."""

from __future__ import annotations

import fcntl
import os
import random
import threading
from collections.abc import Callable, Iterator
from typing import cast

import pytest

from ipclusterz.core.message import BEGIN, DISPLAY, END
from ipclusterz.engine import streams
from ipclusterz.engine.page import RUNNING, TAKEN
from ipclusterz.engine.streams import Reader, Splitter, Stream

TOKEN = b"\x00token\xff\x01"


class Pipe:
    """A stream into a pipe, and the agent's end of it."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        self.words = memoryview(bytearray(64)).cast("Q")
        self.stream = Stream(self.write_fd, "<stdout>", TOKEN, self.words)
        self.splitter = Splitter(TOKEN)
        self.taken = 0

    def run(self, key: int) -> None:
        self.words[RUNNING] = key
        self.taken = self.words[TAKEN] & ~1

    def end(self) -> None:
        self.stream.flush_task()
        self.stream.end_task(self.words[RUNNING], self.taken)

    def raw(self) -> bytes:
        try:
            return os.read(self.read_fd, 1 << 20)
        except BlockingIOError:
            return b""

    def read(self) -> list[tuple[int, str]]:
        return texts_of(self.splitter.feed(self.raw(), self.words[RUNNING]))


def texts_of(found: list[streams.Found]) -> list[tuple[int, str]]:
    """What was found, where all of it is text."""
    assert not [kind for _, kind, _ in found if kind]
    return [(key, text) for key, _, text in found]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    os.close(made.read_fd)
    os.close(made.write_fd)


def test_each_task_gets_its_own_text(pipe: Pipe) -> None:
    for key in (1, 2, 3):
        pipe.run(key)
        print("task", key, file=pipe.stream)
        pipe.end()
    pipe.run(0)
    assert pipe.read() == [(1, "task 1\n"), (2, "task 2\n"), (3, "task 3\n")]


def test_a_silent_task_writes_nothing(pipe: Pipe) -> None:
    pipe.run(1)
    pipe.end()
    assert pipe.raw() == b""


def test_a_line_is_there_when_it_ends(pipe: Pipe) -> None:
    pipe.run(1)
    pipe.stream.write("half")
    assert pipe.read() == []
    pipe.stream.write(" whole\n")
    assert pipe.read() == [(1, "half whole\n")]


def test_many_lines_are_gathered(pipe: Pipe) -> None:
    pipe.run(1)
    for i in range(2000):
        print(i, file=pipe.stream)
    pipe.end()
    raw = pipe.raw()
    assert raw.count(TOKEN) < 200
    texts = texts_of(pipe.splitter.feed(raw, 1))
    assert texts == [(1, "".join(f"{i}\n" for i in range(2000)))]


def test_foreign_bytes_belong_to_the_running_task(pipe: Pipe) -> None:
    pipe.run(5)
    os.write(pipe.write_fd, b"from C\n")
    assert pipe.read() == [(5, "from C\n")]


def test_foreign_bytes_unread_at_the_end_are_not_the_next_tasks(pipe: Pipe) -> None:
    pipe.run(1)
    os.write(pipe.write_fd, b"from C\n")
    pipe.end()
    pipe.run(2)
    assert pipe.read() == [(1, "from C\n")]


def test_foreign_bytes_between_frames_keep_their_place(pipe: Pipe) -> None:
    pipe.run(1)
    print("a", file=pipe.stream)
    os.write(pipe.write_fd, b"b\n")
    print("c", file=pipe.stream)
    pipe.end()
    pipe.run(9)
    assert pipe.read() == [(1, "a\nb\nc\n")]


def test_no_task_no_owner(pipe: Pipe) -> None:
    print("from a thread", file=pipe.stream)
    pipe.stream.flush()
    assert pipe.read() == [(0, "from a thread\n")]


def test_large_texts_in_atomic_frames(pipe: Pipe) -> None:
    pipe.run(1)
    text = "é" * 20_000
    pipe.stream.write(text)
    pipe.stream.flush()
    raw = pipe.raw()
    assert raw.count(TOKEN) == -(-40_000 // (4096 - 18))
    assert pipe.splitter.feed(raw, 1) == [(1, 0, text)]


@pytest.mark.parametrize("seed", range(20))
def test_any_split_of_reads_gives_the_same(pipe: Pipe, seed: int) -> None:
    dice = random.Random(seed)
    expected = ""
    for key in range(1, 8):
        pipe.run(key)
        for _ in range(dice.randrange(4)):
            foreign = dice.random() < 0.3
            alphabet = "ab\n" if foreign else "aé€😀\n"
            text = "".join(dice.choices(alphabet, k=dice.randrange(12)))
            if foreign:
                os.write(pipe.write_fd, text.encode())
            else:
                pipe.stream.write(text)
                pipe.stream.flush()
            expected += text
        pipe.end()
    raw = pipe.raw()
    found = []
    at = 0
    while at < len(raw):
        size = dice.randrange(1, 400)
        found += texts_of(pipe.splitter.feed(raw[at : at + size], 7))
        at += size
    found += texts_of(pipe.splitter.finish(7))
    assert "".join(text for _, text in found) == expected
    assert all(1 <= key <= 7 for key, _ in found)


def test_framed_text_survives_any_split(pipe: Pipe) -> None:
    pipe.run(3)
    pipe.stream.write("grüße\n")
    pipe.run(4)
    pipe.stream.write("€uro\n")
    raw = pipe.raw()
    for cut in range(len(raw) + 1):
        splitter = Splitter(TOKEN)
        texts = texts_of(splitter.feed(raw[:cut], 99) + splitter.feed(raw[cut:], 99))
        assert "".join(text for key, text in texts if key == 3) == "grüße\n"
        assert "".join(text for key, text in texts if key == 4) == "€uro\n"
        assert {key for key, _ in texts} == {3, 4}


def test_bytes_that_are_no_utf8_are_replaced() -> None:
    splitter = Splitter(TOKEN)
    assert splitter.feed(b"a\xffb", 1) == [(1, 0, "a\ufffdb")]
    assert splitter.feed(b"\xe2\x82", 1) == []
    assert splitter.feed(b"\xac", 1) == [(1, 0, "€")]
    assert splitter.feed(b"\xe2", 1) == []
    assert splitter.feed(b"x", 2) == [(1, 0, "\ufffd"), (2, 0, "x")]


def test_what_looks_like_a_token_comes_out_in_the_end() -> None:
    splitter = Splitter(TOKEN)
    assert splitter.feed(b"a" + TOKEN[:3], 1) == [(1, 0, "a")]
    assert splitter.finish(1) == [(1, 0, TOKEN[:3].decode())]


def test_a_frame_cut_off_by_death_is_kept() -> None:
    splitter = Splitter(TOKEN)
    frame = TOKEN + (7).to_bytes(8, "big") + (10).to_bytes(2, "big") + b"half"
    assert splitter.feed(frame, 0) == []
    assert splitter.finish() == [(7, 0, "half")]
    assert Splitter(TOKEN).finish() == []


WHOLE = DISPLAY | BEGIN | END


def test_displays_keep_their_place_in_the_text(pipe: Pipe) -> None:
    pipe.run(3)
    pipe.stream.write("before ")
    pipe.stream.show(b'{"data": 1}')
    pipe.stream.show(b'{"data": 2}')
    pipe.stream.write("after\n")
    assert pipe.splitter.feed(pipe.raw(), 3) == [
        (3, 0, "before "),
        (3, WHOLE, '{"data": 1}'),
        (3, WHOLE, '{"data": 2}'),
        (3, 0, "after\n"),
    ]


@pytest.mark.parametrize("seed", range(10))
def test_large_displays_survive_any_split(pipe: Pipe, seed: int) -> None:
    dice = random.Random(seed)
    fcntl.fcntl(pipe.write_fd, fcntl.F_SETPIPE_SZ, 1 << 20)
    sent = []
    for key in range(1, 6):
        pipe.run(key)
        sent.append((key, "".join(dice.choices('aé€😀"', k=dice.randrange(1, 9000)))))
        pipe.stream.show(sent[-1][1].encode())
        os.write(pipe.write_fd, b"!")
        pipe.end()
    raw, at = pipe.raw(), 0
    found = []
    while at < len(raw):
        size = dice.randrange(1, 5000)
        found += pipe.splitter.feed(raw[at : at + size], 7)
        at += size
    got: list[tuple[int, str]] = []
    for key, kind, text in found:
        if not kind:
            assert text == "!"
        elif kind & BEGIN:
            got.append((key, text))
        else:
            assert got[-1][0] == key
            got[-1] = (key, got[-1][1] + text)
    assert got == sent
    assert sum(bool(kind & END) for _, kind, _ in found) == len(sent)


def test_a_display_cut_off_by_death_is_dropped(pipe: Pipe) -> None:
    pipe.run(3)
    pipe.stream.show(b"x" * 100)
    pipe.words[RUNNING] = 0
    assert pipe.splitter.feed(pipe.raw()[:50], 0) == []
    assert pipe.splitter.finish() == []


def test_it_is_a_text_stream_as_programs_know_them(pipe: Pipe) -> None:
    stream = pipe.stream
    assert stream.encoding == "utf-8"
    assert stream.writable()
    assert not stream.readable()
    assert not stream.isatty()
    assert stream.fileno() == pipe.write_fd
    with pytest.raises(TypeError, match="must be str, not bytes"):
        stream.write(b"x")  # type: ignore[arg-type]
    stream.reconfigure(line_buffering=True)
    pipe.run(1)
    stream.write("text ")
    assert stream.buffer.write(b"bytes ") == 6
    stream.buffer.flush()
    stream.writelines(["l1\n", "l2\n"])
    stream.close()
    print("still open", file=stream)
    assert pipe.read() == [(1, "text bytes l1\nl2\nstill open\n")]
    stream.write("\ud800\n")
    assert pipe.read() == [(1, "\\ud800\n")]


def test_threads_lose_nothing(pipe: Pipe) -> None:
    pipe.run(1)

    def work(name: str) -> None:
        for _ in range(200):
            pipe.stream.write(name * 20 + "\n")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.end()
    lines = "".join(text for _, text in pipe.read()).splitlines()
    assert sorted(lines) == sorted(name * 20 for name in "abcd" for _ in range(200))


def test_a_broken_pipe_does_not_end_an_engine() -> None:
    pipe = Pipe()
    os.close(pipe.read_fd)
    pipe.run(1)
    pipe.stream.write("lost")
    pipe.end()
    pipe.end()
    os.close(pipe.write_fd)


def test_a_file_in_place_of_the_pipe_is_fine() -> None:
    fd = os.open(os.devnull, os.O_WRONLY)
    stream = Stream(fd, "x", TOKEN, memoryview(bytearray(64)).cast("Q"))
    stream.write("x\n")
    stream.flush_task()
    stream.end_task(1, 0)
    os.close(fd)
    assert len(TOKEN) == streams.TOKEN_SIZE


class Turns:
    """An engine doing tasks in a thread that goes on only when it is let."""

    def __init__(self, pipe: Pipe, plan: list[str]) -> None:
        self.done = False
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, args=(pipe, plan))
        self._thread.start()
        self._stopped.acquire()

    def __call__(self) -> None:
        """Let it go on to its next look at what it shares with the agent."""
        if not self.done:
            self._go.release()
            self._stopped.acquire()

    def _pause(self) -> None:
        self._stopped.release()
        self._go.acquire()

    def _run(self, pipe: Pipe, plan: list[str]) -> None:
        words = cast(memoryview, Seen(pipe.words, self._pause))
        stream = Stream(pipe.write_fd, "<stdout>", TOKEN, words)
        try:
            for key, kind in enumerate(plan, 1):
                words[RUNNING] = key
                taken = words[TAKEN] & ~1
                for letter in kind:
                    if letter == "p":
                        print("text", key, file=stream)
                    else:
                        self._pause()
                        os.write(pipe.write_fd, b"foreign %d\n" % key)
                stream.flush_task()
                self._pause()
                stream.end_task(key, taken)
                if key % 3 == 0:  # the end of a batch
                    words[RUNNING] = 0
            words[RUNNING] = 0
        finally:
            self.done = True
            self._stopped.release()

    def end(self) -> None:
        while not self.done:
            self()
        self._thread.join()


class Seen:
    """The shared page as the agent sees it: between two looks the engine takes steps."""

    def __init__(self, words: memoryview, pause: Callable[[], None]) -> None:
        self.words = words
        self.pause = pause

    def __getitem__(self, at: int) -> int:
        self.pause()
        seen = int(self.words[at])
        self.pause()
        return seen

    def __setitem__(self, at: int, value: int) -> None:
        self.pause()
        self.words[at] = value


@pytest.mark.parametrize("seed", range(300))
def test_whoever_goes_first_no_output_is_anothers(
    seed: int, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engine and agent take turns in every order; what is taken is always its writer's."""
    rng = random.Random(seed)
    plan = [rng.choice(["", "p", "c", "pc", "cp", "cpc", "cc"]) for _ in range(40)]
    engine = Turns(pipe, plan)
    haste = rng.choice([0.2, 1.0, 3.0, 9.0])

    def pause() -> None:
        for _ in range(int(rng.expovariate(1 / haste))):
            engine()

    read = os.read

    def slowly(fd: int, size: int) -> bytes:
        pause()
        data = read(fd, size)
        pause()
        return data

    monkeypatch.setattr(streams.os, "read", slowly)
    seen = cast(memoryview, Seen(pipe.words, pause))
    reader = Reader(pipe.read_fd, TOKEN, seen)
    found: list[streams.Found] = []
    for _ in range(2000):
        # Now and then the agent stops reading, as others wait: it must not guess.
        if reader.loose and rng.random() < 0.3:
            found += reader.settle()
        else:
            found += reader.read() or []
        pause()
    engine.end()
    while (news := reader.read()) is not None:
        found += news
    texts = dict.fromkeys(range(1, 41), "")
    for key, _, text in found:
        texts[key] += text
    words = {"p": "text", "c": "foreign"}
    assert texts == {
        key: "".join(f"{words[letter]} {key}\n" for letter in kind)
        for key, kind in enumerate(plan, 1)
    }
