"""The demo counts rightly; that it runs on a cluster is shown by running it."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

DEMO = Path(__file__).parent.parent / "examples" / "stdlib_survey.py"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stdlib_survey", DEMO)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["stdlib_survey"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ("pass", 1),
        ("if a: pass\nelif b: pass\nelse: pass", 3),
        ("for a in b:\n  while c: pass", 3),
        ("try: pass\nexcept A: pass\nexcept B: pass", 3),
        ("return a and b and c or d", 4),
        ("return [a for a in b if a if c]", 4),
        ("match a:\n  case 1: pass\n  case 2: pass", 3),
        ("def inner():\n  if a: pass", 1),
        ("return lambda: 1 if a else 2", 2),
    ],
)
def test_complexity(demo: ModuleType, body: str, paths: int) -> None:
    lines = "\n".join("  " + line for line in body.splitlines())
    function = ast.parse(f"def f():\n{lines}").body[0]
    assert demo.complexity(function) == paths


def test_a_survey_of_a_small_tree(demo: ModuleType, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("from . import a\n")
    (package / "a.py").write_text(
        "from .b import x\nfrom .. import sky\nclass C:\n def f(s): x\n"
    )
    (package / "b.py").write_text("import package.a, os\nx = 1\n")
    (package / "bad.py").write_text("def (:\n")
    files = demo.source_files(package)
    names = {module for module, _ in files}
    assert names == {"package", "package.a", "package.b", "package.bad"}

    found = demo.combine([demo.survey(module, path) for module, path in files])
    by_name = {one["module"]: one for one in found.surveys}
    assert by_name["package.a"]["functions"] == [("C.f", 4, 1, 1)]
    assert "invalid syntax" in by_name["package.bad"]["error"]
    assert found.importers["package.a"] == {"package", "package.b"}
    assert found.importers["os"] == {"package.b"}
    assert found.importers["sky"] == {"package.a"}
    assert found.cycle == {"package.a", "package.b"}
    assert found.index["x"] == {"package.a", "package.b"}
    assert "not parsed: package.bad" in "\n".join(demo.report(found, "x"))


def test_a_difference_is_found(demo: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("a = 1\n")
    surveys = [demo.survey(*file) for file in demo.source_files(tmp_path)]
    changed = [{**surveys[0], "lines": 2}]
    assert demo.difference(demo.combine(surveys), demo.combine(surveys)) == ""
    assert "'one'" in demo.difference(demo.combine(surveys), demo.combine(changed))


# -- the other examples: each runs on a cluster and compares with what it computes alone -------


@pytest.mark.parametrize(
    ("name", "line", "says"),
    [
        ("option_pricing", "--paths 4000", "15 points, 0 further"),
        ("text_index", "--limit 60 memory view", "60 documents; equal to"),
        ("parameter_sweep", "--folds 2", "by joblib: 0.9"),
        ("image_tiles", "picture.pgm --width 160 --tile 32 --depth 60", "160 x 128; equal to"),
        ("build_graph", "--targets 150", "150 targets"),
    ],
)
def test_an_example_runs_and_is_right(name: str, line: str, says: str, tmp_path: Path) -> None:
    program = DEMO.parent / f"{name}.py"
    done = subprocess.run(
        [sys.executable, str(program), "-n", "2", *line.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(DEMO.parent.parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert says in done.stdout and "NOT" not in done.stdout


def test_every_example_is_tested_and_on_its_page() -> None:
    names = {path.stem for path in DEMO.parent.glob("*.py")}
    page = (DEMO.parent.parent / "docs" / "examples.md").read_text()
    source = Path(__file__).read_text()
    for name in names:
        assert f"examples/{name}.py" in page, name
        assert f'"{name}"' in source, name
