"""Pages that show fragments: they run when the names they speak of are given.

Pages whose examples are whole are run by tests/client/test_pages.py and test_guide.py.
"""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ipclusterz as ipp
from tests.client import test_pages as whole_pages
from tests.promises.test_guide import PAGES, blocks, run_python
from tests.running import ROOT

DOCS = ROOT / "docs"
GUIDE = {f"guide/{page}" for page in PAGES}


def for_database(rc: ipp.Client) -> dict[str, Any]:
    done = rc.load_balanced_view().map_async(abs, range(-12, 0), chunksize=1)
    assert done.get() == list(range(12, 0, -1))
    ids = done.msg_ids
    yesterday = datetime.now(UTC) - timedelta(days=1)
    return {"msg_id": ids[0], "msg_ids": ids[:3], "yesterday": yesterday}


def for_dependencies(rc: ipp.Client) -> dict[str, Any]:
    def helper() -> int:
        return 1

    return {
        "names": ["a", "bc"],
        "load": len,
        "summarise": lambda: "sum",
        "draw": lambda: "plot",
        "helper": helper,
    }


def for_preload(rc: ipp.Client) -> dict[str, Any]:
    return {"c": SimpleNamespace(EngineApp=SimpleNamespace())}  # as in a config file


GIVEN = {
    "database": for_database,
    "dependencies": for_dependencies,
    "preload": for_preload,
    "placement": for_preload,
}


@pytest.mark.parametrize("page", GIVEN)
def test_fragments_run_when_their_names_are_given(page: str) -> None:
    with ipp.Cluster(n=2) as rc:
        names = {"__name__": "__main__", "ipp": ipp, "rc": rc, **GIVEN[page](rc)}
        ran = 0
        for block in blocks(DOCS / f"{page}.md"):
            if block["kind"] == "python" and not block["skip"]:
                run_python(block["text"] or "", names)
                ran += 1
        assert ran >= 2
        if page == "dependencies":
            assert names["first"].get() == [1, 2]
            assert (names["summary"].get(), names["plot"].get()) == ("sum", "plot")
            ran_at = names["summary"].metadata.engine_id
            assert names["plot"].metadata.engine_id == ran_at


def test_several_clusters_share_the_work() -> None:
    """The layout of the page on many engines, with four clusters that have one each."""
    (block,) = (b for b in blocks(DOCS / "scale.md") if b["kind"] == "python")
    names: dict[str, Any] = {"__name__": "__main__", "ipp": ipp}
    names.update(simulate=abs, chunks=[range(-n, 0) for n in range(1, 5)])
    with ExitStack() as stack:
        for name in ("north", "south", "east", "west"):
            stack.enter_context(ipp.Cluster(n=1, cluster_id=name))
        run_python(block["text"] or "", names)
        for rc in names["clients"]:
            stack.callback(rc.close)
    assert names["results"] == [1, 2, 1, 3, 2, 1, 4, 3, 2, 1]


def test_every_page_with_python_is_run_by_a_test() -> None:
    shown = {
        str(page.relative_to(DOCS).with_suffix(""))
        for page in DOCS.rglob("*.md")
        if "_build" not in page.parts and "```python\n" in page.read_text()
    }
    # tests/house/test_docs.py, tests/client/test_outputs.py, tests/launchers/test_mpi.py,
    # tests/ssh/test_routes.py, tests/batch/test_page.py
    elsewhere = {"index", "magics", "mpi", "ssh", "batch", "launchers"}
    here = {*GIVEN, "scale"}
    assert shown - elsewhere - GUIDE - here - {*whole_pages.PAGES} == set()
    assert Path(whole_pages.__file__).is_file()
