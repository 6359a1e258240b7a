"""The demo counts rightly; that it runs on a cluster is shown by running it."""

from __future__ import annotations

import ast
import importlib.util
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
