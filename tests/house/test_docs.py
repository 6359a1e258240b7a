"""README and docs are true: links lead somewhere, flags exist, the first example runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
COMMANDS = {
    "ipclusterz": "ipclusterz",
    "ipcontrollerz": "ipclusterz.apps.controller",
    "ipenginez": "ipclusterz.apps.engine",
}
SUBCOMMANDS = {
    "ipclusterz": ("start", "stop", "list", "engines", "create", "revoke", "ssh check")
}

LINK = re.compile(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)")
FLAG = re.compile(r"`(--?[A-Za-z][\w-]*)")


def run(*command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"COLUMNS": "100"},
    )


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def inventory(built: Path) -> set[str]:
    """What the built pages explain, as others would link to it."""
    data = (built / "objects.inv").read_bytes().split(b"\n", 4)[4]
    return {line.split()[0] for line in zlib.decompress(data).decode().splitlines()}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    broken = [
        link
        for link in LINK.findall(page.read_text())
        if link and not (page.parent / link).exists()
    ]
    assert not broken


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="./dev test has it")
    out = str(tmp_path / "html")
    options = ("-q", "-W", "--keep-going", "-n", "-b", "html", "-d", str(tmp_path / "tree"))
    done = run("sphinx", *options, "docs", out, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "html" / "architecture.html").is_file()
    kinds = {"AsyncResult", "Client", "Cluster", "DirectView", "LoadBalancedView"}
    wanted = {f"ipclusterz.{name}" for name in kinds} | {"ipclusterz.error.EngineError"}
    wanted |= {"ipclusterz.DirectView.apply_sync", "ipclusterz.AsyncResult.stdout"}
    wanted |= {"ipclusterz.Client.db_query", "ipclusterz.launchers.base.Launcher.start"}
    assert wanted <= inventory(tmp_path / "html")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_on_a_command_page_exists(command: str) -> None:
    page = (ROOT / "docs" / "cli" / f"{command}.md").read_text()
    flags = {flag for flag in FLAG.findall(page) if flag.startswith("-")}
    assert flags
    known = ""
    for words in [(), *(word.split() for word in SUBCOMMANDS.get(command, ()))]:
        done = run(COMMANDS[command], *words, "--help-all")
        assert done.returncode == 0, done.stderr
        known += done.stdout
    missing = [flag for flag in sorted(flags) if not re.search(rf"(?<![\w-]){flag}\b", known)]
    assert not missing, f"{command} --help-all does not know {missing}"


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
@pytest.mark.timeout(120)
def test_the_first_example_of_a_page_runs(page: str) -> None:
    (example, *_) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    started = run("ipclusterz", "start", "-n", "4", "--daemon")
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        done = subprocess.run(
            [sys.executable, "-c", example],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split("\n")[0] == str([x**2 for x in range(10)])
    finally:
        stopped = run("ipclusterz", "stop")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
