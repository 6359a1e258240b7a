"""The examples on the pages about the client run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

import ipclusterz as ipp
from tests.running import ROOT

# page -> what it needs to be installed
PAGES = {"executor": ("joblib", "distributed"), "serialisation": (), "migration": ()}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.timeout(120)
def test_examples_run(page: str) -> None:
    for module in PAGES[page]:
        pytest.importorskip(module)
    text = (ROOT / "docs" / f"{page}.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    with ipp.Cluster(n=2, cluster_id=""):  # where Client() finds it
        done = subprocess.run(
            [sys.executable, "-c", "\n".join(blocks) + "\nprint('all of it')"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=100,
        )
    assert done.stdout.endswith("all of it\n"), done.stdout + done.stderr
