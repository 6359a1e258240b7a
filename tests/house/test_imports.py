"""Who may import whom: the table of docs/architecture.md, read from the source text.

Imports inside functions and under ``TYPE_CHECKING`` count as well: a circle hidden in
either is still a circle.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ipclusterz"

# place -> what it may import besides itself.  A name stands for the module and all below.
TABLE: dict[str, tuple[str, ...]] = {
    "error": (),
    "_version": (),
    "core": ("error",),
    # The agent is one end of the shared page, the output pipes and the body files, and ends
    # what engines leave behind.
    "engine": ("core.message", "error"),
    "net": (
        *("core", "error", "files", "paths", "_version"),
        *("engine.bodies", "engine.limits", "engine.offspring", "engine.page"),
        *("engine.serialize", "engine.spares", "engine.streams", "engine.early", "store"),
    ),
    "store": ("core", "error"),
    "files": ("core", "error"),
    "paths": ("core", "error", "files"),
    "launchers": ("net.tunnel", "net.ssh", "files", "core", "paths", "error", "_version"),
    "client": (
        *("net", "core", "error", "paths", "files", "_version"),
        *("engine.serialize", "engine.reference", "engine.bodies", "engine.custom"),
        "engine.daskworker",
        "engine.dependency",
    ),
    "cluster": (
        *("launchers", "files", "paths", "core", "client", "error", "_version"),
        *("engine.bodies", "engine.offspring", "net.interfaces", "net.cores"),
    ),
    "apps": (
        *("net", "core", "error", "paths", "files", "_version", "engine"),
        *("launchers", "client", "cluster", "store"),
    ),
    "__main__": ("apps",),
    "datapub": ("engine.display",),
    "joblib": ("client", "cluster", "error"),
    # The public names; nothing is imported before it is used.
    "__init__": (
        *("client", "cluster", "error", "_version"),
        *("engine.custom", "engine.dependency", "engine.reference"),
    ),
}

# What would make a pure core impure.
IMPURE = frozenset(
    "asyncio io logging multiprocessing os pathlib psutil random secrets selectors shutil"
    " signal socket sqlite3 subprocess tempfile threading time uuid zmq".split()
)


def modules() -> list[Path]:
    """All source files of the package, through its links, data left out."""
    files = [*PACKAGE.rglob("*.py"), *(PACKAGE / "launchers").glob("*.py")]
    found = {path for path in files if PACKAGE / "profiles" not in path.parents}
    return sorted(found)


def dotted(path: Path) -> str:
    """The import name of a file, without the package's: ``core.message``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything that a file imports."""
    package = ["ipclusterz", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def within(name: str, place: str) -> bool:
    return name == place or name.startswith(place + ".")


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_a_module_imports_only_what_the_table_allows(path: Path) -> None:
    name = dotted(path)
    place = name.split(".")[0]
    assert place in TABLE, f"{name}: give it a row in the table, here and in the document"
    allowed = (place, *TABLE[place]) if place != "__init__" else TABLE[place]
    wrong = []
    for line, target in imported(path):
        if not within(target, "ipclusterz") or target == "ipclusterz":
            continue
        ours = target.removeprefix("ipclusterz.")
        if not any(within(ours, one) for one in allowed):
            wrong.append(f"{name}:{line} imports {ours}")
    assert not wrong


def test_no_row_of_the_table_is_left_over() -> None:
    places = {dotted(path).split(".")[0] for path in modules()}
    assert set(TABLE) <= places


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=dotted)
def test_the_core_is_pure(path: Path) -> None:
    wrong = [f"{line}: {name}" for line, name in imported(path) if name.split(".")[0] in IMPURE]
    assert not wrong


def test_zmq_is_used_in_net_only() -> None:
    users = {
        dotted(path).split(".")[0]
        for path in modules()
        if any(within(name, "zmq") for _, name in imported(path))
    }
    assert users <= {"net"}


def loaded_by(code: str) -> set[str]:
    """The modules in memory after a fresh interpreter has run ``code``."""
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", PRELUDE + code + "\nprint(*sys.modules)"],
        cwd=ROOT,
        input="\n".join(sys.path),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


# Without site: what it loads for other packages' .pth files is not our doing.
PRELUDE = "import sys\nsys.path[:] = sys.stdin.read().splitlines()\n"

# Parts of the standard library that cost milliseconds or start something.
HEAVY = frozenset(
    "argparse asyncio concurrent ctypes email http inspect ipaddress json logging"
    " multiprocessing pathlib pydoc queue sqlite3 ssl subprocess tempfile threading tomllib"
    " unittest urllib xml zipfile".split()
)


def test_the_zygote_holds_only_what_engines_need() -> None:
    loaded = loaded_by("import ipclusterz.engine.zygote")
    assert "ipclusterz.engine.zygote" in loaded
    roots = {name.split(".")[0] for name in loaded}
    # msgspec is the one dependency of an engine; what that imports itself is its business.
    bare = {name.split(".")[0] for name in loaded_by("import msgspec")}
    assert not roots - bare - set(sys.stdlib_module_names) - {"ipclusterz"}
    assert not (roots - bare) & HEAVY
    ours = {name for name in loaded if name.startswith("ipclusterz.")}
    allowed = (
        "ipclusterz.engine",
        "ipclusterz.core",
        "ipclusterz.error",
        "ipclusterz._version",
    )
    assert not {name for name in ours if not any(within(name, one) for one in allowed)}


def test_importing_the_package_imports_nothing_else() -> None:
    before = loaded_by("")
    added = loaded_by("import ipclusterz") - before
    assert added <= {"ipclusterz", "ipclusterz._version", "__future__"}


@pytest.mark.skipif(not (ROOT / "launchers").is_dir(), reason="an sdist has no links")
def test_the_folder_of_launchers_refuses_to_be_a_top_level_package() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import launchers"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "ipclusterz.launchers" in done.stderr.splitlines()[-1]
