"""./dev and .ci/run: plain POSIX sh, honest about what is missing, true to the README."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHORES = ("demo", "test", "lint", "bench", "docs")


def dev(*arguments: str, path: Path | str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run ./dev with ``path`` as its whole search path."""
    shell = shutil.which("dash") or "/bin/sh"
    return subprocess.run(
        [shell, str(ROOT / "dev"), *arguments],
        env={"PATH": str(path), "HOME": os.environ.get("HOME", "/")} | env,
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A search path with the few standard programs that ./dev calls, and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("dirname", "cat", "cksum"):
        (folder / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of ./dev beside just enough of a checkout, with no environment yet."""
    copy = tmp_path / "checkout"
    for name in ("ipclusterz/launchers", "ipclusterz/profiles"):
        (copy / name).mkdir(parents=True)
    shutil.copy2(ROOT / "dev", copy)
    return copy


def run_copy(checkout: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(checkout / "dev"), *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_help_names_every_chore(tools: Path) -> None:
    done = dev("--help", path=tools)
    assert done.returncode == 0
    for name in CHORES:
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE)


def test_an_unknown_word_is_a_usage_error(tools: Path) -> None:
    done = dev("dance", path=tools)
    assert done.returncode == 2
    assert "usage: ./dev" in done.stderr


def test_no_python_is_said_in_one_line(tools: Path, checkout: Path) -> None:
    done = run_copy(checkout, "demo", PATH=str(tools))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "needs Python 3.11 or newer" in line
    assert "no python3" in line


def test_an_old_python_is_named(tools: Path, checkout: Path) -> None:
    old = tools / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit\nexit 1\n')
    old.chmod(0o755)
    done = run_copy(checkout, "test", PATH=str(tools))
    assert done.returncode == 1
    assert "found Python 3.9.2" in done.stderr


def test_a_named_python_that_will_not_do_is_refused(tools: Path, checkout: Path) -> None:
    done = run_copy(checkout, "test", PATH=str(tools), PYTHON="/no/such/python")
    assert done.returncode == 1
    assert "PYTHON=/no/such/python is not a Python 3.11" in done.stderr


def test_a_link_that_leads_nowhere_is_told_from_a_missing_one(checkout: Path) -> None:
    (checkout / "ipclusterz" / "profiles").rmdir()
    (checkout / "ipclusterz" / "profiles").symlink_to("../profiles")
    done = run_copy(checkout, "test", PATH=os.environ["PATH"])
    assert done.returncode == 1
    assert "git checkout -- profiles" in done.stderr


def test_ci_runs_what_the_readme_names() -> None:
    readme = (ROOT / "README.md").read_text()
    script = (ROOT / ".ci" / "run").read_text()
    words = re.search(r"for command in (.*); do", script)
    assert words
    for name in words[1].split():
        assert name in CHORES
        assert f"./dev {name}" in readme
    assert {"test", "demo"} <= set(words[1].split())


@pytest.fixture
def installed(checkout: Path, tools: Path) -> Path:
    """The copy with an environment in which everything seems to be installed.

    ``ssh`` is not on the path, ``apt-get`` only notes that it was called, and whoever runs
    this is no root.
    """
    shutil.copy2(ROOT / "setup.cfg", checkout)
    (checkout / "setup.py").touch()
    (checkout / "ipclusterz/_version.py").touch()
    scripts = {
        checkout / ".venv/bin/python": '[ "$1 $2" != "-m pytest" ] || echo "pytest runs: $*"',
        tools / "apt-get": f'echo "$@" >>{checkout}/apt-calls',
        tools / "id": "echo 1000",
    }
    (checkout / ".venv/bin").mkdir(parents=True)
    for path, line in scripts.items():
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
    return checkout


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({}, "some tests are skipped without"),
        ({"CI": "true"}, "tests that must run here need, as root"),
        ({"IPCLUSTERZ_LAB": "required"}, "tests that must run here need, as root"),
    ],
)
def test_missing_system_packages_are_named(
    installed: Path, tools: Path, env: dict[str, str], says: str
) -> None:
    done = run_copy(installed, "test", PATH=str(tools), **env)
    assert "pytest runs" in done.stdout, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if says in line]
    assert "openssh-client" in line.split()
    assert not (installed / "apt-calls").exists()


@pytest.mark.parametrize(
    ("given", "runs"),
    [
        ([], "-m pytest --numprocesses=3 --dist=loadfile"),
        (["--long"], "-m pytest --long"),
        (["tests/core", "-k", "a or b", "-s"], "-m pytest tests/core -k a or b -s"),
    ],
)
def test_all_tests_are_divided_and_arguments_go_to_pytest(
    installed: Path, tools: Path, given: list[str], runs: str
) -> None:
    done = run_copy(installed, "test", *given, PATH=str(tools))
    assert done.stdout.splitlines()[-1] == f"pytest runs: {runs}"


def test_ci_requires_the_lab() -> None:
    assert "export IPCLUSTERZ_LAB=required" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("script", ["dev", ".ci/run"])
def test_scripts_are_executable_and_parse_as_posix_sh(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    shell = shutil.which("dash") or "/bin/sh"
    subprocess.run([shell, "-n", str(ROOT / script)], check=True)
    assert (ROOT / script).read_text().startswith("#!/bin/sh\n")


def test_mypy_checks_each_file_once() -> None:
    pytest.importorskip("mypy")
    done = subprocess.run(
        [sys.executable, "-c", COUNT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = done.stdout.split()
    assert "ipclusterz.launchers.base" in names
    assert "launchers.base" not in names
    assert len(names) == len(set(names))


COUNT = """
from mypy.main import process_options
sources, _ = process_options([])
print(*(source.module for source in sources))
"""


@pytest.mark.skipif(not (ROOT / "launchers").is_dir(), reason="an sdist has no links")
def test_ruff_checks_each_file_once() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--show-files"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if "No module named ruff" in done.stderr:
        pytest.skip("ruff is not installed; ./dev test has it")
    files = [Path(line) for line in done.stdout.splitlines()]
    assert ROOT / "launchers" / "base.py" in files
    assert ROOT / "ipclusterz" / "launchers" / "base.py" not in files
    assert len(files) == len({path.resolve() for path in files})
