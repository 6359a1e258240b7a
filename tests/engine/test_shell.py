"""IPython's shell on real engines: what it does, what it leaves undone, and life without it."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipclusterz.core.message import BEGIN, DISPLAY, END, Op
from ipclusterz.engine import bodies, display, serialize
from tests.engine.testagent import Failed, TestEngine, Zygote, be_subreaper, until, user

IPython = pytest.importorskip("IPython")


class Shelled:
    """An engine, and what one task of it showed."""

    def __init__(self, engine: TestEngine) -> None:
        self.engine = engine

    def run(self, code: str, silent: bool = False, colors: str = "") -> Any:
        """Execute; return the value's text (None: there is none)."""
        return self.reply(code, silent, colors).get("data", {}).get("text/plain")

    def reply(self, code: str, silent: bool = False, colors: str = "") -> dict[str, Any]:
        made = self.engine.do(Op.EXECUTE, (code, silent, colors))
        assert isinstance(made, dict)
        return made

    def fail(self, code: str, silent: bool = False, colors: str = "") -> Any:
        with pytest.raises(Failed) as caught:
            self.engine.do(Op.EXECUTE, (code, silent, colors))
        return caught.value.failure

    def text(self, stream: int = 1) -> str:
        return self.engine.text(self.engine.key, stream)

    def records(self) -> list[dict[str, Any]]:
        """What the last task displayed."""
        key = self.engine.key
        self.engine.outcome(key)
        self.engine.drain()
        made: list[str] = []
        for kind, owner, text in self.engine.texts:
            if owner == key and kind >= DISPLAY:
                if kind & BEGIN:
                    made.append("")
                made[-1] += text
                assert kind & END or len(text) > 1000
        return [json.loads(text) for text in made]

    def modules(self) -> set[str]:
        found = self.engine.apply(
            user(eval("lambda: __import__('sys').modules.keys() | set()"))
        )
        assert isinstance(found, set)
        return found


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


def started(zygote: Zygote, folder: tuple[str, bytes], **more: Any) -> Iterator[Shelled]:
    engine = TestEngine(zygote, folder, **more).started()
    yield Shelled(engine)
    engine.close()


@pytest.fixture(scope="module")
def shared(
    zygote: Zygote, folder: tuple[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shelled]:
    """An engine for tests that leave it as they found it; with a home that does not exist."""
    home = tmp_path_factory.mktemp("home") / "none"
    env = {"HOME": str(home), "IPYTHONDIR": str(home / "ipython"), "MPLCONFIGDIR": ""}
    for made in started(zygote, folder, env=env):
        yield made
        assert not home.exists(), "the shell has written to the user's home"


@pytest.fixture
def one(zygote: Zygote, folder: tuple[str, bytes]) -> Iterator[Shelled]:
    """An engine of one's own."""
    yield from started(zygote, folder)


@pytest.fixture
def without(zygote: Zygote, folder: tuple[str, bytes]) -> Iterator[Shelled]:
    """An engine without IPython."""
    for made in started(zygote, folder):
        made.engine.do(Op.EXECUTE, ("import sys; sys.modules['IPython'] = None; del sys", True))
        yield made


# -- when there is a shell -----------------------------------------------------------------


def test_there_is_none_before_it_is_needed(one: Shelled) -> None:
    assert one.engine.apply(abs, -1) == 1
    assert one.reply("x = 1\nfor i in range(3): x += i", silent=True) == {}
    assert one.fail("1/0", silent=True).traceback.startswith("Traceback (most recent")
    assert one.fail("1/0", silent=True, colors="linux").traceback.count("\x1b[31m") == 1
    assert not {name for name in one.modules() if name.split(".")[0] in ("IPython", "asyncio")}
    assert one.run("x") == "4"
    assert "IPython" in one.modules()


@pytest.mark.parametrize(
    "code", ["%pwd", "get_ipython().user_ns", "def f():\n    display(1)", "!true", "x = %pwd"]
)
def test_silent_code_that_needs_it_gets_it(one: Shelled, code: str) -> None:
    assert one.reply(code, silent=True) == {}
    assert "IPython" in one.modules()


def test_functions_find_it_when_they_import_ipython(one: Shelled) -> None:
    kind = "lambda: type(__import__('IPython').get_ipython()).__module__"
    assert one.engine.apply(user(eval(kind))) == "ipclusterz.engine.shell"
    assert one.run("get_ipython() is __import__('IPython').get_ipython()") == "True"


def test_functions_can_display(one: Shelled) -> None:
    show = "lambda: __import__('IPython.display').display.display({'text/html': 'é'}, raw=True)"
    assert one.engine.apply(user(eval(show))) is None
    assert one.records() == [{"data": {"text/html": "é"}, "metadata": {}}]


def test_importing_ipython_alone_makes_none(one: Shelled) -> None:
    one.engine.apply(user(eval("lambda: __import__('IPython')")) and user(eval(IMPORT)))
    assert "ipclusterz.engine.shell" not in one.modules()
    one.engine.apply(user(eval("lambda: __import__('IPython').get_ipython() and None")))
    assert "ipclusterz.engine.shell" in one.modules()


IMPORT = "lambda: __import__('IPython') and None"


def test_a_preloaded_ipython_serves_as_well(folder: tuple[str, bytes]) -> None:
    zygote = Zygote("--preload", "IPython")
    try:
        assert zygote.said.threads == 1
        for made in started(zygote, folder):
            assert "ipclusterz.engine.shell" not in made.modules()
            kind = "lambda: type(__import__('IPython').get_ipython()).__name__"
            assert made.engine.apply(user(eval(kind))) == "Shell"
            assert made.run("%pwd") is not None
    finally:
        assert zygote.close() == 0


def test_it_starts_no_thread_and_keeps_no_database(one: Shelled) -> None:
    assert one.run("import threading; threading.active_count()") == "1"
    assert one.run("'sqlite3' in __import__('sys').modules and 'lazy'") in ("False", "'lazy'")
    assert one.run("get_ipython().history_manager.enabled") == "False"
    assert len(os.listdir(f"/proc/{one.engine.pid}/task")) == 1


def test_its_end_is_quiet_and_variables_outlive_it(
    zygote: Zygote, folder: tuple[str, bytes], tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    engine = TestEngine(zygote, folder).started()
    made = Shelled(engine)
    code = f"open({str(marker)!r}, 'w').write(str(x))"
    made.run(f"import atexit\nx = 5\natexit.register(lambda: {code});")
    engine.socket.close()
    if engine.theirs is not None:
        engine.theirs.close()
    assert engine.reap() == 0
    engine.drain()
    assert marker.read_text() == "5"
    assert not [text for stream, _, text in engine.texts if stream == 2]
    engine.close()


# -- values --------------------------------------------------------------------------------


def test_last_expressions(shared: Shelled) -> None:
    count = shared.reply("a = 20")["count"]
    assert shared.reply("a + 1\na + 22") == {
        "data": {"text/plain": "42"},
        "metadata": {},
        "count": count + 1,
    }
    assert shared.run("_ * 2") == "84"
    assert shared.run("a;") is None
    assert shared.run("None") is None
    assert shared.reply("a", silent=True) == {}
    assert shared.run(f"Out[{count + 1}]") == "42"
    assert shared.text() == ""


def test_rich_values(shared: Shelled) -> None:
    code = """
    class Rich:
        def __repr__(self): return 'rich'
        def _repr_html_(self): return '<b>é</b>'
        def _repr_png_(self): return b'\\x89PNG', {'width': 3}
        def _repr_json_(self): return {'a': [1, None]}
    Rich()
    """
    reply = shared.reply(code)
    assert reply["data"] == {
        "text/plain": "rich",
        "text/html": "<b>é</b>",
        "image/png": base64.b64encode(b"\x89PNG").decode(),
        "application/json": {"a": [1, None]},
    }
    assert reply["metadata"] == {"image/png": {"width": 3}}


def test_values_are_the_same_variables_as_those_of_functions(shared: Shelled) -> None:
    engine = shared.engine
    shared.run("shared_x = 1\ndef double(x): return 2 * x")
    assert engine.do(Op.PULL, "shared_x") == 1
    engine.do(Op.PUSH, {"pushed": [3]})
    assert shared.run("pushed") == "[3]"
    assert engine.apply(user(eval("lambda: double(shared_x)"))) == 2
    assert shared.run("__name__, __import__('__main__').pushed") == "('__main__', [3])"


def test_what_cells_assign_is_the_users(one: Shelled) -> None:
    one.engine.apply(user(eval("lambda: (n, k)"), n=1, k=1))
    one.run("n = 1")
    one.run("%time k = 5")
    assert one.engine.apply(user(eval("lambda: (n, k)"), n=2, k=2)) == (1, 5)


def test_clearing_leaves_a_shell_that_works(one: Shelled) -> None:
    one.run("x = 1")
    one.engine.do(Op.CLEAR)
    with pytest.raises(Failed, match="NameError"):
        one.engine.do(Op.PULL, "x")
    assert one.run("6 * 7") == "42" and one.run("_") == "42"
    assert one.run("get_ipython().user_ns is globals()") == "True"


def test_inputs_and_outputs_are_not_kept_for_ever(one: Shelled) -> None:
    for _ in range(3):
        one.run(f"x = {'1' * 2000}")
    code = (
        "import ipclusterz.engine.shell as s\ns._INPUTS = 5\nh = get_ipython().history_manager"
    )
    one.run(code)
    for number in range(20):
        one.run(f"{number}")
    assert one.run("sum(map(bool, h.input_hist_parsed)) < 12, len(h.db_input_cache)") == (
        "(True, 1)"
    )


# -- what cells can do ---------------------------------------------------------------------


def test_magics(shared: Shelled) -> None:
    assert shared.run("%pwd") == repr(os.getcwd())
    shared.run("%timeit -n1 -r1 pass")
    assert re.search(r"per loop \(mean", shared.text())
    assert shared.run("%%time\n6 * 7") == "42"
    assert "Wall time" in shared.text()
    assert shared.fail("%nosuch").text == "Line magic function `%nosuch` not found."
    assert shared.run("%env SHELL_TEST=1") is None
    assert shared.run("import os; os.environ.pop('SHELL_TEST')") == "'1'"


def test_run_runs_a_file(shared: Shelled, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from_script = __name__\nprint('ran')\n")
    shared.run(f"%run {script}")
    assert shared.text() == "ran\n"
    assert shared.engine.do(Op.PULL, "from_script") == "__main__"
    assert "not found" in shared.fail(f"%run {tmp_path}/none.py").text
    script.write_text("print('so far')\n1 / 0\n")
    told = shared.fail(f"%run {script}")
    assert told.name == "ZeroDivisionError" and "script.py" in told.traceback
    assert (shared.text(), shared.text(2)) == ("so far\n", "")
    script.write_text("import sys; sys.exit(0)")
    assert shared.run(f"%run {script}") is None
    script.write_text("import sys; sys.exit(3)")
    assert shared.fail(f"%run {script}").name == "SystemExit"


def test_commands(shared: Shelled) -> None:
    shared.run("word = 'hello'\n!echo {word} $word; echo problem >&2; exit 3")
    assert shared.text() == "hello hello\n"
    assert shared.text(2) == "problem\n"
    assert shared.run("_exit_code") == "3"
    assert shared.run("lines = !echo a; echo b\nlines") == "['a', 'b']"
    shared.run("%%sh\necho from a script")
    assert shared.text() == "from a script\n"


def test_an_interrupted_command_is_ended(one: Shelled) -> None:
    key = one.engine.send(
        [one.engine.work(Op.EXECUTE, serialize.pack(("!echo $$; sleep 1000 & wait", False)))]
    )[0]

    def told() -> str:
        one.engine.drain()
        return "".join(text for _, owner, text in one.engine.texts if owner == key)

    leader = int(until(told, "the command's first line"))
    one.engine.interrupt(key)
    with pytest.raises(Failed, match="KeyboardInterrupt"):
        one.engine.value(key)
    until(lambda: not _members(leader), "the end of the command")


def test_a_command_that_is_interrupted_while_it_is_started_is_ended(one: Shelled) -> None:
    one.engine.execute(
        "import subprocess, time\n"
        "usual = subprocess.Popen\n"
        "class Slow(usual):\n"
        "    def __init__(self, *args, **settings):\n"
        "        super().__init__(*args, **settings)\n"
        "        print(self.pid, flush=True)\n"
        "        time.sleep(1)\n"
        "subprocess.Popen = Slow"
    )
    work = one.engine.work(Op.EXECUTE, serialize.pack(("!sleep 1000", False)))
    key = one.engine.send([work])[0]

    def told() -> str:
        one.engine.drain()
        return "".join(text for _, owner, text in one.engine.texts if owner == key)

    leader = int(until(told, "the command's process"))
    one.engine.interrupt(key)
    with pytest.raises(Failed, match="KeyboardInterrupt"):
        one.engine.value(key)
    one.engine.execute("subprocess.Popen = usual")
    until(lambda: not _members(leader), "the end of the command")


def _members(group: int) -> list[str]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(name)
    return found


def test_top_level_await(shared: Shelled) -> None:
    shared.run("import asyncio\nasync def later(x):\n    await asyncio.sleep(0)\n    return x")
    assert shared.run("await later(5)") == "5"
    assert shared.run("task = asyncio.ensure_future(later(6))") is None
    assert shared.run("await task") == "6"
    assert shared.fail("await later(1 / 0)").name == "ZeroDivisionError"
    assert shared.reply("here = await later(7)", silent=True) == {}
    assert shared.engine.do(Op.PULL, "here") == 7


def test_interrupting_what_is_awaited(one: Shelled) -> None:
    one.run("import asyncio")
    code = "print('go')\nawait asyncio.sleep(1000)"
    work = one.engine.work(Op.EXECUTE, serialize.pack((code, False)))
    key = one.engine.send([work])[0]

    def begun() -> bool:
        one.engine.drain()
        return any(owner == key for _, owner, _ in one.engine.texts)

    until(begun, "the first line")
    one.engine.interrupt(key)
    with pytest.raises(Failed, match="KeyboardInterrupt"):
        one.engine.value(key)
    assert one.run("await asyncio.sleep(0, 'alive')") == "'alive'"
    assert one.engine.text(key, 2) == ""


@pytest.mark.skipif(IPython.version_info[0] < 9, reason="IPython 8 takes it for a good end")
def test_interrupting_a_script(one: Shelled) -> None:
    work = one.engine.work(
        Op.EXECUTE, serialize.pack(("%%sh\necho go\nexec sleep 1000", False))
    )
    key = one.engine.send([work])[0]

    def begun() -> bool:
        one.engine.drain()
        return any(owner == key for _, owner, _ in one.engine.texts)

    until(begun, "the first line")
    one.engine.interrupt(key)
    with pytest.raises(Failed, match="KeyboardInterrupt"):
        one.engine.value(key)
    assert one.engine.text(key, 2) == ""


def test_input_says_that_nobody_answers(shared: Shelled) -> None:
    told = shared.fail("name = input('your name? ')")
    assert told.name == "EOFError" and "your name?" in told.text and "push" in told.text
    with pytest.raises(Failed, match="EOFError: input"):
        shared.engine.apply(user(eval("lambda: input()")))


def test_guis_are_refused(shared: Shelled) -> None:
    assert "no screen" in shared.fail("get_ipython().enable_gui('qt')").text


@pytest.mark.parametrize("code", ["exit", "exit()", "quit()", "raise SystemExit(3)"])
def test_exit_is_an_error_and_not_the_end(shared: Shelled, code: str) -> None:
    assert shared.fail(code).name == "SystemExit"
    assert shared.run("1 + 1") == "2"
    assert shared.text(2) == ""


# -- errors --------------------------------------------------------------------------------


def test_tracebacks_plain_or_coloured(shared: Shelled) -> None:
    code = "def f():\n    return 1 / 0\nf()"
    plain = shared.fail(code)
    assert (plain.name, plain.text) == ("ZeroDivisionError", "division by zero")
    assert re.search(r"-+> 2\s+return 1 / 0", plain.traceback)
    assert plain.traceback.rstrip().endswith("ZeroDivisionError: division by zero")
    assert "\x1b[" not in plain.traceback and "shell.py" not in plain.traceback
    coloured = shared.fail(code, colors="linux").traceback
    assert "\x1b[" in coloured
    assert _bare(coloured).replace("In[", "").split()[-5:] == plain.traceback.split()[-5:]
    assert "\x1b[" not in shared.fail(code).traceback, "the next is plain again"
    assert "\x1b[" in shared.fail(code, colors="no such scheme").traceback
    assert shared.text() == shared.text(2) == ""


def _bare(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_the_original_type_comes_back(shared: Shelled) -> None:
    assert serialize.loads(shared.fail("{}['k']").pickled).args == ("k",)


def test_syntax_errors(shared: Shelled) -> None:
    told = shared.fail("x = 1\ny = = 2")
    assert told.name == "SyntaxError"
    assert "y = = 2" in told.traceback and "SyntaxError: invalid syntax" in told.traceback
    assert shared.fail("y = = 2", silent=True).name == "SyntaxError"
    assert shared.text() == shared.text(2) == ""


def test_groups_of_exceptions(shared: Shelled) -> None:
    told = shared.fail("raise ExceptionGroup('several', [ValueError(1), KeyError(2)])")
    assert told.name == "ExceptionGroup" and "ValueError: 1" in told.traceback
    assert "interactiveshell.py" not in told.traceback
    assert shared.text(2) == ""


def test_errors_of_callbacks_are_told(one: Shelled) -> None:
    one.run("def bad(): 1 / 0\nget_ipython().events.register('post_execute', bad)")
    assert one.run("1") == "1"
    assert "ZeroDivisionError" in one.text(2)


def test_an_error_leaves_the_outputs_before_it(shared: Shelled) -> None:
    shared.fail("print('before')\ndisplay('shown')\n1 / 0")
    assert shared.text() == "before\n"
    assert [record["data"] for record in shared.records()] == [{"text/plain": "'shown'"}]


# -- displays ------------------------------------------------------------------------------


def test_displays_keep_their_order(shared: Shelled) -> None:
    shared.run("print('a')\ndisplay(1)\nprint('b')\ndisplay(2, metadata={'k': 1})\nprint('c')")
    key = shared.engine.key
    shared.records()
    kinds = [
        text if kind == 1 else json.loads(text)["data"]["text/plain"]
        for kind, owner, text in shared.engine.texts
        if owner == key
    ]
    assert kinds == ["a\n", "1", "b\n", "2", "c\n"]
    assert shared.records()[1]["metadata"] == {"k": 1}


def test_displays_can_be_updated_and_cleared(shared: Shelled) -> None:
    shared.run("h = display('one', display_id='me')\nh.update('two')")
    assert [
        (record["data"]["text/plain"], record["id"], record.get("update", False))
        for record in shared.records()
    ] == [("'one'", "me", False), ("'two'", "me", True)]
    shared.run("from IPython.display import clear_output\nclear_output(wait=True)")
    assert shared.records() == [{"clear": True}]


def test_captured_displays_do_not_come(shared: Shelled) -> None:
    shared.run("%%capture got\nprint('x')\ndisplay('y')")
    assert shared.records() == [] and shared.text() == ""
    assert shared.run("got.stdout, len(got.outputs)") == r"('x\n', 1)"


def test_help_is_shown_and_not_paged(shared: Shelled) -> None:
    shared.run("len?")
    assert "Return the number of items" in shared.records()[0]["data"]["text/plain"]


def test_figures(one: Shelled) -> None:
    pytest.importorskip("matplotlib")
    code = "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 4, 9]);"
    assert one.run(code) is None
    assert one.run("for i in range(2):\n    plt.figure(); plt.plot([i])") is None
    records = one.records()
    assert len(records) == 2
    for record in records:
        png = base64.b64decode(record["data"]["image/png"])
        assert png.startswith(b"\x89PNG\r\n") and png.endswith(b"IEND\xaeB`\x82")
        assert record["data"]["text/plain"].startswith("<Figure size")
    assert one.run("plt.get_fignums()") == "[]"


def test_megabytes_arrive_and_more_is_marked(shared: Shelled) -> None:
    def show(size: int) -> str:
        return f"display({{'text/plain': 'dots', 'image/png': bytes({size})}}, raw=True)"

    # The pipes of these tests are read when the task has ended: it must fit.
    shared.run("limit = __import__('ipclusterz.engine.display').engine.display")
    shared.run("was, limit.LIMIT = limit.LIMIT, 50_000")
    shared.run("\n".join([show(30_000), show(30_000), "print('still here')", show(5)]))
    first, second, third = shared.records()
    assert base64.b64decode(first["data"]["image/png"]) == bytes(30_000)
    assert "left out: image/png of 0.0 MB" in second["data"]["text/plain"]
    assert second["data"]["text/plain"].startswith("dots\n")
    assert base64.b64decode(third["data"]["image/png"]) == bytes(5)
    assert shared.text() == "still here\n"
    shared.run(show(30_000))  # another task may show as much again
    assert base64.b64decode(shared.records()[0]["data"]["image/png"]) == bytes(30_000)
    shared.run("limit.MARKERS = 2\n" + "\n".join([show(60_000)] * 5))
    assert len(shared.records()) == 2
    shared.run("limit.LIMIT, limit.MARKERS = was, 100")


def test_odd_data_is_tamed(shared: Shelled) -> None:
    code = "display({'text/plain': '\\ud800', 'x/y': {1: object, (2,): [{3}]}}, raw=True)"
    shared.run(code)
    (record,) = shared.records()
    assert record["data"]["text/plain"] == "\\ud800"
    assert record["data"]["x/y"]["(2,)"] == ["{3}"]


def test_children_print_what_they_display(shared: Shelled) -> None:
    code = (
        "import os\nif (pid := os.fork()) == 0:\n    display('from a child')\n"
        "    import sys; sys.stdout.flush(); os._exit(0)\nos.waitpid(pid, 0);"
    )
    shared.run(code)
    assert shared.records() == [] and shared.text() == "'from a child'\n"


# -- published values ----------------------------------------------------------------------


def test_published_values(shared: Shelled) -> None:
    shared.run(
        "from ipclusterz.datapub import publish_data\n"
        "publish_data({'step': 1, 'f': lambda x: x + 1})"
    )
    (record,) = shared.records()
    values = serialize.loads(base64.b64decode(record["values"]))
    assert values["step"] == 1 and values["f"](1) == 2
    assert record["names"] == ["step", "f"]
    assert shared.fail("publish_data([1])").name == "TypeError"
    told = shared.fail(f"publish_data(dict(big=bytes({display.LIMIT})))")
    assert told.name == "ValueError" and "big" in told.text


def test_publishing_ends_when_it_is_far_too_much(shared: Shelled) -> None:
    shared.run("limit = __import__('ipclusterz.engine.display').engine.display")
    shared.run("was, limit.VALUES = limit.VALUES, 3000")
    shared.run(
        "for i in range(9): limit.publish_data({'i': i, 'data': bytes(700)})\ndisplay(1)"
    )
    shared.run("limit.VALUES = was")
    key = shared.engine.key - 1
    assert shared.engine.text(key, 2).count("publish_data: this task has published") == 1
    found = [
        text for kind, owner, text in shared.engine.texts if owner == key and kind >= DISPLAY
    ]
    assert ["values" in text for text in found] == [True, True, False]


# -- without IPython -----------------------------------------------------------------------


def test_plain_python_without_ipython(without: Shelled) -> None:
    assert without.reply("6 * 7") == {
        "data": {"text/plain": "42"},
        "metadata": {},
        "count": 1,
    }
    assert without.run("_ + 1") == "43"
    assert without.run("x = 1") is None
    assert without.engine.do(Op.PULL, "x") == 1
    assert without.text(2) == ""
    assert without.fail("%pwd").name == "SyntaxError"
    assert without.fail("get_ipython()").name == "NameError"
    assert without.run("import asyncio\nawait asyncio.sleep(0, 5)") == "5"
    told = without.fail("def f():\n    1 / 0\nf()", colors="linux").traceback
    assert _bare(told).startswith("Traceback (most recent call last)") and "\x1b[31m" in told
    assert "nobody can answer" in without.fail("input()").text
    without.engine.do(Op.CLEAR)
    assert without.run("7") == "7"


def test_an_ipython_that_does_not_work_is_told_of(one: Shelled, tmp_path: Path) -> None:
    broken = tmp_path / "IPython"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('broken on purpose')")
    one.run(f"import sys; sys.path.insert(0, {str(tmp_path)!r})", silent=True)
    assert one.run("1 + 1") == "2"
    assert "IPython does not work here (ImportError: broken on purpose)" in one.text(2)
    assert one.run("2 + 2") == "4" and one.text(2) == ""
