"""What ipyparallel's users write besides calls and maps, over real engines."""

from __future__ import annotations

import concurrent.futures
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ipclusterz as ipp
from ipclusterz.client.past import RUNS, History, Past


@pytest.fixture(scope="module")
def rc(shared_ipython_dir: Path) -> Iterator[ipp.Client]:
    with ipp.Cluster(n=3) as client:
        yield client


# -- what was sent -------------------------------------------------------------------------


def test_history_results_and_metadata(rc: ipp.Client) -> None:
    view, direct = rc.load_balanced_view(label="mine"), rc[:]
    before = len(rc.history)
    ars = [view.apply_async(abs, -1), direct.apply_async(abs, -2), view.map(abs, [-3, -4])]
    ars.append(view.apply_async(divmod, 1, 0))
    names = [name for ar in ars for name in ar.msg_ids]
    assert rc.history[before:] == names and len(names) == 7
    assert view.history == [*names[:1], *names[4:]] and direct.history == names[1:4]
    assert view.history[-1] == names[-1] and names[0] in view.history
    assert names[1] not in view.history and "x_1" not in view.history
    rc.wait(ars)
    assert rc.outstanding == view.outstanding == set()
    assert [rc.results[name] for name in names[:6]] == [1, 2, 2, 2, 3, 4]
    assert isinstance(view.results[names[6]], ZeroDivisionError)
    assert (
        rc.metadata[names[0]].label == "mine" and rc.metadata[names[1]].engine_id == rc.ids[0]
    )
    assert names[1] in direct.results and names[0] not in direct.results
    assert view.get_result(0).get() == 1 and rc.get_result().owner
    with pytest.raises(KeyError, match="no finished task"):
        rc.results["nonsense"]
    rc.spin()
    rc.send_signal(0, targets=[])
    assert len(rc.history) == before + 7


def test_what_is_outstanding(rc: ipp.Client, tmp_path: Path) -> None:
    view, other = rc.load_balanced_view(), rc.load_balanced_view()
    ar = view.apply_async(wait_for, str(tmp_path / "go"))
    assert view.outstanding == set(ar.msg_ids) <= rc.outstanding
    assert other.outstanding == set() and ar.msg_ids[0] not in rc.results
    assert rc.metadata[ar.msg_ids[0]].completed is None
    (tmp_path / "go").touch()
    assert ar.get(timeout=20) is None and view.outstanding == set()


def test_a_history_is_a_few_ranges() -> None:
    past = Past()
    for key in (5, 6, 7, 20, 21, 9):
        past.add(key)
    past.add(30, 3)
    history = History(str, past.ranges())
    assert list(history) == "5 6 7 9 20 21 30 31 32".split()  # keys count upwards
    assert history[3:6] == ["9", "20", "21"] and history[-1] == "32" and len(history) == 9
    assert len(past.ranges()) == 4
    past.add(33)
    assert past.ranges()[-1] == range(30, 34) and not past.fresh
    for key in range(100, 2 * RUNS + 120, 2):
        past.add(key)
    assert len(past.ranges()) == RUNS + 1
    assert list(History(str, [])) == [] and not History(str, [])


def wait_for(path: str) -> None:
    for _ in range(6000):
        if os.path.exists(path):
            return
        time.sleep(0.01)


# -- results -------------------------------------------------------------------------------


def test_split_and_join(rc: ipp.Client, tmp_path: Path) -> None:
    pid = rc[0].apply_sync(os.getpid)
    result = rc[:].apply_async(pid_after, str(tmp_path / "go"), pid)
    parts = result.split()
    assert len(parts) == 3 and result.split() is parts
    done, pending = concurrent.futures.wait(parts, 20, concurrent.futures.FIRST_COMPLETED)
    assert done == {parts[0]} and pending == set(parts[1:])
    (tmp_path / "go").touch()
    values = [part.get(timeout=20) for part in parts]
    assert values == result.get() and parts[2].engine_id == rc.ids[2]
    assert parts[1].metadata.engine_id == rc.ids[1] and parts[1].successful()
    joined = ipp.AsyncResult.join(*parts)
    assert joined.get(timeout=20) == values and list(joined) == values and len(joined) == 3
    assert joined.msg_ids == result.msg_ids and joined.engine_id == rc.ids
    single = rc[0].apply_async(abs, -1)
    assert single.split() == (single,) and ipp.AsyncResult.join(single) is single
    mixed = ipp.AsyncResult.join(single, rc[:].apply_async(abs, -2))
    assert mixed.get(timeout=20) == [1, 2, 2, 2]


def pid_after(go: str, first: int) -> int:
    """Return the process id, on all but the first one when a file is there."""
    if os.getpid() != first:
        wait_for(go)
    return os.getpid()


def test_split_and_join_of_failures(rc: ipp.Client) -> None:
    view = rc.load_balanced_view()
    result = view.map(lambda x: 1 // x, [1, 0, 2, 0], chunksize=2, return_exceptions=True)
    assert len(result.split()) == 2 and result.split()[0].get(timeout=20)[0] == 1
    result = view.map(lambda x: 1 // x, [1, 0])
    good, bad = result.split()
    assert good.get(timeout=20) == 1 and isinstance(bad.exception(20), ZeroDivisionError)
    with pytest.raises(ipp.CompositeError):
        ipp.AsyncResult.join(good, bad).get()
    values = ipp.AsyncResult.join(bad, good).get(return_exceptions=True)
    assert isinstance(values[0], ZeroDivisionError) and values[1] == 1
    with pytest.raises(ValueError, match="at least one"):
        ipp.AsyncResult.join()


def test_facts_are_attributes(rc: ipp.Client) -> None:
    one = rc.load_balanced_view(label="fact").apply_async(abs, -1)
    two = rc[:2].apply_async(divmod, 1, 0)
    assert rc.wait([one, two], timeout=20)
    assert one.label == "fact" and one.attempt is not None and not one.follow
    assert [type(error).__name__ for error in two.error] == ["ZeroDivisionError"] * 2
    assert one.error is None and one.engine_uuid == one.metadata.engine_uuid
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        one.nonsense  # noqa: B018
    view = rc.load_balanced_view()
    assert len(view) == 3 and len(rc.load_balanced_view([0])) == 1


def test_times_and_dicts(rc: ipp.Client) -> None:
    result = rc[:].apply_async(time.sleep, 0.1)
    assert result.get(timeout=20) == [None] * 3
    assert result.serial_time >= 0.3 and result.wall_time >= 0.1
    assert result.timedelta(result.submitted, result.received) >= 0.1
    assert result.get_dict() == result.result_dict == dict.fromkeys(rc.ids)
    assert result.elapsed == result.wall_time and result.progress == 3
    assert result.wait_for_output(5) and result.sent
    result.wait_for_send()


# -- views ---------------------------------------------------------------------------------


def test_broadcast_views(rc: ipp.Client) -> None:
    view = rc.broadcast_view(is_coalescing=True)
    assert isinstance(view, ipp.BroadcastView) and isinstance(view, ipp.DirectView)
    assert view.is_coalescing and repr(view) == "<BroadcastView all>"
    assert view.apply_sync(abs, -2) == [2, 2, 2]
    view["x"] = 7
    assert view["x"] == [7, 7, 7] and view.map_sync(abs, range(-6, 0)) == [6, 5, 4, 3, 2, 1]
    assert rc.broadcast_view([0, -1], block=True).apply(abs, -1) == [1, 1]
    with pytest.raises(TypeError, match="no flag 'colour'"):
        rc.broadcast_view(colour=1)


def test_sync_imports(rc: ipp.Client, capsys: pytest.CaptureFixture[str]) -> None:
    view = rc[:]
    view.clear(block=True)
    with view.sync_imports():
        import json as js
        import os.path
        import string
        import xml.dom.minidom as md
        from collections import Counter
        from collections import OrderedDict as Ordered
    assert js.dumps(1) == "1" and string.digits and Counter and Ordered and os.path and md
    out = capsys.readouterr().out
    assert "import json as js" in out and "import xml.dom.minidom as md" in out
    code = "ok = (js.dumps([1]), string.digits[:2], Counter('aa')['a'], Ordered.__name__, "
    view.execute(code + "os.path.sep, md.__name__)", block=True)
    assert view["ok"] == [("[1]", "01", 2, "OrderedDict", "/", "xml.dom.minidom")] * 3
    with view.importer:
        import fractions
    assert view.apply_sync(getattr, ipp.Reference("fractions"), "__name__") == ["fractions"] * 3
    assert fractions.Fraction(1, 2)
    capsys.readouterr()
    with view.sync_imports(quiet=True):
        import decimal
    assert decimal.Decimal(1) and capsys.readouterr().out == ""


def test_imports_and_what_follows_them(
    rc: ipp.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    with rc[:].sync_imports():
        from string import digits
        from string import hexdigits as some

        hexa = some
        ten = digits
        import os.path as op

        join = op.join
    assert (ten, hexa, join) == (digits, some, op.join)
    lines = [line.partition("  #")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "from string import digits",
        "from string import hexdigits as some",
        "import os.path as op",
    ]


def test_imports_on_one_side_only(rc: ipp.Client, tmp_path: Path) -> None:
    (tmp_path / "only_there_12.py").write_text("x = 12\n")
    rc[0].execute(f"import sys; sys.path.insert(0, {str(tmp_path)!r})", block=True)
    with rc[0].sync_imports(local=False, quiet=True):
        import only_there_12 as there  # type: ignore[import-not-found]
    assert "engines only" in repr(there) and "engines only" in repr(there.x)
    assert rc[0].apply_sync(getattr, ipp.Reference("there"), "x") == 12
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "only_here_12.py").write_text("x = 1\n")
    sys.path.insert(0, str(tmp_path / "here"))
    try:
        with (
            pytest.raises(ModuleNotFoundError, match="only_here_12"),
            rc[:].sync_imports(quiet=True),
        ):
            import only_here_12  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(tmp_path / "here"))
    assert only_here_12.x == 1


def uses_the_engine(y: int) -> Any:
    return there * y  # type: ignore[name-defined]  # noqa: F821


def test_interactive_functions_see_the_engine(rc: ipp.Client) -> None:
    rc[:].push({"there": 5}, block=True)
    f = ipp.interactive(uses_the_engine)
    assert f.__module__ == "__main__" and rc[:].apply_sync(f, 3) == [15] * 3
    assert rc.load_balanced_view().map_sync(f, [1, 2]) == [5, 10]
    with pytest.raises(NameError):
        rc[0].apply_sync(uses_the_engine, 3)
    assert ipp.interactive(abs) is abs


def test_decorators(rc: ipp.Client) -> None:
    view = rc[:]

    @view.remote(block=True)
    def pid(x: int = 0) -> int:
        """Say it."""
        return os.getpid() + x

    assert pid() == view.apply_sync(os.getpid) and pid(x=1)[0] == pid()[0] + 1
    assert pid.__name__ == "pid" and pid.__doc__ == "Say it."

    @rc.load_balanced_view().parallel(block=True, ordered=False)
    def double(items: Any) -> list[int]:
        return [2 * item for item in items]

    assert double(range(5)) == [0, 2, 4, 6, 8]

    @ipp.parallel(view, dist="r", block=True)
    def negate(items: Any) -> list[int]:
        return [-item for item in items]

    assert negate(list(range(7))) == [0, -1, -2, -3, -4, -5, -6]
    assert ipp.remote(rc[0], block=True)(abs)(-1) == 1
    assert double.map([[1], [2]]) == [[2], [4]]


def test_flags(rc: ipp.Client) -> None:
    view = rc.load_balanced_view()
    with pytest.raises(ValueError, match="timeout=-1"), view.temp_flags(retries=2, timeout=-1):
        pass
    assert view.retries == 0  # not half of what was asked for
    with view.temp_flags(block=True, retries=2, label="x", track=True, timeout=5):
        assert view.apply(abs, -1) == 1 and view.retries == 2 and view.track
    assert (view.block, view.retries, view.label, view.track) == (False, 0, None, False)
    assert view.set_flags(block=True).map(abs, [-1]) == [1]
