"""What tasks print, display and publish, and how it is shown, by value."""

from __future__ import annotations

import base64
import json
import pickle
import re
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

import ipclusterz as ipp
from ipclusterz import error
from ipclusterz.client import display, output
from ipclusterz.client.client import Client
from ipclusterz.client.output import Outputs, Texts
from ipclusterz.core.message import BEGIN, DISPLAY, END
from tests.client.fake import FakeConnection
from tests.running import eventually

WHOLE = DISPLAY | BEGIN | END


def record(**parts: Any) -> str:
    """A record as engines write them."""
    return json.dumps(parts)


def html(text: str, **more: Any) -> str:
    return record(data={"text/html": text, "text/plain": f"<{text}>"}, metadata={}, **more)


def shown(text: str) -> dict[str, Any]:
    return {"data": {"text/html": text, "text/plain": f"<{text}>"}, "metadata": {}}


# -- records -------------------------------------------------------------------------------


def test_displays_come_in_pieces() -> None:
    texts = Texts()
    one = html("a long one")
    texts.add(1, "before")
    texts.add(DISPLAY | BEGIN, one[:5])
    texts.add(DISPLAY, one[5:9])
    assert texts.displays() == []
    texts.add(DISPLAY | END, one[9:])
    texts.add(1, " after")
    assert texts.displays() == [shown("a long one")]
    assert texts.read(1) == "before after" and texts.read(2) == ""
    assert texts.received == len("before after" + one)


def test_a_display_without_end_is_dropped() -> None:
    texts = Texts()
    texts.add(DISPLAY | BEGIN, '{"data": {"text/pl')
    texts.add(WHOLE, html("whole"))
    texts.add(WHOLE, "{not json")
    assert texts.displays() == [shown("whole")]


def test_updates_take_the_place_of_what_they_update() -> None:
    texts = Texts()
    for text in (
        html("a"),
        html("b", id="x"),
        html("c"),
        html("B", id="x", update=True),
        html("no such", id="y", update=True),
    ):
        texts.add(WHOLE, text)
    assert texts.displays() == [
        shown("a"),
        {**shown("B"), "transient": {"display_id": "x"}},
        shown("c"),
    ]


def test_clearing_takes_back_what_was_displayed() -> None:
    texts = Texts()
    texts.add(WHOLE, html("a"))
    texts.add(WHOLE, record(clear=True))
    assert texts.displays() == [shown("a")]  # until something else comes
    texts.add(WHOLE, html("b"))
    assert texts.displays() == [shown("b")]
    texts.add(WHOLE, record(clear=False))
    assert texts.displays() == []


def published(**values: Any) -> str:
    data = base64.b64encode(pickle.dumps(values)).decode()
    return json.dumps({"values": data, "names": list(values)}, separators=(",", ":"))


def test_published_values_are_added_up() -> None:
    texts = Texts()
    texts.add(WHOLE, published(a=1, b=[2]))
    texts.add(WHOLE, published(a=numpy.arange(3)))
    made = texts.values()
    assert list(made) == ["a", "b"] and made["b"] == [2]
    assert (made["a"] == numpy.arange(3)).all()
    assert texts.displays() == []


def test_published_values_that_were_replaced_are_not_kept() -> None:
    texts = Texts()
    tracemalloc.start()
    try:
        for step in range(100):
            texts.add(WHOLE, published(step=step, data=bytes(100_000)))
        texts.add(WHOLE, published(other=1))
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
    assert texts.values() == {"step": 99, "data": bytes(100_000), "other": 1}


def test_values_that_need_what_is_not_here_are_a_typed_error() -> None:
    data = base64.b64encode(b"cno_such_module\nThing\n.").decode()
    with pytest.raises(error.SerializationError, match="no_such_module"):
        output.published([{"values": data}])


def test_displays_count_as_output_that_is_awaited() -> None:
    outputs = Outputs(list)
    one = html("late")
    texts = outputs.claim(5, len(one))
    assert texts is not None and texts.received == 0
    outputs.add(5, 0, WHOLE, one)
    assert texts.displays() == [shown("late")] and texts.received == len(one)


# -- layout --------------------------------------------------------------------------------


class Told(FakeConnection):
    """Engines that also put out what ``told`` has for them."""

    def __init__(self, n: int = 3) -> None:
        super().__init__(n)
        self.told: dict[int, list[tuple[int, str]]] = {}

    def _deliver(self, sink: Any, key: int, engine: int, *rest: Any) -> None:
        pieces = self.told.get(engine, [])
        for stream, text in pieces:
            self.output(key, engine, stream, text)
        super()._deliver(sink, key, engine, *rest)


@pytest.fixture
def link() -> Told:
    return Told(4)


def finished(rc: Client, code: str = "", silent: bool = True, targets: Any = None) -> Any:
    return rc[:].execute(code, silent=silent, targets=targets, block=True)


def test_equal_output_is_shown_once(
    rc: Client, link: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    link.told = {0: [(1, "same\n")], 1: [(1, "same\n")], 2: [(1, "two\nlines\n")]}
    link.told[3] = [(1, "same\n"), (2, "wrong\n"), (WHOLE, html("x"))]
    finished(rc).display_outputs()
    out, err = capsys.readouterr()
    assert out == "[stdout:0-1,3] same\n[stdout:2]\ntwo\nlines\n[output:3]\n<x>\n"
    assert err == "[stderr:3] wrong\n"


def test_output_by_engine(rc: Client, link: Told, capsys: pytest.CaptureFixture[str]) -> None:
    link.told = {n: [(1, f"a{n % 2}"), (WHOLE, html(f"x{n % 2}"))] for n in range(4)}
    finished(rc, "6 * 7", silent=False).display_outputs(groupby="engine")
    assert capsys.readouterr().out == (
        "[stdout:0,2] a0\n[output:0,2]\n<x0>\nOut[0,2:7]: 42\n"
        "[stdout:1,3] a1\n[output:1,3]\n<x1>\nOut[1,3:7]: 42\n"
    )


def test_displays_in_order(rc: Client, link: Told, capsys: pytest.CaptureFixture[str]) -> None:
    link.told = {0: [(WHOLE, html("a")), (WHOLE, html("b"))], 1: [(WHOLE, html("a"))]}
    result = finished(rc)
    result.display_outputs(groupby="order")
    assert capsys.readouterr().out == "[output:0-1]\n<a>\n[output:0]\n<b>\n"
    result.display_outputs()
    assert capsys.readouterr().out == "[output:0]\n<a>\n<b>\n[output:1]\n<a>\n"
    result.display_outputs(result_only=True)
    assert capsys.readouterr().out == ""


def test_one_engines_output_has_no_name(
    rc: Client, link: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    link.told = {2: [(1, "hello\n"), (WHOLE, html("x"))]}
    finished(rc, "[1, 2]", silent=False, targets=2).display_outputs()
    assert capsys.readouterr().out == "hello\n<x>\nOut[2:7]: [1, 2]\n"


def test_outputs_of_what_is_not_finished_or_not_a_grouping(rc: Client) -> None:
    result = rc[:].execute("1")
    with pytest.raises(error.TimeoutError):
        result.display_outputs()
    result.get()
    with pytest.raises(ValueError, match="'kind' must be one of type, engine, order"):
        result.display_outputs(groupby="kind")


def test_maps_and_calls_have_outputs_too(
    rc: Client, link: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    link.told = {n: [(1, "same\n")] for n in range(4)}
    result = rc[:].map_async(lambda x: x, range(8))
    assert result.get() == list(range(8))
    result.display_outputs()
    assert capsys.readouterr().out == "[stdout:0-3] same\n"
    assert rc[:].apply_sync(len, "abc") == [3, 3, 3, 3]


def test_streaming_of_what_is_there_already(
    rc: Client, link: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces = [(1, "a\n"), (1, "b\n"), (WHOLE, html("x")), (2, "wrong"), (1, "c")]
    named = [(WHOLE, html("y", id="1")), (WHOLE, html("Y", id="1", update=True))]
    link.told = {0: pieces, 1: pieces, 2: named}
    result = finished(rc)
    with result.stream_output():
        pass
    out, err = capsys.readouterr()
    assert out == (
        "[stdout:0-1]\na\nb\n[output:0-1]\n<x>\n\n[stdout:0-1] c\n[output:2]\n<y>\n<Y>\n"
    )
    assert err == "[stderr:0-1] wrong"


def test_what_alike_means() -> None:
    assert display.alike([(3, "b"), (1, "a"), (2, "b")]) == [([3, 2], "b"), ([1], "a")]
    one, two = {"data": {"a": 1}}, {"data": {"a": 2}}
    assert display.alike([(0, one), (1, two), (2, {"data": {"a": 1}})]) == [
        ([0, 2], one),
        ([1], two),
    ]


def test_errors_that_are_alike_are_shown_once(rc: Client) -> None:
    rc[:].push({"x": 0}, block=True)
    rc[2].push({"x": "a"}, block=True)
    with pytest.raises(error.CompositeError) as caught:
        rc[:].execute("1 / x", block=True)
    lines = str(caught.value).splitlines()
    assert lines[1:] == [
        "[engines 0-1,3] ZeroDivisionError: division by zero",
        "[engine 2] TypeError: unsupported operand type(s) for /: 'int' and 'str'",
    ]
    assert len(caught.value.elist) == 4
    shown = caught.value._render_traceback_()
    assert shown[1] == lines[1] and shown.count(lines[1]) == 1
    cells = [("E", "bad", f'Cell In[{n}], line 1\nFile "<execute {n}>"', n) for n in range(3)]
    shown = error.CompositeError("cells", cells).render_traceback()
    assert shown == ["[engines 0-2] E: bad", "  Cell In[0], line 1", '  File "<execute 0>"']
    names = [f"invalid syntax (<ipython-input-{n}-7a0{n}>, line 1)" for n in range(2)]
    syntax = error.CompositeError("x", [("SyntaxError", name, "", 4) for name in names])
    assert str(syntax).splitlines()[1:] == [f"[engine 4] SyntaxError: {names[0]}"]
    nowhere = error.CompositeError("x", [("ControllerLost", "it ended", "", -1)] * 2)
    assert str(nowhere) == "x\nControllerLost: it ended"
    many = error.CompositeError("many", [("E", str(n), "", n) for n in range(100)])
    assert str(many).splitlines()[-1] == "... and 92 more that differ"


# -- real engines --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(shared_ipython_dir: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=3) as client:
        yield client


def test_displays_and_values_arrive(real: ipp.Client) -> None:
    code = (
        "class Page:\n"
        "    def _repr_html_(self): return '<b>café</b>'\n"
        "    def __repr__(self): return 'Page()'\n"
        "print('first')\n"
        "display(Page())\n"
        "display(Page(), display_id='one')\n"
        "Page()"
    )
    result = real[:].execute(code, silent=False, block=True)
    data = {"text/plain": "Page()", "text/html": "<b>café</b>"}
    plain = {"data": data, "metadata": {}}
    named = {**plain, "transient": {"display_id": "one"}}
    assert result.outputs == [[plain, named]] * 3
    assert [made["data"] for made in result.execute_result] == [data] * 3
    assert [reply.data for reply in result.get()] == [data] * 3
    assert result.stdout == ["first\n"] * 3
    assert result.targets == real.ids == result.engine_id
    assert result.get()[1].outputs == [plain, named] and result.get()[1]["stdout"] == "first\n"
    bundle, _ = result.get()[2]._repr_mimebundle_()
    count = result.get()[2].execution_count
    assert bundle["text/html"] == "<b>café</b>"
    assert bundle["text/plain"] == f"Out[2:{count}]: Page()"


def test_figures_are_pictures(real: ipp.Client) -> None:
    pytest.importorskip("matplotlib")
    code = (
        "%matplotlib inline\n"
        "import matplotlib.pyplot as plt\n"
        "plt.figure(figsize=(2, 1), dpi=50)\n"
        "_ = plt.plot([1, 2])"
    )
    result = real[0].execute(code, block=True)
    [figure] = result.outputs
    picture = base64.b64decode(figure["data"]["image/png"])
    assert picture.startswith(b"\x89PNG\r\n\x1a\n") and picture.endswith(b"IEND\xaeB`\x82")


def test_large_displays_arrive_whole_and_too_large_ones_are_told_of(real: ipp.Client) -> None:
    result = real[:].execute(
        "from IPython.display import HTML\n"
        "display(HTML('ä' * 5_000_000))\n"
        "display({'text/plain': 'the text', 'text/html': 'b' * 40_000_000}, raw=True)\n"
        "display(HTML('small'))",
        block=True,
    )
    for large, huge, small in result.outputs:
        assert large["data"]["text/html"] == "ä" * 5_000_000
        assert list(huge["data"]) == ["text/plain"]
        assert huge["data"]["text/plain"].startswith("the text\n[left out: text/html of 40")
        assert small["data"]["text/html"] == "small"


def test_functions_display_too(real: ipp.Client) -> None:
    def page(number: int) -> int:
        from IPython.display import HTML, display

        display(HTML(f"page {number}"))
        return number

    result = real.load_balanced_view().map_async(page, range(6))
    assert result.get() == list(range(6))
    pages = [[one["data"]["text/html"] for one in displays] for displays in result.outputs]
    assert pages == [[f"page {number}"] for number in range(6)]


def test_values_are_published_while_a_task_runs(real: ipp.Client, tmp_path: Path) -> None:
    go = tmp_path / "go"

    def work(path: str) -> str:
        import os
        import time

        from ipclusterz.datapub import publish_data

        publish_data({"step": 1, "array": numpy.arange(4)})
        until = time.monotonic() + 30
        while not os.path.exists(path) and time.monotonic() < until:
            time.sleep(0.01)
        publish_data({"step": 2})
        return "done"

    result = real[1].apply_async(work, str(go))
    eventually(lambda: result.data.get("step") == 1)
    assert not result.done() and (result.data["array"] == numpy.arange(4)).all()
    go.touch()
    assert result.get(30) == "done"
    assert result.data["step"] == 2 and list(result.metadata.data) == ["step", "array"]
    with pytest.raises(RuntimeError, match="on engines"):
        from ipclusterz.datapub import publish_data

        publish_data({"x": 1})


def test_output_is_shown_while_tasks_run(
    real: ipp.Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    go = tmp_path / "go"
    code = (
        "import os, time\n"
        "print('begun')\n"
        f"until = time.monotonic() + 30\n"
        f"while not os.path.exists({str(go)!r}) and time.monotonic() < until:\n"
        "    time.sleep(0.01)\n"
        "print('ended')"
    )
    result = real[:].execute(code)
    seen = ""
    with result.stream_output():

        def begun() -> bool:
            nonlocal seen
            seen += capsys.readouterr().out
            return seen.count("begun") > 0 and all(out == "begun\n" for out in result.stdout)

        eventually(begun)
        assert not result.done() and "ended" not in seen
        go.touch()
        result.get(30)
    seen += capsys.readouterr().out
    assert seen.startswith("[stdout:") and seen.rstrip().endswith("ended")
    names = {line.partition("]")[0] for line in seen.splitlines() if line.startswith("[")}
    assert names <= {f"[stdout:{one}" for one in ("0", "1", "2", "0-1", "1-2", "0,2", "0-2")}
    assert not [one for one in threading.enumerate() if one.name == "ipclusterz-output"]


def test_streaming_shows_what_came_before_and_nothing_twice(
    real: ipp.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    result = real[0].execute("print('once')\ndisplay('shown')\n7", silent=False, block=True)
    with result.stream_output():
        result.wait()
    assert capsys.readouterr().out == "once\n'shown'\n"
    result.display_outputs(result_only=True)
    assert capsys.readouterr().out == f"Out[0:{result.get().execution_count}]: 7\n"


def test_an_engine_that_dies_while_output_streams(
    real: ipp.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    with ipp.Cluster(n=1) as rc:
        result = rc[0].execute("import os\nprint('last words', flush=True)\nos._exit(3)")
        with result.stream_output():
            result.wait(30)
        assert capsys.readouterr().out == "last words\n"
        with pytest.raises(error.EngineError):
            result.get()
        result.display_outputs()
        assert capsys.readouterr().out == "last words\n"


@pytest.mark.parametrize("magic", ["", "%pwd\n"])
def test_tracebacks_have_colours_where_they_are_wanted(real: ipp.Client, magic: str) -> None:
    assert real.colors is None
    for colors in (None, "nocolor", ""):
        real.colors = colors
        with pytest.raises(ZeroDivisionError) as plain:
            real[0].execute(f"{magic}1/0", block=True)
        assert "\x1b[" not in str(plain.value) and "1/0" in plain.value.traceback
    try:
        real.colors = "linux"
        with pytest.raises(ZeroDivisionError) as coloured:
            real[0].execute(f"{magic}1/0", block=True)
        assert "\x1b[" in coloured.value.traceback
    finally:
        real.colors = None


def test_the_examples_of_the_page_run(
    real: ipp.Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).parents[2] / "docs" / "magics.md"
    examples = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(examples) == 3
    monkeypatch.setattr(ipp, "Client", lambda: real)
    names: dict[str, Any] = {"__name__": "__main__"}
    for example in examples:
        exec(compile(example, str(page), "exec"), names)
    out = capsys.readouterr().out
    assert out.startswith("[stdout:0-2] hello\nOut[0-2") and out.endswith("2\n")
