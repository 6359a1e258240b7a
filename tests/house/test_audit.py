"""Dependencies: bounds above known vulnerabilities, and a check in lint that is honest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from tests.house import audit

MENDED = {
    "paramiko": "3.4",  # CVE-2023-48795: the beginning of an SSH session could be cut
    "cryptography": "43.0.1",  # CVE-2023-49083, CVE-2024-26130, CVE-2024-6119
    "tqdm": "4.66.3",  # CVE-2024-34062
}
"""The first release of each without a hole that was known when its bound was chosen."""


def test_no_bound_allows_a_release_with_a_known_hole() -> None:
    bounds = audit.oldest(audit.required())
    assert len(bounds) >= 9, "each dependency has a bound"
    for name, first in MENDED.items():
        assert Version(bounds[name]) >= Version(first), name


def test_a_lower_bound_is_seen(tmp_path: Path) -> None:
    setup = tmp_path / "setup.cfg"
    setup.write_text("[options]\ninstall_requires =\n    paramiko >= 3.3, < 9\n")
    assert audit.oldest(audit.required(setup)) == {"paramiko": "3.3"}
    setup.write_text("[options]\ninstall_requires =\n    paramiko\n")
    with pytest.raises(KeyError):
        audit.oldest(audit.required(setup))


def test_what_is_needed_in_turn_is_asked_about_too() -> None:
    pins = audit.installed(audit.required())
    assert {"paramiko", "pyzmq", "cffi", "bcrypt"} <= pins.keys()
    assert not {"pytest", "ruff", "sphinx"} & pins.keys(), "what users do not get"


def hole(*fixes: str) -> dict[str, Any]:
    return {"id": "HOLE-1", "aliases": ["CVE-0-1"], "fix_versions": [*fixes]}


def package(*holes: dict[str, Any]) -> dict[str, Any]:
    return {"name": "paramiko", "version": "3.3", "vulns": [*holes]}


SKIPPED = {"name": "tqdm", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("told", "code", "says"),
    [
        ([package()], 0, "packages without a known vulnerability"),
        ([package(hole("3.4"))], 1, "paramiko 3.3: HOLE-1 CVE-0-1; mended in 3.4: upgrade it"),
        ([package(hole())], 0, "paramiko 3.3: HOLE-1 CVE-0-1; no release mends it"),
        ([SKIPPED], 0, "not known to the index: tqdm"),
        ([SKIPPED, package(hole("3.4"))], 1, "raise its bound in setup.cfg"),
    ],
)
def test_what_lint_makes_of_an_answer(
    told: list[dict[str, Any]], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main(lambda pins: audit.judged({"dependencies": told})) == code
    assert says in capsys.readouterr().out


def test_without_an_index_lint_says_so_and_passes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real tool, with a proxy at which nobody listens."""
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert audit.main() == 0
    said = capsys.readouterr().out
    assert said.startswith("audit: not done, the index cannot be asked: ")
    assert "without a known" not in said


def test_lint_asks() -> None:
    script = (audit.ROOT / "dev").read_text()
    assert "python -m tests.house.audit || status=1" in script
    done = subprocess.run(
        [sys.executable, "-c", "import tests.house.audit"], cwd=audit.ROOT, timeout=50
    )
    assert done.returncode == 0
