"""A real notebook: kernel, client, %%px, figures, live output, a progress bar."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ipclusterz as ipp
from tests.running import ROOT

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

RICH = (
    "class Rich:\n    def __repr__(self): return 'rich'\n"
    "    def _repr_html_(self): return '<b>rich</b>'\n"
)
PLOT = "%matplotlib inline\nimport matplotlib.pyplot as plt\n"

CELLS = {
    "connect": "import ipclusterz\nrc = ipclusterz.Client({path!r})\nrc.ids",
    "set up": "view = rc.activate()\n%pxconfig --no-stream",
    "text": "%%px\nprint('same')",
    "value": "%%px\n6 * 7",
    "rich": "%%px\n" + RICH + "Rich()",
    "figure": "%%px -t 0\n" + PLOT + "plt.plot([1, 4, 9])\nprint('drawn')",
    "live figure": "%%px --stream -t 1\n" + PLOT + "plt.plot([1, 2]);",
    "updated": "%%px --stream -t 0\nh = display('one', display_id='me')\nh.update('two')",
    "error": "%%px\n1 / 0",
    "bar": "view.map_async(abs, range(4)).wait_interactive()",
    "reply": "rc[0].execute('6 * 7', silent=False, block=True).get()",
    "stream": "ar = rc[:].execute('print(3)')\nwith ar.stream_output():\n    ar.wait()",
    "await": "await rc[0].apply_async(abs, -3)",
    "auto": "%autopx",
    "everywhere": "there = 1\nprint('on engines')",
    "off": "%autopx",
    "here": "'there' in globals()",
}


@pytest.fixture(scope="module")
def shown(
    shared_ipython_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, list[Any]]]:
    """What each cell of an executed notebook shows."""
    folder = tmp_path_factory.mktemp("jupyter")
    kernel = folder / "kernels" / "tests" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"display_name": "tests", "language": "python", "argv": argv}))
    with pytest.MonkeyPatch.context() as patch, ipp.Cluster(n=2) as rc:
        for name in ("DATA_DIR", "RUNTIME_DIR", "CONFIG_DIR", "PATH"):
            patch.setenv(f"JUPYTER_{name}", str(folder))
        cells = []
        for name, code in CELLS.items():
            code = code.format(path=rc.connection_file) if name == "connect" else code
            made = nbformat.v4.new_code_cell(code)
            if name == "error":
                made.metadata["tags"] = ["raises-exception"]
            cells.append(made)
        notebook = nbformat.v4.new_notebook(cells=cells)
        client = nbclient.NotebookClient(notebook, timeout=60, kernel_name="tests")
        client.execute(cwd=str(ROOT))
        yield {name: cell.outputs for name, cell in zip(CELLS, cells, strict=True)}


def text(outputs: list[Any], stream: str = "stdout") -> str:
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == stream)


def data(outputs: list[Any]) -> list[dict[str, Any]]:
    """The MIME data of displays and values."""
    return [o.data for o in outputs if "data" in o]


def test_text_and_values(shown: dict[str, list[Any]]) -> None:
    assert data(shown["connect"])[0]["text/plain"] == "[0, 1]"
    assert text(shown["text"]) == "[stdout:0-1] same\n"
    (value,) = data(shown["value"])
    assert re.fullmatch(r"Out\[0-1:\d+\]: 42", value["text/plain"])
    (reply,) = data(shown["reply"])
    assert re.fullmatch(r"Out\[0:\d+\]: 42", reply["text/plain"])
    assert data(shown["await"])[0]["text/plain"] == "3"


def test_rich_values(shown: dict[str, list[Any]]) -> None:
    (value,) = data(shown["rich"])
    assert value["text/html"] == "<b>rich</b>"


@pytest.mark.parametrize("cell", ["figure", "live figure"])
def test_figures(shown: dict[str, list[Any]], cell: str) -> None:
    pngs = [base64.b64decode(d["image/png"]) for d in data(shown[cell]) if "image/png" in d]
    assert len(pngs) == 1 and pngs[0].startswith(b"\x89PNG\r\n\x1a\n")
    if cell == "figure":
        assert text(shown[cell]) == "drawn\n"


def test_displays_are_updated_in_place(shown: dict[str, list[Any]]) -> None:
    assert [one["text/plain"] for one in data(shown["updated"])] == ["'two'"]


def test_errors(shown: dict[str, list[Any]]) -> None:
    (error,) = [o for o in shown["error"] if o.output_type == "error"]
    bare = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    assert re.search(r"\[engines? 0(-1)?\] ZeroDivisionError: division by zero", bare)
    assert "----> 1 1 / 0" in bare and "magics.py" not in bare
    assert "\x1b[" in "".join(error.traceback), "a notebook has colours"


def test_streams_and_bars(shown: dict[str, list[Any]]) -> None:
    assert re.fullmatch(r"\[stdout:0-1\] 3\n|(\[stdout:[01]\] 3\n){2}", text(shown["stream"]))
    outputs = shown["bar"]
    assert data(outputs)[-1]["text/plain"] == "True"
    assert "4/4" in str(outputs) or "application/vnd.jupyter.widget-view+json" in str(outputs)


def test_autopx(shown: dict[str, list[Any]]) -> None:
    assert text(shown["auto"]) == "%autopx enabled\n"
    assert text(shown["everywhere"]) == "[stdout:0-1] on engines\n"
    assert text(shown["off"]) == "%autopx disabled\n"
    assert data(shown["here"])[0]["text/plain"] == "False"
