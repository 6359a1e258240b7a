"""What users install: wheel, sdist, ``pip install .`` and ``-e .``, each built for real.

Everything is made from a copy of the files that git knows, without a network: the build
uses this environment's setuptools, and the new environments see this one's dependencies.
"""

from __future__ import annotations

import configparser
import email
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("ipclusterz", "ipcontrollerz", "ipenginez")
LINKS = {"ipclusterz/launchers": "../launchers", "ipclusterz/profiles": "../profiles"}
CLONE_HINT = "git clone -c core.symlinks=true"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def run(
    *command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to the end within two minutes, output captured."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        timeout=120,
    )


def succeed(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command that must succeed; return its output."""
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def git(*arguments: str) -> list[str]:
    """Lines that git prints in this checkout; skips where there is no checkout."""
    # The checkout may belong to another user, as in a container.
    done = run("git", "-c", f"safe.directory={ROOT}", *arguments, cwd=ROOT)
    if done.returncode != 0:
        pytest.skip(f"not a git checkout: {done.stderr.strip()}")
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of all files that are or could be committed, links kept as links."""
    target = tmp_path_factory.mktemp("source")
    for name in git("ls-files", "--cached", "--others", "--exclude-standard"):
        if (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name, follow_symlinks=False)
    return target


def build(source: Path, kind: str, target: Path) -> Path:
    """Build a ``wheel`` or ``sdist`` of ``source`` in a copy; return its path."""
    copy = target / f"source-{kind}"
    shutil.copytree(source, copy, symlinks=True)
    code = f"import setuptools.build_meta as b, sys; b.build_{kind}(sys.argv[1])"
    succeed(sys.executable, "-c", code, target, cwd=copy)
    (built,) = [*target.glob("ipclusterz-*.whl"), *target.glob("ipclusterz-*.tar.gz")]
    return built


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(source, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(source, "sdist", tmp_path_factory.mktemp("sdist"))


def new_environment(folder: Path) -> Path:
    """An environment with this one's packages except ipclusterz; return its interpreter.

    They are linked one by one: on a path entry, our own editable install would be seen too.
    """
    succeed(sys.executable, "-m", "venv", "--without-pip", folder)
    there = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            if "ipclusterz" not in entry.name and not (there / entry.name).exists():
                (there / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def install(python: Path, *what: str | Path) -> subprocess.CompletedProcess[str]:
    """``pip install`` into ``python``'s environment without a network."""
    return run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--no-index"),
        *("--no-deps", "--no-build-isolation", "--disable-pip-version-check", *what),
    )


def expected_modules(folder: str) -> set[str]:
    return {path.name for path in (ROOT / "ipclusterz" / folder).glob("*.py")}


def test_the_links_are_committed_as_links() -> None:
    entries = {line.split("\t")[1]: line.split()[0] for line in git("ls-files", "-s")}
    for name, target in LINKS.items():
        assert entries[name] == "120000", f"{name} must be a symbolic link in git"
        assert os.readlink(ROOT / name) == target


def test_the_wheel_holds_the_package_and_nothing_at_the_top(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    version = wheel.name.split("-")[1]
    tops = {name.split("/")[0] for name in names}
    assert tops == {"ipclusterz", f"ipclusterz-{version}.dist-info"}
    for folder in ("launchers", "core", "net", "engine", "client", "apps"):
        packed = {
            name.rsplit("/", 1)[1] for name in names if name.startswith(f"ipclusterz/{folder}/")
        }
        assert expected_modules(folder) <= packed
    for path in (ROOT / "profiles").rglob("*_config.py"):
        assert f"ipclusterz/{path.relative_to(ROOT)}" in names
    assert "ipclusterz/py.typed" in names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        version = wheel.name.split("-")[1]
        info = f"ipclusterz-{version}.dist-info"
        meta = email.message_from_string(archive.read(f"{info}/METADATA").decode())
        points = configparser.ConfigParser()
        points.read_string(archive.read(f"{info}/entry_points.txt").decode())
        licence = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    assert meta["Name"] == "ipclusterz"
    assert meta["Requires-Python"] == ">=3.11"
    assert meta["License"] == "BSD-3-Clause" or meta["License-Expression"] == "BSD-3-Clause"
    assert licence
    assert {*meta.get_all("Provides-Extra", [])} >= {
        *("mpi", "notebook", "joblib", "dask", "web", "all", "test", "docs", "dev")
    }
    needed = [line for line in meta.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert needed
    assert all(">=" in line for line in needed), "each dependency has a lower bound"
    assert set(points["console_scripts"]) == set(COMMANDS)
    assert points["ipclusterz.launchers"]["local"] == "ipclusterz.launchers.local:LocalLauncher"


def test_the_sdist_holds_the_package_with_the_links_resolved(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = {
            member.name.split("/", 1)[1]: member for member in archive if "/" in member.name
        }
    assert not [name for name, member in members.items() if member.issym() or member.islnk()]
    for name in expected_modules("launchers"):
        assert f"ipclusterz/launchers/{name}" in members
    for path in (ROOT / "profiles").rglob("*_config.py"):
        assert f"ipclusterz/{path.relative_to(ROOT)}" in members
    assert not [name for name in members if name.startswith(("launchers/", "profiles/"))]
    assert {"LICENSE", "README.md", "SECURITY.md", "CHANGELOG.md", "setup.py"} <= set(members)


def check_commands(python: Path) -> None:
    """The three commands, the module form, the launcher and the profiles are all there."""
    version = succeed(python, "-c", "import ipclusterz; print(ipclusterz.__version__)").strip()
    for name in COMMANDS:
        assert version in succeed(python.parent / name, "--version")
        assert name in succeed(python.parent / name, "--help")
    assert version in succeed(python, "-m", "ipclusterz", "--version")
    facts = succeed(
        *(python, "-c", FACTS),
        cwd=python.parent,
    )
    assert facts.split() == ["LocalLauncher", "True"]


FACTS = """
import pathlib
from importlib.metadata import entry_points
import ipclusterz
(point,) = entry_points(group="ipclusterz.launchers", name="local")
print(point.load().__name__)
here = pathlib.Path(ipclusterz.__file__).parent
print((here / "profiles/default/ipclusterz_config.py").is_file())
"""


@pytest.mark.parametrize("form", ["wheel", "sdist", "folder"])
def test_installed_commands_work(
    form: str, tmp_path: Path, source: Path, request: pytest.FixtureRequest
) -> None:
    what = source if form == "folder" else request.getfixturevalue(form)
    if form == "folder":
        what = tmp_path / "source"
        shutil.copytree(source, what, symlinks=True)
    python = new_environment(tmp_path / "env")
    done = install(python, what)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("launchers", "profiles", "tests"):
        missing = run(python, "-c", f"import {name}", cwd=tmp_path)
        assert missing.returncode != 0, f"top-level {name} was installed"
    check_commands(python)


def test_an_editable_install_works_and_follows_the_source(tmp_path: Path, source: Path) -> None:
    copy = tmp_path / "source"
    shutil.copytree(source, copy, symlinks=True)
    python = new_environment(tmp_path / "env")
    done = install(python, "-e", copy)
    assert done.returncode == 0, done.stdout + done.stderr
    check_commands(python)
    (copy / "launchers" / "extra.py").write_text("HERE = 'edited'\n")
    code = "from ipclusterz.launchers.extra import HERE; print(HERE)"
    assert succeed(python, "-c", code, cwd=tmp_path).strip() == "edited"


@pytest.fixture
def without_links(tmp_path: Path, source: Path) -> Path:
    """The checkout as git writes it with ``core.symlinks=false``: links as small files."""
    copy = tmp_path / "flat"
    shutil.copytree(source, copy, symlinks=True)
    for name, target in LINKS.items():
        (copy / name).unlink()
        (copy / name).write_text(target)
    return copy


def test_pip_refuses_a_checkout_without_links(tmp_path: Path, without_links: Path) -> None:
    python = new_environment(tmp_path / "env")
    done = install(python, without_links)
    assert done.returncode != 0
    lines = [line for line in (done.stdout + done.stderr).splitlines() if CLONE_HINT in line]
    assert lines
    assert "ipclusterz/launchers is not a link" in lines[0]


def test_dev_refuses_a_checkout_without_links_in_one_line(without_links: Path) -> None:
    done = run("./dev", "demo", cwd=without_links)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert CLONE_HINT in line
    assert not (without_links / ".venv").exists()
