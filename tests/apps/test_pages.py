"""The pages of status, logs and clean are true, and the examples in their help work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ipclusterz as ipp
from tests.running import ROOT, run

COMMANDS = ("status", "logs", "clean")
FLAG = re.compile(r"`(--?[A-Za-z][\w-]*)")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_on_its_page_exists(command: str) -> None:
    page = (ROOT / "docs" / "cli" / f"{command}.md").read_text()
    done = run(f"ipclusterz {command} --help-all")
    assert done.returncode == 0, done.stderr
    flags = set(FLAG.findall(page)) - {"-r", "--no-log-to-file"}
    unknown = [f for f in sorted(flags) if not re.search(rf"(?<![\w-]){f}\b", done.stdout)]
    assert flags and not unknown


@pytest.mark.parametrize("command", COMMANDS)
def test_its_page_is_in_the_table_of_contents(command: str) -> None:
    assert f"cli/{command}\n" in (ROOT / "docs" / "index.md").read_text()
    listed = run("ipclusterz -h").stdout
    assert re.search(rf"^ *{command}$", listed, re.MULTILINE)


def test_the_examples_of_the_help_can_be_pasted(
    ipython_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def examples(command: str) -> list[str]:
        text = run(f"ipclusterz {command} -h").stdout.partition("Examples")[2]
        found = [line.partition("#")[0].strip() for line in text.splitlines()]
        lines = [line for line in found if line.startswith("ipclusterz ")]
        return [line for line in lines if not re.search(r"--watch|-f|-h\b|-help", line)]

    with (
        ipp.Cluster(n=4, cluster_id="") as rc,
        ipp.Cluster(n=1, cluster_id="night", profile="work"),
    ):
        rc[:].apply_sync(print, "hello")
        for command in COMMANDS:
            lines = examples(command)
            assert len(lines) >= 3, command
            for line in lines:
                line = line.replace("trouble.tgz", str(tmp_path / "trouble.tgz"))
                done = run(line)
                assert done.returncode == 0, f"{line}\n{done.stderr}"
