"""%px and its like, in an IPython of this process, against real engines."""

from __future__ import annotations

import atexit
import base64
import io
import os
import re
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ipclusterz as ipp
from tests.running import eventually

pytest.importorskip("IPython")

WAIT = (
    "import os, time\nfor _ in range(3000):\n    if os.path.exists({path!r}): break\n"
    "    time.sleep(0.01)\nelse: raise RuntimeError('nobody came')\n"
)


class Session:
    """An IPython, a client in it, and what cells show."""

    def __init__(self, shell: Any, rc: ipp.Client) -> None:
        self.shell = shell
        self.rc = rc
        self.out = self.err = ""
        shell.user_ns["rc"] = rc

    def run(
        self,
        cell: str,
        seen: Callable[[str], object] = lambda text: None,
        err: Callable[[str], object] = lambda text: None,
    ) -> Any:
        """Run a cell; return its value, or raise what it raised.

        ``seen`` and ``err`` get what is written to standard output and error, as it is.
        """
        told = Told(seen), Told(err)
        was = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = told
        try:
            result = self.shell.run_cell(cell, store_history=True)
        finally:
            sys.stdout, sys.stderr = was
        self.out, self.err = (one.getvalue() for one in told)
        error = result.error_before_exec or result.error_in_exec
        if error is not None:
            raise error
        return result.result

    def lines(self, cell: str) -> list[str]:
        self.run(cell)
        return self.out.splitlines()


class Told(io.StringIO):
    """Text that tells of itself while it is written."""

    def __init__(self, seen: Callable[[str], object]) -> None:
        super().__init__()
        self._seen = seen

    def write(self, text: str) -> int:
        self._seen(text)
        return super().write(text)


@pytest.fixture(scope="module")
def shell(shared_ipython_dir: Path) -> Iterator[Any]:
    from IPython.core.async_helpers import get_asyncio_loop
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    main = sys.modules["__main__"]
    prompts = [name for name in ("ps1", "ps2", "ps3") if not hasattr(sys, name)]
    made = InteractiveShell.instance(config=config, user_module=types.ModuleType("__main__"))
    sys.modules["__main__"] = main
    yield made
    made.atexit_operations()
    atexit.unregister(made.atexit_operations)
    InteractiveShell.clear_instance()
    get_asyncio_loop().close()
    for name in prompts:
        delattr(sys, name)


@pytest.fixture(scope="module")
def rc(shared_ipython_dir: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=3) as client:
        yield client


@pytest.fixture
def px(shell: Any, rc: ipp.Client) -> Iterator[Session]:
    """A session in which ``%px`` goes to all engines and waits.

    Live output is asked for where it is meant: what is put together then depends on chance.
    """
    before = set(shell.user_ns)
    rc.activate()
    session = Session(shell, rc)
    session.run("%pxconfig --no-stream")
    yield session
    for name in set(shell.user_ns) - before:
        del shell.user_ns[name]


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that engines wait for, in code that ends with ``WAIT``."""
    return tmp_path / "gate"


# -- %px -----------------------------------------------------------------------------------


def test_a_line_is_executed_everywhere(px: Session) -> None:
    assert px.run("%px a = 6") is None and px.out == ""
    assert px.rc[:]["a"] == [6, 6, 6]
    count = px.rc[0].execute("0", silent=False).get().execution_count
    assert len(set(px.rc[1:].execute("0", silent=False).get())) == 2
    assert px.lines("%px a * 7") == [f"Out[0-2:{count + 1}]: 42"]
    assert "a" not in px.shell.user_ns


def test_output_alike_is_shown_once(px: Session) -> None:
    assert px.lines("%px print('same')") == ["[stdout:0-2] same"]
    px.rc[1].push({"other": 1}, block=True)
    px.rc[:].execute("b = globals().get('other', 0)", block=True)
    px.run("%%px --no-stream\nprint(b)")
    assert px.out.splitlines() == ["[stdout:0,2] 0", "[stdout:1] 1"]
    px.run("%px print('a', 1); print('b')")
    assert px.out == "[stdout:0-2]\na 1\nb\n"


def test_magics_run_on_engines(px: Session) -> None:
    px.run("%px %pwd")
    assert repr(os.getcwd()) in px.out
    px.run("%%px\n%%sh\necho from sh")
    assert px.out == "[stdout:0-2] from sh\n"
    px.run("%px !echo word")
    assert px.out == "[stdout:0-2] word\n"


def test_variables_are_not_expanded_here(px: Session) -> None:
    px.run("here = 1")
    px.run("%px print('{here} $here')")
    assert px.out == "[stdout:0-2] {here} $here\n"


def test_errors_come_with_the_engines_they_came_from(px: Session) -> None:
    with pytest.raises(ipp.CompositeError) as caught:
        px.run("%px 1 / 0")
    assert isinstance(caught.value, ZeroDivisionError)
    assert [engine for *_, engine in caught.value.elist] == [0, 1, 2]
    assert "----> 1 1 / 0" in px.out and "magics.py" not in px.out
    with pytest.raises(NameError):
        px.run("%%px -t 0\nnosuch")


# -- the flags of %%px ---------------------------------------------------------------------


def test_targets(px: Session) -> None:
    for text, engines in {
        "all": [0, 1, 2],
        "1": [1],
        "[0,2]": [0, 2],
        "0,2": [0, 2],
        "::2": [0, 2],
        "1:": [1, 2],
        ":-1": [0, 1],
    }.items():
        px.rc[:].execute("hit = False", block=True)
        px.run(f"%%px --targets {text}\nhit = True")
        assert px.rc[:]["hit"] == [number in engines for number in range(3)], text
    assert px.shell.magics_manager.magics["line"]["px"].__self__.view.targets == "all"
    px.run("%%px -t 1\nprint('one')")
    assert px.out == "one\n"
    assert "UsageError" in usage(px, "%%px -t nonsense\n1")
    assert "unrecognized arguments: --bad" in usage(px, "%%px --bad\n1")
    with pytest.raises(IndexError, match="7"):
        px.run("%%px -t 7\n1")


def usage(px: Session, cell: str) -> str:
    from IPython.core.error import UsageError

    with pytest.raises(UsageError):
        px.run(cell)
    return px.err


def test_not_blocking(px: Session) -> None:
    result = px.run("%%px --noblock -o kept\nprint('later')\n5")
    assert isinstance(result, ipp.AsyncResult) and px.shell.user_ns["kept"] is result
    assert [reply.text for reply in result.get(20)] == ["5"] * 3
    assert px.lines("%pxresult")[0] == "[stdout:0-2] later"
    assert px.run("%%px -b --out again\n1") is None
    assert px.shell.user_ns["again"].done()
    assert px.run("%pxresult -o third") is None
    assert px.shell.user_ns["third"] is px.shell.user_ns["again"]
    assert px.run("%%px -a\n2").get(20)[0].text == "2"


def test_output_is_shown_while_code_runs(px: Session, gate: Path) -> None:
    def seen(text: str) -> None:
        if "ready" in text:
            gate.touch()

    px.run("%%px --stream\nprint('ready')\n" + WAIT.format(path=str(gate)) + "'done'", seen)
    assert px.out.startswith("[stdout:") and px.out.count("ready") in (1, 2, 3)
    assert px.out.rstrip().endswith("'done'")


def test_gathered_output_comes_at_the_end(px: Session, gate: Path) -> None:
    px.rc[0].execute("n = 0", block=True)
    code = "print('first')\ndisplay('shown')\nimport sys; print('problem', file=sys.stderr)\n7"
    px.run(f"%%px --no-stream\n{code}")
    lines = px.out.splitlines()
    assert lines[:3] == ["[stdout:0-2] first", "[output:0-2]", "'shown'"]
    assert re.fullmatch(r"Out\[0-2(:\d+)?\]: 7", lines[3]) and len(lines) == 4
    assert px.err == "[stderr:0-2] problem\n"


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--group-outputs type", "[0] a [1] a | 0 0b | 1 1b"),
        ("-e", "[0] a | 0 0b [1] a | 1 1b"),
        ("--group-outputs=engine", "[0] a | 0 0b [1] a | 1 1b"),
        ("-r", "[0] a [1] a | 0 | 1 | 0b | 1b"),
    ],
)
def test_grouping(px: Session, flag: str, expected: str) -> None:
    px.rc[:2].scatter("me", [0, 1], flatten=True, block=True)
    code = "print('a', me)\ndisplay(me)\ndisplay(f'{me}b')"
    px.run(f"%%px --no-stream {flag} -t 0,1\n{code}")
    found = px.out.replace("[stdout:0] a 0\n", "[0] a ").replace("[stdout:1] a 1\n", "[1] a ")
    found = re.sub(r"\[output:\d\]\n", "| ", found).replace("\n", " ").replace("'", "")
    assert " ".join(found.split()) == expected


def test_unknown_grouping(px: Session) -> None:
    assert "invalid choice" in usage(px, "%%px --group-outputs colour\n1")


def test_local_as_well(px: Session) -> None:
    px.run("%%px --local\nwhere = __import__('os').getpid()\nprint('ran')")
    assert px.shell.user_ns["where"] == os.getpid()
    pids = px.rc[:]["where"]
    assert os.getpid() not in pids and len(set(pids)) == 3
    assert px.out.splitlines() == ["ran", "[stdout:0-2] ran"]


def test_verbose(px: Session) -> None:
    assert px.lines("%%px --verbose\nv = 1") == ["Parallel execution on engine(s): all"]
    result = px.run("%%px --verbose -a -t 0,1\nv = 1")
    assert px.out.startswith("Async parallel execution on engine(s): [0, 1]\n")
    result.get(20)


def test_progress_bars(px: Session, gate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Told, "isatty", lambda self: True)

    def seen(text: str) -> None:
        if "0/3" in text:  # the bar is there before the end
            gate.touch()

    px.run("%%px --progress-after 0\n" + WAIT.format(path=str(gate)), err=seen)
    assert "%px" in px.err and "3/3" in px.err
    px.run("%%px --progress-after -1\nimport time; time.sleep(0.05)")
    assert px.err == ""
    px.run("%pxconfig --progress-after 60")
    px.run("%px import time; time.sleep(0.05)")
    assert px.err == ""


# -- interruption --------------------------------------------------------------------------


def interrupt_at(word: str) -> Callable[[str], None]:
    """Press Ctrl-C, once, when ``word`` is shown."""
    pressed = threading.Event()

    def seen(text: str) -> None:
        if word in text and not pressed.is_set():
            pressed.set()
            os.kill(os.getpid(), signal.SIGINT)

    return seen


def test_ctrl_c_interrupts_the_engines(px: Session) -> None:
    with pytest.raises(ipp.CompositeError) as caught:
        px.run(
            "%%px --stream\nimport time\nprint('begun')\ntime.sleep(1000)",
            interrupt_at("begun"),
        )
    assert {name for name, *_ in caught.value.elist} == {"KeyboardInterrupt"}
    assert "sending SIGINT" in px.err
    assert px.rc.ids == [0, 1, 2]
    px.run("%px print('alive')")
    assert px.out == "[stdout:0-2] alive\n"


def test_ctrl_c_may_leave_the_engines_alone(px: Session, gate: Path) -> None:
    code = "print('begun')\n" + WAIT.format(path=str(gate)) + "'went on'"
    with pytest.raises(KeyboardInterrupt):
        px.run(f"%%px --stream --signal-on-interrupt 0\n{code}", interrupt_at("begun"))
    gate.touch()
    assert "went on" in "".join(px.lines("%pxresult"))


def test_ctrl_c_may_send_another_signal(px: Session) -> None:
    code = (
        "import signal, time\nsignal.signal(signal.SIGUSR1, lambda *_: 1 / 0)\n"
        "print('begun')\ntime.sleep(1000)"
    )
    with pytest.raises(ZeroDivisionError):
        px.run(
            f"%%px --stream --signal-on-interrupt SIGUSR1 -t 0\n{code}", interrupt_at("begun")
        )
    assert "sending SIGUSR1" in px.err
    assert "is no signal" in usage(px, "%%px --signal-on-interrupt NONSENSE\n1")


# -- %pxconfig, %pxresult, suffixes --------------------------------------------------------


def test_configuration(px: Session) -> None:
    px.run("%pxconfig --targets 1 --verbose --no-stream --progress-after 5")
    assert px.lines("%px print('x')") == ["Parallel execution on engine(s): 1", "x"]
    px.run("%pxconfig --noblock --no-verbose -t ::2 --signal-on-interrupt 0")
    result = px.run("%px 1")
    assert isinstance(result, ipp.AsyncResult) and len(result.get(20)) == 2
    px.run("%pxconfig --block --targets all")
    assert px.run("%px y = 1") is None


def test_suffixes(px: Session) -> None:
    px.rc[1:].activate(suffix="_some")
    assert px.run("%px_some suffixed = 1").get(20)
    px.run("%pxconfig_some --block --no-stream")
    px.run("%%px_some\nprint('here')")
    assert px.out == "[stdout:1-2] here\n"
    px.run("%pxresult_some")
    assert px.out == "[stdout:1-2] here\n"
    assert "suffixed" not in px.rc[0].apply_sync(lambda: sorted(globals()))


def test_there_is_no_result_before_the_first(px: Session) -> None:
    assert "nothing so far" in usage(px, "%pxresult")


# -- %autopx -------------------------------------------------------------------------------


def test_autopx(px: Session) -> None:
    assert px.lines("%autopx") == ["%autopx enabled"]
    try:
        px.run("auto = 5\nprint('auto', auto)")
        assert px.out == "[stdout:0-2] auto 5\n"
        px.run("%timeit -n1 -r1 pass")
        assert "per loop" in px.out and "[stdout:" in px.out
        with pytest.raises(ZeroDivisionError):
            px.run("1 / 0")
        px.run("import asyncio\nawait asyncio.sleep(0, 'awaited')")
        assert "'awaited'" in px.out
    finally:
        assert px.lines("%autopx") == ["%autopx disabled"]
    assert "auto" not in px.shell.user_ns and px.rc[:]["auto"] == [5, 5, 5]
    px.run("auto_here = 1")
    assert px.shell.user_ns["auto_here"] == 1


# -- getting them --------------------------------------------------------------------------


def test_the_extension_uses_the_sessions_client(shell: Any, rc: ipp.Client) -> None:
    session = Session(shell, rc)
    for kind in ("line", "cell"):
        for name in [n for n in shell.magics_manager.magics[kind] if "px" in n]:
            del shell.magics_manager.magics[kind][name]
    session.run("%load_ext ipclusterz")
    session.run("%%px --no-stream\nprint('found')")
    assert session.out == "[stdout:0-2] found\n"
    del shell.user_ns["rc"]


def test_with_several_clients_one_must_be_activated(shell: Any, rc: ipp.Client) -> None:
    from ipclusterz.client.magics import register

    register(shell)
    session = Session(shell, rc)
    with ipp.Client(rc.connection_file) as other:
        shell.user_ns["other"] = other
        assert "rc.activate()" in usage(session, "%px 1")
    session.run("%px 1")  # the other one is closed now
    del shell.user_ns["rc"], shell.user_ns["other"]


def test_without_ipython_there_is_a_warning(
    rc: ipp.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    with pytest.warns(UserWarning, match="need IPython"):
        rc[:].activate()


def test_without_ipython_on_the_engines(shell: Any, shared_ipython_dir: Path) -> None:
    with ipp.Cluster(n=2, cluster_id="plain") as plain:
        hide = "import sys\nsys.modules['IPython'] = None"
        plain[:].execute(hide, block=True)
        plain.activate()
        session = Session(shell, plain)
        session.run("%pxconfig --no-stream")
        assert session.lines("%px 6 * 7; print('p')") == ["[stdout:0-1] p"]
        assert session.lines("%px 6 * 7") == ["Out[0-1:2]: 42"]
        with pytest.raises(SyntaxError) as caught:
            session.run("%px %pwd")
        assert isinstance(caught.value, ipp.CompositeError)
        # IPython shows nothing but this of a SyntaxError.
        assert "[engines 0-1] SyntaxError: invalid syntax" in caught.value.msg
        assert str(caught.value).count("one or more exceptions") == 1
        del shell.user_ns["rc"]


def test_figures_of_engines(px: Session) -> None:
    pytest.importorskip("matplotlib")
    code = "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);"
    px.run(f"%%px -o figures --no-stream\n{code}")
    for outputs in px.shell.user_ns["figures"].outputs:
        (one,) = outputs
        assert base64.b64decode(one["data"]["image/png"]).startswith(b"\x89PNG")
    assert "[output:0-2]\n<Figure size" in px.out or px.out.count("<Figure size") == 3
    eventually(lambda: px.rc.ids == [0, 1, 2])
