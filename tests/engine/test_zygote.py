"""Real engines, forked and spawned, driven through the descriptors an agent has."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy
import pytest

from ipclusterz.core.message import INLINE, Batch, Fork, Op, Outcome, Say, Status, Work, encode
from ipclusterz.engine import bodies, serialize
from tests.engine.testagent import (
    ROOT,
    Failed,
    TestEngine,
    Zygote,
    be_subreaper,
    until,
)


@pytest.fixture(scope="module", autouse=True)
def folder() -> Iterator[tuple[str, bytes]]:
    be_subreaper()
    TestEngine.folder = bodies.make_folder()
    yield TestEngine.folder
    bodies.remove_folder(TestEngine.folder[0])
    be_subreaper(False)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    assert made.close() == 0


Make = Callable[..., TestEngine]


@pytest.fixture
def make(zygote: Zygote, folder: tuple[str, bytes]) -> Iterator[Make]:
    made: list[TestEngine] = []

    def one(**settings: Any) -> TestEngine:
        source = settings.pop("zygote", zygote)
        engine = TestEngine(source, folder, **settings)
        made.append(engine)
        return engine.started()

    yield one
    for engine in made:
        engine.close()


@pytest.fixture(params=["forked", "spawned"])
def engine(request: pytest.FixtureRequest, make: Make) -> TestEngine:
    return make(zygote=None) if request.param == "spawned" else make()


@pytest.fixture
def forked(make: Make) -> TestEngine:
    return make()


def run(code: str) -> Any:
    """Make a function of ``f()`` as the code defines it, as in a client's ``__main__``."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(code, scope)
    return scope["f"]


# -- the zygote ----------------------------------------------------------------------------


def test_it_is_ready_and_has_one_thread(zygote: Zygote) -> None:
    assert zygote.said.problem == ""
    assert zygote.said.threads == 1


def test_it_imports_little() -> None:
    code = "import sys, ipclusterz.engine.zygote; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    heavy = "asyncio cloudpickle cryptography hashlib logging multiprocessing numpy paramiko"
    heavy += " psutil random rich subprocess tempfile tqdm traitlets zmq"
    assert set(heavy.split()) & set(done.stdout.split()) == set()


def test_preloaded_modules_are_there_in_every_engine(make: Make) -> None:
    loaded = Zygote("--preload", "colorsys,fractions")
    engine = make(zygote=loaded)
    names = engine.apply(run("import sys\ndef f(): return sorted(sys.modules)"))
    assert {"colorsys", "fractions"} <= set(names)
    assert loaded.close() == 0


def test_a_preload_that_fails_is_told() -> None:
    broken = Zygote("--preload", "nowhere_at_all")
    assert "cannot preload 'nowhere_at_all': ModuleNotFoundError" in broken.said.problem
    assert broken.close() == 1


def test_threads_of_a_preload_are_counted(tmp_path: Path) -> None:
    (tmp_path / "starts_a_thread.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    made = Zygote("--preload", "colorsys,starts_a_thread", env={"PYTHONPATH": str(tmp_path)})
    assert made.said.threads == 2 and made.said.threaded == ["starts_a_thread"]
    assert made.close() == 0


def test_threads_that_have_ended_forbid_nothing(tmp_path: Path) -> None:
    (tmp_path / "had_threads.py").write_text(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    list(pool.map(abs, range(100)))\n"
    )
    made = Zygote("--preload", "had_threads", env={"PYTHONPATH": str(tmp_path)})
    assert (made.said.threads, made.said.threaded) == (1, [])
    assert made.close() == 0


def test_it_has_a_name_of_its_own(zygote: Zygote) -> None:
    assert Path(f"/proc/{zygote.process.pid}/comm").read_text() == "ipzygote\n"


def test_a_request_without_descriptors_is_refused(zygote: Zygote) -> None:
    zygote.fork(Fork(9, 9, "", b"", b"", {}), [])
    assert zygote.hear().problem == (
        "engine 9 could not be forked: 0 descriptors came instead of 4"
    )


def test_the_agents_death_ends_zygote_and_engines(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from tests.engine.testagent import *\n"
        "be_subreaper()\n"
        "folder = (sys.argv[1], b'p' * 16)\n"
        "z = Zygote()\n"
        "e = TestEngine(z, folder).started()\n"
        "e.start(lambda: __import__('time').sleep(60))\n"
        "until(lambda: e.page.running, 'the task')\n"
        "print(z.process.pid, e.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    agent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert agent.stdout is not None
    pids = [int(word) for word in agent.stdout.readline().split()]
    agent.stdout.close()
    agent.kill()
    agent.wait()
    for pid in pids:
        until(lambda pid=pid: gone(pid), f"the end of process {pid}")


def gone(pid: int) -> bool:
    """Tell whether a process has ended; reaps it if it became ours."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# -- being an engine -----------------------------------------------------------------------


def test_an_engine_is_the_agents_child_in_a_session_of_its_own(engine: TestEngine) -> None:
    pid, parent, session = engine.apply(
        run("import os\ndef f(): return os.getpid(), os.getppid(), os.getsid(0)")
    )
    assert pid == session == engine.pid == engine.page.pid
    assert parent == os.getpid()


def test_what_user_code_finds(make: Make, tmp_path: Path) -> None:
    engine = make(env={"IPCLUSTERZ_ENGINE_ID": "5"}, cwd=str(tmp_path), number=5)
    found = engine.apply(
        run(
            "import os, sys, signal, gc\n"
            "def f():\n"
            "    main = sys.modules['__main__']\n"
            "    return (os.environ['IPCLUSTERZ_ENGINE_ID'], os.getcwd(), sys.argv,\n"
            "            sys.path[0], main.__name__, vars(main) is globals(), gc.isenabled(),\n"
            "            signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,\n"
            "            sys.stdin.read(), open('/proc/self/comm').read().strip())"
        )
    )
    assert found == (
        "5",
        str(tmp_path),
        ["ipenginez"],
        "",
        "__main__",
        True,
        True,
        True,
        "",
        "ipenginez-5",
    )


def test_only_its_own_descriptors_are_open(forked: TestEngine) -> None:
    found = forked.apply(
        run(
            "import os\n"
            "def f():\n"
            "    names = [f'/proc/self/fd/{n}' for n in os.listdir('/proc/self/fd')]\n"
            "    return [os.readlink(name) for name in names if os.path.lexists(name)]"
        )
    )
    kinds = sorted(name.split(":")[0] for name in found)
    assert kinds == ["/dev/null", "/memfd", "pipe", "pipe", "socket"]


def test_a_folder_that_is_not_there_ends_it_with_the_reason(
    zygote: Zygote, folder: tuple[str, bytes]
) -> None:
    engine = TestEngine(zygote, folder, cwd="/nowhere/at/all")
    engine.pid = until(lambda: engine.page.pid, "the engine's pid")
    assert engine.reap() == 1
    words = os.read(engine.pipes[1], 1 << 16).decode()
    assert "FileNotFoundError" in words
    assert "/nowhere/at/all" in words
    engine.close()


def test_the_end_of_its_socket_is_its_end(forked: TestEngine, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    forked.apply(
        run(
            "import atexit, pathlib\n"
            "def f(p): atexit.register(pathlib.Path(p).write_text, 'left in order')"
        ),
        str(mark),
    )
    forked.socket.close()
    assert forked.reap() == 0
    assert mark.read_text() == "left in order"


def test_what_failed_ends_although_what_is_called_at_its_end_waits(forked: TestEngine) -> None:
    forked.start(
        run(
            "import atexit, os, threading\n"
            "def f():\n"
            "    atexit.register(threading.Event().wait)\n"
            "    os.closerange(3, 100)"
        )
    )
    assert forked.reap() == 1
    assert "Bad file descriptor" in os.read(forked.pipes[1], 1 << 16).decode()


@pytest.mark.parametrize("handler", ["late", "signal.default_int_handler"])
def test_a_handler_that_a_task_left_may_raise_while_it_waits(make: Make, handler: str) -> None:
    engine = make(keep=True)
    left = run(
        "import signal\n"
        "def late(*_): raise TimeoutError('too late')\n"
        f"def f(): signal.signal(signal.SIGUSR1, {handler})"
    )
    engine.apply(left)
    for _ in range(2):
        until(lambda: _state(engine.pid) == "S", "its wait for a task")
        os.kill(engine.pid, signal.SIGUSR1)
        assert engine.apply(os.getpid) == engine.pid
    engine.drain()
    said = "".join(text for _, _, text in engine.texts)
    assert said.count("Traceback (most recent call last)") == 2


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_random_numbers_differ_between_engines(make: Make) -> None:
    loaded = Zygote("--preload", "random,numpy.random")
    draws = []
    for _ in range(2):
        engine = make(zygote=loaded)
        draws.append(
            engine.apply(
                run(
                    "import random, numpy\n"
                    "def f(): return random.random(), float(numpy.random.random())"
                )
            )
        )
    assert len({value for draw in draws for value in draw}) == 4
    loaded.close()


def test_generators_of_other_modules_are_seeded_if_they_are_what_they_seem(
    make: Make, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text(
        "import os\nseeded = 0\ndef seed():\n    global seeded\n    seeded = os.getpid()\n"
    )
    # A user's own file of this name: none of our business.
    (tmp_path / "random.py").write_text("def seed(number): raise AssertionError\n")
    loaded = Zygote("--preload", "torch,random", env={"PYTHONPATH": str(tmp_path)})
    engine = make(zygote=loaded)
    seeded = engine.apply(run("def f():\n    import torch\n    return torch.seeded"))
    assert seeded == engine.pid
    loaded.close()


def test_it_leaves_it_to_the_agent_whether_the_socket_blocks(make: Make) -> None:
    """The agent may keep a duplicate of the engine's end and read back what it sent."""
    engine = make(keep=True)
    assert engine.theirs is not None
    with pytest.raises(BlockingIOError):
        engine.theirs.recv(1)
    key = engine.start(run("import time\ndef f(): time.sleep(60)"))
    until(lambda: engine.page.running == key, "the task")
    behind = engine.work(Op.CLEAR, [serialize.NONE])
    engine.send([behind])
    taken = msgspec.msgpack.decode(engine.theirs.recv(1 << 20), type=Batch)
    assert taken.tasks == [behind]
    with pytest.raises(BlockingIOError):
        engine.theirs.recv(1)
    engine.interrupt(key)
    assert engine.outcome(key).status == Status.ERROR
    assert engine.apply(os.getpid) == engine.pid


# -- batches -------------------------------------------------------------------------------


def test_a_batch_is_answered_in_order(engine: TestEngine) -> None:
    square = run("def f(x): return x * x")
    works = [engine.work(Op.APPLY, serialize.pack_call((i,), {}), square) for i in range(300)]
    keys = engine.send(works, square)
    assert [engine.value(key) for key in keys] == [i * i for i in range(300)]
    assert list(engine.outcomes) == keys
    assert len(engine.says) < 100
    until(lambda: engine.page.committed() == [], "the records of what was sent to go")
    assert engine.page.running == 0
    assert engine.page.serial == 300


def test_functions_it_does_not_have_are_asked_for(forked: TestEngine) -> None:
    known, unknown = run("def f(): return 1"), run("def f(): return 2")
    works = [
        forked.work(Op.APPLY, [serialize.NO_ARGS], function)
        for function in (known, unknown, known, unknown)
    ]
    forked.send(works, known)
    say = until(lambda: (s := forked.hear()).undone and s, "a request for the function")
    assert say.missing == [forked.functions.pack(unknown).digest]
    assert say.undone == [works[1].key, works[3].key]
    assert forked.value(works[2].key) == 1
    forked.send([works[1], works[3]], unknown)
    assert [forked.value(works[i].key) for i in (1, 3)] == [2, 2]


def test_what_is_finished_does_not_wait_for_a_long_task(forked: TestEngine) -> None:
    quick = run("def f(): return 1")
    forked.apply(quick)
    long = run("import time\ndef f(): time.sleep(60)")
    works = [forked.work(Op.APPLY, [serialize.NO_ARGS], f) for f in (quick, quick, long)]
    keys = forked.send(works, quick, long)
    assert forked.value(keys[1]) == 1
    until(lambda: forked.page.running == keys[2], "the long task")
    assert keys[2] not in forked.outcomes
    forked.interrupt(keys[2])
    with pytest.raises(Failed, match="KeyboardInterrupt"):
        forked.value(keys[2])


def test_outcomes_never_exceed_a_datagram(forked: TestEngine) -> None:
    fill = run("def f(n): return 'x' * n")
    sizes = [40_000, 60_000, 65_000, 10, 30_000, 1, 65_400, INLINE, 5]
    works = [forked.work(Op.APPLY, serialize.pack_call((n,), {}), fill) for n in sizes]
    keys = forked.send(works, fill)
    assert [len(forked.value(key)) for key in keys] == sizes


def test_what_it_says_is_what_messages_say(forked: TestEngine) -> None:
    """The engine joins its datagrams from encoded parts; they must be plain Say messages."""
    forked.send([Work(1, Op.APPLY, b"unknown", b""), Work(2, Op.CLEAR, b"", serialize.NONE)])
    say = forked.hear()
    assert msgspec.msgpack.decode(encode(say), type=Say) == say
    assert (say.pid, say.missing, say.undone) == (0, [b"unknown"], [1])
    assert [outcome.key for outcome in say.outcomes] == [2]


# -- large values --------------------------------------------------------------------------


def test_large_values_both_ways(engine: TestEngine, folder: tuple[str, bytes]) -> None:
    array = numpy.arange(2_000_000.0)
    made = engine.apply(run("def f(x):\n    x += 1\n    return x"), array)
    assert numpy.array_equal(made, array + 1)
    made[0] = 5


# -- interrupts ----------------------------------------------------------------------------


def test_sleep_is_interrupted_and_the_engine_goes_on(engine: TestEngine) -> None:
    key = engine.start(run("import time\ndef f(): time.sleep(60)"))
    until(lambda: engine.page.running == key, "the task")
    engine.interrupt(key)
    with pytest.raises(Failed, match="KeyboardInterrupt"):
        engine.value(key)
    assert engine.apply(os.getpid) == engine.pid


def test_signals_in_a_stream_of_tasks_never_corrupt_it(forked: TestEngine) -> None:
    """Interrupt whatever runs, blindly and often: each task ends once, in order."""
    work = run("def f(n):\n    for _ in range(n): pass\n    return n")
    forked.apply(work, 1)
    count, stop = 3000, threading.Event()

    def shoot() -> None:
        dice = random.Random(1)
        while not stop.is_set():
            forked.page.interrupt = forked.page.running
            os.kill(forked.pid, signal.SIGINT)
            time.sleep(dice.random() / 2000)

    shooter = threading.Thread(target=shoot)
    shooter.start()
    try:
        keys: list[int] = []
        for _ in range(count // 50):
            works = [
                forked.work(Op.APPLY, serialize.pack_call((500,), {}), work) for _ in range(50)
            ]
            keys += forked.send(works, work)
            forked.outcome(keys[-1])
    finally:
        stop.set()
        shooter.join()
    assert [key for key in forked.outcomes if key in set(keys)] == keys
    ended = [forked.outcomes[key].status for key in keys]
    assert set(ended) <= {Status.OK, Status.ERROR}
    for key in keys:
        if forked.outcomes[key].status == Status.OK:
            assert forked.value(key) == 500
        else:
            with pytest.raises(Failed, match="KeyboardInterrupt"):
                forked.value(key)
    assert forked.apply(os.getpid) == forked.pid


def test_a_stray_signal_harms_nobody(forked: TestEngine) -> None:
    for _ in range(20):
        os.kill(forked.pid, signal.SIGINT)
    key = forked.start(run("import time\ndef f():\n    time.sleep(0.05)\n    return 'done'"))
    until(lambda: forked.page.running in (key, 0), "the task")
    os.kill(forked.pid, signal.SIGINT)
    assert forked.value(key) == "done"


# -- death ---------------------------------------------------------------------------------


def test_after_kill_9_the_page_tells_what_ran_and_what_was_done(forked: TestEngine) -> None:
    quick = run("def f(x): return x")
    forked.apply(quick, 0)
    last = run(
        "import os, signal\ndef f(x):\n    if x == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return x"
    )
    forked.apply(last, 0)
    works = [forked.work(Op.APPLY, serialize.pack_call((i,), {}), last) for i in range(1, 6)]
    keys = forked.send(works, last)
    assert forked.reap() == -signal.SIGKILL
    assert forked.page.running == keys[2]
    kept = [msgspec.msgpack.decode(record, type=Outcome) for record in forked.page.committed()]
    values = {outcome.key: serialize.loads(outcome.data) for outcome in kept}
    assert values == {keys[0]: 1, keys[1]: 2}
    assert keys[2] not in forked.outcomes


def test_the_zygote_goes_on_after_an_engines_death(make: Make, zygote: Zygote) -> None:
    first = make()
    os.kill(first.pid, signal.SIGKILL)
    assert first.reap() == -signal.SIGKILL
    assert make().apply(os.getpid) != 0


def test_a_crash_in_c_leaves_its_traceback(forked: TestEngine) -> None:
    forked.start(run("import ctypes\ndef f(): ctypes.string_at(0)"))
    assert forked.reap() == -signal.SIGSEGV
    words = os.read(forked.pipes[1], 1 << 16).decode("utf-8", "replace")
    assert "Fatal Python error: Segmentation fault" in words


def test_exit_codes_of_user_code_are_seen(forked: TestEngine) -> None:
    with pytest.raises(Failed, match="SystemExit: 3"):
        forked.apply(run("import sys\ndef f(): sys.exit(3)"))
    forked.start(run("import os\ndef f(): os._exit(7)"))
    assert forked.reap() == 7


# -- output --------------------------------------------------------------------------------


def test_output_of_python_c_and_children_is_the_tasks(engine: TestEngine) -> None:
    say = run(
        "import os, subprocess, sys\n"
        "def f(name):\n"
        "    print('python', name)\n"
        "    os.write(1, f'raw {name}\\n'.encode())\n"
        "    subprocess.run(['echo', 'child', name], check=True)\n"
        "    print('error', name, file=sys.stderr)\n"
    )
    works = [engine.work(Op.APPLY, serialize.pack_call((n,), {}), say) for n in "abc"]
    keys = engine.send(works, say)
    for key in keys:
        engine.outcome(key)
    for key, name in zip(keys, "abc", strict=True):
        assert engine.text(key) == f"python {name}\nraw {name}\nchild {name}\n"
        assert engine.text(key, 2) == f"error {name}\n"


def test_output_is_there_before_the_task_ends(forked: TestEngine) -> None:
    key = forked.start(run("import time\ndef f():\n    print('now')\n    time.sleep(60)"))

    def seen() -> bool:
        forked.drain()
        return (1, key, "now\n") in forked.texts

    until(seen, "the line")
    assert key not in forked.outcomes
    forked.interrupt(key)


def test_execute_returns_its_value(forked: TestEngine) -> None:
    assert forked.execute("1 + 1")["data"] == {"text/plain": "2"}
    assert forked.text(forked.key) == ""


def test_a_lot_of_output(forked: TestEngine) -> None:
    key = forked.start(run("def f():\n    for i in range(20_000): print('line', i)"))

    def done() -> bool:
        forked.drain()
        return "line 19999\n" in (forked.texts[-1][2] if forked.texts else "")

    until(done, "the last line")
    assert forked.text(key) == "".join(f"line {i}\n" for i in range(20_000))


# -- user code that forks ------------------------------------------------------------------


def test_a_child_that_returns_from_the_task_does_not_speak_for_the_engine(
    forked: TestEngine,
) -> None:
    key = forked.start(
        run(
            "import os\n"
            "def f():\n"
            "    print('before')\n"
            "    child = os.fork()\n"
            "    if child == 0:\n"
            "        print('in the child')\n"
            "        return 'child'\n"
            "    os.waitpid(child, 0)\n"
            "    return 'parent'\n"
        )
    )
    assert forked.value(key) == "parent"
    assert forked.text(key) == "before\nin the child\n"
    assert forked.apply(os.getpid) == forked.pid


def test_multiprocessing_works_inside(forked: TestEngine) -> None:
    assert forked.apply(
        run(
            "def f():\n"
            "    import multiprocessing\n"
            "    with multiprocessing.get_context('fork').Pool(2) as pool:\n"
            "        return pool.map(abs, [-1, -2])\n"
        )
    ) == [1, 2]


# -- figures -------------------------------------------------------------------------------


def test_a_no_op_costs_little(forked: TestEngine) -> None:
    """Processor time of the engine per task; an alarm for mistakes, not a benchmark."""
    nothing = run("def f(): return None")
    clock = run("import time\ndef f(): return time.process_time()")
    forked.apply(nothing)
    works = [forked.work(Op.APPLY, [serialize.NO_ARGS], nothing) for _ in range(200)]
    before = forked.apply(clock)
    for _ in range(20):
        forked.outcomes.clear()
        forked.socket.send(encode(Batch([], works)))
        while len(forked.outcomes) < len(works):
            forked.hear()
    spent = (forked.apply(clock) - before) / (20 * len(works))
    assert spent < 100e-6
