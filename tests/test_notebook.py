"""The notebooks open with how to install, have their outputs stored, and run from top to bottom.

They are run by Jupyter (`pip install ".[notebooks]"`), in a folder of their own, and must print
what is stored, but for numbers and for what depends on PyTorch.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 300_000  # bytes
LONGEST = 600  # seconds, on a machine with much to do; alone on two cores each takes below 120


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def printed(cell: dict) -> str:
    """The text that a cell shows, without its hashes, its numbers and its spaces."""
    outputs = cell["outputs"]
    shown = ["".join(o.get("text") or o["data"].get("text/plain", "")) for o in outputs]
    return re.sub(r"[0-9a-f]{64}|[-+]?[\d.,]+(e[-+]?\d+)?|\s+", "", "".join(shown))


def test_there_are_five():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_opens_with_how_to_install_and_has_its_outputs(path):
    notebook = read(path)
    assert '**Install**: in the folder of a clone, `pip install ".[notebooks]"`' in "".join(
        notebook["cells"][0]["source"]
    )
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(cell["outputs"]) for cell in cells) >= 3
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_one_of_format_4_without_traces_of_a_machine(path):
    notebook = read(path)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    outputs = json.dumps([cell["outputs"] for cell in code_cells(notebook)])
    assert not re.findall(r"/(?:tmp|root|home|Users|usr|opt|work)/\w+", outputs)
    assert '"stderr"' not in outputs and '"error"' not in outputs


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_prints_what_is_stored(path, tmp_path):
    for needed in ("nbconvert", "ipykernel"):
        pytest.importorskip(needed)
    executed = execute(path, tmp_path)
    has_torch = importlib.util.find_spec("torch") is not None
    for stored, new in zip(code_cells(read(path)), code_cells(executed), strict=True):
        if "torch" not in stored["metadata"].get("tags", []) or has_torch:
            assert printed(new) == printed(stored), "".join(stored["source"])
    assert os.listdir(tmp_path / "work") == [path.name], "files were left"


def execute(path: Path, folder: Path) -> dict:
    """The notebook as Jupyter leaves it, run by a kernel of this Python that knows the clone."""
    (folder / "work").mkdir()
    (folder / "work" / path.name).write_text(path.read_text())
    given = {name: value for name, value in os.environ.items() if not name.startswith("CVVAE_")}
    paths = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{given['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "TMPDIR": str(folder),
    }
    # One of the notebooks asks for devices itself.
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", given["XLA_FLAGS"])
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute"]
    done = subprocess.run(
        [*command, "--output", folder / "executed.ipynb", folder / "work" / path.name],
        env=given | paths | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=LONGEST,
    )
    assert done.returncode == 0, done.stderr
    return read(folder / "executed.ipynb")
